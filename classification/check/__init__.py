"""Looks for faults in the images of a configuration before anything is trained. Never loads Paddle."""
