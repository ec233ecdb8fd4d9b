"""What else may stand for a group's mean and deviation; no vectors are kept of it."""

from __future__ import annotations

from ...numbers import Dual, dual, maximum, mean
from .common import Marks, bug, chosen, variant

Groups = list[list[Dual]]


def _scored(rewards: Groups, scored: Marks, p: int) -> list[Dual]:
    return chosen(rewards[p], scored[p])


def median(rewards: Groups, scored: Marks, p: int, g: int) -> Dual:
    """The lower of the two in the middle, as torch has it."""
    ordered = sorted(_scored(rewards, scored, p), key=lambda r: r.value)
    return ordered[(len(ordered) - 1) // 2]


def median_between(rewards: Groups, scored: Marks, p: int, g: int) -> Dual:
    ordered = sorted(_scored(rewards, scored, p), key=lambda r: r.value)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def least(rewards: Groups, scored: Marks, p: int, g: int) -> Dual:
    return min(_scored(rewards, scored, p), key=lambda r: r.value)


def most(rewards: Groups, scored: Marks, p: int, g: int) -> Dual:
    return max(_scored(rewards, scored, p), key=lambda r: r.value)


def no_baseline(rewards: Groups, scored: Marks, p: int, g: int) -> Dual:
    return dual(0)


def of_the_others(rewards: Groups, scored: Marks, p: int, g: int) -> Dual:
    others = [r for i, r in enumerate(rewards[p]) if scored[p][i] and i != g]
    return mean(others)


def extent(rewards: Groups, scored: Marks, p: int, g: int, correction: int) -> Dual:
    return most(rewards, scored, p, g) - least(rewards, scored, p, g)


def mean_distance(rewards: Groups, scored: Marks, p: int, g: int, correction: int) -> Dual:
    there = _scored(rewards, scored, p)
    centre = mean(there)
    return mean([r - centre if r > centre else centre - r for r in there])


def around_median(rewards: Groups, scored: Marks, p: int, g: int, correction: int) -> Dual:
    centre = median_between(rewards, scored, p, g)
    gaps = sorted(
        [r - centre if r > centre else centre - r for r in _scored(rewards, scored, p)], key=lambda r: r.value
    )
    return (gaps[(len(gaps) - 1) // 2] + gaps[len(gaps) // 2]) / 2


def group_mean(rewards: Groups, scored: Marks, p: int, g: int, correction: int) -> Dual:
    return mean(_scored(rewards, scored, p))


GROUPS = {
    "median": variant("The group's median in place of its mean.", "Few good samples of many bad ones gain more.",
                      {"baseline": median}),
    "median_between": variant("The group's median (the mean of the two in the middle) in place of its mean.",
                              "Few good samples of many bad ones gain more.", {"baseline": median_between}),
    "least": variant("The group's minimum in place of its mean.", "No sample is pushed down.", {"baseline": least}),
    "most": variant("The group's maximum in place of its mean.", "No sample is pushed up.", {"baseline": most}),
    "no_baseline": bug("No baseline: the mean is not taken off.", "All samples are pushed up, or all down.",
                       {"baseline": no_baseline}),
    "leave_one_out_with_deviation": variant(
        "Leave-one-out: the mean of the others as the baseline, and the deviation of the group together.",
        "Two published steps at once: a constant factor more than either.", {"baseline": of_the_others}),
    "min_max": variant("Min-max scaling: less the minimum, over the range (max - min).", "No sample is pushed down.",
                       {"baseline": least, "deviation": extent}),
    "over_range": variant("Divided by the range (max - min), not by the deviation.", "Groups weigh otherwise.",
                          {"deviation": extent}),
    "mean_distance": variant("Divided by the mean absolute deviation.", "Groups weigh otherwise.",
                             {"deviation": mean_distance}),
    "median_and_mad": variant("Median and median absolute deviation in place of mean and deviation.",
                              "Few good samples of many bad ones gain more.",
                              {"baseline": median_between, "deviation": around_median}),
    "eps_not_added": variant(
        "eps is not added to the deviation: it is left out, or the least that the deviation may be (clamp(min=eps)).",
        "Groups whose rewards hardly differ are divided by hardly anything, and move as far as others.",
        {"quotient": lambda r, baseline, spread, eps: (r - baseline) / maximum(spread, eps)}),
    "divided_by_mean": variant("Divided by the group's mean, not by its deviation.", "Hard prompts weigh more.",
                               {"deviation": group_mean}),
}  # fmt: skip
