"""Flags, masks, links and small tools that many objectives share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...contract import Alternative, Argument, Flag, Step
from ...numbers import Dual

Settings = Mapping[str, Any]
Steps = Mapping[str, Step]
Row = Sequence[Dual]
Matrix = list[list[Dual]]
Marks = list[list[bool]]
Numbers = list[list[float]]

NAN, INF = float("nan"), float("inf")

LOG_PROBS = Argument("B T", "nats", gradient=True)
CONSTANT_LOG_PROBS = Argument("B T", "nats")
MASK = Argument("B T", "True where the policy chose the token", kind="bool")
REWARDS = Argument("P G", "reward units; row p holds the G samples of prompt p")
SCORED = Argument("P G", "False where a completion could not be scored; its reward may be NaN", kind="bool")

TRL = "https://github.com/huggingface/trl"
VERL = "https://github.com/volcengine/verl"
OPENRLHF = "https://github.com/OpenRLHF/OpenRLHF"
LIGER = "https://github.com/linkedin/Liger-Kernel"
OPEN_INSTRUCT = "https://github.com/allenai/open-instruct"
PRIME_RL = "https://github.com/PrimeIntellect-ai/prime-rl"
RLHF_BOOK = "https://github.com/natolambert/rlhf-book"
TRL_1_16_0, FORMER_PPO_OF_TRL = f"{TRL}/tree/v1.16.0", f"{TRL}/tree/f2cd577"
VERL_0_9_1 = "https://github.com/verl-project/verl/tree/v0.9.1"
OPENRLHF_0_11_2, OPENRLHF_0_11_1 = f"{OPENRLHF}/tree/v0.11.2", f"{OPENRLHF}/tree/v0.11.1"
TORCHRL_0_14_1 = "https://github.com/pytorch/rl/tree/v0.14.1"
SLIME_624B824 = "https://github.com/THUDM/slime/tree/624b824"
MILES_31F1CA9 = "https://github.com/radixark/miles/tree/31f1ca9"
NEMO_RL_7EA279A = "https://github.com/NVIDIA-NeMo/RL/tree/7ea279a"
LLAMA_FACTORY_FF6D4D1 = "https://github.com/hiyouga/LLaMA-Factory/tree/ff6d4d1"
TINKER_9DFCC3A = "https://github.com/thinking-machines-lab/tinker-cookbook/tree/9dfcc3a"
OPEN_INSTRUCT_E6C3044 = f"{OPEN_INSTRUCT}/tree/e6c3044"
RLHF_BOOK_A66B0BF = f"{RLHF_BOOK}/tree/a66b0bf"
WILLIAMS = "Williams, 1992, doi:10.1007/BF00992696"

EDGES = {
    "large_mean": Flag(
        "edge",
        "A large mean and a small spread: the mean of the squares less the square of the mean cancels.",
        "In float32 the deviation is noise, or the root of a negative number.",
    ),
    "ragged_mask": Flag(
        "edge",
        "Completions of different lengths.",
        "What lies in the padding enters the mean: short completions are scaled by the batch's longest one.",
        pitfalls=("C36", "C45"),
    ),
    "gaps_in_mask": Flag(
        "edge",
        "Tokens that the policy did not choose, such as tool output, inside a completion.",
        "Text that a tool wrote is trained on as if the policy had written it.",
        pitfalls=("C06", "C48"),
    ),
    "junk_under_mask": Flag(
        "edge",
        "Finite numbers under False in the mask that must not matter.",
        "The loss depends on what happens to lie in the padding.",
        pitfalls=("C19", "C36"),
    ),
    "nan_under_mask": Flag(
        "edge",
        "NaN or inf under False in the mask. 0 * nan is nan: select first, never multiply by the mask.",
        "One NaN in the padding turns the whole update into NaN, and the model is lost.",
        (f"{VERL}/pull/2377",),
        ("C60",),
    ),
    "empty_row": Flag(
        "edge",
        "A completion without any chosen token.",
        "0 / 0 gives NaN, or the row is counted and everything else is scaled down.",
        pitfalls=("C61", "R13"),
    ),
    "all_masked": Flag(
        "edge",
        "A batch without any chosen token: the loss is 0, with gradient 0.",
        "0 / 0 gives NaN, and the model is lost.",
        pitfalls=("C61", "R13"),
    ),
    "rows_equal_columns": Flag(
        "edge",
        "As many rows as columns, so that one number a row and one a column cannot be told apart by broadcasting.",
        "Advantages of other completions are silently used, in batches of this one shape only.",
        pitfalls=("C09",),
    ),
    "one_token": Flag(
        "edge", "A single token.", "A dimension is squeezed away, or a deviation of one number is taken."
    ),
    "far_log_ratio": Flag(
        "edge",
        "A log-ratio beyond 20 nats. Only that everything is finite, and the gradient's sign, are checked.",
        "exp overflows: a finite loss with a NaN gradient, which a check of the loss does not see.",
        (f"{OPENRLHF}/issues/1293",),
        ("C27", "R04", "R05"),
    ),
    "tie_that_rounds": Flag(
        "edge",
        "Equal numbers whose mean in float32 is not that number, such as 0.1 eight times: exactly 0 is right.",
        "The rounding error of the mean, divided by a tiny deviation or eps, becomes an advantage of any size: the "
        "whole group is pushed the same way by chance.",
        (OPENRLHF_0_11_2, RLHF_BOOK_A66B0BF),
        ("C42", "R03"),
    ),
    "group_of_one": Flag(
        "edge",
        "One sample a prompt has no siblings to be compared with: it must be refused.",
        "Unrefused it gives the raw reward, which drifts with the reward's mean; 0, so that nothing is trained; or "
        "NaN, and the model is lost.",
        (f"{OPENRLHF}/issues/1250", VERL_0_9_1, RLHF_BOOK_A66B0BF),
        ("C43", "R11", "R12"),
    ),
    "unscored": Flag(
        "edge",
        "Completions that could not be scored: their reward is NaN, their advantage 0, and they enter no statistic.",
        "One completion that a checker failed on turns its group into NaN, or moves its siblings' baseline.",
        (f"{TRL}/pull/5353",),
        ("C53",),
    ),
    "micro_batch": Flag(
        "edge",
        "A part of a batch, with the denominator of the whole: the parts add up to the batch.",
        "The gradient depends on how the batch was split over steps or devices.",
        (f"{OPEN_INSTRUCT}/pull/1161", f"{TRL}/pull/2647"),
        ("C02", "C03", "C04", "C11", "R07", "R08", "R22"),
    ),
}


def bug(
    about: str, effect: str, steps: Mapping[str, Step] | None = None, settings: Mapping[str, Any] | None = None,
    pitfalls: tuple[str, ...] = (), links: tuple[str, ...] = (),
) -> Alternative:  # fmt: skip
    """Somebody's mistake."""
    return Alternative(Flag("bug", about, effect, links, pitfalls), steps or {}, settings or {})


