"""``train``, ``evaluate`` and ``export`` of a detector: what the tools call, and a program or a notebook may call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppcls_ext.engine.session import Overrides, as_changes, claim_evaluation, fresh_paddle, session
from ppcls_ext.utils.outputs import Output, claim_outputs, inputs_of

if TYPE_CHECKING:
    from ppcls_ext.runtime import Description, DetectionDescription


def train(
    config: str | Path, overrides: Overrides = (), resume: str | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Trains the detector of a configuration; arguments, result and errors are those of ``classification.train``."""
    with session():
        from detection.configuration import check_annotations, load_config

        checked = load_config(config, as_changes(overrides))
        claim_outputs([Output("save_dir", checked.output_dir, "run")], *inputs_of(checked.document), overwrite)
        check_annotations(checked)
        from detection.task import train_config

        with fresh_paddle():
            return train_config(checked, resume=resume)


def evaluate(
    config: str | Path,
    overrides: Overrides = (),
    output: str | Path | None = None,
    panels: int | None = None,
    json: str | Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any] | None:
    """Evaluates ``weights`` on ``EvalDataset`` as ``classification.evaluate`` does; shows 12 images, the worst first.

    Returns:
        The figures as they stand in ``figures.json``; ``None`` on every rank but the first.
    """
    with session():
        from detection.configuration import check_annotations, load_config
        from detection.weights import weights_file

        checked = load_config(config, as_changes(overrides))
        folder, file = claim_evaluation(checked, output, panels, json, overwrite)
        weights_file(checked)
        # Weights can be evaluated where nobody has the training data.
        check_annotations(checked, ["Eval"])
        from detection.evaluator import evaluate_config
        from detection.task import open_environment
        from ppcls_ext.utils.outputs import write_figures

        with fresh_paddle():
            figures = evaluate_config(checked, open_environment(checked), folder, panels)
        if figures is not None:
            write_figures(file, figures)
        return figures


def export(
    config: str | Path,
    overrides: Overrides = (),
    output: str | Path | None = None,
    formats: str | Sequence[str] = ("paddle",),
    precisions: str | Sequence[str] = ("fp32",),
    max_drop: float | None = None,
    calibration_images: int = 300,
    raw: bool = False,
    overwrite: bool = False,
) -> Description | DetectionDescription:
    """Exports ``weights`` as ``classification.export`` does, into ``export`` of the run's folder unless told otherwise.

    Args:
        config, overrides, output, formats, precisions, max_drop, calibration_images, overwrite: see there.
        raw: give the boxes and scores of all anchors, without any choice.
    """
    with session():
        from ppcls_ext.deploy.quantize import check_export, export_in_precisions

        formats, precisions = ([one] if isinstance(one, str) else one for one in (formats, precisions))
        check_export(formats, precisions, max_drop, calibration_images)
        from detection.configuration import load_config

        checked = load_config(config, as_changes(overrides))
        target = Path(output or checked.output_dir / "export")
        claim_outputs([Output("--output", target, "export")], *inputs_of(checked.document), overwrite)
        from detection import compression
        from detection.task import open_environment

        with fresh_paddle():
            open_environment(checked)
            return export_in_precisions(
                compression, checked, target, formats, precisions, max_drop, calibration_images, nms=not raw
            )
