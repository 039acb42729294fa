"""The student with what only its training needs: projections of its features to the teacher's widths."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn


class FeatureStudent(nn.Layer):
    """One pass through a network that gives its logits and the features that are compared with the teacher's.

    Args:
        model: the network that is trained and saved; one of this project's, which have stages.
        stages: which outputs are compared, from 1.
        widths: channels of these outputs, of ``model`` and of the teacher.
    """

    def __init__(self, model: nn.Layer, stages: Sequence[int], widths: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.model = model
        self.stages = list(stages)
        self.projections = nn.LayerDict(
            {
                f"stage_{stage}": nn.Conv2D(ours, theirs, 1)
                for stage, (ours, theirs) in zip(stages, widths, strict=True)
                if ours != theirs
            }
        )

    def forward(self, image: paddle.Tensor) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
        """Images ``[N, channels, H, W]`` -> logits ``[N, class_num]``, and for each stage ``[N, C_i, H_i, W_i]``."""
        outputs = self.model.forward_features(image)
        return self.model.classify(outputs[-1]), [self._projected(stage, outputs[stage - 1]) for stage in self.stages]

    def _projected(self, stage: int, output: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> the same with the teacher's channels."""
        name = f"stage_{stage}"
        return self.projections[name](output) if name in self.projections else output
