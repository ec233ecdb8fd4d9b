"""Learning from pairs: what goes wrong with DPO and its relatives, and the cases.

All losses on pairs are one computation: order the pair, make two rewards of four log-probs, judge each pair, reduce.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import dpo
from ..contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ..core import Row
from ..numbers import Dual, dual, exp, log, log_sigmoid, mp, mpf, sigmoid, stop, total
from . import rewards
from .common import EDGES, TRL, bug, variant

Settings = Mapping[str, Any]
Steps = Mapping[str, Step]
PAIR = ("chosen_log_probs", "rejected_log_probs")
REFERENCE = ("ref_chosen_log_probs", "ref_rejected_log_probs")

# -------------------- one computation for all


def pairs(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    chosen, rejected = steps["order"](*(inputs[k] for k in PAIR))
    none = [Dual(0)] * len(chosen)
    references = steps["order"](*(inputs.get(k) or none for k in REFERENCE))
    win, lose = (
        [steps["reward"](p, q, settings["beta"]) for p, q in zip(*rows, strict=True)]
        for rows in ((chosen, references[0]), (rejected, references[1]))
    )
    losses = steps["losses"](win, lose, inputs, settings)
    return {"loss": steps["reduce"](losses, settings["denominator"])} | metrics(win, lose)


def metrics(win: Row, lose: Row) -> dict[str, Any]:
    """Means over the given pairs; a tie is not a right answer. Of no pairs they may be anything."""
    if not win:
        return {}
    n = len(win)
    return {
        "rewards/chosen": stop(total(win) / n),
        "rewards/rejected": stop(total(lose) / n),
        "rewards/margins": stop((total(win) - total(lose)) / n),
        "rewards/accuracies": dual(mpf(sum(a > b for a, b in zip(win, lose, strict=True))) / n),
    }


def each(judge: Callable[..., Dual], *names: str) -> Step:
    """A loss of one pair, for all pairs, with the settings that it needs."""

    def losses(win: Row, lose: Row, inputs: Inputs, settings: Settings) -> Row:
        return [judge(a, b, *(settings[k] for k in names)) for a, b in zip(win, lose, strict=True)]

    return losses


def swapped(chosen: Row, rejected: Row) -> tuple[Row, Row]:
    return rejected, chosen


def as_given(chosen: Row, rejected: Row) -> tuple[Row, Row]:
    return chosen, rejected


def nan_if_empty(losses: Sequence[Dual], denominator: Any) -> Dual:
    return dpo.pair_mean(losses, denominator) if losses else Dual(mp.nan)


SWAPPED = bug(
    "The chosen and the rejected completion are exchanged.",
    "The model is trained towards the answers that people rejected.",
    {"order": swapped},
    None,
    ("C76",),
    ("https://github.com/linkedin/Liger-Kernel/pull/484",),
)
NO_REFERENCE = bug(
    "The reference's log-probs are not used.",
    "Nothing holds the model near the reference, and the loss does not start at that of equal policies.",
    {"reward": lambda p, q, beta: beta * dual(p)},
    None,
    ("C73",),
    (f"{TRL}/pull/2431", f"{TRL}/pull/6443", f"{TRL}/pull/6403"),
)
REFERENCE_ADDED = bug(
    "The reference's log-probs are added where they should be subtracted.",
    "The model is pushed away from the reference's ranking instead of being measured against it.",
    {"reward": lambda p, q, beta: beta * (dual(p) + stop(q))},
    None,
    ("C73",),
)
NO_BETA = bug(
    "beta is left out: it is 1.",
    "The margin saturates at once: usual values of beta are ten times smaller.",
    {"reward": lambda p, q, beta: dual(p) - stop(q)},
)
BETA_ON_POLICY = bug(
    "beta multiplies the policy's log-prob, but not the reference's.",
    "The reference outweighs the policy, and at the start the loss is not that of equal policies.",
    {"reward": lambda p, q, beta: beta * dual(p) - stop(q)},
)
SUMMED = bug(
    "The sum over pairs instead of the mean.",
    "The learning rate grows with the number of pairs.",
    {"reduce": lambda losses, denominator: total(losses)},
    None,
    ("C02",),
)
OWN_COUNT = bug(
    "The given denominator is not used: each micro-batch is divided by its own number of pairs.",
    "The gradient depends on how the batch was split over steps or devices.",
    {"reduce": lambda losses, denominator: dpo.pair_mean(losses)},
    None,
    ("C02", "C04"),
    (f"{TRL}/pull/2615",),
)
EMPTY_IS_NAN = bug(
    "A batch without pairs gives 0 / 0.",
    "The update is NaN, and the model is lost.",
    {"reduce": nan_if_empty},
    None,
    ("C61",),
)
SHARED = {
    "chosen_and_rejected_swapped": SWAPPED,
    "sum_over_pairs": SUMMED,
    "denominator_ignored": OWN_COUNT,
    "nan_of_no_pairs": EMPTY_IS_NAN,
}
WITH_REFERENCE = {
    "reference_ignored": NO_REFERENCE,
    "reference_added": REFERENCE_ADDED,
    "beta_missing": NO_BETA,
    "beta_on_policy_only": BETA_ON_POLICY,
}


def plain(win: Dual, lose: Dual) -> Dual:
    return dpo.dpo(win, lose)


PLAIN_DPO = bug(
    "DPO's logistic loss is computed whatever loss was asked for.",
    "The run has the name of one objective and the result of another.",
    {"losses": each(plain)},
    None,
    ("C70",),
    ("https://github.com/modelscope/ms-swift/issues/9925", "https://github.com/modelscope/ms-swift/issues/10167"),
)
NEGATED = bug(
    "The sign of the loss is turned around.",
    "The optimiser goes uphill: every step makes the preferences worse.",
)


def judged(alternative: Callable[..., Alternative], about: str, effect: str, judge: Callable[..., Dual], *names: str,
           pitfalls: tuple[str, ...] = (), links: tuple[str, ...] = ()) -> Alternative:  # fmt: skip
    """An alternative that judges each pair in another way."""
    return alternative(about, effect, {"losses": each(judge, *names)}, None, pitfalls, links)


# ------------------------------------------------------------------------------------------------------------ the cases

PAIR_EDGES = {
    "both_signs": Flag("edge", "Pairs that are ranked right and pairs that are ranked wrong.",
                       "A sign error shows in one of the two only."),
    "one_pair": Flag("edge", "A single pair.", "A dimension is squeezed away."),
    "no_pairs": Flag("edge", "A batch without pairs: the loss is 0, with gradient 0.",
                     "0 / 0 gives NaN, and the model is lost.", pitfalls=("C61",)),
    "at_reference": Flag("edge", "The policy is the reference: all rewards are 0.",
                         "Reference log-probs of another model or template show here first.", pitfalls=("C73",)),
    "tied": Flag("edge", "Equal rewards: a tie is not counted as right.", "The reported accuracy starts at 1, not 0."),
    "no_reference": Flag("edge", "The form without a reference model.", "A missing reference is read as an error."),
    "extreme_margin": Flag(
        "edge",
        "Margins of 120 and 1000, of both signs: loss and gradient stay finite.",
        "log(sigmoid(-120)) is -inf in float32, and its gradient NaN.",
        ("https://github.com/thinking-machines-lab/tinker-cookbook/pull/188",),
        ("C68", "R20"),
    ),
    "micro_batch": EDGES["micro_batch"],
}  # fmt: skip


def four(chosen: list, rejected: list, ref_chosen: list | None = None, ref_rejected: list | None = None) -> Inputs:
    given = dict(zip((*PAIR, *REFERENCE), (chosen, rejected, ref_chosen, ref_rejected), strict=True))
    return {k: x for k, x in given.items() if x is not None}


BASE = four([-4.5, -9.25, -6.0, -3.5], [-7.0, -5.5, -8.75, -5.0], [-5.25, -8.5, -7.5, -5.0], [-6.25, -6.0, -8.0, -4.75])
TWO = four([-3.25, -6.5], [-5.0, -4.25], [-4.0, -6.0], [-4.5, -5.75])
ONE = four([-3.5], [-4.75], [-4.25], [-3.0])
SAME = four([-3.5, -6.0], [-4.75, -5.25], [-3.5, -6.0], [-4.75, -5.25])
TIED = four([-4.0, -2.0], [-4.0, -6.0], [-5.0, -3.5], [-5.0, -5.5])
EMPTY = four([], [], [], [])


def far(margin: float, beta: float) -> Inputs:
    """A pair with h = -margin, one with +margin, two near 0."""
    x = margin / beta
    return four(
        [-x - 2, -3.0, -4.5, -3.0], [-2.0, -x - 3, -4.0, -5.0], [-2.0, -3.0, -4.0, -4.0], [-2.0, -3.0, -4.25, -4.5]
    )


def only(inputs: Inputs, names: Sequence[str]) -> Inputs:
    return {k: x for k, x in inputs.items() if k in names}


def groups(settings: Sequence[Settings], names: Sequence[str], extra: tuple[Case, ...] = (), extremes: bool = False,
           ) -> tuple[Group, ...]:  # fmt: skip
    """All cases with the first settings, two with each of the others, and a micro-batch of 2 pairs of 5."""

    def case(comment: str, inputs: Inputs, *flags: str) -> Case:
        return Case(comment, only(inputs, names), flags)

    few = (
        case("four pairs, ranked right and wrong", BASE, "both_signs"),
        case("two pairs", TWO, "both_signs"),
    )
    many = (
        case("one pair", ONE, "one_pair"),
        case("policy and reference agree", SAME, "at_reference"),
        case("a tie", TIED, "tied"),
        Case("no pairs", only(EMPTY, names), ("no_pairs",), result="acceptable"),
        *extra,
    )
    if extremes:
        beta = settings[0]["beta"]
        many += tuple(case(f"margins of -{m} and {m}", far(m, beta), "extreme_margin") for m in (120, 1000))
    first = {"denominator": None, **settings[0]}
    split = (case("2 pairs of a batch of 5", TWO, "micro_batch"), case("1 pair of a batch of 5", ONE, "micro_batch"))
    return (
        Group(first, (*few, *many)),
        *(Group({"denominator": None, **s}, few) for s in settings[1:]),
        Group({**first, "denominator": 5}, split),
    )


NATS = Argument("N", "nats, of whole completions", gradient=True)
CONSTANT = Argument("N", "nats, of whole completions")
FOUR = {**dict.fromkeys(PAIR, NATS), **dict.fromkeys(REFERENCE, CONSTANT)}
TWO_ONLY = dict.fromkeys(PAIR, NATS)
LOSS = {"loss": Argument("", "nats")}
METRICS = {k: Argument("", "reward") for k in ("rewards/chosen", "rewards/rejected", "rewards/margins")} | {
    "rewards/accuracies": Argument("", "share of pairs")
}
BETA = Setting("Reward units per nat.", (0.1, 0.5), free=True)
DENOMINATOR = Setting("Pairs in the whole batch; None counts those given.")


def objective(name: str, about: str, tags: tuple[str, ...], source: str, losses: Step, alternatives: Mapping[str, Any],
              numbers: Mapping[str, Setting] | None = None, settings: Sequence[Settings] = ({},),
              arguments: Mapping[str, Argument] = FOUR, extra: tuple[Case, ...] = (), extremes: bool = False,
              reference: bool = True, plain_dpo: bool = True, metric: bool = False) -> Objective:  # fmt: skip
    shared = SHARED | (WITH_REFERENCE if reference else {"beta_missing": NO_BETA})
    shared |= {"plain_dpo": PLAIN_DPO} if plain_dpo else {}
    turned = bug(
        NEGATED.flag.about, NEGATED.flag.effect, {"losses": lambda *x: [-y for y in losses(*x)]}, None, ("C76",)
    )
    full = [{"beta": 0.1, **s} for s in settings]
    full += [{**full[0], "beta": 0.5}]
    return Objective(
        name, about, tags, (source,), arguments, LOSS | (METRICS if metric else {}),
        {"beta": BETA, **(numbers or {}), "denominator": DENOMINATOR}, pairs,
        {"order": as_given, "reward": dpo.implicit_reward, "losses": losses, "reduce": dpo.pair_mean},
        {**shared, "sign_flipped": turned, **alternatives}, PAIR_EDGES,
        groups(full, tuple(arguments), extra, extremes), tuple(METRICS) if metric else (),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------ DPO


def underflowing(x: Dual) -> Dual:
    """log(sigmoid(x)) in float64: sigmoid is 0 below -745, and the slope inf * 0."""
    return Dual(mp.ninf, dict.fromkeys(x.slopes, mp.nan)) if x < -745 else log_sigmoid(x)


def by_hand(win: Dual, lose: Dual, s: Any) -> Dual:
    h = win - lose
    right = (1 - dual(s)) * underflowing(h)
    return -right - s * underflowing(-h) if s else -right


def beta_outside(win: Dual, lose: Dual, s: Any, beta: Any) -> Dual:
    return beta * dpo.logistic((win - lose) / beta, s)


def wrong_smoothing(win: Dual, lose: Dual, s: Any) -> Dual:
    h = win - lose
    return -(1 - dual(s)) * log_sigmoid(h) + s * log_sigmoid(-h)


def one_minus_probability(win: Dual, lose: Dual) -> Dual:
    return 1 - sigmoid(win - lose)


def hinge_of_one(win: Dual, lose: Dual) -> Dual:
    return dpo.hinge(win, lose, 1)


def bco_without_shift(win: Dual, lose: Dual) -> Dual:
    return dpo.bco(win, lose, 0)


SMOOTHING = Setting("The share of labels believed to be flipped.", (0, 0.1))
HINGE = judged(variant, "The hinge loss max(0, 1 - h).", "Pairs that are apart by 1 have no gradient.", hinge_of_one,
               links=("https://arxiv.org/abs/2309.06657",))  # fmt: skip
IPO = judged(variant, "IPO's squared distance from 1 / (2 beta).", "The margin is pulled to a finite target.", dpo.ipo,
             "beta", pitfalls=("C70", "R16"), links=("https://arxiv.org/abs/2310.12036",))  # fmt: skip
DPO_LOSS = objective(
    "dpo_loss", "Logistic regression on the difference of two implicit rewards.", ("DPO.3", "DPO.4"),
    "Rafailov et al., arXiv:2305.18290v3, eq. 7", each(dpo.dpo, "label_smoothing"),
    {
        "log_of_sigmoid": judged(
            bug, "log(sigmoid(h)) in two steps.", "A pair that is far on the wrong side gives inf and a NaN gradient.",
            by_hand, "label_smoothing", pitfalls=("C68", "R20"),
            links=("https://github.com/thinking-machines-lab/tinker-cookbook/pull/188",)),
        "beta_outside": judged(
            bug, "beta multiplies the loss, not the log-ratios.",
            "Only the learning rate changes with beta: the strength of the KL constraint stays at 1.",
            beta_outside, "label_smoothing", "beta"),
        "label_smoothing_ignored": bug(
            "label_smoothing is accepted and not used.", "Noisy labels are trusted fully, and the margin has no end.",
            settings={"label_smoothing": 0}, pitfalls=("C72", "R15"), links=(f"{TRL}/issues/1035",)),
        "label_smoothing_sign": judged(
            bug, "The term of the flipped label has the wrong sign.",
            "Pairs that are apart are pushed further apart, without bound.", wrong_smoothing, "label_smoothing",
            pitfalls=("C72",)),
        "robust": judged(
            variant, "Robust DPO: the unbiased estimate, divided by 1 - 2 s.",
            "It does not stop at a margin, and has no lower bound.", dpo.robust, "label_smoothing",
            pitfalls=("C72",), links=("https://arxiv.org/abs/2403.00409",)),
        "hinge": HINGE,
        "ipo": IPO,
        "one_minus_probability": judged(
            variant, "1 - sigmoid(h), without a logarithm.",
            "Pairs that are far on the wrong side have almost no gradient.", one_minus_probability),
    },
    {"label_smoothing": SMOOTHING}, ({"label_smoothing": 0}, {"label_smoothing": 0.1}), extremes=True, plain_dpo=False,
    metric=True,
)  # fmt: skip

# ------------------------------------------------------------------------------------------------------- its relatives

WRONG = "The run has the name of one objective and the result of another."
IPO_LOSS = objective(
    "ipo_loss", "A finite target for the log-ratio difference.", ("DPO.7",), "Azar et al., arXiv:2310.12036v2, eq. 17",
    each(dpo.ipo, "beta"),
    {
        "one_over_beta": judged(bug, "The target is 1 / beta, not 1 / (2 beta).", "Margins are twice as large.",
                                lambda w, v, b: ((w - v) / b - 1 / b) * ((w - v) / b - 1 / b), "beta"),
        "margin_times_beta": judged(bug, "The rewards' difference is not divided by beta.",
                                    "The target in nats is 1 / (2 beta^2): far larger margins are asked for.",
                                    lambda w, v, b: (w - v - 1 / (2 * b)) * (w - v - 1 / (2 * b)), "beta",
                                    pitfalls=("C70",)),
        "half": judged(variant, "Half of the square.", "Half the learning rate.",
                       lambda w, v, b: dpo.ipo(w, v, b) / 2, "beta"),
    },
    extremes=True,
)  # fmt: skip
ROBUST = objective(
    "robust_dpo_loss", "DPO's loss on clean labels, estimated from labels that are flipped at a known rate.", ("DPO.8",),  # noqa: E501
    "Ray Chowdhury et al., arXiv:2403.00409", each(dpo.robust, "flip_rate"),
    {
        "conservative": judged(variant, "cDPO: a weighted mean of both labels.", WRONG, dpo.dpo, "flip_rate"),
        "not_divided": judged(bug, "The division by 1 - 2 e is missing.", "The learning rate depends on e.",
                              lambda w, v, e: dpo.robust(w, v, e) * (1 - 2 * e), "flip_rate"),
    },
    {"flip_rate": Setting("The probability that a label is flipped.", (0.1,))},
    ({"flip_rate": 0.1}, {"flip_rate": 0.25}),
)  # fmt: skip
HINGE_LOSS = objective(
    "hinge_loss", "A margin is enough.", ("DPO.9",), "Liu et al., arXiv:2309.06657, eq. 10", each(dpo.hinge, "delta"),
    {
        "margin_of_zero": judged(bug, "delta is left out.", "Training stops as soon as pairs are ranked right.",
                                 lambda w, v: dpo.hinge(w, v, 0)),
        "squared": judged(variant, "The square of the hinge.", "Far pairs dominate.",
                          lambda w, v, d: dpo.hinge(w, v, d) * dpo.hinge(w, v, d), "delta"),
    },
    {"delta": Setting("The margin, in reward units.", (1,))}, ({"delta": 1}, {"delta": 0.125}),
    extra=(Case("without references: SLiC", four([-4.5, -19.0], [-7.0, -5.5]), ("no_reference",)),),
)  # fmt: skip
SIMPO = objective(
    "simpo_loss", "The mean log-prob is the reward, with a margin.", ("DPO.10",), "Meng et al., arXiv:2405.14734v3, eq. 6",  # noqa: E501
    each(dpo.simpo, "gamma"),
    {
        "gamma_times_beta": judged(variant, "gamma stands inside of beta.", "The margin is beta times as large.",
                                   lambda w, v, g, b: dpo.simpo(w, v, g * b), "gamma", "beta", pitfalls=("C74",),
                                   links=("https://github.com/princeton-nlp/SimPO/issues/4",)),
        "gamma_added": judged(bug, "gamma is added to the difference.", "The margin asked for is negative.",
                              lambda w, v, g: dpo.simpo(w, v, -g), "gamma"),
    },
    {"gamma": Setting("The margin, in reward units.", (0.5, 1))}, ({"gamma": 0.5}, {"gamma": 1.5}),
    TWO_ONLY, reference=False,
)  # fmt: skip


def with_odds(odds: Callable[[Dual], Dual] = dpo.log_odds, sft: bool = True, sign: int = 1) -> Step:
    """ORPO's two terms. Its rewards carry no beta: odds_coef stands before the logarithm."""

    def one(w: Dual, v: Dual, odds_coef: Any, sft_coef: Any) -> Dual:
        return (-(sft_coef if sft else 0) * w) - odds_coef * log_sigmoid(sign * (odds(w) - odds(v)))

    return each(one, "odds_coef", "sft_coef")


