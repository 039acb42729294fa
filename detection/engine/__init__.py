"""Training and evaluation of detectors: a thin engine over PaddleDetection's Trainer."""
