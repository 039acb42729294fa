"""Exports one detector with random weights to one format, in a process of its own, for ``tools/benchmark.py models``.

Run by ``ppcls_ext.deploy.benchmark.matrix.exports``; not meant for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.deploy.benchmark.matrix.export_worker import Subject, export_subject, main


def export_model(config_file: str, size: int, format_name: str, precisions: Sequence[str], folder: Path) -> dict:
    """Exports the detector of a configuration; PP-YOLOE with its suppression inside.

    Args:
        config_file: its configuration.
        size: side of the input in pixels.
        format_name: a key of ``FORMATS``.
        precisions: keys of ``PRECISIONS``, or int8.
        folder: is replaced by the export.

    Returns:
        See ``ppcls_ext.deploy.benchmark.matrix.export_worker.export_model``; multiply-adds reach to the raw outputs.
    """
    from detection.configuration import load_config
    from detection.counting import count_multiply_adds
    from detection.toolkit import build_model
    from detection.trained import TrainedDetector

    def build() -> Subject:
        config = load_config(config_file)
        detector = TrainedDetector(config, build_model(config, pretrained=False), None)
        detector.model.eval()

        def export(wanted: Sequence[str]) -> Any:
            return detector.export(folder, size=[size, size], formats=[format_name], precisions=wanted)

        return Subject(detector.model, export, lambda: count_multiply_adds(detector.model, size))

    return export_subject(build, precisions, folder)


if __name__ == "__main__":
    main(export_model)
