"""One batch before reward functions: what each is handed, what it may give back, and what is said when it fails."""

from __future__ import annotations

import asyncio
import copy
import inspect
import math
import os
import traceback
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from torchstone.terminal import UserError, near

Rows = dict[str, list[Any]]  # prompts, completions, columns, and if there was a rollout completion_ids and cut_off
Scores = list[float | None]  # None: cannot be scored
GIVEN = ("prompts", "completions", "completion_ids", "cut_off", "trainer_state", "log_metric", "log_extra")
TAKEN = ("step", "prompt", "completion", "tokens", "reward", "rewards", "loss", "of", "kl")  # in completions.jsonl
LARGEST = 1e18  # its square still fits float32


@dataclass(frozen=True)
class State:
    """How far the run is: what ``trainer_state`` has."""

    global_step: int = 0  # rounds done
    max_steps: int = 0  # rounds of the run
    epoch: float = 0.0  # prompts seen, by prompts there are

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"trainer_state has global_step, max_steps and epoch, not {name!r}")


@dataclass(frozen=True)
class Reward:
    """A reward function, what it is called in the metrics, and where it stands."""

    name: str
    function: Callable[..., Any]
    label: str = "the reward function"
    file: str | None = None


@dataclass
class Logged:
    """What reward functions said beside rewards: numbers by name, and columns of one value a completion."""

    metrics: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    extra: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, other: Logged) -> None:
        """That of the rows that follow."""
        for name, values in other.metrics.items():
            self.metrics[name] += values
        for name, values in other.extra.items():
            self.extra.setdefault(name, []).extend(values)


def call(
    rewards: Sequence[Reward], rows: Rows, state: State | None, starts: Callable[[int], Any] = lambda i: None
) -> tuple[list[Scores], Logged]:
    """What each function gives to the completions, and what they logged; those that are ``async`` run together.

    Args:
        starts: called with a function's place before it is.

    Raises UserError: a function fails, or gives back something else than a number or None for each completion.
    """
    logged, begun = Logged(), []
    for i, reward in enumerate(rewards):
        starts(i)
        begun.append(attempt(reward, rows, state, logged))
    given = together(begun)
    return [scores(reward, rows, state, one) for reward, one in zip(rewards, given, strict=True)], logged


def attempt(reward: Reward, rows: Rows, state: State | None, logged: Logged) -> Any:
    """What the function gives back, or the exception that it raised."""
    handed = arguments(reward, rows, state, logged)
    try:
        with where_it_was():
            return reward.function(**handed)
    except (KeyboardInterrupt, UserError):  # a UserError is of one of ours, and says it all
        raise
    except BaseException as e:  # sys.exit, and what a judge may raise that is no Exception
        return e


@contextmanager
def where_it_was() -> Iterator[None]:
    """The working directory is afterwards what it was: judges change it, and a run's paths are relative to it."""
    home = os.getcwd()
    try:
        yield
    finally:
        os.chdir(home)


def together(given: list[Any]) -> list[Any]:
    """The same, each awaitable, or list of them, replaced by what it gives when all have been awaited at once."""

    async def result(one: Any) -> Any:
        try:
            return await one
        except (Exception, SystemExit) as e:
            return e

    async def results(awaited: list[Awaitable[Any]]) -> list[Any]:
        return await asyncio.gather(*map(result, awaited))

    async def list_of(awaited: list[Awaitable[Any]]) -> list[Any]:
        return list(await asyncio.gather(*awaited))

    lists = [isinstance(one, list) and bool(one) and all(map(inspect.isawaitable, one)) for one in given]
    given = [list_of(one) if is_list else one for one, is_list in zip(given, lists, strict=True)]
    places = [i for i, one in enumerate(given) if inspect.isawaitable(one)]
    found = finished(results([given[i] for i in places])) if places else []
    return [found[places.index(i)] if i in places else one for i, one in enumerate(given)]


def finished(work: Any) -> Any:
    """Run a coroutine to its end; if it is interrupted, cancel all that it began."""
    loop = one_loop()
    try:
        return loop.run_until_complete(work)
    except BaseException:
        for task in (tasks := asyncio.all_tasks(loop)):
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        raise


@cache
def one_loop() -> asyncio.AbstractEventLoop:
    """The same for all rounds: clients that a reward keeps open belong to the loop that they began in."""
    return asyncio.new_event_loop()


