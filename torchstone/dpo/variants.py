"""Other losses on the same pairs, losses without pairs, and losses per token. Equations and symbols are in variants.md.

Most are a function of the two implicit rewards r_w = r(x, y_w) and r_l = r(x, y_l) of DPO.2, or of h = r_w - r_l.
Whether log-probs are summed or averaged over tokens is decided before, by ``sequence_log_probs(average=...)``: both
models the same way. Length-normalised DPO is ``dpo_loss`` on averages.
"""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from torchstone.core.inputs import as_float, check_flags, check_mask, number, per_token, require, same_length, select
from torchstone.core.logprobs import LOG_RATIO_BOUND, bounded_exp, bounded_expm1, log_softmax
from torchstone.core.reduce import Count, Reduce, mean_of_pairs
from torchstone.core.result import Loss, Mean, mean_of
from torchstone.dpo.loss import dpo_loss, implicit_rewards, reward_pair

# fmt: off
__all__ = [
    "ipo_loss", "robust_dpo_loss", "hinge_loss", "simpo_loss", "orpo_loss", "kto_reference_point", "kto_loss",
    "apo_zero_loss", "apo_down_loss", "log_sum_squares", "wpo_weights", "wpo_loss", "exo_loss", "nca_loss", "bco_loss",
    "sppo_loss", "discopop_loss", "aot_loss", "shared_length_log_probs", "sft_loss", "outcome_reward_loss",
    "process_reward_loss", "mpo_loss", "update_reference",
    "bco_reward_shift", "bco_unpaired_loss", "f_dpo_loss", "alphapo_loss", "optimism_loss", "dpop_loss",
]
# fmt: on


def ipo_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    denominator: Count | None = None,
) -> Loss:
    """Identity preference optimisation: a finite target for the log-ratio difference, also where the label is certain.

        L = mean( (h / beta - 1 / (2 beta))^2 )                                             (DPO.7)

    Args:
        chosen_log_probs, rejected_log_probs: log pi(y_w | x), log pi(y_l | x), in nats: sums over tokens (OpenRLHF,
            and the paper's letter), or means per token (TRL, and by its account the paper's experiments). Gradient
            flows through both.
        ref_chosen_log_probs, ref_rejected_log_probs: the same under the frozen reference. Treated as constants.
        beta: strength of the KL constraint (the paper's tau); h / beta is pulled to 1 / (2 beta), in nats.
        denominator: number of pairs in the whole batch; None counts those given. At 0 the loss is 0.

    Returns: ``Loss``, in nats squared; metrics as ``dpo_loss``.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive.
    Source: Azar et al., arXiv:2310.12036v2, eq. 17.
    """
    r_w, r_l, metrics = reward_pair(
        beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    return Loss(mean_of_pairs(((r_w - r_l - 0.5) / beta).square(), denominator), metrics)


def robust_dpo_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    flip_rate: float,
    denominator: Count | None = None,
) -> Loss:
    """DPO's loss under clean labels, estimated without bias from labels of which a known share is flipped.

        L = mean( (-(1 - e) log sigmoid(h) + e log sigmoid(-h)) / (1 - 2 e) )               (DPO.8)

    The opposite sign of cDPO's second term: it does not stop at a margin, and is not bounded from below.

    Args:
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta, denominator: as in
            ``dpo_loss``.
        flip_rate: e, the probability that a pair's label is flipped. 0 is DPO.

    Returns: ``Loss``; metrics as ``dpo_loss``.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive; ``flip_rate`` is outside [0, 0.5).
    Source: Ray Chowdhury et al., arXiv:2403.00409.
    """
    number("flip_rate", flip_rate, at_least=0)
    require(flip_rate < 0.5, "flip_rate", "a finite number >= 0 and < 0.5", flip_rate)
    r_w, r_l, metrics = reward_pair(
        beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    losses = -(1 - flip_rate) * logsigmoid(r_w - r_l) + flip_rate * logsigmoid(r_l - r_w)
    return Loss(mean_of_pairs(losses / (1 - 2 * flip_rate), denominator), metrics)


def hinge_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"] | None = None,
    ref_rejected_log_probs: Float[Tensor, " N"] | None = None,
    *,
    beta: float,
    delta: float,
    denominator: Count | None = None,
) -> Loss:
    """A margin is enough: pairs that are apart by ``delta`` have no gradient, all others the same one.

        L = mean( max(0, delta - h) )                                                       (DPO.9)

    Args:
        chosen_log_probs, rejected_log_probs: as in ``dpo_loss``.
        ref_chosen_log_probs, ref_rejected_log_probs: the same under the frozen reference (RSO's hinge-norm); both None
            for SLiC, where h = beta (log pi(y_w | x) - log pi(y_l | x)). Treated as constants.
        beta: reward units per nat; 1 in SLiC.
        delta: the margin, in reward units; 1 in RSO. Only beta / delta decides which pairs are apart.
        denominator: number of pairs in the whole batch; None counts those given. At 0 the loss is 0.

    Returns: ``Loss``; metrics as ``dpo_loss``. SLiC adds its regulariser, ``sft_loss``.
    Raises ValueError: a shape or dtype is wrong; one reference without the other; ``beta`` is not positive; ``delta``
        is negative.
    Source: SLiC: Zhao et al., arXiv:2305.10425v1, section 2; with the reference: Liu et al. (RSO),
        arXiv:2309.06657, eq. 10.
    """
    number("delta", delta, at_least=0)
    if ref_chosen_log_probs is None and ref_rejected_log_probs is None:
        r_w, r_l, metrics = reward_pair_without_reference(beta, chosen_log_probs, rejected_log_probs)
    else:
        r_w, r_l, metrics = reward_pair(
            beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
        )
    return Loss(mean_of_pairs(torch.relu(delta - (r_w - r_l)), denominator), metrics)


def reward_pair_without_reference(
    beta: float, chosen_log_probs: Tensor, rejected_log_probs: Tensor
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], dict[str, Mean]]:
    """beta log pi(y_w | x) and beta log pi(y_l | x), and what every loss on pairs reports."""
    pair = same_length(chosen_log_probs=chosen_log_probs, rejected_log_probs=rejected_log_probs)
    return reward_pair(beta, *pair, *(torch.zeros_like(x) for x in pair))


