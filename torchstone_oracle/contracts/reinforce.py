"""REINFORCE: returns, baselines and the loss; what goes wrong, and the cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import core, reinforce
from ..contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ..core import Mask
from ..numbers import Dual, absolute, dual, exp, maximum, mean, mp, mpf, sqrt, stop, total
from .common import (
    EDGES,
    INF,
    LOG_PROBS,
    MASK,
    NAN,
    REWARDS,
    RLHF_BOOK,
    SCORED,
    TRL,
    VERL,
    bug,
    full,
    hidden,
    marks,
    variant,
)
from .reductions import ALL_ROWS, EMPTY_ROWS, MEANS, MULTIPLIED, SUMMED, UNMASKED

Settings = Mapping[str, Any]
Steps = Mapping[str, Step]
Rewards = Sequence[Dual]
WILLIAMS = "Williams, 1992, doi:10.1007/BF00992696"

# ------------------------------------------------------------------------------------------------- discounted_returns


def to_go(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    rows = zip(inputs["rewards"], inputs["mask"], strict=True)
    return {"returns": [steps["row"](rewards, mask, settings["gamma"], steps["gap"]) for rewards, mask in rows]}


def from_the_right(rewards: Rewards, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    """reinforce.discounted_returns, with a choice of what happens where no token was chosen."""
    returns: list[Dual | None] = []
    after = Dual(0)
    for r, chosen in zip(reversed(rewards), reversed(mask), strict=True):
        after = stop(r) + dual(gamma) * after if chosen else gap(stop(r), after, gamma)
        returns.insert(0, after if chosen else None)
    return returns


def chosen_only(found: Sequence[Dual], mask: Sequence[bool]) -> list[Dual | None]:
    return [v if m else None for v, m in zip(found, mask, strict=True)]


def whole_return(rewards: Rewards, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    whole = next((g for g in from_the_right(rewards, mask, gamma, gap) if g is not None), Dual(0))
    return chosen_only([whole for _ in rewards], mask)


def own_left_out(rewards: Rewards, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    found = from_the_right(rewards, mask, gamma, gap)
    return [None if g is None else g - r for g, r in zip(found, rewards, strict=True)]


def reward_alone(rewards: Rewards, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    return chosen_only(rewards, mask)


def from_the_left(rewards: Rewards, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    return from_the_right(rewards[::-1], mask[::-1], gamma, gap)[::-1]


def discounted_from_start(rewards: Rewards, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    """G_t = sum_{s >= t} gamma^s r_s, s counted from the first chosen token: the return as seen from the start."""
    found: list[Dual | None] = []
    age = 0
    for g in from_the_right(rewards, mask, gamma, gap):
        found.append(None if g is None else g * mpf(gamma) ** age)
        age += g is not None
    return found


def last_reward_lost(rewards: Rewards, mask: Sequence[bool], gamma: Any, gap: Step) -> list[Dual | None]:
    last = max((t for t, m in enumerate(mask) if m), default=-1)
    return from_the_right([dual(0) if t == last else r for t, r in enumerate(rewards)], mask, gamma, gap)


RETURN_EDGES = EDGES | {
    "reward_under_mask": Flag(
        "edge",
        "A reward on a token that the policy did not choose is not counted: the score goes on the last chosen one.",
        "A score on the first pad token is lost if the padding is masked, and leaks if it is not.",
        (f"{TRL}/issues/3750",),
        ("C49",),
    ),
    "delayed_reward": Flag("edge", "One reward, at the end.", "All tokens but the last go without.", pitfalls=("C50",)),
}
PAID = [[1.0, 0.0, 2.0, -0.5], [0.0, 4.0, 1.0, 0.5]]
AT_THE_END = [[0.0, 0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, -2.0, 0.0, 0.0]]
LAST = marks("110011 111100")
PAID_RAGGED = marks("1110 1100")
PAID_GAPS = marks("1011 0101")


def paid(comment: str, rewards: Any, mask: Mask, *flags: str, **more: Any) -> Case:
    return Case(comment, {"rewards": rewards, "mask": mask}, flags, **more)


RETURN_CASES = (
    paid("two rows, all chosen", PAID, full(2, 4)),
    paid("one reward, at the end", [[0.0, 0.0, 0.0, 2.0]], full(1, 4), "delayed_reward"),
    paid("lengths 3 and 2, nothing in the padding", hidden(PAID, PAID_RAGGED, 0.0), PAID_RAGGED, "ragged_mask"),
    paid("tool output inside; the reward comes after it", AT_THE_END, LAST, "gaps_in_mask", "delayed_reward"),
    paid("tool output inside; rewards everywhere else", hidden(PAID, PAID_GAPS, 0.0), PAID_GAPS, "gaps_in_mask"),
    paid("a reward on the first pad, and on tool output", [[1.0, 2.0, 4.0, 0.0], [1.0, 8.0, 2.0, 0.5]],
         marks("1100 1011"), "reward_under_mask", "junk_under_mask"),
    paid("NaN in the gaps", hidden(PAID, PAID_GAPS, NAN), PAID_GAPS, "gaps_in_mask", "nan_under_mask"),
    paid("inf in the padding", hidden(PAID, PAID_RAGGED, INF), PAID_RAGGED, "ragged_mask", "nan_under_mask"),
    paid("a row without a token", hidden(PAID, marks("0000 1110"), 0.0), marks("0000 1110"), "empty_row"),
    paid("no token at all", PAID, marks("0000 0000"), "all_masked"),
    paid("three rows of three", [[1.0, 0.0, 2.0], [0.0, 4.0, 1.0], [-1.0, 0.5, 3.0]], full(3, 3), "rows_equal_columns"),
    paid("one token", [[-1.5]], [[True]], "one_token"),
)  # fmt: skip
DISCOUNTED_RETURNS = Objective(
    name="discounted_returns",
    about="The rewards from each chosen token on, discounted once per chosen token.",
    tags=("REINFORCE.1",),
    source=(f"{WILLIAMS}, eq. 11",),
    arguments={"rewards": Argument("B T", "reward units; a constant"), "mask": MASK},
    returns={"returns": Argument("B T", "reward units")},
    settings={"gamma": Setting("Discount per chosen token.", (1.0, 0.5, 0.99, 0.9, 0.0))},
    compute=to_go,
    steps={"row": from_the_right, "gap": lambda r, after, gamma: after},
    alternatives={
        "gaps_cost_discount": bug(
            "Tool output and other gaps cost a discount each.",
            "The longer a tool's answer, the less the tokens before it are paid.",
            {"gap": lambda r, after, gamma: dual(gamma) * after},
            pitfalls=("C48",),
            links=(f"{VERL}/issues/2337",),
        ),
        "reset_at_gaps": bug(
            "The return starts anew at each gap: it was multiplied by the mask.",
            "What comes before a tool call is not paid for what comes after.",
            {"gap": lambda r, after, gamma: Dual(0)},
            pitfalls=("C48", "R09"),
            links=(f"{VERL}/issues/7278",),
        ),
        "rewards_leak": bug(
            "Rewards that lie on padding or tool output are counted.",
            "Whatever stands in the padding is paid out.",
            {"gap": lambda r, after, gamma: r + after},
            pitfalls=("C19", "C49"),
            links=(f"{TRL}/issues/3750",),
        ),
        "unmasked": bug(
            "The mask has no effect: every position is a step with a reward.",
            "Padding is paid out, and costs discount.",
            {"gap": lambda r, after, gamma: r + dual(gamma) * after},
            pitfalls=("C47", "C48"),
        ),
        "multiplied_by_mask": bug(
            "Rewards under False are multiplied by 0 instead of left out: 0 * nan is nan.",
            "One NaN in the padding turns the whole update into NaN.",
            {"gap": lambda r, after, gamma: after + r * 0},
            pitfalls=("C60",),
            links=(f"{VERL}/pull/2377",),
        ),
        "whole_return": variant(
            "Every token gets the return from the first one.",
            "Right on average, but noisier: tokens are paid for what came before them too.",
            {"row": whole_return},
        ),
        "own_reward_left_out": bug(
            "A token's own reward is not in its return.",
            "The last token, which has the score, is paid nothing.",
            {"row": own_left_out},
            pitfalls=("C49",),
        ),
        "reward_alone": bug(
            "The reward of the token instead of its return.",
            "With one score at the end, only the last token is trained.",
            {"row": reward_alone},
            pitfalls=("C50",),
            links=(RLHF_BOOK,),
        ),
        "from_the_left": bug(
            "Rewards so far instead of rewards to go.",
            "Tokens are paid for what came before them, which they cannot change.",
            {"row": from_the_left},
        ),
        "discounted_from_start": variant(
            "Discounted from the first token on: gamma^t times the return.",
            "The gradient of the discounted objective; late tokens are hardly trained.",
            {"row": discounted_from_start},
            links=("https://arxiv.org/abs/1906.07073",),
        ),
        "last_reward_lost": bug(
            "The reward of the last chosen token is lost, as if it stood in the padding.",
            "The score is never paid.",
            {"row": last_reward_lost},
            pitfalls=("C49",),
            links=(f"{TRL}/issues/3750",),
        ),
    },
    edges=RETURN_EDGES,
    groups=(
        Group({"gamma": 1.0}, RETURN_CASES),
        Group({"gamma": 0.5}, RETURN_CASES[:7]),
        *(Group({"gamma": gamma}, RETURN_CASES[:1] + RETURN_CASES[3:4]) for gamma in (0.99, 0.9)),
        Group({"gamma": 0.0}, RETURN_CASES[:1]),
    ),
)  # fmt: skip

# --------------------------------------------------------------------------------------------- advantages of a group


Sampled = list[tuple[int, int, Dual]]  # of each sample that was scored: its row, its column, its reward


def scored_rewards(inputs: Inputs) -> list[Sampled]:
    """Of each prompt, the samples that were scored."""
    scored = inputs.get("scored") or full(len(inputs["rewards"]), len(inputs["rewards"][0]))
    return [
        [(p, i, r) for i, (r, m) in enumerate(zip(*row, strict=True)) if m]
        for p, row in enumerate(zip(inputs["rewards"], scored, strict=True))
    ]


def per_group(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """Each group's advantages from its scored rewards; 0 for what was not scored."""
    groups = steps["groups"](inputs)
    every = [[r for _, _, r in group] for group in groups]
    advantages = [[Dual(0) for _ in row] for row in inputs["rewards"]]
    for rewards, group in zip(every, groups, strict=True):
        more = [steps["other"](inputs[k], group) for k in ("lengths", "greedy_rewards") if k in inputs]
        for (p, i, _), a in zip(group, steps["group"](rewards, every, settings, *more), strict=True):
            advantages[p][i] = dual(steps["result"](a))
    return {"advantages": advantages}


