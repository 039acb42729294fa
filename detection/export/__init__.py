"""Detectors leave training here: non-maximum suppression that can be exported, and the export itself.

Nothing is imported here, because ``detection.toolkit`` imports ``detection.export.nms`` before every training.
"""
