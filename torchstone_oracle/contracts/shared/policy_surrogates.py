"""What goes wrong in a loss of a policy: the clip, the sign, what is reported."""

from __future__ import annotations

from ... import ppo
from ...contract import Alternative, Flag
from ...numbers import Dual, bounded_exp, clip, dual, exp, maximum, minimum, stop
from . import policy
from .common import TRL, VERL_0_9_1, Settings, bug


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
    return stop(policy.clipped(log_prob, u, a, settings))


ALTERNATIVES = {
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
        {"surrogate": same_width, "high": lambda u, a, s: policy.clipped_high(u, a, {**s, "epsilon_high": None})},
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
            "low": lambda u, a, s: policy.clipped_low(u, a, {"epsilon": ppo.upper(s["epsilon"], s["epsilon_high"])}),
            "high": lambda u, a, s: policy.clipped_high(u, a, {**s, "epsilon_high": s["epsilon"]}),
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
            "A second bound, c = 3, for bad tokens (dual-clip PPO); under the name of PPO's clip in verl 0.9.1.",
            "Bad tokens that have become more than 3 times as likely are no longer corrected.",
            ("https://arxiv.org/abs/1912.09729", VERL_0_9_1),
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
            ("https://github.com/pytorch/rl/pull/2021",),
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

METRIC = Flag(
    "bug",
    "Every ratio out of range is reported as clipped, also where the clip does not act. The loss is right.",
    "The curve says that learning has stopped where it has not.",
    (f"{TRL}/pull/3175", f"{TRL}/pull/3145"),
    ("C17",),
)
ENTROPY = {
    "sampled_entropy": bug(
        "-log pi of the sampled token stands for the entropy.",
        "The right value on average, and a gradient that is 0 on average: noise, no bonus.",
        {"entropy": lambda entropy, log_prob: -dual(log_prob)},
    ),
    "entropy_detached": bug(
        "No gradient flows through the entropies.",
        "A bonus that changes the number that is logged, and nothing else.",
        {"entropy": lambda entropy, log_prob: stop(entropy)},
    ),
}
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
