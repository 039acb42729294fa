"""The training run: epochs of batches, then evaluation, log and checkpoint."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import paddle

from classification.bad_input import BadImages, stop_at_bad_loss
from classification.build import build_batches, build_dataset, count_trainable, load_pretrained, read_class_names
from classification.config import Config
from classification.data.datasets import ImageDataset
from classification.distillation.teacher_files import find_teacher
from classification.evaluator import evaluate
from classification.learner import Learner
from classification.metrics import TopkAcc
from classification.opening import check_same_classes
from classification.progress import EpochSums, RunProgress, random_states
from classification.recorder import Recorder
from classification.resume import restore_run
from ppcls_ext.engine.checkpoint import Checkpoint, find_checkpoint, write_checkpoint
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


class Trainer:
    """One training run, from a checked configuration to a report.

    Args:
        config: the configuration, with all that training needs.
        environment: device, rank and seed.
        resume: ``auto``, the path of a checkpoint folder, or ``None`` for a fresh run.

    Raises:
        UserError: something that the user can mend: a missing section, missing data, a folder that is in use.
    """

    def __init__(self, config: Config, environment: Environment, resume: str | None = None) -> None:
        require_sections(config)
        self.config, self.run_settings, self.environment = config, config.run, environment
        self.folder = RunFolder(config.output_dir, environment.is_main)
        if self.folder.active:
            # Only now: before the lock is taken, the file may be another run's.
            log_to_file(self.folder.path / "train.log")
        self.dataset = build_dataset(config, config.train)
        self.batches = build_batches(config, config.train, self.dataset, environment, training=True)
        eval_dataset = self._open_evaluation()
        self.class_names = read_class_names(config, self.dataset)
        self.update_freq, self.steps = steps_of_epoch(len(self.batches), config.run.update_freq)
        self.learner = Learner(config, environment, self.steps // self.update_freq, self.update_freq)
        self._check_teachers_classes()
        self.progress = self._first_progress(resume or config.run.checkpoints)
        limit = config.run.max_bad_images
        self.bad_images = BadImages(self.progress.bad_images, self.dataset, limit)
        self.bad_eval_images = BadImages(self.progress.bad_eval_images, eval_dataset, limit) if eval_dataset else None
        self.recorder = Recorder(self.folder, config, self.progress, environment)
        self.accuracy = TopkAcc([1])

    def _open_evaluation(self) -> ImageDataset | None:
        """Opens the evaluation data, if the run evaluates, and checks that their labels mean the same."""
        config, self.eval_batches = self.config, None
        if not config.run.eval_during_train or config.eval is None:
            return None
        dataset = build_dataset(config, config.eval)
        check_same_classes(
            self.dataset.class_names, f"{config.train.key}.dataset", dataset.class_names, f"{config.eval.key}.dataset"
        )
        self.eval_batches = build_batches(config, config.eval, dataset, self.environment, training=False)
        return dataset

    def _check_teachers_classes(self) -> None:
        if self.learner.distillation is not None:
            names, place = self.learner.distillation.class_names, self.learner.distillation.identity()["weights"]
            check_same_classes(names, place, self.dataset.class_names, f"{self.config.train.key}.dataset")

    def _first_progress(self, resume: str | None) -> RunProgress:
        """Continues a checkpoint, or starts from random or pretrained weights."""
        checkpoint = find_checkpoint(resume, self.folder.checkpoints)
        if checkpoint is not None:
            progress = restore_run(checkpoint, self.config, self.learner, self.data_order())
        else:
            self.folder.refuse_second_run()
            load_pretrained(self.config, self.learner.model, fine_tune=True)
            self.learner.start()
            progress = RunProgress()
        if self.learner.distillation is not None:
            progress.teacher = {**(progress.teacher or {}), **self.learner.distillation.identity()}
        position = (progress.epoch, progress.step, progress.updates)
        check_same_start(position, self.learner.model, self.environment, "Global.output_dir")
        return progress

    def run(self) -> dict[str, Any]:
        """Trains to the last epoch; returns the report that also stands in ``report.json``.

        Raises:
            Interrupted: the user stopped the run; it has been saved.
            UserError: the loss is not finite, too many images are unreadable, or the disk is full.
        """
        parameters = count_trainable(self.learner.model)
        self._announce(parameters)
        self.folder.write_config(self.config.to_yaml())
        self.folder.open_log(self.progress.epoch, self.progress.step)
        start = time.monotonic()
        try:
            self._evaluate_teacher()
            with InterruptWatch(self.environment.world_size) as watch:
                while self.progress.epoch < self.run_settings.epochs:
                    self._train_epoch(watch)
                    # Before an evaluation that may take long; the resumed run begins with it.
                    self._stop_if_asked(watch, update=0)
                    self._finish_epoch()
                    if self.progress.epoch < self.run_settings.epochs:
                        self._stop_if_asked(watch, update=0)
            return self.recorder.finish(time.monotonic() - start, self.class_names, parameters)
        finally:
            self.batches.close()
            if self.eval_batches is not None:
                self.eval_batches.close()
            self.recorder.close()
            self.folder.close()

    def _announce(self, parameters: int) -> None:
        environment = self.environment
        logger.info(
            "%s: %s trainable parameters, %d training images, %d classes, device %s, %d process(es), seed %d",
            self.config.arch.name, f"{parameters:,}", len(self.dataset), self.config.arch.class_num,
            environment.device, environment.world_size, environment.seed,
        )  # fmt: skip
        if self.progress.epoch >= self.run_settings.epochs:
            logger.info("all %d epochs are done already", self.run_settings.epochs)

    def _train_epoch(self, watch: InterruptWatch) -> None:
        """Trains from ``progress.step`` to the end of the epoch."""
        run, progress = self.run_settings, self.progress
        if progress.step >= self.steps:
            # Interrupted before its evaluation. The loader may hold a rest of batches that make no whole update.
            return
        self.learner.train_mode()
        self.batches.sampler.set_position(progress.epoch, progress.step)
        title = f"epoch {progress.epoch + 1}/{run.epochs}"
        with Display(title, self.steps, progress.step, run.print_batch_step, self.environment.is_main) as display:
            before = time.monotonic()
            for batch in self.batches:
                self.bad_images.note(batch["bad"].numpy())
                self.train_step(batch)
                now = time.monotonic()
                progress.sums.seconds += now - before
                before = now
                display.advance(**self._figures())
                if progress.step % run.print_batch_step == 0:
                    self.recorder.step(self._rate())
                if progress.step >= self.steps:
                    break
                self._save_inside_epoch(watch)

    def train_step(self, batch: dict[str, Any]) -> float:
        """Does one batch: forward, backward, and an optimizer step after every ``update_freq`` batches.

        Args:
            batch: ``image`` ``[N, 3, H, W]``, ``label``, ``label_mixed`` and ``index`` ``[N]``, ``lam`` a scalar.

        Returns:
            The loss.

        Raises:
            UserError: the loss is not finite; the batch has been saved.
        """
        progress, environment = self.progress, self.environment
        closes_update = (progress.step + 1) % self.update_freq == 0
        seed = derive_seed(environment.seed, "batch", environment.rank, progress.epoch, progress.step)
        with self.learner.exchange(closes_update):
            answer = self.learner.forward(batch, seed)
            value = float(answer.loss)
            stop_at_bad_loss(value, batch, self.dataset, progress, self.folder.path, environment.rank)
            self.learner.backward(answer.loss)
        if closes_update:
            self.learner.update(progress.updates)
            progress.updates += 1
        parts = {name: float(part) for name, part in answer.parts.items()}
        progress.sums.add(value, self._hits(answer.logits, batch), len(batch["label"]), parts)
        progress.step += 1
        return value

    def _hits(self, logits: paddle.Tensor, batch: dict[str, Any]) -> float:
        """Returns how many images are right; of mixed labels each counts by its share."""
        share = float(batch["lam"])
        hits = share * self.accuracy.hits(logits, batch["label"])[0]
        if share < 1:
            hits += (1 - share) * self.accuracy.hits(logits, batch["label_mixed"])[0]
        return float(hits)

    def _rate(self) -> float:
        """Returns the learning rate of the last optimizer step."""
        return self.learner.schedule.rate_at(max(self.progress.updates - 1, 0))

    def _figures(self) -> dict[str, str]:
        mean = self.progress.sums.mean()
        return {
            "loss": f"{mean['loss']:.4f}",
            "top1": f"{mean['top1']:.4f}",
            "lr": f"{self._rate():.2e}",
            "images/s": f"{mean['images_per_second'] * self.environment.world_size:.1f}",
        }

    def _save_inside_epoch(self, watch: InterruptWatch) -> None:
        """Saves after every ``save_steps`` batches and when the user wants to stop, never amid an update."""
        step, every = self.progress.step, self.run_settings.save_steps
        if step % self.update_freq:
            return
        self._stop_if_asked(watch, self.progress.updates)
        if every and step // every > (step - self.update_freq) // every:
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
        run, progress = self.run_settings, self.progress
        number = progress.epoch + 1
        last = number == run.epochs
        record: dict[str, Any] = {"epoch": number, "lr": self._rate(), "train": self._training_means()}
        best = False
        if self.eval_batches is not None and (number % run.eval_interval == 0 or last):
            record.update(self._evaluate())
            best = progress.note_best(record, self.config.metrics[0].names[0])
        progress.history.append(record)
        progress.epoch, progress.step, progress.sums = number, 0, EpochSums()
        self.recorder.epoch(record)
        if best or last or number % run.save_interval == 0:
            self._save(best)

    def _training_means(self) -> dict[str, float]:
        self.bad_images.share(self.environment.world_size)
        sums = self.progress.sums
        own = np.array([sums.loss, sums.hits, float(sums.images), *sums.parts.values()])
        loss, hits, images, *parts = sum_over_ranks(own, self.environment.world_size).tolist()
        return EpochSums(loss, hits, int(images), sums.seconds, dict(zip(sums.parts, parts, strict=True))).mean()

    def _evaluate(self) -> dict[str, dict[str, float]]:
        """Returns the figures of the trained weights and, with EMA, of the averaged ones."""
        learner, world_size = self.learner, self.environment.world_size
        # Each process has its own running statistics; all evaluate with those that checkpoints hold.
        broadcast_buffers(learner.model, world_size)
        result = {"eval": self._evaluate_once("evaluation")}
        if learner.ema is not None:
            with learner.ema.applied():
                broadcast_buffers(learner.model, world_size)
                result["ema"] = self._evaluate_once("evaluation (EMA)")
        return result

    def _evaluate_teacher(self) -> None:
        """Measures the teacher once: where distillation does not help, a bad teacher is the usual fault."""
        distillation, known = self.learner.distillation, self.progress.teacher
        if distillation is None or known is None or not distillation.settings.evaluate_teacher:
            return
        if "eval" in known or self.eval_batches is None or self.progress.epoch >= self.run_settings.epochs:
            return
        figures = self._evaluate_once(f"teacher {known['name']}", distillation.teacher)
        known["eval"] = figures
        self.folder.log("teacher", **known)
        if figures.get("top1", 1.0) < 2 / self.config.arch.class_num:
            logger.warning("the teacher does hardly better than guessing; are these its weights? %s", known["weights"])

    def _evaluate_once(self, title: str, model: paddle.nn.Layer | None = None) -> dict[str, float]:
        assert self.eval_batches is not None and self.bad_eval_images is not None
        return evaluate(
            model or self.learner.model,
            self.eval_batches,
            self.config.metrics,
            self.config.eval_loss,
            self.learner.precision,
            self.environment,
            title,
            self.bad_eval_images,
        )

    def _save(self, best: bool) -> None:
        if self.environment.is_main:
            state = {
                **self.progress.to_json(),
                **self.learner.state(),
                "class_names": self.class_names,
                "arch": {"name": self.config.arch.name, "arguments": self.config.arch.arguments},
                "data_order": self.data_order(),
                "random": random_states(),
                "paddle": paddle.__version__,
            }
            checkpoint = Checkpoint(state, **self.learner.arrays(), config=self.config.to_yaml())
            folder = write_checkpoint(self.folder.checkpoints, checkpoint, self.run_settings.keep_checkpoints, best)
            logger.info("saved %s%s", folder, " (best)" if best else "")
        barrier(self.environment.world_size)

    def data_order(self) -> dict[str, int]:
        """Returns what decides which images form batch k; a run inside an epoch resumes only where it agrees."""
        return {
            "seed": self.environment.seed,
            "images": len(self.dataset),
            "images_per_step": self.batches.sampler.global_batch_size,
            "update_freq": self.update_freq,
        }


def steps_of_epoch(batches: int, update_freq: int) -> tuple[int, int]:
    """Returns gradient accumulation and batches of an epoch, a multiple of it (as in PaddleClas)."""
    if batches < update_freq:
        logger.warning("Global.update_freq is %d, but an epoch has only %d batches: using 1", update_freq, batches)
        update_freq = 1
    return update_freq, batches // update_freq * update_freq


def require_sections(config: Config) -> None:
    """Checks that the configuration says enough to train, and that its teacher is there.

    Raises:
        UserError: a section is missing, or the teacher's weights are.
    """
    needed = {"DataLoader.Train": config.train, "Optimizer": config.optimizer, "Loss.Train": config.train_loss}
    missing = [key for key, value in needed.items() if value is None]
    if missing:
        raise UserError(f"{config.document.path}: training needs {', '.join(missing)}")
    find_teacher(config)
