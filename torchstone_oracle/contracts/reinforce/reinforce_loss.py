"""reinforce_loss: the whole loss of REINFORCE: baseline, entropy, reduction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import core, reinforce
from ...contract import Alternative, Argument, Case, Group, Inputs, Objective, Setting
from ...core import Mask
from ...numbers import Dual, dual, mean, stop, total
from ..shared.common import (
    EDGES,
    INF,
    LOG_PROBS,
    MASK,
    NAN,
    TRL,
    VERL,
    WILLIAMS,
    Settings,
    Steps,
    bug,
    full,
    hidden,
    marks,
)
from ..shared.means import ALL_ROWS, EMPTY_ROWS, MEANS, MULTIPLIED, SUMMED, UNMASKED
from ..shared.policy_surrogates import ENTROPY
from .reinforce_surrogate import A_3, P_3, P_GAPS, P_RAGGED, SURROGATES, WEIGHED, WRONG_AXIS, A, P, along_columns, at


def whole_loss(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """reinforce.reinforce_token_loss at each token, and one number out of them."""
    log_probs, mask = inputs["log_probs"], steps["mask"](inputs["mask"])
    width = len(mask[0])

    def advantage(b: int, t: int) -> Dual:
        earned = stop(steps["spread"](inputs["returns"], b, t, width))
        return dual(steps["baseline"](earned, stop(steps["spread_baseline"](inputs.get("baseline", 0), b, t, width))))

    def token(b: int, t: int) -> Dual:
        entropy = steps["entropy"](at(inputs.get("entropies", 0), b, t), log_probs[b][t])
        bonus = dual(settings["entropy_coef"]) * entropy if settings["entropy_coef"] else Dual(0)
        return steps["token"](steps["surrogate"], log_probs[b][t], advantage(b, t), bonus)

    def over(entry: Callable[[int, int], Any]) -> list[list[Any]]:
        return [[entry(b, t) if m else None for t, m in enumerate(row)] for b, row in enumerate(mask)]

    losses, advantages = steps["rows"](over(token), mask), over(advantage)
    denominator = steps["denominator"](None, mask)
    value = steps["reduce"](losses, mask, denominator, settings, advantages)
    value = steps["finish"](value, settings, mask) - settings["entropy_coef"] * steps["beside"](inputs, mask)
    outputs = {"loss": dual(value + steps["hidden"](log_probs, mask)), "advantages": core.token_mean(advantages, mask)}
    if "entropies" in inputs:
        outputs["entropy"] = stop(core.token_mean(over(lambda b, t: inputs["entropies"][b][t]), mask))
    return outputs


def no_bonus(entropy: Dual, log_prob: Dual) -> Dual:
    return Dual(0)


def of_all(inputs: Inputs) -> list[Dual]:
    """The entropies of all places; none, if they are not given."""
    return [h for row in inputs.get("entropies", [[Dual(0)]]) for h in row]


def of_chosen(inputs: Inputs, mask: Mask) -> list[Dual]:
    rows = inputs.get("entropies", [[Dual(0)] * len(row) for row in mask])
    return [h for row in zip(rows, mask, strict=True) for h, m in zip(*row, strict=True) if m]


REDUCTIONS = {"token_mean": core.token_mean, "sequence_mean": core.sequence_mean, "sequence_sum": core.sequence_sum}


def by_name(losses: Any, mask: Mask, denominator: Any, settings: Settings, advantages: Any) -> Dual:
    return REDUCTIONS[settings["reduce"]](losses, mask, denominator)


def advantages_as_mask(losses: Any, mask: Mask, denominator: Any, settings: Settings, advantages: Any) -> Dual:
    """sum A x / sum A over the chosen tokens: a mean with the advantages in the mask's place."""
    pairs = [(x, a) for row in zip(losses, advantages, strict=True) for x, a in zip(*row, strict=True) if a is not None]
    return total(x * a for x, a in pairs) / total(a for _, a in pairs)


def row_sum_everywhere(losses: list[list[Any]], mask: Mask) -> list[list[Any]]:
    """Each token has the loss of its whole row: [B 1] was multiplied by a mask [B T]."""
    sums = [total(core.chosen(*row)) for row in zip(losses, mask, strict=True)]
    return [[s if m else None for m in row] for s, row in zip(sums, mask, strict=True)]


