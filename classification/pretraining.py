"""Pretraining on images without labels: masked images (arXiv 2301.00808), or a teacher whose features are followed.

The result is a checkpoint of the network like every other; decoder and projections lie beside it, for resuming.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn import functional

from classification.config import Config
from classification.data.loader import SampleReader, stack_images
from classification.data.operators import normalisation_of
from classification.task import ClassificationTask, TrainOutput
from ppcls_ext.arch.flops import count_parameters
from ppcls_ext.arch.masked import MaskedAutoencoder, draw_visible, enlarged, join_patches, normalised_patches
from ppcls_ext.engine.augmented import as_picture
from ppcls_ext.engine.checkpoint import Checkpoint
from ppcls_ext.engine.environment import Environment, derive_seed, seed_everything
from ppcls_ext.engine.loader import SampleKey
from ppcls_ext.utils.drawing import contact_sheet
from ppcls_ext.utils.drawing import enlarged as enlarged_picture
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_path
from ppcls_ext.utils.plots import draw_curves

logger = logging.getLogger(__name__)

# With fewer patches on a side, too little is visible to tell what is hidden.
FEWEST_PATCHES = 4
# Images whose size is looked at before a run.
LOOKED_AT = 200
# Of the images in ``pictures/``, and the side in pixels that small ones are enlarged to at least.
PICTURES, PICTURE_SIDE = 8, 160
# Keeps the draw of hidden patches apart from that of the augmentation, which has the same seed, epoch and sample.
MASK = 7


class PretrainingTask(ClassificationTask):
    """What both ways have in common: no labels, no evaluation, a picture every few epochs.

    Args:
        config: the configuration; needs ``Arch``, ``Optimizer``, ``DataLoader.Train`` and ``Pretraining``.
        environment: device, rank and seed.
    """

    def __init__(self, config: Config, environment: Environment) -> None:
        super().__init__(config, environment)
        # Of pictures with fewer pixels than a patch the network sees nothing but a blur.
        patch = self.model.feature_strides[-1]
        indices = self.dataset.spread(LOOKED_AT)
        small = []
        decode = SampleReader(self.dataset, self.config.train.operators, 0, True).operators[0]
        for index in indices:
            try:
                image = decode(self.dataset.load(index)[0], self.dataset.name_of(index))
            except UserError:
                continue
            if min(image.shape[:2]) < patch:
                small.append(f"{self.dataset.name_of(index)} ({image.shape[1]} x {image.shape[0]})")
        if small:
            logger.warning(
                "%d of %d images that were looked at are smaller than a patch of %d px and are enlarged: %s",
                len(small), len(indices), patch, ", ".join(small[:3]),
            )  # fmt: skip

    def begin_epoch(self, epoch: int) -> None:
        """Is called before the batches of an epoch, counted from 0, and where one is taken up."""
        super().begin_epoch(epoch)
        self._epoch = epoch

    def scores(self, output: TrainOutput, batch: dict[str, Any]) -> dict[str, float]:
        """Returns nothing: there are no labels."""
        return {}

    def end_epoch(self) -> None:
        """Draws a picture every ``Pretraining.picture_interval`` epochs and after the last."""
        super().end_epoch()
        every, number = self.config.pretraining.picture_interval, self._epoch + 1
        if self.environment.is_main and every and (number % every == 0 or number == self.config.run.epochs):
            images = self._shown_images()
            self.network.eval()
            with paddle.no_grad():
                rows = self.pictures(images)
            path = self.config.output_dir / "pictures" / f"epoch_{number:04d}.png"
            draw_rows(rows, self.captions[: len(rows[0])], path)

    def _shown_images(self) -> paddle.Tensor:
        """Returns the same few images for every picture, ``[n, C, H, W]``, augmented as in the first epoch."""
        reader = SampleReader(self.dataset, self.config.train.operators, self.environment.seed, training=True)
        keys = [SampleKey(0, index, index) for index in self.dataset.spread(PICTURES)]
        return paddle.to_tensor(stack_images([reader.read(key).image for key in keys]))

    captions: tuple[str, ...]

    def pictures(self, images: paddle.Tensor) -> list[list[np.ndarray]]:
        """Returns for each image ``[C, H, W]`` a row of pictures ``uint8`` ``[H, W, 3]``, one for each caption."""
        raise NotImplementedError

    def as_bytes(self, images: np.ndarray) -> np.ndarray:
        """Normalised images ``[n, C, H, W]`` -> ``uint8`` ``[n, H, W, 3]``."""
        factors, offsets = normalisation_of(self.config.train.operators)
        return np.stack([as_picture(image, offsets, offsets + 255 * factors) for image in images])

    def describe(self) -> str:
        """Returns what is trained on what."""
        arch, parameters = self.config.arch, count_parameters(self.model)
        kind = self.config.pretraining.name.lower()
        return f"{kind} pretraining of {arch.name}: {parameters:,} trainable parameters, {len(self.dataset)} images"

    def report(self) -> dict[str, Any]:
        """Returns the task's part of ``report.json``."""
        return {**super().report(), "pretraining": self.config.pretraining.model_dump()}

    def draw_curves(self, history: Sequence[dict[str, Any]], path: Path) -> None:
        """Draws loss and learning rate by epoch."""
        draw_curves(history, path, f"{self.config.pretraining.name}, {self.config.arch.name}")


