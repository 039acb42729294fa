"""Losses and gradients of one step, written to a file: alone, or of this process's half under Paddle's launcher.

Command: ``python tests/support/yolov10_step.py FOLDER``
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ppcls_ext.engine.environment import prepare_environment
from tests.support.yolov10 import make_batch, make_model


def main(folder: Path) -> None:
    """Writes ``step_<rank>_of_<processes>.npz``: each loss by its name, each gradient by that of its weight."""
    import paddle

    environment = prepare_environment("cpu", 0)
    model = make_model(norms_frozen=True)
    share = slice(environment.rank, None, environment.world_size)
    batch = {name: value[share] for name, value in make_batch().items()}
    trained = model if environment.world_size == 1 else paddle.DataParallel(model)
    losses = trained(batch)
    losses["loss"].backward()
    found = {name: value.numpy() for name, value in losses.items()}
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            found[f"gradient/{name}"] = parameter.grad.numpy()
    np.savez(folder / f"step_{environment.rank}_of_{environment.world_size}.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
