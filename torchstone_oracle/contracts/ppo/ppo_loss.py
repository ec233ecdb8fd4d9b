"""ppo_loss: the whole loss of PPO: policy, critic, entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import core, ppo
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, dual, stop
from ..shared import policy, policy_cases, policy_ratios, policy_reductions, policy_surrogates
from ..shared.common import Matrix, Settings, without
from .approx_kl import APPROX_KLS
from .clipped_surrogate import DUAL_CLIP, DUAL_CLIPS, FEW_TOKENS, TOKEN_ARGUMENTS, TOKEN_CASES
from .clipped_value_error import OLD_VALUES, RETURNS, VALUE_ERRORS, VALUES


def whole_loss(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """Surrogate, critic and entropy, added token by token, then reduced; and what is reported with it."""
    found, marks = policy.places(inputs, settings, steps), inputs["mask"]
    terms = [[steps["surrogate"](p, u, a, settings) for p, _, u, a in row] for row in found]
    metrics = {
        "clip_ratio/low_mean": [[steps["low"](u, a, settings) for _, _, u, a in row] for row in found],
        "clip_ratio/high_mean": [[steps["high"](u, a, settings) for _, _, u, a in row] for row in found],
        "approx_kl": [[steps["approx_kl"](u) for _, u, _, _ in row] for row in found],
    }
    if "values" in inputs:
        old = inputs.get("old_values") or [[None] * len(row) for row in marks]
        rows = zip(inputs["values"], old, inputs["returns"], strict=True)
        errors = [[steps["error"](*at, settings["value_epsilon"]) for at in zip(*row, strict=True)] for row in rows]
        terms = added(terms, errors, steps["value_weight"](settings["value_coef"]))
        metrics["value_loss"] = errors
    if "entropies" in inputs:
        bonus = [[steps["entropy"](*at) for at in zip(*rows, strict=True)] for rows in
                 zip(inputs["entropies"], inputs["log_probs"], strict=True)]  # fmt: skip
        terms = added(terms, bonus, steps["entropy_weight"](settings["entropy_coef"]))
        metrics["entropy"] = inputs["entropies"]
    loss = steps["sign"](steps["reduce"](terms, marks, settings))
    return {"loss": loss} | {k: stop(core.token_mean(x, marks)) for k, x in metrics.items()}


def added(x: Matrix, y: Matrix, weight: Dual) -> Matrix:
    return [[a + weight * b for a, b in zip(*rows, strict=True)] for rows in zip(x, y, strict=True)]


ENTROPIES = [[1.0, 0.5, 1.5], [0.75, 1.25, 0.25]]


def with_critic(c: Case, old_values: bool = True, entropies: bool = True, values: bool = True) -> Case:
    """The same case with values, returns and entropies: masked entries hold what the log-probs hold there."""
    inputs, mask = dict(c.inputs), c.inputs["mask"]
    extra = {"values": VALUES, "returns": RETURNS} if values else {}
    extra |= {"old_values": OLD_VALUES} if values and old_values else {}
    extra |= {"entropies": ENTROPIES} if entropies else {}
    for k, x in extra.items():
        found = zip(x, mask, inputs["log_probs"], strict=True)
        inputs[k] = [[v if m or p == p else p for v, m, p in zip(*row, strict=True)] for row in found]
    return Case(c.comment, inputs, c.flags, c.result, c.properties)


CRITIC_CASES = tuple(
    with_critic(c)
    for c in TOKEN_CASES
    if c.comment.startswith(
        ("a good and a bad row", "on policy", "ragged, with", "gaps, with", "NaN under", "an empty row")
    )
)
OF_TWO_ROWS = [c for c in TOKEN_CASES if c.comment.startswith(("a good and a bad row", "ragged, with", "gaps, with"))]
VALUE_ONLY = tuple(with_critic(c, entropies=False) for c in (*OF_TWO_ROWS, *TOKEN_CASES[2:3]))
ENTROPY_ONLY = tuple(with_critic(c, values=False) for c in OF_TWO_ROWS)
UNCLIPPED_CRITIC = (with_critic(FEW_TOKENS[0], old_values=False, entropies=False),)
PPO_METRICS = {
    "approx_kl": Argument("", "nats"),
    "clip_ratio/low_mean": Argument("", "share of tokens"),
    "clip_ratio/high_mean": Argument("", "share of tokens"),
    "value_loss": Argument("", "reward squared"),
    "entropy": Argument("", "nats"),
}
PLAIN = {
    "epsilon": 0.2,
    "epsilon_high": None,
    "dual_clip": None,
    "value_epsilon": None,
    "value_coef": 0.0,
    "entropy_coef": 0.0,
}
CRITIC = PLAIN | {"reduce": "token_mean", "value_epsilon": 0.2, "value_coef": 0.5, "entropy_coef": 0.01}
OBJECTIVE = Objective(
    name="ppo_loss",
    about="Policy, critic and entropy in one loss.",
    tags=("PPO.7", "PPO.8", "PPO.9", "PPO.10", "PPO.11"),
    source=("Schulman et al., PPO, arXiv:1707.06347v2, eq. 9",),
    arguments={
        **TOKEN_ARGUMENTS,
        "values": Argument("B T", "reward", gradient=True),
        "old_values": Argument("B T", "reward"),
        "returns": Argument("B T", "reward"),
        "entropies": Argument("B T", "nats", gradient=True),
    },
    returns={"loss": policy.LOSS, **PPO_METRICS},
    metrics=tuple(PPO_METRICS),
    settings={
        "reduce": policy.reduction("token_mean", free=True),
        "epsilon": policy.EPSILON,
        "epsilon_high": policy.EPSILON_HIGH,
        "dual_clip": DUAL_CLIP,
        "value_epsilon": Setting("how far the value may move from the old one; None: no clip", (None, 0.2), free=True),
        "value_coef": Setting("weight of the critic's error", (0.0, 0.5, 0.1), free=True),
        "entropy_coef": Setting("weight of the entropy bonus", (0.0, 0.01), free=True),
    },
    compute=whole_loss,
    steps=policy.STEPS
    | {
        "error": ppo.clipped_value_error,
        "value_weight": lambda c: dual(c),
        "entropy": lambda entropy, log_prob: entropy,
        "entropy_weight": lambda c: -dual(c),
        "approx_kl": ppo.approx_kl,
    },
    alternatives={
        **without(policy_reductions.BUGS, "row_loss_times_length", "width_only"),
        **policy_ratios.RATIO,
        **policy_ratios.ADVANTAGES,
        **without(
            policy_surrogates.ALTERNATIVES,
            "clipped_only_above",
            "one_plus_log_ratio",
            "clipped_weight_times_log_prob",
            "clip_in_nats",
            "no_ratio",
            "advantage_rescaled_between_branches",
        ),
        **DUAL_CLIPS,
        "loss_negated": policy_surrogates.LOSS_NEGATED,
        "counts_out_of_range": policy_surrogates.OUT_OF_RANGE,
        **{k: VALUE_ERRORS[k] for k in ("minimum_of_both", "clipped_only", "no_half", "not_clipped")},
        "value_error_subtracted": Alternative(
            Flag("bug", "The critic's error is subtracted.", "The critic learns to be wrong."),
            {"value_weight": lambda c: -dual(c)},
        ),
        "value_coef_ignored": Alternative(
            Flag("bug", "The critic's error has weight 1.", "The critic drowns the policy where they share a trunk."),
            {"value_weight": lambda c: dual(1) if c else dual(0)},
        ),
        "entropy_added": Alternative(
            Flag("bug", "The entropy is added to the loss: it is minimised.", "Exploration dies."),
            {"entropy_weight": lambda c: dual(c)},
        ),
        "entropy_ignored": Alternative(
            Flag("bug", "The entropy bonus has no effect.", "Exploration dies sooner than configured."),
            {"entropy_weight": lambda c: dual(0)},
        ),
        **policy_surrogates.ENTROPY,
        "advantages_whitened_by_row": Alternative(
            Flag(
                "bug",
                "The loss whitens the advantages over each row's tokens.",
                "How good a completion is beside the others is lost; only the differences within it are left.",
            ),
            {"advantage": policy_ratios.whitened_in_row},
        ),
        **APPROX_KLS,
    },
    edges=policy.POLICY_EDGES,
    groups=(
        Group({"reduce": "token_mean", **PLAIN}, TOKEN_CASES),
        Group(CRITIC, CRITIC_CASES),
        Group(CRITIC | {"value_epsilon": None, "value_coef": 0.1, "entropy_coef": 0.0}, UNCLIPPED_CRITIC),
        Group(CRITIC | {"value_epsilon": None}, CRITIC_CASES[:3]),
        Group(CRITIC | {"entropy_coef": 0.0}, VALUE_ONLY),
        Group(CRITIC | {"entropy_coef": 0.0, "value_epsilon": None}, VALUE_ONLY[:3]),
        Group({**PLAIN, "reduce": "token_mean", "entropy_coef": 0.01}, ENTROPY_ONLY),
        Group({**PLAIN, "reduce": "sequence_mean"}, FEW_TOKENS[2:3]),
        Group({**PLAIN, "reduce": "sequence_sum"}, FEW_TOKENS[2:3]),
        Group({**PLAIN, "reduce": "token_mean", "dual_clip": 3.0}, FEW_TOKENS[:2]),
        Group({**PLAIN, "reduce": "token_mean", "epsilon_high": 0.28}, (policy_cases.BETWEEN_TOKENS,)),
        Group({**PLAIN, "reduce": "token_mean", "epsilon": 0.3}, FEW_TOKENS[:1]),
        Group(
            {**PLAIN, "reduce": "token_mean", "epsilon": 0.1, "epsilon_high": 0.4, "dual_clip": 2.0}, FEW_TOKENS[1:2]
        ),
        Group(CRITIC | {"value_epsilon": 0.5, "entropy_coef": 0.05}, CRITIC_CASES[:1]),
    ),
)
