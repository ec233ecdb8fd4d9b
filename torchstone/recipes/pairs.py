"""Preference objectives as rows of choices: how a completion is scored, the loss on the pair, what is added to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core import Loss, sequence_mean, sequence_sum, token_mean
from torchstone.core.inputs import as_float, check_mask, require
from torchstone.dpo import dpo_loss, sequence_log_probs
from torchstone.dpo import variants as dpo
from torchstone.recipes.choices import NONE, Choice, Option, Recipe, nothing

# ------------------------------------------------------------------------------ stage 3: one number a completion


def shared_length(
    log_probs: Tensor, mask: Tensor, other_mask: Tensor, of_reference: bool, *, alpha: float, policy_only: bool
) -> Tensor:
    """``shared_length_log_probs``, for the reference too unless ``policy_only``."""
    plain = policy_only and of_reference
    return dpo.shared_length_log_probs(log_probs, mask, other_mask, alpha=1.0 if plain else alpha)


LOG_PROBS = {
    "sum": Option(
        partial(sequence_log_probs, average=False),
        "Every token counts in full, so a long completion moves more than a short one.",
    ),
    "mean": Option(
        partial(sequence_log_probs, average=True),
        "Per token: length has no say, and a beta or a margin meant for sums does not fit.",
    ),
    "shared-length": Option(
        shared_length,
        "Tokens beyond the length of the pair's shorter completion count less: length itself is worth less.",
    ),
}

# ------------------------------------------------------------------------------------- stage 6: from pairs to the loss


def kto_on_pairs(
    chosen_log_probs: Tensor, rejected_log_probs: Tensor, ref_chosen_log_probs: Tensor, ref_rejected_log_probs: Tensor,
    reference_point: Tensor | float, denominator: Any = None,
    *, beta: float, desirable_weight: float, undesirable_weight: float,
) -> Loss:  # fmt: skip
    """``kto_loss`` with each pair as one desirable and one undesirable completion."""
    desirable = torch.arange(2 * len(chosen_log_probs), device=chosen_log_probs.device) < len(chosen_log_probs)
    return dpo.kto_loss(
        torch.cat([chosen_log_probs, rejected_log_probs]), torch.cat([ref_chosen_log_probs, ref_rejected_log_probs]),
        desirable, beta=beta, reference_point=reference_point, desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight, denominator=None if denominator is None else 2 * denominator,
    )  # fmt: skip


def with_reference(
    loss: Callable[..., Loss], chosen_log_probs: Tensor, rejected_log_probs: Tensor, ref_chosen_log_probs: Tensor,
    ref_rejected_log_probs: Tensor, denominator: Any = None, *, beta: float, delta: float,
) -> Loss:  # fmt: skip
    """A loss whose reference may be left out, with it."""
    log_probs = (chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
    return loss(*log_probs, beta=beta, delta=delta, denominator=denominator)


OBJECTIVES = {
    "logistic": Option(
        dpo_loss,
        "Every pair pushes, the less the better it is ranked already; unless labels are smoothed, no margin is enough.",
    ),
    "robust": Option(dpo.robust_dpo_loss, "Corrects the logistic loss for a known share of flipped labels."),
    "squared": Option(dpo.ipo_loss, "The margin is pulled to a finite value, from above too."),
    "hinge": Option(partial(with_reference, dpo.hinge_loss), "Pairs apart by the margin have no gradient at all."),
    "hinge-free": Option(
        partial(dpo.hinge_loss, ref_chosen_log_probs=None, ref_rejected_log_probs=None),
        "Pairs apart by the margin have no gradient at all; nothing holds the policy to a reference.",
    ),
    "logistic-free": Option(
        dpo.simpo_loss, "The log-prob itself is the reward; the comparison holds the policy to no reference."
    ),
    "logistic-divergence": Option(
        dpo.f_dpo_loss,
        "As logistic, but, unless by reverse-kl, a reward levels off above the reference: what is likelier than there "
        "is pushed less.",
    ),
    "logistic-free-power": Option(
        dpo.alphapo_loss,
        "As logistic-free, but the reward is a power: with alpha above 0 unlikely completions are pushed more.",
    ),
    "logistic-positive": Option(
        dpo.dpop_loss, "As logistic, but a chosen completion that falls below the reference is pushed much harder."
    ),
    "odds-ratio": Option(dpo.orpo_loss, "Odds in place of probabilities, beside supervised learning; no reference."),
    "kto": Option(kto_on_pairs, "Each completion alone is a gain or a loss; far-off ones of either kind stop pushing."),
    "apo-zero": Option(dpo.apo_zero_loss, "The chosen becomes likelier and the rejected unlikelier, each on its own."),
    "apo-down": Option(
        dpo.apo_down_loss, "Both become unlikelier, the rejected more: for chosen ones worse than the policy."
    ),
    "weighted-logistic": Option(dpo.wpo_loss, "Pairs that the policy itself would not have written count less."),
    "exo": Option(dpo.exo_loss, "The KL of the logistic loss the other way round: it seeks one mode."),
    "nca": Option(
        dpo.nca_loss,
        "Each reward has a value of its own: the chosen one's is pulled to log 2, the rejected one's down.",
    ),
    "bco": Option(
        dpo.bco_loss, "Two separate judgements, good and bad, in place of a comparison: about where rewards stand now."
    ),
    "bce": Option(
        partial(dpo.bco_loss, reward_shift=0.0),
        "Two separate judgements, good and bad, about the reference: once all rewards drift off it, one kind stops.",
    ),
    "logistic-and-bco": Option(
        dpo.mpo_loss, "A comparison, and a judgement of each completion: the second holds where the rewards stand."
    ),
    "logistic-and-bce": Option(
        partial(dpo.mpo_loss, reward_shift=0.0),
        "A comparison, and a judgement of each completion about the reference, whatever rewards have become.",
    ),
    "sppo": Option(dpo.sppo_loss, "Each log-ratio is pulled to how often the completion wins."),
    "discopop": Option(dpo.discopop_loss, "Logistic for wrong pairs, exponential for right ones."),
    "sorted-logistic": Option(
        dpo.aot_loss, "Sorted values are compared: the distribution is to be better, not each pair."
    ),
}


def sft(chosen_log_probs: Tensor, chosen_mask: Tensor, sft_denominator: Any = None, *, coef: float, mean: str) -> Loss:
    """``coef`` times ``sft_loss`` on the chosen completions' tokens."""
    reduce = partial(
        {"token": token_mean, "sequence": sequence_mean, "sum": sequence_sum}[mean], denominator=sft_denominator
    )
    loss = dpo.sft_loss(chosen_log_probs, chosen_mask, reduce=reduce)
    return Loss(coef * loss.value, loss.metrics)


