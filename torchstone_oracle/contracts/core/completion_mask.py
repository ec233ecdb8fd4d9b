"""completion_mask: a completion ends with its first end token, which counts."""

from __future__ import annotations

from typing import Any

from ... import core
from ...contract import Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ..shared.common import EDGES, TRL, TRL_1_16_0, Settings, Steps, bug, variant
from ..shared.logits import Ids


def ends(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    ids = settings["eos_id"] if isinstance(settings["eos_id"], list) else [settings["eos_id"]]
    return {"mask": [steps["row"](row, ids) for row in inputs["completions"]]}


def end_masked(row: Ids, ids: Ids) -> list[bool]:
    """True before the first end token."""
    return [m and token not in ids for m, token in zip(core.completion_mask(row, ids), row, strict=True)]


def every_end_masked(row: Ids, ids: Ids) -> list[bool]:
    return [token not in ids for token in row]


def until_last_end(row: Ids, ids: Ids) -> list[bool]:
    return [t <= max((s for s, token in enumerate(row) if token in ids), default=len(row)) for t in range(len(row))]


def until_second_end(row: Ids, ids: Ids) -> list[bool]:
    """The running count of end tokens is at most 1: True up to, and not including, the second."""
    return [sum(token in ids for token in row[: t + 1]) <= 1 for t in range(len(row))]


def one_more(row: Ids, ids: Ids) -> list[bool]:
    mask = core.completion_mask(row, ids)
    return [True, *mask][: len(mask)]


def first_token_without_end(row: Ids, ids: Ids) -> list[bool]:
    """The position of the first end by argmax, which is 0 where there is none."""
    if any(token in ids for token in row):
        return core.completion_mask(row, ids)
    return [t == 0 for t in range(len(row))]


def of_one_id(which: int) -> Step:
    """Only one of the end ids is looked for."""
    return lambda row, ids: core.completion_mask(row, [ids[which]])


def until_every_end(row: Ids, ids: Ids) -> list[bool]:
    """True until each of the ids has been met."""
    last = max(row.index(i) if i in row else len(row) for i in ids)
    return [t <= last for t in range(len(row))]


def truncated_dropped(row: Ids, ids: Ids) -> list[bool]:
    return core.completion_mask(row, ids) if any(token in ids for token in row) else [False] * len(row)


END, PAD = 7, 0
COMPLETION_EDGES = {
    "pad_is_end": Flag(
        "edge",
        "The padding has the id of the end token.",
        "Where padding is told by its id, the end token is masked with it: the policy never learns to stop.",
        (f"{TRL}/pull/3200",),
        ("C58", "R14"),
    ),
    "no_end": Flag("edge", "A completion cut off before its end: all tokens count.", "Long answers are lost."),
    "empty_completion": Flag("edge", "The first token is the end: one token counts.", "A row without a token: 0 / 0."),
    "text_after_end": Flag(
        "edge",
        "Tokens after the first end token, as an engine that does not stop writes them.",
        "Text that nobody reads is rewarded and trained.",
        (f"{TRL}/pull/2708",),
        ("C58",),
    ),
    "many_ends": Flag("edge", "More than one id ends a completion.", "Only one of the ends is seen."),
    "rows_equal_columns": EDGES["rows_equal_columns"],
    "one_token": EDGES["one_token"],
}  # fmt: skip


def completions(comment: str, rows: list[list[int]], *flags: str, **more: Any) -> Case:
    return Case(comment, {"completions": rows}, flags, **more)


OBJECTIVE = Objective(
    name="completion_mask",
    about="Which tokens of a completion count: all up to and including the first end token.",
    tags=(),
    source=("The rule of torchstone/core/README.md: the end token is a choice of the policy",),
    arguments={"completions": Argument("B T", "token ids, without the prompt", kind="int")},
    returns={"mask": Argument("B T", "True where the token counts", kind="bool")},
    settings={"eos_id": Setting("The id, or the ids, that end a completion.", (END,))},
    compute=ends,
    steps={"row": core.completion_mask},
    alternatives={
        "end_masked": bug(
            "The end token itself is masked.",
            "The choice to stop is never trained: completions grow until they are cut off.",
            {"row": end_masked},
            pitfalls=("C58", "R14"),
            links=(f"{TRL}/pull/3200", f"{TRL}/pull/6357"),
        ),
        "every_end_masked": bug(
            "Every token with the end's id is masked, and what stands between and after them is not.",
            "The end is never trained, and text after it is.",
            {"row": every_end_masked},
            pitfalls=("C58", "R14"),
            links=(f"{TRL}/pull/3200",),
        ),
        "all_kept": bug(
            "Everything counts, after the end too.",
            "Padding and text after the end are trained as if they had been chosen.",
            {"row": lambda row, ids: [True] * len(row)},
            pitfalls=("C58",),
            links=(f"{TRL}/pull/2708",),
        ),
        "until_last_end": bug(
            "True up to the last end token instead of the first.",
            "Where the padding has the end's id, all padding is trained: to say the end again and again.",
            {"row": until_last_end},
            pitfalls=("C58",),
        ),
        "until_second_end": bug(
            "True up to the second end token: a running count of ends was compared with <= 1.",
            "Text after the end is trained.",
            {"row": until_second_end},
            pitfalls=("C58",),
        ),
        "one_more": bug(
            "One token after the end counts too.",
            "The policy is trained on a pad token, once a completion.",
            {"row": one_more},
            pitfalls=("C58",),
        ),
        "first_token_without_end": bug(
            "Where no end token is found, only the first token counts: argmax of nothing is 0.",
            "Completions that were cut off are all but ignored.",
            {"row": first_token_without_end},
        ),
        "truncated_dropped": variant(
            "Completions without an end token are masked throughout.",
            "Answers that were cut off are neither rewarded nor punished.",
            {"row": truncated_dropped},
            links=(TRL_1_16_0, "https://arxiv.org/abs/2503.14476"),
        ),
        "first_end_id_only": bug(
            "Of several end ids only the first is looked for.",
            "Answers that end with another id are trained to the end of the padding.",
            {"row": of_one_id(0)},
            pitfalls=("C58",),
            links=(f"{TRL}/issues/7039",),
        ),
        "last_end_id_only": bug(
            "Of several end ids only the last is looked for.",
            "Answers that end with another id are trained to the end of the padding.",
            {"row": of_one_id(-1)},
            pitfalls=("C58",),
        ),
        "until_every_end": bug(
            "The completion goes on until every one of the end ids has been met.",
            "Padding and text after the end are trained in nearly every completion.",
            {"row": until_every_end},
            pitfalls=("C58",),
        ),
        "inverted": bug(
            "True and False are swapped.",
            "Padding is trained, and nothing else.",
            {"row": lambda row, ids: [not m for m in core.completion_mask(row, ids)]},
            pitfalls=("C59",),
        ),
    },
    edges=COMPLETION_EDGES,
    groups=(
        Group(
            {"eos_id": END},
            (
                completions("an end, then padding", [[3, 4, END, PAD, PAD], [5, END, PAD, PAD, PAD]]),
                completions("the end in the last column", [[3, 4, 5, END]]),
                completions("no end", [[3, 4, 5, 6], [3, END, PAD, PAD]], "no_end"),
                completions("padding has the end's id", [[3, 4, END, END, END], [5, END, END, END, END]], "pad_is_end"),
                completions("text after the end", [[3, END, 4, 5, END, 6], [END, 3, 3, END, 4, END]], "text_after_end"),
                completions("the first token is the end", [[END, PAD, PAD], [3, END, PAD]], "empty_completion"),
                completions("three rows of three", [[3, 4, 5], [3, END, 4], [END, 4, 3]], "rows_equal_columns"),
                completions("one token, the end", [[END]], "one_token"),
                completions("one token, no end", [[3]], "one_token", "no_end"),
            ),
        ),
        Group({"eos_id": 0}, (completions("the end has id 0, and so has the padding", [[3, 4, 0, 0]], "pad_is_end"),)),
        Group(
            {"eos_id": [END, 8]},
            (
                completions("either of two ends", [[3, 8, 4, END], [3, END, 4, 8]], "many_ends"),
                completions(
                    "either of two ends, then padding",
                    [[3, 8, PAD, PAD, PAD], [3, 4, END, PAD, PAD], [3, 4, 5, 6, 8]],
                    "many_ends",
                ),
            ),
        ),
        Group(
            {"eos_id": [END, 8, 9]},
            (
                completions("any of three ends", [[3, 9, 8, END, PAD], [8, 9, END, PAD, PAD]], "many_ends"),
                completions("one of three ends, or none", [[3, 4, 8, PAD], [3, 4, 5, 6], [9, 3, END, 8]], "many_ends"),
            ),
        ),
    ),
)
