"""What a results file says of the run of a classifier besides what its log and its report hold."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from classification.build import build_dataset, build_evaluation_dataset, build_network
from classification.config import DataSettings, load_config
from classification.data.datasets import SPLIT_NAMES, ImageDataset
from classification.metrics import EVALUATION_VERSION
from ppcls_ext.arch.flops import count_flops, count_parameters
from ppcls_ext.utils.names import meant_path
from ppcls_ext.utils.results import checksum


def facts_of_run(config_file: Path) -> dict[str, Any]:
    """Returns the keys of `ppcls_ext.utils.results.Result` that the configuration of a run and its data tell.

    Raises:
        UserError: the configuration is wrong, or its data are not there.
    """
    config = load_config(config_file)
    assert config.train is not None and config.eval is not None, "the run was trained and evaluated"
    training = build_dataset(config, config.train)
    evaluation = build_evaluation_dataset(config, training)
    model = build_network(config)
    model.eval()
    return {
        "kind": "classifier", "batch_size": config.train.sampler.batch_size, "input_size": config.run.image_shape[1:],
        "evaluation": part_of(config.eval, evaluation), "training": part_of(config.train, training),
        "evaluation_version": EVALUATION_VERSION, "parameters": count_parameters(model),
        "multiply_adds": count_flops(model, [1, *config.run.image_shape]), "weights": "EMA" if config.ema else "plain",
    }  # fmt: skip


def part_of(settings: DataSettings, dataset: ImageDataset) -> dict[str, Any]:
    """Returns name, count and checksum of a data set: of the labels, and of names of files or of pictures in memory."""
    name, names = settings.dataset, range(len(dataset))
    if root := settings.dataset_arguments.get("image_root"):
        folder = Path(os.path.abspath(meant_path(root)))
        name = (folder.parent if folder.name.lower() in SPLIT_NAMES else folder).name
        files = [os.path.relpath(dataset.name_of(index), folder) for index in names]
    else:
        files = [hashlib.sha256(dataset.load(index)[0].tobytes()).hexdigest() for index in names]
    lines = [f"{file} {label}" for file, label in zip(files, dataset.labels.tolist(), strict=True)]
    return {"name": name, "images": len(dataset), "sha256": checksum(lines)}