def sft_of_gold(
    gold_log_probs: Tensor, gold_mask: Tensor, sft_denominator: Any = None, *, coef: float, mean: str
) -> Loss:
    """``coef`` times ``sft_loss`` on the tokens of a third completion."""
    return sft(gold_log_probs, gold_mask, sft_denominator, coef=coef, mean=mean)


def optimism(
    chosen_log_probs: Tensor, rejected_log_probs: Tensor, chosen_mask: Tensor, rejected_mask: Tensor,
    chosen_is_from_reference: Tensor, denominator: Any = None, *, coef: float,
) -> Loss:  # fmt: skip
    """``coef`` times ``optimism_loss`` on sums over tokens."""
    sides = ((chosen_log_probs, chosen_mask), (rejected_log_probs, rejected_mask))
    sums = (sequence_log_probs(x, mask, average=False) for x, mask in sides)
    loss = dpo.optimism_loss(*sums, chosen_is_from_reference, denominator=denominator)
    return Loss(coef * loss.value, loss.metrics)


COLUMNS = {
    "log_prob": LOG_PROBS,
    "objective": OBJECTIVES,
    "sft": {
        "none": Option(nothing, "The objective alone teaches: where it allows it, both likelihoods may fall together."),
        "chosen": Option(sft, "The chosen completion's own likelihood is raised too, against its fall."),
        "gold": Option(
            sft_of_gold, "A third completion is learnt beside the pair, whose own likelihoods may both fall."
        ),
        "optimism": Option(
            optimism,
            "The completion that the reference wrote becomes less likely, preferred or not: the policy explores.",
        ),
    },
}
NUMBERS = {
    "beta": "larger holds the policy closer to the reference",
    "squared.beta": "larger pulls the margin to a smaller value, 1 / (2 beta)",
    "sppo.beta": "larger pulls each log-ratio to a smaller value",
    **dict.fromkeys(
        ("hinge.beta", "hinge-free.beta"),
        "larger sharpens the comparison: a smaller margin of log-probs is enough",
    ),
    "logistic-free.beta": "larger sharpens the comparison: its push fades at a smaller margin of log-probs",
    "logistic-free-power.beta": "larger sharpens the comparison: its push fades at a smaller margin of rewards",
    "label_smoothing": "the share of labels taken to be wrong: above 0 the margin has a finite optimum",
    "flip_rate": "the known share of flipped labels",
    "delta": "the margin that is enough, in reward units",
    "gamma": "the margin that is asked for, in reward units",
    "odds_coef": "the weight of the comparison",
    "sft_coef": "the weight of supervised learning on the chosen completion",
    "preference_coef": "the weight of the comparison of the two completions",
    "quality_coef": "the weight of the judgements, good and bad",
    "optimism.coef": "the weight of exploration: larger drives the policy further off what the reference writes",
    "penalty_coef": "larger pushes chosen completions harder that fall below the reference",
    "gold.coef": "the weight of supervised learning on the gold completion",
    "coef": "the weight of supervised learning on the chosen completion",
    "mean": "whether a token, a completion or a sum is averaged",
    "desirable_weight": "the weight of good completions",
    "undesirable_weight": "the weight of bad completions",
    "divergence": "which divergence holds the policy to the reference",
    "logistic-divergence.alpha": "towards 0 the reverse KL's reward, which has no limit; 1 is the forward KL's",
    "logistic-free-power.alpha": "0 is SimPO; larger pushes unlikely completions more",
    "tau": "how sharply the loss changes its form at margin 0",
    "shared-length.alpha": "what a token beyond the shorter completion's length counts; 1 is the sum",
    "policy_only": "whether the reference is summed in full: then longer completions begin with a reward above 0",
    "paired": "whether margins or single rewards are sorted",
}


