"""The training run of a detector: epochs of batches, then evaluation, log and checkpoint."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import paddle

from detection.configuration import DetectionConfig
from detection.engine.evaluator import Evaluator
from detection.engine.ignored import ignored_keys
from detection.engine.learner import Learner
from detection.engine.parts import build_parts, count_trainable
from detection.engine.progress import LossSums, RunProgress
from detection.engine.recorder import Recorder
from detection.engine.resume import architecture_of, restore_run
from detection.engine.start import load_start
from ppcls_ext.engine.checkpoint import Checkpoint, find_checkpoint, list_checkpoints, write_checkpoint
from ppcls_ext.engine.environment import (
    Environment,
    InterruptWatch,
    barrier,
    broadcast_buffers,
    check_same_start,
    derive_seed,
    sum_over_ranks,
)
from ppcls_ext.engine.run_folder import RunFolder
from ppcls_ext.utils.display import Display
from ppcls_ext.utils.errors import Interrupted, UserError
from ppcls_ext.utils.log import log_to_file

logger = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 3


class Trainer:
    """One training run, from a configuration in ppdet's workspace to a report.

    Args:
        config: the configuration.
        settings: the same in ppdet's workspace (``detection.toolkit.workspace``), which stays open for the whole run.
        environment: device, rank and seed.
        resume: ``auto``, the path of a checkpoint folder, or ``None`` for a fresh run.

    Raises:
        UserError: something that the user can mend: missing data, a folder that is in use, weights that do not fit.
    """

    def __init__(
        self, config: DetectionConfig, settings: Any, environment: Environment, resume: str | None = None
    ) -> None:
        self.config, self.environment = config, environment
        self.folder = RunFolder(config.output_dir, environment.is_main, "save_dir")
        if self.folder.active:
            # Only now: before the lock is taken, the file may be another run's.
            log_to_file(self.folder.path / "train.log")
        parts = build_parts(settings, config, environment)
        self.batches = parts.batches
        self.evaluator = Evaluator(config, environment) if "EvalDataset" in config.data else None
        self.learner = Learner(parts, config.data, environment)
        self.steps = len(self.batches)
        self.progress = self._first_progress(resume)
        self.recorder = Recorder(self.folder, config, self.progress, environment)

    def _first_progress(self, resume: str | None) -> RunProgress:
        """Continues a checkpoint, or starts from random or pretrained weights."""
        checkpoint = find_checkpoint(resume, self.folder.checkpoints)
        if checkpoint is not None:
            progress = restore_run(checkpoint, self.config, self.learner, self.data_order())
        else:
            self.folder.refuse_second_run()
            load_start(self.config, self.learner.model)
            progress = RunProgress()
        position = (progress.epoch, progress.step, progress.epoch * self.steps + progress.step)
        check_same_start(position, self.learner.model, self.environment, "save_dir")
        return progress

    def run(self) -> dict[str, Any]:
        """Trains to the last epoch; returns the report that also stands in ``report.json``.

        Raises:
            Interrupted: the user stopped the run; it has been saved.
            UserError: the loss is not finite, an image cannot be used, or the disk is full.
        """
        parameters = count_trainable(self.learner.model)
        self._announce(parameters)
        self.folder.write_config(self.config.to_yaml())
        self.folder.open_log(self.progress.epoch, self.progress.step)
        start = time.monotonic()
        try:
            with InterruptWatch(self.environment.world_size) as watch:
                while self.progress.epoch < self.config.epochs:
                    self._train_epoch(watch)
                    # Before an evaluation that may take long; the resumed run begins with it.
                    self._stop_if_asked(watch, update=0)
                    self._finish_epoch()
                    if self.progress.epoch < self.config.epochs:
                        self._stop_if_asked(watch, update=0)
            return self.recorder.finish(time.monotonic() - start, parameters)
        finally:
            self.batches.close()
            if self.evaluator is not None:
                self.evaluator.close()
            self.recorder.close()
            self.folder.close()

    def _announce(self, parameters: int) -> None:
        config, environment = self.config, self.environment
        architecture = architecture_of(config)
        logger.info(
            "%s with %s: %s trainable parameters, %d training images, %d classes, device %s, %d process(es), seed %d",
            config.architecture, architecture["backbone"] or "its own backbone", f"{parameters:,}",
            self.batches.sampler.length, config.num_classes, environment.device, environment.world_size,
            environment.seed,
        )  # fmt: skip
        if ignored := ignored_keys(config.data):
            logger.warning("without effect here, for COCO figures and this engine: %s", ", ".join(ignored))
        if self.progress.epoch >= config.epochs:
            logger.info("all %d epochs are done already", config.epochs)

    def _train_epoch(self, watch: InterruptWatch) -> None:
        """Trains from ``progress.step`` to the end of the epoch."""
        progress, every = self.progress, self.config.data.get("log_iter", 20)
        if progress.step >= self.steps:
            return
        self.learner.train_mode()
        self.batches.sampler.set_position(progress.epoch, progress.step)
        title = f"epoch {progress.epoch + 1}/{self.config.epochs}"
        with Display(title, self.steps, progress.step, every, self.environment.is_main) as display:
            before = time.monotonic()
            for batch in self.batches:
                rate = self.learner.current_rate()
                losses = self._train_batch(batch)
                now = time.monotonic()
                progress.sums.seconds += now - before
                before = now
                display.advance(**self._figures(losses, rate))
                if progress.step % every == 0:
                    self.recorder.step(losses, rate)
                self._save_inside_epoch(watch)

    def _train_batch(self, batch: dict[str, Any]) -> dict[str, float]:
        progress, environment = self.progress, self.environment
        seed = derive_seed(environment.seed, "batch", environment.rank, progress.epoch, progress.step)
        losses = self.learner.train_batch(batch, progress.epoch, seed)
        if not np.isfinite(losses["loss"]):
            saved = list_checkpoints(self.folder.checkpoints)
            hint = f"the newest checkpoint is {saved[-1]}" if saved else "nothing was saved yet"
            raise UserError(
                f"the loss is {losses['loss']} in epoch {progress.epoch + 1}, batch {progress.step + 1} "
                f"({', '.join(f'{name} {value:.3g}' for name, value in losses.items())}); {hint}; "
                "lower LearningRate.base_lr or look at the data with tools/check_data.py"
            )
        progress.sums.add(losses, len(batch["image"]))
        progress.step += 1
        return losses

    def _figures(self, losses: dict[str, float], rate: float) -> dict[str, str]:
        speed = self.progress.sums.mean()["images_per_second"] * self.environment.world_size
        shown = {name: f"{value:.3f}" for name, value in losses.items()}
        return {**shown, "lr": f"{rate:.2e}", "images/s": f"{speed:.1f}"}

    def _save_inside_epoch(self, watch: InterruptWatch) -> None:
        """Saves after every ``save_steps`` batches and when the user wants to stop."""
        if self.progress.step >= self.steps:
            return
        self._stop_if_asked(watch, self.progress.step)
        every = self.config.data.get("save_steps", 0)
        if every and self.progress.step % every == 0:
            self._save(best=False)

    def _stop_if_asked(self, watch: InterruptWatch, update: int) -> None:
        """Saves and leaves if the user interrupted the run."""
        if not watch.stop_after(update):
            return
        self._save(best=False)
        raise Interrupted(
            f"stopped; everything is saved in {self.folder.checkpoints}; "
            "continue with the same command and --resume auto"
        )

    def _finish_epoch(self) -> None:
        """Evaluates, records and saves; the epoch then counts as finished."""
        progress = self.progress
        number, last = progress.epoch + 1, progress.epoch + 1 == self.config.epochs
        save_interval = self.config.data.get("snapshot_epoch", 1)
        eval_interval = self.config.data.get("eval_interval", save_interval)
        record: dict[str, Any] = {"epoch": number, "lr": self.learner.current_rate(), "train": self._training_means()}
        best = False
        if self.evaluator is not None and (last or number % eval_interval == 0):
            record["eval"] = self._evaluate()
            best = progress.note_best(record)
        self.learner.end_epoch()
        progress.history.append(record)
        progress.epoch, progress.step, progress.sums = number, 0, LossSums()
        self.recorder.epoch(record)
        if best or last or number % save_interval == 0:
            self._save(best)

    def _training_means(self) -> dict[str, float]:
        """Returns the means of the epoch over all processes; the speed is that of all together."""
        mean, world_size = self.progress.sums.mean(), self.environment.world_size
        totals = sum_over_ranks(np.array(list(mean.values())), world_size)
        means = {name: float(value) / world_size for name, value in zip(mean, totals, strict=True)}
        means["images_per_second"] *= world_size
        return means

    def _evaluate(self) -> dict[str, Any]:
        """Returns the figures of the averaged weights (of the trained ones where there is no average)."""
        learner, world_size = self.learner, self.environment.world_size
        # Each process has its own running statistics; all evaluate with those that checkpoints hold.
        broadcast_buffers(learner.model, world_size)
        with learner.averaged():
            broadcast_buffers(learner.model, world_size)
            return self.evaluator.evaluate(learner.model, self.folder.path)

    def _save(self, best: bool) -> None:
        if self.environment.is_main:
            state = {
                **self.progress.to_json(),
                **self.learner.state(),
                "architecture": architecture_of(self.config),
                "class_names": self.evaluator.class_names if self.evaluator is not None else None,
                "data_order": self.data_order(),
                "evaluated_weights": "ema" if self.learner.average is not None else "model",
                "paddle": paddle.__version__,
            }
            keep = self.config.data.get("keep_checkpoints", KEPT_CHECKPOINTS)
            checkpoint = Checkpoint(state, **self.learner.arrays(), config=self.config.to_yaml())
            folder = write_checkpoint(self.folder.checkpoints, checkpoint, keep, best)
            logger.info("saved %s%s", folder, " (best)" if best else "")
        barrier(self.environment.world_size)

    def data_order(self) -> dict[str, int]:
        """Returns what decides which images form batch k; a run inside an epoch resumes only where it agrees."""
        sampler = self.batches.sampler
        return {
            "seed": self.environment.seed,
            "images": sampler.length,
            "images_per_step": sampler.global_batch_size,
            "steps": self.steps,
        }
