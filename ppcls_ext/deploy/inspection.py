"""What a trained network looks at, and how it describes images. It takes a model in memory: exports have no gradients.

Which layers are looked at, a classifier and a detector say themselves: ``classification.explain``,
``detection.explain``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
from paddle import nn
from PIL import Image

from ppcls_ext.arch.outputs import logits_of
from ppcls_ext.preprocess import read_image
from ppcls_ext.runtime.report import AnyPredictor, Predictions, true_class
from ppcls_ext.utils.drawing import Card, draw_sheet
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.files import atomic_path
from ppcls_ext.utils.fonts import drawable
from ppcls_ext.utils.outputs import record_outputs

# Of the sheet of nearest neighbours.
MOST_QUERIES, NEIGHBOURS = 12, 5
# How much of a picture the strongest colour of a heat map covers.
COVER = 0.6


def as_map(features: paddle.Tensor, image: paddle.Tensor) -> paddle.Tensor | None:
    """Returns features as ``[N, C, h, w]``, or None where they have no places in the image, ``[N, 3, H, W]``.

    ``[N, C, h, w]`` has, if it is of the image's proportions and not one place; so have tokens ``[N, h * w, C]``.
    """
    height, width = image.shape[2:]
    if features.ndim == 3:
        rows = max(1, round(math.sqrt(features.shape[1] * height / width)))
        if features.shape[1] % rows:
            return None
        features = features.transpose([0, 2, 1]).reshape([0, 0, rows, -1])
    if features.ndim != 4:
        return None
    rows, columns = features.shape[2:]
    return features if rows * columns > 1 and abs(rows * width - columns * height) <= max(height, width) else None


def map_layer(model: nn.Layer, image: paddle.Tensor) -> nn.Layer:
    """Returns the layer of a classifier that gives its last map (see :func:`as_map`) of an image ``[1, 3, H, W]``.

    Raises:
        UserError: there is none, or tokens of another kind follow it, as in a ViT.
    """
    last: list[nn.Layer] = []

    def note(layer: nn.Layer, _inputs: Any, output: Any) -> None:
        if isinstance(output, paddle.Tensor) and output.ndim in (3, 4):
            if as_map(output, image) is not None:
                last[:] = [layer]
            elif output.ndim == 3 and min(output.shape[1:]) > 1:
                last.clear()

    hooks = [layer.register_forward_post_hook(note) for layer in model.sublayers()]
    try:
        with paddle.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        raise UserError(f"--explain: what {type(model).__name__} classifies by has no places in the image")
    return last[0]


def watch_outputs(layer: nn.Layer) -> tuple[list[list[paddle.Tensor]], Any]:
    """Keeps what ``layer`` gives, a list of tensors each time, in which gradients end; returns that and the hook."""
    kept: list[list[paddle.Tensor]] = []

    def cut(_layer: nn.Layer, _inputs: Any, output: Any) -> Any:
        parts = [part.detach() for part in ([output] if isinstance(output, paddle.Tensor) else output)]
        for part in parts:
            part.stop_gradient = False
        kept.append(parts)
        return parts[0] if isinstance(output, paddle.Tensor) else parts

    return kept, layer.register_forward_post_hook(cut)


def grad_cam(
    model: nn.Layer, layer: nn.Layer, image: paddle.Tensor, label: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds where a classifier sees a class, by default the predicted one, in an image ``[1, 3, H, W]``.

    Grad-CAM: Selvaraju et al., ICCV 2017, equations 1 and 2. Returns how much each place of the map of ``layer`` (see
    :func:`map_layer`) speaks for the class, ``float32`` ``[h, w]``, at least 0; and the logits ``[K]``.

    Raises:
        UserError: the logits do not depend on that layer, or there is no such class.
    """
    kept, hook = watch_outputs(layer)
    try:
        logits = logits_of(model(image))[0]
    finally:
        hook.remove()
    if label is not None and label >= len(logits):
        raise UserError(f"--explain {label}: {type(model).__name__} has {len(logits)} classes, numbered from 0")
    chosen = int(logits.numpy().argmax()) if label is None else label
    (slope,) = paddle.grad(logits[chosen], kept[-1], allow_unused=True)
    if slope is None:
        raise UserError(f"--explain: what {type(model).__name__} classifies by is not its last map")
    features, slope = as_map(kept[-1][0], image), as_map(slope, image)
    # One weight a channel: the mean of its gradient over all places.
    heat = (slope.mean(axis=[2, 3], keepdim=True) * features).sum(axis=1)[0]
    return np.maximum(heat.numpy(), 0), logits.numpy()


