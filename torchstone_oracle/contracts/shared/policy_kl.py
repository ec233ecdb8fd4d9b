"""What goes wrong in a loss of a policy: the KL."""

from __future__ import annotations

from ... import core
from ...contract import Alternative, Flag, Step
from ...numbers import Dual, bounded_exp, clip, dual, mean, stop
from .common import (
    OPEN_INSTRUCT,
    OPENRLHF,
    OPENRLHF_0_11_2,
    RLHF_BOOK,
    RLHF_BOOK_A66B0BF,
    TRL,
    VERL,
    VERL_0_9_1,
    Marks,
    Matrix,
    Settings,
)


def k1(p: Dual, q: Dual, u: Dual) -> Dual:
    return core.k1(p, q)


def k2(p: Dual, q: Dual, u: Dual) -> Dual:
    return core.k2(p, q)


def reversed_k3(p: Dual, q: Dual, u: Dual) -> Dual:
    moved = core.k1(p, q)
    return bounded_exp(moved) - 1 - moved


def clamped_k3(p: Dual, q: Dual, u: Dual) -> Dual:
    return clip(core.k3(p, q), dual(-10), dual(10))


def weighted_k3(p: Dual, q: Dual, u: Dual) -> Dual:
    return bounded_exp(u) * core.k3(p, q)


def k3_moving_as_k2(p: Dual, q: Dual, u: Dual) -> Dual:
    return stop(core.k3(p, q)) + core.k2(p, q) - stop(core.k2(p, q))


def constant_k3(p: Dual, q: Dual, u: Dual) -> Dual:
    return stop(core.k3(p, q))


def kl_over_all(reduce: Step, x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return mean([v for row in x for v in row])


def kl_token_mean(reduce: Step, x: Matrix, marks: Marks, settings: Settings) -> Dual:
    return core.token_mean(x, marks)


ALTERNATIVES = {
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
            (RLHF_BOOK_A66B0BF, "https://github.com/DLR-RM/stable-baselines3/issues/419"),
            ("C32", "R01"),
        ),
        {"kl": reversed_k3},
    ),
    "kl_clamped_at_10": Alternative(
        Flag(
            "bug",
            "The value of k3 is clamped to [-10, 10].",
            "The gradient is 0 exactly where the policy is furthest from the reference.",
            (VERL_0_9_1, OPENRLHF_0_11_2),
            ("R06", "C38"),
        ),
        {"kl": clamped_k3},
    ),
    "ratio_weighted_kl": Alternative(
        Flag(
            "variant",
            "k3 times the ratio to the old policy, with gradient (DeepSeek-V3.2; the default of TRL 1.16.0).",
            "Right, given the prefix, on an older policy's samples; its gradient is that of KL(policy || reference).",
            ("https://arxiv.org/abs/2512.02556", f"{TRL}/issues/4638"),
            ("C33",),
        ),
        {"kl": weighted_k3},
    ),
    "k3_with_k2_gradient": Alternative(
        Flag(
            "variant",
            "The value of k3 with the gradient of k2 (k3+ in verl 0.9.1).",
            "The reported KL is k3's, the pull is that of k2.",
            (VERL_0_9_1,),
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
            ("https://github.com/pytorch/rl/commit/e538fdc1b", f"{RLHF_BOOK}/pull/216"),
            ("C36",),
        ),
        {"kl_reduce": kl_over_all},
    ),
    "kl_token_mean": Alternative(
        Flag(
            "variant",
            "The KL is a token mean, however the rest is reduced (OpenRLHF 0.11.2).",
            "beta weighs long completions more than the surrogate does.",
            (OPENRLHF_0_11_2,),
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
