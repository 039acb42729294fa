"""``train``, ``evaluate`` and ``export`` of a detector: what the tools call, and a program or a notebook may call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppcls_ext.engine.session import Overrides, as_changes, fresh_paddle, session
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.outputs import Output, claim_outputs, inputs_of

if TYPE_CHECKING:
    from ppcls_ext.runtime import Description, DetectionDescription


def train(
    config: str | Path, overrides: Overrides = (), resume: str | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Trains the detector of a configuration.

    Args:
        config: the YAML file.
        overrides: changes of its keys, such as ``{"epoch": 1}``.
        resume: ``auto``, the path of a checkpoint folder, or ``None`` for a fresh run.
        overwrite: write also into a folder that no tool of this project wrote.

    Returns:
        What stands in the ``report.json`` of the run.

    Raises:
        Interrupted: the user stopped the run; it has been saved.
        UserError: something that the user can mend; the message says what and where.
    """
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
    """Evaluates ``weights`` on ``EvalDataset`` and writes figures, charts and panels.

    Args:
        config, overrides: see :func:`train`.
        output: folder to write, ``evaluation`` in that of the run unless given.
        panels: images to show, the worst first; 12 unless given.
        json: also write the figures to this file.
        overwrite: write also where no tool of this project wrote.

    Returns:
        The figures as they stand in ``figures.json``; ``None`` on every rank but the first.

    Raises:
        UserError: something that the user can mend; the message says what and where.
    """
    with session():
        from detection.configuration import check_annotations, load_config
        from detection.weights import weights_file

        if panels is not None and panels < 0:
            raise UserError(f"--panels must not be negative, got {panels}")
        checked = load_config(config, as_changes(overrides))
        folder = Path(output or checked.output_dir / "evaluation")
        file = Path(json) if json else None
        outputs = [Output("--output", folder, "evaluation"), Output("--json", file)]
        claim_outputs(outputs, *inputs_of(checked.document), overwrite)
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
    formats: Sequence[str] = ("paddle",),
    precisions: Sequence[str] = ("fp32",),
    max_drop: float | None = None,
    calibration_images: int = 300,
    raw: bool = False,
    size: int | Sequence[int] | None = None,
    overwrite: bool = False,
) -> Description | DetectionDescription:
    """Exports ``weights``; every file is reloaded and compared with the model.

    Args:
        config, overrides: see :func:`train`.
        output: folder to write, ``export`` in that of the run unless given.
        formats: ``paddle``, ``onnx``, ``openvino``.
        precisions: ``fp32``, ``fp16``, ``bf16``, ``int8``; every format is written in each.
        max_drop: what int8 may lose, in points of AP on ``EvalDataset``.
        calibration_images: training images for int8.
        raw: give the boxes and scores of all anchors, without any choice.
        size: side, or height and width, of the input in pixels; that of ``TestReader`` unless given.
        overwrite: replace a folder that is no export; it is kept under another name.

    Returns:
        The description of the export; ``ppcls_ext.runtime.load(description.folder)`` predicts with it.

    Raises:
        LimitExceededError: int8 loses more than ``max_drop``.
        UserError: something that the user can mend, or an export differs from its model.
    """
    with session():
        from ppcls_ext.deploy.quantize import check_export, export_in_precisions

        check_export(formats, precisions, max_drop, calibration_images)
        from detection.configuration import load_config

        sides = [size] if isinstance(size, int) else list(size or ())
        checked = load_config(config, as_changes(overrides))
        if len(sides) > 2:
            raise UserError(f"--size takes one side, or height and width, got {len(sides)} numbers")
        target = Path(output or checked.output_dir / "export")
        claim_outputs([Output("--output", target, "export")], *inputs_of(checked.document), overwrite)
        from detection import compression
        from detection.task import open_environment

        with fresh_paddle():
            open_environment(checked)
            return export_in_precisions(
                compression, checked, target, formats, precisions, max_drop, calibration_images,
                nms=not raw, size=sides * 2 if len(sides) == 1 else sides or None,
            )  # fmt: skip
