"""Benchmarks that need detection: loading of training data, exports with random weights, and training steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from detection.configuration import DetectionConfig


def export_detector(config_file: str, size: int, format_name: str, precision: str, folder: Path) -> dict[str, int]:
    """Exports the detector of a configuration with random weights, PP-YOLOE with its suppression inside.

    An `Exporter` of ``ppcls_ext.deploy.benchmark``.

    Args:
        config_file: its configuration.
        size: side of the input in pixels.
        format_name, precision: keys of ``FORMATS`` and ``PRECISIONS``.
        folder: is replaced by the export.

    Returns:
        ``parameters`` (trainable) and ``multiply_adds`` of one image, up to the raw outputs.
    """
    import paddle

    from detection.configuration import load_config
    from detection.counting import count_multiply_adds
    from detection.toolkit import build_model
    from detection.trained import TrainedDetector
    from ppcls_ext.arch.flops import count_parameters

    paddle.seed(0)
    config = load_config(config_file, [f"image_size={size}"])
    detector = TrainedDetector(config, build_model(config, pretrained=False), None)
    detector.model.eval()
    detector.export(folder, formats=[format_name], precisions=[precision])
    return {
        "parameters": count_parameters(detector.model),
        "multiply_adds": count_multiply_adds(detector.model, size),
    }


def measure_loading(
    config: DetectionConfig, rounds: int = 5, images: int = 256, workers: Sequence[int] = (0, 1, 2)
) -> dict[str, Any]:
    """Measures passes over the first training images of an epoch, in interleaved rounds with each number of workers.

    The batches are those of training: read, decoded, augmented, collated, copied into tensors. Each pass sees the same
    samples; the clock starts when the first batch of a pass has come, so that workers are awake.

    Args:
        config: names the data (``TrainDataset``, ``TrainReader``).
        rounds, images: passes with each number of workers, and images of a pass, rounded up to whole batches.
        workers: numbers of worker processes; 0 loads in a thread.

    Returns:
        ``config``, ``data`` (annotation file), ``batch_size``, ``images`` of a pass that were timed, ``rounds``, and
        ``images_per_second`` by number of workers: ``median`` and ``best``.

    Raises:
        UserError: the data are missing, or too few for two batches.
    """
    from detection.configuration import open_part
    from detection.loaders import training_loader
    from detection.task import open_environment
    from detection.toolkit import workspace

    annotations = open_part(config, "Train").path
    environment = open_environment(config)
    rates: dict[int, list[float]] = {number: [] for number in workers}
    loaders = {}
    with workspace(config):
        try:
            for number in workers:
                config.data["worker_num"] = number
                loaders[number] = training_loader(config, environment)
            sampler = loaders[workers[0]].sampler
            batches = min(len(sampler), -(-images // sampler.batch_size) + 1)
            if batches < 2:
                raise UserError(f"{annotations}: too few images for two batches of {sampler.batch_size}")
            for turn in range(rounds):
                for number, loader in loaders.items():
                    loader.sampler.set_position(turn)
                    loaded, start = 0, 0.0
                    for count, batch in enumerate(loader, start=1):
                        if count == 1:
                            start = time.perf_counter()
                        else:
                            loaded += len(batch["image"])
                        if count == batches:
                            break
                    rates[number].append(loaded / (time.perf_counter() - start))
        finally:
            for loader in loaders.values():
                loader.close()
    return {
        "config": str(config.path),
        "data": str(annotations),
        "batch_size": sampler.batch_size,
        "images": min(batches * sampler.batch_size, sampler.used) - sampler.batch_size,
        "rounds": rounds,
        "images_per_second": {
            number: {"median": float(np.median(values)), "best": max(values)} for number, values in rates.items()
        },
    }


def open_training_step(config_file: str, size: int, batch: int, kernels: str) -> tuple[Callable[[], object], dict]:
    """Returns a `training_step` of a configuration's detector on random frames with three boxes each, and its FLOPs."""
    import paddle

    from detection.configuration import load_config
    from detection.counting import count_multiply_adds
    from detection.toolkit import build_model
    from ppcls_ext.deploy.benchmark import training_step

    paddle.seed(0)
    config = load_config(config_file)
    flops = 6.0 * batch * count_multiply_adds(build_model(config, pretrained=False), size)
    model = build_model(config, pretrained=False)
    generator, boxes = np.random.default_rng(0), 3
    corners = generator.uniform(0, 0.6 * size, (batch, boxes, 2))
    sides = generator.uniform(0.1 * size, 0.4 * size, (batch, boxes, 2))
    frames = {
        "image": generator.standard_normal((batch, 3, size, size)).astype(np.float32),
        "gt_bbox": np.concatenate([corners, corners + sides], axis=2).astype(np.float32),
        "gt_class": generator.integers(0, config.data["num_classes"], (batch, boxes, 1)),
        "pad_gt_mask": np.ones((batch, boxes, 1), np.float32),
        "gt_score": np.ones((batch, boxes, 1), np.float32),
        "im_id": np.zeros((batch, 1), np.int64),
        "im_shape": np.full((batch, 2), size, np.float32),
        "scale_factor": np.ones((batch, 2), np.float32),
    }
    inputs = {name: paddle.to_tensor(values) for name, values in frames.items()}
    step, used = training_step(model, lambda: model({**inputs, "epoch_id": 0})["loss"], kernels, 2e-4, 5e-4)
    return step, {"flops": flops, "kernels": used}
