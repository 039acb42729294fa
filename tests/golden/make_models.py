"""Golden numbers of our models: what must not change by accident.

After a change that is meant to alter a network, write them anew and look at the difference before committing it:

    python -m tests.golden.make_models tests/golden/models.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_ext.arch.flops import count_network
from ppcls_ext.arch.registry import build_model, list_models
from ppcls_ext.utils.files import write_json
from tests.support.seeded import seed_weights, seeded_array

if TYPE_CHECKING:
    from paddle import nn

IMAGE_SHAPE = (8, 3, 64, 64)
LOGIT_ROWS, LOGITS = 2, 10
GOLDEN_SIZE = 224


def golden_numbers(name: str) -> dict[str, Any]:
    """Returns the numbers of one model with 1000 classes.

    ``parameters`` counts the trainable ones, ``flops`` is ``paddle.flops`` at 224 x 224 (multiply-adds), ``logits``
    are the first of the first two images of `golden_images` by the network of `settled_model`.
    """
    model = settled_model(name)
    logits = logits_of_images(model)[:LOGIT_ROWS, :LOGITS]
    count = count_network(model, GOLDEN_SIZE)
    return {
        "parameters": count.parameters,
        "flops": count.flops,
        "logits": [[round(float(value), 5) for value in row] for row in logits],
    }


def golden_images() -> np.ndarray:
    """Returns the pictures that the golden logits belong to, ``[8, 3, 64, 64]``."""
    return seeded_array("images", IMAGE_SHAPE)


def settled_model(name: str) -> nn.Layer:
    """Builds a model with weights seeded by key whose logits of `golden_images` amplify no rounding.

    Its batch norms hold the statistics of these pictures, so that the activations of 27 residual blocks stay in scale,
    and its classifier gives logits with standard deviation one. It is in evaluation mode.
    """
    import paddle
    from paddle import nn

    model = build_model(name)
    seed_weights(model)
    images = paddle.to_tensor(golden_images())
    norms = [layer for layer in model.sublayers() if isinstance(layer, nn.BatchNorm1D | nn.BatchNorm2D)]
    momenta = [layer._momentum for layer in norms]
    for layer in norms:
        layer._momentum = 0.0  # the running statistics become those of the batch
    model.train()
    with paddle.no_grad():
        model(images)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer._momentum = momentum
    model.eval()
    scale = float(logits_of_images(model).std())
    for parameter in (model.head.weight, model.head.bias):
        parameter.set_value(parameter / scale)
    return model


def logits_of_images(model: nn.Layer, precision: str = "float32") -> np.ndarray:
    """Returns the logits ``[8, 1000]`` of `golden_images`; afterwards the model has the given precision."""
    import paddle

    model.to(dtype=precision)
    with paddle.no_grad():
        return model(paddle.to_tensor(golden_images().astype(precision))).numpy()


def main() -> None:
    """Writes the golden numbers of all models to a JSON file."""
    parser = argparse.ArgumentParser(description="Write the golden numbers of our models.")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    write_json(arguments.file, {name: golden_numbers(name) for name in list_models()})


if __name__ == "__main__":
    main()