def orpo(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    win, lose = steps["order"](*(inputs[k] for k in PAIR))
    return {"loss": steps["reduce"](steps["losses"](win, lose, inputs, settings), settings["denominator"])}


P = four([-0.5, -1.25, -0.75], [-1.5, -0.375, -2.0])
NO_PAIRS = (Case("no pairs", four([], []), ("no_pairs",), "acceptable"),)
ORPO_SETTINGS = (
    {"odds_coef": 0.1, "sft_coef": 1},
    {"odds_coef": 0.5, "sft_coef": 1},
    {"odds_coef": 0.5, "sft_coef": 0},
)
ORPO = Objective(
    "orpo_loss", "Supervised fine-tuning that also raises the odds of the chosen completion.", ("DPO.11", "DPO.12"),
    ("Hong et al., arXiv:2403.07691v2, eq. 3-7",), TWO_ONLY, LOSS,
    {"odds_coef": Setting("lambda.", (0.1,), free=True), "sft_coef": Setting("1 in the paper.", (1,)),
     "denominator": DENOMINATOR}, orpo,
    {"order": as_given, "losses": with_odds(), "reduce": dpo.pair_mean},
    {
        **SHARED,
        "sft_term_missing": bug("The supervised term is missing.", "Nothing raises the chosen likelihood itself.",
                                {"losses": with_odds(sft=False)}),
        "odds_sign_flipped": bug("The odds ratio has the wrong sign.", "The rejected completion's odds rise.",
                                 {"losses": with_odds(sign=-1)}, pitfalls=("C76",)),
        "log_probs_for_odds": bug("log P stands where log odds should.", "Likely completions are pushed less.",
                                  {"losses": with_odds(lambda p: p)}),
        "biased_odds": bug("log(1.0001 - P) keeps the logarithm finite.", "The odds of likely completions are too small.",  # noqa: E501
                           {"losses": with_odds(lambda p: p - log(mpf("1.0001") - exp(p)))}, pitfalls=("C75", "R21"),
                           links=("https://github.com/hpcaitech/ColossalAI/pull/6407",)),
    },
    PAIR_EDGES | {"certain": Flag("edge", "A mean log-prob of 0 or just below: value and gradient stay finite.",
                                  "log(1 - 1) is -inf, and the gradient NaN.", pitfalls=("C75", "R21"))},
    (
        *(Group({**s, "denominator": None}, (Case("three pairs", P, ("both_signs",)), *none))
          for s, none in zip(ORPO_SETTINGS, [NO_PAIRS, *[()] * (len(ORPO_SETTINGS) - 1)], strict=True)),
        Group({**ORPO_SETTINGS[0], "denominator": None}, (
            Case("a chosen mean log-prob of -2^-13", four([-0.0001220703125, -0.5], [-1.5, -1.0]), ("certain",)),
            Case("a rejected mean log-prob of 0", four([-0.5, -0.75], [0.0, -1.0]), ("certain",), "acceptable", True),
        )),
        Group({**ORPO_SETTINGS[0], "denominator": 5}, (Case("3 pairs of a batch of 5", P, ("micro_batch",)),)),
    ),
)  # fmt: skip
APO_ZERO = objective(
    "apo_zero_loss", "The chosen becomes likelier, the rejected unlikelier.", ("DPO.15",), "arXiv:2408.06266, eq. 7",
    each(dpo.apo_zero), {"apo_down": judged(variant, "APO down.", "Both likelihoods fall.", dpo.apo_down)},
)  # fmt: skip
APO_DOWN = objective(
    "apo_down_loss", "Both become unlikelier, the rejected more so.", ("DPO.16",), "arXiv:2408.06266, eq. 8",
    each(dpo.apo_down), {"apo_zero": judged(variant, "APO zero.", "The chosen likelihood rises.", dpo.apo_zero)},
)  # fmt: skip
EXO = objective(
    "exo_loss", "The KL from the policy's preference to the label's.", ("DPO.20",), "arXiv:2402.00856, eq. 16",
    each(dpo.exo, "label_smoothing"),
    {"conservative_dpo": judged(bug, "The KL in DPO's direction.", WRONG, dpo.dpo, "label_smoothing")},
    {"label_smoothing": Setting("The label's own doubt.", (0.1,))},
    ({"label_smoothing": 0.125}, {"label_smoothing": 0.25}),
)  # fmt: skip
NCA = objective(
    "nca_loss", "Each reward's own value is fitted.", ("DPO.21",), "Chen et al., arXiv:2402.05369v3, table 1",
    each(dpo.nca),
    {"bco": judged(variant, "BCO without a shift.", "Nothing holds the chosen reward at a finite value.",
                   bco_without_shift),
     "halves_missing": judged(bug, "The two noise terms have weight 1.", "Chosen rewards are pulled to 0.",
                              lambda w, v: -log_sigmoid(w) - log_sigmoid(-w) - log_sigmoid(-v))},
)  # fmt: skip
BCO = objective(
    "bco_loss", "Two separate judgements in place of a comparison.", ("DPO.22",), "arXiv:2404.04656, eq. 7 and 8",
    each(dpo.bco, "reward_shift"),
    {"shift_added": judged(bug, "The shift is added.", "The judgements are further from balance.",
                           lambda w, v, d: dpo.bco(w, v, -d), "reward_shift"),
     "shift_ignored": judged(variant, "No shift.", "Rewards that drift saturate one term.", bco_without_shift)},
    {"reward_shift": Setting("d, a constant.", (0,))}, ({"reward_shift": 0}, {"reward_shift": 0.25}),
)  # fmt: skip
DISCOPOP = objective(
    "discopop_loss", "Logistic for wrong pairs, exponential for right ones.", ("DPO.24",), "arXiv:2406.08414v3, eq. 5",
    each(dpo.discopop, "tau"),
    {"gate_reversed": judged(bug, "The two losses are exchanged.", "Wrong pairs get an exponential gradient.",
                             lambda w, v, t: dpo.discopop(w, v, -t), "tau"),
     "gate_without_tau": judged(bug, "tau is left out.", "The change from one loss to the other is smooth.",
                                lambda w, v: dpo.discopop(w, v, 1)),
     "exponential": judged(variant, "The exponential loss alone.", "Wrong pairs dominate.",
                           lambda w, v: exp(-(w - v)))},
    {"tau": Setting("In reward units.", (0.05,))}, ({"tau": 0.05}, {"tau": 0.5}),
)  # fmt: skip


def sorted_losses(paired: bool | None = None, ordered: bool = True) -> Step:
    """AOT: h_i between sorted values; of the two models if paired, else of the two kinds of completions."""

    def losses(win: Row, lose: Row, inputs: Inputs, settings: Settings) -> Row:
        order = dpo.ascending if ordered else list
        u, v = win, lose
        if settings["paired"] if paired is None else paired:
            beta = settings["beta"]
            u = [beta * (dual(a) - b) for a, b in zip(*(inputs[k] for k in PAIR), strict=True)]
            v = [beta * (stop(a) - stop(b)) for a, b in zip(*(inputs[k] for k in REFERENCE), strict=True)]
        return [dpo.dpo(a, b, settings["label_smoothing"]) for a, b in zip(order(u), order(v), strict=True)]

    return losses


def sppo_losses(win: Row, lose: Row, inputs: Inputs, settings: Settings) -> Row:
    """The hard form: the chosen always wins, the rejected never."""
    return [dpo.sppo(a, b, settings["beta"], 1, 0) for a, b in zip(win, lose, strict=True)]


SPPO = objective(
    "sppo_loss", "Each log-ratio is pulled to a win rate, here 1 and 0.", ("DPO.23",), "Wu et al., arXiv:2405.00675",
    sppo_losses,
    {"half": bug("Half of the squares.", "Half the learning rate.",
                 {"losses": lambda *x: [y / 2 for y in sppo_losses(*x)]})},
)  # fmt: skip


def kto(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    z = settings["reference_point"]
    rows = zip(inputs["log_probs"], inputs["ref_log_probs"], inputs["desirable"], strict=True)
    weights = settings["desirable_weight"], settings["undesirable_weight"]
    losses = [
        steps["weight"](up, *weights) * steps["judge"](steps["ratio"](p, q), steps["label"](up), settings["beta"], z)
        for p, q, up in rows
    ]
    return {"loss": steps["reduce"](losses, settings["denominator"])}


THUMBS: dict[str, Any] = {
    "log_probs": [-3.0, -5.5, -4.25],
    "ref_log_probs": [-4.5, -5.0, -3.0],
    "desirable": [True, False, True],
}
FAR_THUMBS = {"log_probs": [-2.0, -202.0], "ref_log_probs": [-102.0, -2.0], "desirable": [True, False]}
KTO_CASES = (
    Case("three thumbs", THUMBS),
    Case("only desirable", {**THUMBS, "desirable": [True] * 3}),
    Case("only undesirable", {**THUMBS, "desirable": [False] * 3}),
    Case("one completion", {k: x[:1] for k, x in THUMBS.items()}),
    Case("log-ratios of 100 and -200", FAR_THUMBS),
)


def kto_numbers(z: float, up: float = 1, down: float = 1.5, denominator: int | None = None) -> dict[str, Any]:
    return {"beta": 0.1, "reference_point": z, "desirable_weight": up, "undesirable_weight": down,
            "denominator": denominator}  # fmt: skip


KTO = Objective(
    "kto_loss", "Thumbs up and down against a reference point.", ("DPO.14",), ("arXiv:2402.01306v5, eq. 8",),
    {"log_probs": NATS, "ref_log_probs": CONSTANT, "desirable": Argument("N", "True for a thumb up", kind="bool")},
    LOSS, {"beta": BETA, **{k: Setting(k.replace("_", " ") + ".") for k in
           ("reference_point", "desirable_weight", "undesirable_weight")}, "denominator": DENOMINATOR}, kto,
    {"ratio": lambda p, q: dual(p) - stop(q), "label": lambda up: up, "weight": lambda up, a, b: a if up else b,
     "judge": dpo.kto, "reduce": dpo.pair_mean},
    {
        "reference_ignored": bug("The reference's log-probs are not used.", "Nothing holds the model near it.",
                                 {"ratio": lambda p, q: dual(p)}, pitfalls=("C73",)),
        "labels_flipped": bug("Thumbs up and down are exchanged (or sigmoid for 1 - sigmoid), not the weights.",
                              "Bad answers are learnt.",
                              {"label": lambda up: not up}),
        "weights_swapped": bug("The two weights are exchanged.", "The rarer kind counts less, not more.",
                               {"weight": lambda up, a, b: b if up else a}),
        "weights_ignored": bug("The weights are accepted and not used.", "The commoner kind dominates.",
                               {"weight": lambda up, a, b: 1}),
        "reference_point_ignored": bug("z is taken to be 0.", "Gains are measured from the reference.",
                                       settings={"reference_point": 0}),
        "reference_point_added": bug("z has the wrong sign.", "The further the policy is away, the more it gains.",
                                     {"judge": lambda u, up, beta, z: dpo.kto(u, up, beta, -z)}),
        "beta_missing": Alternative(NO_BETA.flag, {"judge": lambda u, up, beta, z: dpo.kto(u, up, 1, z)}),
        "sum_over_pairs": SUMMED, "denominator_ignored": OWN_COUNT,
    }, PAIR_EDGES,
    (Group(kto_numbers(0.5), KTO_CASES), Group(kto_numbers(0), KTO_CASES[:1]),
     Group(kto_numbers(2, 1.25, 0.5), KTO_CASES[:2]),
     Group(kto_numbers(0, denominator=5), (Case("of 5", THUMBS, ("micro_batch",)),))),
)  # fmt: skip
AOT = objective(
    "aot_loss", "DPO between sorted values.", ("DPO.25",), "Melnyk et al., arXiv:2406.05882", sorted_losses(),
    {"not_sorted": bug("The values are not sorted.", WRONG, {"losses": sorted_losses(ordered=False)}),
     "label_smoothing_ignored": bug("label_smoothing is not used.", "Noisy labels are trusted fully.",
                                    settings={"label_smoothing": 0}, pitfalls=("C72",))},
    {"label_smoothing": SMOOTHING, "paired": Setting("Sort preferences, or each kind of completion.")},
    ({"label_smoothing": 0, "paired": False}, {"label_smoothing": 0.1, "paired": True}), plain_dpo=False,
)  # fmt: skip

# -------------------------------------------------------------------------------------------- parts, and weighted pairs

ROWS = {"log_probs": [-4.5, -9.25, -6.0], "ref_log_probs": [-5.25, -8.5, -7.5]}
LOWER = {"log_probs": [-5.25, -8.5, -7.5], "ref_log_probs": [-4.5, -8.25, -6.0]}
SINGLE = {"log_probs": [-3.5], "ref_log_probs": [-4.25]}
EQUAL = {"log_probs": [-3.5, -6.0], "ref_log_probs": [-3.5, -6.0]}
ROW_CASES = (
    Case("two above the reference, one below", ROWS), Case("mostly below the reference", LOWER),
    Case("one completion", SINGLE), Case("policy and reference agree", EQUAL, ("at_reference",)),
)  # fmt: skip


def implicit(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    rows = zip(inputs["log_probs"], inputs["ref_log_probs"], strict=True)
    return {"rewards": [steps["reward"](p, q, settings["beta"]) for p, q in rows]}


IMPLICIT = Objective(
    "implicit_rewards", "The reward that a policy is optimal for, up to a constant per prompt.", ("DPO.2",),
    ("Rafailov et al., arXiv:2305.18290v3, eq. 5",), {"log_probs": NATS, "ref_log_probs": CONSTANT},
    {"rewards": Argument("N", "reward")}, {"beta": BETA}, implicit, {"reward": dpo.implicit_reward},
    {**WITH_REFERENCE,
     "sign_flipped": bug("The reference's log-prob minus the policy's.", "The ranking is upside down.",
                         {"reward": lambda p, q, beta: -dpo.implicit_reward(p, q, beta)}, pitfalls=("C76",))},
    PAIR_EDGES, (Group({"beta": 0.1}, ROW_CASES), Group({"beta": 0.5}, ROW_CASES[:2])),
)  # fmt: skip


def reference_point(inputs: Inputs, settings: Settings, steps: Steps) -> dict[str, Any]:
    return {"reference_point": steps["point"](inputs["log_probs"], inputs["ref_log_probs"])}


def gaps(p: Row, q: Row) -> Row:
    return [stop(a) - b for a, b in zip(p, q, strict=True)]


def each_clamped(p: Row, q: Row) -> Dual:
    return total(x if x > 0 else Dual(0) for x in gaps(p, q)) / len(p)


REFERENCE_POINT = Objective(
    "kto_reference_point", "What KTO measures gains and losses against: a mean log-ratio, at least 0.", ("DPO.13",),
    ("Ethayarajh et al., arXiv:2402.01306v5, section 4.1",), {"log_probs": NATS, "ref_log_probs": CONSTANT},
    {"reference_point": Argument("", "nats")}, {}, reference_point, {"point": dpo.kto_reference_point},
    {
        "not_clamped": bug("A negative mean is not set to 0.", "Gains are measured from below the reference.",
                           {"point": lambda p, q: total(gaps(p, q)) / len(p)}),
        "each_clamped": bug("Each log-ratio is set to at least 0 before the mean.", "The point is too high.",
                            {"point": each_clamped}),
        "sign_flipped": bug("The reference's log-probs minus the policy's.", "The point is 0 where it should not be.",
                            {"point": lambda p, q: dpo.kto_reference_point([stop(x) for x in q], p)}),
        "sum_over_pairs": bug("The sum, not the mean.", "The point grows with the batch.",
                              {"point": lambda p, q: dpo.kto_reference_point(p, q) * len(p)}),
        "with_gradient": bug("The point is not a constant.", "The gradient of the mean enters that of every loss.",
                             {"point": lambda p, q: total(a - b for a, b in zip(p, q, strict=True)) / len(p)
                              if (total(gaps(p, q))) > 0 else Dual(0)}),
    },
    PAIR_EDGES, (Group({}, ROW_CASES),),
)  # fmt: skip


def weighted(weigh: Callable[[Any, Row], Any]) -> Step:
    """WPO: DPO's loss of each pair times its weight."""

    def losses(win: Row, lose: Row, inputs: Inputs, settings: Settings) -> Row:
        rows = zip(win, lose, inputs["weights"], strict=True)
        return [weigh(w, inputs["weights"]) * dpo.dpo(a, b) for a, b, w in rows]

    return losses


WEIGHTS = {"weights": [0.5, 1.25, 0.125, 2.0]}
WPO_LOSS = objective(
    "wpo_loss", "DPO in which pairs that the policy would not have written count less.", ("DPO.19",),
    "Zhou et al., arXiv:2406.11827v2, eq. 1", weighted(lambda w, all_w: stop(w)),
    {"clamped": variant("Weights of at most 1.", "Pairs that the policy would rather write count as any other.",
                        {"losses": weighted(lambda w, all_w: stop(w) if w < 1 else Dual(1))}),
     "divided_by_weights": bug("The mean is weighted: divided by the sum of weights.", "The size of the step changes.",
                               {"losses": weighted(lambda w, all_w: stop(w) * len(all_w) / stop(total(all_w)))}),
     "squared_weights": bug("The weights are applied twice.", "Few pairs decide.",
                            {"losses": weighted(lambda w, all_w: stop(w) * stop(w))})},
    arguments={**FOUR, "weights": Argument("N", "1")},
)  # fmt: skip
WPO_LOSS = replace(WPO_LOSS, groups=tuple(
    Group(g.settings, tuple(
        replace(c, inputs={**c.inputs, "weights": WEIGHTS["weights"][: len(c.inputs["chosen_log_probs"])]})
        for c in g.cases)) for g in WPO_LOSS.groups))  # fmt: skip

OBJECTIVES: list[Objective] = [
    *rewards.BEFORE, IMPLICIT, DPO_LOSS, IPO_LOSS, ROBUST, HINGE_LOSS, SIMPO, ORPO, APO_ZERO, APO_DOWN, EXO, NCA, BCO,
    SPPO, DISCOPOP, AOT, REFERENCE_POINT, KTO, WPO_LOSS,
    *rewards.AFTER,
]  # fmt: skip
