"""Data of the user's: JSONL files. An error names the file, the line and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torchstone.data.tasks import Example
from torchstone.terminal import UserError


def read_jsonl(path: Path) -> list[Example]:
    """Read prompts or preference pairs; an error names file, line and what is missing."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except OSError as e:
        raise UserError(f"cannot read {path}: {e}") from e
    except UnicodeDecodeError as e:
        number = e.object[: e.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {number}: not text in UTF-8 ({e.reason}); expected JSON, an object a line"
        ) from e
    examples: list[Any] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            examples.append(json.loads(line))
            check_example(examples)
        except UserError as e:
            raise UserError(f"{path}, line {number}: {e}") from e
        except (ValueError, RecursionError) as e:
            raise UserError(f"{path}, line {number}: not JSON ({e})") from e
    if not examples:
        raise UserError(f"{path} is empty: expected one JSON object a line")
    return examples


def check_example(examples: list[Any]) -> None:
    """The last one: texts where texts must be, and the keys of the first. Raises UserError."""
    first, example = examples[0], examples[-1]
    if not isinstance(example, dict):
        raise UserError(f"expected an object, got {type(example).__name__}")
    wanted = ["prompt", "chosen", "rejected"] if example.keys() & {"chosen", "rejected"} else ["prompt"]
    for key in {**dict.fromkeys(wanted), **first, **example}:
        if key not in example:
            raise UserError(f"{key!r} is missing (it has {', '.join(example) or 'nothing'})")
        if key in wanted and not (isinstance(example[key], str) and (example[key] or key != "prompt")):
            raise UserError(f"{key!r} must be a text, got {example[key]!r}")
        if key not in first:
            raise UserError(
                f"{key!r} is not in the first line (it has {', '.join(first)}): all must have the same keys"
            )
        if key in wanted:
            example[key].encode()  # half of a surrogate pair is no text: a ValueError