def simpo_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    gamma: float,
    denominator: Count | None = None,
) -> Loss:
    """The reward is the mean log-prob itself, as in generation, with a margin; no reference.

        L = mean( -log sigmoid( beta log pi(y_w | x) / |y_w| - beta log pi(y_l | x) / |y_l| - gamma ) )    (DPO.10)

    Args:
        chosen_log_probs, rejected_log_probs: *means* per token, in nats. Gradient flows through both. On sums with
            gamma = 0 this is CPO's first term.
        beta: reward units per nat and token.
        gamma: the margin, in reward units: outside of beta, as in the paper. Code whose number is a share of beta
            (``gamma_beta_ratio``) means gamma = ratio * beta.
        denominator: number of pairs in the whole batch; None counts those given. At 0 the loss is 0.

    Returns: ``Loss``; metrics as ``dpo_loss``, with rewards that have no reference and no gamma.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive; ``gamma`` is negative.
    Source: Meng et al., arXiv:2405.14734v3, eq. 4-6; CPO: Xu et al., arXiv:2401.08417v4, eq. 3.
    """
    number("gamma", gamma, at_least=0)
    r_w, r_l, metrics = reward_pair_without_reference(beta, chosen_log_probs, rejected_log_probs)
    return Loss(mean_of_pairs(-logsigmoid(r_w - r_l - gamma), denominator), metrics)


def orpo_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    *,
    odds_coef: float,
    sft_coef: float,
    denominator: Count | None = None,
) -> Loss:
    """Supervised fine-tuning that also raises the odds of the chosen completion over those of the rejected.

        log odds(y) = log P(y) - log(1 - P(y)),    log P(y) = log pi(y | x) / |y|           (DPO.11)
        L = mean( -sft_coef log P(y_w) - odds_coef log sigmoid( log odds(y_w) - log odds(y_l) ) )    (DPO.12)

    Args:
        chosen_log_probs, rejected_log_probs: log P, the *means* per token, in nats. Gradient flows through both.
        odds_coef: the paper's lambda.
        sft_coef: 1 in the paper. 0 leaves the term to ``sft_loss``, to be added under another reduction.
        denominator: number of pairs in the whole batch; None counts those given. At 0 the loss is 0.

    Returns: ``Loss``; metrics as ``dpo_loss``, with the reward odds_coef log P. Log-odds above 20 go on as their
        tangent, so value and gradient stay finite where a log-prob rounds to 0.
    Raises ValueError: a shape or dtype is wrong; ``odds_coef`` is not positive; ``sft_coef`` is negative.
    Source: Hong et al., arXiv:2403.07691v2, eq. 3-7.
    """
    number("odds_coef", odds_coef, above=0)
    number("sft_coef", sft_coef, at_least=0)
    _, _, metrics = reward_pair_without_reference(odds_coef, chosen_log_probs, rejected_log_probs)
    chosen, rejected = same_length(chosen_log_probs=chosen_log_probs, rejected_log_probs=rejected_log_probs)
    losses = -sft_coef * chosen - odds_coef * logsigmoid(_log_odds(chosen) - _log_odds(rejected))
    return Loss(mean_of_pairs(losses, denominator), metrics)


