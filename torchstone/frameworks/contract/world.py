"""Ranks of a cut batch in one process: each is a thread, and what they exchange by torch.distributed is exchanged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

PATIENCE = 60.0  # seconds that a rank waits for the others


class World:
    """``size`` ranks that run one at a time, in turn where they exchange something."""

    def __init__(self, size: int):
        self.size, self.slots = size, [None] * size
        self.barrier, self.turn, self.here = threading.Barrier(size), threading.Lock(), threading.local()

    @property
    def rank(self) -> int:
        """The rank that asks."""
        return getattr(self.here, "rank", 0)

    def exchange(self, x: Any) -> list[Any]:
        """What all ranks gave here, in their order."""
        self.slots[self.rank] = x
        self._wait()
        found = list(self.slots)
        self._wait()
        return found

    def _wait(self) -> None:
        self.turn.release()
        try:
            self.barrier.wait(PATIENCE)
        finally:
            self.turn.acquire()

    def run(self, work: Callable[[int], None]) -> None:
        """``work(rank)`` on every rank; the first error of a rank is raised."""
        errors: list[BaseException] = []

        def one(rank: int) -> None:
            self.here.rank = rank
            with self.turn:
                try:
                    work(rank)
                except threading.BrokenBarrierError as e:
                    errors.append(e)
                except BaseException as e:
                    errors.insert(0, e)
                    self.barrier.abort()

        with self._distributed():
            threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(self.size)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]

    @contextmanager
    def _distributed(self) -> Iterator[None]:
        """torch.distributed as these ranks would have it."""

        def all_reduce(tensor: Tensor, op: Any = None, *_: Any, **__: Any) -> None:
            found = torch.stack(self.exchange(tensor.detach().clone()))
            kinds: dict[str, Any] = {"AVG": torch.mean, "MAX": torch.amax, "MIN": torch.amin}
            tensor.copy_(kinds.get(str(op).rpartition(".")[2], torch.sum)(found, 0))

        def all_gather(tensors: list[Tensor], tensor: Tensor, *_: Any, **__: Any) -> None:
            for into, found in zip(tensors, self.exchange(tensor.detach().clone()), strict=True):
                into.copy_(found)

        names: dict[str, Any] = {
            "is_available": lambda: True, "is_initialized": lambda: True, "get_world_size": lambda *_: self.size,
            "get_rank": lambda *_: self.rank, "all_reduce": all_reduce, "all_gather": all_gather,
            "barrier": lambda *_: None,
        }  # fmt: skip
        with patch.multiple(torch.distributed, **names):
            yield
