"""Losses on pairs are one computation: order the pair, make two rewards of four log-probs, judge each pair, reduce."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ... import dpo
from ...contract import Alternative, Argument, Case, Flag, Group, Inputs, Objective, Setting, Step
from ...core import Row
from ...numbers import Dual, dual, mp, mpf, stop, total
from .common import EDGES, TRL, Settings, Steps, bug

PAIR = ("chosen_log_probs", "rejected_log_probs")
REFERENCE = ("ref_chosen_log_probs", "ref_rejected_log_probs")


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


WRONG = "The run has the name of one objective and the result of another."
