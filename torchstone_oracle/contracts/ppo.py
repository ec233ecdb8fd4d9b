"""PPO: rewards, advantages, the clip, the critic: arguments, what goes wrong, and the cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import core, ppo
from ..contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ..numbers import Dual, absolute, bounded_exp, clip, dual, exp, maximum, mean, minimum, stop, total
from .common import CONSTANT_LOG_PROBS, EDGES, INF, MASK, NAN, full, hidden
from .policy import (
    ADVANTAGES,
    BETWEEN_TOKENS,
    EPSILON,
    EPSILON_HIGH,
    LEVELS,
    LIGER,
    LOSS,
    LOSS_NEGATED,
    NEGATED,
    OPEN_INSTRUCT,
    OPENRLHF,
    OUT_OF_RANGE,
    POLICY_EDGES,
    RATIO,
    REDUCE_BUGS,
    RLHF_BOOK,
    STEPS,
    SURROGATES,
    TRL,
    VERL,
    WITHOUT_REFERENCE,
    Marks,
    Matrix,
    Row,
    Settings,
    entries,
    few_cases,
    no_clip,
    no_dual_clip,
    places,
    plus,
    reduction,
    token_losses,
    usual_cases,
    without,
)

# ------------------------------------------------------------------------------------------------- gae: the computation

Chains = list[list[int]]


def advantages_and_returns(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """Row by row, and in a row from the last step backwards.

    ``path`` says which positions are steps (one chain of them, or more), ``entry`` what stands there, ``bootstrap``
    what follows the last one, ``delta`` and ``trace`` the recursion; ``finish`` and ``target`` what becomes of it.
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
                next_advantage = steps["trace"](delta, next_advantage, gamma, lam)
                next_value = value
                row[t] = next_advantage if on[t] else None
        raw.append(row)
    final = steps["finish"](raw, marks)
    returns = [
        [steps["target"](raw[b][t], final[b][t], b, t, inputs, gamma) if m else None for t, m in enumerate(on)]
        for b, on in enumerate(marks)
    ]
    return {"advantages": final, "returns": returns}


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
    "finish": lambda raw, marks: raw,
    "target": add_value,
}

