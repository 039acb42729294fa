"""``train``, ``evaluate`` and ``export`` of a classifier: what the tools call, and a program or a notebook may call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppcls_ext.engine.session import Overrides, as_changes, claim_evaluation, fresh_paddle, session
from ppcls_ext.utils.names import user_path
from ppcls_ext.utils.outputs import Output, claim_outputs, inputs_of

if TYPE_CHECKING:
    from ppcls_ext.runtime import Description, DetectionDescription


def train(
    config: str | Path, overrides: Overrides = (), resume: str | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Trains the classifier of a configuration.

    Args:
        config: the YAML file.
        overrides: changes of its keys, such as ``{"Global.epochs": 1}``.
        resume: ``auto``, the path of a checkpoint folder, or ``None`` for a fresh run.
        overwrite: write also into a folder that no tool of this project wrote.

    Returns:
        What stands in the ``report.json`` of the run.

    Raises:
        Interrupted: the user stopped the run; it has been saved.
        UserError: something that the user can mend; the message says what and where.
    """
    with session():
        from classification.config import load_config

        checked = load_config(config, as_changes(overrides))
        run_folder = Output("Global.output_dir", checked.output_dir, "run")
        cache = Path(checked.distillation.cache) if checked.distillation and checked.distillation.cache else None
        # A cache that is there already is read, and compared with the teacher and the images.
        new_cache = None if cache is None or (cache / "cache.json").is_file() else cache
        outputs = [run_folder, Output("Distillation.cache", new_cache, "teacher")]
        claim_outputs(outputs, *inputs_of(checked.document), overwrite)
        from classification.pretraining import TASKS
        from classification.task import train_config

        task = TASKS[checked.pretraining.name] if checked.pretraining else None
        with fresh_paddle():
            return train_config(checked, resume=resume, task=task)


def evaluate(
    config: str | Path, overrides: Overrides = (), output: str | Path | None = None, panels: int | None = None,
    json: str | Path | None = None, overwrite: bool = False,
) -> dict[str, Any] | None:  # fmt: skip
    """Evaluates ``Global.pretrained_model`` on ``DataLoader.Eval`` and writes figures, tables, charts and pictures.

    Args:
        config, overrides: see :func:`train`.
        output: folder to write, ``evaluation`` in that of the run unless given.
        panels: wrong predictions to show, the surest first; 30 unless given.
        json: also write the figures to this file.
        overwrite: write also where no tool of this project wrote.

    Returns:
        ``{"loss": mean, "top1": share, ..., "images": number}`` and the figures of the report; ``None`` on every
        rank but the first.

    Raises:
        UserError: something that the user can mend; the message says what and where.
    """
    with session():
        from classification.config import load_config

        checked = load_config(config, as_changes(overrides))
        folder, file = claim_evaluation(checked, output, panels, json, overwrite)
        from classification.evaluation import MISTAKES, evaluate_config
        from ppcls_ext.engine.environment import prepare_environment
        from ppcls_ext.utils.outputs import write_figures

        with fresh_paddle():
            environment = prepare_environment(checked.run.device, checked.run.seed)
            mistakes = MISTAKES if panels is None else panels
            figures = evaluate_config(checked, environment, folder, mistakes)
        if not environment.is_main:
            return None
        write_figures(file, figures)
        return figures


def export(
    config: str | Path, overrides: Overrides = (), output: str | Path | None = None,
    formats: str | Sequence[str] = ("paddle",), precisions: str | Sequence[str] = ("fp32",),
    max_drop: float | None = None, calibration_images: int = 300, overwrite: bool = False,
) -> Description | DetectionDescription:  # fmt: skip
    """Exports ``Global.pretrained_model``; every file is reloaded and compared with the model.

    Args:
        config, overrides: see :func:`train`.
        output: folder to write, ``Global.save_inference_dir`` unless given.
        formats: ``paddle``, ``onnx``, ``openvino``.
        precisions: ``fp32``, ``fp16``, ``bf16``, ``int8``; every format is written in each.
        max_drop: what int8 may lose, in points of top-1 on ``DataLoader.Eval``.
        calibration_images: training images for int8.
        overwrite: replace a folder that is no export; it is kept under another name.

    Returns:
        The description of the export; ``ppcls_ext.runtime.load(description.folder)`` predicts with it.

    Raises:
        LimitExceededError: int8 loses more than ``max_drop``.
        UserError: something that the user can mend, or an export differs from its model.
    """
    with session():
        from ppcls_ext.deploy.quantize import check_export, export_in_precisions

        formats, precisions = ([one] if isinstance(one, str) else one for one in (formats, precisions))
        check_export(formats, precisions, max_drop, calibration_images)
        from classification.config import load_config

        checked = load_config(config, as_changes(overrides))
        target = user_path(output or checked.run.save_inference_dir)
        option = "--output" if output else "Global.save_inference_dir"
        claim_outputs([Output(option, target, "export")], *inputs_of(checked.document), overwrite)
        from classification import compression
        from ppcls_ext.engine.environment import prepare_environment

        with fresh_paddle():
            prepare_environment(checked.run.device, checked.run.seed)
            return export_in_precisions(
                compression, checked, target, formats, precisions, max_drop, calibration_images
            )
