"""What goes wrong in a loss of a policy: the ratio, its level, the advantages."""

from __future__ import annotations

from collections.abc import Sequence

from ... import ppo
from ...contract import Alternative, Flag, Inputs
from ...numbers import Dual, dual, mean, sqrt, stop, total
from . import policy
from .common import OPEN_INSTRUCT, TRL, TRL_1_16_0, VERL, Row, Settings, chosen


def new_as_old(inputs: Inputs, b: int) -> Row:
    return [stop(p) for p in inputs["log_probs"][b]]


def other_row(inputs: Inputs, b: int) -> Row:
    return [stop(q) for q in inputs["old_log_probs"][b - 1]]


def one_later(inputs: Inputs, b: int) -> Row:
    row = inputs["old_log_probs"][b]
    return [stop(q) for q in [*row[1:], row[0]]]


def inverted(log_prob: Dual, old_log_prob: Dual) -> Dual:
    return -ppo.log_ratio(log_prob, old_log_prob)


def sequence_level(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    """One log-ratio a sequence: the mean of its tokens'."""
    return [mean(chosen(log_ratios, marks))] * len(log_ratios)


def sequence_product(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    """One log-ratio a sequence: the sum of its tokens'."""
    return [total(chosen(log_ratios, marks))] * len(log_ratios)


def unmasked_level(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    """The mean over the padded row."""
    return [mean(log_ratios)] * len(log_ratios)


def negated_advantage(inputs: Inputs, b: int, t: int) -> Dual:
    return -policy.advantage(inputs, b, t)


def mask_as_advantage(inputs: Inputs, b: int, t: int) -> Dual:
    return dual(int(inputs["mask"][b][t]))


def advantage_of_column(inputs: Inputs, b: int, t: int) -> Dual:
    """[B] meets [B T] by broadcasting: the advantage of row t at column t. Only B = T lets it pass."""
    given = inputs["advantages"]
    if len(given) != len(inputs["mask"][b]):
        return policy.advantage(inputs, b, t)
    return stop(given[t]) if not isinstance(given[t], list) else stop(given[t][b])


def whitened_advantage(inputs: Inputs, b: int, t: int) -> Dual:
    """Advantages minus their mean, over their deviation, in the loss once more."""
    all_of_them = [
        policy.advantage(inputs, i, j) for i, marks in enumerate(inputs["mask"]) for j, m in enumerate(marks) if m
    ]
    return whitened(policy.advantage(inputs, b, t), all_of_them, 1)


def whitened_in_row(inputs: Inputs, b: int, t: int) -> Dual:
    """Advantages minus the mean of their row's, over its deviation, in the loss once more."""
    row = [policy.advantage(inputs, b, j) for j, m in enumerate(inputs["mask"][b]) if m]
    return whitened(policy.advantage(inputs, b, t), row, 0)


def whitened(advantage: Dual, among: Sequence[Dual], correction: int) -> Dual:
    """Less the mean of some, over their deviation by n - ``correction``; as it is where they are too few."""
    if len(among) <= correction:
        return advantage
    centre = mean(among)
    spread = sqrt(total((a - centre) * (a - centre) for a in among) / (len(among) - correction))
    return (advantage - centre) / (spread + dual("1e-8"))


RATIO = {
    "new_as_old": Alternative(
        Flag(
            "bug",
            "The new log-probs, detached, are taken as the old ones: the ratio is always 1.",
            "The clip never acts, and nothing corrects for the policy that really sampled.",
            (f"{OPEN_INSTRUCT}/pull/755",),
            ("C15",),
        ),
        {"old": new_as_old},
    ),
    "old_of_another_row": Alternative(
        Flag(
            "bug",
            "Old log-probs belong to another completion: the batch was filtered or sorted, they were not.",
            "Ratios are noise; most tokens are clipped, and the rest is weighted at random.",
            (f"{TRL}/pull/4454",),
            ("C20",),
        ),
        {"old": other_row},
    ),
    "old_one_later": Alternative(
        Flag(
            "bug",
            "Old log-probs are shifted by one position.",
            "Ratios compare different tokens: most are clipped, and the rest is weighted at random.",
            (f"{VERL}/pull/3287",),
            ("C54",),
        ),
        {"old": one_later},
    ),
    "inverted_ratio": Alternative(
        Flag(
            "bug",
            "pi_old / pi in place of pi / pi_old.",
            "Good tokens are made rarer and bad ones likelier: the policy gets worse with every step.",
        ),
        {"log_ratio": inverted},
    ),
}
LEVELS = {
    "sequence_ratio": Alternative(
        Flag(
            "variant",
            "One ratio a sequence, the geometric mean of its tokens' (GSPO).",
            "A completion is clipped, or kept, as a whole.",
            ("https://arxiv.org/abs/2507.18071",),
        ),
        {"level": sequence_level},
    ),
    "sequence_product": Alternative(
        Flag(
            "variant",
            "One ratio a sequence, the product of its tokens' (RLOO in TRL 1.16.0).",
            "Exact, and of a variance that grows with every token: nearly all long completions are clipped.",
            (TRL_1_16_0,),
        ),
        {"level": sequence_product},
    ),
}
ADVANTAGES = {
    "negated_advantages": Alternative(
        Flag(
            "bug",
            "The advantage's sign is flipped before the clip.",
            "The policy unlearns what was rewarded, and the clip acts on the wrong side.",
        ),
        {"advantage": negated_advantage},
    ),
    "mask_as_advantages": Alternative(
        Flag(
            "bug",
            "The mask is passed where the advantages belong, or the reverse.",
            "Every token counts as good: the policy reinforces whatever it sampled.",
            (f"{VERL}/pull/2513",),
            ("C19",),
        ),
        {"advantage": mask_as_advantage},
    ),
    "advantages_along_columns": Alternative(
        Flag(
            "bug",
            "Advantages [B] are broadcast along the columns. Only a batch with as many rows as columns lets it pass.",
            "In such batches every token gets the advantage of another completion.",
            pitfalls=("C09",),
        ),
        {"advantage": advantage_of_column},
    ),
    "whitened_advantages": Alternative(
        Flag(
            "variant",
            "The loss whitens the advantages over the batch's tokens by itself.",
            "A batch of good completions is pushed down in half of its tokens; the scale of rewards is lost.",
            (f"{VERL}/pull/1527", "https://github.com/pytorch/rl/issues/1033"),
        ),
        {"advantage": whitened_advantage},
    ),
}
