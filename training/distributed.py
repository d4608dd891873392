"""One process or many: the place of this process among those that `torchrun` started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from training.errors import RunError


@dataclass(frozen=True)
class Place:
    """A process among all, and the device that it trains on."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """Return this process's part of a batch of `total`; raise RunError where it does not divide."""
        if total % self.world_size:
            raise RunError(f"batch_size {total} does not divide among {self.world_size} processes")
        size = total // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)

    def agree(self, flag: bool) -> bool:
        """Return whether the flag is set in any process, so that all leave a loop at the same step."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(int(flag), device=self.device)
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags)


@contextmanager
def joined_processes() -> Iterator[Place]:
    """Join the process group that `torchrun` describes in the environment, if any."""
    world_size, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Place(device)
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Place(device, distributed.get_rank(), world_size)
    finally:
        distributed.destroy_process_group()
