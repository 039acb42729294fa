"""What the networks of a study cost: parameters, FLOPs, and the time of one image."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classification.config import Config
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)
ENGINE = "Paddle Inference with oneDNN on the CPU, exported network, batch 1"


@dataclass(frozen=True)
class Timing:
    """How the time of an image is measured: threads of each network, turns, passes in a turn."""

    threads: int = 1
    rounds: int = 12
    runs: int = 10


def count_costs(configs: Mapping[str, Config]) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    """Counts what the networks hold and compute.

    Returns:
        By row ``parameters`` (trainable) and ``flops`` (by ``paddle.flops``: a multiply-add counts 1); by row, why a
        network cannot be built.
    """
    import paddle

    from classification.build import build_network
    from ppcls_ext.arch.counting import count_parameters

    costs, reasons = {}, {}
    for name, config in configs.items():
        try:
            model = build_network(config)
        except UserError as error:
            reasons[name] = str(error)
            continue
        model.eval()
        with contextlib.redirect_stdout(io.StringIO()):  # paddle.flops prints a report.
            flops = int(paddle.flops(model, [1, *config.run.image_shape]))
        costs[name] = {"parameters": count_parameters(model), "flops": flops}
    return costs, reasons


def measure_latencies(configs: Mapping[str, Config], timing: Timing) -> dict[str, dict[str, Any]]:
    """Measures the exported networks (random weights) by turns, each in a process of its own.

    Returns:
        By row ``median_ms``, ``p90_ms`` and ``fastest_ms`` of one image, or ``reason`` where it cannot be exported.
    """
    from ppcls_ext.deploy.benchmark import export_subject, generated_image
    from ppcls_ext.utils.workers import measure_interleaved

    latencies: dict[str, dict[str, Any]] = {}
    subjects = {}
    with tempfile.TemporaryDirectory(prefix="study-") as temporary:
        for name, config in configs.items():
            try:
                _export(config, Path(temporary) / name)
            except UserError as error:
                logger.warning("%s: no time of an image: %s", name, error)
                latencies[name] = {"reason": str(error)}
                continue
            subjects[name] = export_subject(Path(temporary) / name, generated_image(), "paddle", "fp32", timing.threads)
        logger.info("measuring the time of an image of %d networks in interleaved rounds", len(subjects))
        measure_interleaved(list(subjects.values()), timing.rounds, timing.runs)
    for name, subject in subjects.items():
        latencies[name] = subject.statistics() if subject.failure is None else {"reason": subject.failure}
    return latencies


def _export(config: Config, folder: Path) -> None:
    import paddle

    from classification.build import build_network
    from ppcls_ext.deploy.export import export_classifier

    if config.infer is None:
        raise UserError(config.document.problem("Infer", "is missing: an export needs Infer.transforms"))
    paddle.seed(0)
    export_classifier(
        build_network(config),
        folder,
        model_name=config.arch.name,
        class_num=config.arch.class_num,
        image_shape=config.run.image_shape,
        preprocess=config.infer.transforms,
    )
