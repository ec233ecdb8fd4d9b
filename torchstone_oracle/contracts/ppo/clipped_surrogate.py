"""clipped_surrogate: PPO's clip, for each token."""

from __future__ import annotations

from ... import ppo
from ...contract import Alternative, Argument, Flag, Group, Objective, Setting
from ...numbers import Dual, dual, maximum, minimum
from ..shared import policy, policy_cases, policy_ratios, policy_reductions, policy_surrogates
from ..shared.common import Settings


def no_dual_clip(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return ppo.clipped_surrogate(u, a, settings["epsilon"], settings["epsilon_high"])


def dual_clip_of_all(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    loss, c = no_dual_clip(log_prob, u, a, settings), settings["dual_clip"]
    return loss if c is None else minimum(loss, -dual(c) * a)


TOKEN_ARGUMENTS = {**policy.WITHOUT_REFERENCE, "advantages": Argument("B T", "reward, or none")}
DUAL_CLIP = Setting("bounds the loss of a bad token by -c A; None: no such bound", (None, 3.0))
TOKEN_CASES = policy_cases.usual(False, per_token=True)
FEW_TOKENS = policy_cases.few(False, per_token=True)
MASK_MULTIPLIED = Alternative(policy_reductions.BUGS["mask_multiplied"].flag, {"select": lambda x, m: x * int(m)})
DUAL_CLIPS = {
    "dual_clip_ignored": Alternative(
        Flag("bug", "The second bound is accepted and not used.", "A huge ratio at a bad token explodes the loss."),
        {"surrogate": no_dual_clip},
    ),
    "dual_clip_of_all_tokens": Alternative(
        Flag(
            "bug",
            "The second bound acts on good tokens too: their loss is -c A.",
            "Good tokens have no gradient.",
            ("https://arxiv.org/abs/1912.09729",),
        ),
        {"surrogate": dual_clip_of_all},
    ),
    "dual_clip_wrong_side": Alternative(
        Flag(
            "bug",
            "The larger of both losses is kept at bad tokens.",
            "Every bad token costs c: its gradient is gone.",
            ("https://arxiv.org/abs/1912.09729",),
        ),
        {
            "surrogate": lambda p, u, a, s: (
                maximum(no_dual_clip(p, u, a, s), -dual(s["dual_clip"]) * a)
                if a < 0 and s["dual_clip"]
                else no_dual_clip(p, u, a, s)
            )
        },
    ),
}
OBJECTIVE = Objective(
    name="clipped_surrogate",
    about="PPO's pessimistic loss per token: no reward for moving the ratio beyond the clip, full price for harm.",
    tags=("PPO.7", "PPO.8", "PPO.9"),
    source=(
        "Schulman et al., PPO, arXiv:1707.06347v2, eq. 6 and 7",
        "clip-higher: DAPO, arXiv:2503.14476v2, eq. 10",
        "dual clip: Ye et al., arXiv:1912.09729v3, eq. 5",
    ),
    arguments=TOKEN_ARGUMENTS,
    returns={"losses": Argument("B T", "that of the advantages")},
    settings={"epsilon": policy.EPSILON, "epsilon_high": policy.EPSILON_HIGH, "dual_clip": DUAL_CLIP},
    compute=policy.token_losses,
    steps=policy.STEPS,
    alternatives={
        **policy_ratios.RATIO,
        **policy_ratios.LEVELS,
        **policy_ratios.ADVANTAGES,
        **policy_surrogates.ALTERNATIVES,
        **DUAL_CLIPS,
        "mask_multiplied": MASK_MULTIPLIED,
        "negated": policy_surrogates.NEGATED,
    },
    edges=policy.POLICY_EDGES,
    groups=(
        Group({"epsilon": 0.2, "epsilon_high": None, "dual_clip": None}, TOKEN_CASES),
        Group({"epsilon": 0.2, "epsilon_high": 0.28, "dual_clip": None}, (FEW_TOKENS[0], policy_cases.BETWEEN_TOKENS)),
        Group({"epsilon": 0.2, "epsilon_high": None, "dual_clip": 3.0}, FEW_TOKENS[:2]),
        Group({"epsilon": 0.3, "epsilon_high": None, "dual_clip": None}, FEW_TOKENS[:1]),
        Group({"epsilon": 0.1, "epsilon_high": 0.4, "dual_clip": 2.0}, FEW_TOKENS[1:2]),
    ),
)
