"""YOLOv10 (arXiv 2405.14458) for PaddleDetection."""