def arguments(reward: Reward, rows: Rows, state: State | None, logged: Logged) -> dict[str, Any]:
    """Of all there is, what the function's signature takes; a copy, so that nothing that it does to it matters."""
    every: dict[str, Any] = dict(rows)
    every |= {} if state is None else {"trainer_state": state}
    every["log_metric"] = partial(log_metric, logged)
    every["log_extra"] = partial(log_extra, logged, len(rows["prompts"]))
    wanted = parameters(reward.function)
    if wanted is not None:
        kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        needed = [p.name for p in wanted if p.default is p.empty and p.kind in kinds]
        if lacking := [name for name in needed if name not in every]:
            has = ", ".join(name for name in rows if name not in GIVEN) or "only prompts"
            what = f"{lacking[0]!r}{near(lacking[0], every)}"
            raise UserError(f"{reward.label} wants {what}, and the data has no such column: it has {has}")
        if not any(p.kind is p.VAR_KEYWORD for p in wanted):
            every = {name: value for name, value in every.items() if name in {p.name for p in wanted}}
    return {name: copy.deepcopy(value) if name in rows else value for name, value in every.items()}


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Those of a function; None where Python does not know them."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def log_metric(logged: Logged, name: str, value: float) -> None:
    """``log_metric("name", 0.5)``: the round's metric of that name is the mean of its values."""
    if not math.isfinite(float(value)):
        raise ValueError(f"log_metric({name!r}, {value!r}): not a finite number")
    logged.metrics[str(name)].append(float(value))


def log_extra(logged: Logged, rows: int, column: str, values: Sequence[Any]) -> None:
    """``log_extra("name", [...])``, a value for each completion: a key of held-out samples in completions.jsonl."""
    if column in TAKEN:
        raise ValueError(f"log_extra({column!r}): completions.jsonl has a {column} already; choose another name")
    if len(values) != rows:
        raise ValueError(f"log_extra({column!r}): {len(values)} values for {rows} completions")
    logged.extra[str(column)] = [v if isinstance(v, int | float | None) else str(v) for v in values]


def scores(reward: Reward, rows: Rows, state: State | None, given: Any) -> Scores:
    """What a function gave back as numbers. Raises UserError: it failed, or gave something else."""
    n = len(rows["prompts"])
    if isinstance(given, BaseException):
        blame(reward, rows, state, given)
    if not hasattr(given, "__len__") or isinstance(given, str | bytes | dict | set) or len(given) != n:
        sized = hasattr(given, "__len__") and not isinstance(given, str | bytes | dict | set)
        got = f"{len(given)} rewards" if sized else shown(given)
        raise UserError(f"{reward.label} returned {got} for {n} completions{at(rows, 0)}")
    return [score(reward, one, rows, i) for i, one in enumerate(given)]


def score(reward: Reward, given: Any, rows: Rows, i: int) -> float | None:
    """One completion's reward."""
    if given is None:
        return None
    given = given.detach() if hasattr(given, "detach") else given
    try:
        number = math.nan if isinstance(given, str | bytes) else float(given)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: torch's, of several numbers
        number = math.nan
    if not math.isfinite(number):
        hint = "; None says that a completion cannot be scored" if number != number else ""
        raise UserError(f"{reward.label} returned {shown(given)}, not a finite number{at(rows, i)}{hint}")
    if abs(number) > LARGEST:
        raise UserError(f"{reward.label} returned {number:g}: above {LARGEST:g}, float32 overflows{at(rows, i)}")
    return number


def blame(reward: Reward, rows: Rows, state: State | None, error: BaseException) -> None:
    """Raise a UserError with the completion on which the function fails, found by judging each alone."""
    n = len(rows["prompts"])
    for i in range(n) if n > 1 else ():
        row = {name: values[i : i + 1] for name, values in rows.items()}
        (again,) = together([attempt(reward, row, state, Logged())])
        if isinstance(again, BaseException):
            blame(reward, row, state, again)
    what = (
        f"called sys.exit({shown(error.code)})" if isinstance(error, SystemExit) else f"raised {type(error).__name__}"
    )
    text = shown(error, str)[:500]
    said = f": {text}" if text and not isinstance(error, SystemExit) else ""
    where = at(rows, 0) if n == 1 else " on a batch, on none of it alone"
    raise UserError(f"{reward.label} {what}{said}{line_of(error, reward.file)}{where}") from error


def line_of(error: BaseException, file: str | None) -> str:
    """The innermost line of the user's files where an exception was: `` (reward.py, line 7: return 1 / n)``."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    home = str(Path(file).parent) if file else ""
    own = [f for f in frames if home and f.filename.startswith(home) and "site-packages" not in f.filename]
    if not (frames := own or frames):
        return ""
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line})"


def shown(x: Any, how: Callable[[Any], str] = repr) -> str:
    """The beginning of a value as text, in one line; its type if it cannot be shown."""
    try:
        return " ".join(how(x).split())[:200]
    except Exception:
        return f"<{type(x).__name__}>"


def at(rows: Rows, i: int) -> str:
    """A prompt and its completion in a message."""
    prompt, completion = (shown(rows[name][i]) for name in ("prompts", "completions"))
    return f", for prompt {prompt} and completion {completion}"
