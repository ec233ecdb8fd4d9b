"""What all commands say alike: mistakes in one line, and names that were meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NEEDED = 'this command needs more than the maths: pip install "torchstone[train]"'


class UserError(Exception):
    """A mistake in what the user gave; shown as one line, without a traceback."""


def near(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'sort'?)``, with up to three known names near ``name``; nothing if there is none."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
