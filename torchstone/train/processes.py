"""Several processes, started by torchrun: rows are divided among them, gradients and counts added up.

Each goes through the same rounds and knows the whole of each: what one makes of its rows is handed to all. So every
count, statistic and metric is the whole batch's. Weights are in every process, or cut over them (torch's FSDP2). In
one process, each function here is the least that there is to do.
"""

from __future__ import annotations

import copy
import functools
import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchstone.terminal import UserError

P = ParamSpec("P")
T = TypeVar("T")
_alone = False  # in what one process does while the others wait


def world() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _alone else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world() > 1 else 0


def main_process() -> bool:
    """Whether it is the one that writes and prints."""
    return rank() == 0


# ------------------------------------------------------------------------------------------------ what they exchange


def gather(mine: T) -> list[T]:
    """What each process has, in their order."""
    if world() == 1:
        return [mine]
    file, every = io.BytesIO(), [b""] * world()
    torch.save(mine, file)
    dist.all_gather_object(every, file.getvalue())
    here = lambda storage, place: storage if place == "cpu" else storage.cuda()  # noqa: E731
    return [torch.load(io.BytesIO(each), map_location=here, weights_only=False) for each in every]


def any_of(true: bool) -> bool:
    """Whether it is so in any process."""
    return any(gather(true)) if world() > 1 else true


def wait() -> None:
    """For all others to come to the same place."""
    gather(None)


def once(function: Callable[P, T]) -> Callable[P, T]:
    """The function, run by the first process alone; its result, or its UserError, is everyone's."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        global _alone
        if world() == 1:
            return function(*args, **kwargs)
        found: Any = None
        if main_process():
            _alone = True
            try:
                found = function(*args, **kwargs)
            except UserError as e:
                found = e
            finally:
                _alone = False
        found = gather(found)[0]
        if isinstance(found, UserError):
            raise found
        return found

    return run


# ------------------------------------------------------------------------------------------------ rows are divided


def share(start: int, stop: int, size: int, unit: int = 1) -> list[slice]:
    """Slices of whole units, of at most ``size`` rows or one unit; where there are enough, some for every process."""
    size = unit * max(1, min(size // unit, math.ceil((stop - start) / unit / world())))
    return [slice(i, min(i + size, stop)) for i in range(start, stop, size)]


def turns(parts: Sequence[slice], in_step: bool) -> Iterator[tuple[slice, float]]:
    """This process's parts, of weight 1; ``in_step``, as many of every process, where need be one of weight 0."""
    for i in range(0, len(parts), world()):
        if i + rank() < len(parts):
            yield parts[i + rank()], 1.0
        elif in_step:
            yield parts[0], 0.0


def divided(parts: Sequence[slice], work: Callable[[slice], T], in_step: bool) -> list[T]:
    """``work`` of each part, done by one process; everyone gets all results, in the order of the parts."""
    done = [(work(rows), weight) for rows, weight in turns(parts, in_step)]
    every = gather([result for result, weight in done if weight])
    return [every[i % len(every)][i // len(every)] for i in range(len(parts))]


def add_gradients(weights: Iterable[Tensor], in_step: bool) -> None:
    """Each gradient becomes the sum over the processes; where weights are cut, FSDP2 has done it."""
    if world() == 1 or in_step:
        return
    weights = list(weights)
    somewhere = torch.tensor(gather([w.grad is not None for w in weights])).any(0)
    for weight, has in zip(weights, somewhere.tolist(), strict=True):
        if has:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            dist.all_reduce(weight.grad)


# ------------------------------------------------------------------------------------------------ weights are cut


def cut_weights(policies: Iterable[Any], device: str) -> None:
    """Every process keeps its share of each weight of the policies, and fetches a layer's when it is its turn."""
    from torch.distributed.fsdp import fully_shard

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nothing is written into it
    done: dict[int, Any] = {}  # a model that two policies share is cut once
    for policy in (one for one in policies if one is not None):
        if id(policy.model) in done:
            policy.uncut = done[id(policy.model)]
            continue
        memo: Any = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in policy.parameters()}
        policy.uncut = done[id(policy.model)] = (copy.deepcopy(policy, memo),)
        kinds = policy.model._no_split_modules or ()
        models = [policy.model] + ([policy.critic.model] if policy.critic else [])
        layers = [part for model in models for part in model.modules() if type(part).__name__ in kinds]
        heads = [policy.value_head] + ([policy.critic.model.score] if policy.critic else [])  # called by themselves
        for part in (*layers, *heads, *models):
            if part is not None:
                cut: Any = fully_shard(part.to(device), reshard_after_forward=True)
                cut.set_gradient_divide_factor(1.0)  # the sum over the processes, where FSDP2 takes the mean
                cut.set_force_sum_reduction_for_comms(True)  # gloo has no other


def full(x: Any) -> Any:
    """A tensor in one piece; every process must ask."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def cut_as(x: Tensor, weight: Any) -> Tensor:
    """A tensor of the weight's shape cut as the weight is; another as it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if x.shape != weight.shape or isinstance(x, DTensor) or not isinstance(weight, DTensor):
        return x
    return distribute_tensor(x, weight.device_mesh, weight.placements)


def whole(policy: Any) -> Any:
    """The policy itself; if its weights are cut, one with whole weights in the first process, None in the others."""
    if not policy.is_cut:
        return policy
    weights = {name: full(x).cpu() if main_process() else full(x)[:0] for name, x in policy.state_dict().items()}
    made = copy.deepcopy(policy.uncut[0]) if main_process() else None
    if made is not None:
        made.load_state_dict(weights, assign=True, strict=False)
        made.model.tie_weights()
    return made


# ------------------------------------------------------------------------------------------------ start and end


def join() -> None:
    """Meet the others. Raises UserError: the environment speaks of several, and torchrun did not start them."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count == "1" or dist.is_initialized():
        return
    if lacking := [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        start = "torchrun --nproc-per-node 2 -m torchstone train ..., or unset WORLD_SIZE for one process"
        raise UserError(f"WORLD_SIZE is {count}, and {lacking[0]} is not set: start several processes with {start}")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


@contextmanager
def peers(folder: Path) -> Iterator[None]:
    """While the others are needed. Raises UserError: one of them has ended."""
    try:
        yield
    except RuntimeError as e:
        if not isinstance(e, dist.DistError) and "gloo" not in str(e):
            raise
        again = f"torchrun ... -m torchstone train --resume {folder}, with as many processes or another number"
        raise UserError(f"another process has ended; what was saved before is whole. Go on with: {again}") from e


def together(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """A command in every process: the first prints, and an error is said by whoever meets it first."""
    join()
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    if rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        status = command(arguments)
        wait()
        return status
    except UserError as e:
        with suppress(RuntimeError):  # the store went with the process that kept it
            if store.add("torchstone error", 1) > 1:
                raise SystemExit(e.status) from None
        raise
    finally:
        dist.destroy_process_group()
