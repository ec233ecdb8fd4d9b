"""A source's rows as examples: each looked at once, then made when it is asked for."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from heapq import nlargest, nsmallest
from itertools import chain
from typing import Any

from torchstone.data.files import Rows, open_rows
from torchstone.data.formats import FORMATS, check_margin, format_for, text_of, to_example
from torchstone.data.tasks import Example, Task
from torchstone.data.text import Row
from torchstone.terminal import UserError

MOST_HELD_OUT = 1000


class Examples(Sequence[Example]):
    """Some rows of a source, in some order, each made into an example when it is asked for."""

    def __init__(self, rows: Rows, kind: str, order: Sequence[int]):
        self.rows, self.kind, self.order = rows, kind, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: Any) -> Any:
        order = self.order[i] if isinstance(i, slice) else [self.order[i]]
        examples = [to_example(self.kind, row) for row in self.rows.take(order)]
        return examples if isinstance(i, slice) else examples[0]

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), 1000):
            yield from self[start : start + 1000]


class Survey:
    """What a look at every row found: the format, the good rows, a hash of each one's prompt, and the bad rows."""

    def __init__(self, rows: Rows, method: str, judged: bool, skip: bool = False):
        self.rows, self.method, self.judged = rows, method, judged
        self.kind, self.first = "", dict[str, Any]()
        self.good, self.hashes, self.bad, self.first_bad = array("q"), array("q"), 0, list[str]()
        for i, row in enumerate(rows.scan()):
            try:
                self.add(i, row)
            except UserError as e:
                if not skip:
                    raise UserError(f"{rows.name}, {rows.where(i)}: {e} (--skip-bad-rows leaves such rows out)") from e
                self.bad += 1
                self.first_bad += [f"{rows.where(i)}: {e}"] if self.bad <= 3 else []
            except ValueError as e:
                raise UserError(f"{rows.name}: {e}") from e
        if self.bad >= len(self.good):
            said = "; ".join(self.first_bad) or "it has none"
            raise UserError(f"{rows.name}: {len(self.good)} of {len(rows)} rows can be read: {said}")

    def add(self, i: int, row: Any) -> None:
        """Row i, if it is good. Raises UserError."""
        if isinstance(row, UserError):
            raise row
        if not isinstance(row, dict):
            raise UserError(f"expected an object, got {type(row).__name__}")
        kind = self.kind or format_for(self.method, self.judged, row)
        example = to_example(kind, row)
        if self.method == "reward":
            check_margin(example.get("margin", 0.0))
        check_columns(row, self.first or row)
        self.kind, self.first = kind, self.first or row
        self.good.append(i)
        self.hashes.append(hash(str(example["completion"] if kind == "text" else example["prompt"])))

    def split(self) -> tuple[Examples, Examples, list[str]]:
        """(held out, to train on), and what is to be known of them, a sentence each."""
        rows, (held_out, train) = self.rows, split(len(self.good))
        told = [self.about(len(held_out))]
        if self.bad:
            more = "; ..." if self.bad > 3 else ""
            some = "; ".join(self.first_bad) + more
            told.append(f"{rows.name}: {self.bad} of {len(rows)} rows are bad and left out ({some})")
        if len(held_out) < len(self.good):
            told += self.shared(held_out, train)
        kept, examples = (
            Examples(rows, self.kind, array("q", (self.good[i] for i in part))) for part in (held_out, train)
        )
        return kept, kept if len(kept) == len(self.good) else examples, told

    def about(self, held_out: int) -> str:
        """What the source holds."""
        name = FORMATS[self.kind][1]
        notes = {"messages": ", of each the last answer"}
        if self.kind == "preference" and "prompt" not in self.first:
            notes["preference"] = ", whose prompt is what chosen and rejected begin with"
        kept = f"{held_out:,} of them held out" if held_out < len(self.good) else "so few that all are held out too"
        about = f"{name} ({', '.join(self.first)}){notes.get(self.kind, '')}"
        return f"{self.rows.name}: {about}, {len(self.good):,} rows, {kept}"

    def shared(self, held_out: Sequence[int], train: Sequence[int]) -> list[str]:
        """How many held-out prompts are trained on as well, and where the first are."""
        hashes, where = self.hashes, lambda i: self.rows.where(self.good[i])
        held = {hashes[i] for i in held_out}
        twins = {hashes[i]: i for i in reversed(train) if hashes[i] in held}
        pairs = [(i, twins[hashes[i]]) for i in held_out if hashes[i] in twins]
        if not pairs:
            return []
        some = ", ".join(f"{where(i)} is {where(twin)}" for i, twin in pairs[:3])
        count = f"{len(pairs)} of {len(held_out)} held-out prompts are trained on too"
        return [f"{self.rows.name}: {count} ({some}): what is measured on them says nothing of new prompts"]


def check_columns(row: Row, first: Row) -> None:
    """The columns of the first row, no fewer and no more. Raises UserError."""
    if row.keys() == first.keys():
        return
    for column in first.keys() - row.keys():
        raise UserError(f"{column!r} is missing (it has {', '.join(row) or 'nothing'})")
    column = next(column for column in row if column not in first)
    raise UserError(f"{column!r} is not in the first row (it has {', '.join(first)}): all must have the same columns")


def split(n: int) -> tuple[list[int], list[int]]:
    """(held out, to train on): a tenth, at most 1,000, after a fixed shuffle; of fewer than ten, all are both."""
    order, cut = random.Random(0).sample(range(n), n), min(n // 10, MOST_HELD_OUT)
    return order[:cut] or order, order[cut:]


def everything(task: Task) -> Iterator[Example]:
    """Its examples: those to train on, then those that are held out, if they are others."""
    return chain(task.examples, task.held_out if task.held_out is not task.examples else ())


def look_over(
    task: Task, sides: Sequence[Callable[[Example], str]], control: Any
) -> tuple[list[tuple[Sequence[Example], int]], str]:
    """Where the 256 longest examples and the 16 shortest are; and what there is of control tokens, in words.

    Args:
        sides: what gives the texts beside the prompt.
        control: a pattern of the texts that the tokenizer reads as control tokens.
    """
    sizes, hold, train = array("q"), array("q"), len(task.examples)
    for i, example in enumerate(everything(task)):
        texts = [text_of(example["prompt"]), *(side(example) for side in sides)]
        sizes.append(sum(map(len, texts)))
        if control and any(map(control.search, texts)):
            hold.append(i)
    few = [f(n, range(len(sizes)), sizes.__getitem__) for f, n in ((nlargest, 256), (nsmallest, 16))]
    at = lambda i: (task.examples, i) if i < train else (task.held_out, i - train)  # noqa: E731
    told = ""
    if hold:
        examples, i = at(hold[0])
        texts = [text_of(examples[i]["prompt"]), *(side(examples[i]) for side in sides)]
        found = next(filter(None, map(control.search, texts)))[0]
        told = f"{len(hold)} of {len(sizes)} examples hold text that the tokenizer reads as a control token"
        told += f" ({place(examples, i)}{found!r})"
    return [at(i) for i in chain(*few)], told


def place(examples: Sequence[Example], i: int) -> str:
    """Where an example of data stands: ``data.jsonl, line 7: ``."""
    if not isinstance(examples, Examples):
        return ""
    return f"{examples.rows.name}, {examples.rows.where(examples.order[i])}: "


def read_pairs(source: str) -> Examples:
    """All pairs of a file, in its order."""
    found = Survey(open_rows(source), "dpo", judged=False)
    return Examples(found.rows, found.kind, range(len(found.good)))
