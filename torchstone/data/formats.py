"""What the rows of a source are: prompts, pairs, demonstrations; and each row as an example of one shape.

The formats are TRL's, standard (texts) and conversational (lists of messages). In an example ``prompt`` is a text or a
list of messages, or None before a text that begins with nothing; ``completion``, ``chosen``, ``rejected`` are texts.
Other columns stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torchstone.data.tasks import Example
from torchstone.data.text import Row
from torchstone.terminal import UserError, near

Messages = list[dict[str, Any]]
Prompt = str | Messages | None
REWARD = "--reward FILE.py:FUNCTION"
ONLINE = f"use grpo, ppo or reinforce, with {REWARD}"
PAIR = "pair a good and a bad completion of a prompt for dpo, or keep the good ones, without label, for sft"
PAIR += " (torchstone recipes kto shows a loss for them)"
FORMATS = {  # the columns that make a format, in the order in which they are looked for; its name; what to do with it
    "preference": (("chosen", "rejected"), "preference pairs", "use dpo or reward"),
    "unpaired": (("prompt", "completion", "label"), "unpaired preferences", PAIR),
    "prompt-completion": (("prompt", "completion"), "prompts with completions", "use sft"),
    "prompts": (("prompt",), "prompts", ONLINE),
    "messages": (("messages",), "conversations", "use sft"),
    "text": (("text",), "texts", "use sft"),
}
SIDES = {"preference": ("chosen", "rejected")} | dict.fromkeys(
    ["prompt-completion", "messages", "text"], ("completion",)
)
LEARNS = dict.fromkeys(["dpo", "reward"], ("preference",)) | {
    "sft": ("prompt-completion", "messages", "text", "preference")
}
NEEDS = dict.fromkeys(["dpo", "reward"], f"preference pairs, or prompts with {REWARD}")
NEEDS["sft"] = "prompts with a completion or an answer, conversations or texts"


def recognise(row: Row) -> str:
    """Which of ``FORMATS`` a row is, by its columns. Raises UserError: none."""
    for kind, (columns, _, _) in FORMATS.items():
        if row.keys() >= set(columns) or (kind == "preference" and row.keys() & set(columns)):
            return kind
    known = {column for columns, _, _ in FORMATS.values() for column in columns}
    hint = next(filter(None, (near(name, known) for name in row)), "")
    formats = "; ".join(", ".join(columns) for columns, _, _ in FORMATS.values())
    name = f"--columns prompt={next(iter(row), 'COLUMN')}"
    raise UserError(f"'prompt' is missing (it has {', '.join(row) or 'nothing'}){hint}: {name}, or one of: {formats}")


def format_for(method: str, judged: bool, row: Row) -> str:
    """As what a method reads rows like this one. Raises ValueError: it learns nothing from them.

    Args:
        judged: a reward or a teacher says what samples are worth, so that a prompt is enough.
    """
    kind = recognise(row)
    if kind in LEARNS.get(method, ()):
        return kind
    if "prompt" in row and (judged if method != "sft" else kind == "prompts" and "answer" in row):
        return "prompts"
    columns, name, advice = FORMATS[kind]
    held = f"it holds {name} ({', '.join(column for column in row if column in ('prompt', *columns))})"
    if kind == "unpaired":
        raise ValueError(f"{held}, from which no method here learns: {advice}")
    if kind == "prompts" and method != "sft":
        raise ValueError(f"{held}: judge what {method} samples with {REWARD}")
    raise ValueError(f"{held}, and {method} learns from {NEEDS.get(method, 'prompts')}: {advice}")


def to_example(kind: str, row: Row) -> Example:
    """A row as the example that it is. Raises UserError, naming the column."""
    if kind == "text":
        return row | {"prompt": None, "completion": text_in(row, "text", empty=False)}
    if kind == "messages":
        *before, answer = messages_in(row, "messages")
        return row | {"prompt": prompt_of(before, "messages"), "completion": answer_of([answer], "messages")}
    if kind == "preference" and is_implicit(row):
        return row | dict(zip(("prompt", *SIDES[kind]), extract(row), strict=True))
    prompt = prompt_of(messages_in(row, "prompt"), "prompt") if isinstance(row.get("prompt"), list) else None
    example = row | {"prompt": prompt or text_in(row, "prompt", empty=False)}
    if kind == "preference" and isinstance(row.get("margin"), str):  # as all is in CSV
        with suppress(ValueError):
            example["margin"] = float(row["margin"])
    for side in SIDES.get(kind, ()):
        given = isinstance(row.get(side), list)
        example[side] = answer_of(messages_in(row, side), side) if given else text_in(row, side)
    return example


def text_in(row: Row, column: str, empty: bool = True) -> str:
    """The text of a column. Raises UserError: there is none, or half a character (of a surrogate pair) in it."""
    if column not in row:
        raise UserError(f"{column!r} is missing (it has {', '.join(row) or 'nothing'})")
    text = row[column]
    if not (isinstance(text, str) and (text or empty)):
        raise UserError(f"{column!r} must be a text, got {shown(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise UserError(f"{column!r} is no text: {e.reason}") from e
    return text


def check_margin(margin: Any) -> None:
    """How much better the chosen one of a pair is. Raises UserError: it is no number."""
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin):
        raise UserError(f"'margin' must be a number, got {shown(margin)}")


def messages_in(row: Row, column: str) -> Messages:
    """The messages of a column; keys without a value, which Arrow gives to all if one has them, are left out."""
    found = row.get(column)
    if not isinstance(found, list) or not found:
        raise UserError(f"{column!r} must be a list of messages, got {shown(found)}")
    for message in found:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise UserError(f"{column!r} must hold messages with role and content, got {shown(message)}")
        if message.get("content") is not None or not message.get("tool_calls"):
            text_in(message, "content")
    return [{key: value for key, value in message.items() if value is not None} for message in found]


def prompt_of(messages: Messages, column: str) -> Messages:
    """Messages that an answer can follow. Raises UserError."""
    if not messages or messages[-1]["role"] == "system":
        raise UserError(f"{column!r} must have a message of the user's before the answer, got {shown(messages)}")
    return messages


def answer_of(messages: Messages, column: str) -> str:
    """The text of the one answer that messages are. Raises UserError."""
    if len(messages) != 1 or messages[0]["role"] != "assistant" or "content" not in messages[0]:
        raise UserError(f"{column!r} must end with one text of the assistant's, got {shown(messages)}")
    return messages[0]["content"]


def is_implicit(pair: Row) -> bool:
    """Whether both texts of a pair begin with their prompt, beside which a prompt may stand, as text, once more."""
    return "prompt" not in pair or (
        isinstance(pair["prompt"], str) and isinstance(pair.get("chosen"), list) and len(pair["chosen"]) > 1
    )


def extract(pair: Row) -> tuple[Prompt, str, str]:
    """The prompt that both begin with, and what each goes on with; a space between them stays with the answers."""
    if isinstance(pair.get("chosen"), list):
        talks = messages_in(pair, "chosen"), messages_in(pair, "rejected")
        n = shared(*talks)
        chosen, rejected = (answer_of(talk[n:], side) for talk, side in zip(talks, SIDES["preference"], strict=True))
        return prompt_of(talks[0][:n], "chosen"), chosen, rejected
    texts = text_in(pair, "chosen"), text_in(pair, "rejected")
    n = shared(*texts)
    n -= texts[0][:n].endswith(" ") and n < min(map(len, texts))
    if n == 0:
        raise UserError("'chosen' and 'rejected' share no beginning, and there is no 'prompt'")
    return texts[0][:n], texts[0][n:], texts[1][n:]


def shared(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many parts two texts, or two conversations, begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def completion_of(example: Example) -> str:
    """What is to be written: ``completion``, else ``answer``, else the ``chosen`` one of a pair; or nothing."""
    found = next((example[key] for key in ("completion", "answer", "chosen") if key in example), None)
    return "" if found is None else str(found)


def text_of(prompt: Prompt) -> str:
    """A prompt as plain text: of messages the contents, a line each."""
    if isinstance(prompt, list):
        return "\n".join(str(message.get("content", "")) for message in prompt)
    return prompt or ""


def shown(value: Any) -> str:
    """The beginning of a value."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