def check_sides(masks: dict[str, Any], of_tokens: dict[str, Any]) -> None:
    """Raise ``ValueError`` by the caller's names, unless each mask has a row a pair, and log-probs fit their side's."""
    for side, mask in masks.items():
        check_mask(mask, f"{side}_mask")
        N = len(masks["chosen"])
        require(len(mask) == N, f"{side}_mask", f"a torch.bool tensor with a row for each of {N} pairs", mask)
    for name, x in of_tokens.items():
        side = name.removeprefix("ref_").partition("_")[0]
        if x is not None and side in masks:
            as_float(name, x, masks[side].shape)


@dataclass(frozen=True, kw_only=True)
class PreferenceRecipe(Recipe):
    """A preference objective on N pairs of token log-probs."""

    COLUMNS: ClassVar = COLUMNS
    STAGES: ClassVar = {"loss": tuple(COLUMNS)}
    NUMBERS: ClassVar = NUMBERS

    log_prob: Choice
    objective: Choice
    sft: Choice = NONE

    def loss(
        self,
        chosen_log_probs: Float[Tensor, "N T"],
        rejected_log_probs: Float[Tensor, "N U"],
        chosen_mask: Bool[Tensor, "N T"],
        rejected_mask: Bool[Tensor, "N U"],
        *,
        ref_chosen_log_probs: Float[Tensor, "N T"] | None = None,
        ref_rejected_log_probs: Float[Tensor, "N U"] | None = None,
        reference_point: Float[Tensor, ""] | float | None = None,
        reward_shift: Float[Tensor, ""] | float | None = None,
        weights: Float[Tensor, " N"] | None = None,
        chosen_is_from_reference: Bool[Tensor, " N"] | None = None,
        gold_log_probs: Float[Tensor, "N W"] | None = None,
        gold_mask: Bool[Tensor, "N W"] | None = None,
        denominator: int | float | Tensor | None = None,
        sft_denominator: int | float | Tensor | None = None,
    ) -> Loss:
        """The loss of this row.

        Args:
            chosen_log_probs, rejected_log_probs: log pi(y_t | x, y_<t) of the completions' tokens, in nats. Gradient
                flows through both.
            chosen_mask, rejected_mask: True at the completion's tokens, its end token included.
            ref_chosen_log_probs, ref_rejected_log_probs: the same under the reference, which is frozen, or follows the
                policy between updates (TR-DPO). Treated as constants.
            reference_point: z of KTO, in nats: ``kto_reference_point`` of mismatched pairs, or 0.
            reward_shift: d of BCO, in reward units: a running mean of ``bco_reward_shift``, or 0.
            weights: one a pair, for "weighted-logistic": ``wpo_weights`` of the chosen times those of the rejected.
            chosen_is_from_reference: for "optimism": True where the reference wrote the chosen completion, False where
                it wrote the rejected one.
            gold_log_probs, gold_mask: for sft "gold": a third completion of each prompt, better than both of the pair.
                Gradient flows through its log-probs.
            denominator: pairs in the whole batch, for micro-batches.
            sft_denominator: tokens ("token") or completions of the whole batch, for a supervised term of its own.

        Returns: ``Loss``; metrics as ``dpo_loss``, ``nll_loss`` with a supervised term, ``logps/from_reference`` with
            "optimism".
        Raises ValueError: a shape or dtype is wrong; something that the row needs is missing; a tensor, a
            ``reference_point``, a ``reward_shift`` or an ``sft_denominator`` is given that the row would ignore
            (``takes()`` names those that it uses).
        """
        tokens = {
            "chosen_log_probs": (chosen_log_probs, chosen_mask, rejected_mask),
            "rejected_log_probs": (rejected_log_probs, rejected_mask, chosen_mask),
            "ref_chosen_log_probs": (ref_chosen_log_probs, chosen_mask, rejected_mask),
            "ref_rejected_log_probs": (ref_rejected_log_probs, rejected_mask, chosen_mask),
        }
        constants = {"reference_point": reference_point, "reward_shift": reward_shift, "weights": weights}
        constants["denominator"] = denominator
        beside = {"sft_denominator": sft_denominator, "chosen_is_from_reference": chosen_is_from_reference}
        beside |= {"gold_log_probs": gold_log_probs, "gold_mask": gold_mask}
        self.check("loss", {name: x for name, (x, _, _) in tokens.items()} | constants | beside)
        masks = {"chosen": chosen_mask, "rejected": rejected_mask}
        masks |= {"gold": gold_mask} if gold_mask is not None else {}
        check_sides(masks, {name: x for name, (x, _, _) in tokens.items()} | {"gold_log_probs": gold_log_probs})
        dpo.check_count("sft_denominator", sft_denominator)
        whole = {
            name: self.run(
                "log_prob", {"log_probs": x, "mask": m, "other_mask": other, "of_reference": name.startswith("ref_")}
            )
            for name, (x, m, other) in tokens.items()
            if x is not None
        }
        loss: Loss = self.run("objective", whole | constants)
        sides: dict[str, Any] = {"chosen_log_probs": chosen_log_probs, "rejected_log_probs": rejected_log_probs}
        sides |= {"chosen_mask": chosen_mask, "rejected_mask": rejected_mask, "denominator": denominator}
        extra: Loss | None = self.run("sft", sides | beside)
        return loss if extra is None else Loss(loss.value + extra.value, loss.metrics | extra.metrics)
