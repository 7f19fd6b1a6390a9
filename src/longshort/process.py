"""The process that trains: how it is asked to stop, which of several it is, and where its randomness comes from."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

JOINED = itertools.count()  # groups of processes that this one has joined


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop (Ctrl-C, SIGTERM) and did so after a whole step. The message says how to go on.

    signum: the signal.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class Signals:
    """Turns Ctrl-C and SIGTERM into a wish that the loop grants between two steps; asked twice, it stops at once."""

    def __init__(self) -> None:
        self.signum, self.immediate = 0, False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for s in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(s) not in (signal.SIG_IGN, None):
                    self.before[s] = signal.signal(s, self.hear)
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self.before.items():
            signal.signal(s, handler)

    def hear(self, signum: int, _: FrameType | None) -> None:
        """What Python calls on a signal."""
        if self.immediate:
            raise Interrupted("", signum)
        if self.signum:
            raise KeyboardInterrupt("asked twice: stopped at once, nothing more was saved.")
        self.signum = signum

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, the first signal raises: what runs here leaves the state as it is."""
        if self.signum:
            raise Interrupted("", self.signum)
        self.immediate = True
        try:
            yield
        finally:
            self.immediate = False


def chief() -> bool:
    """Whether this process is the one that speaks and writes: the only one, or the first of those that torchrun launched."""
    return not _launched() or os.environ["RANK"] == "0"


def _launched() -> bool:
    return dist.is_available() and dist.is_torchelastic_launched()


@contextmanager
def processes(name: str) -> Iterator[tuple[int, int, torch.device]]:
    """Rank, number of processes, device; joins the others if torchrun has launched this process."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}.") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch {torch.__version__} finds no CUDA GPU here.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} was asked for, but this machine has {torch.cuda.device_count()} GPUs, from cuda:0 on.")
    launched, mine = _launched(), False
    if launched:
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        if mine := not dist.is_initialized():
            from torch.distributed.distributed_c10d import PrefixStore  # torch may have been built without
            from torch.distributed.rendezvous import rendezvous

            store, rank, size = next(rendezvous("env://"))  # it still holds the addresses of a former group
            store = PrefixStore(f"longshort {next(JOINED)}", store)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    try:
        yield (dist.get_rank(), dist.get_world_size(), device) if launched else (0, 1, device)
    finally:
        if mine:
            dist.destroy_process_group()


def sum_over_processes(tensors: list[Tensor]) -> None:
    """Each tensor becomes its sum over all processes."""
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        t.copy_(part.view_as(t))


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the caller's global generators as they were."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(
        [] if device.type == "cpu" else [device], device_type="cuda" if device.type == "cpu" else device.type
    ):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def mix(*numbers: int) -> int:
    """A 32-bit seed that is a pure function of whole numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(device: torch.device, *numbers: int) -> None:
    """Seed all global generators with a pure function of whole numbers."""
    seed = mix(*numbers)
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":  # torch.manual_seed would do both, and on a CPU format a stack trace each time
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
