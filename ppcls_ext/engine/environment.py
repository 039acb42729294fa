"""The process that trains: its device, its rank, its randomness."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import random
from typing import Any

import numpy as np
import paddle

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.machine import rank_from_environment

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Environment:
    """Where this process runs.

    Attributes:
        device: Paddle's name of the device, ``cpu`` or ``gpu:0``.
        rank: number of this process, 0 for the one that writes files and prints.
        world_size: number of processes.
        seed: the seed of the run; all ranks share it.
    """

    device: str
    rank: int
    world_size: int
    seed: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def on_gpu(self) -> bool:
        """Whether mixed precision, synchronised batch norm and pinned memory make sense."""
        return self.device.startswith("gpu")


def choose_device(wanted: str, key: str = "Global.device") -> str:
    """Returns the device to use; says so in one line where it is not the one that was asked for by ``key``."""
    if wanted == "cpu":
        return "cpu"
    if wanted == "gpu" and paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0:
        return f"gpu:{paddle.distributed.ParallelEnv().device_id}"
    if wanted not in ("gpu", "cpu") and wanted in paddle.device.get_all_custom_device_type():
        return wanted
    reason = "Paddle was built without GPU support" if wanted == "gpu" else f"Paddle knows no device '{wanted}'"
    if wanted == "gpu" and paddle.is_compiled_with_cuda():
        reason = "no GPU was found"
    logger.info("%s is '%s', but %s: running on the CPU", key, wanted, reason)
    return "cpu"


def prepare_environment(device: str, seed: int | None, key: str = "Global.device") -> Environment:
    """Chooses the device, joins the other processes if there are any, and seeds everything.

    Args:
        device: ``gpu``, ``cpu`` or a custom device of Paddle.
        seed: the run's seed; 0 if ``None``.
        key: the configuration's key of the device, for messages.

    Raises:
        UserError: the processes cannot find each other.
    """
    chosen = choose_device(device, key)
    paddle.set_device(chosen)
    rank, world_size = rank_from_environment()
    if world_size > 1:
        try:
            paddle.distributed.init_parallel_env()
        except (RuntimeError, ValueError) as error:
            raise UserError(f"rank {rank} of {world_size} cannot join the other processes: {error}") from error
    environment = Environment(chosen, rank, world_size, 0 if seed is None else seed)
    seed_everything(derive_seed(environment.seed, "start", rank))
    return environment


def derive_seed(*parts: Any) -> int:
    """Returns a 31-bit seed that depends on all ``parts`` and on nothing else (not on the process or the platform)."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") & 0x7FFFFFFF


def seed_everything(seed: int) -> None:
    """Seeds Paddle, NumPy and Python's ``random``.

    The trainer calls this before each batch with a seed derived from (seed, rank, epoch, batch). So all randomness of a
    batch, such as which paths are dropped, is a function of its position, and a resumed run draws the same numbers.
    """
    paddle.seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def broadcast_buffers(model: paddle.nn.Layer, world_size: int) -> None:
    """Gives every rank the running statistics of rank 0, the ones that checkpoints hold."""
    if world_size > 1:
        for buffer in model.buffers():
            paddle.distributed.broadcast(buffer, src=0)


def sum_over_ranks(values: np.ndarray, world_size: int) -> np.ndarray:
    """Returns the sum of ``values`` (float64, any shape) over all ranks."""
    if world_size == 1:
        return values
    total = paddle.to_tensor(values, dtype="float64")
    paddle.distributed.all_reduce(total)
    return total.numpy()


def barrier(world_size: int) -> None:
    """Waits until every rank is here."""
    if world_size > 1:
        paddle.distributed.barrier()