def variant(
    about: str, effect: str, steps: Mapping[str, Step] | None = None, settings: Mapping[str, Any] | None = None,
    pitfalls: tuple[str, ...] = (), links: tuple[str, ...] = (),
) -> Alternative:  # fmt: skip
    """Somebody's choice."""
    return Alternative(Flag("variant", about, effect, links, pitfalls), steps or {}, settings or {})


def full(rows: int, columns: int) -> list[list[bool]]:
    return [[True] * columns for _ in range(rows)]


def hidden(x: list[list[Any]], mask: list[list[bool]], junk: Any) -> list[list[Any]]:
    """x with ``junk`` wherever the mask is False."""
    return [[v if m else junk for v, m in zip(row, marks, strict=True)] for row, marks in zip(x, mask, strict=True)]


def marks(rows: str) -> list[list[bool]]:
    """A mask as one sees it: "110 101" is two rows; 1 is a token that the policy chose."""
    return [[c == "1" for c in row] for row in rows.split()]


def entries(x: Matrix, marks: Marks) -> list[list[Dual]]:
    """The chosen entries of each row."""
    return [[v for v, m in zip(row, on, strict=True) if m] for row, on in zip(x, marks, strict=True)]


def chosen(xs: Row, marks: Sequence[bool]) -> list[Dual]:
    return [x for x, m in zip(xs, marks, strict=True) if m]


def without(alternatives: Mapping[str, Alternative], *names: str) -> dict[str, Alternative]:
    return {k: a for k, a in alternatives.items() if k not in names}


def plus(x: Numbers, y: Numbers) -> Numbers:
    return [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(x, y, strict=True)]
