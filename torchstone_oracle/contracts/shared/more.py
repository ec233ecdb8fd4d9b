"""What goes wrong in a step that many objectives have, and that no vectors are kept of: the order and the level."""

from __future__ import annotations

from collections.abc import Sequence

from ... import core, ppo
from ...contract import Alternative, Inputs
from ...numbers import Dual, Number, bounded_exp, clip, dual, exp, log, maximum, mean, minimum, sigmoid, stop, total
from .common import Marks, Matrix, Row, Settings, bug, chosen, variant
from .more_groups import GROUPS
from .pairs import each
from .policy_surrogates import bounds

# ------------------------------------------------------------------------------------------- the clip, in another order


def maximum_where_negative(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    near = clip(bounded_exp(u), *bounds(settings))
    return -(minimum if a > 0 else maximum)(bounded_exp(u) * a, near * a)


def maximum_where_positive(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    near = clip(bounded_exp(u), *bounds(settings))
    return -(maximum if a > 0 else minimum)(bounded_exp(u) * a, near * a)


def clip_around_product(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    low, high = bounds(settings)
    return -minimum(bounded_exp(u) * a, clip(bounded_exp(u) * a, low, high))


def clip_around_product_alone(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -clip(bounded_exp(u) * a, *bounds(settings))


def minimum_of_ratios(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -minimum(bounded_exp(u), clip(bounded_exp(u), *bounds(settings))) * a


def maximum_of_ratios(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -maximum(bounded_exp(u), clip(bounded_exp(u), *bounds(settings))) * a


def only_from_below(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -minimum(bounded_exp(u) * a, maximum(bounded_exp(u), bounds(settings)[0]) * a)


def clip_at_epsilon(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    low, high = dual(settings["epsilon"]), dual(ppo.upper(settings["epsilon"], settings["epsilon_high"]))
    return -minimum(bounded_exp(u) * a, clip(bounded_exp(u), -low, high) * a)


def reciprocal_bound(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    high = bounds(settings)[1]
    return -minimum(bounded_exp(u) * a, clip(bounded_exp(u), 1 / high, high) * a)


def ratio_detached(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    ratio = stop(bounded_exp(u))
    return -minimum(ratio * a, clip(ratio, *bounds(settings)) * a) * log_prob


def unclipped_weight(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -stop(bounded_exp(u)) * a * log_prob


def straight_through(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    free = bounded_exp(u) * a
    return -(free + stop(minimum(free, clip(bounded_exp(u), *bounds(settings)) * a) - free))


def ratio_times_log_prob(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -minimum(bounded_exp(u) * a, clip(bounded_exp(u), *bounds(settings)) * a) * log_prob


def ratio_squared(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -minimum(bounded_exp(2 * u) * a, clip(bounded_exp(2 * u), *bounds(settings)) * a)


def probability_in_place(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return -minimum(exp(log_prob) * a, clip(exp(log_prob), *bounds(settings)) * a)


def plain_sign(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return minimum(bounded_exp(u) * a, clip(bounded_exp(u), *bounds(settings)) * a)


# --------------------------------------------------------------------------------------------- the ratio, at its level


def mean_of_ratios(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    from ...numbers import log

    there = [exp(u) for u in chosen(log_ratios, marks)]
    return [log(mean(there)) if there else dual(0)] * len(log_ratios)


def token_gradient(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    whole = mean(chosen(log_ratios, marks))
    return [stop(whole) + u - stop(u) for u in log_ratios]


def clipped_then_mean(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    from ...numbers import log

    low, high = bounds(settings)
    there = [log(clip(exp(u), low, high)) for u in chosen(log_ratios, marks)]
    return [mean(there)] * len(log_ratios)


def clipped_then_product(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    from ...numbers import log

    low, high = bounds(settings)
    there = [log(clip(exp(u), low, high)) for u in chosen(log_ratios, marks)]
    return [total(there)] * len(log_ratios)


def cumulative(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    return [total(chosen(log_ratios[: t + 1], marks[: t + 1])) for t in range(len(log_ratios))]


def constant_level(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    return [stop(u) for u in log_ratios]


def own_ratio(log_ratios: Row, advantages: Row, marks: Sequence[bool], settings: Settings) -> list[Dual]:
    return list(log_ratios)


# ----------------------------------------------------------------------------------------------- the KL, at its level


def kl_sum(reduce: object, x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return total(v for row, on in zip(x, marks, strict=True) for v in chosen(row, on))


def kl_sequence_mean(reduce: object, x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.sequence_mean(x, marks)


def kl_sequence_sum(reduce: object, x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.sequence_sum(x, marks)


def kl_not_halved(p: Dual, q: Dual, u: Dual) -> Dual:
    return core.k1(p, q) * core.k1(p, q)


def kl_absolute(p: Dual, q: Dual, u: Dual) -> Dual:
    moved = core.k1(p, q)
    return moved if moved > 0 else -moved


def kl_ratio_less_one(p: Dual, q: Dual, u: Dual) -> Dual:
    return exp(-core.k1(p, q)) - 1


def kl_negated_k1(p: Dual, q: Dual, u: Dual) -> Dual:
    return -core.k1(p, q)


def kl_plus_u(p: Dual, q: Dual, u: Dual) -> Dual:
    return exp(-core.k1(p, q)) - 1 - core.k1(p, q)


def kl_without_one(p: Dual, q: Dual, u: Dual) -> Dual:
    return exp(-core.k1(p, q)) + core.k1(p, q)


def kl_with_probability(p: Dual, q: Dual, u: Dual) -> Dual:
    return exp(p) * core.k1(p, q)


# ------------------------------------------------------------------------------------------------------ the reduction


def sum_over_rows(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """Mean in each row, sum over rows."""
    return core.sequence_mean(x, marks, 1)


def plain_sum(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.token_mean(x, marks, 1)


def by_longest(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.fixed_length_mean(x, marks, max(1, *(sum(on) for on in marks)))


def by_rows_times_tokens(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.token_mean(x, marks) / len(marks)


def row_mean_over_width(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.fixed_length_mean(x, marks, len(x[0]))


def unmasked_in_rows(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return mean([mean(row) for row in x])


def by_columns(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """The mean of each column, then over columns."""
    return core.sequence_mean([[*column] for column in zip(*x, strict=True)], [[*m] for m in zip(*marks, strict=True)])


def last_token(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    rows = [chosen(row, on) for row, on in zip(x, marks, strict=True)]
    return mean([row[-1] for row in rows if row])


def summed_unmasked_over_tokens(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """All entries are summed, and only the chosen are counted."""
    return total(v for row in x for v in row) / max(1, sum(map(sum, marks)))


def rows_unmasked_over_tokens(x: Matrix, marks: Marks, settings: Settings) -> Dual:
    """All entries of a row are summed, and only the chosen are counted."""
    return mean([total(row) / max(1, sum(on)) for row, on in zip(x, marks, strict=True)])


# ----------------------------------------------------------------------------------------------------------- the pairs


def mixed_in_the_log(win: Dual, lose: Dual, s: Number) -> Dual:
    """Minus the log of the mixture, where the mixture of the logs belongs."""
    return -log((1 - dual(s)) * sigmoid(win - lose) + s * sigmoid(lose - win))


# ------------------------------------------------------------------------------------------------------ the advantages


def advantage_sign(inputs: Inputs, b: int, t: int) -> Dual:
    given = inputs["advantages"][b]
    a = given[t] if isinstance(given, list) else given
    return dual(1 if a > 0 else -1 if a < 0 else 0)


HOPE = "The clip acts on the wrong side for them."
RATIO_ALONE = "The estimate of the KL is exp(u), the ratio pi_ref / pi alone: - 1 - u is missing."
OTHER_ORDER = "The clip no longer bounds the ratio alone."
ALTERNATIVES = {
    **GROUPS,
    "maximum_where_negative": bug(
        "max in place of min where A < 0: the hopeful branch is taken for negative advantages.",
        f"{HOPE} Bad tokens that have become likelier are not corrected.", {"surrogate": maximum_where_negative}),
    "maximum_where_positive": bug(
        "max in place of min where A > 0: the hopeful branch is taken for positive advantages.",
        f"{HOPE} Good tokens are pushed up without end.", {"surrogate": maximum_where_positive}),
    "clip_around_product": bug(
        "The clip is around the product: clip(ratio * A, 1 - epsilon, 1 + epsilon_high) in place of clip(ratio) * A.",
        f"{OTHER_ORDER} Advantages far from 1 have no gradient.", {"surrogate": clip_around_product}),
    "clip_around_product_alone": bug(
        "Only the clip around the product ratio * A is kept; the minimum is missing.",
        f"{OTHER_ORDER} Advantages far from 1 have no gradient.", {"surrogate": clip_around_product_alone}),
    "minimum_of_ratios": bug(
        "The minimum is taken of the two ratios, before the advantage: the sign of A is not seen.",
        f"{HOPE} For negative advantages the clip is on the wrong side.", {"surrogate": minimum_of_ratios}),
    "maximum_of_ratios": bug(
        "The maximum is taken of the two ratios, before the advantage: the sign of A is not seen.",
        HOPE, {"surrogate": maximum_of_ratios}),
    "clipped_only_below": bug(
        "The ratio has a lower bound and no upper one: the upper side of the clip is missing.",
        "Good tokens are pushed up without end.", {"surrogate": only_from_below}),
    "clip_without_one": bug(
        "The ratio is clipped to [-epsilon, epsilon_high], not around 1: 1 is missing from the bounds.",
        "The clipped branch is nearly 0: good tokens are never reinforced.", {"surrogate": clip_at_epsilon}),
    "reciprocal_lower_bound": variant(
        "The lower bound is 1 / (1 + epsilon), not 1 - epsilon.", "The clip is a little narrower below.",
        {"surrogate": reciprocal_bound}),
    "ratio_detached_times_log_prob": bug(
        "The clipped surrogate is a constant weight of log pi: its ratio is detached.",
        "No token loses its gradient, and the value means something else.", {"surrogate": ratio_detached}),
    "unclipped_weight_times_log_prob": variant(
        "The ratio, detached and not clipped, is a weight of log pi.", "Nothing bounds the weight.",
        {"surrogate": unclipped_weight}),
    "straight_through": bug(
        "The value is the clipped one, and the gradient is that of the unclipped branch (straight-through).",
        "The clip is seen in the loss and does nothing to the gradient.", {"surrogate": straight_through}),
    "surrogate_times_log_prob": bug(
        "The clipped surrogate is multiplied by log pi once more.", "Unlikely tokens weigh far too much.",
        {"surrogate": ratio_times_log_prob}),
    "ratio_squared": bug(
        "The ratio is squared: it is applied twice.", "The clip acts at half the distance.",
        {"surrogate": ratio_squared}),
    "probability_as_ratio": bug(
        "The new probability stands in place of the ratio: the old one is not divided by.",
        "Nothing corrects for the policy that sampled.", {"surrogate": probability_in_place}),
    "surrogate_sign": bug(
        "The minus before the surrogate is missing: the sign of the loss is flipped.",
        "The policy unlearns what was rewarded.", {"surrogate": plain_sign}),
    "mean_of_ratios": bug(
        "One ratio a sequence: the arithmetic mean of its tokens' ratios.",
        "A sequence is clipped, or kept, as a whole.", {"level": mean_of_ratios}),
    "sequence_level_token_gradient": variant(
        "One ratio a sequence with the gradient of each token's own log-prob (GSPO-token).",
        "A sequence is clipped, or kept, as a whole.", {"level": token_gradient}),
    "clipped_before_mean": bug(
        "Each token's ratio is clipped before the sequence's mean is taken: the order is exchanged.",
        "The sequence's ratio never leaves the clip.", {"level": clipped_then_mean}),
    "clipped_before_product": bug(
        "Each token's ratio is clipped before the sequence's product is taken: the order is exchanged.",
        "The sequence's ratio may lie far outside the clip.", {"level": clipped_then_product}),
    "cumulative_ratio": variant(
        "The ratio of a token is the product of those up to it (cumulative).",
        "Exact for the prefix, and of a variance that grows with every token.", {"level": cumulative}),
    "ratio_detached": bug(
        "The ratio is detached: no gradient flows through the policy's log-probs.",
        "The loss looks right, and the policy does not learn.", {"level": constant_level}),
    "token_level": variant(
        "Every token keeps its own ratio (token level), not one of its sequence.",
        "A token is clipped without the rest of its sequence.", {"level": own_ratio}),
    "kl_sum": bug("The KL is summed over all tokens, not averaged.", "The pull grows with the batch.",
                  {"kl_reduce": kl_sum}),
    "kl_sequence_mean": variant(
        "The KL is a mean of row means, however the rest is reduced.", "beta weighs tokens of long completions less.",
        {"kl_reduce": kl_sequence_mean}),
    "kl_sequence_sum": variant(
        "The KL is summed in each row and averaged over rows, however the rest is reduced.",
        "The pull grows with the length.", {"kl_reduce": kl_sequence_sum}),
    "k2_not_halved": bug("The squared log-ratio as the KL, without the half of k2.", "The pull is twice k2's.",
                         {"kl": kl_not_halved}),
    "absolute_kl": variant("The absolute log-ratio as the KL (abs in verl).", "The pull has one size everywhere.",
                           {"kl": kl_absolute}),
    "k3_without_u": bug("k3 without its last term: exp(u) - 1, and u is missing.",
                        "The pull does not stop at the reference.", {"kl": kl_ratio_less_one}),
    "k1_negated": bug("The log-ratio is negated: log pi_ref - log pi as the KL.",
                      "The policy is paid for leaving the reference.", {"kl": kl_negated_k1}),
    "k3_sign_of_u": bug("k3 with the wrong sign of its last term: exp(u) - 1 + u.",
                        "The pull does not stop at the reference.", {"kl": kl_plus_u}),
    "k3_without_one": bug("k3 without its 1: exp(u) - u.", "The reported KL is 1 too large; the gradient is right.",
                          {"kl": kl_without_one}),
    "kl_weighted_by_probability": bug("The log-ratio is weighted by pi, though the token was sampled by it.",
                                      "Likely tokens count twice.", {"kl": kl_with_probability}),
    "sum_over_rows": bug("The mean in each row, and the sum over rows in place of their mean.",
                         "The learning rate grows with the number of rows.", {"reduce": sum_over_rows}),
    "plain_sum": bug("The sum over all tokens in place of a mean.", "The learning rate grows with the batch.",
                     {"reduce": plain_sum}),
    "divided_by_longest": bug("Row sums are divided by the longest completion of the batch, not by their own length.",
                              "Short completions weigh less than long ones.", {"reduce": by_longest}),
    "token_mean_over_rows": bug("The mean over tokens is divided by the number of rows once more.",
                                "The learning rate falls with the number of rows.", {"reduce": by_rows_times_tokens}),
    "divided_by_padded_width": bug("Row sums are divided by the padded width (mean over a row with its zeros).",
                                   "The step depends on the longest completion.", {"reduce": row_mean_over_width}),
    "unmasked_row_means": bug("The mean in each row is taken over the padding too: the mask is not used.",
                              "The policy is trained on tokens that it never chose.", {"reduce": unmasked_in_rows}),
    "mean_over_columns": bug("The mean is taken over each column (the wrong axis, dim 0), then over columns.",
                             "A token weighs by its place: the last ones of the longest completion most.",
                             {"reduce": by_columns}),
    "last_token_only": bug("Only the last token of each row counts.", "All others are not trained.",
                           {"reduce": last_token}),
    "padding_in_the_sum": bug("The padding is summed, and only the chosen tokens are counted: the mask is in the "
                              "denominator alone.", "Padding is trained.", {"reduce": summed_unmasked_over_tokens}),
    "padding_in_the_row_sum": bug("The padding of a row is summed, and only its chosen tokens are counted: the mask is "
                                  "in the denominator alone.", "Padding is trained.",
                                  {"reduce": rows_unmasked_over_tokens}),
    "log_of_the_mean": bug("The log is taken of the mean over the batch, not of each pair: the order is exchanged.",
                           "The pair that is judged best has most of the gradient.",
                           {"reduce": lambda losses, n: -log(mean([exp(-loss) for loss in losses]))}),
    "returns_add_rewards": bug("The critic's target is the advantage plus the reward, where the value belongs.",
                               "The critic learns no return.",
                               {"target": lambda raw, final, b, t, inputs, gamma: raw + inputs["rewards"][b][t]}),
    "returns_less_values": bug("The critic's target is the advantage less the value: a sign is wrong.",
                               "The critic is driven away from its own values.",
                               {"target": lambda raw, final, b, t, inputs, gamma: raw - inputs["values"][b][t]}),
    "returns_doubled": bug("The critic's target is twice the advantage: the value is not added back.",
                           "Values shrink to 0.", {"target": lambda raw, final, b, t, inputs, gamma: 2 * raw}),
    "returns_constant": bug("The critic's target is 0: the returns are a constant.", "The critic learns nothing.",
                            {"target": lambda raw, final, b, t, inputs, gamma: dual(0)}),
    "ratio_alone": bug(RATIO_ALONE, "It is never 0, and its gradient is not that of a KL.",
                       {"kl": lambda p, q: bounded_exp(stop(q) - p)}),
    "ratio_alone_as_kl": bug(RATIO_ALONE, "It is never 0, and its gradient is not that of a KL.",
                             {"kl": lambda p, q, old: bounded_exp(stop(q) - p)}),
    "ratio_as_signal": bug("pi_T / pi, the ratio of the probabilities, in place of the difference of their logs.",
                           "Never below 0: what the teacher would not say is raised too.",
                           {"signal": lambda p, q, o: bounded_exp(dual(q) - stop(p))}),
    "smoothing_in_the_log": bug("The log is taken of the mixed probabilities, and the mixture belongs outside: "
                                "log((1 - s) sigmoid(h) + s sigmoid(-h)).",
                                "A pair that is far on the wrong side has no gradient.",
                                {"losses": each(mixed_in_the_log, "label_smoothing")}),
    "sign_of_advantages": bug("Only the sign of the advantages is used.", "Great and small successes count the same.",
                              {"advantage": advantage_sign}),
}  # fmt: skip
assert all(isinstance(a, Alternative) for a in ALTERNATIVES.values())
