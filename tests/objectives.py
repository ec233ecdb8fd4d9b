"""One row for each objective: how it is called, and what is true of it. Every suite reads the rows from here.

A row of OBJECTIVES is held by test_common.py (masks, splits, gradients, precision, bad input), test_compile.py and
test_survivors.py; one whose ``surrogate`` is True by test_reductions.py too. A row of ADVANTAGES is held by
test_reinforce_variants.py and test_compile.py.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchstone import core
from torchstone.distill import distill_loss, jsd_loss
from torchstone.dpo import bradley_terry_loss, dpo_loss
from torchstone.dpo import variants as preference
from torchstone.grpo import group_advantages, grpo_loss
from torchstone.grpo import variants as grpo
from torchstone.ppo import clipped_surrogate, clipped_value_error, ppo_loss
from torchstone.ppo.variants import importance_surrogate, likelihood_surrogate
from torchstone.reinforce import leave_one_out_advantages, reinforce_loss
from torchstone.reinforce import variants as reinforce

Batch = dict[str, Tensor]

# What a model computes with its gradient; every other tensor is a constant.
LEARNT = {"log_probs", "values", "entropies", "logits", "vocabulary_logits"}
LEARNT |= {f"{side}_{what}" for side in ("chosen", "rejected") for what in ("log_probs", "rewards")}


@dataclass(frozen=True)
class Objective:
    """A loss, a surrogate or a KL: ``function(**tensors, **numbers)``, per token if it takes a mask, else per pair."""

    name: str
    function: Callable
    tensors: tuple[str, ...]  # what it reads, by the names in the batches below
    numbers: Mapping[str, Any] = field(default_factory=dict)  # its other arguments
    outside: Mapping[str, tuple] = field(
        default_factory=dict
    )  # values of them that must be refused, beside nan and inf
    stops: bool = False  # a factor is held constant by design: the gradient is not the slope of the value
    surrogate: bool = False  # on policy, its gradient is that of REINFORCE

    def __post_init__(self) -> None:
        known, put = inspect.signature(self.function).parameters, partial(object.__setattr__, self)
        put("per_token", "mask" in known)
        put("reduces", "reduce" in known or not self.per_token)  # else it gives one number a token
        put("gradients", tuple(name for name in self.tensors if name in LEARNT))
        weights = "advantages" if "advantages" in known else "returns"
        other_names = dict.fromkeys((n for n in self.tensors if n.endswith("advantages")), weights)
        other_names["vocabulary_logits"] = "logits"
        put("argument", {name: other_names.get(name, name) for name in self.tensors})

    def __str__(self) -> str:
        return self.name

    def __call__(self, batch: Batch, **how: Any) -> core.Loss:
        """The loss; ``how``: ``reduce`` of an objective per token, ``denominator`` of one per pair."""
        inputs = {self.argument[name]: batch[name] for name in self.tensors}
        if self.per_token:
            inputs["mask"] = batch["mask"]
        if self.reduces:
            return self.function(**inputs, **self.numbers, **how)
        return core.Loss(how["reduce"](self.function(**inputs, **self.numbers), batch["mask"]), {})

    def batch(self, seed: int = 0, dtype: torch.dtype = torch.float64, rows: int = 6) -> Batch:
        return token_batch(seed, dtype, rows) if self.per_token else pair_batch(seed, dtype, rows)

    def refused(self) -> Iterator[tuple[str, Any]]:
        """Every value of every number that must be an error."""
        for name, value in self.numbers.items():
            if isinstance(value, float) and name != "baseline":  # which may be a tensor, and is not looked at
                yield from ((name, x) for x in (math.nan, math.inf, -math.inf, "1"))
            yield from ((name, x) for x in self.outside.get(name, ()))


@dataclass(frozen=True)
class Advantages:
    """``function(rewards [P G], scored=None, **numbers)``: the advantages [P G] of the samples, constants."""

    name: str
    function: Callable
    numbers: Mapping[str, Any] = field(default_factory=dict)
    siblings: bool = True  # it compares the samples of a prompt: it refuses one alone, and their order does not matter
    unit: int = 1  # rewards in another unit, c times as large, make it c ** unit times as large

    def __str__(self) -> str:
        return self.name

    def __call__(self, rewards: Tensor, **how: Any) -> Tensor:
        return self.function(rewards, **self.numbers, **how)


def token_batch(seed: int = 0, dtype: torch.dtype = torch.float64, rows: int = 6, columns: int = 5) -> Batch:
    """Ragged rows with gaps; ratios on both sides of the clip, for both signs of the advantage.

    ``logits`` are a reward model's, one a token; ``vocabulary_logits`` and ``teacher_logits`` have V of them.
    """
    g = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    mask = torch.rand(rows, columns, generator=g) > 0.35
    mask[0], mask[1, :1] = True, True
    return {
        "log_probs": -normal(rows, columns).abs(),
        "old_log_probs": -normal(rows, columns).abs(),
        "ref_log_probs": -normal(rows, columns).abs(),
        "advantages": normal(rows),
        "token_advantages": normal(rows, columns),
        "baseline": normal(rows, columns),
        "values": normal(rows, columns),
        "old_values": normal(rows, columns),
        "returns": normal(rows, columns),
        "entropies": normal(rows, columns).abs(),
        "logits": normal(rows, columns),
        "labels": normal(rows),
        "step_labels": normal(rows, columns),
        "right": normal(rows),  # above 0: a right answer
        "mask": mask,
        "teacher_log_probs": -normal(rows, columns).abs(),
        "vocabulary_logits": normal(rows, columns, 7),
        "teacher_logits": normal(rows, columns, 7),
    }


def pair_batch(seed: int = 0, dtype: torch.dtype = torch.float64, rows: int = 6) -> Batch:
    g = torch.Generator().manual_seed(seed)
    names = "chosen_log_probs rejected_log_probs ref_chosen_log_probs ref_rejected_log_probs"
    names += (
        " chosen_rewards rejected_rewards margin log_probs ref_log_probs weights chosen_win_rates rejected_win_rates"
    )
    return {n: (3 * torch.randn(rows, generator=g, dtype=torch.float64)).to(dtype) for n in names.split()}


# ------------------------------------------------------- functions that need more than tensors of the batch and numbers


def _gspo(log_probs, old_log_probs, advantages, mask, *, token_gradient, epsilon):
    s = grpo.sequence_log_ratios(log_probs, old_log_probs, mask, token_gradient=token_gradient)
    return clipped_surrogate(s, torch.zeros_like(s), advantages, mask, epsilon=epsilon)


def _likelihood(log_probs, right, mask):
    scores = isinstance(right, Tensor) and right.ndim == 1 and right.is_floating_point()
    return likelihood_surrogate(log_probs, right > 0 if scores else None, mask)


def _kto(log_probs, ref_log_probs, *, denominator=None, **numbers):
    desirable = torch.as_tensor(ref_log_probs) > 0
    return preference.kto_loss(log_probs, ref_log_probs, desirable, denominator=denominator, **numbers)


def _bco_unpaired(log_probs, ref_log_probs, *, denominator=None, **numbers):
    """Both means over as many as all: with one count for both the parts of a batch add up to it."""
    desirable = torch.as_tensor(ref_log_probs) > 0
    count = len(desirable) if denominator is None else denominator
    counts = {"desirable_denominator": count, "undesirable_denominator": count}
    return preference.bco_unpaired_loss(log_probs, ref_log_probs, desirable, **counts, **numbers)


def _optimism(chosen_log_probs, rejected_log_probs, *, denominator=None):
    from_reference = torch.as_tensor(rejected_log_probs) > 0
    return preference.optimism_loss(chosen_log_probs, rejected_log_probs, from_reference, denominator=denominator)


def _orpo(chosen_log_probs, rejected_log_probs, *, denominator=None, **numbers):
    pair = (-x.abs() if isinstance(x, Tensor) else x for x in (chosen_log_probs, rejected_log_probs))
    return preference.orpo_loss(*pair, denominator=denominator, **numbers)


def _greedy(rewards):
    return reinforce.greedy_advantages(rewards, rewards[:, 0])


def _length_weighted(rewards, scored=None):
    return reinforce.length_weighted_advantages(rewards, rewards.abs(), scored=scored)


def _pass_at_2(rewards, scored=None):
    if isinstance(rewards, Tensor) and rewards.is_floating_point() and rewards.ndim == 2:
        rewards = rewards - rewards.nanmedian(1, keepdim=True).values  # about half of them are right
    return reinforce.pass_at_k_advantages(rewards, k=2, eps=0.0, scored=scored)


def _step_group(rewards):
    as_ids = torch.arange(rewards.shape[0])[:, None].expand(rewards.shape).flatten()
    found = reinforce.step_group_advantages(rewards.flatten(), as_ids, divide_by_std=False, correction=0, eps=0.0)
    return found.view(rewards.shape)


def _gdpo(rewards, scored=None):
    return reinforce.gdpo_advantages(
        torch.stack((rewards, -2 * rewards), -1), torch.tensor([2.0, 0.5], dtype=torch.float64).to(rewards),
        correction=1, eps=0.0, scored=scored,
    )  # fmt: skip


def _optimal_token(rewards):
    return reinforce.optimal_token_advantages(rewards, rewards.abs(), torch.ones_like(rewards).bool(), group_size=2)


# ------------------------------------------------------------------------------------------------------------ the rows

POLICY, REFERENCE = ("log_probs",), ("log_probs", "ref_log_probs")
RATIO = ("log_probs", "old_log_probs")
CRITIC = ("values", "old_values", "returns")
TWO = ("chosen_log_probs", "rejected_log_probs")
FOUR = (*TWO, "ref_chosen_log_probs", "ref_rejected_log_probs")
SCORED = ("chosen_rewards", "rejected_rewards")
CLIP, CLIP_OUTSIDE = {"epsilon": 0.2}, {"epsilon": (-0.1,)}
HIGH, HIGH_OUTSIDE = {"epsilon": 0.2, "epsilon_high": 0.3}, {"epsilon": (-0.1,), "epsilon_high": (-0.1,)}
BETA, BETA_OUTSIDE = {"beta": 0.1}, {"beta": (0.0, -0.1)}
GAMMA_OUTSIDE, JSD_OUTSIDE = {"gamma": (-0.1, 1.1)}, {"beta": (-0.1, 1.1), "temperature": (0.0, -1.0)}
TAUGHT, VOCABULARY = ("log_probs", "teacher_log_probs"), ("vocabulary_logits", "teacher_logits")
VESPO = {"k_positive": 2.0, "lambda_positive": 3.0, "k_negative": 3.0, "lambda_negative": 2.0}

TOPR = {"low_positive": 0.5, "high_positive": 1.25, "low_negative": 0.0, "high_negative": 1.0}

OBJECTIVES = [
    *(Objective(f.__name__, f, REFERENCE) for f in (core.kl_k1, core.kl_k2, core.kl_k3)),
    Objective("reinforce", reinforce_loss, ("log_probs", "advantages"), surrogate=True),
    Objective(
        "reinforce, reward-to-go, a critic's baseline", reinforce_loss, ("log_probs", "token_advantages", "baseline")
    ),
    Objective(
        "reinforce with entropy",
        reinforce_loss,
        ("log_probs", "advantages", "entropies"),
        {"entropy_coef": 0.1, "baseline": 0.3},
    ),
    Objective("ppo", ppo_loss, (*RATIO, "advantages"), CLIP, CLIP_OUTSIDE, surrogate=True),
    Objective("ppo, an advantage per token", ppo_loss, (*RATIO, "token_advantages"), CLIP),
    Objective(
        "ppo, clip-higher and dual clip",
        ppo_loss,
        (*RATIO, "advantages"),
        {"epsilon": 0.2, "epsilon_high": 0.28, "dual_clip": 3.0},
        {"epsilon_high": (-0.1,), "dual_clip": (1.0,)},
        surrogate=True,
    ),
    Objective(
        "ppo, all three terms",
        ppo_loss,
        (*RATIO, "token_advantages", *CRITIC, "entropies"),
        {"epsilon": 0.2, "value_epsilon": 0.2, "value_coef": 0.5, "entropy_coef": 0.01},
        {"value_epsilon": (-0.2,)},
    ),
    Objective("value error, plain", clipped_value_error, CRITIC, {"epsilon": None}),
    Objective("value error, clipped", clipped_value_error, CRITIC, CLIP, CLIP_OUTSIDE),
    Objective(
        "grpo without reference",
        grpo_loss,
        (*RATIO, "advantages"),
        {"epsilon": 0.2, "beta": 0.0},
        {"beta": (-0.1,)},
        surrogate=True,
    ),
    *(
        Objective(
            f"grpo with {kl.__name__}",
            grpo_loss,
            (*RATIO, "advantages", "ref_log_probs"),
            {"epsilon": 0.2, "beta": 0.04, "kl": kl},
            {"beta": (-0.1,)},
        )
        for kl in (core.kl_k1, core.kl_k2, core.kl_k3)
    ),
    *(
        Objective(f"{name}, {advantages}", function, (*RATIO, advantages), numbers, outside, **facts)
        for advantages in ("advantages", "token_advantages")
        for name, function, numbers, outside, facts in (
            ("importance sampling", importance_surrogate, {}, {}, {"surrogate": True}),
            ("gspo", _gspo, {"token_gradient": False, **CLIP}, CLIP_OUTSIDE, {}),
            ("gspo-token", _gspo, {"token_gradient": True, **CLIP}, CLIP_OUTSIDE, {"stops": True}),
            ("cispo", grpo.cispo_surrogate, HIGH, HIGH_OUTSIDE, {"stops": True, "surrogate": True}),
            (
                "cispo with a cap",
                grpo.cispo_surrogate,
                {"epsilon": None, "cap": 1.5},
                {"cap": (-1.0,)},
                {"stops": True, "surrogate": True},
            ),
            (
                "sapo",
                grpo.sapo_surrogate,
                {"tau_positive": 1.0, "tau_negative": 1.05},
                {"tau_positive": (0.0,), "tau_negative": (0.0,)},
                {"surrogate": True},
            ),
            ("gmpo", grpo.gmpo_surrogate, {"epsilon": 0.4, "epsilon_high": 0.3}, HIGH_OUTSIDE, {}),
            (
                "vespo",
                grpo.vespo_surrogate,
                VESPO,
                dict.fromkeys(VESPO, (-1.0,)),
                {"stops": True, "surrogate": True},
            ),
            (
                "topr",
                grpo.topr_surrogate,
                TOPR,
                {
                    "low_positive": (-1.0,),
                    "high_positive": (0.25,),
                    "low_negative": (-0.5,),
                    "high_negative": (-1.0,),
                },
                {"stops": True, "surrogate": True},
            ),
            ("quadratic", grpo.quadratic_surrogate, {"tau": 0.5}, {"tau": (-0.1,)}, {"surrogate": True}),
            *(
                (
                    name,
                    grpo.dppo_surrogate,
                    {"divergence": divergence, "epsilon": 0.2, "cap": 3.0},
                    {"divergence": ("js",), "epsilon": (-1.0,), "cap": (0.0,)},
                    {"stops": True, "surrogate": True},
                )
                for name, divergence in (("dppo-kl", "kl"), ("dppo", "tv"))
            ),
        )
    ),
    Objective("likelihood of right answers", _likelihood, ("log_probs", "right")),
    Objective("k3 with the gradient of k2", grpo.kl_k3_with_k2_gradient, REFERENCE, stops=True),
    Objective("ratio-weighted kl", grpo.ratio_weighted_kl, (*RATIO, "ref_log_probs")),
    *(
        Objective(f"distillation at gamma {gamma}", distill_loss, TAUGHT, {"gamma": gamma}, GAMMA_OUTSIDE, stops=True)
        for gamma in (0.0, 0.9, 1.0)
    ),
    Objective(
        "distillation off policy",
        distill_loss,
        (*TAUGHT, "old_log_probs"),
        {"gamma": 0.9},
        GAMMA_OUTSIDE,
        stops=True,
    ),
    *(
        Objective(f"jsd at beta {beta}", jsd_loss, VOCABULARY, {"beta": beta, "temperature": 0.7}, JSD_OUTSIDE)
        for beta in (0.0, 0.3, 1.0)
    ),
    Objective("dpo", dpo_loss, FOUR, BETA, BETA_OUTSIDE),
    Objective(
        "cdpo",
        dpo_loss,
        FOUR,
        {"beta": 0.1, "label_smoothing": 0.1},
        {"label_smoothing": (-0.1, 1.5)},
    ),
    Objective("bradley-terry", bradley_terry_loss, SCORED),
    Objective("bradley-terry with margin", bradley_terry_loss, (*SCORED, "margin")),
    Objective("bradley-terry, centred", bradley_terry_loss, SCORED, {"centre": 0.01}, {"centre": (-0.01,)}),
    *(
        Objective(name, function, FOUR, BETA | numbers, BETA_OUTSIDE | outside)
        for name, function, numbers, outside in (
            ("ipo", preference.ipo_loss, {}, {}),
            ("robust dpo", preference.robust_dpo_loss, {"flip_rate": 0.1}, {"flip_rate": (-0.1, 0.5)}),
            ("hinge", preference.hinge_loss, {"delta": 1.0}, {"delta": (-1.0,)}),
            ("apo zero", preference.apo_zero_loss, {}, {}),
            ("apo down", preference.apo_down_loss, {}, {}),
            ("exo", preference.exo_loss, {"label_smoothing": 0.1}, {"label_smoothing": (0.0, 0.6)}),
            ("nca", preference.nca_loss, {}, {}),
            ("bco", preference.bco_loss, {"reward_shift": 0.3}, {}),
            ("f-dpo, js", preference.f_dpo_loss, {"divergence": "js"}, {"divergence": ("kl",)}),
            ("f-dpo, forward kl", preference.f_dpo_loss, {"divergence": "forward-kl"}, {}),
            ("f-dpo, alpha", preference.f_dpo_loss, {"divergence": "alpha", "alpha": 0.3}, {"alpha": (0.0, 1.1, None)}),
            (
                "mpo",
                preference.mpo_loss,
                {"preference_coef": 0.8, "quality_coef": 0.2, "reward_shift": 0.3},
                {"preference_coef": (-0.1,), "quality_coef": (-0.1,)},
            ),
            ("dpop", preference.dpop_loss, {"penalty_coef": 5.0}, {"penalty_coef": (-1.0,)}),
            ("sppo", preference.sppo_loss, {}, {}),
            ("discopop", preference.discopop_loss, {"tau": 0.5}, {"tau": (0.0,)}),
        )
    ),
    Objective("sppo with win rates", preference.sppo_loss, (*FOUR, "chosen_win_rates", "rejected_win_rates"), BETA),
    Objective("wpo", preference.wpo_loss, (*FOUR, "weights"), BETA, BETA_OUTSIDE),
    Objective("slic", preference.hinge_loss, TWO, {"beta": 1.0, "delta": 1.0}, BETA_OUTSIDE),
    Objective(
        "simpo", preference.simpo_loss, TWO, {"beta": 2.0, "gamma": 0.5}, {"beta": (0.0, -2.0), "gamma": (-0.5,)}
    ),
    Objective(
        "alphapo",
        preference.alphapo_loss,
        TWO,
        {"beta": 2.0, "gamma": 0.5, "alpha": 0.25},
        {"beta": (0.0, -2.0), "gamma": (-0.5,)},
    ),
    Objective("orpo", _orpo, TWO, {"odds_coef": 0.1, "sft_coef": 1.0}, {"odds_coef": (0.0,), "sft_coef": (-1.0,)}),
    Objective(
        "kto",
        _kto,
        REFERENCE,
        {"beta": 0.1, "reference_point": 0.7, "desirable_weight": 1.0, "undesirable_weight": 1.3},
        {"beta": (0.0,), "reference_point": (-0.1,), "desirable_weight": (-1.0,), "undesirable_weight": (-1.0,)},
    ),
    Objective("bco unpaired", _bco_unpaired, REFERENCE, {"beta": 0.1, "reward_shift": 0.3}, BETA_OUTSIDE),
    Objective("optimism", _optimism, TWO),
    Objective("sft", preference.sft_loss, POLICY),
    Objective("outcome reward model", preference.outcome_reward_loss, ("logits", "labels")),
    Objective("process reward model", preference.process_reward_loss, ("logits", "step_labels")),
]
ADVANTAGES = [
    Advantages("leave_one_out", leave_one_out_advantages),
    Advantages("group", group_advantages, {"divide_by_std": False, "correction": 0, "eps": 0.0}),
    Advantages("group, divided", group_advantages, {"divide_by_std": True, "correction": 1, "eps": 0.0}, unit=0),
    Advantages("greedy", _greedy, siblings=False),
    Advantages("length_weighted", _length_weighted),
    Advantages("gpg", reinforce.gpg_advantages),
    Advantages("max_likelihood", reinforce.max_likelihood_advantages, unit=0),
    Advantages("optimal_token", _optimal_token, siblings=False),
    Advantages("gdpo", _gdpo, unit=0),
    Advantages("pass_at_k", _pass_at_2, unit=0),
    *(
        Advantages(f"best_margin{what}", reinforce.best_margin_advantages, numbers, unit=unit)
        for what, unit, numbers in (
            ("", 1, {"divide_by_std": False, "correction": 0, "eps": 0.0}),
            (", divided", 0, {"divide_by_std": True, "correction": 1, "eps": 0.0}),
        )
    ),
    Advantages("step_group", _step_group, siblings=False),
    *(
        Advantages(f"batch_scaled, {what}", reinforce.batch_scaled_advantages, numbers, unit=0)
        for what, numbers in (
            ("of rewards", {"within_groups": False, "correction": 1, "eps": 0.0}),
            ("within groups", {"within_groups": True, "correction": 0, "eps": 0.0}),
        )
    ),
]
REDUCTIONS = {
    "token_mean": core.token_mean,
    "sequence_mean": core.sequence_mean,
    "sequence_sum": core.sequence_sum,
    "fixed_length_mean": partial(core.fixed_length_mean, length=7),
}
