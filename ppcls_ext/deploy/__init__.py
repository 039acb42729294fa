"""What happens to a trained model: export, quantise, prune, serve, benchmark, profile, model cards."""