def _log_odds(log_p: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """log p - log(1 - p), of slope 1 / (1 - p); above +20 its tangent."""
    last = -math.log1p(math.exp(-LOG_RATIO_BOUND))  # log-odds 20
    inside = log_p.clamp(max=last)
    return inside - torch.log(-torch.expm1(inside)) + (1 + math.exp(LOG_RATIO_BOUND)) * torch.relu(log_p - last)


def kto_reference_point(log_probs: Float[Tensor, " M"], ref_log_probs: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """How far the policy is from the reference on the whole: what KTO measures gains and losses against.

        z = max(0, (1 / M) sum_i (log pi(y_j | x_i) - log pi_ref(y_j | x_i))),    j = i mod M + 1    (DPO.13)

    Args:
        log_probs: of *mismatched* pairs, in nats: each prompt with the completion of the next prompt, summed over
            tokens. On matched pairs it says how far the policy is on the data.
        ref_log_probs: the same under the frozen reference.

    Returns: nats, at least 0, detached; 0 where M is 0. It estimates KL(pi || pi_ref) with a bias. A mean over several
        devices is taken before the max.
    Raises ValueError: a shape or dtype is wrong.
    Source: Ethayarajh et al., arXiv:2402.01306v5, section 4.1, unnumbered.
    """
    log_probs, ref_log_probs = same_length(log_probs=log_probs, ref_log_probs=ref_log_probs)
    return mean_of_pairs(log_probs - ref_log_probs).detach().clamp(min=0)


def kto_loss(
    log_probs: Float[Tensor, " N"],
    ref_log_probs: Float[Tensor, " N"],
    desirable: Bool[Tensor, " N"],
    *,
    beta: float,
    reference_point: float | Float[Tensor, ""],
    desirable_weight: float,
    undesirable_weight: float,
    denominator: Count | None = None,
) -> Loss:
    """Completions with a thumb up or down, and no pairs: each is a gain or a loss against a common reference point.

        u = log pi(y | x) - log pi_ref(y | x)
        L = mean( w (1 - sigmoid(s beta (u - z))) ),    s = 1 and w = desirable_weight where desirable,
                                                        s = -1 and w = undesirable_weight elsewhere    (DPO.14)

    Args:
        log_probs: log pi(y | x), summed over tokens, in nats. Gradient flows through it.
        ref_log_probs: the same under the frozen reference. Treated as a constant.
        desirable: True for a thumb up.
        beta: how soon the gain saturates, per nat.
        reference_point: z, in nats: ``kto_reference_point``, or 0. Treated as a constant.
        desirable_weight, undesirable_weight: the paper's lambda_D, lambda_U.
        denominator: number of completions in the whole batch; None counts those given. At 0 the loss is 0.

    Returns: ``Loss``; metrics: ``rewards/chosen``, ``rewards/rejected``, ``logps/chosen``, ``logps/rejected`` (means
        over the desirable, and over the others), ``kl`` (z).
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive; a weight or a ``reference_point`` given as a
        number is negative.
    Source: Ethayarajh et al., arXiv:2402.01306v5, eq. 8.
    """
    number("desirable_weight", desirable_weight, at_least=0)
    number("undesirable_weight", undesirable_weight, at_least=0)
    z = _constant("reference_point", reference_point, at_least=0)
    log_probs, ref_log_probs = same_length(log_probs=log_probs, ref_log_probs=ref_log_probs)
    rewards = implicit_rewards(log_probs, ref_log_probs, beta=beta)
    check_flags("desirable", desirable, rewards.shape)
    missed = torch.sigmoid(beta * z - rewards)
    losses = torch.where(desirable, desirable_weight * missed, undesirable_weight * torch.sigmoid(rewards - beta * z))
    metrics = {
        "rewards/chosen": mean_of(rewards, desirable),
        "rewards/rejected": mean_of(rewards, ~desirable),
        "logps/chosen": mean_of(log_probs, desirable),
        "logps/rejected": mean_of(log_probs, ~desirable),
        "kl": mean_of(torch.zeros_like(rewards) + z),
    }
    return Loss(mean_of_pairs(losses, denominator), metrics)


def _constant(argument: str, x: float | Tensor, at_least: float | None = None) -> float | Tensor:
    """A number, checked, or a tensor without dimensions, detached and taken as it is."""
    if isinstance(x, Tensor):
        return as_float(argument, x, ()).detach()
    number(argument, x, at_least=at_least)
    return x


def apo_zero_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    denominator: Count | None = None,
) -> Loss:
    """For chosen completions better than the policy's own: the chosen becomes likelier, the rejected unlikelier.

        L = mean( 1 - sigmoid(r_w) + sigmoid(r_l) )                                         (DPO.15)

    Args:
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta, denominator: as in
            ``dpo_loss``.

    Returns: ``Loss``, between 0 and 2; metrics as ``dpo_loss``.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive.
    Source: D'Oosterlinck et al., arXiv:2408.06266, eq. 7, with the constants of TRL's form.
    """
    r_w, r_l, metrics = reward_pair(
        beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    return Loss(mean_of_pairs(torch.sigmoid(-r_w) + torch.sigmoid(r_l), denominator), metrics)


def apo_down_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    denominator: Count | None = None,
) -> Loss:
    """For chosen completions worse than the policy's own: both become unlikelier, the rejected more so.

        L = mean( sigmoid(r_w) + 1 - sigmoid(r_w - r_l) )                                   (DPO.16)

    Args:
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta, denominator: as in
            ``dpo_loss``.

    Returns: ``Loss``, between 0 and 2; metrics as ``dpo_loss``.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive.
    Source: D'Oosterlinck et al., arXiv:2408.06266, eq. 8, with the constants of TRL's form.
    """
    r_w, r_l, metrics = reward_pair(
        beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    return Loss(mean_of_pairs(torch.sigmoid(r_w) + torch.sigmoid(r_l - r_w), denominator), metrics)


def log_sum_squares(logits: Float[Tensor, "B T V"], *, temperature: float) -> Float[Tensor, "B T"]:
    """The log-probability that two draws from the policy are the same token: WPO's normaliser.

        log c_t = log sum_v pi(v | x, y_<t)^2                                               (DPO.17)

    Args:
        logits: of the policy, finite or -inf, aligned with the tokens. Treated as a constant.
        temperature: the temperature that the tokens were sampled at.

    Returns: nats, from -log V to 0; detached.
    Raises ValueError: a shape or dtype is wrong; ``temperature`` is not positive.
    Source: Zhou et al. (WPO), arXiv:2406.11827v2, eq. 2.
    """
    return torch.logsumexp(2 * log_softmax("logits", logits.detach(), temperature), -1)


def wpo_weights(
    log_probs: Float[Tensor, "B T"],
    log_normalisers: Float[Tensor, "B T"] | None,
    mask: Bool[Tensor, "B T"],
) -> Float[Tensor, " B"]:
    """How likely it is that the policy itself would have written this completion.

        w(x, y) = exp( (1 / |y|) sum_t (log pi(y_t | x, y_<t) - log c_t) )                  (DPO.18)

    Args:
        log_probs: under the policy that learns, in nats. Treated as a constant.
        log_normalisers: log c_t, in nats: ``log_sum_squares`` (sampled alignment, the paper's default), log max_v pi(v)
            (greedy alignment), or None for c = 1.
        mask: True at the completion's tokens. Other entries may hold anything, NaN included.

    Returns: weights, unitless and detached; 1 for a row without a True.
    Raises ValueError: a shape or dtype is wrong.
    Source: Zhou et al. (WPO), arXiv:2406.11827v2, eq. 2 and section 3.
    """
    (log_w,) = select(mask, log_probs=log_probs)
    if log_normalisers is not None:
        log_w = log_w - select(mask, log_normalisers=log_normalisers)[0]
    return bounded_exp(log_w.sum(1) / mask.sum(1).clamp(min=1)).detach()


def wpo_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    weights: Float[Tensor, " N"],
    *,
    beta: float,
    denominator: Count | None = None,
) -> Loss:
    """DPO in which pairs that the policy would not have written count less.

        L = mean( -w(x, y_w) w(x, y_l) log sigmoid(h) )                                     (DPO.19)

    Args:
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta: as in ``dpo_loss``.
        weights: w(x, y_w) w(x, y_l), one a pair. Treated as a constant. The authors' code adds ``.clamp(max=1)``, which
            is in neither their paper nor TRL.
        denominator: number of pairs, not the sum of weights; None counts those given. At 0 the loss is 0.

    Returns: ``Loss``; metrics as ``dpo_loss``, unweighted.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive.
    Source: Zhou et al. (WPO), arXiv:2406.11827v2, eq. 1.
    """
    r_w, r_l, metrics = reward_pair(
        beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    weights = as_float("weights", weights, r_w.shape).detach()
    return Loss(mean_of_pairs(-weights * logsigmoid(r_w - r_l), denominator), metrics)


def exo_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    label_smoothing: float,
    denominator: Count | None = None,
) -> Loss:
    """The KL of DPO the other way round: from the policy's preference to the label's.

        L = mean( KL( (sigmoid(h), sigmoid(-h)) || (1 - e, e) ) )                           (DPO.20)

    Args:
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta, denominator: as in
            ``dpo_loss``.
        label_smoothing: e, the label's own doubt: the loss is 0 where sigmoid(h) = 1 - e, and infinite at e = 0.

    Returns: ``Loss``, at least 0; metrics as ``dpo_loss``.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive; ``label_smoothing`` is outside (0, 0.5].
    Source: Ji et al., arXiv:2402.00856, eq. 16.
    """
    number("label_smoothing", label_smoothing, above=0, at_most=0.5)
    r_w, r_l, metrics = reward_pair(
        beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    h = r_w - r_l
    losses = torch.sigmoid(h) * (logsigmoid(h) - math.log1p(-label_smoothing))
    losses = losses + torch.sigmoid(-h) * (logsigmoid(-h) - math.log(label_smoothing))
    return Loss(mean_of_pairs(losses, denominator), metrics)


def nca_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    denominator: Count | None = None,
) -> Loss:
    """Noise-contrastive alignment: each reward's own value is fitted, and not their difference alone.

        L = mean( -log sigmoid(r_w) - (1/2) log sigmoid(-r_w) - (1/2) log sigmoid(-r_l) )    (DPO.21)

    Args:
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta, denominator: as in
            ``dpo_loss``.

    Returns: ``Loss``; metrics as ``dpo_loss``.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive.
    Source: Chen et al., arXiv:2402.05369v3, table 1.
    """
    r_w, r_l, metrics = reward_pair(
        beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    losses = -logsigmoid(r_w) - logsigmoid(-r_w) / 2 - logsigmoid(-r_l) / 2
    return Loss(mean_of_pairs(losses, denominator), metrics)


def bco_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    reward_shift: float | Float[Tensor, ""],
    denominator: Count | None = None,
) -> Loss:
    """Two separate judgements in place of a comparison: the chosen is good, the rejected is bad.

        L = mean( -log sigmoid(r_w - d) - log sigmoid(-(r_l - d)) )                         (DPO.22)

    Args:
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta, denominator: as in
            ``dpo_loss``.
        reward_shift: d, in reward units: in the paper a running mean of ``bco_reward_shift``, which the caller keeps
            (of pairs, the mean of ``rewards/chosen`` and ``rewards/rejected``); 0 in TRL's and Liger's ``bco_pair``.
            A constant.

    Returns: ``Loss``; metrics as ``dpo_loss``.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive; a ``reward_shift`` given as a number
        is not finite.
    Source: Jung et al., arXiv:2404.04656, eq. 7 and 8.
    """
    shift = _constant("reward_shift", reward_shift)
    r_w, r_l, metrics = reward_pair(
        beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    return Loss(mean_of_pairs(-logsigmoid(r_w - shift) - logsigmoid(shift - r_l), denominator), metrics)


def bco_reward_shift(rewards: Float[Tensor, " M"], desirable: Bool[Tensor, " M"]) -> Float[Tensor, ""]:
    """Half way between the rewards of good and of bad completions: where BCO tells one from the other.

        d = (mean of r(x, y) over the good + mean of r(x, y) over the bad) / 2              (DPO.33)

    The mean of two means: were all completions pooled, the commoner kind would draw d to its side, and its own losses
    would vanish.

    Args:
        rewards: ``implicit_rewards`` of completions with a thumb up or down, in reward units.
        desirable: True for a thumb up.

    Returns: reward units, detached; a kind that is not there counts as 0. Of micro-batches it is another number than
        of the whole batch: it is computed once, for all of them. The paper takes an exponential moving average over
        batches, whose decay it does not say, and which the caller keeps.
    Raises ValueError: a shape or dtype is wrong.
    Source: Jung et al., arXiv:2404.04656, eq. 7.
    """
    rewards = as_float("rewards", rewards, "M")
    check_flags("desirable", desirable, rewards.shape)
    return (_mean_where(desirable, rewards) + _mean_where(~desirable, rewards)).detach() / 2


def bco_unpaired_loss(
    log_probs: Float[Tensor, " M"],
    ref_log_probs: Float[Tensor, " M"],
    desirable: Bool[Tensor, " M"],
    *,
    beta: float,
    reward_shift: float | Float[Tensor, ""],
    desirable_denominator: Count | None = None,
    undesirable_denominator: Count | None = None,
) -> Loss:
    """Completions with a thumb up or down, and no pairs: a classifier tells good from bad by the implicit reward.

        L = mean over the good( -log sigmoid(r - d) ) + mean over the bad( -log sigmoid(-(r - d)) )    (DPO.34)

    Each kind has a mean of its own, so the rarer one weighs as much as the other. Of as many good as bad ones it is
    ``bco_loss``.

    Args:
        log_probs: log pi(y | x), summed over tokens, in nats. Gradient flows through it.
        ref_log_probs: the same under the frozen reference. Treated as a constant.
        desirable: True for a thumb up.
        beta: strength of the KL constraint, in reward units per nat.
        reward_shift: d, in reward units: a running mean of ``bco_reward_shift``, or 0. A constant.
        desirable_denominator, undesirable_denominator: number of good and of bad completions in the whole batch; None
            counts those given. At 0 that mean is 0.

    Returns: ``Loss``; metrics: ``rewards/chosen``, ``rewards/rejected``, ``logps/chosen``, ``logps/rejected`` (means
        over the desirable, and over the others).
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive; a ``reward_shift`` given as a number
        is not finite; a denominator is negative.
    Source: Jung et al., arXiv:2404.04656, eq. 8. TRL's former BCOTrainer (f2cd577) has one mean over all completions.
    """
    shift = _constant("reward_shift", reward_shift)
    check_count("desirable_denominator", desirable_denominator)
    check_count("undesirable_denominator", undesirable_denominator)
    log_probs, ref_log_probs = same_length(log_probs=log_probs, ref_log_probs=ref_log_probs)
    rewards = implicit_rewards(log_probs, ref_log_probs, beta=beta)
    check_flags("desirable", desirable, rewards.shape)
    good = _mean_where(desirable, -logsigmoid(rewards - shift), desirable_denominator)
    bad = _mean_where(~desirable, -logsigmoid(shift - rewards), undesirable_denominator)
    metrics = {
        "rewards/chosen": mean_of(rewards, desirable),
        "rewards/rejected": mean_of(rewards, ~desirable),
        "logps/chosen": mean_of(log_probs, desirable),
        "logps/rejected": mean_of(log_probs, ~desirable),
    }
    return Loss(good + bad, metrics)


def check_count(argument: str, denominator: Count | None) -> None:
    """Raise ``ValueError`` by this name unless it is None, a number from 0 up, or a tensor of no dimensions."""
    if isinstance(denominator, Tensor):
        require(denominator.ndim == 0, argument, "a number or a tensor without dimensions", denominator)
    elif denominator is not None:
        number(argument, denominator, at_least=0)


def _mean_where(counted: Bool[Tensor, " M"], x: Float[Tensor, " M"], denominator: Count | None = None) -> Tensor:
    """The mean of ``x`` over the entries where ``counted`` is True, or their sum over a given ``denominator``."""
    return mean_of_pairs(torch.where(counted, x, 0), counted.count_nonzero() if denominator is None else denominator)


def power_reward(x: Float[Tensor, " N"], alpha: float) -> Float[Tensor, " N"]:
    """A power in place of a logarithm: the reward of f-DPO on a log-ratio, that of AlphaPO on a mean log-prob.

        g_alpha(x) = (1 - exp(-alpha x)) / alpha,    g_0(x) = x                             (DPO.35)

    Of slope 1 at x = 0 and exp(-alpha x) elsewhere; for alpha > 0 below 1 / alpha.

    Args:
        x: a log-ratio or a mean log-prob, in nats. Gradient flows through it.
        alpha: the shape. Nearer to 0 than 1e-20 it counts as 0: the difference is below rounding.

    Returns: nats at alpha 0, else without a unit. Exponents above 20 go on as their tangent, so value and gradient stay
        finite.
    Raises ValueError: ``alpha`` is not finite.
    Source: Wang et al. (f-DPO), arXiv:2309.16240, the alpha-divergence, by an account of its table; Gupta et al.
        (AlphaPO), arXiv:2501.03884v4, the reward, by accounts of it.
    """
    number("alpha", alpha)
    return x if abs(alpha) < 1e-20 else -bounded_expm1(-alpha * x) / alpha


def _shaped_pair(
    beta: float, shape: Callable[[Tensor], Tensor], chosen: Tensor, rejected: Tensor, metrics: dict[str, Mean]
) -> tuple[Tensor, Tensor, dict[str, Mean]]:
    """beta times the shaped rewards, and what every loss on pairs reports: of these rewards, of the same log-probs.

    Which reward is larger is taken from what was shaped, where it is still told when both rewards round to the limit.
    """
    r_w, r_l, shaped = reward_pair_without_reference(beta, shape(chosen), shape(rejected))
    as_before = ("rewards/accuracies", "logps/chosen", "logps/rejected")
    return r_w, r_l, shaped | {name: metrics[name] for name in as_before}


POWERS = {"reverse-kl": 0.0, "forward-kl": 1.0}


def _shape(divergence: str, alpha: float | None) -> Callable[[Tensor], Tensor]:
    """g of (DPO.36)."""
    known = ("reverse-kl", "forward-kl", "alpha", "js")
    require(divergence in known, "divergence", f"one of {', '.join(known)}", divergence)
    if divergence == "alpha":
        number("alpha", alpha, above=0, at_most=1)
    else:
        require(alpha is None, "alpha", f"None beside the divergence {divergence}", alpha)
    if divergence == "js":
        return lambda s: math.log(2) + logsigmoid(s)
    return lambda s: power_reward(s, POWERS.get(divergence, alpha or 0.0))


def f_dpo_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    divergence: str,
    alpha: float | None = None,
    denominator: Count | None = None,
) -> Loss:
    """DPO under another divergence from the reference than the reverse KL: the derivative of its f is the reward.

        L = mean( -log sigmoid( beta g(s_w) - beta g(s_l) ) ),    s = log pi(y | x) - log pi_ref(y | x)    (DPO.36)

    "reverse-kl": g = g_0 of DPO.35, which is DPO; "forward-kl": g_1; "alpha": g_alpha, between the two; "js"
    (Jensen-Shannon): g(s) = log 2 + log sigmoid(s). All but the first level off where a completion is likelier than
    under the reference. g is f'(exp(s)) less a constant, which the difference takes away.

    Args:
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, denominator: as in
            ``dpo_loss``.
        beta: strength of the constraint, in reward units.
        divergence: "reverse-kl", "forward-kl", "alpha" or "js".
        alpha: from above 0 (towards the reverse KL) to 1 (the forward KL) with "alpha"; None with the others. TRL's
            ``f_alpha_divergence_coef`` is 1 - alpha.

    Returns: ``Loss`` (log 2 where policy and reference agree); metrics as ``dpo_loss``, of the rewards beta g(s).
        Where policy and reference agree the gradient is DPO's, with "js" half of it.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive; ``divergence`` is another word; ``alpha`` is
        outside (0, 1] with "alpha", or is given beside another divergence.
    Source: Wang et al. (f-DPO), arXiv:2309.16240, by an account of its table and the authors' code (07d9369).
    """
    shape = _shape(divergence, alpha)
    s_w, s_l, metrics = reward_pair(
        1.0, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    r_w, r_l, metrics = _shaped_pair(beta, shape, s_w, s_l, metrics)
    return Loss(mean_of_pairs(-logsigmoid(r_w - r_l), denominator), metrics)


def alphapo_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    gamma: float,
    alpha: float,
    denominator: Count | None = None,
) -> Loss:
    """SimPO with a power of the probability per token in place of its logarithm.

        L = mean( -log sigmoid( beta g_alpha(l_w) - beta g_alpha(l_l) - gamma ) ),   l = log pi(y | x) / |y|   (DPO.37)

    With g_alpha of DPO.35 a token's mean probability p has the reward beta (1 - p^-alpha) / alpha. Above alpha = 0 the
    gradient grows where a completion is unlikely, the rejected one before all; below 0 it fades there.

    Args:
        chosen_log_probs, rejected_log_probs: l_w, l_l, the *means* per token, in nats. Gradient flows through both.
        beta: reward units per unit of g.
        gamma: the margin, in reward units: outside of beta, as in ``simpo_loss``.
        alpha: the shape: 0 is SimPO, 1 has the reward 1 - 1 / p, -1 has p - 1.
        denominator: number of pairs in the whole batch; None counts those given. At 0 the loss is 0.

    Returns: ``Loss``; metrics as ``dpo_loss``, of the rewards beta g_alpha(l), without gamma.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive; ``gamma`` is negative; ``alpha`` is not
        finite.
    Source: Gupta et al. (AlphaPO), arXiv:2501.03884v4, by accounts of it and TRL 1.16.0's CPOTrainer.
    """
    number("gamma", gamma, at_least=0)
    number("alpha", alpha)
    l_w, l_l, metrics = reward_pair_without_reference(1.0, chosen_log_probs, rejected_log_probs)
    r_w, r_l, metrics = _shaped_pair(beta, lambda x: power_reward(x, alpha), l_w, l_l, metrics)
    return Loss(mean_of_pairs(-logsigmoid(r_w - r_l - gamma), denominator), metrics)


def optimism_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    chosen_is_from_reference: Bool[Tensor, " N"],
    *,
    denominator: Count | None = None,
) -> Loss:
    """XPO's exploration: of each pair the reference wrote one completion, and that one is made less likely.

        L = mean( log pi(y~ | x) ),    y~ the completion of the pair that the reference wrote    (DPO.38)

    Added to ``dpo_loss`` with a small weight, whichever of the two is preferred. The other one is the policy's own.

    Args:
        chosen_log_probs, rejected_log_probs: log pi(y_w | x), log pi(y_l | x), summed over tokens, in nats. Gradient
            flows through that of y~.
        chosen_is_from_reference: True where y~ is the chosen completion, False where it is the rejected one.
        denominator: number of pairs in the whole batch; None counts those given. At 0 the loss is 0.

    Returns: ``Loss``, in nats, at most 0; metrics: ``logps/from_reference``.
    Raises ValueError: a shape or dtype is wrong.
    Source: Xie et al. (XPO), arXiv:2405.21046, eq. 5 and algorithm 1 (of the ICLR 2025 submission), whose sums over all
        rounds' pairs are means here, as in TRL's former XPOTrainer (f2cd577).
    """
    chosen, rejected = same_length(chosen_log_probs=chosen_log_probs, rejected_log_probs=rejected_log_probs)
    check_flags("chosen_is_from_reference", chosen_is_from_reference, chosen.shape)
    from_reference = torch.where(chosen_is_from_reference, chosen, rejected)
    return Loss(mean_of_pairs(from_reference, denominator), {"logps/from_reference": mean_of(from_reference)})


