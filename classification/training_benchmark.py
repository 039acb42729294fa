"""Training steps of classifiers in several engines: this project's, Paddle's kernels, PaddleClas's engine, PyTorch.

Each ``open_...`` is called in a process of its own (`ppcls_ext.utils.workers.Subject`) and returns what does one step
(forward, loss, backward, AdamW) on random images, and the FLOPs of that step.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 100
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05
Opened = tuple[Callable[[], object], dict[str, Any]]


def step_flops(name: str, size: int, batch: int) -> float:
    """Returns the FLOPs of a step: forward, and twice as much backward, two for each multiply-add."""
    from ppcls_ext import build_model
    from ppcls_ext.arch.flops import count_flops

    return 3 * 2.0 * batch * count_flops(build_model(name, class_num=CLASSES), [1, 3, size, size])


def random_batch(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [N, 3, H, W] and labels [N]."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal((batch, 3, size, size), dtype=np.float32)
    return images, generator.integers(0, CLASSES, batch)


def open_paddle(name: str, size: int, batch: int, kernels: str) -> Opened:
    """A step of this project's network in eager mode; ``kernels``: ``auto`` (the fast ones) or ``paddle``."""
    import paddle

    from ppcls_ext import build_model
    from ppcls_ext.deploy.benchmark import training_step

    paddle.seed(0)
    model = build_model(name, class_num=CLASSES)
    images, labels = (paddle.to_tensor(array) for array in random_batch(size, batch))
    step, used = training_step(
        model, lambda: paddle.nn.functional.cross_entropy(model(images), labels), kernels, LEARNING_RATE, WEIGHT_DECAY
    )
    return step, {"flops": step_flops(name, size, batch), "kernels": used}


def open_paddleclas(name: str, size: int, batch: int, checkout: str) -> Opened:
    """A step of PaddleClas's own engine, of the checkout with this root, with our network registered in it."""
    from PIL import Image

    from ppcls_ext import plugin, register

    temporary = tempfile.TemporaryDirectory(prefix="training-benchmark-")
    folder = Path(temporary.name)
    for index in range(batch):
        Image.new("RGB", (size, size)).save(folder / f"{index}.png")
    (folder / "list.txt").write_text("".join(f"{index}.png 0\n" for index in range(batch)), encoding="utf-8")
    dataset = {
        "name": "ImageNetDataset", "image_root": str(folder), "cls_label_path": str(folder / "list.txt"),
        "transform_ops": [{"DecodeImage": {"to_rgb": True, "channel_first": False}}],
    }  # fmt: skip
    config = {
        "Global": {
            "checkpoints": None, "pretrained_model": None, "output_dir": str(folder), "device": "cpu", "epochs": 1,
            "save_interval": 1, "eval_during_train": False, "print_batch_step": 1000, "use_visualdl": False, "seed": 0,
            "image_shape": [3, size, size],
        },
        "Arch": {"name": name, "class_num": CLASSES},
        "Loss": {"Train": [{"CELoss": {"weight": 1.0}}]},
        "Optimizer": {
            "name": "AdamW", "weight_decay": WEIGHT_DECAY, "lr": {"name": "Constant", "learning_rate": LEARNING_RATE}
        },
        "DataLoader": {"Train": {
            "dataset": dataset,
            "sampler": {"name": "DistributedBatchSampler", "batch_size": batch, "drop_last": False, "shuffle": False},
            "loader": {"num_workers": 0, "use_shared_memory": False},
        }},
        "profiler_options": None,
    }  # fmt: skip
    engine = plugin.checkout_engine(checkout, config, register)
    temporary.cleanup()  # the engine is fed by hand
    import paddle

    images, labels = (paddle.to_tensor(array) for array in random_batch(size, batch))
    engine.train_dataloader_iter = iter(lambda: [images, labels], None)
    engine.iter_per_epoch = 1
    engine.model.train()
    steps = itertools.count(1)

    def step() -> None:
        engine.train_epoch_func(engine, next(steps), 10**9)

    return step, {"flops": step_flops(name, size, batch)}


def open_torch(name: str, size: int, batch: int) -> Opened:
    """A step of ``EConvNeXt_mini`` or ``ConvNeXtV1_tiny`` written with torch.nn (requirements-torch.txt)."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    model = _torch_networks()[name](CLASSES)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    images, labels = (torch.from_numpy(array) for array in random_batch(size, batch))

    def step() -> float:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step, {"flops": step_flops(name, size, batch), "torch": torch.__version__}


def _torch_networks() -> dict[str, Any]:
    """Returns constructors of the two networks in torch.nn; both take the number of classes."""
    from torch import concat, nn, ones

    def conv_bn_act(inputs: int, outputs: int, side: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, side, side), nn.BatchNorm2d(outputs), nn.GELU())

    class EffectiveSE(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(channels, channels, 1)

        def forward(self, x: Any) -> Any:
            return x * nn.functional.hardsigmoid(self.conv(nn.functional.adaptive_avg_pool2d(x, 1)))

    class Residual(nn.Sequential):
        def forward(self, x: Any) -> Any:
            return x + super().forward(x)

    def block(channels: int) -> nn.Module:
        return Residual(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.BatchNorm2d(channels),
            nn.Conv2d(channels, 4 * channels, 1), nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1), nn.BatchNorm2d(channels), EffectiveSE(channels),
        )  # fmt: skip

    class CSPStage(nn.Module):
        def __init__(self, inputs: int, outputs: int, depth: int, stride: int) -> None:
            super().__init__()
            middle = (inputs + outputs) // 2
            half = middle // 2
            self.downsample = conv_bn_act(inputs, middle, 2) if stride == 2 else nn.Identity()
            self.shortcut, self.entry = conv_bn_act(middle, half, 1), conv_bn_act(middle, half, 1)
            self.blocks = nn.Sequential(*(block(half) for _ in range(depth)))
            self.attention, self.merge = EffectiveSE(middle), conv_bn_act(middle, outputs, 1)

        def forward(self, x: Any) -> Any:
            x = self.downsample(x)
            x = concat([self.shortcut(x), self.blocks(self.entry(x))], 1)
            return self.merge(self.attention(x))

    def mini(classes: int) -> nn.Module:
        dims = (48, 96, 192, 384, 768)
        stages = (CSPStage(dims[i], dims[i + 1], depth, 2 if i else 1) for i, depth in enumerate((3, 3, 9, 3)))
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(768), nn.Linear(768, classes))
        return nn.Sequential(conv_bn_act(3, 72, 4), *stages, *head)

    class ChannelNorm(nn.LayerNorm):
        def forward(self, x: Any) -> Any:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class LayerScale(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(1e-6 * ones(channels))

        def forward(self, x: Any) -> Any:
            return x * self.weight

    class ConvNeXtBlock(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
            self.branch = nn.Sequential(
                nn.LayerNorm(channels, 1e-6), nn.Linear(channels, 4 * channels), nn.GELU(),
                nn.Linear(4 * channels, channels), LayerScale(channels),
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            return x + self.branch(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def tiny(classes: int) -> nn.Module:
        dims, layers = (96, 192, 384, 768), [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96, 1e-6)]
        for i, depth in enumerate((3, 3, 9, 3)):
            if i:
                layers += [ChannelNorm(dims[i - 1], 1e-6), nn.Conv2d(dims[i - 1], dims[i], 2, 2)]
            layers += [ConvNeXtBlock(dims[i]) for _ in range(depth)]
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(768, 1e-6), nn.Linear(768, classes))
        return nn.Sequential(*layers, *head)

    return {"EConvNeXt_mini": mini, "ConvNeXtV1_tiny": tiny}


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None

