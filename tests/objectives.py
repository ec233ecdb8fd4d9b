"""One row per objective. Whoever adds an objective adds a row here, and the whole of test_common.py holds it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from torchstone import core
from torchstone.dpo import bradley_terry_loss, dpo_loss
from torchstone.dpo import variants as preference
from torchstone.grpo import grpo_loss
from torchstone.grpo import variants as grpo
from torchstone.ppo import clipped_surrogate, clipped_value_error, ppo_loss
from torchstone.ppo.variants import importance_surrogate
from torchstone.reinforce import reinforce_loss

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """``loss(batch, reduce)`` for token objectives, ``loss(batch, denominator)`` for pair objectives."""

    name: str
    loss: Callable
    tensors: tuple[str, ...]  # what it reads
    gradients: tuple[str, ...]  # what its gradient flows through; everything else is a constant
    per_token: bool = True
    stops: bool = False  # a factor is held constant by design: the gradient is not the slope of the value

    def __str__(self) -> str:
        return self.name

    def batch(self, seed: int = 0, dtype: torch.dtype = torch.float64, rows: int = 6) -> Batch:
        return token_batch(seed, dtype, rows) if self.per_token else pair_batch(seed, dtype, rows)

    def __call__(self, batch: Batch, **how) -> core.Loss:
        inputs = {name: batch[name] for name in self.tensors}
        return self.loss(inputs | ({"mask": batch["mask"]} if self.per_token else {}), **how)


def token_batch(seed: int = 0, dtype: torch.dtype = torch.float64, rows: int = 6, columns: int = 5) -> Batch:
    """Ragged rows with gaps; ratios on both sides of the clip, for both signs of the advantage."""
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
        "mask": mask,
    }


def pair_batch(seed: int = 0, dtype: torch.dtype = torch.float64, rows: int = 6) -> Batch:
    g = torch.Generator().manual_seed(seed)
    names = "chosen_log_probs rejected_log_probs ref_chosen_log_probs ref_rejected_log_probs"
    names += (
        " chosen_rewards rejected_rewards margin log_probs ref_log_probs weights chosen_win_rates rejected_win_rates"
    )
    return {n: (3 * torch.randn(rows, generator=g, dtype=torch.float64)).to(dtype) for n in names.split()}


def _reinforce(batch, reduce, **options):
    renamed = {"token_advantages": "returns", "advantages": "returns"}
    return reinforce_loss(**{renamed.get(k, k): v for k, v in batch.items()}, reduce=reduce, **options)


def _policy(loss, batch, reduce, **options):
    renamed = {"token_advantages": "advantages"}
    return loss(**{renamed.get(k, k): v for k, v in batch.items()}, reduce=reduce, **options)


def _estimator(function, batch, reduce, **options):
    return core.Loss(reduce(function(**batch, **options), batch["mask"]), {})


def _surrogate(function, batch, reduce, **options):
    renamed = {"token_advantages": "advantages"}
    return _estimator(function, {renamed.get(k, k): v for k, v in batch.items()}, reduce, **options)


def _gspo(log_probs, old_log_probs, advantages, mask, *, token_gradient):
    s = grpo.sequence_log_ratios(log_probs, old_log_probs, mask, token_gradient=token_gradient)
    return clipped_surrogate(s, torch.zeros_like(s), advantages, mask, epsilon=0.2)


def _pairs(loss, batch, denominator=None, **options):
    return loss(**batch, **options, denominator=denominator)


def _kto(batch, denominator=None, **options):
    desirable = torch.as_tensor(batch["ref_log_probs"]) > 0
    return preference.kto_loss(**batch, desirable=desirable, **options, denominator=denominator)


def _below_zero(loss, batch, denominator=None, **options):
    batch = {k: -x.abs() if isinstance(x, Tensor) else x for k, x in batch.items()}
    return loss(**batch, **options, denominator=denominator)


_RATIO = ("log_probs", "old_log_probs")
_CRITIC = ("values", "old_values", "returns")
_PAIR = ("chosen_log_probs", "rejected_log_probs", "ref_chosen_log_probs", "ref_rejected_log_probs")


def _row(name, loss, tensors, gradients=("log_probs",), per_token=True, stops=False, **options) -> Objective:
    return Objective(name, partial(loss, **options), tensors, gradients, per_token, stops)


STOPS = ("gspo-token", "cispo", "cispo with a cap", "vespo", "dppo", "dppo-kl")  # closed forms in test_grpo_variants.py
OBJECTIVES = [
    _row("kl_k1", partial(_estimator, core.kl_k1), ("log_probs", "ref_log_probs")),
    _row("kl_k2", partial(_estimator, core.kl_k2), ("log_probs", "ref_log_probs")),
    _row("kl_k3", partial(_estimator, core.kl_k3), ("log_probs", "ref_log_probs")),
    _row("reinforce", _reinforce, ("log_probs", "advantages")),
    _row("reinforce, reward-to-go, a critic's baseline", _reinforce, ("log_probs", "token_advantages", "baseline")),
    _row(
        "reinforce with entropy",
        _reinforce,
        ("log_probs", "advantages", "entropies"),
        ("log_probs", "entropies"),
        entropy_coef=0.1,
        baseline=0.3,
    ),
    _row("ppo", partial(_policy, ppo_loss), (*_RATIO, "advantages"), epsilon=0.2),
    _row("ppo, an advantage per token", partial(_policy, ppo_loss), (*_RATIO, "token_advantages"), epsilon=0.2),
    _row(
        "ppo, clip-higher and dual clip",
        partial(_policy, ppo_loss),
        (*_RATIO, "advantages"),
        epsilon=0.2,
        epsilon_high=0.28,
        dual_clip=3.0,
    ),
    _row(
        "ppo, all three terms",
        partial(_policy, ppo_loss),
        (*_RATIO, "token_advantages", *_CRITIC, "entropies"),
        ("log_probs", "values", "entropies"),
        epsilon=0.2,
        value_epsilon=0.2,
        value_coef=0.5,
        entropy_coef=0.01,
    ),
    _row("value error, plain", partial(_estimator, clipped_value_error), _CRITIC, ("values",), epsilon=None),
    _row("value error, clipped", partial(_estimator, clipped_value_error), _CRITIC, ("values",), epsilon=0.2),
    _row("grpo without reference", partial(_policy, grpo_loss), (*_RATIO, "advantages"), epsilon=0.2, beta=0.0),
    *[
        _row(
            f"grpo with {kl.__name__}",
            partial(_policy, grpo_loss),
            (*_RATIO, "advantages", "ref_log_probs"),
            epsilon=0.2,
            beta=0.04,
            kl=kl,
        )
        for kl in (core.kl_k1, core.kl_k2, core.kl_k3)
    ],
    *[
        _row(
            f"{name}, {advantages}",
            partial(_surrogate, function),
            (*_RATIO, advantages),
            stops=name in STOPS,
            **options,
        )
        for name, function, options in (
            ("importance sampling", importance_surrogate, {}),
            ("gspo", _gspo, {"token_gradient": False}),
            ("gspo-token", _gspo, {"token_gradient": True}),
            ("cispo", grpo.cispo_surrogate, {"epsilon": 0.2, "epsilon_high": 0.3}),
            ("cispo with a cap", grpo.cispo_surrogate, {"epsilon": None, "cap": 1.5}),
            ("sapo", grpo.sapo_surrogate, {"tau_positive": 1.0, "tau_negative": 1.05}),
            ("gmpo", grpo.gmpo_surrogate, {"epsilon": 0.4, "epsilon_high": 0.3}),
            (
                "vespo",
                grpo.vespo_surrogate,
                {f"{k}_{s}": 2.0 for k in ("k", "lambda") for s in ("positive", "negative")},
            ),
            ("dppo-kl", grpo.dppo_surrogate, {"divergence": "kl", "epsilon": 0.2, "cap": 3.0}),
            ("dppo", grpo.dppo_surrogate, {"divergence": "tv", "epsilon": 0.2, "cap": 3.0}),
        )
        for advantages in ("advantages", "token_advantages")
    ],
    _row(
        "k3 with the gradient of k2",
        partial(_estimator, grpo.kl_k3_with_k2_gradient),
        ("log_probs", "ref_log_probs"),
        stops=True,
    ),
    _row("ratio-weighted kl", partial(_estimator, grpo.ratio_weighted_kl), (*_RATIO, "ref_log_probs")),
    _row("dpo", partial(_pairs, dpo_loss), _PAIR, _PAIR[:2], per_token=False, beta=0.1),
    _row("cdpo", partial(_pairs, dpo_loss), _PAIR, _PAIR[:2], per_token=False, beta=0.1, label_smoothing=0.1),
    _row(
        "bradley-terry",
        partial(_pairs, bradley_terry_loss),
        ("chosen_rewards", "rejected_rewards"),
        ("chosen_rewards", "rejected_rewards"),
        per_token=False,
    ),
    _row(
        "bradley-terry with margin",
        partial(_pairs, bradley_terry_loss),
        ("chosen_rewards", "rejected_rewards", "margin"),
        ("chosen_rewards", "rejected_rewards"),
        per_token=False,
    ),
    _row(
        "bradley-terry, centred",
        partial(_pairs, bradley_terry_loss),
        ("chosen_rewards", "rejected_rewards"),
        ("chosen_rewards", "rejected_rewards"),
        per_token=False,
        centre=0.01,
    ),
    *[
        _row(name, partial(_pairs, loss), _PAIR, _PAIR[:2], per_token=False, beta=0.1, **options)
        for name, loss, options in (
            ("ipo", preference.ipo_loss, {}),
            ("robust dpo", preference.robust_dpo_loss, {"flip_rate": 0.1}),
            ("hinge", preference.hinge_loss, {"delta": 1.0}),
            ("apo zero", preference.apo_zero_loss, {}),
            ("apo down", preference.apo_down_loss, {}),
            ("exo", preference.exo_loss, {"label_smoothing": 0.1}),
            ("nca", preference.nca_loss, {}),
            ("bco", preference.bco_loss, {"reward_shift": 0.3}),
            ("sppo", preference.sppo_loss, {}),
            ("discopop", preference.discopop_loss, {"tau": 0.5}),
        )
    ],
    _row(
        "sppo with win rates",
        partial(_pairs, preference.sppo_loss),
        (*_PAIR, "chosen_win_rates", "rejected_win_rates"),
        _PAIR[:2],
        per_token=False,
        beta=0.1,
    ),
    _row("wpo", partial(_pairs, preference.wpo_loss), (*_PAIR, "weights"), _PAIR[:2], per_token=False, beta=0.1),
    *[
        _row(name, partial(_pairs, loss), _PAIR[:2], _PAIR[:2], per_token=False, **options)
        for name, loss, options in (
            ("slic", preference.hinge_loss, {"beta": 1.0, "delta": 1.0}),
            ("simpo", preference.simpo_loss, {"beta": 2.0, "gamma": 0.5}),
        )
    ],
    _row(
        "orpo",
        partial(_below_zero, preference.orpo_loss),
        _PAIR[:2],
        _PAIR[:2],
        per_token=False,
        odds_coef=0.1,
        sft_coef=1.0,
    ),
    _row(
        "kto",
        _kto,
        ("log_probs", "ref_log_probs"),
        ("log_probs",),
        per_token=False,
        beta=0.1,
        reference_point=0.7,
        desirable_weight=1.0,
        undesirable_weight=1.3,
    ),
    _row("sft", partial(_policy, preference.sft_loss), ("log_probs",)),
    _row("outcome reward model", partial(_policy, preference.outcome_reward_loss), ("logits", "labels"), ("logits",)),
    _row(
        "process reward model", partial(_policy, preference.process_reward_loss), ("logits", "step_labels"), ("logits",)
    ),
]
REDUCTIONS = {
    "token_mean": core.token_mean,
    "sequence_mean": core.sequence_mean,
    "sequence_sum": core.sequence_sum,
    "fixed_length_mean": partial(core.fixed_length_mean, length=7),
}