def dpop_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    penalty_coef: float,
    denominator: Count | None = None,
) -> Loss:
    """DPO in which a chosen completion that falls below the reference is charged within the comparison (DPO-Positive).

        L = mean( -log sigmoid( h - penalty_coef max(0, -r_w) ) )                           (DPO.39)

    Below the reference a unit of r_w moves the comparison by 1 + penalty_coef in place of 1; above it this is DPO.

    Args:
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta, denominator: as in
            ``dpo_loss``.
        penalty_coef: the paper's lambda, on a reward: inside of beta. Code that has it outside
            (h - lambda max(0, -r_w / beta)) means penalty_coef = lambda / beta. 0 is DPO.

    Returns: ``Loss`` (log 2 where policy and reference agree); metrics as ``dpo_loss``, without the charge. At r_w = 0,
        where training starts, the charge has no gradient.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive; ``penalty_coef`` is negative.
    Source: Pal et al. (Smaug), arXiv:2402.13228v2, eq. 3, which was not read: by eq. 3 of NotaGen (arXiv:2502.18008),
        which takes it from there, and oat's code (c1a074c). Other accounts have lambda outside of beta.
    """
    number("penalty_coef", penalty_coef, at_least=0)
    r_w, r_l, metrics = reward_pair(
        beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    charged = r_w - r_l - penalty_coef * torch.relu(-r_w)
    return Loss(mean_of_pairs(-logsigmoid(charged), denominator), metrics)


def sppo_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    chosen_win_rates: Float[Tensor, " N"] | None = None,
    rejected_win_rates: Float[Tensor, " N"] | None = None,
    denominator: Count | None = None,
) -> Loss:
    """Self-play: each log-ratio is pulled to how often the completion wins against the policy that wrote it.

        L = mean( ((r_w - (P_w - 1/2)) / beta)^2 + ((r_l - (P_l - 1/2)) / beta)^2 )         (DPO.23)

    Args:
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta, denominator: as in
            ``dpo_loss``. The reference is the policy of the last round; beta is 1 / eta.
        chosen_win_rates, rejected_win_rates: P_w, P_l, from 0 to 1: the share of the round's other completions that
            this one beats. None is the hard form: 1 and 0. Treated as constants.

    Returns: ``Loss``, in nats squared; metrics as ``dpo_loss``.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive.
    Source: Wu et al., arXiv:2405.00675, eq. 4.12. The authors' code has half of it, as eq. 4.7's mean.
    """
    r_w, r_l, metrics = reward_pair(
        beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    p_w = torch.ones_like(r_w) if chosen_win_rates is None else chosen_win_rates
    p_l = torch.zeros_like(r_l) if rejected_win_rates is None else rejected_win_rates
    r_w, r_l, p_w, p_l = same_length(r_w=r_w, r_l=r_l, chosen_win_rates=p_w, rejected_win_rates=p_l)
    losses = (r_w - (p_w.detach() - 0.5)).square() + (r_l - (p_l.detach() - 0.5)).square()
    return Loss(mean_of_pairs(losses / beta**2, denominator), metrics)


def discopop_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    tau: float,
    denominator: Count | None = None,
) -> Loss:
    """The loss that a search by a language model found: logistic for wrong pairs, exponential for right ones.

        L = mean( -(1 - g) log sigmoid(h) + g exp(-h) ),    g = sigmoid(h / tau)            (DPO.24)

    It is not convex: with a small tau it rises around h = 0, and pairs that are just right are pushed back.

    Args:
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta, denominator: as in
            ``dpo_loss``.
        tau: how sharp the change from one to the other is, in reward units; 0.05 in the paper.

    Returns: ``Loss``; metrics as ``dpo_loss``.
    Raises ValueError: a shape or dtype is wrong; ``beta`` or ``tau`` is not positive.
    Source: Lu et al., arXiv:2406.08414v3, eq. 5.
    """
    number("tau", tau, above=0)
    r_w, r_l, metrics = reward_pair(
        beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    h = r_w - r_l
    losses = -torch.sigmoid(-h / tau) * logsigmoid(h) + bounded_exp(logsigmoid(h / tau) - h)
    return Loss(mean_of_pairs(losses, denominator), metrics)


def aot_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    paired: bool,
    label_smoothing: float = 0.0,
    denominator: Count | None = None,
) -> Loss:
    """DPO between sorted values: the *distribution* of rewards is to be better, not each pair.

        paired:      h_i = beta ( u_(i) - v_(i) ),    u = log pi(y_w) - log pi(y_l),         v = the same of pi_ref
        unpaired:    h_i = beta ( u_(i) - v_(i) ),    u = log pi(y_w) - log pi_ref(y_w),     v = the same of y_l
        L = mean( -(1 - label_smoothing) log sigmoid(h_i) - label_smoothing log sigmoid(-h_i) )    (DPO.25)

    u_(i) is the i-th smallest of the batch, so a batch cannot be split: the sorting is of the pairs given.

    Args:
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta, label_smoothing,
            denominator: as in ``dpo_loss``.
        paired: sort the two models' preferences, or the two kinds of completions' rewards (they need not be pairs).

    Returns: ``Loss``; metrics as ``dpo_loss``, of the re-matched pairs.
    Raises ValueError: as ``dpo_loss``.
    Source: Melnyk et al., arXiv:2406.05882.
    """
    w, lo, ref_w, ref_l = same_length(
        chosen_log_probs=chosen_log_probs, rejected_log_probs=rejected_log_probs,
        ref_chosen_log_probs=ref_chosen_log_probs, ref_rejected_log_probs=ref_rejected_log_probs,
    )  # fmt: skip
    if paired:
        u, v = (w - lo).argsort(stable=True), (ref_w - ref_l).argsort(stable=True)
        matched = (w[u], lo[u], ref_w[v], ref_l[v])
    else:
        u, v = (w - ref_w).argsort(stable=True), (lo - ref_l).argsort(stable=True)
        matched = (w[u], lo[v], ref_w[u], ref_l[v])
    return dpo_loss(*matched, beta=beta, label_smoothing=label_smoothing, denominator=denominator)


