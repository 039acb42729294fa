"""Backbones under PaddleDetection's contract. They import ppdet: see ``detection.toolkit.register``."""
