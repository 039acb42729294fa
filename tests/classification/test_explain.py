"""Where a classifier sees a class: Grad-CAM against the numbers that follow from a small network, and on pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from classification.explain import SIDE, explainer
from ppcls_ext import build_model
from ppcls_ext.deploy.inspection import grad_cam, map_layer
from ppcls_ext.deploy.verify import EagerBackend
from ppcls_ext.preprocess import build_pipeline
from ppcls_ext.runtime import Predictor
from ppcls_ext.runtime.predictor import Prediction
from ppcls_ext.utils.errors import UserError
from tests.support.pictures import write_picture
from tests.support.runs import TINY


class Colours(nn.Layer):
    """Tells red, green and blue pictures apart by the means of their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2D(3, 3, 2, stride=2, bias_attr=False)
        self.features.weight.set_value(np.tile(np.eye(3, dtype=np.float32)[:, :, None, None] / 4, [1, 1, 2, 2]))
        self.classify = nn.Linear(3, 3)
        self.classify.weight.set_value(np.array([[3, -1, 0], [0, 2, -1], [-1, 0, 1]], np.float32))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, 3, H, W]`` -> ``[N, 3]``."""
        return self.classify(self.features(x).mean(axis=[2, 3]))


class Tokens(nn.Layer):
    """Classifies by a token that stands for no place, as a ViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2D(3, 4, 8, stride=8)
        self.norm = nn.LayerNorm(4)
        self.classify = nn.Linear(4, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, 3, H, W]`` -> ``[N, 2]``."""
        tokens = self.patches(x).flatten(2).transpose([0, 2, 1])
        return self.classify(self.norm(paddle.concat([tokens.mean(axis=1, keepdim=True), tokens], axis=1))[:, 0])


class PooledTokens(Tokens):
    """Classifies by the mean of tokens that stand for places, as a Swin transformer does."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, 3, H, W]`` -> ``[N, 2]``."""
        return self.classify(self.norm(self.patches(x).flatten(2).transpose([0, 2, 1])).mean(axis=1))


def test_the_map_is_the_weighted_sum_of_the_channels_where_it_is_positive() -> None:
    model, image = Colours(), paddle.rand([1, 3, 6, 8])
    layer = map_layer(model, image)
    assert layer is model.features
    channels = model.features(image)[0].numpy()
    weights = model.classify.weight.numpy()
    for label in range(3):
        heat, logits = grad_cam(model, layer, image, label)
        # The mean over 12 places makes each gradient a twelfth of the classifier's weight.
        expected = np.maximum(np.tensordot(weights[:, label] / 12, channels, 1), 0)
        np.testing.assert_allclose(heat, expected, rtol=1e-5, atol=1e-7)
    predicted, _ = grad_cam(model, layer, image)
    np.testing.assert_array_equal(predicted, grad_cam(model, layer, image, int(logits.argmax()))[0])


@pytest.mark.parametrize("arguments", [TINY, {"name": "MobileNetV3_small_x0_35", "class_num": 10}])
def test_every_family_shows_places_of_its_last_map(arguments: dict) -> None:
    model = build_model(**arguments)
    model.eval()
    image = paddle.rand([1, 3, 64, 96])
    heat, logits = grad_cam(model, map_layer(model, image), image, 2)
    assert (heat.shape, logits.shape) == ((2, 3), (10,))
    assert heat.min() >= 0


def test_tokens_show_places_if_they_have_them() -> None:
    image = paddle.rand([1, 3, 16, 32])
    model = PooledTokens()
    assert grad_cam(model, map_layer(model, image), image)[0].shape == (2, 4)
    with pytest.raises(UserError, match="--explain: what Tokens classifies by has no places in the image"):
        map_layer(Tokens(), image)


def predictor_of(transforms: list, classes: list[str] | None = None) -> Predictor:
    pipeline = build_pipeline([*transforms, {"NormalizeImage": {"order": ""}}, {"ToCHWImage": None}], "transforms")
    return Predictor(EagerBackend(Colours()), pipeline, classes, 3, [-1, 3, -1, -1], "Colours")


def test_the_place_is_marked_where_it_lies_in_the_original_picture(tmp_path: Path) -> None:
    """The network sees a square of the middle, half as large; both pictures keep the size of the original."""
    pixels = np.zeros((400, 600, 3), np.uint8)
    pixels[40:80, 420:460, 0] = 255  # Red, which the network sees, ...
    pixels[200:240, 10:50, 0] = 255  # ... and red that is cut off.
    file = write_picture(tmp_path / "a.png", pixels)
    predictor = predictor_of([{"ResizeImage": {"resize_short": 200}}, {"CropImage": {"size": 200}}],
                             ["red", "green", "blue"])  # fmt: skip
    drawn = np.asarray(explainer(predictor, "red")(Prediction(str(file))))
    pair = drawn[-10 - 400 : -10]
    original, marked = pair[:, 10:610].astype(int), pair[:, 620:1220].astype(int)
    np.testing.assert_array_equal(original, pixels)
    changed = np.abs(marked - original).sum(axis=2)
    assert changed[45:75, 425:455].min() > 30
    assert changed[:, :100].max() == changed[:, 500:].max() == 0


def test_a_tiny_picture_is_enlarged_and_its_predicted_class_explained(tmp_path: Path) -> None:
    file = write_picture(tmp_path / "a.png", np.full((10, 20, 3), (200, 0, 0), np.uint8))
    predictor = predictor_of([{"ResizeImage": {"size": 32}}])
    assert explainer(predictor, "")(Prediction(str(file))).width == 2 * SIDE + 30
    with pytest.raises(UserError, match="Colours has no class 'purple'"):
        explainer(predictor, "purple")
    with pytest.raises(UserError, match="--explain 3: Colours has 3 classes, numbered from 0"):
        explainer(predictor, "3")(Prediction(str(file)))