def choices(reduce: str, entropy_coef: float) -> dict[str, Any]:
    return {"reduce": reduce, "entropy_coef": entropy_coef}


def without_steps(name: str) -> Alternative:
    """A mean of ``reductions``, as a choice of the setting ``reduce``."""
    return Alternative(MEANS[name].flag, settings={"reduce": name})


H = [[1.0, 0.5, 0.75], [0.25, 1.5, 0.125]]


def learnt(comment: str, log_probs: Any, returns: Any, mask: Mask, *flags: str, **more: Any) -> Case:
    return Case(comment, {"log_probs": log_probs, "returns": returns, "mask": mask, **more}, flags)


LOSS_CASES = (
    learnt("a return a token, all chosen", P, A, full(2, 3)),
    learnt("a return a sequence, all chosen", P, [2.0, -1.5], full(2, 3)),
    learnt("ragged, a return a token", P, A, P_RAGGED, "ragged_mask"),
    learnt("ragged, a return a sequence, a baseline a sequence", P, [2.0, -1.5], P_RAGGED, "ragged_mask",
           baseline=[0.5, 0.25]),
    learnt("gaps, one baseline for all", P, A, P_GAPS, "gaps_in_mask", baseline=0.75),
    learnt("a critic's baseline a token", P, A, full(2, 3), baseline=[[0.5, 0.25, 1.0], [-0.5, 2.0, 1.5]]),
    learnt("64 in the padding", hidden(P, P_RAGGED, 64.0), hidden(A, P_RAGGED, -64.0), P_RAGGED, "ragged_mask",
           "junk_under_mask"),
    learnt("NaN and -inf in the gaps", hidden(P, P_GAPS, -INF), hidden(A, P_GAPS, NAN), P_GAPS, "gaps_in_mask",
           "nan_under_mask"),
    learnt("a row without a token", P_3, [2.0, 8.0, -1.5], marks("110 000 111"), "empty_row", "rows_equal_columns"),
    learnt("no token at all", P, A, marks("000 000"), "all_masked"),
    learnt("three rows of three, a return a sequence", P_3, [2.0, -1.5, 0.5], full(3, 3), "rows_equal_columns"),
    learnt("three rows of three, a return a token", P_3, A_3, marks("111 110 100"), "rows_equal_columns"),
    learnt("three rows of three, a baseline a sequence", P_3, A_3, full(3, 3), "rows_equal_columns",
           baseline=[1.0, -0.5, 0.25]),
    learnt("a row without a token, and without a return", P, [NAN, 2.0], marks("000 110"), "empty_row",
           "nan_under_mask"),
    learnt("one token", [[-0.5]], [-3.0], [[True]], "one_token"),
)  # fmt: skip
ENTROPY_CASES = (
    learnt("entropies, all chosen", P, A, full(2, 3), entropies=H),
    learnt("entropies, ragged, a baseline", P, [2.0, -1.5], P_RAGGED, "ragged_mask", entropies=H, baseline=0.5),
    learnt("entropies, NaN in the gaps", hidden(P, P_GAPS, NAN), A, P_GAPS, "gaps_in_mask", "nan_under_mask",
           entropies=hidden(H, P_GAPS, NAN)),
)  # fmt: skip

