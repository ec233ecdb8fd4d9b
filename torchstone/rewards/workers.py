"""Processes that each judge a part of a batch: ``--reward-workers`` and ``--reward-timeout``."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import signal
import time
from collections.abc import Sequence
from typing import Any

from torchstone.rewards.calling import Logged, Rows, Scores, State, call
from torchstone.rewards.loading import read_reward
from torchstone.terminal import UserError


class Workers:
    """``count`` processes, each with the reward functions loaded from their names; they start at the first batch."""

    def __init__(self, specs: Sequence[str], count: int, timeout: float | None):
        self.specs, self.count, self.timeout = tuple(specs), count, timeout
        self.running: list[tuple[Any, Any]] = []  # process, connection

    def judge(self, rows: Rows, state: State | None, again: bool = True) -> tuple[list[Scores], Logged]:
        """As ``call``: the rows cut into one part a process, what they give put together in the rows' order.

        Raises UserError: a function fails, a process died, or the whole took longer than the time limit.
        """
        n = len(rows["prompts"])
        cuts = [slice(n * i // self.count, n * (i + 1) // self.count) for i in range(self.count)]
        parts = [{name: values[cut] for name, values in rows.items()} for cut in cuts if cut.start < cut.stop]
        try:
            self.start()
            for (_, connection), part in zip(self.running, parts, strict=False):
                connection.send((part, state))
            found = self.results(len(parts), self.timeout)
        except (EOFError, OSError) as e:
            ended = multiprocessing.connection.wait([process.sentinel for process, _ in self.running], 5)
            for process in (dead := [process for process, _ in self.running if process.sentinel in ended]):
                process.join(5)  # its pipe ends a little before it does
            codes = [process.exitcode for process in dead]
            self.close()
            if again and codes and set(codes) <= {-signal.SIGTERM}:  # as when all processes of a job are told to end
                return self.judge(rows, state, again=False)
            told = f"with status {codes[0]}" if codes else f"({e})"
            raise UserError(f"a process that judges ({', '.join(self.specs)}) died {told}") from e
        except BaseException:
            self.close()
            raise
        return gathered(found)

    def start(self) -> None:
        """Start them, once; each says that it has loaded the functions."""
        if self.running:
            return
        context = multiprocessing.get_context("spawn")
        for _ in range(self.count):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, self.specs))
            process.start()
            theirs.close()
            self.running.append((process, ours))
        multiprocessing.util.Finalize(self, end, (list(self.running),), exitpriority=10)
        gathered(self.results(self.count, None))

    def results(self, n: int, timeout: float | None) -> list[Any]:
        """What the first n processes give. Raises UserError: not within ``timeout`` seconds."""
        waiting = {connection: i for i, (_, connection) in enumerate(self.running[:n])}
        found, busy = dict.fromkeys(range(n)), dict.fromkeys(range(n), 0)
        until = None if timeout is None else time.monotonic() + timeout
        while waiting:
            left = None if until is None else max(0.0, until - time.monotonic())
            ready: list[Any] = multiprocessing.connection.wait(list(waiting), left)
            if not ready:
                names = sorted({self.specs[busy[i]] for i in waiting.values()})
                limit, advice = f"--reward-timeout {timeout:g} seconds", "let it give up by itself, and return None"
                raise UserError(f"--reward {' '.join(names)}: no answer within {limit}; mend it, or {advice}")
            for connection in ready:
                i, message = waiting[connection], connection.recv()
                if isinstance(message, int):  # which function it calls
                    busy[i] = message
                else:
                    found[i] = message
                    del waiting[connection]
        return list(found.values())

    def close(self) -> None:
        """End them at once, whatever they do."""
        end(self.running)
        self.running = []


def gathered(found: list[Any]) -> tuple[list[Scores], Logged]:
    """Each function's rewards, part after part. Raises the UserError of the first part that has one."""
    rewards: list[list[Scores]] = []
    logged = Logged()
    for part in found:
        if isinstance(part, UserError):
            raise part
        rewards.append(part[0])
        logged.add(part[1])
    return [[one for part in each for one in part] for each in zip(*rewards, strict=True)], logged


def end(running: list[tuple[Any, Any]]) -> None:
    """Kill the processes and close what leads to them."""
    for process, connection in running:
        process.kill()
        connection.close()
    for process, _ in running:
        process.join()


def work(connection: Any, specs: Sequence[str]) -> None:
    """What a process does: load the functions, then judge one part after another until nobody asks any more."""
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches all processes; the first decides what it means
    try:
        rewards = [read_reward(spec) for spec in specs]
        connection.send(([], Logged()))
        while True:
            part, state = connection.recv()
            try:
                connection.send(call(rewards, part, state, connection.send))
            except UserError as e:
                connection.send(e)
    except UserError as e:
        connection.send(e)
    except (EOFError, OSError):
        return
