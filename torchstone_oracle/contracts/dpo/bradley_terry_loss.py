"""bradley_terry_loss: a reward model learnt from pairs."""

from __future__ import annotations

from typing import Any

from ... import dpo
from ...contract import Argument, Case, Flag, Group, Inputs, Objective, Setting
from ...numbers import Dual, exp, log, maximum, mp, stop, total
from ..shared.common import EDGES, OPENRLHF_0_11_2, Settings, Steps, bug, variant


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


def given(margin: Any, loss: Dual) -> Dual:
    """The loss times the margin, if there is one."""
    return loss if isinstance(margin, Dual) and margin.same(0) else loss * stop(margin)


def times(margin: Any, win: Dual, lose: Dual) -> tuple[Dual, Dual]:
    return given(margin, win), given(margin, lose)


def hinge_at_the_margin(win: Dual, lose: Dual, margin: Any) -> Dual:
    h = win - lose
    if isinstance(margin, Dual) and margin.same(0):
        return dpo.bradley_terry(win, lose, 0)
    return maximum(stop(margin) - h, Dual(0))


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
                           "log(1 + exp(120)) is inf in float32, and its gradient NaN.", (OPENRLHF_0_11_2,),
                           ("C68", "R20")),
    "no_pairs": Flag("edge", "A batch without pairs: the loss is 0, with gradient 0.",
                     "0 / 0 gives NaN, and the model is lost.", pitfalls=("C61", "C79")),
    "micro_batch": EDGES["micro_batch"],
}  # fmt: skip
SMALL = (
    Case("three pairs", THREE), Case("two pairs", TWO),
    Case("three pairs with margins", {**THREE, "margin": [0.5, 1.0, 0.25]}, ("with_margin",)),
    Case("three pairs with other margins", {**THREE, "margin": [1.0, 0.25, 0.75]}, ("with_margin",)),
)  # fmt: skip
REWARD = Argument("N", "reward", gradient=True)
OBJECTIVE = Objective(
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
            {"fit": lambda win, lose, m: dpo.bradley_terry(win, lose, 0)}, pitfalls=("C79", "R20"),
            links=(OPENRLHF_0_11_2,)),
        "margin_added": bug(
            "The margin is added to the difference.", "The clearer the preference, the smaller the gradient.",
            {"fit": lambda win, lose, m: dpo.bradley_terry(win, lose, -stop(m))}, pitfalls=("C79",)),
        "margin_outside": bug(
            "The margin is added to the loss, outside the sigmoid.", "It has no gradient: it does nothing.",
            {"fit": lambda win, lose, m: dpo.bradley_terry(win, lose, 0) + stop(m)}, pitfalls=("C79",)),
        "margin_inside_and_outside": bug(
            "The margin is taken off inside the sigmoid, and added to the loss as well.",
            "The gradient is right, and the loss too high: it tells nothing of how well pairs are ranked.",
            {"fit": lambda win, lose, m: dpo.bradley_terry(win, lose, stop(m)) + stop(m)}, pitfalls=("C79",)),
        "margin_multiplies_the_difference": bug(
            "The margin multiplies the difference of the rewards, where it should be taken off.",
            "A clear preference needs a smaller difference, not a larger one.",
            {"fit": lambda win, lose, m: dpo.bradley_terry(*times(m, win, lose), 0)}, pitfalls=("C79",)),
        "margin_weighs_the_pair": bug(
            "The margin multiplies the loss of the pair, outside the sigmoid.",
            "Clear preferences weigh more, and ask for no larger difference than close ones.",
            {"fit": lambda win, lose, m: given(m, dpo.bradley_terry(win, lose, 0))}, pitfalls=("C79",)),
        "margin_of_a_hinge": bug(
            "With a margin it is a hinge loss, max(0, margin - h), in place of the log-sigmoid.",
            "Pairs that are apart by their margin have no gradient, and the others all the same.",
            {"fit": hinge_at_the_margin}, pitfalls=("C79",)),
        "log_of_one_plus_exp": bug(
            "log(1 + exp(-h)) in two steps.", "A pair that is far on the wrong side gives inf and a NaN gradient.",
            {"fit": overflowing}, pitfalls=("C68", "R20"), links=(OPENRLHF_0_11_2,)),
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
