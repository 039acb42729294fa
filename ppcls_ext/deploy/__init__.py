"""Deployment of a trained model: export, quantise, prune, serve, benchmark, profile, model cards."""
