"""What a detector's boxes rest on, drawn on the picture, and where its features are.

Grad-CAM weights a channel alike everywhere, so all boxes of a class would get the same map. ODAM (Zhao and Chan, arXiv
2304.06354) multiplies gradient and map place by place instead, which tells what one box rests on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import paddle
from paddle import nn
from PIL import Image

from detection.exporting import Deployed
from ppcls_ext.deploy.inspection import class_number, heat_over, watch_outputs
from ppcls_ext.preprocess import read_image
from ppcls_ext.runtime import DetectionPredictor
from ppcls_ext.runtime.predictor import DetectionPrediction
from ppcls_ext.utils.drawing import contact_sheet, draw_boxes
from ppcls_ext.utils.fonts import drawable
from ppcls_ext.utils.texts import shown_name

# Of each picture the boxes with the highest scores are explained.
MOST_BOXES = 11
# The longer side of a panel, in pixels.
LARGEST_SIDE = 1280


def feature_layers(predictor: DetectionPredictor) -> tuple[nn.Layer, list[nn.Layer]]:
    """Returns the backbone of a model in memory, which gives the features itself."""
    return predictor.backend.network.network.backbone, []


def explainer(predictor: DetectionPredictor, wanted: str) -> Callable[[DetectionPrediction], Image.Image]:
    """Returns what draws a picture with its boxes, and a panel for each box with the places that speak for its class.

    ``wanted`` is the class whose boxes are explained, empty for all; ``UserError`` if there is no such class.
    """
    label = class_number(wanted, predictor)
    # The scores of all anchors have gradients; the choice among them has none.
    network = Deployed(predictor.backend.network.network, final=False, fused=False)

    def draw(prediction: DetectionPrediction) -> Image.Image:
        pixels = read_image(prediction.name, predictor.value_range)
        pixels = pixels if predictor.enhance is None else predictor.enhance(pixels)
        factor = min(1.0, LARGEST_SIDE / max(pixels.shape[:2]))
        if factor < 1:
            pixels = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)

        def drawn(picture: np.ndarray, indices: np.ndarray) -> Image.Image:
            numbers = prediction.labels[indices].tolist()
            names = [drawable(predictor.label(number), number) for number in numbers]
            boxes, scores = prediction.boxes[indices] * factor, prediction.scores[indices].tolist()
            return draw_boxes(picture, boxes, names, scores, classes=numbers)

        wanted_ones = np.flatnonzero((prediction.labels == label) | (label is None))
        explained = wanted_ones[:MOST_BOXES]
        panels = [drawn(pixels, wanted_ones)]
        for index, heat in zip(explained, box_heats(network, predictor, prediction, explained), strict=True):
            panels.append(drawn(heat_over(pixels, cv2.resize(heat, pixels.shape[1::-1])), np.array([index])))
        note = f"{len(explained)} of {len(wanted_ones)} boxes explained; red: speaks for the class of the box"
        return contact_sheet(panels, math.ceil(math.sqrt(len(panels))), shown_name(Path(prediction.name).name), note)

    return draw


def box_heats(
    network: Deployed, predictor: DetectionPredictor, prediction: DetectionPrediction, indices: np.ndarray
) -> list[np.ndarray]:
    """Returns for each of the boxes how much the places of the picture speak for its class, at least 0.

    Each is ``float32`` ``[h, w]``: the picture as it lies in the input of ``network``, which gives all anchors.
    """
    prepared = predictor.prepare(prediction.name, prediction.name)
    inputs = {"image": prepared.pixels, "scale_factor": prepared.scale_factor}
    maps, hook = watch_outputs(network.network.backbone)
    try:
        boxes, scores = network(*(paddle.to_tensor(inputs[name][np.newaxis]) for name in network.inputs))
    finally:
        hook.remove()
    anchors, values = predictor.form.boxes(boxes.numpy(), [prepared])[0], scores[0].numpy()
    (top, left), (height, width) = prepared.pad.astype(int), np.maximum(np.round(prepared.im_shape).astype(int), 1)
    heats = []
    for index in indices.tolist():
        label = int(prediction.labels[index])
        # The anchor that gave the box has the same corners and score, but for rounding.
        apart = np.abs(anchors - prediction.boxes[index]).max(axis=1) / max(prediction.height, prediction.width)
        anchor = int((apart + np.abs(values[label] - prediction.scores[index])).argmin())
        slopes = paddle.grad(scores[0, label, anchor], maps[-1], retain_graph=True, allow_unused=True)
        heat = np.zeros(prepared.pixels.shape[1:], np.float32)
        for part, slope in zip(maps[-1], slopes, strict=True):
            if slope is not None:
                speaks = np.maximum((slope * part).sum(axis=1)[0].numpy(), 0)
                heat += cv2.resize(speaks, heat.shape[::-1])
        heats.append(heat[top : top + height, left : left + width])
    return heats
