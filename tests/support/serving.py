"""Exports to serve: a classifier of colours and a small detector; and pictures to send."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

# A name that would do harm, were it written into a page as it is.
COLOURS = ["red", "green", "blue", "<img src=x onerror=alert(1)>"]


def export_colours(folder: Path) -> Path:
    """Exports a classifier that names the strongest colour of a picture; returns ``folder``."""
    import paddle
    from paddle import nn

    from ppcls_ext.deploy.export import export_classifier

    model = nn.Sequential(nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(3, 4))
    weight = np.concatenate([4 * np.eye(3), np.ones([3, 1])], axis=1).astype(np.float32)
    model[2].weight.set_value(weight)
    model[2].bias.set_value(np.zeros(4, np.float32))
    paddle.seed(0)
    export_classifier(
        model,
        folder,
        model_name="Colours",
        class_num=4,
        image_shape=[3, 32, 32],
        preprocess=[{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}],
        topk=3,
        classes=COLOURS,
    )
    return folder


def export_tiny_detector(folder: Path) -> Path:
    """Exports a detector with random weights that finds something; returns the export."""
    import paddle

    from detection.configuration import load_config
    from detection.exporting import export_detector
    from detection.toolkit import build_model
    from ppcls_ext.runtime.description import Thresholds
    from tests.support.detectors import CLASSES, draw_frames, make_lively, tiny_config

    folder.mkdir(parents=True, exist_ok=True)
    config = load_config(tiny_config(folder))
    paddle.seed(0)
    model = build_model(config)
    make_lively(model)
    files = draw_frames(folder / "frames", [(100, 80), (200, 120)])
    export_detector(
        model,
        folder / "export",
        model_name="Tiny",
        class_num=len(CLASSES),
        classes=CLASSES,
        preprocess=config.data["TestReader"]["sample_transforms"],
        nms=True,
        images={file.name: np.asarray(Image.open(file)) for file in files},
        thresholds=Thresholds(0.3, [0.2, None, 0.12], len(files)),
    )
    return folder / "export"


def picture(colour: tuple[int, int, int], kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    """Returns an encoded picture of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()
