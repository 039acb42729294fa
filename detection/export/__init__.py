"""Detectors leave training here: non-maximum suppression that can be exported, and the export itself."""
