"""Training and evaluation of detectors: a thin engine over the parts of PaddleDetection's Trainer."""
