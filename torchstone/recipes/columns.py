"""Every choice that a policy-gradient algorithm makes, its options, and what each does to the update.

The columns stand in the order in which data flows. An option is a function of the maths, or a few lines around one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchstone.core import (
    fixed_length_mean,
    kl_k1,
    kl_k2,
    kl_k3,
    masked_whiten,
    sequence_mean,
    sequence_sum,
    token_mean,
)
from torchstone.core.inputs import as_float, number, per_token, require, select
from torchstone.core.logprobs import log_ratios
from torchstone.core.result import Mean, mean_of
from torchstone.grpo import group_advantages, selection
from torchstone.grpo import variants as grpo
from torchstone.ppo import clipped_value_error, gae
from torchstone.ppo import variants as ppo
from torchstone.ppo.loss import clip_metrics, clipped_surrogate
from torchstone.recipes.choices import Option, nothing
from torchstone.reinforce import discounted_returns, leave_one_out_advantages, reinforce_surrogate
from torchstone.reinforce import variants as reinforce

ESTIMATORS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


# ------------------------------------------------------------- stage 4: what is added to, or taken from, the rewards


def reward_kl(per_sequence: bool, old_log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, *, estimator: str,
              beta: float) -> Tensor:  # fmt: skip
    """What leaving the reference costs, in reward units: a token ``[B T]`` (PPO.1), or a completion ``[B]``."""
    require(estimator in ESTIMATORS, "estimator", f"one of {', '.join(ESTIMATORS)}", estimator)
    costs = beta * ESTIMATORS[estimator](old_log_probs, ref_log_probs, mask).detach()
    return costs.sum(1) if per_sequence else costs


PENALTIES = {
    "none": Option(nothing, "A completion's length has no price of its own."),
    "overlong": Option(
        grpo.overlong_penalties,
        "The last cache tokens before the limit cost up to 1 reward, so that completions learn to end in time.",
    ),
}
REWARD_KLS = {
    "none": Option(nothing, "The reward says nothing about the reference."),
    "per-token": Option(
        partial(reward_kl, False),
        "Each token pays for its own step away from the reference and for those that follow it.",
    ),
    "per-sequence": Option(
        partial(reward_kl, True),
        "The completion pays once for its whole distance from the reference, before the baseline is taken.",
    ),
}

# ----------------------------------------------------------------------- stage 5: from rewards to advantages


def batch_mean(rewards: Tensor, scored: Tensor | None = None) -> Tensor:
    """r - mean of the batch's scored rewards: its groups taken as one."""
    one = None if scored is None else scored.reshape(1, -1)
    centred = group_advantages(rewards.reshape(1, -1), divide_by_std=False, correction=0, eps=0.0, scored=one)
    return centred.view_as(rewards)


def over_nonzero_share(rewards: Tensor, scored: Tensor | None = None) -> Tensor:
    """The group-mean advantage times completions / completions whose reward is not 0."""
    centred = group_advantages(rewards, divide_by_std=False, correction=0, eps=0.0, scored=scored)
    return centred * rewards.numel() / rewards.count_nonzero().clamp(min=1)


def over_prompt_value(rewards: Tensor, prompt_values: Tensor, scored: Tensor | None = None) -> Tensor:
    """r - the prompt's value, which the caller knows."""
    values = as_float("prompt_values", prompt_values, rewards.shape[:1]).detach()
    return reinforce.greedy_advantages(rewards, values, scored=scored)