def shared_length_log_probs(
    log_probs: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], other_mask: Bool[Tensor, "N U"], *, alpha: float
) -> Float[Tensor, " N"]:
    """The log-probability of a completion, of which what goes beyond the other one of its pair counts less.

        log pi^(y | x) = sum_{t <= l} log pi(y_t | x, y_<t) + alpha sum_{t > l} log pi(y_t | x, y_<t),
        l = min(|y|, |y'|),  y' the other completion                                        (DPO.30)

    LD-DPO is ``dpo_loss`` of these. The shorter completion's is its sum; so are both where the two are equally long.

    Args:
        log_probs: log pi(y_t | x, y_<t) of one side's completions, in nats. Gradient flows through it.
        mask: True at the completion's tokens. l counts these: a gap, such as a tool's text, takes no place of it.
        other_mask: the same of the other completion of each pair; it may be of another width.
        alpha: how much a token beyond l counts: 1 is the sum, 0 cuts the completion at l.

    Returns: nats; 0 for a row without a True.
    Raises ValueError: a shape or dtype is wrong; ``alpha`` is outside [0, 1].
    Source: Liu et al. (LD-DPO), arXiv:2409.06411, eq. 11 of the ICLR 2025 submission, which puts the hat on the
        policy alone and does not say how the reference is scored. TRL 1.16.0 scores both models so; ms-swift 3602360
        and LLaMA-Factory ff6d4d1 by that letter, so that a longer completion begins with a reward above 0.
    """
    number("alpha", alpha, at_least=0, at_most=1)
    (log_probs,) = select(mask, log_probs=log_probs)
    check_mask(other_mask, "other_mask")
    require(len(other_mask) == len(mask), "other_mask", f"a torch.bool tensor of shape [{len(mask)} U]", other_mask)
    shared = mask.cumsum(1) <= other_mask.sum(1, keepdim=True)
    return torch.where(shared, log_probs, alpha * log_probs if alpha > 0 else 0).sum(1)


