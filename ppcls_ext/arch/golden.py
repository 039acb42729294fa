"""Golden numbers of our models: what must not change by accident.

After a change that is meant to alter a network, write them anew and look at the difference before committing it:

    python -m ppcls_ext.arch.golden tests/golden/models.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ppcls_ext.arch.catalog import list_models
from ppcls_ext.arch.counting import count_network
from ppcls_ext.arch.registry import build_model
from ppcls_ext.arch.seeded import seed_weights, seeded_array
from ppcls_ext.utils.files import write_json

IMAGE_SHAPE = (2, 3, 64, 64)
LOGITS = 10
GOLDEN_SIZE = 224


def golden_numbers(name: str) -> dict[str, Any]:
    """Returns the numbers of one model with 1000 classes.

    ``parameters`` counts the trainable ones, ``flops`` is ``paddle.flops`` at 224 x 224 (multiply-adds), ``logits``
    are the first of each of two images of 64 x 64 in evaluation, for weights and images seeded by key.
    """
    import paddle

    model = build_model(name)
    model.eval()
    seed_weights(model)
    with paddle.no_grad():
        logits = model(paddle.to_tensor(seeded_array("images", IMAGE_SHAPE)))
    count = count_network(model, GOLDEN_SIZE)
    return {
        "parameters": count.parameters,
        "flops": count.flops,
        "logits": [[round(value, 6) for value in row[:LOGITS]] for row in logits.tolist()],
    }


def main() -> None:
    """Writes the golden numbers of all models to a JSON file."""
    parser = argparse.ArgumentParser(description="Write the golden numbers of our models.")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    write_json(arguments.file, {name: golden_numbers(name) for name in list_models()})


if __name__ == "__main__":
    main()
