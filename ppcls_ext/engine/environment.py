"""The process that trains: its device, rank and seeds, all-reduce over the ranks, and what Ctrl-C does to it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import random
import signal
from types import FrameType
from typing import Any

import numpy as np
import paddle

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.machine import rank_from_environment

logger = logging.getLogger(__name__)

# Optimizer steps between two all-reduces of the stop flag: a stop comes soon, and it costs next to nothing.
STOP_FLAG_INTERVAL = 10


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
    if wanted == "gpu":
        if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0:
            return f"gpu:{paddle.distributed.ParallelEnv().device_id}"
        reason = "no GPU was found" if paddle.is_compiled_with_cuda() else "Paddle was built without GPU support"
    elif wanted in paddle.device.get_all_custom_device_type():
        return wanted
    else:
        reason = f"Paddle knows no device '{wanted}'"
    logger.info("%s is '%s', but %s: running on the CPU", key, wanted, reason)
    return "cpu"


def prepare_environment(device: str, seed: int | None, key: str = "Global.device") -> Environment:
    """Chooses the device, joins the other processes if there are any, and seeds everything (0 where there is no seed).

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

    A classifier calls this before each batch with a seed derived from (seed, rank, epoch, batch); a detector so seeds
    Paddle alone, for its loader seeds the others. So all randomness of a batch, such as which paths are dropped, is a
    function of its position, and a resumed run draws the same numbers although no checkpoint holds the state of a
    generator.
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


def check_same_start(position: tuple[int, int, int], model: Any, environment: Environment, folder_key: str) -> None:
    """Checks that all processes begin at the same place with the same weights, as copies of one run must.

    They do not where machines share no disk and ``--resume auto`` finds checkpoints on the first one only. The position
    is finished epochs, batches of the next one, optimizer steps; ``folder_key`` names the folder to share.

    Raises:
        UserError: a process differs; all of them raise it.
    """
    if environment.world_size == 1:
        return
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.astype("float32").numpy().tobytes())
    # 48 bits are exact in the float64 that the processes add up.
    start = np.array([*position, int.from_bytes(digest.digest()[:6], "little")]).astype(np.float64)
    total = sum_over_ranks(start, environment.world_size)
    differs = float(np.any(total != start * environment.world_size))
    if sum_over_ranks(np.array([differs]), environment.world_size)[0]:
        raise UserError(
            f"process {environment.rank} stands at epoch {position[0]}, batch {position[1]}; others stand "
            f"elsewhere or have other weights: every machine needs the same checkpoints, so share {folder_key}"
        )


class InterruptWatch:
    """While open, the first SIGINT or SIGTERM only sets a flag; a second SIGINT stops at once.

    With several processes the flag is all-reduced now and then, so that all stop after the same update.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, world_size: int) -> None:
        self._world_size, self._requested = world_size, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> InterruptWatch:
        for number in self.SIGNALS:
            # Only the main thread may set handlers; elsewhere the surrounding program decides.
            with contextlib.suppress(ValueError):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._requested and rank_from_environment()[0] == 0:
            # The handler may run in the middle of a log line, whose stream refuses a second writer.
            line = "\nfinishing what is under way, then saving; Ctrl-C again stops at once, without saving\n"
            os.write(2, line.encode())
        self._requested = True

    def stop_after(self, update: int) -> bool:
        """Tells whether to stop after optimizer step ``update``; all processes get the same answer."""
        if self._world_size == 1:
            return self._requested
        if update % STOP_FLAG_INTERVAL:
            return False
        return bool(sum_over_ranks(np.array([float(self._requested)]), self._world_size)[0])