def of_each(x: Any, group: Sampled) -> list[Dual]:
    """What each sample of a group has besides its reward: x is [P G], or [P]."""
    return [x[p][i] if isinstance(x[p], list) else x[p] for p, i, _ in group]


def of_each_column(x: Any, group: Sampled) -> list[Dual]:
    """[P] along the columns of [P G], where P = G lets it."""
    return [x[i] for _, i, _ in group] if len(group) == len(x) else of_each(x, group)


def wrong_order(inputs: Inputs) -> list[Sampled]:
    """The samples in a row, dealt out to P groups one by one: as if all prompts came first, then all again."""
    samples = [sample for group in scored_rewards(inputs) for sample in group]
    n, size = len(inputs["rewards"]), len(inputs["rewards"][0])
    return [[s for s in samples if (s[0] * size + s[1]) % n == k] for k in range(n)]


def unscored_as_zero(inputs: Inputs) -> list[Sampled]:
    """NaN is taken for a reward of 0, and `scored` is not looked at."""
    return [[(p, i, Dual(0) if mp.isnan(r.value) else r) for p, i, r in group] for group in scored_ignored(inputs)]


def scored_ignored(inputs: Inputs) -> list[Sampled]:
    return [[(p, i, r) for i, r in enumerate(row)] for p, row in enumerate(inputs["rewards"])]


def flat_of(every: list[list[Dual]]) -> list[Dual]:
    return [r for rewards in every for r in rewards]


def minus(rewards: Rewards, baseline: Any) -> list[Dual]:
    """The rewards less one baseline, or less one each."""
    if not isinstance(baseline, list):
        baseline = [baseline] * len(rewards)
    return [stop(r - b) for r, b in zip(rewards, baseline, strict=True)]


def deviation(rewards: Rewards) -> Dual:
    return sqrt(core.variance(list(rewards), 1)) if not reinforce.all_equal(rewards) else Dual(1)


GROUP_STEPS: dict[str, Step] = {
    "groups": scored_rewards,
    "other": of_each,
    "result": lambda advantage: advantage,
}
SIGN = bug(
    "The sign is flipped.",
    "Bad completions are made more likely.",
    {"result": lambda advantage: -advantage},
    pitfalls=("C29",),
)
UNSCORED = {
    "unscored_as_zero": bug(
        "An unscored completion counts as one with reward 0.",
        "A checker that failed is taken for a bad answer, and its siblings look better than they are.",
        {"groups": unscored_as_zero},
        pitfalls=("C53",),
        links=(f"{TRL}/pull/5353",),
    ),
    "scored_ignored": bug(
        "`scored` is not looked at: NaN rewards enter the mean.",
        "One unscored completion turns its group into NaN, and a checker's placeholder is taken for a reward.",
        {"groups": scored_ignored},
        pitfalls=("C53",),
        links=(f"{TRL}/pull/5353",),
    ),
}
BATCH_MEAN = bug(
    "The mean over the whole batch instead of the group.",
    "Easy prompts are always reinforced and hard ones never, whatever the answer.",
    {"group": lambda rewards, every, settings, *more: minus(rewards, mean(flat_of(every)))},
    pitfalls=("C41",),
    links=("https://github.com/ServiceNow/PipelineRL/issues/54",),
)
WRONG_ORDER = bug(
    "The rewards were laid out the other way round: samples of other prompts are taken for siblings.",
    "Every sample is compared with answers to other questions.",
    {"groups": wrong_order},
    pitfalls=("C41",),
)
GROUP_MEAN = {"group": lambda rewards, every, settings, *more: reinforce.centred(rewards)}
LEAVE_ONE_OUT = {"group": lambda rewards, every, settings, *more: reinforce.leave_one_out_advantages(rewards)}
NO_BASELINE = bug(
    "No baseline: the reward itself.",
    "Right on average, and far noisier; with rewards above 0 every sample is reinforced.",
    {"group": lambda rewards, every, settings, *more: [stop(r) for r in rewards]},
    pitfalls=("R11",),
)
DIVIDED_BY_STD = variant(
    "Divided by the group's deviation, as in GRPO.",
    "Prompts that are nearly solved, or nearly hopeless, weigh more.",
    {
        "group": lambda rewards, every, settings, *more: [
            a / deviation(rewards) for a in reinforce.leave_one_out_advantages(rewards)
        ]
    },
    links=("https://arxiv.org/abs/2402.03300",),
)