def heat_over(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lays a heat map ``[H, W]`` on a picture ``uint8`` RGB ``[H, W, 3]``; its largest values are red."""
    share = heat / max(float(heat.max()), np.finfo(np.float32).tiny)
    colours = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    cover = COVER * np.sqrt(share)[:, :, None]
    return (pixels * (1 - cover) + colours * cover).astype(np.uint8)


def class_number(wanted: str, predictor: AnyPredictor) -> int | None:
    """Returns the number of the class that ``--explain`` names, None where it names none; refuses an unknown one."""
    if not wanted or wanted in (predictor.classes or ()):
        return predictor.classes.index(wanted) if wanted and predictor.classes else None
    if predictor.classes is None and wanted.isdecimal():
        return int(wanted)
    known = suggestion(wanted, predictor.classes or ())
    raise UserError(f"--explain: {predictor.model_name} has no class '{wanted}'{known}")


class Features:
    """Gathers features of the images that go through a network, in their order.

    They are what the last one of ``layers`` takes; without layers what the network gives. Of several maps the last one
    counts, and a map ``[N, C, h, w]`` is averaged over its places.
    """

    def __init__(self, network: nn.Layer, layers: Sequence[nn.Layer]) -> None:
        self._batches: list[np.ndarray] = []
        self._taken: Any = None
        for layer in layers:
            layer.register_forward_pre_hook(self._see)
        network.register_forward_post_hook(self._add)

    def _see(self, _layer: nn.Layer, inputs: Any) -> None:
        self._taken = inputs

    def _add(self, _network: nn.Layer, _inputs: Any, outputs: Any) -> None:
        maps = outputs if self._taken is None else self._taken
        features = (maps if isinstance(maps, paddle.Tensor) else maps[-1]).astype("float32")
        self._batches.append((features.mean(axis=[2, 3]) if features.ndim == 4 else features).numpy())

    def write(
        self, predictions: Predictions, predictor: AnyPredictor, embeddings: Path | None, neighbours: Path | None
    ) -> list[Path]:
        """Writes the features of the readable images, all that were predicted, and a sheet of nearest neighbours.

        The names of the predictions are paths of image files. The .npz file ``embeddings`` holds ``features``
        ``float32`` ``[N, C]``, ``files``, and ``labels`` where folders are called after classes, empty for other
        images; the same images give the same bytes. Returns the files that were written.
        """
        names = [prediction.name for prediction in predictions if prediction.error is None]
        if not names:
            return []
        features, labels = np.concatenate(self._batches), [true_class(name, predictor.classes) for name in names]
        if embeddings is not None:
            arrays = {"features": features, "files": np.array(names)}
            if any(labels):
                arrays["labels"] = np.array([label or "" for label in labels])
            with atomic_path(embeddings) as temporary:
                np.savez(temporary, **arrays)
        if neighbours is not None:
            sheet = _neighbour_sheet(features, names, labels, predictor)
            with atomic_path(neighbours) as temporary:
                sheet.save(temporary)
        written = [file for file in (embeddings, neighbours) if file is not None]
        record_outputs(written)
        return written


def nearest(features: np.ndarray, query: int, count: int) -> list[tuple[int, float]]:
    """Returns row ``query`` of ``[N, C]`` and the ``count`` most similar others, the best first, with their cosines."""
    units = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    cosines = units @ units[query]
    order = [index for index in np.argsort(-cosines, kind="stable").tolist() if index != query]
    return [(index, float(cosines[index])) for index in [query, *order[:count]]]


def _neighbour_sheet(
    features: np.ndarray, names: Sequence[str], labels: Sequence[str | None], predictor: AnyPredictor
) -> Image.Image:
    """Draws a row for each query, spread evenly over the images: the query, then its neighbours."""
    cards = []
    for query in np.unique(np.linspace(0, len(names) - 1, MOST_QUERIES).astype(int)).tolist():
        for index, cosine in nearest(features, query, NEIGHBOURS):
            pixels, enhance = read_image(names[index], predictor.value_range), getattr(predictor, "enhance", None)
            pixels = pixels if enhance is None else enhance(pixels)
            words = [word for word in ("query" if index == query else "", labels[index]) if word]
            label = drawable(": ".join(words) or "cosine")
            cards.append(Card(pixels, Path(names[index]).name, [label], [cosine]))
    title = f"{predictor.model_name}: the nearest of {len(names)} images, by cosine"
    return draw_sheet(cards, title, columns=1 + min(NEIGHBOURS, len(names) - 1))
