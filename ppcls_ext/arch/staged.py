"""What all networks of this project do alike: stem, stages, and a classifier behind a global pool."""

from __future__ import annotations

import paddle
from paddle import nn


class StagedNetwork(nn.Layer):
    """The way of an image through ``stem``, ``stages``, ``pool``, ``flatten``, ``norm`` and ``head``.

    The constructors of subclasses make these sublayers, in this order.
    """

    stem: nn.Layer
    stages: nn.Layer
    pool: nn.Layer
    flatten: nn.Layer
    norm: nn.Layer
    head: nn.Layer

    def forward_features(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Images ``[N, in_channels, H, W]`` -> the stage outputs ``[N, C_i, H / s_i, W / s_i]``, s = 4, 8, 16, 32."""
        x = self.stem(x)
        features = []
        for stage in self.stages.children():
            x = stage(x)
            features.append(x)
        return features

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Images ``[N, in_channels, H, W]`` -> logits ``[N, class_num]``, or ``[N, C_4]`` without a classifier."""
        # Through the sublayers only, so that PaddleClas may put an identity in the place of any of them.
        return self.classify(self.stages(self.stem(x)))

    def classify(self, x: paddle.Tensor) -> paddle.Tensor:
        """The last stage's output ``[N, C_4, H / 32, W / 32]`` -> what :meth:`forward` returns."""
        return self.head(self.norm(self.flatten(self.pool(x))))