SCORES = [[1.0, 0.0, 0.5, 0.0], [0.0, 2.0, -1.0, 4.0]]
SCORES_3 = [[1.0, 0.0, 0.25], [2.0, 3.0, -1.0], [0.5, 0.5, 4.0]]
WITH_NAN = [[1.0, NAN, 0.5, 0.0], [0.0, 2.0, NAN, NAN]]
WITHOUT_NAN = marks("1011 1100")


def groups_of(
    comment: str, rewards: Any, *flags: str, scored: Mask | None = None, more: Mapping[str, Any] | None = None,
    result: str = "valid",
) -> Case:  # fmt: skip
    inputs = {"rewards": rewards, **(more or {}), **({"scored": scored} if scored else {})}
    return Case(comment, inputs, flags, result)


def group_cases(more: Callable[[int, int], dict[str, Any]] = lambda p, g: {}, one: str = "invalid") -> tuple[Case, ...]:
    """``more(P, G)``: what the objective takes besides rewards. ``one``: the result for a group of one."""
    return (
        groups_of("two groups of four", SCORES, more=more(2, 4)),
        groups_of("right and wrong answers", [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], more=more(3, 2)),
        groups_of("one group of five", [[0.0, 0.0, 1.0, 0.0, 1.0]], more=more(1, 5)),
        groups_of("three groups of three", SCORES_3, "rows_equal_columns", more=more(3, 3)),
        groups_of("0.1 eight times", [[0.1] * 8], "tie_that_rounds", more=more(1, 8)),
        groups_of("0.7 twelve times", [[0.7] * 12], "tie_that_rounds", more=more(1, 12)),
        groups_of("1/3 seven times", [[1 / 3] * 7], "tie_that_rounds", more=more(1, 7)),
        groups_of("all were scored", SCORES, scored=full(2, 4), more=more(2, 4)),
        groups_of("NaN where not scored", WITH_NAN, "unscored", scored=WITHOUT_NAN, more=more(2, 4)),
        groups_of("64 where not scored", hidden(SCORES, WITHOUT_NAN, 64.0), "unscored", scored=WITHOUT_NAN,
                  more=more(2, 4)),
        groups_of("one left that was scored", [[NAN, 2.0, NAN], [1.0, 0.0, NAN]], "unscored", scored=marks("010 110"),
                  more=more(2, 3)),
        groups_of("none was scored", [[NAN, NAN], [1.0, 0.0]], "unscored", scored=marks("00 11"), more=more(2, 2)),
        groups_of("groups of one", [[0.75], [1.0]], *(("group_of_one",) if one == "invalid" else ()), more=more(2, 1),
                  result=one),
    )  # fmt: skip


def group_objective(
    name: str, tag: str, about: str, source: tuple[str, ...], group: Step, alternatives: Mapping[str, Alternative],
    cases: tuple[Case, ...], arguments: Mapping[str, Argument] | None = None, edges: Mapping[str, Flag] | None = None,
    settings: Mapping[str, Setting] | None = None, groups: tuple[Group, ...] = (), first: Settings | None = None,
) -> Objective:  # fmt: skip
    return Objective(
        name=name,
        about=about,
        tags=(tag,),
        source=source,
        arguments={"rewards": REWARDS, **(arguments or {}), "scored": SCORED},
        returns={"advantages": Argument("P G", "reward units")},
        settings=settings or {},
        compute=per_group,
        steps={"group": group, **GROUP_STEPS},
        alternatives={**alternatives, "sign_flipped": SIGN, **UNSCORED},
        edges={**EDGES, **(edges or {})},
        groups=(Group(first or {}, cases), *groups),
    )


def by_others_over_n(rewards: Rewards, every: Any, settings: Settings) -> list[Dual]:
    n = len(rewards)
    return minus(rewards, [total(reinforce.siblings(rewards, i)) / n for i in range(n)])


def by_sum_of_others(rewards: Rewards, every: Any, settings: Settings) -> list[Dual]:
    return minus(rewards, [total(reinforce.siblings(rewards, i)) for i in range(len(rewards))])


def by_others_of_batch(rewards: Rewards, every: list[list[Dual]], settings: Settings) -> list[Dual]:
    n, batch = len(flat_of(every)), total(flat_of(every))
    return minus(rewards, [(batch - r) / (n - 1) for r in rewards])


LEAVE_ONE_OUT_ADVANTAGES = group_objective(
    "leave_one_out_advantages",
    "REINFORCE.5",
    "Each sample's reward minus the mean reward of its siblings (RLOO).",
    ("Kool et al., Buy 4 REINFORCE Samples, Get a Baseline for Free!, 2019", "RLOO, arXiv:2402.14740v2, section 2.3"),
    lambda rewards, every, settings: reinforce.leave_one_out_advantages(rewards),
    {
        "own_reward_included": variant(
            "The group's mean, own reward included, is the baseline.",
            "Too small by 1 - 1/n, as in Dr. GRPO: a smaller learning rate, and another one for each group size.",
            GROUP_MEAN,
        ),
        "divided_by_n": bug(
            "The sum over the siblings is divided by n instead of n - 1.",
            "The baseline is too near 0: with rewards above 0 all samples are reinforced.",
            {"group": by_others_over_n},
        ),
        "sum_of_others": bug(
            "The sum over the siblings instead of their mean.",
            "The baseline grows with the group: nearly all samples are pushed away.",
            {"group": by_sum_of_others},
        ),
        "batch_mean": BATCH_MEAN,
        "wrong_order": WRONG_ORDER,
        "batch_leave_one_out": bug(
            "All other samples of the batch are taken for siblings.",
            "Easy prompts are always reinforced and hard ones never, whatever the answer.",
            {"group": by_others_of_batch},
            pitfalls=("C41",),
            links=("https://github.com/ServiceNow/PipelineRL/issues/54",),
        ),
        "no_baseline": NO_BASELINE,
        "divided_by_std": DIVIDED_BY_STD,
    },
    group_cases(),
)  # fmt: skip

# ------------------------------------------------------------------------------------------------------------ variants


def greedy(p: int, g: int) -> dict[str, Any]:
    return {"greedy_rewards": [0.5, -1.0, 2.0][:p]}


def greedy_group(rewards: Rewards, every: Any, settings: Settings, greedy: Rewards) -> list[Dual]:
    """One greedy reward for each sample: that of its prompt."""
    return [reinforce.greedy_advantages([r], g)[0] for r, g in zip(rewards, greedy, strict=True)]


