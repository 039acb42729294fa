"""What a run leaves to read: ``log.jsonl``, VisualDL scalars, ``report.json`` and ``curves.png``."""

from __future__ import annotations

import logging
from typing import Any

import paddle

from classification.config import Config
from classification.progress import RunProgress
from ppcls_ext.engine.environment import Environment
from ppcls_ext.engine.run_folder import RunFolder
from ppcls_ext.engine.scalars import Scalars
from ppcls_ext.utils.display import clock
from ppcls_ext.utils.files import write_json
from ppcls_ext.utils.machine import memory_in_use, peak_memory
from ppcls_ext.utils.plots import draw_training_curves

logger = logging.getLogger(__name__)


class Recorder:
    """Writes the figures of a run; on every rank but the first it does nothing.

    Args:
        folder: the run's folder.
        config: the configuration.
        progress: where the run stands; its figures are read at each call.
        environment: device, rank and seed.
    """

    def __init__(self, folder: RunFolder, config: Config, progress: RunProgress, environment: Environment) -> None:
        self.folder = folder
        self.config = config
        self.progress = progress
        self.environment = environment
        fresh = progress.epoch == 0 and progress.step == 0
        self._scalars = Scalars(folder.path, folder.active and config.run.use_visualdl, fresh)
        # The metric that decides which epoch is the best one.
        self._metric = config.metrics[0].names[0]

    def step(self, rate: float) -> None:
        """Records the means of the epoch so far."""
        number = self.progress.epoch + 1
        mean = self.progress.sums.mean()
        self.folder.log("step", epoch=number, step=self.progress.step, updates=self.progress.updates, lr=rate, **mean)
        self._scalars.add("train/loss", mean["loss"], self.progress.updates)
        self._scalars.add("train/learning_rate", rate, self.progress.updates)

    def epoch(self, record: dict[str, Any]) -> None:
        """Records a finished epoch, with the memory that this process holds, and draws the curves anew.

        The epoch must stand in ``progress.history`` already.
        """
        record["memory_mb"] = memory_in_use()
        train, epochs = record["train"], self.config.run.epochs
        logger.info(
            "epoch %d/%d: loss %.4f%s  top1 %.4f  lr %.2e  %.1f images/s  %s; about %s of training left",
            record["epoch"],
            epochs,
            train["loss"],
            _parts_of(train),
            train["top1"],
            record["lr"],
            train["images_per_second"],
            clock(train["seconds"]),
            clock(train["seconds"] * (epochs - record["epoch"])),
        )
        self.folder.log(**{"kind": "epoch", **record})
        self._draw()
        for part in ("train", "eval", "ema"):
            for name, value in record.get(part, {}).items():
                self._scalars.add(f"{part}/{name}_by_epoch", value, record["epoch"])

    def _draw(self) -> None:
        if self.folder.active:
            draw_training_curves(self.progress.history, self.folder.path / "curves.png", self.config.arch.name)

    def finish(self, seconds: float, class_names: list[str] | None, parameters: int) -> dict[str, Any]:
        """Writes ``report.json`` and ``curves.png``; returns the report.

        Args:
            seconds: length of this session.
            class_names: names of the classes, if known.
            parameters: trainable parameters of the model.
        """
        report = self._report(seconds, class_names, parameters)
        if self.folder.active:
            write_json(self.folder.path / "report.json", report)
            self._draw()
            logger.info("%s", self._summary(report))
        return report

    def _report(self, seconds: float, class_names: list[str] | None, parameters: int) -> dict[str, Any]:
        progress, environment = self.progress, self.environment
        return {
            "model": self.config.arch.name,
            "arguments": self.config.arch.arguments,
            "config": str(self.config.document.path),
            "trainable_parameters": parameters,
            "epochs": progress.epoch,
            "optimizer_steps": progress.updates,
            "best": {self._metric: progress.best_metric, "epoch": progress.best_epoch} if progress.best_epoch else None,
            "last": progress.history[-1] if progress.history else None,
            "seconds": {
                "training": sum(record["train"]["seconds"] for record in progress.history),
                "this_session": seconds,
            },
            "peak_memory_mb": peak_memory(),
            "teacher": progress.teacher,
            "bad_images": progress.bad_images,
            "bad_eval_images": progress.bad_eval_images,
            "class_names": class_names,
            "device": environment.device,
            "processes": environment.world_size,
            "seed": environment.seed,
            "paddle": paddle.__version__,
            "history": progress.history,
        }

    def _summary(self, report: dict[str, Any]) -> str:
        best = report["best"]
        name = self._metric.replace("top", "top-")
        result = f"best {name} {best[self._metric]:.4f} (epoch {best['epoch']})" if best else "no evaluation"
        return f"done: {result}, {clock(report['seconds']['training'])} of training; see {self.folder.path}/report.json"

    def close(self) -> None:
        """Closes the VisualDL file."""
        self._scalars.close()


def _parts_of(means: dict[str, float]) -> str:
    """Returns the parts of a loss in brackets, where there are any."""
    prefix = "loss_"
    parts = [f"{name.removeprefix(prefix)} {value:.4f}" for name, value in means.items() if name.startswith(prefix)]
    return f" ({', '.join(parts)})" if parts else ""
