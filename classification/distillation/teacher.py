"""The network that teaches: trained, frozen, in evaluation mode."""

from __future__ import annotations

import logging

import paddle
from paddle.nn import functional

from classification.build import Place, construct_network
from classification.config import DISTILLATION, TEACHER, Config
from classification.distillation.teacher_files import FoundTeacher
from ppcls_ext.arch.outputs import logits_of
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import load_weights

logger = logging.getLogger(__name__)


class Teacher(paddle.nn.Layer):
    """Answers without learning: no gradient reaches it, and no checkpoint of the student holds it.

    Args:
        config: the configuration, with ``Distillation``.
        found: the teacher's network and weights.

    Attributes:
        image_shape: ``[channels, height, width]`` that it sees; images of another size are resized to it.

    Raises:
        UserError: the network cannot take the images, or the weights are not this network's.
    """

    def __init__(self, config: Config, found: FoundTeacher) -> None:
        super().__init__()
        assert config.distillation is not None
        self.image_shape = list(config.run.image_shape)
        if config.distillation.image_size is not None:
            self.image_shape[1:] = [config.distillation.image_size] * 2
        place = Place(found.arch, self.image_shape, TEACHER, f"{DISTILLATION}.image_size")
        self.network = construct_network(config, place)
        try:
            load_weights(self.network, str(found.arch.pretrained))
        except UserError as error:
            reason = str(error).replace("Arch.", f"{TEACHER}.")
            raise UserError(config.document.problem(f"{TEACHER}.pretrained", reason)) from error
        for parameter in self.network.parameters():
            parameter.stop_gradient = True
        self.eval()
        logger.info("teacher %s: weights from %s", found.arch.name, found.file)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        """Images ``[N, channels, H, W]`` of the student -> the teacher's logits ``[N, class_num]``."""
        return logits_of(self.network(self._resized(image)))

    def with_features(self, image: paddle.Tensor) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
        """Images as for :meth:`forward` -> logits, and the outputs ``[N, C_i, H_i, W_i]`` of all stages."""
        features = self.network.forward_features(self._resized(image))
        return self.network.classify(features[-1]), features

    def _resized(self, image: paddle.Tensor) -> paddle.Tensor:
        size = self.image_shape[1:]
        if image.shape[2:] == size:
            return image
        return functional.interpolate(image, size, mode="bilinear", align_corners=False)
