"""What a classifier's predictions rest on, drawn on the picture, and where its features are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import paddle
from paddle import nn
from PIL import Image

from ppcls_ext.deploy.inspection import class_number, grad_cam, heat_over, map_layer
from ppcls_ext.preprocess import read_image
from ppcls_ext.runtime import Predictor
from ppcls_ext.runtime.predictor import Prediction, softmax
from ppcls_ext.utils.drawing import contact_sheet, enlarged
from ppcls_ext.utils.fonts import drawable
from ppcls_ext.utils.texts import shown_name

# A picture is enlarged by a whole factor until its longer side has so many pixels, for the text above it.
SIDE = 320


def feature_layers(predictor: Predictor) -> tuple[nn.Layer, list[nn.Layer]]:
    """Returns a model in memory, and its layers with weights: the last one takes the features and classifies."""
    model = predictor.backend.model
    return model, [layer for layer in model.sublayers() if isinstance(layer, nn.Linear | nn.Conv2D)]


def explainer(predictor: Predictor, wanted: str) -> Callable[[Prediction], Image.Image]:
    """Returns what draws a picture beside itself with the places that speak for a class, by default the predicted one.

    Both have the size of the original; a tiny one is enlarged by a whole factor.

    Raises:
        UserError: there is no such class; while drawing, that the network has no map.
    """
    model, label = predictor.backend.model, class_number(wanted, predictor)
    layers: list[nn.Layer] = []

    def draw(prediction: Prediction) -> Image.Image:
        pixels = read_image(prediction.name, predictor.value_range)
        image = paddle.to_tensor(predictor.prepare(prediction.name, prediction.name)[np.newaxis])
        layers.extend([] if layers else [map_layer(model, image)])
        heat, logits = grad_cam(model, layers[0], image, label)
        # The network may have seen the middle of the picture only.
        left, top, right, bottom = (round(edge) for edge in predictor.pipeline.seen_part(*pixels.shape[:2]))
        whole = np.zeros(pixels.shape[:2], np.float32)
        whole[top:bottom, left:right] = cv2.resize(heat, (right - left, bottom - top))
        shown = int(logits.argmax()) if label is None else label
        name, score = drawable(predictor.label(shown), shown), 100 * softmax(logits[np.newaxis])[0, shown]
        title = f"{'predicted' if label is None else 'class'}: {name}, {score:.1f} %"
        note = "red: speaks for it" if heat.any() else "nothing speaks for it"
        pair = [enlarged(one, SIDE)[0] for one in (pixels, heat_over(pixels, whole))]
        return contact_sheet(pair, 2, title, f"{shown_name(Path(prediction.name).name)}; {note}")

    return draw
