"""quadratic_loss: the log-ratio is pulled to A / tau."""

from __future__ import annotations

from ... import grpo
from ...contract import Alternative, Argument, Flag, Group, Objective, Setting
from ...numbers import Dual, bounded_exp, dual, stop
from ..shared import policy, policy_cases, policy_ratios, policy_reductions, policy_surrogates
from ..shared.common import Settings, bug, variant, without


def quadratic(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return grpo.quadratic(u, a, settings["tau"])


def squared_error(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    error = stop(a) - dual(settings["tau"]) * u
    return error * error


SURROGATES = {
    "not_halved": variant(
        "-A s + tau s^2, without the half.",
        "The log-ratio is pulled to A / (2 tau): the price of leaving is twice what tau says.",
        {"surrogate": lambda p, u, a, s: -a * u + dual(s["tau"]) * u * u},
    ),
    "squared_error": variant(
        "(A - tau s)^2, as papers print it: 2 tau times the gradient.",
        "The same minimum; the step is another size, and with a small tau nearly none.",
        {"surrogate": squared_error},
        links=("https://arxiv.org/abs/2507.20534", "https://arxiv.org/abs/2505.20686"),
    ),
    "rescaled_by_tau": variant(
        "(A - tau s)^2 / 2, DRO's loss before its gradient is divided by tau.",
        "tau is part of the learning rate too.",
        {"surrogate": lambda p, u, a, s: squared_error(p, u, a, s) / 2},
        links=("https://arxiv.org/abs/2405.19107",),
    ),
    "no_penalty": bug(
        "The square is missing.",
        "Nothing holds the policy: good completions are pushed up without end.",
        {"surrogate": lambda p, u, a, s: -a * u},
    ),
    "penalty_detached": bug(
        "The square carries no gradient.",
        "The loss rises as the policy leaves, and nothing pulls it back.",
        {"surrogate": lambda p, u, a, s: -a * u + dual(s["tau"]) / 2 * stop(u * u)},
        pitfalls=("C22",),
    ),
    "log_prob_for_the_first_term": variant(
        "-A log pi + (tau / 2) s^2, as verl and ROLL have it.",
        "None on the update; the logged loss is another number.",
        {"surrogate": lambda p, u, a, s: -a * p + dual(s["tau"]) / 2 * u * u},
    ),
    "ratio_for_its_logarithm": bug(
        "rho - 1 in place of log rho.",
        "The two agree near 1 alone: beyond it the penalty explodes on one side, and is bounded on the other.",
        {"surrogate": lambda p, u, a, s: grpo.quadratic(bounded_exp(u) - 1, a, s["tau"])},
    ),
    "absolute_value": variant(
        "-A s + tau |s|.",
        "The pull back does not grow with the distance.",
        {"surrogate": lambda p, u, a, s: -a * u + dual(s["tau"]) * (u if u > 0 else -u)},
    ),
}
OBJECTIVE = Objective(
    name="quadratic_loss",
    about="-A s + (tau / 2) s^2 of the log-ratio s: DRO, Kimi's and A*-PO's regression, a token at a time.",
    tags=("GRPO.24",),
    source=(
        "Richemond et al., DRO, arXiv:2405.19107",
        "Kimi k1.5, arXiv:2501.12599, eq. 3",
        "Kimi K2, arXiv:2507.20534v2, section 3.2.3",
    ),
    arguments=policy.WITHOUT_REFERENCE,
    returns={"loss": Argument("", "that of the advantages x nats")},
    settings={
        "reduce": policy.reduction("token_mean", free=True),
        "tau": Setting("the weight of the square, in reward units per nat", (1.0, 0.1, 0.5), free=True),
    },
    compute=policy.policy_loss,
    steps=policy.STEPS | {"surrogate": quadratic},
    alternatives={
        **policy_reductions.BUGS,
        **without(policy_ratios.RATIO),
        **without(policy_ratios.ADVANTAGES, "negated_advantages"),
        "sequence_product": Alternative(
            Flag(
                "variant",
                "s is the sum over the completion, at each of its tokens: the level of the papers.",
                "Completions are fitted as a whole: long ones are held closer.",
                ("https://arxiv.org/abs/2405.19107", "https://arxiv.org/abs/2501.12599"),
            ),
            policy_ratios.LEVELS["sequence_product"].steps,
        ),
        "sequence_ratio": policy_ratios.LEVELS["sequence_ratio"],
        **SURROGATES,
        "loss_negated": policy_surrogates.LOSS_NEGATED,
    },
    edges=policy.POLICY_EDGES,
    groups=(
        Group({"reduce": "token_mean", "tau": 0.5}, policy_cases.usual(False)),
        Group({"reduce": "sequence_mean", "tau": 0.5}, policy_cases.few(False)),
        Group({"reduce": "token_mean", "tau": 2.0}, policy_cases.few(False)[:2]),
        Group({"reduce": "sequence_sum", "tau": 0.125}, policy_cases.few(False)[:3]),
    ),
)
