"""What a detector's run leaves to read: ``log.jsonl``, VisualDL scalars, ``report.json`` and ``curves.png``."""

from __future__ import annotations

import logging
from typing import Any

import paddle

from detection.configuration import DetectionConfig
from detection.engine.progress import RunProgress
from ppcls_ext.engine.environment import Environment
from ppcls_ext.engine.run_folder import RunFolder
from ppcls_ext.engine.scalars import Scalars
from ppcls_ext.utils.display import clock
from ppcls_ext.utils.files import write_json
from ppcls_ext.utils.machine import memory_in_use, peak_memory
from ppcls_ext.utils.plots import draw_detection_curves

logger = logging.getLogger(__name__)


class Recorder:
    """Writes the figures of a run; on every rank but the first it does nothing.

    Args:
        folder: the run's folder.
        config: the configuration.
        progress: where the run stands; its figures are read at each call.
        environment: device, rank and seed.
    """

    def __init__(
        self, folder: RunFolder, config: DetectionConfig, progress: RunProgress, environment: Environment
    ) -> None:
        self.folder, self.config, self.progress, self.environment = folder, config, progress, environment
        fresh = progress.epoch == 0 and progress.step == 0
        self._scalars = Scalars(folder.path, folder.active and bool(config.data.get("use_vdl", False)), fresh)

    def step(self, losses: dict[str, float], rate: float) -> None:
        """Records the losses of the batch just done."""
        progress = self.progress
        mean = progress.sums.mean()
        self.folder.log(
            "step", epoch=progress.epoch + 1, step=progress.step, lr=rate, **losses,
            images_per_second=mean["images_per_second"],
        )  # fmt: skip

    def epoch(self, record: dict[str, Any]) -> None:
        """Records a finished epoch, with the memory that this process holds, and draws the curves anew.

        The epoch must stand in ``progress.history`` already.
        """
        record["memory_mb"] = memory_in_use()
        train, epochs, evaluation = record["train"], self.config.epochs, record.get("eval")
        found = f"AP {evaluation['AP']:.3f}  AP50 {evaluation['AP50']:.3f}  " if evaluation else ""
        logger.info(
            "epoch %d/%d: loss %.4f  %slr %.2e  %.1f images/s  %s; about %s of training left",
            record["epoch"], epochs, train["loss"], found, record["lr"], train["images_per_second"],
            clock(train["seconds"]), clock(train["seconds"] * (epochs - record["epoch"])),
        )  # fmt: skip
        self.folder.log(**{"kind": "epoch", **record})
        self._draw()
        for part in ("train", "eval"):
            for name, value in record.get(part, {}).items():
                if isinstance(value, int | float):
                    self._scalars.add(f"{part}/{name}", value, record["epoch"])

    def _draw(self) -> None:
        if self.folder.active:
            draw_detection_curves(self.progress.history, self.folder.path / "curves.png", self.config.path.stem)

    def finish(self, seconds: float, parameters: int) -> dict[str, Any]:
        """Writes ``report.json`` and ``curves.png``; returns the report.

        Args:
            seconds: length of this session.
            parameters: trainable parameters of the model.
        """
        report = self._report(seconds, parameters)
        if self.folder.active:
            write_json(self.folder.path / "report.json", report)
            self._draw()
            best = report["best"]
            result = f"best AP {best['AP']:.4f} (epoch {best['epoch']})" if best else "no evaluation"
            training = clock(report["seconds"]["training"])
            logger.info("done: %s, %s of training; see %s/report.json", result, training, self.folder.path)
        return report

    def _report(self, seconds: float, parameters: int) -> dict[str, Any]:
        progress, environment = self.progress, self.environment
        return {
            "architecture": self.config.architecture,
            "config": str(self.config.path),
            "trainable_parameters": parameters,
            "epochs": progress.epoch,
            "best": {"AP": progress.best_metric, "epoch": progress.best_epoch} if progress.best_epoch else None,
            "last": progress.history[-1] if progress.history else None,
            "seconds": {
                "training": sum(record["train"]["seconds"] for record in progress.history),
                "evaluation": sum(record.get("eval", {}).get("seconds", 0.0) for record in progress.history),
                "this_session": seconds,
            },
            "peak_memory_mb": peak_memory(),
            "device": environment.device,
            "processes": environment.world_size,
            "seed": environment.seed,
            "paddle": paddle.__version__,
            "history": progress.history,
        }

    def close(self) -> None:
        """Closes the VisualDL file."""
        self._scalars.close()