def mpo_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    preference_coef: float,
    quality_coef: float,
    reward_shift: float | Float[Tensor, ""],
    denominator: Count | None = None,
) -> Loss:
    """A comparison of the two completions and a judgement of each, weighed; MPO adds ``sft_loss`` as a third term.

        L = mean( -w_p log sigmoid(h) - w_q ( log sigmoid(r_w - d) + log sigmoid(-(r_l - d)) ) )    (DPO.31)

    Args:
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta, denominator: as in
            ``dpo_loss``.
        preference_coef: w_p, the weight of DPO's loss.
        quality_coef: w_q, the weight of BCO's loss on the same rewards.
        reward_shift: d of ``bco_loss``, in reward units: in the paper "a moving average of past rewards", which the
            caller keeps; 0 in TRL 1.16.0. A constant, which the comparison does not see.

    Returns: ``Loss``; metrics as ``dpo_loss``.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive; a weight is negative; a
        ``reward_shift`` given as a number is not finite.
    Source: Wang et al. (MPO), arXiv:2411.10442, section 4.1 (unnumbered). Its third term is the mean of each chosen
        completion (``sequence_mean``); the authors' code (InternVL 2410d1d) and TRL 1.16.0 take ``token_mean``.
    """
    number("preference_coef", preference_coef, at_least=0)
    number("quality_coef", quality_coef, at_least=0)
    shift = _constant("reward_shift", reward_shift)
    r_w, r_l, metrics = reward_pair(
        beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    judged = -logsigmoid(r_w - shift) - logsigmoid(shift - r_l)
    return Loss(mean_of_pairs(-preference_coef * logsigmoid(r_w - r_l) + quality_coef * judged, denominator), metrics)


def update_reference(
    ref_parameters: Mapping[str, Tensor], parameters: Mapping[str, Tensor], *, alpha: float
) -> dict[str, Tensor]:
    """A reference that follows the policy (TR-DPO): between two updates of DPO's own loss, in the space of parameters.

        theta_ref <- (1 - alpha) theta_ref + alpha theta                                    (DPO.32)

    A soft update moves a part after every step, a hard one (alpha 1) the whole after many. Log-probs of the reference
    that were computed beforehand are no longer its own.

    Args:
        ref_parameters: the reference's, by name: ``dict(reference.named_parameters())``. Left as they are.
        parameters: the policy's, by the same names, of the same shapes.
        alpha: the part that comes from the policy: 0 leaves the reference, 1 makes it the policy, whatever the other
            one holds.

    Returns: the reference's new parameters by name, of its own dtypes, without gradient. Half precision is added up in
        float32 and rounded once.
    Raises ValueError: either is no mapping; names or shapes differ; a parameter is no floating-point tensor; ``alpha``
        is outside [0, 1].
    Source: Gorbatovski et al. (TR-DPO), arXiv:2404.09656, by TRL's account (1.16.0, trainer/callbacks.py).
    """
    number("alpha", alpha, at_least=0, at_most=1)
    for argument, given in {"ref_parameters": ref_parameters, "parameters": parameters}.items():
        expected = "tensors by name, as dict(model.named_parameters())"
        require(isinstance(given, Mapping), argument, expected, given)
    require(
        parameters.keys() == ref_parameters.keys(), "parameters", f"the names {list(ref_parameters)}", list(parameters)
    )
    moved = {}
    for name, ref in ref_parameters.items():
        old = as_float(f"ref_parameters[{name!r}]", ref, ref.shape).detach()
        new = as_float(f"parameters[{name!r}]", parameters[name], ref.shape).detach()
        mixed = (1 - alpha) * old + alpha * new if 0 < alpha < 1 else (new if alpha else old).clone()  # 0 * inf is NaN
        moved[name] = mixed.to(ref.dtype)
    return moved


def sft_loss(log_probs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, reduce: Reduce) -> Loss:
    """The negative log-likelihood of given completions: on its own, or to be added to a loss on pairs.

        L = reduce( -log pi(y_t | x, y_<t) )                                                (DPO.26)

    Args:
        log_probs: of the chosen completions' tokens, in nats. Gradient flows through it.
        mask: True at the completion's tokens. Other entries may hold anything, NaN included.
        reduce: (x[B T], mask) -> scalar, from ``torchstone.core``: ``sequence_mean`` is the term of ORPO and of
            iterative RPO, ``sequence_sum`` CPO's, ``token_mean`` TRL's.

    Returns: ``Loss``, in nats; metrics: ``nll_loss`` (mean over tokens).
    Raises ValueError: a shape or dtype is wrong.
    Source: iterative RPO: Pang et al., arXiv:2404.19733v3, eq. 1; CPO: arXiv:2401.08417v4, eq. 5.
    """
    (log_probs,) = select(mask, log_probs=log_probs)
    return Loss(reduce(-log_probs, mask), {"nll_loss": mean_of(-log_probs, mask)})


def outcome_reward_loss(
    logits: Float[Tensor, "B T"], labels: Float[Tensor, " B"], mask: Bool[Tensor, "B T"], *, reduce: Reduce
) -> Loss:
    """An outcome reward model: at every chosen token, how likely is it that the completion will turn out right?

        L = reduce( -c log sigmoid(z_t) - (1 - c) log sigmoid(-z_t) )                       (DPO.28)

    Args:
        logits: z, the model's score at each token. Gradient flows through it.
        labels: c, one a completion: 1 right, 0 wrong, or a share in between. Treated as a constant.
        mask: True at the tokens that are judged: all of the completion, or the last one only.
        reduce: (x[B T], mask) -> scalar, from ``torchstone.core``.

    Returns: ``Loss``; metrics: ``accuracy`` (of z > 0 as a verdict, over judged tokens).
    Raises ValueError: a shape or dtype is wrong.
    Source: Cobbe et al., arXiv:2110.14168v2, section 4.3 and appendix E (every token of the solution; the loss is not
        printed); as cross-entropy: Lambert, arXiv:2504.12501, chapter on reward models.
    """
    (logits,) = select(mask, logits=logits)
    return _judged(logits, per_token("labels", as_float("labels", labels, mask.shape[:1]), mask), mask, reduce)


def process_reward_loss(
    logits: Float[Tensor, "B T"], step_labels: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, reduce: Reduce
) -> Loss:
    """A process reward model: at the end of every step, is the step right?

        L = reduce( -c_t log sigmoid(z_t) - (1 - c_t) log sigmoid(-z_t) )                   (DPO.29)

    Args:
        logits: z, the model's score at each token. Gradient flows through it.
        step_labels: c, one a token: 1 right, 0 wrong, or a share in between. Treated as a constant.
        mask: True at the tokens that end a step. Other entries may hold anything, NaN included.
        reduce: (x[B T], mask) -> scalar, from ``torchstone.core``.

    Returns: ``Loss``; metrics: ``accuracy`` (of z > 0 as a verdict, over steps).
    Raises ValueError: a shape or dtype is wrong.
    Source: Uesato et al., arXiv:2211.14275; Lightman et al., arXiv:2305.20050.
    """
    logits, step_labels = select(mask, logits=logits, step_labels=step_labels)
    return _judged(logits, step_labels.detach(), mask, reduce)


def _judged(logits: Tensor, labels: Tensor, mask: Tensor, reduce: Reduce) -> Loss:
    """Binary cross-entropy, and the share of right verdicts."""
    losses = -labels * logsigmoid(logits) - (1 - labels) * logsigmoid(-logits)
    return Loss(reduce(losses, mask), {"accuracy": mean_of((logits > 0) == (labels > 0.5), mask)})
