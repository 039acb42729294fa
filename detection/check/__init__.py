"""Looks for faults in COCO annotations and their images before a detector is trained; never loads Paddle."""
