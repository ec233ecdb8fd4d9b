"""Stage 6: the two losses of on-policy distillation: of the sampled tokens, and of the whole vocabulary."""

from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.kl import kl_k1
from torchstone.core.logprobs import log_ratios, token_entropies
from torchstone.core.reduce import Reduce
from torchstone.core.result import Loss, mean_of
from torchstone.distill.advantages import teacher_advantages
from torchstone.distill.divergence import jsd_exact, under_mask
from torchstone.fast.pointwise import bounded_exp, bounded_expm1
from torchstone.reinforce.loss import reinforce_surrogate


def distill_loss(
    log_probs: Float[Tensor, "B T"],
    teacher_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    reduce: Reduce,
    gamma: float,
    old_log_probs: Float[Tensor, "B T"] | None = None,
) -> Loss:
    """The policy gradient with the teacher's log-ratio as the advantage: it lowers KL(pi || pi_T).

        L = reduce( -A_t log pi(y_t) )            y ~ pi, A from DISTILL.1
        L = reduce( -rho_t A_t ),    rho_t = pi(y_t) / pi_old(y_t),    y ~ pi_old    (DISTILL.4)

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it as log pi or rho,
            not through A.
        teacher_log_probs: the same tokens under the teacher, in nats. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        reduce: (x[B T], mask) -> scalar, from ``torchstone.core``. ``sequence_sum`` gives the gradients of DISTILL.1.
        gamma: see ``teacher_advantages``.
        old_log_probs: the same tokens under the policy that sampled them, in nats. Treated as a constant. None if that
            is the present policy. There is no clip. A log-ratio above 20 goes on as the tangent of exp.

    Returns: ``Loss``; its value means nothing, only its gradient does. Metrics (means over tokens): ``kl`` (k1, an
        estimate of KL(pi || pi_T) if pi sampled), and with ``old_log_probs`` ``approx_kl`` (k3 of KL(pi_old || pi)).
    Raises ValueError: a shape or dtype is wrong; ``gamma`` is outside [0, 1].
    Source: Lu & Thinking Machines Lab, "On-Policy Distillation" (2025).
    """
    advantages = teacher_advantages(log_probs, teacher_log_probs, mask, gamma=gamma)
    metrics = {"kl": mean_of(kl_k1(log_probs, teacher_log_probs, mask), mask)}
    if old_log_probs is None:
        losses = reinforce_surrogate(log_probs, advantages, mask)
    else:
        log_rho = log_ratios(log_probs, old_log_probs, mask, "old_log_probs")
        losses = -bounded_exp(log_rho) * advantages
        metrics["approx_kl"] = mean_of(bounded_expm1(log_rho) - log_rho, mask)
    return Loss(reduce(losses, mask), metrics)


def jsd_loss(
    logits: Float[Tensor, "B T V"],
    teacher_logits: Float[Tensor, "B T V"],
    mask: Bool[Tensor, "B T"],
    *,
    reduce: Reduce,
    beta: float,
    temperature: float,
) -> Loss:
    """The divergence of the whole next-token distributions, at each token of the batch.

        L = reduce( JSD_t )                                                     (DISTILL.5)

    What a token does to the divergence of later ones is not in its gradient: the prefixes are held fixed.

    Args:
        logits: of the policy, aligned with ``mask``: the logits that chose token t, not those that follow it. Finite
            or -inf. Gradient flows through it.
        teacher_logits: of the teacher, for the same positions and the same vocabulary. Treated as a constant.
        mask: True where the policy chose the token. Other positions may hold anything, NaN included.
        reduce: (x[B T], mask) -> scalar, from ``torchstone.core``.
        beta, temperature: see ``jsd_exact``.

    Returns: ``Loss``; metrics (means over tokens, in nats): ``jsd``, and ``entropy`` of the policy.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is outside [0, 1]; ``temperature`` is not positive.
    Source: Agarwal et al. (GKD), arXiv:2306.13649, eq. 1.
    """
    logits, teacher_logits = under_mask(logits, teacher_logits, mask)
    losses = jsd_exact(logits, teacher_logits, beta=beta, temperature=temperature)
    entropies = token_entropies(logits.detach(), temperature=temperature)
    return Loss(reduce(losses, mask), {"jsd": mean_of(losses, mask), "entropy": mean_of(entropies, mask)})