GREEDY_CASES = group_cases(greedy, "valid")
GREEDY_ADVANTAGES = group_objective(
    "greedy_advantages",
    "REINFORCE.6",
    "Each sample's reward minus that of the greedy completion of the same prompt (ReMax).",
    ("ReMax, arXiv:2310.10505",),
    greedy_group,
    {
        "greedy_added": bug(
            "The greedy reward is added.",
            "The baseline doubles the noise instead of taking it away.",
            {"group": lambda rewards, every, settings, greedy: minus(rewards, [-g for g in greedy])},
        ),
        "no_baseline": NO_BASELINE,
        "own_reward_included": variant(
            "The group's mean is the baseline; the greedy reward is not used.",
            "With one sample a prompt, nothing is trained.",
            GROUP_MEAN,
        ),
        "leave_one_out": variant(
            "The siblings' mean is the baseline; the greedy reward is not used.",
            "Another baseline of the same mean.",
            LEAVE_ONE_OUT,
        ),
        "wrong_axis": bug(
            "The greedy rewards are laid along the samples instead of the prompts, where P = G lets it.",
            "Samples are compared with the greedy answer to another question, in batches of this one shape only.",
            {"other": of_each_column},
            pitfalls=("C09",),
        ),
        "greedy_in_mean": variant(
            "The baseline is the mean over the group and the greedy completion.",
            "A baseline that saw its own sample: a smaller gradient.",
            {"group": lambda rewards, every, settings, greedy: minus(rewards, mean([*rewards, *greedy[:1]]))},
        ),
        "only_improvements": bug(
            "What is worse than the greedy completion gets 0.",
            "Bad samples are not punished: the expected gradient is another one.",
            {"group": lambda rewards, every, settings, greedy: [maximum(a, 0) for a in minus(rewards, greedy)]},
        ),
    },
    (
        *GREEDY_CASES[:4],
        groups_of("ties with the greedy completion: 0", [[0.1, 0.7, 0.1]], "tie_that_rounds",
                  more={"greedy_rewards": [0.1]}),
        *GREEDY_CASES[7:],
    ),
    arguments={"greedy_rewards": Argument("P", "reward units, of the greedy completion of each prompt")},
)  # fmt: skip

LENGTHS = [3.0, 1.0, 4.0, 2.0, 6.0, 5.0, 2.0, 1.0, 7.0, 3.0, 2.0, 4.0]


def lengths(p: int, g: int) -> dict[str, Any]:
    return {"lengths": [[LENGTHS[(3 * i + j) % 12] for j in range(g)] for i in range(p)]}


def weighted_by(weight: Callable[[Dual], Any]) -> Step:
    def group(rewards: Rewards, every: Any, settings: Settings, lengths: Rewards) -> list[Dual]:
        return reinforce.length_weighted_advantages(rewards, [dual(weight(n)) for n in lengths])

    return group


def weighted_siblings(rewards: Rewards, every: Any, settings: Settings, lengths: Rewards) -> list[Dual]:
    """sum over j != i of l_j r_j, by the sum of their l_j"""
    n = range(len(rewards))
    if reinforce.all_equal(rewards):
        return [Dual(0) for _ in n]
    pairs = [(reinforce.siblings(rewards, i), reinforce.siblings(lengths, i)) for i in n]
    return minus(rewards, [core.divided(total(w * r for r, w in zip(*p, strict=True)), total(p[1])) for p in pairs])


def weighted_over_n(rewards: Rewards, every: Any, settings: Settings, lengths: Rewards) -> list[Dual]:
    """sum_j l_j r_j / n"""
    return minus(rewards, mean([r * w for r, w in zip(rewards, lengths, strict=True)]))


def reward_per_token(rewards: Rewards, every: Any, settings: Settings, lengths: Rewards) -> list[Dual]:
    """sum_j r_j / sum_j l_j"""
    return minus(rewards, core.divided(total(rewards), total(lengths)))


LENGTH_WEIGHTED_ADVANTAGES = group_objective(
    "length_weighted_advantages",
    "REINFORCE.7",
    "Each sample's reward minus the group's mean reward, where a sample weighs as much as it has tokens (OPO).",
    ("OPO, arXiv:2505.23585v2",),
    lambda rewards, every, settings, lengths: reinforce.length_weighted_advantages(rewards, lengths),
    {
        "own_reward_included": variant(
            "The plain mean of the group is the baseline; lengths are not used.",
            "As in Dr. GRPO: noisier where lengths differ much.",
            GROUP_MEAN,
        ),
        "leave_one_out": variant(
            "The siblings' plain mean is the baseline.", "As in RLOO: noisier where lengths differ much.", LEAVE_ONE_OUT
        ),
        "weighted_siblings": variant(
            "The siblings' weighted mean is the baseline: the own sample is left out.",
            "No bias by 1 - 1/n; not what the paper has.",
            {"group": weighted_siblings},
        ),
        "inverse_lengths": bug(
            "Samples weigh by one over their length.",
            "The baseline follows the short answers, whose gradient varies least: more noise, not less.",
            {"group": weighted_by(lambda n: core.divided(Dual(1), n))},
        ),
        "squared_lengths": bug(
            "Samples weigh by the square of their length.", "The longest answer is the baseline.",
            {"group": weighted_by(lambda n: n * n)},
        ),
        "divided_by_n": bug(
            "The weighted sum is divided by the number of samples, not by the sum of the lengths.",
            "The baseline is too large by the mean length: everything is pushed away.",
            {"group": weighted_over_n},
        ),
        "reward_per_token": bug(
            "The baseline is the sum of rewards over the sum of lengths.",
            "The baseline is near 0.",
            {"group": reward_per_token},
        ),
        "batch_mean": BATCH_MEAN,
        "wrong_order": WRONG_ORDER,
        "no_baseline": NO_BASELINE,
    },
    (
        *group_cases(lengths),
        groups_of("equal lengths: the group's mean", SCORES, more={"lengths": [[2.0] * 4] * 2}),
        groups_of("a completion without a token weighs 0", SCORES[:1], more={"lengths": [[2.0, 0.0, 1.0, 3.0]]}),
        groups_of("no completion has a token: 0", SCORES[:1], "empty_lengths", more={"lengths": [[0.0] * 4]}),
    ),
    arguments={"lengths": Argument("P G", "tokens")},
    edges={"empty_lengths": Flag("edge", "All lengths are 0.", "0 / 0: the update is NaN.", pitfalls=("C61",))},
)  # fmt: skip


def scaled(factor: Callable[[list[list[Dual]]], Any]) -> Step:
    """The group's centred rewards times a factor of the whole batch."""

    def group(rewards: Rewards, every: list[list[Dual]], settings: Settings) -> list[Dual]:
        return [a * factor(every) for a in reinforce.centred(rewards)]

    return group


def telling(every: list[list[Dual]]) -> int:
    return sum(not reinforce.all_equal(rewards) for rewards in every)


def gpg_group(rewards: Rewards, every: list[list[Dual]], settings: Settings) -> list[Dual]:
    """This group's, of all groups'."""
    return next(a for group, a in zip(every, reinforce.gpg_advantages(every), strict=True) if group is rewards)


def over_nonzero(every: list[list[Dual]]) -> Dual:
    rewards = flat_of(every)
    return core.divided(Dual(len(rewards)), sum(not r.same(0) for r in rewards))


def with_a_success(every: list[list[Dual]]) -> Dual:
    return core.divided(Dual(len(every)), sum(any(r > 0 for r in rewards) for rewards in every))


