"""From tokens to completions, supervised fine-tuning and reward models: what goes wrong, and the cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import core, dpo
from ..contract import Argument, Case, Group, Inputs, Objective, Setting, Step
from ..numbers import Dual, dual, exp, log, log_sigmoid, mp, mpf, stop, total
from .common import EDGES, INF, LOG_PROBS, MASK, NAN, OPENRLHF, TRL, Flag, bug, full, hidden, marks, variant

Settings = Mapping[str, Any]
Steps = Mapping[str, Step]

SCORES = [[-1.5, -0.25, -2.0, -0.75], [-0.5, -3.0, -1.25, -0.5], [-2.5, -1.0, -0.125, -1.75]]
RAGGED, GAPS, HOLLOW = marks("1111 1100 1000"), marks("1011 0110 1101"), marks("1100 0000 1110")


def token_cases(argument: str, values: list[list[float]], **others: Any) -> tuple[Case, ...]:
    """A matrix of tokens under every kind of mask."""

    def case(comment: str, mask: list[list[bool]], *flags: str, junk: float | None = None) -> Case:
        x = values if junk is None else hidden(values, mask, junk)
        return Case(comment, {argument: x, **others, "mask": mask}, flags)

    return (
        case("every token counts", full(3, 4)),
        case("different lengths", RAGGED, "ragged_mask"),
        case("gaps", GAPS, "gaps_in_mask"),
        case("junk in the padding", RAGGED, "junk_under_mask", junk=-7.5),
        case("NaN in the padding", RAGGED, "nan_under_mask", junk=NAN),
        case("-inf in the padding", RAGGED, "nan_under_mask", junk=-INF),
        case("a row without a token", HOLLOW, "empty_row"),
        case("no token at all", marks("0000 0000 0000"), "all_masked"),
    )


def widened(mask: list[list[bool]]) -> list[list[bool]]:
    return full(len(mask), len(mask[0])) if mask else mask


def zero_times(x: Any, mask: Any) -> list[Dual]:
    """Per row, 0 times what lies under False: 0, or nan."""
    return [total(mpf(0) * stop(v) for v, m in zip(*row, strict=True) if not m) for row in zip(x, mask, strict=True)]


PADDING = bug("Tokens under False count too.", "Prompt and padding are scored as if the policy had chosen them.",
              {"mask": widened}, pitfalls=("C59", "C36"),
              links=(f"{OPENRLHF}/pull/237", f"{TRL}/pull/2502"))  # fmt: skip
MULTIPLIED = bug("Tokens under False are multiplied by 0, not left out: 0 * nan is nan.",
                 "One NaN in the padding turns the whole update into NaN.", {"hidden": zero_times},
                 pitfalls=("C60",))  # fmt: skip

# -------------------------------------------------------------------------------------------------- sequence_log_probs


def sequences(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    x, mask = inputs["log_probs"], steps["mask"](inputs["mask"])
    rows = zip(x, mask, steps["hidden"](x, mask), strict=True)
    return {"log_probs": [steps["row"](row, m, settings["average"]) + extra for row, m, extra in rows]}


def by_width(row: Any, m: Any, average: bool) -> Dual:
    return dpo.sequence_log_prob(row, m, False) / len(row) if average else dpo.sequence_log_prob(row, m, False)


def without_last(row: Any, m: Any, average: bool) -> Dual:
    last = max((t for t, count in enumerate(m) if count), default=-1)
    return dpo.sequence_log_prob(row, [count and t != last for t, count in enumerate(m)], average)


SEQUENCES = Objective(
    "sequence_log_probs", "A completion's log-probability: the sum over its tokens, or the mean.", ("DPO.1",),
    ("Rafailov et al., arXiv:2305.18290v3, appendix B",), {"log_probs": LOG_PROBS, "mask": MASK},
    {"log_probs": Argument("B", "nats, or nats per token")},
    {"average": Setting("False: the sum over tokens; True: the mean.")}, sequences,
    {"mask": lambda mask: mask, "hidden": lambda x, mask: [Dual(0)] * len(x), "row": dpo.sequence_log_prob},
    {
        "mean_and_sum_exchanged": variant(
            "The mean where the sum is asked for, or the sum for the mean.",
            "beta means something else at every length: SimPO and ORPO on sums prefer short answers.",
            {"row": lambda row, m, average: dpo.sequence_log_prob(row, m, not average)}, pitfalls=("C70", "C74", "R16"),
            links=("https://github.com/princeton-nlp/SimPO/issues/4", f"{TRL}/pull/1265")),
        "padded_width": bug(
            "The sum is divided by the padded width.", "A short answer's mean depends on its neighbours' length.",
            {"row": by_width}, pitfalls=("C74",)),
        "padding_included": PADDING,
        "mask_multiplied": MULTIPLIED,
        "end_token_dropped": bug(
            "The last token that counts is left out.", "The model does not learn when to stop.", {"row": without_last},
            pitfalls=("C78",), links=(f"{TRL}/pull/4908",)),
        "nan_of_empty_row": bug(
            "The sum over a row without a token is divided by 0.", "The update is NaN, and the model is lost.",
            {"row": lambda row, m, average: dpo.sequence_log_prob(row, m, average) if any(m) else Dual(mp.nan)},
            pitfalls=("C61",)),
    },
    EDGES, tuple(Group({"average": a}, token_cases("log_probs", SCORES)) for a in (False, True)),
)  # fmt: skip

# -------------------------------------------------------------------------------------------------- bradley_terry_loss


def preferences(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    win, lose = steps["order"](inputs["chosen_rewards"], inputs["rejected_rewards"])
    margins = inputs.get("margin") or [Dual(0)] * len(win)
    fit = [steps["fit"](*pair) for pair in zip(win, lose, margins, strict=True)]
    pull = [settings["centre"] * steps["centring"](*pair) for pair in zip(win, lose, strict=True)]
    losses = [a + b for a, b in zip(fit, pull, strict=True)]
    return {"loss": steps["reduce"](losses, settings["denominator"])}


def overflowing(win: Dual, lose: Dual, margin: Any) -> Dual:
    """log(1 + exp(-h)) in float64: exp is inf beyond 709, and its slope inf / inf."""
    h = win - lose - stop(margin)
    return Dual(mp.inf, dict.fromkeys(h.slopes, mp.nan)) if h < -709 else log(1 + exp(-h))


FAR = {"chosen_rewards": [-500.0, 60.0, 1.5], "rejected_rewards": [500.0, -60.0, 0.75]}
NEARER = {"chosen_rewards": [-60.0, 1.5], "rejected_rewards": [60.0, 0.75]}
THREE = {"chosen_rewards": [1.5, -0.25, 0.75], "rejected_rewards": [0.5, 1.25, 0.25]}
TWO = {"chosen_rewards": [2.0, -1.5], "rejected_rewards": [-0.75, 1.0]}
ONE = {"chosen_rewards": [0.75], "rejected_rewards": [-0.5]}
NONE: Inputs = {"chosen_rewards": [], "rejected_rewards": []}
EDGES_OF_PAIRS = {
    "with_margin": Flag("edge", "A margin for each pair.", "Clear and close preferences are treated alike.",
                        pitfalls=("C79", "R20")),
    "extreme_margin": Flag("edge", "Rewards 120 and 1000 apart: loss and gradient stay finite.",
                           "log(1 + exp(120)) is inf in float32, and its gradient NaN.", (OPENRLHF,), ("C68", "R20")),
    "no_pairs": Flag("edge", "A batch without pairs: the loss is 0, with gradient 0.",
                     "0 / 0 gives NaN, and the model is lost.", pitfalls=("C61", "C79")),
    "micro_batch": EDGES["micro_batch"],
}  # fmt: skip
SMALL = (
    Case("three pairs", THREE), Case("two pairs", TWO),
    Case("three pairs with margins", {**THREE, "margin": [0.5, 1.0, 0.25]}, ("with_margin",)),
)  # fmt: skip
REWARD = Argument("N", "reward", gradient=True)
BRADLEY_TERRY = Objective(
    "bradley_terry_loss", "The negative log-likelihood of preferences under the Bradley-Terry model.",
    ("DPO.5", "DPO.6", "DPO.27"),
    ("Ouyang et al., arXiv:2203.02155v1, eq. 1", "margin: Llama 2, arXiv:2307.09288v2, eq. 2",
     "centring: Eisenstein et al., arXiv:2312.09244v3, eq. 2"),
    {"chosen_rewards": REWARD, "rejected_rewards": REWARD, "margin": Argument("N", "reward")},
    {"loss": Argument("", "nats")},
    {"centre": Setting("How strongly the rewards are held around 0.", (0, 0.01)),
     "denominator": Setting("Pairs in the whole batch; None counts those given.")},
    preferences,
    {"order": lambda win, lose: (win, lose), "fit": dpo.bradley_terry, "centring": dpo.centring,
     "reduce": dpo.pair_mean},
    {
        "chosen_and_rejected_swapped": bug(
            "The chosen and the rejected reward are exchanged.", "The reward model learns to prefer the worse answer.",
            {"order": lambda win, lose: (lose, win)}, pitfalls=("C76",)),
        "margin_ignored": bug(
            "The margin is accepted and not used.", "Clear and close preferences are treated alike.",
            {"fit": lambda win, lose, m: dpo.bradley_terry(win, lose, 0)}, pitfalls=("C79", "R20"), links=(OPENRLHF,)),
        "margin_added": bug(
            "The margin is added to the difference.", "The clearer the preference, the smaller the gradient.",
            {"fit": lambda win, lose, m: dpo.bradley_terry(win, lose, -stop(m))}, pitfalls=("C79",)),
        "margin_outside": bug(
            "The margin is added to the loss, outside the sigmoid.", "It has no gradient: it does nothing.",
            {"fit": lambda win, lose, m: dpo.bradley_terry(win, lose, 0) + stop(m)}, pitfalls=("C79",)),
        "log_of_one_plus_exp": bug(
            "log(1 + exp(-h)) in two steps.", "A pair that is far on the wrong side gives inf and a NaN gradient.",
            {"fit": overflowing}, pitfalls=("C68", "R20"), links=(OPENRLHF,)),
        "probability": variant(
            "1 - sigmoid(h), without a logarithm.", "Pairs that are badly wrong have almost no gradient.",
            {"fit": lambda win, lose, m: 1 - exp(-dpo.bradley_terry(win, lose, m))}),
        "centring_ignored": bug(
            "centre is accepted and not used.", "The rewards drift as a whole.",
            {"centring": lambda win, lose: Dual(0)}, pitfalls=("C79",)),
        "centring_not_squared": bug(
            "The sum of the rewards, not its square.", "All rewards are pushed down without end.",
            {"centring": lambda win, lose: win + lose}, pitfalls=("C79",)),
        "centring_of_the_difference": bug(
            "The difference of the rewards is squared, not the sum.", "Margins are shrunk and the rewards still drift.",
            {"centring": lambda win, lose: (win - lose) * (win - lose)}, pitfalls=("C79",)),
        "sum_over_pairs": bug(
            "The sum over pairs instead of the mean.", "The learning rate grows with the number of pairs.",
            {"reduce": lambda losses, denominator: total(losses)}, pitfalls=("C02",)),
        "denominator_ignored": bug(
            "Each micro-batch is divided by its own number of pairs.", "The gradient depends on how a batch was split.",
            {"reduce": lambda losses, denominator: dpo.pair_mean(losses)}, pitfalls=("C02", "C04")),
        "nan_of_no_pairs": bug(
            "A batch without pairs gives 0 / 0.", "The update is NaN, and the model is lost.",
            {"reduce": lambda losses, n: dpo.pair_mean(losses, n) if losses else Dual(mp.nan)}, pitfalls=("C61",)),
    },
    EDGES_OF_PAIRS,
    (
        Group({"centre": 0, "denominator": None}, (
            *SMALL, Case("one pair", ONE), Case("rewards 120 apart", NEARER, ("extreme_margin",)),
            Case("rewards 1000 apart", FAR, ("extreme_margin",)), Case("no pairs", NONE, ("no_pairs",), "acceptable"))),
        Group({"centre": 0.01, "denominator": None}, SMALL),
        Group({"centre": 0, "denominator": 5}, (Case("2 pairs of a batch of 5", TWO, ("micro_batch",)),)),
    ),
)  # fmt: skip

# --------------------------------------------------------------------------------- likelihoods and judgements of tokens


def tokens(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    first = next(iter(inputs))
    mask = steps["mask"](inputs["mask"])
    x = [
        [steps["token"](v, label) if m else None for v, label, m in zip(*rows, strict=True)]
        for rows in zip(inputs[first], labels(inputs), mask, strict=True)
    ]
    return {"loss": steps["reduce"](x, mask, settings) + total(steps["hidden"](inputs[first], mask))}


def labels(inputs: Inputs) -> list[list[Any]]:
    """One label a token, spread from one a completion, or none at all."""
    width = len(inputs["mask"][0])
    if "labels" in inputs:
        return [[c] * width for c in inputs["labels"]]
    return inputs.get("step_labels") or [[None] * width for _ in inputs["mask"]]


def asked(x: Any, mask: Any, settings: Settings) -> Dual:
    means = {"token_mean": core.token_mean, "sequence_mean": core.sequence_mean, "sequence_sum": core.sequence_sum}
    return means[settings["reduce"]](x, mask)


def token_objective(name: str, about: str, tag: str, source: str, first: str, others: Mapping[str, Argument],
                    values: Inputs, token: Step, alternatives: Mapping[str, Any]) -> Objective:  # fmt: skip
    def means(kind: str) -> Step:
        return lambda x, mask, settings: asked(x, mask, {"reduce": kind})

    shared = {
        kind: variant(f"The reduction is {kind}.", "Long and short completions weigh differently.",
                      {"reduce": means(kind)}, pitfalls=("C01",))
        for kind in ("token_mean", "sequence_mean", "sequence_sum")
    } | {"padding_included": PADDING, "mask_multiplied": MULTIPLIED}  # fmt: skip
    return Objective(
        name, about, (tag,), (source,), {first: Argument("B T", "nats", gradient=True), **others, "mask": MASK},
        {"loss": Argument("", "nats")}, {"reduce": Setting("How tokens become one number.", free=True)}, tokens,
        {"mask": lambda mask: mask, "token": token, "reduce": asked,
         "hidden": lambda x, mask: [Dual(0)] * len(x)},
        {**shared, **alternatives}, EDGES,
        tuple(Group({"reduce": kind}, token_cases(first, SCORES, **values))
              for kind in ("sequence_mean", "token_mean", "sequence_sum")),
    )  # fmt: skip


JUDGED = {
    "labels_flipped": bug("Right and wrong are exchanged.", "The reward model prefers wrong answers.",
                          {"token": lambda z, c: dpo.cross_entropy(z, 1 - dual(c))}),
    "wrong_ones_ignored": bug("Only the term of the right ones is there.", "Every answer is soon called right.",
                              {"token": lambda z, c: -stop(c) * log_sigmoid(z)}),
    "squared_error": variant("The squared distance of the logit from its label.", "The logit is not a probability's.",
                             {"token": lambda z, c: (z - stop(c)) * (z - stop(c))}),
}  # fmt: skip
SFT = token_objective(
    "sft_loss", "The negative log-likelihood of given completions.", "DPO.26", "Pang et al., arXiv:2404.19733v3, eq. 1",
    "log_probs", {}, {}, lambda x, _: -x,
    {"sign_flipped": bug("The likelihood itself is minimised.", "The model unlearns the chosen answers.",
                         {"token": lambda x, _: x}, pitfalls=("C76",))},
)  # fmt: skip
OUTCOME = token_objective(
    "outcome_reward_loss", "At every token: will the completion turn out right?", "DPO.28",
    "Cobbe et al., arXiv:2110.14168v2, section 4.3", "logits", {"labels": Argument("B", "share")},
    {"labels": [1, 0, 0.25]}, dpo.cross_entropy, JUDGED,
)  # fmt: skip
PROCESS = token_objective(
    "process_reward_loss", "At the end of each step: is the step right?", "DPO.29",
    "Lightman et al., arXiv:2305.20050v1", "logits", {"step_labels": Argument("B T", "share")},
    {"step_labels": [[1, 0, 1, 0.25], [0, 1, 0.5, 0], [0, 1, 1, 0]]}, dpo.cross_entropy, JUDGED,
)  # fmt: skip

BEFORE: list[Objective] = [SEQUENCES]
AFTER: list[Objective] = [SFT, OUTCOME, PROCESS, BRADLEY_TERRY]
