"""Looks for faults in images before anything is trained on them; what both trainers share. Never loads Paddle."""