GPG_ADVANTAGES = group_objective(
    "gpg_advantages",
    "REINFORCE.8",
    "Each sample's reward against its group's mean, scaled up for the groups of the batch that teach nothing (GPG).",
    ("GPG, arXiv:2504.02546v4, eq. 6-8, with F_norm = 1",),
    gpg_group,
    {
        "no_alpha": variant(
            "Not scaled: the group's mean is the baseline, and that is all.",
            "As in Dr. GRPO: the step shrinks when many groups tie.",
            GROUP_MEAN,
        ),
        "leave_one_out": variant("The siblings' mean is the baseline, not scaled.", "As in RLOO.", LEAVE_ONE_OUT),
        "alpha_of_nonzero_rewards": variant(
            "alpha is the number of samples by that of samples whose reward is not 0.",
            "With rewards 0 or 1 it is one over the mean reward; with rewards 1 or -1 it is 1.",
            {"group": scaled(over_nonzero)},
            links=(VERL,),
        ),
        "alpha_of_hopeless_groups": bug(
            "Only groups without a success are taken out of the count, not those that are all right.",
            "The step shrinks as the policy gets better.",
            {"group": scaled(with_a_success)},
        ),
        "alpha_inverted": bug(
            "alpha is (B - M) / B.",
            "The groups that teach nothing shrink the step twice.",
            {"group": scaled(lambda every: mpf(telling(every)) / len(every))},
        ),
        "batch_mean": BATCH_MEAN,
        "wrong_order": WRONG_ORDER,
        "divided_by_std": DIVIDED_BY_STD,
    },
    (
        *group_cases(),
        groups_of("two of three groups tie", [[1.0, 1.0], [1.0, 0.0], [0.5, 0.5]]),
        groups_of("all groups tie: 0, not 0 / 0", [[1.0, 1.0], [0.0, 0.0]], "tie_of_all"),
    ),
    edges={"tie_of_all": Flag("edge", "No group has a signal.", "0 / 0: the update is NaN.", pitfalls=("C44",))},
)  # fmt: skip


def by_siblings_mean(rewards: Rewards, every: Any, settings: Settings) -> list[Dual]:
    """(r_i - b_i) / b_i, b the siblings' mean"""
    found = reinforce.leave_one_out_advantages(rewards)
    means = [mean(reinforce.siblings(rewards, i)) for i in range(len(rewards))]
    return [core.divided(a, b) for a, b in zip(found, means, strict=True)]


def hopeless_pushed_away(rewards: Rewards, every: Any, settings: Settings) -> list[Dual]:
    if rewards and mean(rewards).same(0):
        return [Dual(-1) for _ in rewards]
    return reinforce.max_likelihood_advantages(rewards, settings["eps"])


def by_failures(rewards: Rewards, every: Any, settings: Settings) -> list[Dual]:
    return [core.divided(a, 1 - mean(rewards)) for a in reinforce.centred(rewards)]


SUCCESSES = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]]


def binary_cases() -> tuple[Case, ...]:
    return (
        groups_of("one success in four, three in four", SUCCESSES),
        groups_of("two in four", [[1.0, 0.0, 0.0, 1.0]]),
        groups_of("all right, all wrong, and both", [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]),
        groups_of("no success: 0", [[0.0, 0.0, 0.0]], "empty_success"),
        groups_of("three groups of three", [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]], "rows_equal_columns"),
        groups_of("partial credit", [[0.5, 0.25, 0.0, 1.0]]),
        groups_of("0.1 eight times", [[0.1] * 8], "tie_that_rounds"),
        groups_of("0.7 twelve times", [[0.7] * 12], "tie_that_rounds"),
        groups_of("all were scored", SUCCESSES, scored=full(2, 4)),
        groups_of("NaN where not scored", [[1.0, NAN, 0.0, 0.0], [1.0, 0.0, NAN, NAN]], "unscored", scored=WITHOUT_NAN),
        groups_of("64 where not scored", hidden(SUCCESSES, WITHOUT_NAN, 64.0), "unscored", scored=WITHOUT_NAN),
        groups_of("none was scored", [[NAN, NAN], [1.0, 0.0]], "unscored", scored=marks("00 11")),
        groups_of("groups of one", [[1.0], [0.0]], "group_of_one", result="invalid"),
    )  # fmt: skip


MAX_LIKELIHOOD_ADVANTAGES = group_objective(
    "max_likelihood_advantages",
    "REINFORCE.9",
    "Each sample's reward against its group's mean, divided by that mean (MaxRL).",
    ("MaxRL, arXiv:2602.02710, algorithm 1",),
    lambda rewards, every, settings: reinforce.max_likelihood_advantages(rewards, settings["eps"]),
    {
        "not_divided": variant(
            "The group's mean is taken off, and nothing is divided.",
            "The gradient of the success rate, as in Dr. GRPO, not of its log: hard prompts weigh little.",
            GROUP_MEAN,
        ),
        "leave_one_out": variant("The siblings' mean is the baseline, not divided.", "As in RLOO.", LEAVE_ONE_OUT),
        "divided_by_std": variant(
            "Divided by the group's deviation (n - 1), as in GRPO.",
            "Prompts that are nearly solved weigh as much as those that are nearly hopeless.",
            {
                "group": lambda rewards, every, settings: [
                    a / deviation(rewards) for a in reinforce.centred(rewards)
                ]
            },
            links=("https://arxiv.org/abs/2402.03300",),
        ),
        "divided_by_siblings_mean": bug(
            "Baseline and divisor are the siblings' mean.",
            "A single success has nothing to be divided by: the rarest successes are lost.",
            {"group": by_siblings_mean},
        ),
        "divided_by_failures": bug(
            "Divided by the rate of failure.",
            "Easy prompts weigh more, hard ones less: the reverse.",
            {"group": by_failures},
        ),
        "no_success_pushed_away": variant(
            "In a group without a success every sample gets -1.",
            "One order more of log p; a push away from every sample of a hopeless prompt.",
            {"group": hopeless_pushed_away},
            links=("https://arxiv.org/abs/2602.02710",),
        ),
        "batch_mean": BATCH_MEAN,
        "wrong_order": WRONG_ORDER,
    },
    binary_cases(),
    edges={"empty_success": Flag("edge", "A group without a success.", "0 / 0: the update is NaN.", pitfalls=("C61",))},
    settings={"eps": Setting("Added to the mean that is divided by; the paper has none.", (0.0, 1e-6), free=True)},
    first={"eps": 0.0},
    groups=(Group({"eps": 1e-6}, binary_cases()[:4]),),
)  # fmt: skip

# ------------------------------------------------------------------------------------------- optimal_token_advantages