def critic(
    token_rewards: Tensor, values: Tensor, mask: Tensor,
    *, gamma: float, lam: float | None, value_lam: float | None = None, alpha: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Advantages and returns of ``gae``; of ``decoupled_gae`` with a value_lam, by ``length_lams`` with an alpha."""
    require((lam is None) != (alpha is None), "lam", "a number, or None beside an alpha", lam)
    used: Any = lam if alpha is None else ppo.length_lams(mask, alpha=alpha)
    if value_lam is None:
        return gae(token_rewards, values, mask, gamma=gamma, lam=used)
    return ppo.decoupled_gae(token_rewards, values, mask, gamma=gamma, lam=used, value_lam=value_lam)


def optimal_token(token_rewards: Tensor, energies: Tensor, mask: Tensor, rewards: Tensor) -> tuple[Tensor, None]:
    """``optimal_token_advantages`` of the undiscounted reward-to-go."""
    returns = discounted_returns(token_rewards, mask, gamma=1.0)
    return reinforce.optimal_token_advantages(returns, energies, mask, group_size=rewards.shape[1]), None


def each_by_std(
    several_rewards: Tensor, reward_weights: Tensor | None = None, scored: Tensor | None = None,
    *, correction: int, eps: float,
) -> Tensor:  # fmt: skip
    """``gdpo_advantages``."""
    weights = reward_weights
    return reinforce.gdpo_advantages(several_rewards, weights, correction=correction, eps=eps, scored=scored)


def whiten_completions(
    completion_advantages: Tensor, scored: Tensor | None = None, *, correction: int, eps: float
) -> Tensor:
    """``whiten_completions`` of the batch's advantages ``[P G]``."""
    return reinforce.whiten_completions(completion_advantages, correction=correction, eps=eps, scored=scored)


def whiten(advantages: Tensor, mask: Tensor, *, correction: int, eps: float) -> Tensor:
    """``masked_whiten`` over all chosen tokens of the batch."""
    return masked_whiten(advantages, mask, correction=correction, eps=eps)


def clip_advantages(advantages: Tensor, *, limit: float) -> Tensor:
    """Advantages no further from 0 than ``limit``."""
    return advantages.clamp(-limit, limit)


ADVANTAGES = {
    "reward": Option(
        lambda rewards, scored=None: rewards, "No baseline: right on average, often with a large variance."
    ),
    "batch-mean": Option(
        batch_mean, "What beats the batch's mean reward is raised: easy prompts are raised as a whole."
    ),
    "group-mean": Option(
        partial(group_advantages, divide_by_std=False, correction=0, eps=0.0),
        "Each completion against its prompt's mean, itself included: that alone makes the gradient 1 - 1/G of the true "
        "one.",
    ),
    "group-std": Option(
        partial(group_advantages, divide_by_std=True),
        "Each completion against the others of its prompt, on one scale: nearly hopeless or solved prompts weigh more.",
    ),
    "batch-std": Option(
        partial(reinforce.batch_scaled_advantages, within_groups=False),
        "Each completion against the others of its prompt, scaled by the batch: prompts keep their relative weight.",
    ),
    "batch-std-centred": Option(
        partial(reinforce.batch_scaled_advantages, within_groups=True),
        "As batch-std, by the deviation within groups: how far prompts lie apart does not make the step smaller.",
    ),
    "each-by-std": Option(
        each_by_std,
        "Of several rewards each is put on one scale within its group before they are added: none drowns the others.",
    ),
    "pass-at-k": Option(
        reinforce.pass_at_k_advantages,
        "A sample counts by what it adds to sets of k, of which one right answer is enough: prompts that are solved "
        "now and then are left alone, rare successes weigh more.",
    ),
    "best-margin": Option(
        partial(reinforce.best_margin_advantages, divide_by_std=False, correction=0, eps=0.0),
        "Only the best completion of a prompt is raised, by its margin over the second; no other is lowered.",
    ),
    "best-margin-std": Option(
        partial(reinforce.best_margin_advantages, divide_by_std=True),
        "Only the best completion of a prompt is raised, by its margin over the second, as a share of the deviation.",
    ),
    "leave-one-out": Option(
        leave_one_out_advantages,
        "Each completion against the mean of the others alone: an unbiased gradient.",
    ),
    "greedy": Option(
        reinforce.greedy_advantages,
        "Each completion against the greedy one: unbiased, for one more completion a prompt.",
    ),
    "prompt-value": Option(
        over_prompt_value,
        "Each completion against what its prompt is worth, known beforehand: no group is needed.",
    ),
    "length-weighted": Option(
        reinforce.length_weighted_advantages,
        "The baseline weighs long completions more, as their gradients vary more: less variance.",
    ),
    "gpg": Option(
        reinforce.gpg_advantages,
        "Groups that teach are scaled up for those that do not, so that the step keeps its size.",
    ),
    "group-mean-by-nonzero": Option(
        over_nonzero_share,
        "Divided by the share of rewards that are not 0: of 0s and 1s, the rarer success is in the batch, the larger "
        "the step.",
    ),
    "max-likelihood": Option(
        reinforce.max_likelihood_advantages,
        "Divided by the prompt's success rate: hard prompts weigh more, as under maximum likelihood.",
    ),
    "optimal-token": Option(
        optimal_token,
        "A baseline for each step of a group, weighted by how much each completion's score has varied so far.",
    ),
    "critic": Option(
        critic, "A critic judges each token: credit within the completion, at the price of a second model."
    ),
}
NORMALISATIONS = {
    "none": Option(nothing, "Advantages keep their scale."),
    "whiten": Option(
        whiten,
        "The batch's tokens get mean 0 and deviation 1: the step's size no longer depends on the rewards' scale.",
    ),
    "whiten-completions": Option(
        whiten_completions,
        "The batch's completions get mean 0 and deviation 1, each counted once, however long it is.",
    ),
    "clip": Option(clip_advantages, "No advantage is larger than the limit."),
}
GROUPS = {
    "all": Option(nothing, "Every group counts, those without a signal too: they dilute the mean."),
    "mixed": Option(
        grpo.mixed_groups, "Groups of equal rewards are left out of the batch and of its counts: the others weigh more."
    ),
}

# ------------------------------------------------------------------------ stage 6: from log-probs to the loss


def at_the_trainer(old_log_probs: Tensor | None = None) -> Tensor | None:
    """The trainer's own log-probs ``[B T]`` when the update began; None where the row takes no ratio."""
    return old_log_probs


def at_the_sampler(sampler_log_probs: Tensor) -> Tensor:
    """The log-probs ``[B T]`` that the engine reported when it sampled."""
    return sampler_log_probs


def at_the_reference(ref_log_probs: Tensor) -> Tensor:
    """The log-probs ``[B T]`` of the frozen reference."""
    return ref_log_probs


def no_ratio(log_probs: Tensor) -> tuple[Tensor, None]:
    """No ratio: the log-probs alone."""
    return log_probs, None


def token_ratio(log_probs: Tensor, old_log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Each token's own log-probs, present and old ``[B T]``: a surrogate takes its ratio from the two."""
    return log_probs, old_log_probs


def sequence_ratio(
    token_gradient: bool, log_probs: Tensor, old_log_probs: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The completion's mean log-ratio in place of each token's log-prob, over an old one of 0 (GSPO)."""
    ratios = grpo.sequence_log_ratios(log_probs, old_log_probs, mask, token_gradient=token_gradient)
    return ratios, torch.zeros_like(ratios)


def product_ratio(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The completion's summed log-ratio in place of each token's log-prob, over an old one of 0."""
    log_rho = log_ratios(log_probs, old_log_probs, mask, "old_log_probs")
    return log_rho.sum(1, keepdim=True).expand(log_rho.shape), torch.zeros_like(log_rho)


def centred_ratio(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """The completion's summed log-ratio less its group's mean, over an old one of 0."""
    ratios = grpo.centred_log_ratios(log_probs, old_log_probs, mask, group_size=group_size)
    return ratios, torch.zeros_like(ratios)


def clip(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor,
    *, epsilon: float, epsilon_high: float | None = None, dual_clip: float | None = None,
) -> tuple[Tensor, dict[str, Mean]]:  # fmt: skip
    """``clipped_surrogate``, and how often the clip acts."""
    ratio = (log_probs, old_log_probs, advantages, mask)
    losses = clipped_surrogate(*ratio, epsilon=epsilon, epsilon_high=epsilon_high, dual_clip=dual_clip)
    return losses, clip_metrics(*ratio, epsilon, epsilon_high)


def weighed(x: Tensor, token_weights: Tensor, mask: Tensor) -> Tensor:
    """The loss per token ``[B T]`` times weights that were made of the whole batch."""
    (weights,) = select(mask, token_weights=token_weights.detach())
    return x * weights


def high_entropy(entropies: Tensor, mask: Tensor, *, share: float, counted: str) -> Tensor:
    """``top_entropy_mask`` as weights ``[B T]``: all tokens stay in the mean's count, or only the chosen ones."""
    require(counted in ("all", "chosen"), "counted", "'all' or 'chosen'", counted)
    kept = selection.top_entropy_mask(entropies, mask, share=share)
    weights = kept.to(as_float("entropies", entropies, mask.shape).dtype)
    return weights if counted == "all" else weights * (mask.sum().to(weights) / kept.sum().clamp(min=1))


def clip_cov(
    log_probs: Tensor, advantages: Tensor, mask: Tensor, draws: Tensor, old_log_probs: Tensor | None = None,
    *, share: float, low: float, high: float, least: int = 0, epsilon: float | None = None,
) -> Tensor:  # fmt: skip
    """``clip_cov_mask``, which spares the tokens that a clip at ``epsilon`` has stopped already."""
    spared = None
    if epsilon is not None and old_log_probs is not None:
        ratios = log_ratios(log_probs, old_log_probs, mask, "old_log_probs").exp()
        earned = per_token("advantages", advantages, mask)
        spared = (earned != 0) & torch.where(earned > 0, ratios > 1 + epsilon, ratios < 1 - epsilon)
    covariances = selection.covariances(log_probs, advantages, mask)
    return selection.clip_cov_mask(
        covariances, draws, mask, share=share, low=low, high=high, least=least, spared=spared
    )


def kl_cov(log_probs: Tensor, advantages: Tensor, mask: Tensor, *, share: float, least: int = 0) -> Tensor:
    """``kl_cov_mask`` of the batch's covariances."""
    return selection.kl_cov_mask(selection.covariances(log_probs, advantages, mask), mask, share=share, least=least)


def penalised(
    x: Tensor, token_weights: Tensor, log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, *, coef: float
) -> Tensor:
    """The loss per token ``[B T]``, and for those of ``kl_cov_mask`` coef times the absolute log-ratio."""
    number("coef", coef, at_least=0)
    return x + coef * weighed(kl_k1(log_probs, old_log_probs, mask).abs(), token_weights, mask)


def future_kl(
    x: Tensor, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor,
    *, half_life: float, epsilon: float, epsilon_high: float, limit: float | None = None, reset: float | None = None,
) -> Tensor:  # fmt: skip
    """The loss per token ``[B T]`` times ``future_kl_weights``."""
    weights = selection.future_kl_weights(
        log_probs, old_log_probs, advantages, mask,
        half_life=half_life, epsilon=epsilon, epsilon_high=epsilon_high, limit=limit, reset=reset,
    )  # fmt: skip
    return x * weights


def loss_kl(
    kl: Callable, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, *, beta: float
) -> tuple[Tensor, Tensor]:
    """beta times a KL estimate ``[B T]``, and the estimate, in nats."""
    estimate = kl(log_probs, ref_log_probs, mask)
    return beta * estimate, estimate


def loss_kl_by_ratio(
    log_probs: Tensor, old_log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, *, beta: float
) -> tuple[Tensor, Tensor]:
    """beta times k3 weighted by the ratio ``[B T]``, and the estimate, in nats."""
    estimate = grpo.ratio_weighted_kl(log_probs, old_log_probs, ref_log_probs, mask, kl=kl_k3)
    return beta * estimate, estimate


def value_error(values: Tensor, returns: Tensor, mask: Tensor, old_values: Tensor | None = None, *, coef: float,
                epsilon: float | None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """coef times ``clipped_value_error`` ``[B T]``, and the error itself."""
    errors = clipped_value_error(values, old_values, returns, mask, epsilon=epsilon)
    return coef * errors, errors


def entropy_bonus(entropies: Tensor, mask: Tensor, *, coef: float) -> tuple[Tensor, Tensor]:
    """What an entropy takes off the loss ``[B T]``, and the entropy, in nats."""
    (entropies,) = select(mask, entropies=entropies)
    return -coef * entropies, entropies


def right_answers(
    log_probs: Tensor, right: Tensor, mask: Tensor, right_tokens: Any = None, *, coef: float
) -> tuple[Tensor, Mean]:
    """coef times the mean of ``likelihood_surrogate`` over the tokens of right answers, and that mean, in nats."""
    number("coef", coef, at_least=0)
    losses = ppo.likelihood_surrogate(log_probs, right, mask)
    chosen = mask & right[:, None]
    mean = token_mean(losses, mask, denominator=chosen.sum() if right_tokens is None else right_tokens)
    return coef * mean, mean_of(losses, chosen)


def expert_answers(
    expert_log_probs: Tensor, expert_mask: Tensor, expert_tokens: Any = None, *, coef: float, phi: bool
) -> tuple[Tensor, Mean]:
    """coef times the mean -log pi of an expert's tokens, each with its ``chord_weights`` if phi; and that mean."""
    number("coef", coef, at_least=0)
    (log_probs,) = select(expert_mask, expert_log_probs=expert_log_probs)
    losses = -log_probs * (grpo.chord_weights(log_probs, expert_mask) if phi else 1)
    return coef * token_mean(losses, expert_mask, denominator=expert_tokens), mean_of(losses, expert_mask)


def real(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, group_size: int, *, tau: float
) -> Tensor:
    """``real_surrogate`` of whole groups."""
    return grpo.real_surrogate(log_probs, old_log_probs, advantages, mask, group_size=group_size, tau=tau)


def off_policy_mask(
    log_probs: Tensor, sampler_log_probs: Tensor, advantages: Tensor, mask: Tensor, *, limit: float
) -> Tensor:
    """``off_policy_weights`` against the engine that sampled."""
    return grpo.off_policy_weights(log_probs, sampler_log_probs, advantages, mask, limit=limit)


def over_rows(mean: Callable, x: Tensor, mask: Tensor, denominator: Any = None, *, empty_rows: str) -> Tensor:
    """A mean over rows that counts those without a choice, or skips them."""
    require(empty_rows in ("counted", "skipped"), "empty_rows", "'counted' or 'skipped'", empty_rows)
    counted = mask.shape[0] if empty_rows == "counted" else None
    return mean(x, mask, denominator=counted if denominator is None else denominator)


def over_max_length(x: Tensor, mask: Tensor, max_length: int, denominator: Any = None, *, empty_rows: str) -> Tensor:
    """``fixed_length_mean`` over the longest completion that generation allows; rows as ``over_rows`` counts them."""
    return over_rows(partial(fixed_length_mean, length=max_length), x, mask, denominator, empty_rows=empty_rows)


ANCHORS = {
    "trainer": Option(
        at_the_trainer,
        "A ratio is 1 when the update begins: the trainer's own log-probs are the old ones.",
        beside={"none": "Where the policy before the update counts, it is the trainer's own."},
    ),
    "sampler": Option(
        at_the_sampler,
        "A ratio is taken to the engine that sampled: its age and its rounding both count, from the first step on.",
        beside={"none": "Where the policy before the update counts, it is the engine that sampled."},
    ),
}
RATIOS = {
    "none": Option(
        no_ratio,
        "On policy: the samples count as the present policy's own, unless the sampler's weights say otherwise.",
    ),
    "token": Option(token_ratio, "Each token has a ratio of its own."),
    "own": Option(token_ratio, "The surrogate makes one ratio of the completion's tokens itself."),
    "sequence": Option(
        partial(sequence_ratio, False),
        "One ratio a completion, the geometric mean: all its tokens are pushed alike.",
    ),
    "sequence-token": Option(
        partial(sequence_ratio, True), "One ratio a completion decides, and each token moves by its own advantage."
    ),
    "product": Option(
        product_ratio,
        "One ratio a completion, the product over its tokens: exact, and far from 1 for long completions.",
    ),
    "product-centred": Option(
        centred_ratio,
        "One ratio a completion, the product over its tokens, against the others of its prompt: they move apart, and "
        "not together.",
    ),
}
OF_SAMPLES = ANCHORS | {
    "reference": Option(
        at_the_reference,
        "A ratio is taken to the frozen reference: it says how far the policy has gone, and not who drew the sample.",
        beside={"none": "Where the policy before the update counts, it is the frozen reference."},
    ),
}
SAMPLERS = {
    "none": Option(nothing, "No weight or mask for samples beside the ratio."),
    "weights": Option(
        ppo.importance_weights,
        "What the sampler drew too often weighs less, and what it drew too rarely more; beyond a bound weights are "
        "cut, or tokens dropped.",
    ),
    "off-policy-mask": Option(
        off_policy_mask,
        "Bad completions that the policy has left too far behind since they were sampled teach nothing.",
    ),
}


def whole(text: str) -> dict[str, str]:
    """What is said beside a ratio of the whole completion."""
    return dict.fromkeys(("sequence", "sequence-token", "product", "product-centred"), text)


def product(text: str) -> dict[str, str]:
    """What is said beside a ratio that is a product over the completion."""
    return dict.fromkeys(("product", "product-centred"), text)


SURROGATES = {
    "policy-gradient": Option(reinforce_surrogate, "The plain policy gradient: no ratio, no brake.", ("none",)),
    "importance": Option(
        ppo.importance_surrogate, "Reweighted by the ratio, without a brake: large ratios rule the step."
    ),
    "clip": Option(
        clip,
        "A token that has moved far enough in its advantage's direction gets no gradient.",
        beside=whole(
            "A completion that has moved far enough in an advantage's direction gets no gradient from it: none at all "
            "where its tokens share one."
        )
        | {
            "sequence-token": "Where a completion has moved far enough, its tokens whose advantage points that way get "
            "no gradient."
        },
    ),
    "cispo": Option(grpo.cispo_surrogate, "The clip bounds a token's weight; no token loses its gradient.", ("token",)),
    "sapo": Option(
        grpo.sapo_surrogate, "Ever less of the ratio's gradient is left as the ratio leaves 1, in place of a hard clip."
    ),
    "gmpo": Option(
        grpo.gmpo_surrogate, "The geometric mean of clipped ratios: single outliers hardly count.", ("own",)
    ),
    "vespo": Option(
        grpo.vespo_surrogate, "A smooth weight of the completion's ratio, falling to 0 on both sides.", ("own",)
    ),
    "dppo": Option(
        grpo.dppo_surrogate,
        "The trust region bounds probabilities, not ratios: rare tokens may grow by any factor.",
        ("token",),
    ),
    "topr": Option(
        grpo.topr_surrogate,
        "Good completions count in full, as in supervised learning; bad ones the less, the rarer they have become.",
        ("own",),
    ),
    "real": Option(
        real,
        "The group is classified: right answers that are rare and wrong ones that are likely move most, none beyond a "
        "bound.",
        ("own",),
    ),
    "quadratic": Option(
        grpo.quadratic_surrogate,
        "Each token's log-ratio is pulled to A / tau, from above too: no clip, and no step without a price.",
        ("token", "product", "product-centred"),
        beside=whole(
            "A completion's log-ratio is pulled to A / tau, from above too: no clip, no step without a price."
        ),
    ),
}
TOKENS = {  # which of the tokens teach; the options with ``ahead`` are judged on the whole batch
    "all": Option(nothing, "Every token that the policy chose teaches."),
    "high-entropy": Option(
        weighed,
        "Only the tokens at which the policy was least sure teach: the forks of an answer, not what follows from them.",
        ahead=high_entropy,
    ),
    "clip-cov": Option(
        weighed,
        "Of the tokens that make the policy surer, a few drawn at random do not teach: the entropy falls more slowly.",
        ahead=clip_cov,
    ),
    "kl-cov": Option(
        penalised,
        "The tokens that make the policy surer the most pay for each nat that they move in this update.",
        ahead=kl_cov,
    ),
    "m2po": Option(
        weighed,
        "Tokens that have moved furthest as their advantage says are dropped, until the rest is near enough: of stale "
        "samples the outliers alone go.",
        ahead=selection.second_moment_mask,
    ),
    "fipo": Option(
        future_kl,
        "A token weighs more if the policy has since moved towards what came after it: credit within the completion, "
        "without a critic.",
    ),
}
LOSS_KLS = {
    "none": Option(nothing, "The loss does not pull towards the reference."),
    "k1": Option(partial(loss_kl, kl_k1), "On average no pull at all: the expected gradient is 0."),
    "k2": Option(partial(loss_kl, kl_k2), "Pulls along the gradient of KL(policy || reference), token by token."),
    "k3": Option(partial(loss_kl, kl_k3), "Pulls along the gradient of KL(reference || policy): the other direction."),
    "k3-k2-gradient": Option(
        partial(loss_kl, grpo.kl_k3_with_k2_gradient),
        "Reports k3, pulls along the gradient of KL(policy || reference).",
    ),
    "k3-by-ratio": Option(
        loss_kl_by_ratio,
        "Pulls along the gradient of KL(policy || reference), also on samples of an older policy, given the prefix.",
    ),
}
VALUES = {
    "none": Option(nothing, "No critic is trained."),
    "squared-error": Option(value_error, "A critic learns the returns by half the squared error."),
}
ENTROPIES = {
    "none": Option(nothing, "No bonus holds the entropy up."),
    "bonus": Option(entropy_bonus, "A bonus for each nat of entropy keeps the policy from settling early."),
}
REDUCTIONS = {
    "token-mean": Option(
        token_mean,
        "Every token weighs the same, so long completions weigh more.",
        beside=product("A completion's term counts once for each of its tokens: long ones weigh more, in each token."),
    ),
    "sequence-mean": Option(
        partial(over_rows, sequence_mean),
        "Every completion weighs the same, so a token of a long one weighs less: long wrong answers are punished less.",
        beside=product("A completion's term counts once, and its ratio reaches each token in full: none weighs less."),
    ),
    "sequence-sum": Option(
        partial(over_rows, sequence_sum),
        "The completion's log-probability counts as a sum: the policy gradient as derived.",
        beside=product("The completion's term counts once for each of its tokens: long ones weigh more, in each token.")
        | {
            "sequence": "The completion's term counts once for each token, which undoes the mean in its ratio: each "
            "token weighs the same.",
        },
    ),
    "group-token-mean": Option(
        grpo.group_token_mean,
        "Every token weighs the same within its prompt's group, and every group the same.",
        beside=product("A completion's term counts once for each of its tokens, and every group weighs the same."),
    ),
    "fixed-length": Option(
        over_max_length,
        "Every token weighs the same, in this batch and in the next: no length bias, a smaller step.",
        beside=product("A completion's term counts by its tokens' share of the longest length: short ones weigh less."),
    ),
}

LIKELIHOODS = {
    "none": Option(nothing, "No answer is learned as it stands."),
    "right-answers": Option(
        right_answers, "Right answers are learned as in supervised training, beside what their advantage says of them."
    ),
    "expert": Option(
        expert_answers, "An expert's answers are learned as in supervised training, beside the policy's own samples."
    ),
}

COLUMNS = {
    "penalty": PENALTIES,
    "reward_kl": REWARD_KLS,
    "groups": GROUPS,
    "advantage": ADVANTAGES,
    "normalise": NORMALISATIONS,
    "anchor": OF_SAMPLES,
    "ratio": RATIOS,
    "surrogate": SURROGATES,
    "tokens": TOKENS,
    "sampler": SAMPLERS,
    "loss_kl": LOSS_KLS,
    "value": VALUES,
    "entropy": ENTROPIES,
    "reduction": REDUCTIONS,
    "likelihood": LIKELIHOODS,
}

# What a number does to the update as it grows, for the comparison of two rows: by its name; by its option's
# or column's and its own; or by these and the ratio beside them.
NUMBERS = {
    "beta": "larger holds the policy closer to the reference",
    "estimator": "how the divergence is estimated from the sampled tokens",
    "divergence": "how the distance of two probabilities is measured",
    "epsilon": "larger lets tokens fall (and, without an epsilon_high, rise) further from where the ratio is 1",
    "epsilon_high": "larger lets rare tokens rise further, which keeps the entropy up",
    **{
        f"clip.{number} {ratio}": text
        for ratio in ("sequence", "sequence-token", "product")
        for number, text in {
            "epsilon": "larger lets completions fall (and, without an epsilon_high, rise) further",
            "epsilon_high": "larger lets completions rise further",
            "dual_clip": "bounds what an A < 0 puts into the loss of a completion at this multiple of |A|",
        }.items()
    },
    "cispo.epsilon": "a token weighs at least 1 - epsilon; none is no lower bound",
    "cispo.epsilon_high": "a token weighs at most 1 + epsilon_high",
    "gmpo.epsilon": "how far, in nats, a token's log-ratio counts in its completion's mean",
    "gmpo.epsilon_high": "how far, in nats, the log-ratio of a token that rises counts in its completion's mean",
    "dppo.epsilon": "larger lets a token's probability fall (and, without an epsilon_high, rise) further",
    "dppo.epsilon_high": "larger lets a token's probability rise further",
    "squared-error.epsilon": "larger lets the critic move further from its values at sampling time; none lets it go",
    "dual_clip": "bounds the loss of a token with A < 0 at this multiple of |A|",
    "cap": "the largest weight of a token",
    "kept_max": "the largest weight of what the gate keeps",
    "tau_positive": "larger closes the gate sooner for what is raised",
    "tau_negative": "larger closes the gate sooner for what is lowered",
    "k_positive": "how fast the weight of a good completion rises from ratio 0",
    "k_negative": "how fast the weight of a bad completion rises from ratio 0",
    "lambda_positive": "how fast the weight of a good completion falls for large ratios",
    "lambda_negative": "how fast the weight of a bad completion falls for large ratios",
    "correction": "1 divides the variance by n - 1, 0 by n: a factor of sqrt(n / (n - 1)) in the scale",
    "eps": "larger damps groups of nearly equal rewards",
    "batch-std.eps": "larger damps batches of nearly equal rewards",
    "batch-std-centred.eps": "larger damps batches whose groups have nearly equal rewards",
    "pass-at-k.k": "how many samples stand for each other: larger leaves prompts alone that are solved now and then",
    "pass-at-k.eps": "larger damps groups whose sets of k are nearly all solved, or nearly none",
    "each-by-std.eps": "larger damps a reward that is nearly equal within its group",
    "whiten.eps": "larger damps batches of nearly equal advantages",
    "whiten-completions.eps": "larger damps batches of nearly equal advantages",
    "gamma": "below 1 the end of a completion counts less for its beginning",
    "lam": "smaller trusts the critic more: less variance, more bias",
    "value_lam": "the lam of what the critic learns: 1 is the return itself; none is lam",
    "alpha": "in the place of lam, 1 - 1 / (alpha length): how far ahead a token looks, as a share of its completion",
    "coef": "the weight of this term",
    "clip.limit": "the largest advantage",
    "off-policy-mask.limit": "larger keeps bad completions that are left further behind, in nats a token",
    "share": "larger lets more of the batch's tokens teach",
    "clip-cov.share": "larger drops more of the batch's tokens",
    "kl-cov.share": "larger lets more of the batch's tokens pay",
    "counted": "whether a mean counts all tokens, or those that teach: their share is the factor between the two",
    "clip-cov.low": "larger drops only tokens that make the policy surer by more",
    "clip-cov.high": "smaller spares the tokens that make the policy surer the most",
    "clip-cov.epsilon": "the surrogate's clip: what it has stopped is not drawn as well; none has no such clip",
    "least": "how many tokens are taken at least, in a batch whose share is less",
    "kl-cov.coef": "larger holds the tokens that pay closer to the policy before the update",
    "m2po.limit": "larger keeps tokens that have moved further, in nats squared",
    "half_life": "larger lets later tokens count more",
    "fipo.epsilon": "how much less than 1 a token may weigh",
    "fipo.epsilon_high": "how much more than 1 a token may weigh",
    "fipo.limit": "tokens with a larger ratio say nothing of those before them",
    "reset": "a token with A < 0 and a larger ratio weighs 1",
    "phi": "whether an expert's token weighs p (1 - p), most where the policy is undecided, or 1",
    "real.tau": "larger lets all completions of a group move; smaller those nearest to the wrong side",
    "low_positive": "the least weight of a good completion",
    "high_positive": "the largest weight of a good completion",
    "low_negative": "the least weight of a bad completion",
    "high_negative": "the largest weight of a bad completion",
    "quadratic.tau": "larger holds the policy closer to where the ratio is 1",
    "cache": "how many tokens before the limit begin to cost",
    "empty_rows": "whether completions without a chosen token enlarge the denominator",
    "level": "whether a token or a completion is weighed; one: neither, what is kept is kept as it is",
    "gate": "where the decision to drop is taken; none truncates, and drops nothing",
    "low": "a smaller weight is raised to it; with a gate, what is smaller there is dropped",
    "high": "a larger weight is cut to it; with a gate, what is larger there is dropped",
}