class MaskedTask(PretrainingTask):
    """``Pretraining.name: Masked``: the network paints hidden patches."""

    captions = ("seen", "painted", "image")
    auxiliary_prefix = "decoder."

    def build_auxiliary(self) -> paddle.nn.Layer:
        """Puts the network into an autoencoder; returns the decoder."""
        channels, *size = self.config.run.image_shape
        # A seed of its own: the network starts as it would without a decoder.
        seed_everything(derive_seed(self.environment.seed, "decoder"))
        self.autoencoder = MaskedAutoencoder(self.model, channels, self.config.pretraining.decoder_channels)
        patch = self.autoencoder.patch
        self.size = [max(math.ceil(side / patch), FEWEST_PATCHES) * patch for side in size]
        if self.size != size:
            logger.info(
                "images of %d x %d px are enlarged to %d x %d: whole patches of %d px, at least %d on a side",
                size[1], size[0], self.size[1], self.size[0], patch, FEWEST_PATCHES,
            )  # fmt: skip
        self.patches = math.prod(side // patch for side in self.size)
        return self.autoencoder.decoder

    def trained_network(self) -> paddle.nn.Layer:
        """Returns the network with its decoder."""
        return self.autoencoder

    def networks(self) -> list[paddle.nn.Layer]:
        """Returns the network with its decoder."""
        return [self.autoencoder]

    def _visible(self, indices: Sequence[int], epoch: int) -> np.ndarray:
        seeds = [[MASK, self.environment.seed, epoch, index] for index in indices]
        return draw_visible(self.patches, self.config.pretraining.mask_ratio, seeds)

    def forward(self, batch: dict[str, Any], seed: int) -> TrainOutput:
        """Returns the loss of a batch, ``image`` ``[N, C, H, W]``; patches are hidden by seed, epoch and sample.

        Raises:
            UserError: the images are not as large as the configuration says, and would be resized unnoticed.
        """
        (height, width), stated = batch["image"].shape[2:], self.config.run.image_shape
        if [height, width] != stated[1:]:
            key = "DataLoader.Train.dataset.transform_ops"
            message = f"make images of {width} x {height}, but Global.image_shape is {stated}"
            raise UserError(self.config.document.problem(key, message))
        visible = self._visible(batch["index"].numpy().tolist(), self._epoch)
        with self.precision.autocast():
            seed_everything(seed)
            loss, painted = self.network(enlarged(batch["image"], *self.size), visible)
        return TrainOutput(painted, loss)

    def pictures(self, images: paddle.Tensor) -> list[list[np.ndarray]]:
        """Returns for each image what the network sees, what it paints into the hidden patches, and the image."""
        images = enlarged(images, *self.size)
        visible = self._visible(range(len(images)), 0)
        _, painted = self.autoencoder(images, visible)
        patch = self.autoencoder.patch
        rows, columns = (side // patch for side in self.size)
        _, mean, deviation = normalised_patches(images, patch)
        hidden = np.ones([len(images), self.patches, 1, 1, 1], bool)
        np.put_along_axis(hidden, visible[:, :, None, None, None], False, axis=1)
        full = join_patches((painted * deviation + mean), rows, columns).numpy()
        mask = join_patches(paddle.to_tensor(hidden.astype("float32")).expand([-1, -1, 1, patch, patch]), rows, columns)
        mask, original = mask.numpy() > 0, images.numpy()
        pictures = self.as_bytes(original)
        seen = np.where(np.moveaxis(mask, 1, -1), np.uint8(127), pictures)
        filled = self.as_bytes(np.where(mask, full, original))
        return [list(row) for row in zip(seen, filled, pictures, strict=True)]

    def check(self, checkpoint: Checkpoint, where: str) -> None:
        """Raises a UserError for a checkpoint of another task, model or optimizer, or with another decoder."""
        super().check(checkpoint, where)
        if not checkpoint.auxiliary:
            raise UserError(f"{where}: holds no decoder; its weights can be used as Global.pretrained_model")
        before, now = len(checkpoint.auxiliary["token"]), self.config.pretraining.decoder_channels
        if before != now:
            raise UserError(f"{where}: was trained with Pretraining.decoder_channels={before}, now it is {now}")


class DistilledTask(PretrainingTask):
    """``Pretraining.name: Distilled``: the network follows the teacher of ``Distillation``."""

    captions = ("image", "likeness to the teacher, white: 1")

    def forward(self, batch: dict[str, Any], seed: int) -> TrainOutput:
        """Returns the loss of a batch: ``image`` ``[N, C, H, W]``, ``index`` ``[N]``."""
        with self.precision.autocast():
            teacher_outputs = self.distillation.compute_teacher_outputs(batch["image"], batch["index"])
            seed_everything(seed)
            output = self.network(batch["image"])
        return TrainOutput(output, *self.distillation.losses(None, output, teacher_outputs))

    def pictures(self, images: paddle.Tensor) -> list[list[np.ndarray]]:
        """Returns for each image itself, and, with features, how alike those of the last compared stage are there."""
        pictures = self.as_bytes(images.numpy())
        if self.distillation.settings.features is None:
            return [[picture] for picture in pictures]
        ours = self.distillation.network(images)[1][-1].astype("float32")
        theirs = self.distillation.compute_teacher_outputs(images)[1][-1].astype("float32")
        if theirs.shape[2:] != ours.shape[2:]:
            theirs = functional.adaptive_avg_pool2d(theirs, ours.shape[2:])
        ours, theirs = ours - ours.mean(axis=1, keepdim=True), theirs - theirs.mean(axis=1, keepdim=True)
        alike = functional.cosine_similarity(ours, theirs, axis=1).unsqueeze(1)  # [n, 1, h, w]
        alike = functional.interpolate(alike, images.shape[2:], mode="nearest").clip(0, 1).numpy()[:, 0]
        maps = np.repeat(np.rint(255 * alike).astype(np.uint8)[..., None], 3, axis=-1)
        return [list(row) for row in zip(pictures, maps, strict=True)]


TASKS: dict[str, type[PretrainingTask]] = {"Masked": MaskedTask, "Distilled": DistilledTask}


def draw_rows(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str], path: Path) -> None:
    """Draws pictures ``uint8`` ``[H, W, 3]``, one image a row, into the PNG ``path``; the captions are its title."""
    pictures = [enlarged_picture(image, PICTURE_SIDE)[0] for row in rows for image in row]
    sheet = contact_sheet(pictures, len(captions), "; ".join(captions), title_size=13)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
