"""gae: advantages and returns by generalized advantage estimation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ... import core
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...numbers import Dual, dual
from ..shared.common import (
    EDGES,
    FORMER_PPO_OF_TRL,
    INF,
    MASK,
    NAN,
    OPEN_INSTRUCT_E6C3044,
    OPENRLHF_0_11_2,
    RLHF_BOOK,
    VERL,
    Marks,
    Matrix,
    Row,
    Settings,
    full,
    hidden,
)

Chains = list[list[int]]


def advantages_and_returns(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """Row by row, and in a row from the last step backwards.

    ``path`` says which positions are steps (one chain of them, or more), ``entry`` what stands there, ``bootstrap``
    what follows the last one, ``delta`` and ``trace`` the recursion; ``carry`` and ``follow`` which advantage and value
    are handed on to the step before; ``finish`` and ``target`` what becomes of it.
    """
    gamma, lam = dual(settings["gamma"]), dual(settings["lam"])
    raw, marks = [], inputs["mask"]
    for rewards, values, on in zip(inputs["rewards"], inputs["values"], marks, strict=True):
        row: list[Dual | None] = [None] * len(on)
        for chain in steps["path"](on):
            next_value, next_advantage = steps["bootstrap"](values, chain), dual(0)
            for t in reversed(chain):
                reward, value = steps["entry"](rewards[t], on[t]), steps["entry"](values[t], on[t])
                delta = steps["delta"](reward, value, next_value, gamma)
                after = steps["trace"](delta, next_advantage, gamma, lam)
                next_advantage = steps["carry"](after, next_advantage, on[t], gamma * lam)
                next_value = steps["follow"](value, next_value, on[t])
                row[t] = next_advantage if on[t] else None
        raw.append(row)
    final = steps["finish"](raw, marks)
    returns = [
        [steps["target"](raw[b][t], final[b][t], b, t, inputs, gamma) if m else None for t, m in enumerate(on)]
        for b, on in enumerate(marks)
    ]
    return {"advantages": final, "returns": returns}


def with_next_value(raw: Any, final: Any, b: int, t: int, inputs: Inputs, gamma: Dual) -> Dual:
    after = [s for s in range(t + 1, len(inputs["mask"][b])) if inputs["mask"][b][s]]
    return dual(raw) + (inputs["values"][b][after[0]] if after else 0)


def chosen_tokens(on: Sequence[bool]) -> Chains:
    """One chain: the chosen tokens, whatever lies between."""
    return [[t for t, m in enumerate(on) if m]]


def add_value(raw: Dual, final: Dual, b: int, t: int, inputs: Inputs, gamma: Dual) -> Dual:
    """R_t = A_t + V_t    (PPO.5)"""
    return raw + inputs["values"][b][t]


GAE_STEPS: dict[str, Step] = {
    "path": chosen_tokens,
    "entry": lambda x, m: x if m else dual(0),
    "bootstrap": lambda values, chain: dual(0),
    "delta": lambda reward, value, next_value, gamma: reward + gamma * next_value - value,
    "trace": lambda delta, next_advantage, gamma, lam: delta + gamma * lam * next_advantage,
    "carry": lambda after, before, m, decay: after,
    "follow": lambda value, before, m: value,
    "finish": lambda raw, marks: raw,
    "target": add_value,
}


def up_to_the_last(on: Sequence[bool]) -> Chains:
    """Every position from the first chosen token to the last."""
    at = [t for t, m in enumerate(on) if m]
    return [list(range(at[0], at[-1] + 1))] if at else [[]]


def every_position(on: Sequence[bool]) -> Chains:
    return [list(range(len(on)))]


def runs(on: Sequence[bool]) -> Chains:
    """A chain for each run of chosen tokens."""
    chains: Chains = [[]]
    for t, m in enumerate(on):
        if m:
            chains[-1].append(t)
        elif chains[-1]:
            chains.append([])
    return chains


def value_at_next_position(values: Row, chain: Sequence[int]) -> Dual:
    """What the critic says at the position after the last token: padding, or nothing."""
    return values[chain[-1] + 1] if chain and chain[-1] + 1 < len(values) else dual(0)


def value_at_last_token(values: Row, chain: Sequence[int]) -> Dual:
    return values[chain[-1]] if chain else dual(0)


def whitened(raw: Matrix, marks: Marks) -> Matrix:
    """Minus the mean, over the deviation (n - 1, 1e-8 inside the root), of all chosen tokens."""
    if sum(map(sum, marks)) < 2:
        return raw
    white = core.masked_whiten([[x or dual(0) for x in row] for row in raw], marks, 1, dual("1e-8"))
    return [[w if m else None for w, m in zip(*rows, strict=True)] for rows in zip(white, marks, strict=True)]


def reward_to_go(raw: Dual, final: Dual, b: int, t: int, inputs: Inputs, gamma: Dual) -> Dual:
    """sum_s gamma^s r_{t+s} over the chosen tokens from t on."""
    result, weight = dual(0), dual(1)
    for s in range(t, len(inputs["mask"][b])):
        if inputs["mask"][b][s]:
            result, weight = result + weight * inputs["rewards"][b][s], weight * gamma
    return result


def final_plus_value(raw: Dual, final: Dual, b: int, t: int, inputs: Inputs, gamma: Dual) -> Dual:
    return final + inputs["values"][b][t]


GAE_ALTERNATIVES = {
    "observations_discounted": Alternative(
        Flag(
            "bug",
            "Tokens that the policy did not choose count as steps, with value and reward 0.",
            "Every token of tool output discounts the reward for what was done before it.",
            (f"{VERL}/issues/2337", OPENRLHF_0_11_2),
            ("C48", "R10"),
        ),
        {"path": up_to_the_last},
    ),
    "next_value_of_the_next_place": Alternative(
        Flag(
            "bug",
            "The next value is read at the next place, chosen or not: before a gap it is 0.",
            "The last token before a tool call looks as if nothing came after it: what the critic promised is lost.",
            pitfalls=("C48",),
        ),
        {"path": up_to_the_last, "carry": lambda after, before, m, decay: after if m else before},
    ),
    "gaps_cost_decay": Alternative(
        Flag(
            "bug",
            "Tokens that the policy did not choose multiply the advantage by gamma lam each.",
            "Every token of tool output makes what was done before it count less.",
            pitfalls=("C48",),
        ),
        {
            "path": up_to_the_last,
            "carry": lambda after, before, m, decay: after if m else decay * before,
            "follow": lambda value, before, m: value if m else before,
        },
    ),
    "cut_at_gaps": Alternative(
        Flag(
            "bug",
            "The recursion starts anew after each gap in the mask.",
            "What the policy did before a tool call is never rewarded for the outcome.",
            (OPEN_INSTRUCT_E6C3044, f"{VERL}/issues/7278"),
            ("C48", "R09"),
        ),
        {"path": runs},
    ),
    "mask_ignored": Alternative(
        Flag(
            "bug",
            "Rewards and values under the mask enter the recursion as they are.",
            "Advantages depend on what the critic says about padding.",
            ("https://github.com/alibaba/ROLL/issues/447", f"{VERL}/pull/50", f"{VERL}/pull/1440"),
            ("C47", "C60"),
        ),
        {"path": every_position, "entry": lambda x, m: x},
    ),
    "bootstraps_from_padding": Alternative(
        Flag(
            "bug",
            "The value at the position after the last token counts as what comes next.",
            "The end of every short completion is worth what the critic says about padding.",
            ("https://github.com/alibaba/ROLL/issues/447", f"{VERL}/pull/1850"),
            ("C47",),
        ),
        {"bootstrap": value_at_next_position},
    ),
    "bootstraps_beyond_the_end": Alternative(
        Flag(
            "bug",
            "After the last token the last value is repeated, as if the completion went on.",
            "A finished completion is credited with rewards that never come.",
            ("https://github.com/thu-ml/tianshou/issues/869", "https://github.com/pytorch/rl/commit/b28e4a462"),
            ("C51",),
        ),
        {"bootstrap": value_at_last_token},
    ),
    "no_bootstrap": Alternative(
        Flag(
            "bug",
            "delta = r - V: the next value is missing.",
            "Every token but the last looks like a loss: V has to be paid back at each step.",
            (f"{RLHF_BOOK}/pull/216",),
            ("C50",),
        ),
        {"delta": lambda reward, value, next_value, gamma: reward - value},
    ),
    "reward_minus_value": Alternative(
        Flag(
            "bug",
            "A_t = r_t - V_t: neither the next value nor what follows.",
            "With one reward at the end only the last token learns anything true.",
            (f"{RLHF_BOOK}/pull/216",),
            ("C50",),
        ),
        {
            "delta": lambda reward, value, next_value, gamma: reward - value,
            "trace": lambda delta, next_advantage, gamma, lam: delta,
        },
    ),
    "gamma_missing_in_delta": Alternative(
        Flag(
            "bug",
            "delta = r + V' - V: the next value is not discounted.",
            "With gamma below 1 the advantages are too large wherever values are positive.",
        ),
        {"delta": lambda reward, value, next_value, gamma: reward + next_value - value},
    ),
    "gamma_missing_in_trace": Alternative(
        Flag(
            "bug",
            "A_t = delta_t + lam A_{t+1}: the trace is not discounted.",
            "With gamma below 1 late rewards reach too far back.",
        ),
        {"trace": lambda delta, next_advantage, gamma, lam: delta + lam * next_advantage},
    ),
    "monte_carlo": Alternative(
        Flag(
            "variant",
            "lam is ignored (1 in its place): return - V.",
            "Unbiased, and as noisy as the whole completion.",
            ("https://arxiv.org/abs/1506.02438",),
        ),
        {"trace": lambda delta, next_advantage, gamma, lam: delta + gamma * next_advantage},
    ),
    "one_step": Alternative(
        Flag(
            "variant",
            "The trace is missing: A_t = delta_t.",
            "A reward at the end reaches earlier tokens only through the critic, one step an update.",
            ("https://arxiv.org/abs/1506.02438",),
        ),
        {"trace": lambda delta, next_advantage, gamma, lam: delta},
    ),
    "negated": Alternative(
        Flag("bug", "V - Q in place of Q - V.", "What went better than expected is unlearned."),
        {"finish": lambda raw, marks: [[None if x is None else -x for x in row] for row in raw]},
    ),
    "whitened_advantages": Alternative(
        Flag(
            "variant",
            "Advantages are whitened over the batch before they are returned; returns are not.",
            "The scale of rewards is lost; in a batch of good completions half of the tokens are pushed down.",
            (f"{VERL}/pull/1527", FORMER_PPO_OF_TRL),
        ),
        {"finish": whitened},
    ),
    "returns_from_whitened_advantages": Alternative(
        Flag(
            "bug",
            "Returns are whitened advantages plus values.",
            "The critic learns a target that has lost the scale of the rewards.",
            (),
            ("C50",),
        ),
        {"finish": whitened, "target": final_plus_value},
    ),
    "returns_are_rewards": Alternative(
        Flag(
            "bug",
            "The critic's target is the reward of the token alone.",
            "With one reward at the end the critic learns 0 everywhere else.",
            (f"{RLHF_BOOK}/pull/216",),
            ("C50",),
        ),
        {"target": lambda raw, final, b, t, inputs, gamma: inputs["rewards"][b][t]},
    ),
    "returns_are_advantages": Alternative(
        Flag(
            "bug",
            "The critic's target is the advantage: the value is not added back.",
            "The critic learns its own error, and values shrink to 0.",
            ("https://github.com/vwxyzjn/cleanrl/commit/95fcdd75",),
            ("C50",),
        ),
        {"target": lambda raw, final, b, t, inputs, gamma: raw},
    ),
    "returns_add_the_next_value": Alternative(
        Flag(
            "bug",
            "The critic's target is the advantage plus the value of the next token, not of its own.",
            "The critic learns what comes one token later.",
        ),
        {"target": with_next_value},
    ),
    "returns_are_rewards_to_go": Alternative(
        Flag(
            "variant",
            "The critic's target is the discounted sum of rewards, not A + V.",
            "Unbiased and noisier: the lambda of the advantages does not act on the critic.",
            ("https://arxiv.org/abs/1506.02438",),
        ),
        {"target": reward_to_go},
    ),
}

PLAIN_R, PLAIN_V = [[-0.125, 0.0, 1.0], [0.25, -0.5, -1.0]], [[0.5, 0.25, 0.75], [-0.25, 0.5, -0.5]]
LONG_R = [[0.0, -0.25, 0.5, 0.125, 0.0, 1.0], [0.5, 0.0, -0.125, 0.25, 0.0, -1.0]]
LONG_V = [[0.5, 0.25, -0.5, 0.75, 0.375, 0.25], [0.125, -0.25, 0.5, 1.0, -0.75, 0.5]]
GAPS = [[True, True, False, False, True, True], [True, False, True, True, False, False]]
SHORT = [[True, True, True, True, False, False], [True, True, True, True, True, True]]


def gae_case(comment: str, rewards: Any, values: Any, mask: Marks, *flags: str, junk: float | None = None) -> Case:
    if junk is not None:
        rewards, values = hidden(rewards, mask, junk), hidden(values, mask, junk)
    return Case(comment, {"rewards": rewards, "values": values, "mask": mask}, flags)


GAE_CASES = (
    gae_case("two rows, all chosen", PLAIN_R, PLAIN_V, full(2, 3)),
    gae_case("one reward, at the end", [[0.0, 0.0, 0.0, 1.0]], [[0.25, 0.5, 0.375, 0.75]], full(1, 4), "sparse_reward"),
    gae_case("reward 1 and value 2 at every token", [[1.0, 1.0, 1.0]], [[2.0, 2.0, 2.0]], full(1, 3)),
    gae_case("ragged, zeros in the padding", LONG_R, LONG_V, SHORT, "ragged_mask", junk=0.0),
    gae_case(
        "ragged, a value of 100 in the padding", LONG_R, LONG_V, SHORT, "ragged_mask", "junk_under_mask", junk=100.0
    ),
    gae_case("tool output in between, zeros there", LONG_R, LONG_V, GAPS, "gaps_in_mask", junk=0.0),
    gae_case("tool output in between, junk there", LONG_R, LONG_V, GAPS, "gaps_in_mask", "junk_under_mask", junk=-4.0),
    gae_case("NaN under the mask", LONG_R, LONG_V, GAPS, "gaps_in_mask", "nan_under_mask", junk=NAN),
    gae_case("inf under the mask", LONG_R, LONG_V, SHORT, "ragged_mask", "nan_under_mask", junk=INF),
    gae_case("an empty row", PLAIN_R, PLAIN_V, [[True, True, True], [False] * 3], "empty_row"),
    gae_case("no chosen token at all", PLAIN_R, PLAIN_V, [[False] * 3] * 2, "all_masked"),
    gae_case(
        "as many rows as columns",
        [[0.5, 1.0], [-0.25, 0.75]],
        [[0.25, -0.5], [0.5, 0.125]],
        full(2, 2),
        "rows_equal_columns",
    ),
    gae_case("one token", [[1.0]], [[0.25]], full(1, 1), "one_token"),
)
GAMMA = Setting("discount per chosen token", (1.0, 0.99, 0.9), free=True)
LAM = Setting("0 is one-step, 1 is return - V", (0.95, 1.0, 0.9), free=True)
FEW = tuple(GAE_CASES[i] for i in (0, 1, 4, 6))

OBJECTIVE = Objective(
    name="gae",
    about="Generalised advantages over the chosen tokens, and the critic's targets.",
    tags=("PPO.3", "PPO.4", "PPO.5"),
    source=("Schulman et al., arXiv:1506.02438v5, eq. 16",),
    arguments={"rewards": Argument("B T", "reward"), "values": Argument("B T", "reward"), "mask": MASK},
    returns={"advantages": Argument("B T", "reward"), "returns": Argument("B T", "reward")},
    settings={"gamma": GAMMA, "lam": LAM},
    compute=advantages_and_returns,
    steps=GAE_STEPS,
    alternatives=GAE_ALTERNATIVES,
    edges={
        **EDGES,
        "sparse_reward": Flag(
            "edge",
            "One reward, at the end: the usual one for language models.",
            "What reaches the first token must come through the recursion.",
            pitfalls=("C50",),
        ),
    },
    groups=(
        Group({"gamma": 0.9, "lam": 0.95}, GAE_CASES),
        Group({"gamma": 1.0, "lam": 0.95}, FEW),
        Group({"gamma": 0.99, "lam": 0.95}, FEW),
        Group({"gamma": 1.0, "lam": 1.0}, FEW),
        Group({"gamma": 0.9, "lam": 0.9}, (GAE_CASES[0], GAE_CASES[6])),
        Group({"gamma": 0.9, "lam": 0.0}, FEW[:2]),
    ),
)