def per_step(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """Column by column of each group."""
    returns, mask = inputs["returns"], inputs["mask"]
    spent = [steps["energy"](*row) for row in zip(inputs["energies"], mask, strict=True)]
    size = steps["size"](settings["group_size"], len(mask))
    advantages: list[list[Any]] = [[None] * len(mask[0]) for _ in mask]
    for t in range(len(mask[0])):
        for start in range(0, len(mask), size):
            rows = range(start, start + size)
            column = [returns[i][t] if mask[i][t] else None for i in rows]
            found = steps["column"](column, [spent[i][t] for i in rows])
            for i, a in zip(rows, found, strict=True):
                advantages[i][t] = a
    return {"advantages": advantages}


def own_energy(energies: Rewards, mask: Sequence[bool]) -> list[Dual | None]:
    return chosen_only(energies, mask)


def whole_energy(energies: Rewards, mask: Sequence[bool]) -> list[Dual | None]:
    whole = total(w for w, m in zip(energies, mask, strict=True) if m)
    return chosen_only([whole] * len(mask), mask)


def energy_to_go(energies: Rewards, mask: Sequence[bool]) -> list[Dual | None]:
    return reinforce.energy_spent(energies[::-1], mask[::-1])[::-1]


def unmasked_energy(energies: Rewards, mask: Sequence[bool]) -> list[Dual | None]:
    return chosen_only([total(energies[: t + 1]) for t in range(len(mask))], mask)


def unit_energy(energies: Rewards, mask: Sequence[bool]) -> list[Dual | None]:
    return chosen_only([Dual(1)] * len(mask), mask)


def last_row_kept(returns: Sequence[Dual | None], spent: Sequence[Dual | None]) -> list[Dual | None]:
    """Where one row is left, its return is its advantage."""
    if sum(g is not None for g in returns) == 1:
        return [None if g is None else stop(g) for g in returns]
    return reinforce.optimal_token_advantages(returns, spent)


def ended_rows_counted(returns: Sequence[Dual | None], spent: Sequence[Dual | None]) -> list[Dual | None]:
    """The weighted sum over rows with a token, by the number of all rows."""
    pairs = [(g, w) for g, w in zip(returns, spent, strict=True) if g is not None and w is not None]
    baseline = total(g * w for g, w in pairs) / len(returns)
    return [None if g is None else stop(g - baseline) for g in returns]


G_4 = [[1.0, 0.5, 2.0], [0.0, 1.0, -1.0], [3.0, 0.0, 0.5], [0.5, 2.0, 1.0]]
W_4 = [[0.5, 0.25, 1.0], [0.25, 1.0, 0.5], [1.0, 0.5, 0.25], [0.125, 0.75, 0.5]]
TOKEN_RAGGED = marks("111 110 100 111")


def steps_of(comment: str, returns: Any, energies: Any, mask: Mask, *flags: str, **more: Any) -> Case:
    return Case(
        comment, {"returns": returns, "energies": energies, "mask": mask}, flags, tolerance={"float64": "1e-7"}, **more
    )


TOKEN_CASES = (
    steps_of("two groups of two, all chosen", G_4, W_4, full(4, 3)),
    steps_of("lengths 3, 2, 1 and 3", G_4, W_4, TOKEN_RAGGED, "ragged_mask"),
    steps_of("gaps", G_4, W_4, marks("101 111 011 110"), "gaps_in_mask"),
    steps_of("NaN in the padding", hidden(G_4, TOKEN_RAGGED, NAN), hidden(W_4, TOKEN_RAGGED, NAN), TOKEN_RAGGED,
             "ragged_mask", "nan_under_mask"),
    steps_of("64 in the gaps", hidden(G_4, marks("101 111 011 110"), 64.0), hidden(W_4, marks("101 111 011 110"), 64.0),
             marks("101 111 011 110"), "gaps_in_mask", "junk_under_mask"),
    steps_of("a row without a token", G_4, W_4, marks("111 000 110 111"), "empty_row"),
    steps_of("no token at all", G_4[:2], W_4[:2], marks("000 000"), "all_masked"),
    steps_of("equal returns: 0", [[0.1, 0.7], [0.1, 0.7]], [[0.25, 0.5], [0.5, 0.125]], full(2, 2), "tie_that_rounds",
             "rows_equal_columns"),
    steps_of("no energy: 0", G_4[:2], [[0.0, 0.5, 0.25], [0.0, 0.0, 0.0]], full(2, 3), "empty_energy"),
)  # fmt: skip
OPTIMAL_TOKEN_ADVANTAGES = Objective(
    name="optimal_token_advantages",
    about="At each step, the return minus its mean over the group, weighted by the energy spent so far (OTB).",
    tags=("REINFORCE.10",),
    source=("OTB, arXiv:2602.07078v2",),
    arguments={
        "returns": Argument("B T", "reward units, to go; a constant"),
        "energies": Argument("B T", "1: the squared norm of each token's score"),
        "mask": MASK,
    },
    returns={"advantages": Argument("B T", "reward units")},
    settings={"group_size": Setting("G: rows p G to p G + G - 1 belong to one prompt.", (2, 4))},
    compute=per_step,
    steps={
        "energy": reinforce.energy_spent,
        "column": reinforce.optimal_token_advantages,
        "size": lambda group_size, rows: group_size,
    },
    alternatives={
        "own_energy": bug(
            "The weight is the energy of the token alone, not of all up to it.",
            "The baseline of a step is not that of least noise.",
            {"energy": own_energy},
        ),
        "whole_energy": variant(
            "The weight is the energy of the whole completion, at every step.",
            "The baseline knows tokens that are still to come.",
            {"energy": whole_energy},
        ),
        "energy_to_go": bug(
            "The energy is summed from the right instead of from the left.",
            "The weights are largest where least has been spent.",
            {"energy": energy_to_go},
        ),
        "unmasked_energy": bug(
            "The energy of tool output and padding is counted.",
            "What the policy did not write moves its baseline.",
            {"energy": unmasked_energy},
            pitfalls=("C19", "C48"),
        ),
        "not_weighted": variant(
            "The plain mean over the rows with a token at this step.",
            "Noisier, and simpler.",
            {"energy": unit_energy},
        ),
        "last_row_kept": variant(
            "Where one row of a group is left, its advantage is its whole return, not 0.",
            "The ends of the longest completions are reinforced whenever the reward is above 0.",
            {"column": last_row_kept},
            links=(VERL,),
        ),
        "ended_rows_counted": bug(
            "The weighted sum is divided by the number of rows, not by the sum of the weights.",
            "The baseline has the wrong size.",
            {"column": ended_rows_counted},
        ),
        "whole_batch": bug(
            "One baseline for the whole batch instead of one for each prompt.",
            "Easy prompts are always reinforced and hard ones never, whatever the answer.",
            {"size": lambda group_size, rows: rows},
            pitfalls=("C41",),
        ),
    },
    edges=EDGES
    | {"empty_energy": Flag("edge", "No row has spent energy.", "0 / 0 gives NaN.", pitfalls=("C61",))},
    groups=(
        Group({"group_size": 2}, TOKEN_CASES),
        Group({"group_size": 4}, TOKEN_CASES[:3]),
        Group({"group_size": 1}, (steps_of("groups of one", G_4, W_4, full(4, 3), "group_of_one", result="invalid"),)),
    ),
)  # fmt: skip

# ------------------------------------------------------------------------------------------ reinforce_surrogate, _loss


def at(x: Any, b: int, t: int, rows: int = 0) -> Any:
    """Entry (b, t) of a number, of one number a sequence, or of one a token."""
    if not isinstance(x, list):
        return x
    return x[b][t] if isinstance(x[b], list) else x[b]


def along_columns(x: Any, b: int, t: int, rows: int = 0) -> Any:
    """The same, but where B = T one number a sequence [B] is laid along the columns: entry t."""
    if isinstance(x, list) and not isinstance(x[b], list):
        return x[t] if rows == len(x) else x[b]
    return at(x, b, t)


def per_chosen(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """-A log pi at each chosen token; anything elsewhere."""
    log_probs, mask = inputs["log_probs"], inputs["mask"]
    width = len(mask[0])
    return {
        "loss": [
            [
                steps["surrogate"](log_probs[b][t], steps["spread"](inputs["advantages"], b, t, width)) if m else None
                for t, m in enumerate(row)
            ]
            for b, row in enumerate(mask)
        ]
    }


SURROGATES: dict[str, Alternative] = {
    "sign_flipped": bug(
        "The minus sign is missing.",
        "The optimiser minimises: good completions are made less likely.",
        {"surrogate": lambda p, a: stop(a) * p},
        pitfalls=("C29",),
    ),
    "probability": bug(
        "-A pi instead of -A log pi.",
        "Unlikely tokens, which exploration needs, have hardly any gradient.",
        {"surrogate": lambda p, a: -stop(a) * exp(p)},
    ),
    "ratio": variant(
        "-A exp(log pi - its own value): the ratio at 1.",
        "The same gradient; the value is -A, which is what PPO code reports on policy.",
        {"surrogate": lambda p, a: -stop(a) * exp(p - stop(p))},
        pitfalls=("C15",),
    ),
    "no_advantage": bug(
        "-log pi: the advantage is missing.",
        "Every sample is imitated, good or bad.",
        {"surrogate": lambda p, a: -dual(p)},
        pitfalls=("C29",),
    ),
    "absolute_advantage": bug(
        "-|A| log pi.",
        "Bad completions are reinforced like good ones.",
        {"surrogate": lambda p, a: -absolute(stop(a)) * p},
    ),
    "only_good": bug(
        "-max(A, 0) log pi.",
        "Bad completions are not punished.",
        {"surrogate": lambda p, a: -maximum(stop(a), 0) * p},
    ),
    "detached": bug(
        "No gradient flows through the log-probs.",
        "Nothing is trained.",
        {"surrogate": lambda p, a: -stop(a) * stop(p)},
    ),
}
WRONG_AXIS = bug(
    "One advantage a sequence is laid along the columns instead of the rows, where B = T lets it.",
    "Tokens get the advantage of another completion, in batches of this one shape only.",
    {"spread": along_columns},
    pitfalls=("C09",),
)

P = [[-0.5, -1.25, -2.0], [-0.25, -3.0, -0.75]]
A = [[1.0, -0.5, 2.0], [-1.0, 0.25, 3.0]]
P_3 = [*P, [-1.5, -0.125, -1.0]]
A_3 = [*A, [0.5, -2.0, 1.5]]
P_RAGGED = marks("111 100")
P_GAPS = marks("101 011")
WEIGHED = Argument("B", "reward units, or 1 if normalised; [B] one a sequence, or [B T] one a token; a constant")


def weighed(comment: str, log_probs: Any, advantages: Any, mask: Mask, *flags: str) -> Case:
    return Case(comment, {"log_probs": log_probs, "advantages": advantages, "mask": mask}, flags)


REINFORCE_SURROGATE = Objective(
    name="reinforce_surrogate",
    about="-A log pi at each chosen token: the loss whose gradient is the policy gradient.",
    tags=("REINFORCE.2", "REINFORCE.3"),
    source=(f"{WILLIAMS}, theorem 1",),
    arguments={"log_probs": LOG_PROBS, "advantages": WEIGHED, "mask": MASK},
    returns={"loss": Argument("B T", "unit of the advantages x nats")},
    settings={},
    compute=per_chosen,
    steps={"surrogate": reinforce.reinforce_surrogate, "spread": at},
    alternatives={**SURROGATES, "wrong_axis": WRONG_AXIS},
    edges=EDGES,
    groups=(
        Group(
            {},
            (
                weighed("an advantage a token, all chosen", P, A, full(2, 3)),
                weighed("an advantage a sequence, all chosen", P, [2.0, -1.5], full(2, 3)),
                weighed("ragged", P, A, P_RAGGED, "ragged_mask"),
                weighed("gaps, an advantage a sequence", P, [2.0, -1.5], P_GAPS, "gaps_in_mask"),
                weighed("64 in the gaps", hidden(P, P_GAPS, 64.0), hidden(A, P_GAPS, -64.0), P_GAPS, "gaps_in_mask",
                        "junk_under_mask"),
                weighed("NaN and -inf in the gaps", hidden(P, P_GAPS, -INF), hidden(A, P_GAPS, NAN), P_GAPS,
                        "gaps_in_mask", "nan_under_mask"),
                weighed("a row without a token", P, [NAN, 2.0], marks("000 110"), "empty_row", "nan_under_mask"),
                weighed("no token at all", P, A, marks("000 000"), "all_masked"),
                weighed("three rows of three, an advantage a sequence", P_3, [2.0, -1.5, 0.5], full(3, 3),
                        "rows_equal_columns"),
                weighed("three rows of three, an advantage a token", P_3, A_3, full(3, 3), "rows_equal_columns"),
                weighed("one token", [[-0.5]], [-3.0], [[True]], "one_token"),
                weighed("advantages of 0", P, [0.0, 0.0], full(2, 3)),
                weighed("a token of log-probability -1000", [[-1000.0, -0.5]], [[2.0, 1.0]], full(1, 2)),
            ),
        ),
    ),
)  # fmt: skip


def whole_loss(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    """reinforce.reinforce_token_loss at each token, and one number out of them."""
    log_probs, mask = inputs["log_probs"], steps["mask"](inputs["mask"])
    width = len(mask[0])

    def advantage(b: int, t: int) -> Dual:
        earned = stop(steps["spread"](inputs["returns"], b, t, width))
        return dual(steps["baseline"](earned, stop(steps["spread_baseline"](inputs.get("baseline", 0), b, t, width))))

    def token(b: int, t: int) -> Dual:
        entropy = steps["entropy"](at(inputs.get("entropies", 0), b, t), log_probs[b][t])
        bonus = dual(settings["entropy_coef"]) * entropy if settings["entropy_coef"] else Dual(0)
        return steps["surrogate"](log_probs[b][t], advantage(b, t)) - bonus

    def over(entry: Callable[[int, int], Any]) -> list[list[Any]]:
        return [[entry(b, t) if m else None for t, m in enumerate(row)] for b, row in enumerate(mask)]

    losses, advantages = steps["rows"](over(token), mask), over(advantage)
    denominator = steps["denominator"](None, mask)
    value = steps["reduce"](losses, mask, denominator, settings, advantages)
    value = steps["finish"](value, settings, mask)
    outputs = {"loss": dual(value + steps["hidden"](log_probs, mask)), "advantages": core.token_mean(advantages, mask)}
    if "entropies" in inputs:
        outputs["entropy"] = stop(core.token_mean(over(lambda b, t: inputs["entropies"][b][t]), mask))
    return outputs


REDUCTIONS = {"token_mean": core.token_mean, "sequence_mean": core.sequence_mean, "sequence_sum": core.sequence_sum}


def by_name(losses: Any, mask: Mask, denominator: Any, settings: Settings, advantages: Any) -> Dual:
    return REDUCTIONS[settings["reduce"]](losses, mask, denominator)


def advantages_as_mask(losses: Any, mask: Mask, denominator: Any, settings: Settings, advantages: Any) -> Dual:
    """sum A x / sum A over the chosen tokens: a mean with the advantages in the mask's place."""
    pairs = [(x, a) for row in zip(losses, advantages, strict=True) for x, a in zip(*row, strict=True) if a is not None]
    return total(x * a for x, a in pairs) / total(a for _, a in pairs)


def row_sum_everywhere(losses: list[list[Any]], mask: Mask) -> list[list[Any]]:
    """Each token has the loss of its whole row: [B 1] was multiplied by a mask [B T]."""
    sums = [total(core.chosen(*row)) for row in zip(losses, mask, strict=True)]
    return [[s if m else None for m in row] for s, row in zip(sums, mask, strict=True)]


def choices(reduce: str, entropy_coef: float) -> dict[str, Any]:
    return {"reduce": reduce, "entropy_coef": entropy_coef}


def without_steps(name: str) -> Alternative:
    """A mean of ``reductions``, as a choice of the setting ``reduce``."""
    return Alternative(MEANS[name].flag, settings={"reduce": name})


H = [[1.0, 0.5, 0.75], [0.25, 1.5, 0.125]]


def learnt(comment: str, log_probs: Any, returns: Any, mask: Mask, *flags: str, **more: Any) -> Case:
    return Case(comment, {"log_probs": log_probs, "returns": returns, "mask": mask, **more}, flags)


LOSS_CASES = (
    learnt("a return a token, all chosen", P, A, full(2, 3)),
    learnt("a return a sequence, all chosen", P, [2.0, -1.5], full(2, 3)),
    learnt("ragged, a return a token", P, A, P_RAGGED, "ragged_mask"),
    learnt("ragged, a return a sequence, a baseline a sequence", P, [2.0, -1.5], P_RAGGED, "ragged_mask",
           baseline=[0.5, 0.25]),
    learnt("gaps, one baseline for all", P, A, P_GAPS, "gaps_in_mask", baseline=0.75),
    learnt("a critic's baseline a token", P, A, full(2, 3), baseline=[[0.5, 0.25, 1.0], [-0.5, 2.0, 1.5]]),
    learnt("64 in the padding", hidden(P, P_RAGGED, 64.0), hidden(A, P_RAGGED, -64.0), P_RAGGED, "ragged_mask",
           "junk_under_mask"),
    learnt("NaN and -inf in the gaps", hidden(P, P_GAPS, -INF), hidden(A, P_GAPS, NAN), P_GAPS, "gaps_in_mask",
           "nan_under_mask"),
    learnt("a row without a token", P_3, [2.0, 8.0, -1.5], marks("110 000 111"), "empty_row", "rows_equal_columns"),
    learnt("no token at all", P, A, marks("000 000"), "all_masked"),
    learnt("three rows of three, a return a sequence", P_3, [2.0, -1.5, 0.5], full(3, 3), "rows_equal_columns"),
    learnt("three rows of three, a return a token", P_3, A_3, marks("111 110 100"), "rows_equal_columns"),
    learnt("three rows of three, a baseline a sequence", P_3, A_3, full(3, 3), "rows_equal_columns",
           baseline=[1.0, -0.5, 0.25]),
    learnt("a row without a token, and without a return", P, [NAN, 2.0], marks("000 110"), "empty_row",
           "nan_under_mask"),
    learnt("one token", [[-0.5]], [-3.0], [[True]], "one_token"),
)  # fmt: skip
ENTROPY_CASES = (
    learnt("entropies, all chosen", P, A, full(2, 3), entropies=H),
    learnt("entropies, ragged, a baseline", P, [2.0, -1.5], P_RAGGED, "ragged_mask", entropies=H, baseline=0.5),
    learnt("entropies, NaN in the gaps", hidden(P, P_GAPS, NAN), A, P_GAPS, "gaps_in_mask", "nan_under_mask",
           entropies=hidden(H, P_GAPS, NAN)),
)  # fmt: skip

REINFORCE_LOSS = Objective(
    name="reinforce_loss",
    about="REINFORCE with an optional baseline and entropy bonus.",
    tags=("REINFORCE.4",),
    source=(f"{WILLIAMS}, theorem 1", "the bonus: Williams and Peng, 1991"),
    arguments={
        "log_probs": LOG_PROBS,
        "returns": WEIGHED,
        "mask": MASK,
        "baseline": Argument("", "reward units; a number, [B] one a sequence, or [B T] one a token; a constant"),
        "entropies": Argument("B T", "nats", gradient=True),
    },
    returns={
        "loss": Argument("", "reward units x nats"),
        "advantages": Argument("", "reward units, mean over tokens"),
        "entropy": Argument("", "nats, mean over tokens"),
    },
    metrics=("advantages", "entropy"),
    settings={
        "reduce": Setting("From a loss per token to one number.", tuple(REDUCTIONS), free=True),
        "entropy_coef": Setting("Weight of the entropy bonus.", (0.0, 0.5, 0.01)),
    },
    compute=whole_loss,
    steps={
        "mask": lambda mask: mask,
        "spread": at,
        "spread_baseline": at,
        "baseline": lambda earned, baseline: earned - baseline,
        "surrogate": reinforce.reinforce_surrogate,
        "entropy": lambda entropy, log_prob: entropy,
        "rows": lambda losses, mask: losses,
        "denominator": lambda denominator, mask: denominator,
        "reduce": by_name,
        "finish": lambda value, settings, mask: value,
        "hidden": lambda x, mask: 0,
    },
    alternatives={
        **{name: without_steps(name) for name in REDUCTIONS},
        **SURROGATES,
        "wrong_axis": WRONG_AXIS,
        "baseline_wrong_axis": bug(
            "One baseline a sequence is laid along the columns instead of the rows, where B = T lets it.",
            "Tokens get the baseline of another completion, in batches of this one shape only.",
            {"spread_baseline": along_columns},
            pitfalls=("C09",),
        ),
        "baseline_added": bug(
            "The baseline is added instead of taken off.",
            "Twice the noise that the baseline was to remove.",
            {"baseline": lambda earned, baseline: earned + baseline},
        ),
        "baseline_ignored": bug(
            "The baseline is not used.",
            "Right on average, and far noisier.",
            {"baseline": lambda earned, baseline: earned},
        ),
        "entropy_sign_flipped": bug(
            "The entropy is added to the loss: a price instead of a bonus.",
            "The policy collapses.",
            {"entropy": lambda entropy, log_prob: -dual(entropy)},
        ),
        "entropy_ignored": bug(
            "The entropy bonus has no effect.",
            "The policy collapses sooner than its coefficient promises.",
            {"entropy": lambda entropy, log_prob: Dual(0)},
        ),
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
        "row_sum_everywhere": bug(
            "The loss of the whole sequence [B 1] is broadcast against the mask [B T].",
            "A sequence counts once for each of its tokens: long answers weigh with the square of their length.",
            {"rows": row_sum_everywhere},
            pitfalls=("C09", "C25"),
            links=(f"{TRL}/issues/6654", f"{TRL}/issues/3823"),
        ),
        "advantages_as_mask": bug(
            "The advantages were passed where the mask belongs: sum A x / sum A.",
            "Bad completions are reinforced like good ones, as A enters squared; the sum may be near 0.",
            {"reduce": advantages_as_mask},
            pitfalls=("C19",),
            links=(f"{VERL}/pull/2513",),
        ),
        "summed": SUMMED,
        "empty_rows_counted": ALL_ROWS,
        "unmasked": UNMASKED,
        "multiplied_by_mask": MULTIPLIED,
        "zero_by_zero": EMPTY_ROWS,
    },
    edges=EDGES,
    groups=(
        Group(choices("sequence_sum", 0.0), LOSS_CASES),
        Group(choices("token_mean", 0.0), LOSS_CASES[:5] + LOSS_CASES[8:10]),
        Group(choices("sequence_mean", 0.0), LOSS_CASES[:5] + LOSS_CASES[8:10]),
        Group(choices("sequence_sum", 0.5), ENTROPY_CASES),
        Group(choices("token_mean", 0.01), ENTROPY_CASES[:2]),
        Group(choices("sequence_mean", 0.01), ENTROPY_CASES[:2]),
    ),
)  # fmt: skip

OBJECTIVES = [
    DISCOUNTED_RETURNS,
    LEAVE_ONE_OUT_ADVANTAGES,
    GREEDY_ADVANTAGES,
    LENGTH_WEIGHTED_ADVANTAGES,
    GPG_ADVANTAGES,
    MAX_LIKELIHOOD_ADVANTAGES,
    OPTIMAL_TOKEN_ADVANTAGES,
    REINFORCE_SURROGATE,
    REINFORCE_LOSS,
]
