"""What all losses of a policy share: the computation, what goes wrong in it, and the cases.

A loss of this family is read from left to right, and each word is a step that an alternative may replace:

    log_ratio -> level -> surrogate -> (+ kl_weight * kl) -> reduce -> sign

with ``old`` (whose log-probs are the old ones) and ``advantage`` (which number belongs to which token) at its left end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import core, ppo
from ..contract import Alternative, Argument, Case, Flag, Inputs, Setting, Step
from ..numbers import Dual, absolute, bounded_exp, clip, dual, exp, maximum, mean, minimum, sqrt, stop, total
from .common import CONSTANT_LOG_PROBS, EDGES, INF, LOG_PROBS, MASK, NAN, full, hidden

Settings = Mapping[str, Any]
Row = Sequence[Dual]
Matrix = list[list[Dual]]
Marks = list[list[bool]]

TRL, VERL = "https://github.com/huggingface/trl", "https://github.com/volcengine/verl"
OPENRLHF, LIGER = "https://github.com/OpenRLHF/OpenRLHF", "https://github.com/linkedin/Liger-Kernel"
OPEN_INSTRUCT, PRIME_RL = "https://github.com/allenai/open-instruct", "https://github.com/PrimeIntellect-ai/prime-rl"
RLHF_BOOK = "https://github.com/natolambert/rlhf-book"

# ---------------------------------------------------------------------------------------------------------- computation


def places(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> list[list[tuple[Dual, Dual, Dual, Dual]]]:
    """At every position, masked ones too: log-prob, its own log-ratio, the log-ratio that counts, the advantage."""
    result = []
    for b, row in enumerate(inputs["log_probs"]):
        advantages = [steps["advantage"](inputs, b, t) for t in range(len(row))]
        own = [steps["log_ratio"](p, q) for p, q in zip(row, steps["old"](inputs, b), strict=True)]
        counts = steps["level"](own, advantages, inputs["mask"][b], settings)
        result.append(list(zip(row, own, counts, advantages, strict=True)))
    return result


def token_losses(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """The loss of each chosen token; anything elsewhere."""
    found = places(inputs, settings, steps)
    return {
        "losses": [
            [steps["select"](steps["surrogate"](p, u, a, settings), m) for (p, _, u, a), m in zip(*row, strict=True)]
            for row in zip(found, inputs["mask"], strict=True)
        ]
    }


def policy_loss(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """The loss. Every entry is computed, the masked ones too: ``reduce`` selects."""
    found, marks = places(inputs, settings, steps), inputs["mask"]
    losses = [[steps["surrogate"](p, u, a, settings) for p, _, u, a in row] for row in found]
    loss = steps["reduce"](losses, marks, settings)
    if inputs.get("ref_log_probs") is not None:
        kls = kl_of(inputs, found, steps)
        loss = loss + steps["kl_weight"](settings["beta"]) * steps["kl_reduce"](steps["reduce"], kls, marks, settings)
    return {"loss": steps["sign"](loss)}


def kl_of(inputs: Inputs, found: list[list[tuple[Dual, Dual, Dual, Dual]]], steps: Mapping[str, Step]) -> Matrix:
    return [
        [steps["kl"](p, q, u) for (p, u, _, _), q in zip(*row, strict=True)]
        for row in zip(found, inputs["ref_log_probs"], strict=True)
    ]


def policy_loss_and_metrics(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """The loss, and what frameworks report with it."""
    found, marks = places(inputs, settings, steps), inputs["mask"]
    lows = [[steps["low"](u, a, settings) for _, _, u, a in row] for row in found]
    highs = [[steps["high"](u, a, settings) for _, _, u, a in row] for row in found]
    outputs = policy_loss(inputs, settings, steps) | {
        "clip_ratio/low_mean": core.token_mean(lows, marks),
        "clip_ratio/high_mean": core.token_mean(highs, marks),
    }
    if inputs.get("ref_log_probs") is not None:
        outputs["kl"] = stop(steps["kl_metric"](kl_of(inputs, found, steps), marks))
    return outputs


# The right steps.


def old_log_probs(inputs: Inputs, b: int) -> Row:
    return [stop(q) for q in inputs["old_log_probs"][b]]


def advantage(inputs: Inputs, b: int, t: int) -> Dual:
    """One a sequence [B] or one a token [B T]."""
    given = inputs["advantages"][b]
    return stop(given[t] if isinstance(given, list) else given)


def each_token(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    """Every token keeps its own ratio."""
    return list(log_ratios)


def clipped(log_prob: Dual, log_ratio: Dual, a: Dual, settings: Settings) -> Dual:
    return ppo.clipped_surrogate(log_ratio, a, settings["epsilon"], settings["epsilon_high"], settings.get("dual_clip"))


def clipped_low(log_ratio: Dual, a: Dual, settings: Settings) -> Dual:
    return dual(int(ppo.is_clipped_low(log_ratio, a, settings["epsilon"])))


def clipped_high(log_ratio: Dual, a: Dual, settings: Settings) -> Dual:
    return dual(int(ppo.is_clipped_high(log_ratio, a, settings["epsilon"], settings["epsilon_high"])))


def k3(log_prob: Dual, ref_log_prob: Dual, log_ratio: Dual) -> Dual:
    return core.k3(log_prob, ref_log_prob)


def as_asked(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """The reduction that the setting names."""
    if settings["reduce"] == "fixed_length_mean":
        return core.fixed_length_mean(x, marks, settings["length"])
    reductions = {"token_mean": core.token_mean, "sequence_mean": core.sequence_mean, "sequence_sum": core.sequence_sum}
    return reductions[settings["reduce"]](x, marks)


STEPS: dict[str, Step] = {
    "old": old_log_probs,
    "advantage": advantage,
    "log_ratio": ppo.log_ratio,
    "level": each_token,
    "surrogate": clipped,
    "kl": k3,
    "kl_weight": lambda beta: dual(beta),
    "kl_reduce": lambda reduce, x, marks, settings: reduce(x, marks, settings),
    "reduce": as_asked,
    "select": lambda loss, m: loss if m else None,
    "sign": lambda loss: loss,
    "low": clipped_low,
    "high": clipped_high,
    "kl_metric": core.token_mean,
}

# ------------------------------------------------------------------------------------------- what goes wrong: reduction


def entries(x: Matrix, marks: Marks) -> list[list[Dual]]:
    """The chosen entries of each row."""
    return [[v for v, m in zip(row, on, strict=True) if m] for row, on in zip(x, marks, strict=True)]


def token_mean(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.token_mean(x, marks)


def sequence_mean(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.sequence_mean(x, marks)


def sequence_sum(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.sequence_sum(x, marks)


def plain_sum(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return total(v for row in entries(x, marks) for v in row)


def padded_width(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """Sum over B T: the padding is not summed, but counted."""
    return plain_sum(x, marks, settings) / (len(x) * len(x[0]))


def width_only(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """Sum over T, with no 1 / B."""
    return plain_sum(x, marks, settings) / len(x[0])


def unmasked_mean(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """Mean over every entry, whatever it is."""
    return mean([v for row in x for v in row])


def mask_multiplied(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """The right reduction of x * mask, where 0 * nan is nan."""
    product = [[v * int(m) for v, m in zip(row, on, strict=True)] for row, on in zip(x, marks, strict=True)]
    masked = [[v for v, m in zip(row, on, strict=True) if not m] for row, on in zip(product, marks, strict=True)]
    return as_asked(product, marks, settings) + total(v for row in masked for v in row)


def zero_over_zero(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """The count of an empty row, or batch, is divided by."""
    rows = entries(x, marks)
    if settings["reduce"] == "sequence_mean":
        return total(total(row) / dual(len(row)) for row in rows) / len(rows)
    count = sum(len(row) for row in rows) if settings["reduce"] == "token_mean" else sum(1 for row in rows if row)
    return as_asked(x, marks, settings) if count else dual(0) / dual(0)


def empty_rows_counted(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """Means over rows divide by B, a row without a chosen token among them."""
    kept = sum(1 for row in marks if any(row))
    return as_asked(x, marks, settings) * kept / len(marks)


def row_loss_times_length(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """One loss a row, put back on each of its tokens, then averaged: a row of L tokens counts L times too often."""
    return total(total(row) * len(row) for row in entries(x, marks)) / max(1, sum(len(r) for r in entries(x, marks)))


TOKEN_MEAN = Flag(
    "variant",
    "Every token of the batch weighs the same (DAPO).",
    "Long completions have more say than under a mean of row means.",
    ("https://arxiv.org/abs/2503.14476", f"{TRL}/pull/2881"),
    ("C01",),
)
SEQUENCE_MEAN = Flag(
    "variant",
    "Mean in each row, then over rows (GRPO as published).",
    "A token of a long completion weighs less: long wrong answers are punished less per token.",
    ("https://arxiv.org/abs/2402.03300", "https://arxiv.org/abs/2503.20783"),
    ("C01", "C10"),
)
SEQUENCE_SUM = Flag(
    "variant",
    "Sum in each row, then mean over rows.",
    "The loss grows with the length, and with it the step: the learning rate means something else.",
    ("https://arxiv.org/abs/2503.20783", "https://arxiv.org/abs/2602.05261"),
    ("C07",),
)
REDUCE_VARIANTS = {
    "token_mean": Alternative(TOKEN_MEAN, {"reduce": token_mean}),
    "sequence_mean": Alternative(SEQUENCE_MEAN, {"reduce": sequence_mean}),
    "sequence_sum": Alternative(SEQUENCE_SUM, {"reduce": sequence_sum}),
}
REDUCE_BUGS = {
    "padded_width": Alternative(
        Flag(
            "bug",
            "Divided by rows x columns of the padded batch: padding is not summed, but counted.",
            "The step depends on the longest completion that happens to be in the batch.",
            (f"{TRL}/pull/6439", f"{TRL}/issues/6369"),
            ("C06", "C08"),
        ),
        {"reduce": padded_width},
    ),
    "width_only": Alternative(
        Flag(
            "bug",
            "Divided by the padded width, and not by the number of rows.",
            "Twice the batch is twice the step; micro-batches change the gradient.",
            (f"{VERL}/pull/4510", f"{VERL}/pull/4769", f"{TRL}/issues/3138"),
            ("C08", "R07"),
        ),
        {"reduce": width_only},
    ),
    "unmasked_mean": Alternative(
        Flag(
            "bug",
            "The mean is taken over all entries, padding and tool output included.",
            "The policy is trained on tokens that it never chose.",
            pitfalls=("C36", "C58"),
        ),
        {"reduce": unmasked_mean},
    ),
    "mask_multiplied": Alternative(
        Flag(
            "bug",
            "What is masked is multiplied by 0, not left out.",
            "One NaN or inf in the padding turns the whole update into NaN.",
            (f"{VERL}/pull/2377",),
            ("C60",),
        ),
        {"reduce": mask_multiplied},
    ),
    "zero_over_zero": Alternative(
        Flag(
            "bug",
            "A count of no tokens is divided by.",
            "A completion, or a batch, without a chosen token turns the whole update into NaN.",
            (f"{VERL}/pull/782", f"{OPEN_INSTRUCT}/pull/1685"),
            ("C61", "R13"),
        ),
        {"reduce": zero_over_zero},
    ),
    "empty_rows_counted": Alternative(
        Flag(
            "variant",
            "A row without a chosen token counts in the mean over rows.",
            "Every other completion is scaled down when one is filtered out.",
            (TRL,),
            ("C61",),
        ),
        {"reduce": empty_rows_counted},
    ),
    "row_loss_times_length": Alternative(
        Flag(
            "bug",
            "One loss per sequence is spread over its tokens and multiplied by the mask once more.",
            "A completion of L tokens counts L times too often, its gradient L^2 times.",
            (f"{TRL}/issues/3823", f"{TRL}/issues/6654", "https://github.com/unslothai/unsloth-zoo/issues/1282"),
            ("C09", "C25"),
        ),
        {"reduce": row_loss_times_length},
    ),
}

LENGTH_ONLY = Alternative(
    Flag(
        "bug",
        "Divided by the constant length, and not by the number of rows.",
        "Twice the batch is twice the step; micro-batches change the gradient.",
        (f"{VERL}/pull/4510", f"{TRL}/issues/3138"),
        ("C08", "R07"),
    ),
    {"reduce": lambda x, marks, settings: plain_sum(x, marks, settings) / settings["length"]},
)

# ----------------------------------------------------------------------------------- what goes wrong: ratio, advantages


def new_as_old(inputs: Inputs, b: int) -> Row:
    return [stop(p) for p in inputs["log_probs"][b]]


def other_row(inputs: Inputs, b: int) -> Row:
    return [stop(q) for q in inputs["old_log_probs"][b - 1]]


def one_later(inputs: Inputs, b: int) -> Row:
    row = inputs["old_log_probs"][b]
    return [stop(q) for q in [*row[1:], row[0]]]


def inverted(log_prob: Dual, old_log_prob: Dual) -> Dual:
    return -ppo.log_ratio(log_prob, old_log_prob)


def chosen(xs: Row, marks: Sequence[bool]) -> list[Dual]:
    return [x for x, m in zip(xs, marks, strict=True) if m]


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
    return -advantage(inputs, b, t)


def mask_as_advantage(inputs: Inputs, b: int, t: int) -> Dual:
    return dual(int(inputs["mask"][b][t]))


def advantage_of_column(inputs: Inputs, b: int, t: int) -> Dual:
    """[B] meets [B T] by broadcasting: the advantage of row t at column t. Only B = T lets it pass."""
    given = inputs["advantages"]
    if len(given) != len(inputs["mask"][b]):
        return advantage(inputs, b, t)
    return stop(given[t]) if not isinstance(given[t], list) else stop(given[t][b])


def whitened_advantage(inputs: Inputs, b: int, t: int) -> Dual:
    """Advantages minus their mean, over their deviation, in the loss once more."""
    all_of_them = [advantage(inputs, i, j) for i, marks in enumerate(inputs["mask"]) for j, m in enumerate(marks) if m]
    if len(all_of_them) < 2:
        return advantage(inputs, b, t)
    centre = mean(all_of_them)
    spread = sqrt(total((a - centre) * (a - centre) for a in all_of_them) / (len(all_of_them) - 1))
    return (advantage(inputs, b, t) - centre) / (spread + dual("1e-8"))


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
            "One ratio a sequence, the product of its tokens' (TRL's RLOO).",
            "Exact, and of a variance that grows with every token: nearly all long completions are clipped.",
            (TRL,),
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

# --------------------------------------------------------------------------------------- what goes wrong: the surrogate


def bounds(settings: Settings) -> tuple[Dual, Dual]:
    return 1 - dual(settings["epsilon"]), 1 + dual(ppo.upper(settings["epsilon"], settings["epsilon_high"]))


def no_clip(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return ppo.importance_surrogate(u, a)


def no_minimum(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -clip(bounded_exp(u), *bounds(settings)) * a


def maximum_of_both(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -maximum(bounded_exp(u) * a, clip(bounded_exp(u), *bounds(settings)) * a)


def only_from_above(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -minimum(bounded_exp(u) * a, minimum(bounded_exp(u), bounds(settings)[1]) * a)


def only_from_below(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -minimum(bounded_exp(u) * a, maximum(bounded_exp(u), bounds(settings)[0]) * a)


def same_width(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return ppo.clipped_surrogate(u, a, settings["epsilon"], None, settings.get("dual_clip"))


def swapped_bounds(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    high = ppo.upper(settings["epsilon"], settings["epsilon_high"])
    return ppo.clipped_surrogate(u, a, high, settings["epsilon"], settings.get("dual_clip"))


def absolute_bound(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    high = ppo.upper(settings["epsilon"], settings["epsilon_high"])
    near = minimum(maximum(bounded_exp(u), bounds(settings)[0]), stop(high))
    return -minimum(bounded_exp(u) * a, near * a)


def clip_in_nats(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    low, high = dual(settings["epsilon"]), dual(ppo.upper(settings["epsilon"], settings["epsilon_high"]))
    return -minimum(bounded_exp(u) * a, exp(clip(u, -low, high)) * a)


def dual_clip(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return ppo.clipped_surrogate(u, a, settings["epsilon"], settings["epsilon_high"], 3)


def no_dual_clip(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return ppo.clipped_surrogate(u, a, settings["epsilon"], settings["epsilon_high"])


def rescaled_between(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    """The clipped branch sees a normalised advantage, the other one the raw advantage (here: twice as large)."""
    return -minimum(bounded_exp(u) * a, clip(bounded_exp(u), *bounds(settings)) * (a / 2))


def no_ratio(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -log_prob * a


def weighted_log_prob(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -stop(clip(bounded_exp(u), *bounds(settings))) * a * log_prob


def log_ratio_as_ratio(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -minimum(u * a, clip(u, *bounds(settings)) * a)


def one_plus_log_ratio(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -minimum((1 + u) * a, clip(1 + u, *bounds(settings)) * a)


def detached_ratio(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return stop(clipped(log_prob, u, a, settings))


SURROGATES = {
    "no_clip": Alternative(
        Flag(
            "variant",
            "The importance-weighted loss without a clip.",
            "Nothing stops one batch from carrying the policy away.",
            ("https://arxiv.org/abs/1707.06347",),
        ),
        {"surrogate": no_clip},
    ),
    "no_minimum": Alternative(
        Flag(
            "bug",
            "Only the clipped branch is kept: the minimum with the unclipped one is missing.",
            "A token that has gone too far the wrong way has no gradient, and never comes back.",
            ("https://arxiv.org/abs/1707.06347",),
        ),
        {"surrogate": no_minimum},
    ),
    "maximum_of_both": Alternative(
        Flag(
            "bug",
            "The more hopeful of the two branches is taken in place of the more pessimistic one.",
            "The clip acts on the way back and not on the way out: the policy runs away.",
        ),
        {"surrogate": maximum_of_both},
    ),
    "clipped_only_above": Alternative(
        Flag(
            "variant",
            "The ratio has an upper bound and no lower one.",
            "Bad tokens are pushed down without end: entropy collapses.",
        ),
        {"surrogate": only_from_above},
    ),
    "epsilon_high_ignored": Alternative(
        Flag(
            "bug",
            "epsilon_high is accepted and not used.",
            "Clip-higher does nothing: rare good tokens are held back as in plain PPO.",
            ("https://arxiv.org/abs/2503.14476",),
        ),
        {"surrogate": same_width, "high": lambda u, a, s: clipped_high(u, a, {**s, "epsilon_high": None})},
    ),
    "bounds_swapped": Alternative(
        Flag(
            "bug",
            "epsilon and epsilon_high have changed places.",
            "The room that was meant for rare good tokens is given to the punishment of bad ones.",
            ("https://arxiv.org/abs/2503.14476",),
        ),
        {
            "surrogate": swapped_bounds,
            "low": lambda u, a, s: clipped_low(u, a, {"epsilon": ppo.upper(s["epsilon"], s["epsilon_high"])}),
            "high": lambda u, a, s: clipped_high(u, a, {**s, "epsilon_high": s["epsilon"]}),
        },
    ),
    "absolute_upper_bound": Alternative(
        Flag(
            "bug",
            "epsilon_high is read as the bound itself and not as 1 + epsilon_high.",
            "Every good token counts as clipped: nothing is reinforced, only punished.",
            ("https://github.com/NovaSky-AI/SkyRL/issues/1928",),
            ("C23", "R17"),
        ),
        {"surrogate": absolute_bound},
    ),
    "clip_in_nats": Alternative(
        Flag(
            "variant",
            "The log-ratio is clipped to [-epsilon, epsilon_high]: bounds exp(-epsilon) and exp(epsilon_high).",
            "The clip is a little wider above and narrower below than its number says.",
            ("https://arxiv.org/abs/2507.20673",),
        ),
        {"surrogate": clip_in_nats},
    ),
    "dual_clip": Alternative(
        Flag(
            "variant",
            "A second bound, c = 3, for bad tokens (dual-clip PPO). verl's default, under the name of PPO's clip.",
            "Bad tokens that have become more than 3 times as likely are no longer corrected.",
            ("https://arxiv.org/abs/1912.09729", VERL),
            ("R18",),
        ),
        {"surrogate": dual_clip},
    ),
    "advantage_rescaled_between_branches": Alternative(
        Flag(
            "bug",
            "The clipped and the unclipped branch see advantages of different scale.",
            "Which branch wins no longer depends on the ratio: the clip acts at random.",
            ("https://github.com/pytorch/rl/issues/1033",),
            ("C21",),
        ),
        {"surrogate": rescaled_between},
    ),
    "no_ratio": Alternative(
        Flag(
            "variant",
            "-A log pi: REINFORCE, with neither ratio nor clip.",
            "Off policy the gradient is biased; on policy only the loss value differs.",
        ),
        {"surrogate": no_ratio},
    ),
    "clipped_weight_times_log_prob": Alternative(
        Flag(
            "variant",
            "The clipped ratio is a constant weight of log pi (CISPO).",
            "No token loses its gradient, and nothing stops a token that has gone too far.",
            ("https://arxiv.org/abs/2506.13585",),
        ),
        {"surrogate": weighted_log_prob},
    ),
    "log_ratio_as_ratio": Alternative(
        Flag(
            "bug",
            "exp is missing: the log-ratio is used as if it were the ratio.",
            "On policy the 'ratio' is 0, which is far below the clip: bad tokens are never punished.",
            ("https://github.com/pytorch/rl",),
            ("C17",),
        ),
        {"surrogate": log_ratio_as_ratio},
    ),
    "one_plus_log_ratio": Alternative(
        Flag(
            "bug",
            "1 + log-ratio in place of the ratio.",
            "Right at the first step; further off, the weight of every token is wrong.",
        ),
        {"surrogate": one_plus_log_ratio},
    ),
    "detached_surrogate": Alternative(
        Flag(
            "bug",
            "No gradient flows through the policy's log-probs.",
            "The loss looks right, and the policy does not learn.",
            pitfalls=("C22",),
        ),
        {"surrogate": detached_ratio},
    ),
}

# ---------------------------------------------------------------------------------------------- what goes wrong: the KL


def k1(p: Dual, q: Dual, u: Dual) -> Dual:
    return core.k1(p, q)


def k2(p: Dual, q: Dual, u: Dual) -> Dual:
    return core.k2(p, q)


def reversed_k3(p: Dual, q: Dual, u: Dual) -> Dual:
    moved = core.k1(p, q)
    return bounded_exp(moved) - 1 - moved


def absolute_k1(p: Dual, q: Dual, u: Dual) -> Dual:
    return absolute(core.k1(p, q))


def clamped_k3(p: Dual, q: Dual, u: Dual) -> Dual:
    return clip(core.k3(p, q), dual(-10), dual(10))


def weighted_k3(p: Dual, q: Dual, u: Dual) -> Dual:
    return bounded_exp(u) * core.k3(p, q)


def k3_moving_as_k2(p: Dual, q: Dual, u: Dual) -> Dual:
    return stop(core.k3(p, q)) + core.k2(p, q) - stop(core.k2(p, q))


def constant_k3(p: Dual, q: Dual, u: Dual) -> Dual:
    return stop(core.k3(p, q))


def kl_to_old(p: Dual, q: Dual, u: Dual) -> Dual:
    return bounded_exp(-u) - 1 + u


def kl_over_all(reduce: Step, x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return mean([v for row in x for v in row])


def kl_token_mean(reduce: Step, x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.token_mean(x, marks)


KL = {
    "k1": Alternative(
        Flag(
            "variant",
            "The log-ratio itself (k1) as the KL in the loss.",
            "Its gradient is 0 on average: nothing holds the policy near the reference.",
            ("http://joschu.net/blog/kl-approx.html", f"{OPEN_INSTRUCT}/issues/534"),
            ("C33", "R02"),
        ),
        {"kl": k1},
    ),
    "k2": Alternative(
        Flag(
            "variant",
            "Half the squared log-ratio (k2): its gradient is that of KL(policy || reference).",
            "A symmetric pull; k3 pulls much harder where the policy is far below the reference.",
            ("http://joschu.net/blog/kl-approx.html", "https://arxiv.org/abs/2506.09477"),
            ("C33", "R02"),
        ),
        {"kl": k2},
    ),
    "reversed_kl": Alternative(
        Flag(
            "bug",
            "Policy and reference are swapped in k3.",
            "The mean is no longer KL(policy || reference), and tokens that the reference prefers are hardly restored.",
            (RLHF_BOOK, "https://github.com/DLR-RM/stable-baselines3/issues/419"),
            ("C32", "R01"),
        ),
        {"kl": reversed_k3},
    ),
    "kl_clamped_at_10": Alternative(
        Flag(
            "bug",
            "The value of k3 is clamped to [-10, 10].",
            "The gradient is 0 exactly where the policy is furthest from the reference.",
            (VERL, OPENRLHF),
            ("R06", "C38"),
        ),
        {"kl": clamped_k3},
    ),
    "ratio_weighted_kl": Alternative(
        Flag(
            "variant",
            "k3 times the ratio to the old policy, with gradient (DeepSeek-V3.2; TRL's default).",
            "Right on samples of an older policy, and its gradient is that of KL(policy || reference).",
            ("https://arxiv.org/abs/2512.02556", f"{TRL}/issues/4638"),
            ("C33",),
        ),
        {"kl": weighted_k3},
    ),
    "k3_with_k2_gradient": Alternative(
        Flag(
            "variant",
            "The value of k3 with the gradient of k2 (verl's k3+).",
            "The reported KL is k3's, the pull is that of k2.",
            (VERL,),
            ("C33",),
        ),
        {"kl": k3_moving_as_k2},
    ),
    "kl_detached": Alternative(
        Flag(
            "bug",
            "The KL enters the loss as a constant.",
            "It is reported and does nothing: the policy drifts away.",
            pitfalls=("C33",),
        ),
        {"kl": constant_k3},
    ),
    "kl_subtracted": Alternative(
        Flag(
            "bug",
            "The KL is subtracted from a loss that is minimised.",
            "The policy is paid for leaving the reference.",
            (f"{VERL}/pull/179",),
            ("C30",),
        ),
        {"kl_weight": lambda beta: -dual(beta)},
    ),
    "kl_twice": Alternative(
        Flag(
            "bug",
            "The KL is counted twice.",
            "The policy stays twice as close to the reference as asked.",
            (f"{VERL}/pull/644",),
            ("C34",),
        ),
        {"kl_weight": lambda beta: 2 * dual(beta)},
    ),
    "beta_ignored": Alternative(
        Flag(
            "bug",
            "beta has no effect: the KL is not in the loss.",
            "Nothing holds the policy near the reference.",
            (f"{OPENRLHF}/issues/768",),
            ("C34",),
        ),
        {"kl_weight": lambda beta: dual(0)},
    ),
    "kl_unmasked": Alternative(
        Flag(
            "bug",
            "The KL is averaged over all entries, the padding included.",
            "The pull depends on how much padding there is, and on what lies in it.",
            ("https://github.com/pytorch/rl", f"{RLHF_BOOK}/pull/216"),
            ("C36",),
        ),
        {"kl_reduce": kl_over_all},
    ),
    "kl_token_mean": Alternative(
        Flag(
            "variant",
            "The KL is a token mean, however the rest is reduced (OpenRLHF).",
            "beta weighs long completions more than the surrogate does.",
            (OPENRLHF,),
        ),
        {"kl_reduce": kl_token_mean},
    ),
    "kl_metric_unmasked": Alternative(
        Flag(
            "bug",
            "The reported KL is averaged over the padding too. The loss is right.",
            "The curve falls when completions get shorter, and an adaptive coefficient follows it.",
            (f"{RLHF_BOOK}/pull/216", f"{TRL}/commit/a236c5750"),
            ("C36",),
        ),
        {"kl_metric": lambda x, marks: mean([v for row in x for v in row])},
    ),
}

# --------------------------------------------------------------------------------------- what goes wrong: sign, metrics

METRIC = Flag(
    "bug",
    "Every ratio out of range is reported as clipped, also where the clip does not act. The loss is right.",
    "The curve says that learning has stopped where it has not.",
    (f"{TRL}/pull/3175", f"{TRL}/pull/3145"),
    ("C17",),
)
LOSS_NEGATED = Alternative(
    Flag(
        "bug",
        "The quantity to maximise is returned as the loss to minimise.",
        "The policy unlearns what was rewarded.",
        pitfalls=("C30",),
    ),
    {"sign": lambda loss: -loss},
)
NEGATED = Alternative(LOSS_NEGATED.flag, {"select": lambda loss, m: -loss if m else None})
OUT_OF_RANGE = Alternative(
    METRIC,
    {
        "low": lambda u, a, s: dual(int(bounded_exp(u) < bounds(s)[0])),
        "high": lambda u, a, s: dual(int(bounded_exp(u) > bounds(s)[1])),
    },
)

# ----------------------------------------------------------------------------------------------- arguments and settings


def without(alternatives: Mapping[str, Alternative], *names: str) -> dict[str, Alternative]:
    return {k: a for k, a in alternatives.items() if k not in names}


ARGUMENTS = {
    "log_probs": LOG_PROBS,
    "old_log_probs": CONSTANT_LOG_PROBS,
    "advantages": Argument("B", "reward, or none"),
    "mask": MASK,
    "ref_log_probs": CONSTANT_LOG_PROBS,
}
WITHOUT_REFERENCE = {k: a for k, a in ARGUMENTS.items() if k != "ref_log_probs"}
LOSS = Argument("", "that of the advantages")
METRICS = {
    "clip_ratio/low_mean": Argument("", "share of tokens"),
    "clip_ratio/high_mean": Argument("", "share of tokens"),
}
KL_METRIC = {"kl": Argument("", "nats")}
EPSILON = Setting("how far below 1 the ratio may go, and above if epsilon_high is None", (0.2, 0.1, 0.3), free=True)
TIGHT_EPSILON = Setting("how far below 1 the ratio of a sequence may go", (3e-4, 0.2), free=True)
TIGHT_EPSILON_HIGH = Setting("how far above 1 the ratio of a sequence may go", (4e-4, None, 0.28), free=True)
EPSILON_HIGH = Setting("how far above 1 the ratio may go; the bound is 1 + epsilon_high", (None, 0.28), free=True)
BETA = Setting("weight of the KL to the reference", (0.04, 0.0, 0.1), free=True)
POLICY_EDGES = {
    **EDGES,
    "on_policy": Flag(
        "edge",
        "The policy is still the one that sampled: every ratio is 1 and the clip is idle.",
        "A ratio that is not 1 here comes from dropout, another precision or another temperature, and clips at random.",
        (f"{VERL}/pull/3119", f"{TRL}/issues/454"),
        ("C16", "C35"),
    ),
    "every_side_of_the_clip": Flag(
        "edge",
        "Good and bad tokens with ratios above, inside and below the clip.",
        "Half of the ways to write a clip wrongly show on one side of it only.",
        ("https://arxiv.org/abs/1707.06347",),
    ),
    "far_from_reference": Flag(
        "edge",
        "A log-ratio to the reference of 3 nats: k3 is above 10.",
        "Where the value is clamped, the pull back to the reference is gone.",
        (VERL, OPENRLHF),
        ("R06",),
    ),
}


def reduction(name: str, free: bool = False) -> Setting:
    usual = ("token_mean", "sequence_mean", "sequence_sum") if free else (name,)
    return Setting("from tokens to one number: a function of torchstone.core", usual, free)


# ------------------------------------------------------------------------------------------------------------ the cases

Numbers = list[list[float]]


def plus(x: Numbers, y: Numbers) -> Numbers:
    return [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(x, y, strict=True)]


OLD = [[-1.5, -0.5, -2.0], [-1.75, -1.75, -1.25]]
MOVED = [[0.5, -0.5, 0.125], [1.25, -0.5, -0.0625]]  # above, below and inside the clip, in both rows
NEW = plus(OLD, MOVED)
REFERENCE = plus(NEW, [[0.5, -0.25, 0.75], [-1.0, 0.25, -0.125]])
GOOD_AND_BAD = [1.0, -0.75]
RAGGED = [[True, True, True], [True, False, False]]
GAPS = [[True, False, True], [False, True, True]]
EMPTY = [[True, True, False], [False, False, False]]

SQUARE_OLD = [[-1.0, -0.5, -2.0], [-0.75, -1.75, -1.25], [-0.25, -1.5, -0.5]]
SQUARE = plus(SQUARE_OLD, [[0.25, -0.5, 0.125], [0.5, -0.25, -0.0625], [-0.125, 0.75, -0.75]])
SQUARE_REFERENCE = plus(SQUARE, [[0.5, -0.25, 0.0], [-0.5, 0.25, 0.125], [0.25, -0.125, 0.5]])

LONG_OLD = [[-1.25, -0.5, -2.0, -0.75], [-1.0, -1.5, -0.25, -2.5], [-0.5, -1.75, -1.25, -1.0]]
LONG = plus(LONG_OLD, [[0.25, -0.125, 0.0, -0.5], [0.5, 0.0625, -0.375, 0.125], [-0.25, 0.125, 0.25, -0.0625]])
LONG_REFERENCE = plus(LONG, [[-0.25, 0.5, 0.125, 0.25], [0.25, -0.5, 0.0, 0.125], [0.375, -0.125, 0.25, 0.5]])
LONG_MASK = [[True, True, True, True], [True, True, False, False], [True, False, True, True]]


def case(
    comment: str,
    new: Numbers,
    old: Numbers,
    advantages: Sequence[float],
    mask: Marks,
    *flags: str,
    reference: Numbers | None = None,
    junk: tuple[float, float, float] | None = None,
    per_token: bool = False,
    **more: Any,
) -> Case:
    """One case; ``junk`` for what lies under the mask in the new, old and reference log-probs."""
    inputs: Inputs = {"log_probs": new, "old_log_probs": old, "mask": mask, "advantages": list(advantages)}
    if reference is not None:
        inputs["ref_log_probs"] = reference
    if per_token:
        inputs["advantages"] = [[a] * len(row) for a, row in zip(advantages, mask, strict=True)]
    if junk is not None:
        names = [k for k in ("log_probs", "old_log_probs", "ref_log_probs") if k in inputs]
        inputs |= {k: hidden(inputs[k], mask, j) for k, j in zip(names, junk, strict=False)}
        if per_token:
            inputs["advantages"] = hidden(inputs["advantages"], mask, junk[1])
    return Case(comment, inputs, flags, **more)


def usual_cases(with_reference: bool, per_token: bool = False) -> tuple[Case, ...]:
    """What every loss of a policy is tried on."""

    def make(comment: str, new: Numbers, old: Numbers, reference: Numbers, *rest: Any, **more: Any) -> Case:
        return case(
            comment, new, old, *rest, reference=reference if with_reference else None, per_token=per_token, **more
        )

    two = (NEW, OLD, REFERENCE)
    square = (SQUARE, SQUARE_OLD, SQUARE_REFERENCE)
    sides, nan, far = "every_side_of_the_clip", "nan_under_mask", "far_log_ratio"
    cases = [
        make("a good and a bad row, ratios above, below and inside the clip", *two, GOOD_AND_BAD, full(2, 3), sides),
        make("the same ratios, the bad row first", *two, [-0.75, 0.5], full(2, 3), sides),
        make("on policy", OLD, OLD, REFERENCE, GOOD_AND_BAD, full(2, 3), "on_policy"),
        make(
            "three rows of unequal length", LONG, LONG_OLD, LONG_REFERENCE, [1.5, -0.5, -1.0], LONG_MASK, "ragged_mask"
        ),
        make("ragged, with junk", *two, [-1.0, 0.5], RAGGED, "ragged_mask", "junk_under_mask", junk=(-3.0, -1.0, -2.0)),
        make("gaps, with junk", *two, GOOD_AND_BAD, GAPS, "gaps_in_mask", "junk_under_mask", junk=(-0.5, -2.5, -4.0)),
        make("NaN under the mask", *two, GOOD_AND_BAD, GAPS, "gaps_in_mask", nan, junk=(NAN, NAN, NAN)),
        make("inf and NaN under the mask", *two, GOOD_AND_BAD, RAGGED, "ragged_mask", nan, junk=(INF, NAN, -INF)),
        make("an empty row", *two, GOOD_AND_BAD, EMPTY, "empty_row"),
        make("no chosen token at all", *two, GOOD_AND_BAD, [[False] * 3] * 2, "all_masked"),
        make("as many rows as columns", *square, [1.0, -0.5, 0.25], full(3, 3), "rows_equal_columns", sides),
        make("one token", [[-1.0]], [[-1.5]], [[-0.5]], [-0.5], full(1, 1), "one_token"),
    ]
    for gap in (25.0, 100.0, 1000.0):
        for a in (1.0, -1.0):
            comment = f"a log-ratio of {gap:g}, advantage {a:g}"
            new, old = [[-0.5, -1.0]], [[-0.5 - gap, -1.125]]
            cases.append(make(comment, new, old, new, [a], full(1, 2), far, result="acceptable", properties=True))
    if with_reference:
        near = [[-4.0, -1.0]]
        cases.append(
            make("3 nats below the reference", near, near, [[-1.0, -1.25]], [0.5], full(1, 2), "far_from_reference")
        )
        for gap in (25.0, 100.0, 1000.0):
            comment = f"{gap:g} nats below the reference"
            new = [[-1.0 - gap, -1.0]]
            cases.append(
                make(comment, new, new, [[-1.0, -1.25]], [0.5], full(1, 2), far, result="acceptable", properties=True)
            )
    return tuple(cases)


def few_cases(with_reference: bool, per_token: bool = False) -> tuple[Case, ...]:
    """For other values of the settings."""
    kept = ("a good and a bad row", "the same ratios", "three rows", "on policy")
    return tuple(c for c in usual_cases(with_reference, per_token) if c.comment.startswith(kept))


def hazards(with_reference: bool) -> tuple[Case, ...]:
    """What lies under the mask, and rows and batches without a token."""
    kept = {"gaps_in_mask", "nan_under_mask", "empty_row", "all_masked"}
    return tuple(c for c in usual_cases(with_reference) if kept & set(c.flags))


NEAR_CASES = tuple(c for c in usual_cases(False) if "far_log_ratio" not in c.flags)  # smooth weights underflow far off
BETWEEN_THE_BOUNDS = case(
    "ratios between 1 + epsilon and 1 + epsilon_high, and below 1 - epsilon_high",
    plus(OLD, [[0.21875, 0.25, 0.125], [-0.25, -0.34375, 0.0625]]),
    OLD,
    GOOD_AND_BAD,
    full(2, 3),
    "every_side_of_the_clip",
)
BETWEEN_TOKENS = case(
    BETWEEN_THE_BOUNDS.comment,
    BETWEEN_THE_BOUNDS.inputs["log_probs"],
    OLD,
    GOOD_AND_BAD,
    full(2, 3),
    "every_side_of_the_clip",
    per_token=True,
)
