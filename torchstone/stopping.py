"""How a run is asked to stop: by Ctrl-C, by whoever ends its job or closes its terminal, by an output that is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torchstone.terminal import UserError


def ctrl_c_waits() -> threading.Event:
    """The first Ctrl-C, SIGTERM or SIGHUP asks to stop after the round; the second stops at once, in a lone process.

    torchrun hands on what the terminal has sent to each process already, and ends them all half a minute later.
    """
    asked, alone = threading.Event(), os.environ.get("WORLD_SIZE", "1") == "1"

    def handler(*_: Any) -> None:
        if alone and asked.is_set():
            raise KeyboardInterrupt
        if not asked.is_set() and os.environ.get("RANK", "0") == "0":
            with suppress(OSError):  # the terminal may be closed
                print(f"\nstopping after this round{' (once more: at once)' * alone}", file=sys.stderr)
        asked.set()

    if threading.current_thread() is threading.main_thread():
        for of in (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")):
            if of and (of.name != "SIGHUP" or signal.getsignal(of) != signal.SIG_IGN):  # which nohup makes it
                signal.signal(of, handler)
    return asked


@contextmanager
def unread(stop: threading.Event) -> Iterator[None]:
    """If what is printed inside cannot be written, the run stops after the round, and saves, as if asked to."""
    try:
        yield
    except (OSError, ValueError) as e:  # nobody reads it, it was closed, or the disk is full
        if not stop.is_set():
            why = getattr(e, "strerror", None) or e
            print(f"torchstone: what is printed cannot be written ({why}): stopping after this round", file=sys.stderr)
        stop.set()


def stopped(command: str, folder: Any) -> UserError:
    again = f"torchstone {command} --resume {folder}"
    return UserError(f"stopped; everything is saved in {folder}. Go on with: {again}", 130)
