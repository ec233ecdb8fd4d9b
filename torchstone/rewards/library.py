"""Rewards by name, as in ``--reward exact``: 1 where a completion is the column ``answer``, 0 where it is not.

``exact`` is the strict one, and ``lenient`` lets a completion say more than the answer. Both read texts and messages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

Scores = list[float | None]  # None: cannot be scored
NUMBER = re.compile(r"(?:(?<![\w.)])[-\u2212])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:/\d+)?")


def exact(prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> Scores:
    """1 where the completion is the answer, character by character but for white space around both."""
    return [float(text_of(c).strip() == str(a).strip()) for c, a in zip(completions, answer, strict=True)]


def last_number(prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> Scores:
    """1 where the completion's last number is the answer's: 1,000 = 1000 = 1000.0, 1/2 = 0.5. None: it has none."""
    scores: Scores = []
    for completion, wanted in zip(completions, map(number, map(str, answer)), strict=True):
        scores.append(None if wanted is None else float(number(text_of(completion)) == wanted))
    return scores


def last_words(prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> Scores:
    """1 where the completion ends with the words of the answer; upper case and punctuation say nothing."""
    scores: Scores = []
    for completion, wanted in zip(completions, map(words, map(str, answer)), strict=True):
        scores.append(float(words(text_of(completion))[-len(wanted) :] == wanted) if wanted else None)
    return scores


def lenient(prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> Scores:
    """``last_number`` where the answer is a number and nothing else, ``exact`` or ``last_words`` otherwise."""
    scores: Scores = []
    for prompt, completion, wanted in zip(prompts, completions, answer, strict=True):
        one: dict[str, Any] = {"prompts": [prompt], "completions": [completion], "answer": [wanted]}
        if NUMBER.fullmatch(str(wanted).strip()):
            scores += last_number(**one)
        else:
            scores.append(max(exact(**one)[0] or 0.0, last_words(**one)[0] or 0.0))
    return scores


def text_of(completion: Any) -> str:
    """The text of a completion, which is a text, or for chat data a list with the assistant's message."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def number(text: str) -> Fraction | None:
    """The last number in a text, or None."""
    found = NUMBER.findall(text)
    if not found:
        return None
    above, _, below = found[-1].replace(",", "").replace("\u2212", "-").partition("/")
    return Fraction(above) / int(below) if below.strip("0") else Fraction(above)


def words(text: str) -> list[str]:
    """The words of a text, without upper case and punctuation."""
    return re.findall(r"\w+", text.lower())