# ------------------------------------------------------------------------------------------------- gae: what goes wrong


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
            (f"{VERL}/issues/2337", OPENRLHF),
            ("C48", "R10"),
        ),
        {"path": up_to_the_last},
    ),
    "cut_at_gaps": Alternative(
        Flag(
            "bug",
            "The recursion starts anew after each gap in the mask.",
            "What the policy did before a tool call is never rewarded for the outcome.",
            (OPEN_INSTRUCT, f"{VERL}/issues/7278"),
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
            (f"{VERL}/pull/1527", TRL),
        ),
        {"finish": whitened},
    ),
    "returns_from_whitened_advantages": Alternative(
        Flag(
            "bug",
            "Returns are whitened advantages plus values.",
            "The critic learns a target that has lost the scale of the rewards.",
            (VERL,),
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

# ------------------------------------------------------------------------------------------------------- gae: the cases

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

GAE = Objective(
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

# ------------------------------------------------------------------------------------------------------- shaped rewards


def rewards_of_tokens(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """Row by row: a price at each chosen token, and the score at one of them."""
    result = []
    for b, on in enumerate(inputs["mask"]):
        prices = [
            steps["estimate"](p, q) if m else dual(0)
            for p, q, m in zip(inputs["log_probs"][b], inputs["ref_log_probs"][b], on, strict=True)
        ]
        prices = steps["spread"](prices, on)
        shares = steps["score"](inputs["scores"][b], on)
        weight = steps["weight"](settings["beta"])
        result.append([stop(shares[t] - weight * prices[t]) if m else None for t, m in enumerate(on)])
    return {"rewards": result}


def at(place: Callable[[Sequence[bool]], int]) -> Step:
    """The score at one position, 0 at all others."""
    return lambda score, on: [score if any(on) and t == place(on) else dual(0) for t in range(len(on))]


def last_chosen(on: Sequence[bool]) -> int:
    return max(t for t, m in enumerate(on) if m)


def all_on_the_last(prices: Row, on: Sequence[bool]) -> list[Dual]:
    return [total(prices) if any(on) and t == last_chosen(on) else dual(0) for t in range(len(on))]


R_NEW = [[-1.25, -0.5, -2.0, -0.75], [-0.75, -1.5, -0.25, -1.0]]
R_REF = [[-1.5, -0.25, -1.0, -1.25], [-2.25, -1.0, -0.5, -0.5]]
R_RAGGED = [[True, True, True, True], [True, True, False, False]]
R_GAPS = [[True, False, True, False], [False, True, True, True]]


def reward_case(comment: str, mask: Marks, *flags: str, junk: tuple[float, float] | None = None) -> Case:
    new, ref = R_NEW, R_REF
    if junk is not None:
        new, ref = hidden(new, mask, junk[0]), hidden(ref, mask, junk[1])
    inputs = {"scores": [1.0, -0.5], "log_probs": new, "ref_log_probs": ref, "mask": mask}
    return Case(comment, inputs, flags)


REWARD_CASES = (
    reward_case("two rows, all chosen", full(2, 4)),
    reward_case("ragged: the score is on the last chosen token", R_RAGGED, "ragged_mask", "score_reaches_last_token"),
    reward_case("gaps, with junk", R_GAPS, "gaps_in_mask", "junk_under_mask", junk=(-3.0, -0.5)),
    reward_case("NaN and inf under the mask", R_GAPS, "gaps_in_mask", "nan_under_mask", junk=(NAN, -INF)),
    reward_case("an empty row: its score is lost", [[True] * 4, [False] * 4], "empty_row"),
    reward_case("no chosen token at all", [[False] * 4] * 2, "all_masked"),
    Case(
        "as many rows as columns",
        {
            "scores": [1.0, -0.5],
            "log_probs": [[-1.0, -0.5], [-2.0, -0.25]],
            "ref_log_probs": [[-0.5, -0.75], [-1.0, -1.0]],
            "mask": full(2, 2),
        },
        ("rows_equal_columns",),
    ),
    Case(
        "one token",
        {"scores": [0.75], "log_probs": [[-1.0]], "ref_log_probs": [[-0.5]], "mask": [[True]]},
        ("one_token",),
    ),
)
SHAPED_REWARDS = Objective(
    name="shaped_rewards",
    about="The KL to the reference is paid token by token, the score arrives with the last chosen token.",
    tags=("PPO.1", "KL.1"),
    source=("Ziegler et al., arXiv:1909.08593v2, eq. 2", "Ouyang et al., InstructGPT, arXiv:2203.02155v1, section 3.5"),
    arguments={
        "scores": Argument("B", "reward"),
        "log_probs": CONSTANT_LOG_PROBS,
        "ref_log_probs": CONSTANT_LOG_PROBS,
        "mask": MASK,
    },
    returns={"rewards": Argument("B T", "reward")},
    settings={"beta": Setting("price of the KL, reward per nat", (0.05, 0.02, 0.1), free=True)},
    compute=rewards_of_tokens,
    steps={
        "estimate": core.k1,
        "spread": lambda prices, on: prices,
        "score": at(last_chosen),
        "weight": lambda beta: dual(beta),
    },
    alternatives={
        "kl_added": Alternative(
            Flag(
                "bug",
                "+ beta KL: the policy is paid for leaving the reference.",
                "It leaves, faster and faster.",
                ("https://github.com/pytorch/rl/commit/96c300322", RLHF_BOOK),
                ("C31", "C32"),
            ),
            {"weight": lambda beta: -dual(beta)},
        ),
        "reversed_kl": Alternative(
            Flag(
                "bug",
                "k3 of policy and reference in swapped order.",
                "The mean of the price is not KL(policy || reference).",
                (RLHF_BOOK,),
                ("C32", "R01"),
            ),
            {"estimate": lambda p, q: core.k3(q, p)},
        ),
        "k3": Alternative(
            Flag(
                "variant",
                "k3 in place of k1 as the price.",
                "The same mean; as a reward its gradient is another one.",
                ("http://joschu.net/blog/kl-approx.html",),
                ("C33",),
            ),
            {"estimate": core.k3},
        ),
        "k2": Alternative(
            Flag("variant", "k2 in place of k1 as the price.", "Not the KL: both directions cost the same."),
            {"estimate": core.k2},
        ),
        "absolute": Alternative(
            Flag("variant", "The absolute log-ratio as the price.", "What k1 pays back is charged instead."),
            {"estimate": lambda p, q: absolute(core.k1(p, q))},
        ),
        "kl_on_the_last_token": Alternative(
            Flag(
                "variant",
                "The KL of the whole completion is paid at the last token (RLOO).",
                "The same return at the first token; with discount or a critic other credit per token.",
                (f"{TRL}/pull/2575",),
                ("C37",),
            ),
            {"spread": all_on_the_last},
        ),
        "beta_ignored": Alternative(
            Flag("bug", "No KL in the reward.", "Nothing holds the policy near the reference.", pitfalls=("C34",)),
            {"weight": lambda beta: dual(0)},
        ),
        "score_after_the_end": Alternative(
            Flag(
                "bug",
                "The score is put after the last chosen token: on the first pad, or in the last column.",
                "It is masked away: only completions cut off by the length limit are ever rewarded.",
                (f"{TRL}/issues/3750", OPENRLHF),
                ("C49",),
            ),
            {"score": at(lambda on: min(last_chosen(on) + 1, len(on) - 1))},
        ),
        "score_at_the_length": Alternative(
            Flag(
                "bug",
                "The score is put at the number of chosen tokens, minus one: right only without gaps.",
                "After a tool call it lands on a token in the middle, or on the tool's output.",
                pitfalls=("C49", "C48"),
            ),
            {"score": at(lambda on: sum(on) - 1)},
        ),
        "score_on_every_token": Alternative(
            Flag("bug", "The score is given at every token.", "Long completions are paid more often."),
            {"score": lambda score, on: [score] * len(on)},
        ),
        "score_on_the_first": Alternative(
            Flag("bug", "The score is given at the first chosen token.", "Later tokens are never rewarded."),
            {"score": at(lambda on: list(on).index(True))},
        ),
    },
    edges={
        **EDGES,
        "score_reaches_last_token": Flag(
            "edge",
            "The score belongs on the last chosen token, the end token if there is one.",
            "A score on a masked position never arrives.",
            (f"{TRL}/issues/3750",),
            ("C49",),
        ),
    },
    groups=(
        Group({"beta": 0.05}, REWARD_CASES),
        Group({"beta": 0.5}, REWARD_CASES[:2]),
        Group({"beta": 0.0}, REWARD_CASES[:2]),
    ),
)

# --------------------------------------------------------------------------------------------- the adaptive coefficient


def coefficient(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    beta, target, gain, most = (dual(settings[k]) for k in ("beta", "target", "gain", "max_error"))
    error = steps["bound"](steps["error"](inputs["kl"], target), most)
    return {"beta": steps["update"](beta, gain, error)}


KL_CASES = tuple(
    Case(f"KL {kl:g}", {"kl": kl}, flags)
    for kl, flags in (
        (6.0, ("on_target",)),
        (6.25, ()),
        (5.5, ()),
        (12.0, ("far_from_target",)),
        (1.0, ("far_from_target",)),
        (0.0, ("far_from_target",)),
    )
)
ADAPTIVE_KL = Objective(
    name="adaptive_kl",
    about="The KL's price after one step of the controller that steers the KL to a target.",
    tags=("PPO.2",),
    source=("Ziegler et al., arXiv:1909.08593v2, section 2.2",),
    arguments={"kl": Argument("", "nats")},
    returns={"beta": Argument("", "reward per nat")},
    settings={
        "beta": Setting("the present price", (0.125,)),
        "target": Setting("the KL wanted", (6.0,)),
        "gain": Setting("K_beta", (0.1,), free=True),
        "max_error": Setting("bound of the error", (0.2,), free=True),
    },
    compute=coefficient,
    steps={
        "error": lambda kl, target: kl / target - 1,
        "bound": lambda error, most: clip(error, -most, most),
        "update": lambda beta, gain, error: beta * (1 + gain * error),
    },
    alternatives={
        "inverted": Alternative(
            Flag("bug", "The price falls when the KL is too large.", "The policy runs away."),
            {"update": lambda beta, gain, error: beta * (1 - gain * error)},
        ),
        "not_bounded": Alternative(
            Flag("bug", "The error is not bounded.", "One odd batch makes the price jump."),
            {"bound": lambda error, most: error},
        ),
        "not_relative": Alternative(
            Flag("bug", "KL - target, not divided by the target.", "The controller's speed depends on the target."),
            {"error": lambda kl, target: kl - target},
        ),
        "target_over_kl": Alternative(
            Flag("bug", "target / KL - 1.", "Inverted, and infinite at a KL of 0."),
            {"error": lambda kl, target: target / kl - 1},
        ),
        "gain_ignored": Alternative(
            Flag("bug", "beta (1 + error): no gain.", "The price moves by up to a fifth each step."),
            {"update": lambda beta, gain, error: beta * (1 + error)},
        ),
        "added": Alternative(
            Flag("bug", "beta + gain * error: not proportional to beta.", "The price can fall below 0."),
            {"update": lambda beta, gain, error: beta + gain * error},
        ),
        "fixed": Alternative(
            Flag("variant", "The price does not change.", "The KL goes where it goes."),
            {"update": lambda beta, gain, error: beta},
        ),
        "exponential": Alternative(
            Flag("variant", "beta exp(gain * error).", "The same to first order."),
            {"update": lambda beta, gain, error: beta * exp(gain * error)},
        ),
    },
    edges={
        "on_target": Flag("edge", "The KL is what was wanted.", "The price must not move."),
        "far_from_target": Flag(
            "edge", "An error beyond the bound.", "Without the bound one batch moves the price far."
        ),
    },
    groups=(
        Group({"beta": 0.125, "target": 6.0, "gain": 0.1, "max_error": 0.2}, KL_CASES),
        Group({"beta": 0.5, "target": 2.0, "gain": 0.05, "max_error": 0.25}, KL_CASES[:2]),
    ),
)

# --------------------------------------------------------------------------------------------------- explained variance


def explained(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    values, returns = (steps["select"](inputs[k], inputs["mask"]) for k in ("values", "returns"))
    return {"explained_variance": stop(steps["share"](values, returns))}


def flat_entries(x: Matrix, marks: Marks) -> list[Dual]:
    return [v for row in entries(x, marks) for v in row]


def everything(x: Matrix, marks: Marks) -> list[Dual]:
    return [v for row in x for v in row]


def mean_square(xs: Sequence[Dual]) -> Dual:
    return mean([x * x for x in xs])


def difference(a: Sequence[Dual], b: Sequence[Dual]) -> list[Dual]:
    return [x - y for x, y in zip(a, b, strict=True)]


def uncentred(values: Sequence[Dual], returns: Sequence[Dual]) -> Dual:
    if ppo.variance(returns).same(0):
        return dual(0)
    return 1 - mean_square(difference(returns, values)) / ppo.variance(returns)


V = [[0.5, 0.25, 0.75], [-0.25, 0.5, -0.5]]
R = [[1.0, 0.25, 1.25], [-0.5, 0.0, -1.0]]


def variance_case(comment: str, values: Any, returns: Any, mask: Marks, *flags: str, junk: Any = None) -> Case:
    if junk is not None:
        values, returns = hidden(values, mask, junk), hidden(returns, mask, -junk)
    return Case(comment, {"values": values, "returns": returns, "mask": mask}, flags)


P_RAGGED, P_GAPS = [[True, True, True], [True, False, False]], [[True, False, True], [False, True, True]]
EXPLAINED_VARIANCE = Objective(
    name="explained_variance",
    about="How much of the returns' variance the critic predicts: 1 is all, 0 no better than a constant.",
    tags=("PPO.6",),
    source=("1 - Var[R - V] / Var[R], as in OpenAI's baselines",),
    arguments={"values": Argument("B T", "reward"), "returns": Argument("B T", "reward"), "mask": MASK},
    returns={"explained_variance": Argument("", "none")},
    settings={},
    compute=explained,
    steps={"select": flat_entries, "share": ppo.explained_variance},
    alternatives={
        "unmasked": Alternative(
            Flag("bug", "Padding is counted.", "The number depends on how much padding there is.", (), ("C36",)),
            {"select": everything},
        ),
        "unexplained": Alternative(
            Flag("bug", "Var[R - V] / Var[R]: not taken from 1.", "A perfect critic is reported as 0."),
            {"share": lambda v, r: ppo.variance(difference(r, v)) / ppo.variance(r)},
        ),
        "swapped": Alternative(
            Flag("bug", "Divided by the variance of the values.", "A constant critic looks infinitely bad."),
            {"share": lambda v, r: dual(0) if ppo.variance(v).same(0) else ppo.explained_variance(r, v)},
        ),
        "uncentred": Alternative(
            Flag("variant", "1 - mean square error / Var[R] (R squared).", "A constant offset of the critic counts."),
            {"share": uncentred},
        ),
        "zero_over_zero": Alternative(
            Flag("bug", "Returns that do not vary are divided by.", "NaN in the logs.", (), ("C61",)),
            {"share": lambda v, r: 1 - ppo.variance(difference(r, v)) / ppo.variance(r)},
        ),
    },
    edges={
        **EDGES,
        "equal_returns": Flag("edge", "Returns that do not vary: 0.", "0 / 0 is NaN."),
    },
    groups=(
        Group(
            {},
            (
                variance_case("two rows, all chosen", V, R, full(2, 3)),
                variance_case("a perfect critic", R, R, full(2, 3)),
                variance_case("off by a constant", [[x + 0.5 for x in row] for row in R], R, full(2, 3)),
                variance_case("a critic that is worse than none", [[-x for x in row] for row in R], R, full(2, 3)),
                variance_case("ragged, with junk", V, R, P_RAGGED, "ragged_mask", "junk_under_mask", junk=4.0),
                variance_case("NaN under the mask", V, R, P_GAPS, "gaps_in_mask", "nan_under_mask", junk=NAN),
                variance_case("returns that do not vary", V, [[0.5] * 3] * 2, full(2, 3), "equal_returns"),
                variance_case("no chosen token at all", V, R, [[False] * 3] * 2, "all_masked"),
            ),
        ),
    ),
)

# ------------------------------------------------------------------------------------- the clipped surrogate, per token

TOKEN_ARGUMENTS = {**WITHOUT_REFERENCE, "advantages": Argument("B T", "reward, or none")}
DUAL_CLIP = Setting("bounds the loss of a bad token by -c A; None: no such bound", (None, 3.0))
TOKEN_CASES = usual_cases(False, per_token=True)
FEW_TOKENS = few_cases(False, per_token=True)
MASK_MULTIPLIED = Alternative(REDUCE_BUGS["mask_multiplied"].flag, {"select": lambda x, m: x * int(m)})
DUAL_CLIPS = {
    "dual_clip_ignored": Alternative(
        Flag("bug", "The second bound is accepted and not used.", "A huge ratio at a bad token explodes the loss."),
        {"surrogate": no_dual_clip},
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
CLIPPED_SURROGATE = Objective(
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
    settings={"epsilon": EPSILON, "epsilon_high": EPSILON_HIGH, "dual_clip": DUAL_CLIP},
    compute=token_losses,
    steps=STEPS,
    alternatives={
        **RATIO,
        **LEVELS,
        **ADVANTAGES,
        **SURROGATES,
        **DUAL_CLIPS,
        "mask_multiplied": MASK_MULTIPLIED,
        "negated": NEGATED,
    },
    edges=POLICY_EDGES,
    groups=(
        Group({"epsilon": 0.2, "epsilon_high": None, "dual_clip": None}, TOKEN_CASES),
        Group({"epsilon": 0.2, "epsilon_high": 0.28, "dual_clip": None}, (FEW_TOKENS[0], BETWEEN_TOKENS)),
        Group({"epsilon": 0.2, "epsilon_high": None, "dual_clip": 3.0}, FEW_TOKENS[:2]),
    ),
)


def constant_surrogate(log_prob: Dual, u: Dual, a: Dual, settings: Settings) -> Dual:
    return stop(ppo.importance_surrogate(u, a))


IMPORTANCE_SURROGATE = Objective(
    name="importance_surrogate",
    about="The loss per token that PPO clips, without the clip.",
    tags=("PPO.7", "PPO.12"),
    source=("Schulman et al., PPO, arXiv:1707.06347v2, eq. 6",),
    arguments=TOKEN_ARGUMENTS,
    returns={"losses": Argument("B T", "that of the advantages")},
    settings={},
    compute=token_losses,
    steps=STEPS | {"surrogate": no_clip},
    alternatives={
        **RATIO,
        **LEVELS,
        **without(ADVANTAGES, "whitened_advantages", "negated_advantages"),
        "clipped": Alternative(
            Flag("variant", "PPO's clip, epsilon 0.2.", "Tokens far off lose their gradient."),
            {"surrogate": lambda p, u, a, s: ppo.clipped_surrogate(u, a, 0.2)},
        ),
        "no_ratio": SURROGATES["no_ratio"],
        "detached": Alternative(SURROGATES["detached_surrogate"].flag, {"surrogate": constant_surrogate}),
        "ratio_detached_times_log_prob": Alternative(
            Flag(
                "variant",
                "sg[r] A log pi: the same gradient, another value.",
                "None on the update; the logged loss is another number.",
            ),
            {"surrogate": lambda p, u, a, s: -stop(bounded_exp(u)) * a * p},
        ),
        "log_ratio_as_ratio": Alternative(
            SURROGATES["log_ratio_as_ratio"].flag, {"surrogate": lambda p, u, a, s: -u * a}
        ),
        "mask_multiplied": MASK_MULTIPLIED,
        "negated": NEGATED,
    },
    edges=POLICY_EDGES,
    groups=(Group({}, TOKEN_CASES),),
)

# --------------------------------------------------------------------------------------------------- the critic's error


def value_errors(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    old = inputs.get("old_values") or [[None] * len(row) for row in inputs["mask"]]
    rows = zip(inputs["values"], old, inputs["returns"], inputs["mask"], strict=True)
    return {
        "losses": [
            [steps["select"](steps["error"](v, o, r, settings["epsilon"]), m) for v, o, r, m in zip(*row, strict=True)]
            for row in rows
        ]
    }


def near(v: Dual, o: Dual | None, epsilon: float | None) -> Dual:
    """The value held near the old one."""
    if o is None or epsilon is None:
        return v
    return stop(o) + clip(v - stop(o), -dual(epsilon), dual(epsilon))


def square(x: Dual) -> Dual:
    return x * x


VALUE_ERRORS = {
    "minimum_of_both": Alternative(
        Flag("bug", "The smaller of both errors.", "A critic that has moved far has no gradient back to its target."),
        {"error": lambda v, o, r, e: minimum(square(v - r), square(near(v, o, e) - r)) / 2},
    ),
    "clipped_only": Alternative(
        Flag("bug", "Only the clipped error.", "A critic that has moved far has no gradient at all."),
        {"error": lambda v, o, r, e: square(near(v, o, e) - r) / 2},
    ),
    "no_half": Alternative(
        Flag(
            "variant",
            "Without the factor 1/2 (PPO's eq. 9).",
            "The critic's coefficient means twice as much.",
            ("https://arxiv.org/abs/1707.06347",),
        ),
        {"error": lambda v, o, r, e: maximum(square(v - r), square(near(v, o, e) - r))},
    ),
    "not_clipped": Alternative(
        Flag("variant", "The plain squared error.", "The critic may move as far as one batch takes it."),
        {"error": lambda v, o, r, e: square(v - r) / 2},
    ),
    "relative_clip": Alternative(
        Flag("bug", "The clip is a share of the old value, not a distance.", "Values near 0 can hardly move."),
        {
            "error": lambda v, o, r, e: (
                maximum(square(v - r), square(near(v, o, None if e is None or o is None else absolute(o) * e) - r)) / 2
            )
        },
    ),
    "absolute_error": Alternative(
        Flag("bug", "The absolute error in place of the squared one.", "Small errors pull as hard as large ones."),
        {"error": lambda v, o, r, e: maximum(absolute(v - r), absolute(near(v, o, e) - r)) / 2},
    ),
    "smooth_l1": Alternative(
        Flag(
            "variant",
            "Smooth L1 in place of the square, without a clip (torchrl).",
            "Errors above 1 pull with constant force.",
            ("https://github.com/pytorch/rl",),
        ),
        {"error": lambda v, o, r, e: square(v - r) / 2 if absolute(v - r) < 1 else absolute(v - r) - dual("0.5")},
    ),
    "old_value_as_target": Alternative(
        Flag("bug", "The target is the old value.", "The critic learns to stay where it was.", pitfalls=("C50",)),
        {"error": lambda v, o, r, e: square(v - (stop(o) if o is not None else v)) / 2},
    ),
}
VALUES = [[0.5, 1.5, -0.25], [-1.0, 0.75, 2.0]]
OLD_VALUES = [[0.25, 0.5, -0.125], [-0.5, 1.5, 1.875]]
RETURNS = [[1.0, 0.25, -0.5], [0.25, 2.0, 0.5]]


def value_case(comment: str, mask: Marks, *flags: str, junk: Any = None, old: bool = True) -> Case:
    inputs: Inputs = {"values": VALUES, "returns": RETURNS, "mask": mask}
    if old:
        inputs["old_values"] = OLD_VALUES
    if junk is not None:
        inputs |= {k: hidden(inputs[k], mask, junk) for k in inputs if k != "mask"}
    return Case(comment, inputs, flags)


VALUE_CASES = (
    value_case("moved towards the target and away from it, far and near", full(2, 3)),
    value_case("ragged, with junk", P_RAGGED, "ragged_mask", "junk_under_mask", junk=8.0),
    value_case("NaN under the mask", P_GAPS, "gaps_in_mask", "nan_under_mask", junk=NAN),
    value_case("an empty row", [[True, True, False], [False] * 3], "empty_row"),
    value_case("no chosen token at all", [[False] * 3] * 2, "all_masked"),
    Case(
        "the critic has not moved",
        {"values": OLD_VALUES, "old_values": OLD_VALUES, "returns": RETURNS, "mask": full(2, 3)},
    ),
    Case(
        "one token", {"values": [[1.0]], "old_values": [[0.5]], "returns": [[0.25]], "mask": [[True]]}, ("one_token",)
    ),
)
CLIPPED_VALUE_ERROR = Objective(
    name="clipped_value_error",
    about="Half the squared error of the critic, optionally clipped around its old prediction.",
    tags=("PPO.10",),
    source=(
        "Schulman et al., PPO, arXiv:1707.06347v2, eq. 9 (which has no half and no clip)",
        "the clip: OpenAI's baselines (Huang et al., The 37 Implementation Details of PPO, 2022, detail 9)",
    ),
    arguments={
        "values": Argument("B T", "reward", gradient=True),
        "old_values": Argument("B T", "reward"),
        "returns": Argument("B T", "reward"),
        "mask": MASK,
    },
    returns={"losses": Argument("B T", "reward squared")},
    settings={
        "epsilon": Setting("how far the value may move from the old one; None: no clip", (0.2, 0.5, None), free=True)
    },
    compute=value_errors,
    steps={"error": ppo.clipped_value_error, "select": lambda x, m: x if m else None},
    alternatives={**VALUE_ERRORS, "mask_multiplied": MASK_MULTIPLIED},
    edges=EDGES,
    groups=(
        Group({"epsilon": 0.2}, VALUE_CASES),
        Group({"epsilon": 0.5}, VALUE_CASES[:2]),
        Group(
            {"epsilon": None},
            (value_case("all chosen", full(2, 3), old=False), value_case("ragged", P_RAGGED, "ragged_mask", old=False)),
        ),
    ),
)

# ------------------------------------------------------------------------------------------------------- the whole loss


def whole_loss(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    """Surrogate, critic and entropy, added token by token, then reduced; and what is reported with it."""
    found, marks = places(inputs, settings, steps), inputs["mask"]
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
        terms = added(terms, inputs["entropies"], steps["entropy_weight"](settings["entropy_coef"]))
        metrics["entropy"] = inputs["entropies"]
    loss = steps["sign"](steps["reduce"](terms, marks, settings))
    return {"loss": loss} | {k: stop(core.token_mean(x, marks)) for k, x in metrics.items()}


def added(x: Matrix, y: Matrix, weight: Dual) -> Matrix:
    return [[a + weight * b for a, b in zip(*rows, strict=True)] for rows in zip(x, y, strict=True)]


ENTROPIES = [[1.0, 0.5, 1.5], [0.75, 1.25, 0.25]]


def with_critic(c: Case, old_values: bool = True, entropies: bool = True) -> Case:
    """The same case with values, returns and entropies: masked entries hold what the log-probs hold there."""
    inputs, mask = dict(c.inputs), c.inputs["mask"]
    extra = {"values": VALUES, "returns": RETURNS}
    extra |= {"old_values": OLD_VALUES} if old_values else {}
    extra |= {"entropies": ENTROPIES} if entropies else {}
    for k, x in extra.items():
        found = zip(x, mask, inputs["log_probs"], strict=True)
        inputs[k] = [[v if m or p == p else p for v, m, p in zip(*row, strict=True)] for row in found]
    return Case(c.comment, inputs, c.flags, c.result, c.properties)


CRITIC_CASES = tuple(
    with_critic(c)
    for c in TOKEN_CASES
    if c.comment.startswith(("a good and a bad row", "on policy", "NaN under", "an empty row"))
)
UNCLIPPED_CRITIC = (with_critic(FEW_TOKENS[0], old_values=False, entropies=False),)
PPO_METRICS = {
    "approx_kl": Argument("", "nats"),
    "clip_ratio/low_mean": Argument("", "share of tokens"),
    "clip_ratio/high_mean": Argument("", "share of tokens"),
    "value_loss": Argument("", "reward squared"),
    "entropy": Argument("", "nats"),
}
APPROX_KLS = {
    "k1_as_approx_kl": Alternative(
        Flag(
            "variant",
            "mean(log pi_old - log pi) is reported (k1).",
            "Noisier, and sometimes negative.",
            (VERL, OPENRLHF),
        ),
        {"approx_kl": lambda u: -stop(u)},
    ),
    "half_square_as_approx_kl": Alternative(
        Flag("variant", "Half the squared log-ratio is reported (k2).", "Close to the KL while that is small.", (TRL,)),
        {"approx_kl": lambda u: stop(u * u / 2)},
    ),
    "negative_ratio_as_approx_kl": Alternative(
        Flag(
            "bug",
            "mean(-ratio) is reported in place of mean(-log ratio).",
            "-1 on policy: a stop criterion or a controller acts on nonsense.",
            (f"{OPENRLHF}/commit/feeb0283",),
            ("C35",),
        ),
        {"approx_kl": lambda u: -stop(bounded_exp(u))},
    ),
    "reversed_approx_kl": Alternative(
        Flag(
            "bug",
            "exp(-u) - 1 + u, with u = log pi - log pi_old: pi and pi_old are swapped.",
            "Its mean is not the KL.",
            (),
            ("C32",),
        ),
        {"approx_kl": lambda u: stop(bounded_exp(-u) - 1 + u)},
    ),
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
PPO_LOSS = Objective(
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
    returns={"loss": LOSS, **PPO_METRICS},
    metrics=tuple(PPO_METRICS),
    settings={
        "reduce": reduction("token_mean", free=True),
        "epsilon": EPSILON,
        "epsilon_high": EPSILON_HIGH,
        "dual_clip": DUAL_CLIP,
        "value_epsilon": Setting("how far the value may move from the old one; None: no clip", (None, 0.2), free=True),
        "value_coef": Setting("weight of the critic's error", (0.0, 0.5, 0.1), free=True),
        "entropy_coef": Setting("weight of the entropy bonus", (0.0, 0.01), free=True),
    },
    compute=whole_loss,
    steps=STEPS
    | {
        "error": ppo.clipped_value_error,
        "value_weight": lambda c: dual(c),
        "entropy_weight": lambda c: -dual(c),
        "approx_kl": ppo.approx_kl,
    },
    alternatives={
        **without(REDUCE_BUGS, "row_loss_times_length", "width_only"),
        **RATIO,
        **ADVANTAGES,
        **without(
            SURROGATES,
            "clipped_only_above",
            "one_plus_log_ratio",
            "clipped_weight_times_log_prob",
            "clip_in_nats",
            "no_ratio",
            "advantage_rescaled_between_branches",
        ),
        "loss_negated": LOSS_NEGATED,
        "counts_out_of_range": OUT_OF_RANGE,
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
        **APPROX_KLS,
    },
    edges=POLICY_EDGES,
    groups=(
        Group({"reduce": "token_mean", **PLAIN}, TOKEN_CASES),
        Group(CRITIC, CRITIC_CASES),
        Group(CRITIC | {"value_epsilon": None, "value_coef": 0.1, "entropy_coef": 0.0}, UNCLIPPED_CRITIC),
        Group({**PLAIN, "reduce": "sequence_mean"}, FEW_TOKENS[2:3]),
        Group({**PLAIN, "reduce": "sequence_sum"}, FEW_TOKENS[2:3]),
        Group({**PLAIN, "reduce": "token_mean", "dual_clip": 3.0}, FEW_TOKENS[:1]),
        Group({**PLAIN, "reduce": "token_mean", "epsilon_high": 0.28}, (BETWEEN_TOKENS,)),
    ),
)

# ----------------------------------------------------------------------------------------- two numbers that are watched


def log_ratios(inputs: Inputs, steps: Mapping[str, Step]) -> Matrix:
    return [
        [steps["log_ratio"](p, q) for p, q in zip(*rows, strict=True)]
        for rows in zip(inputs["log_probs"], inputs["old_log_probs"], strict=True)
    ]


def mean_kl(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    x = [[steps["approx_kl"](u) for u in row] for row in log_ratios(inputs, steps)]
    return {"kl": stop(steps["mean"](x, inputs["mask"]))}


def share_of_clipped(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    x = [
        [steps["clipped"](u, steps["advantage"](inputs, b, t), settings) for t, u in enumerate(row)]
        for b, row in enumerate(log_ratios(inputs, steps))
    ]
    return {"fraction": stop(steps["mean"](x, inputs["mask"]))}


MEANS = {
    "unmasked": Alternative(
        Flag(
            "bug",
            "Padding is counted, whatever lies in it.",
            "The curve depends on how much padding there is.",
            (),
            ("C36",),
        ),
        {"mean": lambda x, marks: mean([v for row in x for v in row])},
    ),
    "padding_as_zero": Alternative(
        Flag(
            "bug",
            "Padding counts as 0 in the mean.",
            "The curve falls when completions get shorter.",
            (TRL, "https://github.com/pytorch/rl"),
            ("C36",),
        ),
        {"mean": lambda x, marks: total(v for row in entries(x, marks) for v in row) / (len(x) * len(x[0]))},
    ),
    "mean_of_row_means": Alternative(
        Flag("variant", "Mean in each row, then over rows.", "Short completions weigh more in the curve."),
        {"mean": core.sequence_mean},
    ),
    "zero_over_zero": Alternative(
        REDUCE_BUGS["zero_over_zero"].flag,
        {"mean": lambda x, marks: core.token_mean(x, marks) if any(map(any, marks)) else dual(0) / dual(0)},
    ),
}
WATCHED = tuple(
    Case(c.comment, {k: v for k, v in c.inputs.items() if k != "advantages"}, c.flags)
    for c in TOKEN_CASES
    if c.result == "valid"
)
CONSTANTS = {"log_probs": CONSTANT_LOG_PROBS, "old_log_probs": CONSTANT_LOG_PROBS}
APPROX_KL = Objective(
    name="approx_kl",
    about="How far the policy has moved since it sampled: k3 of KL(pi_old || pi), averaged over tokens. A metric.",
    tags=("PPO.7", "KL.3", "CORE.5"),
    source=("Schulman, Approximating KL Divergence, 2020, http://joschu.net/blog/kl-approx.html",),
    arguments={**CONSTANTS, "mask": MASK},
    returns={"kl": Argument("", "nats")},
    settings={},
    compute=mean_kl,
    steps={"log_ratio": ppo.log_ratio, "approx_kl": ppo.approx_kl, "mean": core.token_mean},
    alternatives={
        **APPROX_KLS,
        "reversed_k1": Alternative(
            Flag("bug", "mean(log pi - log pi_old).", "Minus the KL: a stop criterion never fires.", (), ("C32",)),
            {"approx_kl": lambda u: stop(u)},
        ),
        **MEANS,
    },
    edges=POLICY_EDGES,
    groups=(Group({}, WATCHED),),
)
CLIP_FRACTION = Objective(
    name="clip_fraction",
    about="The share of tokens whose gradient the clip removes: above it where A > 0, below it where A < 0. A metric.",
    tags=("PPO.8", "CORE.5"),
    source=("Schulman et al., PPO, arXiv:1707.06347v2, eq. 7",),
    arguments={**CONSTANTS, "advantages": TOKEN_ARGUMENTS["advantages"], "mask": MASK},
    returns={"fraction": Argument("", "share of tokens")},
    settings={"epsilon": EPSILON, "epsilon_high": EPSILON_HIGH},
    compute=share_of_clipped,
    steps={
        "log_ratio": ppo.log_ratio,
        "advantage": STEPS["advantage"],
        "clipped": lambda u, a, s: STEPS["low"](u, a, s) + STEPS["high"](u, a, s),
        "mean": core.token_mean,
    },
    alternatives={
        "counts_out_of_range": Alternative(
            OUT_OF_RANGE.flag,
            {"clipped": lambda u, a, s: OUT_OF_RANGE.steps["low"](u, a, s) + OUT_OF_RANGE.steps["high"](u, a, s)},
        ),
        "logs_the_ratio": Alternative(
            Flag(
                "bug",
                "The mean ratio is reported under the clip fraction's name.",
                "The curve stays near 1, whatever is clipped.",
                ("https://github.com/pytorch/rl/commit/4bce3716b",),
                ("C17",),
            ),
            {"clipped": lambda u, a, s: bounded_exp(u)},
        ),
        "only_above": Alternative(
            Flag("variant", "Only the upper side is counted.", "Half of the story."), {"clipped": STEPS["high"]}
        ),
        "only_below": Alternative(
            Flag("variant", "Only the lower side is counted.", "Half of the story."), {"clipped": STEPS["low"]}
        ),
        "wrong_side": Alternative(
            Flag("bug", "Counts where the clip does not act.", "The curve falls when the clip bites.", (), ("C17",)),
            {"clipped": lambda u, a, s: STEPS["low"](u, -a, s) + STEPS["high"](u, -a, s)},
        ),
        **MEANS,
    },
    edges=POLICY_EDGES,
    groups=(
        Group({"epsilon": 0.2, "epsilon_high": None}, tuple(c for c in TOKEN_CASES if c.result == "valid")),
        Group({"epsilon": 0.2, "epsilon_high": 0.28}, (BETWEEN_TOKENS, FEW_TOKENS[0])),
        Group({"epsilon": 0.1, "epsilon_high": None}, (BETWEEN_TOKENS,)),
    ),
)

# ------------------------------------------------------------------------------- weights for samples of another program


def weights_of_tokens(inputs: Inputs, settings: Settings, steps: Mapping[str, Step]) -> dict[str, Any]:
    result = []
    low, high = settings["low"], settings["high"]
    least, most = dual(0 if low is None else low), dual("inf" if high is None else high)
    for old, sampler, on in zip(inputs["old_log_probs"], inputs["sampler_log_probs"], inputs["mask"], strict=True):
        at = [t for t, m in enumerate(on) if m]
        us = [steps["log_ratio"](old[t], sampler[t]) for t in at]
        weights = steps["weigh"](us, settings["level"])
        if settings["gate"] is None:
            bounded = [steps["truncate"](w, least, most) for w in weights]
        else:
            judged = steps["judge"](us, settings["gate"])
            bounded = [steps["keep"](w, s, least, most) for w, s in zip(weights, judged, strict=True)]
        found = dict(zip(at, bounded, strict=True))
        result.append([found.get(t) for t in range(len(on))])
    return {"weights": result}


def inside_or_nothing(w: Dual, s: Dual, low: Dual, high: Dual) -> Dual:
    return w if low <= s <= high else dual(0)


def other_level(us: Row, level: str) -> list[Dual]:
    return ppo.importance_ratios(us, "sequence" if level == "token" else "token")


def mean_or_sum(us: Row, level: str) -> list[Dual]:
    return ppo.importance_ratios(us, {"sequence": "sequence-mean", "sequence-mean": "sequence"}.get(level, level))


MISMATCH = Alternative(
    Flag(
        "bug",
        "The weight of a token where that of the sequence is asked, or the reverse.",
        "Either the variance of whole products, or a bias that was meant to be removed.",
        (f"{TRL}/issues/3867", f"{VERL}/pull/2953"),
        ("C63",),
    ),
    {"weigh": other_level},
)
TRAINER = [[-1.0, -0.5, -2.0], [-1.75, -1.75, -1.25]]
SAMPLER = plus(TRAINER, [[-1.0, 0.25, -0.25], [1.0, 0.125, -0.0625]])


def weight_case(comment: str, mask: Marks, *flags: str, junk: Any = None) -> Case:
    old, sampler = TRAINER, SAMPLER
    if junk is not None:
        old, sampler = hidden(old, mask, junk), hidden(sampler, mask, -1.0)
    return Case(comment, {"old_log_probs": old, "sampler_log_probs": sampler, "mask": mask}, flags)


EXTREME = Case(
    "an extreme token in a sequence that is kept",
    {"old_log_probs": [[-0.5, -3.0, -1.0]], "sampler_log_probs": [[-3.0, -0.75, -1.125]], "mask": full(1, 3)},
    ("extreme_ratio",),
)
WEIGHT_CASES = (
    weight_case("two rows, all chosen", full(2, 3)),
    EXTREME,
    Case(
        "the sampler agrees",
        {"old_log_probs": TRAINER, "sampler_log_probs": TRAINER, "mask": full(2, 3)},
        ("on_policy",),
    ),
    weight_case("ragged, with junk", P_RAGGED, "ragged_mask", "junk_under_mask", junk=-6.0),
    weight_case("NaN under the mask", P_GAPS, "gaps_in_mask", "nan_under_mask", junk=NAN),
    weight_case("an empty row", [[True, True, False], [False] * 3], "empty_row"),
    weight_case("no chosen token at all", [[False] * 3] * 2, "all_masked"),
)


def bounds_of(level: str, gate: str | None, low: float | None, high: float | None) -> dict[str, Any]:
    return {"level": level, "gate": gate, "low": low, "high": high}


IMPORTANCE_WEIGHTS = Objective(
    name="importance_weights",
    about="What a token's loss is multiplied by where the sampler computes other log-probs than the trainer.",
    tags=("PPO.13", "PPO.14", "PPO.15"),
    source=(
        "Yao et al., Your Efficient RL Framework Secretly Brings You Off-Policy RL Training, 2025",
        "Ring-1T (IcePop), arXiv:2510.18855v2",
    ),
    arguments={"old_log_probs": CONSTANT_LOG_PROBS, "sampler_log_probs": CONSTANT_LOG_PROBS, "mask": MASK},
    returns={"weights": Argument("B T", "none")},
    settings={
        "level": Setting(
            "of the weight: token, sequence (product) or sequence-mean", ("token", "sequence", "sequence-mean")
        ),
        "gate": Setting(
            "None truncates; else the level of the ratio that decides what is masked", (None, "token", "sequence")
        ),
        "low": Setting("lower bound of the ratio", (None, 0.5)),
        "high": Setting("upper bound of the ratio", (2.0, 3.0, 5.0), free=True),
    },
    compute=weights_of_tokens,
    steps={
        "log_ratio": ppo.log_ratio,
        "weigh": ppo.importance_ratios,
        "judge": ppo.importance_ratios,
        "truncate": clip,
        "keep": inside_or_nothing,
    },
    alternatives={
        "inverted": Alternative(
            Flag("bug", "sampler / trainer in place of trainer / sampler.", "The mismatch is doubled, not removed."),
            {"log_ratio": lambda p, q: -ppo.log_ratio(p, q)},
        ),
        "sampler_not_used": Alternative(
            Flag(
                "bug",
                "The trainer's log-probs are compared with themselves: every weight is 1.",
                "The correction is on, and corrects nothing.",
                (f"{TRL}/pull/4857", f"{LIGER}/issues/1082"),
                ("C64", "C66"),
            ),
            {"log_ratio": lambda p, q: dual(0)},
        ),
        "other_level": MISMATCH,
        "mean_in_place_of_sum": Alternative(
            Flag(
                "bug",
                "The mean of the log-ratios where the sum is asked, or the reverse.",
                "0.57 in place of 0.99 for the same sequence: bounds mean something else.",
                (f"{TRL}/issues/5814", f"{TRL}/pull/5815"),
                ("C63",),
            ),
            {"weigh": mean_or_sum},
        ),
        "gate_at_another_level": Alternative(
            Flag(
                "bug",
                "Tokens are judged by the sequence's ratio where their own is asked, or the reverse.",
                "Whole completions are thrown away for one token, or none ever is.",
                (f"{TRL}/issues/3867",),
                ("C63",),
            ),
            {"judge": other_level},
        ),
        "masked_where_truncation_is_asked": Alternative(
            Flag(
                "variant",
                "What is out of bounds gets weight 0, not the bound.",
                "Samples are thrown away.",
                (f"{TRL}/issues/4772",),
                ("C63",),
            ),
            {"truncate": lambda w, low, high: inside_or_nothing(w, w, low, high)},
        ),
        "truncated_where_masking_is_asked": Alternative(
            Flag(
                "variant",
                "What is out of bounds is held at the bound, not dropped.",
                "Samples from far off stay.",
                (f"{TRL}/issues/4772",),
                ("C63",),
            ),
            {"keep": lambda w, s, low, high: clip(w, low, high)},
        ),
        "not_bounded": Alternative(
            Flag(
                "bug",
                "The documented bound is not there.",
                "One token can outweigh the batch.",
                (OPENRLHF, f"{VERL}/pull/3274"),
                ("C65", "R23"),
            ),
            {"truncate": lambda w, low, high: w, "keep": lambda w, s, low, high: w},
        ),
        "survivors_truncated": Alternative(
            Flag(
                "variant",
                "What passes the gate is also held within the bounds.",
                "Extreme tokens of an accepted sequence weigh less.",
                (OPENRLHF,),
                ("C65", "R23"),
            ),
            {"keep": lambda w, s, low, high: clip(w, low, high) if low <= s <= high else dual(0)},
        ),
        "survivors_weigh_one": Alternative(
            Flag(
                "variant",
                "What passes the gate has weight 1: a filter without a weight.",
                "What is kept is not corrected.",
                (),
                ("C63",),
            ),
            {"keep": lambda w, s, low, high: dual(1) if low <= s <= high else dual(0)},
        ),
        "lower_bound_ignored": Alternative(
            Flag("bug", "Only the upper bound is used.", "Tokens that the trainer finds unlikely stay.", (), ("C65",)),
            {
                "truncate": lambda w, low, high: minimum(w, high),
                "keep": lambda w, s, low, high: w if s <= high else dual(0),
            },
        ),
    },
    edges={
        **POLICY_EDGES,
        "extreme_ratio": Flag(
            "edge",
            "A token of extreme ratio inside a sequence whose own ratio is within bounds.",
            "Whether the token is bounded shows only here.",
            (OPENRLHF,),
            ("C65", "R23"),
        ),
    },
    groups=(
        Group(bounds_of("token", None, None, 2.0), WEIGHT_CASES),
        Group(bounds_of("token", None, 0.5, 2.0), WEIGHT_CASES[:2]),
        Group(bounds_of("sequence", None, None, 2.0), (*WEIGHT_CASES[:2], *WEIGHT_CASES[3:6])),
        Group(bounds_of("sequence-mean", None, None, 1.25), WEIGHT_CASES[:2]),
        Group(bounds_of("token", "token", 0.5, 5.0), (*WEIGHT_CASES[:2], *WEIGHT_CASES[3:6])),
        Group(bounds_of("token", "token", 0.5, 2.0), WEIGHT_CASES[:2]),
        Group(bounds_of("sequence", "sequence", None, 3.0), WEIGHT_CASES[:2]),
        Group(bounds_of("token", "sequence-mean", 0.75, 1.5), WEIGHT_CASES[:2]),
        Group(bounds_of("token", "sequence", 0.5, 2.0), WEIGHT_CASES[:2]),
    ),
)

OBJECTIVES: list[Objective] = [
    SHAPED_REWARDS,
    ADAPTIVE_KL,
    GAE,
    EXPLAINED_VARIANCE,
    CLIPPED_SURROGATE,
    IMPORTANCE_SURROGATE,
    CLIPPED_VALUE_ERROR,
    PPO_LOSS,
    APPROX_KL,
    CLIP_FRACTION,
    IMPORTANCE_WEIGHTS,
]