OBJECTIVE = Objective(
    name="reinforce_loss",
    about="REINFORCE with an optional baseline and entropy bonus.",
    tags=("REINFORCE.4",),
    source=(f"{WILLIAMS}, theorem 1", "the bonus: Williams and Peng, 1991"),
    arguments={
        "log_probs": LOG_PROBS,
        "returns": WEIGHED,
        "mask": MASK,
        "baseline": Argument("", "reward units; a number, [B] one a sequence, or [B T] one a token; a constant"),
        "entropies": Argument("B T", "nats", gradient=True),
    },
    returns={
        "loss": Argument("", "reward units x nats"),
        "advantages": Argument("", "reward units, mean over tokens"),
        "entropy": Argument("", "nats, mean over tokens"),
    },
    metrics=("advantages", "entropy"),
    settings={
        "reduce": Setting("From a loss per token to one number.", tuple(REDUCTIONS), free=True),
        "entropy_coef": Setting("Weight of the entropy bonus.", (0.0, 0.5, 0.01)),
    },
    compute=whole_loss,
    steps={
        "mask": lambda mask: mask,
        "spread": at,
        "spread_baseline": at,
        "baseline": lambda earned, baseline: earned - baseline,
        "surrogate": reinforce.reinforce_surrogate,
        "entropy": lambda entropy, log_prob: entropy,
        "token": lambda surrogate, log_prob, advantage, bonus: surrogate(log_prob, advantage) - bonus,
        "beside": lambda inputs, mask: Dual(0),
        "rows": lambda losses, mask: losses,
        "denominator": lambda denominator, mask: denominator,
        "reduce": by_name,
        "finish": lambda value, settings, mask: value,
        "hidden": lambda x, mask: 0,
    },
    alternatives={
        **{name: without_steps(name) for name in REDUCTIONS},
        **SURROGATES,
        "wrong_axis": WRONG_AXIS,
        "baseline_wrong_axis": bug(
            "One baseline a sequence is laid along the columns instead of the rows, where B = T lets it.",
            "Tokens get the baseline of another completion, in batches of this one shape only.",
            {"spread_baseline": along_columns},
            pitfalls=("C09",),
        ),
        "baseline_added": bug(
            "The baseline is added instead of taken off.",
            "Twice the noise that the baseline was to remove.",
            {"baseline": lambda earned, baseline: earned + baseline},
        ),
        "baseline_ignored": bug(
            "The baseline is not used.",
            "Right on average, and far noisier.",
            {"baseline": lambda earned, baseline: earned},
        ),
        "entropy_sign_flipped": bug(
            "The entropy is added to the loss: a price instead of a bonus.",
            "The policy collapses.",
            {"entropy": lambda entropy, log_prob: -dual(entropy)},
        ),
        "entropy_ignored": bug(
            "The entropy bonus has no effect.",
            "The policy collapses sooner than its coefficient promises.",
            {"entropy": lambda entropy, log_prob: Dual(0)},
        ),
        **ENTROPY,
        "entropy_in_the_advantage": bug(
            "The bonus is added to the advantage, as a constant.",
            "It weighs log pi: where the policy was unsure, the token that was drawn is made more likely.",
            {"token": lambda surrogate, log_prob, advantage, bonus: surrogate(log_prob, advantage + stop(bonus))},
        ),
        "entropy_unmasked": bug(
            "The bonus is averaged over all entries, those under False too.",
            "Padding is paid for its entropy, and the bonus depends on how much padding there is.",
            {"entropy": no_bonus, "beside": lambda inputs, mask: mean(of_all(inputs))},
            pitfalls=("C60",),
        ),
        "entropy_summed": bug(
            "The bonus is summed over the tokens that count, and not averaged.",
            "It grows with the number of tokens in the batch, until it drowns the reward.",
            {"entropy": no_bonus, "beside": lambda inputs, mask: total(of_chosen(inputs, mask))},
            pitfalls=("C02",),
        ),
        "row_sum_everywhere": bug(
            "The loss of the whole sequence [B 1] is broadcast against the mask [B T].",
            "A sequence counts once for each of its tokens: long answers weigh with the square of their length.",
            {"rows": row_sum_everywhere},
            pitfalls=("C09", "C25"),
            links=(f"{TRL}/issues/6654", f"{TRL}/issues/3823"),
        ),
        "advantages_as_mask": bug(
            "The advantages were passed where the mask belongs: sum A x / sum A.",
            "Bad completions are reinforced like good ones, as A enters squared; the sum may be near 0.",
            {"reduce": advantages_as_mask},
            pitfalls=("C19",),
            links=(f"{VERL}/pull/2513",),
        ),
        "summed": SUMMED,
        "empty_rows_counted": ALL_ROWS,
        "unmasked": UNMASKED,
        "multiplied_by_mask": MULTIPLIED,
        "zero_by_zero": EMPTY_ROWS,
    },
    edges=EDGES,
    groups=(
        Group(choices("sequence_sum", 0.0), LOSS_CASES),
        Group(choices("token_mean", 0.0), LOSS_CASES[:5] + LOSS_CASES[8:10]),
        Group(choices("sequence_mean", 0.0), LOSS_CASES[:5] + LOSS_CASES[8:10]),
        Group(choices("sequence_sum", 0.5), ENTROPY_CASES),
        Group(choices("token_mean", 0.01), ENTROPY_CASES[:2]),
        Group(choices("sequence_mean", 0.01), ENTROPY_CASES[:2]),
    ),
)  # fmt: skip
