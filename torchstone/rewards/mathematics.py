"""``--reward math``: is the completion's last expression equal to the answer? By the package math-verify."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence
from typing import Any

from torchstone.rewards.calling import Scores
from torchstone.rewards.library import text_of
from torchstone.terminal import UserError

WORDS = re.compile(r"\$|(?<!\\)\b[A-Za-z]{2,}")


def math(
    prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any] = (), solution: Sequence[Any] = (),
    **columns: Any,
) -> Scores:  # fmt: skip
    r"""1 where what the completion says last, in ``\boxed{}`` if it has one, equals the answer: ``\frac{1}{2}`` is 0.5.

    Args:
        answer, solution: the right answer, in LaTeX with or without its dollars, or as a number. Either column will do.

    Returns: None where math-verify finds no expression in the answer; 0 where it finds none in the completion, or
        cannot decide within its own time limits (5 s for each step; none outside of the main thread).
    """
    try:
        from math_verify import verify
    except ImportError as e:
        raise UserError('--reward math needs math-verify: pip install ".[math]" in a checkout of Torchstone') from e
    if not (wanted := answer or solution):
        raise UserError("the reward math wants a column 'answer' or 'solution', and the data has neither")
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it logs what it cannot read
    limit = 5 if threading.current_thread() is threading.main_thread() else None  # its limits are signals
    scores: Scores = []
    for completion, gold in zip(completions, (expressions(str(one), limit) for one in wanted), strict=True):
        found = expressions(text_of(completion), limit, bare=False) if gold else []
        scores.append(float(verify(gold, found, timeout_seconds=limit)) if gold else None)
    return scores


def expressions(text: str, limit: int | None, bare: bool = True) -> list[Any]:
    """What math-verify reads in a text; ``bare``: one without dollars and words may be LaTeX as a whole."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    readers = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    whole = parse(f"${text}$", readers, parsing_timeout=limit) if bare and not WORDS.search(text) else []
    return list(whole or parse(text, readers, parsing_timeout=limit))
