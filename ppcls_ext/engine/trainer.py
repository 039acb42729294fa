"""The training loop of classifiers and detectors: epochs, batches, evaluation, checkpoints, resume, interruption.

What is trained is a :class:`~ppcls_ext.engine.task.Task` (``classification/task.py``, ``detection/task.py``): it builds
data, model and optimizer, does the step of one batch, and evaluates. Everything else stands here.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from typing import Any

import numpy as np
import paddle

from ppcls_ext.engine.checkpoint import Checkpoint, find_checkpoint, go_on_from, list_checkpoints, write_checkpoint
from ppcls_ext.engine.cpu import use_fast_kernels
from ppcls_ext.engine.cpu_update import fuse_update
from ppcls_ext.engine.environment import InterruptWatch, barrier, check_same_start
from ppcls_ext.engine.recorder import SPEED, Recorder, RunFolder
from ppcls_ext.engine.task import EpochSums, RunProgress, StepResult, Task
from ppcls_ext.utils.display import Display
from ppcls_ext.utils.errors import Interrupted, UserError
from ppcls_ext.utils.files import atomic_path

logger = logging.getLogger(__name__)


# An evaluation says little while the running statistics of batch norms still hold more than this share of their
# initial values.
UNSETTLED = 1e-3


def batch_norms(model: paddle.nn.Layer) -> list[paddle.nn.Layer]:
    """Returns the batch norms in a network."""
    return [layer for layer in model.sublayers() if isinstance(layer, paddle.nn.layer.norm._BatchNormBase)]


def is_fresh(norm: paddle.nn.Layer) -> bool:
    """Tells whether the running statistics are those of a new layer: variances of 1."""
    return bool((norm._variance == 1).all())


class Trainer:
    """One training run, from its first or next epoch to its report.

    This process holds the folder; ``resume`` is ``auto``, the path of a checkpoint folder, or ``None`` for a fresh run.

    Raises:
        UserError: the checkpoint cannot be continued.
    """

    def __init__(self, task: Task, folder: RunFolder, resume: str | None = None) -> None:
        self.task, self.folder = task, folder
        self.options, self.environment = task.options, task.environment
        self.kernels = self._choose_kernels()
        checkpoint = find_checkpoint(resume, folder.checkpoints)
        if checkpoint is not None:
            self.progress = task.resume(checkpoint)
            self.progress.sums = self.progress.sums.share_of(self.environment.world_size)
            self._compare_plans(checkpoint.state)
            # None where a compiled graph or a GPU trained.
            before, now = checkpoint.state.get("cpu_kernels", self.kernels) or "paddle", self.kernels or "paddle"
            if before != now:
                logger.info("CPU kernels: %s before, %s now; the losses differ by rounding", before, now)
        else:
            task.start()
            self.progress = RunProgress()
        self.fresh_norms = [] if checkpoint else [norm for norm in batch_norms(task.model) if is_fresh(norm)]
        position = (self.progress.epoch, self.progress.step, self.progress.updates)
        check_same_start(position, task.model, self.environment, folder.key)
        self.recorder = Recorder(folder, task, self.progress)

    def _compare_plans(self, state: dict[str, Any]) -> None:
        """Says at which learning rate a run goes on that is planned anew; early stopping then waits from here on."""
        progress, epochs = self.progress, self.options.epochs
        rate = self.task.rate(progress.updates + 1)
        before, planned = state.get("next_rate", rate), state.get("epochs", epochs)
        replanned = not math.isclose(rate, before, rel_tol=1e-6)
        if replanned and progress.epoch < epochs:
            logger.info(
                "the learning rate is planned anew, over %d epochs: after epoch %d it goes on at %.3g (before: %.3g)",
                epochs, progress.epoch, rate, before,
            )  # fmt: skip
        if replanned or epochs > planned:
            progress.patience_from = progress.epoch

    def _choose_kernels(self) -> str | None:
        if self.environment.on_gpu or not self.task.networks():
            return None
        kernels = use_fast_kernels(self.task.networks(), self.options.cpu_kernels, self.task.kernels_key)
        if kernels == "fast" and self.task.optimizer is not None:
            fuse_update(self.task.optimizer)
        return kernels

    def run(self) -> dict[str, Any]:
        """Trains to the last epoch; returns the report that also stands in ``report.json``.

        A run that is over already, and reported, stays as it is.

        Raises:
            Interrupted: the user stopped the run; it has been saved.
            UserError: the loss is not finite, images cannot be used, or the disk is full.
        """
        task, progress, epochs, environment = self.task, self.progress, self.options.epochs, self.environment
        logger.info(
            "%s, device %s, %d process(es), seed %d",
            task.describe(), environment.device, environment.world_size, environment.seed,
        )  # fmt: skip
        for note in task.notes:
            logger.info("%s", note)
        if progress.epoch >= epochs:
            logger.info("all %d epochs are done already", epochs)
        elif reason := self._reason_to_stop():
            logger.info("finished early already: %s; more patience, epochs or another rate continue the run", reason)
        if self._is_over() and (report := self.folder.report_of(progress.history)) is not None:
            task.close()
            return report
        if environment.is_main:
            go_on_from(self.folder.checkpoints, progress.epoch, progress.step, progress.best_epoch)
        self.folder.write_config(self.options.config_text)
        self.folder.open_log(progress.epoch, progress.step)
        start = time.monotonic()
        try:
            if not self._is_over():
                self.recorder.open()
                task.begin(self.folder.log)
            with InterruptWatch(environment.world_size) as watch:
                while not self._is_over():
                    self._train_epoch(watch)
                    # Before an evaluation that may take long; the resumed run begins with it.
                    self._stop_if_asked(watch, update=0)
                    self._finish_epoch()
                    if not self._is_over():
                        self._stop_if_asked(watch, update=0)
            return self.recorder.finish(time.monotonic() - start, self._reason_to_stop())
        finally:
            task.close()
            self.recorder.close()

    def _reason_to_stop(self) -> str | None:
        """Returns why the run ends before its last epoch, or ``None`` where it does not; alike on every process."""
        stopping, progress = self.options.early_stopping, self.progress
        if stopping is None or progress.epoch >= self.options.epochs:
            return None
        return stopping.reason(progress.history, self.task.metric, progress.patience_from)

    def _is_over(self) -> bool:
        return self.progress.epoch >= self.options.epochs or self._reason_to_stop() is not None

    def _train_epoch(self, watch: InterruptWatch) -> None:
        """Trains from ``progress.step`` to the end of the epoch."""
        task, progress, options = self.task, self.progress, self.options
        task.train_mode()
        task.begin_epoch(progress.epoch)
        if progress.step >= task.steps:
            # Interrupted before its evaluation. The loader may hold a rest of batches that make no whole update.
            return
        task.batches.sampler.set_position(progress.epoch, progress.step)
        title = f"epoch {progress.epoch + 1}/{options.epochs}"
        with Display(title, task.steps, progress.step, options.log_interval, self.environment.is_main) as display:
            before = time.monotonic()
            for batch in task.batches:
                result = task.train_step(batch, progress)
                if not math.isfinite(result.loss):
                    self._stop_at_bad_loss(batch, result)
                progress.step += 1
                progress.updates += progress.step % task.update_freq == 0
                progress.sums.add(result)
                now = time.monotonic()
                progress.sums.seconds += now - before
                before = now
                figures = task.logged(result, progress.sums)
                self._show(display, figures, result.rate)
                if progress.step % options.log_interval == 0:
                    self.recorder.step(figures, result.rate)
                if progress.step >= task.steps:
                    break
                if progress.step % task.update_freq == 0:
                    self._stop_if_asked(watch, progress.updates)
                    every = options.save_steps
                    if every and progress.step // every > (progress.step - task.update_freq) // every:
                        self._save(best=False)

    def _show(self, display: Display, figures: dict[str, float], rate: float) -> None:
        shown = {name: f"{value:.4f}" for name, value in figures.items() if name not in SPEED}
        speed = figures["images_per_second"] * self.environment.world_size
        display.advance(**shown, lr=f"{rate:.2e}", **{"images/s": f"{speed:.1f}"})

    def _stop_at_bad_loss(self, batch: dict[str, Any], result: StepResult) -> None:
        """Saves the batch and raises a UserError; the weights have not seen its gradient."""
        epoch, step = self.progress.epoch + 1, self.progress.step + 1
        rank = self.environment.rank
        file = self.folder.path / f"bad_batch_epoch_{epoch:04d}_step_{step:06d}_rank_{rank}.npz"
        arrays = {name: value.numpy() for name, value in batch.items()}
        try:
            with atomic_path(file) as temporary:
                np.savez(temporary, names=np.array(self.task.image_names(batch)), **arrays)
            outcome = f"the batch is saved in {file}"
        except OSError as error:
            outcome = f"the batch could not be saved in {file} ({error.strerror or error})"
        parts = "".join(f", {name} {value:.3g}" for name, value in result.shown.items() if name != "loss")
        kept = list_checkpoints(self.folder.checkpoints)
        newest = f"the newest checkpoint is {kept[-1]}" if kept else "nothing was saved yet"
        raise UserError(
            f"the loss became {result.loss} at epoch {epoch}, batch {step} (optimizer step {self.progress.updates + 1}"
            f"{parts}); {outcome}; {newest}; {self.task.advice}"
        )

    def _finish_epoch(self) -> None:
        """Evaluates, records and saves; the epoch then counts as finished."""
        task, progress, options = self.task, self.progress, self.options
        number = progress.epoch + 1
        last = number == options.epochs
        means = progress.sums.over_ranks(self.environment.world_size).mean()
        metrics = task.evaluate() if last or number % options.eval_interval == 0 else None
        if metrics is not None:
            self._warn_of_unsettled_norms()
        record = {"epoch": number, "lr": task.rate(progress.updates), "train": means, **(metrics or {})}
        best = metrics is not None and progress.note_best(record, task.metric)
        task.end_epoch()
        progress.history.append(record)
        progress.epoch, progress.step, progress.sums = number, 0, EpochSums()
        self.recorder.epoch(record)
        if best or self._is_over() or number % options.save_interval == 0:
            self._save(best)
        if reason := self._reason_to_stop():
            logger.info("stopped early, after epoch %d of %d: %s", number, options.epochs, reason)

    def _warn_of_unsettled_norms(self) -> None:
        """Says that an evaluation with statistics that have not settled tells little: a short run may be at chance."""
        batches = self.progress.epoch * self.task.steps + self.progress.step
        momentum = max((norm._momentum for norm in self.fresh_norms), default=0.0)
        share = momentum**batches
        if share > UNSETTLED:
            logger.warning(
                "after %d batches the running statistics of batch norms still hold %.2g %% of what they started with: "
                "evaluation may be far below training until some %d batches are done",
                batches, 100 * share, math.ceil(math.log(UNSETTLED) / math.log(momentum)),
            )  # fmt: skip

    def _stop_if_asked(self, watch: InterruptWatch, update: int) -> None:
        """Saves and leaves if the user interrupted the run."""
        if not watch.stop_after(update):
            return
        self._save(best=False)
        raise Interrupted(
            f"stopped; everything is saved in {self.folder.checkpoints}; "
            "continue with the same command and --resume auto"
        )

    def _save(self, best: bool) -> None:
        task, world_size = self.task, self.environment.world_size
        progress = dataclasses.replace(self.progress, sums=self.progress.sums.over_ranks(world_size))
        if self.environment.is_main:
            state = {
                **progress.to_json(),
                **task.state(),
                "data_order": task.data_order(),
                "epochs": self.options.epochs,
                "next_rate": task.rate(progress.updates + 1),
                "cpu_kernels": self.kernels,
                "paddle": paddle.__version__,
            }
            checkpoint = Checkpoint(state, **task.arrays(), config=self.options.config_text)
            folder = write_checkpoint(self.folder.checkpoints, checkpoint, self.options.keep_checkpoints, best)
            logger.info("saved %s%s", folder, " (best)" if best else "")
        barrier(world_size)
