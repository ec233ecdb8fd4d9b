"""How far is the policy from a reference? Estimates of KL(pi || pi_ref) from tokens sampled by pi, and the exact value.

They differ in value, and again in gradient when used inside a loss (E over y_t ~ pi, the prefix given):

    estimator     E[value]              E[gradient of the value]
    k1            KL(pi || pi_ref)      0: no force at all
    k2            not KL                grad KL(pi || pi_ref)
    k3            KL(pi || pi_ref)      grad KL(pi_ref || pi): the other direction

Over whole completions a loss term per token also lacks what a token does to the KL of later ones; paying k1 in
the reward has it all (tests/test_kl.py, tests/test_ppo.py).
"""

from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.inputs import as_float
from torchstone.core.logprobs import log_ratios, log_softmax
from torchstone.fast.pointwise import bounded_expm1


def kl_k1(
    log_probs: Float[Tensor, "B T"], ref_log_probs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Estimate KL(pi || pi_ref) at each token by the log-ratio itself: the penalty to pay in the *reward*.

        k1 = log pi(y) - log pi_ref(y),    y ~ pi                              (KL.1)

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
        ref_log_probs: the same tokens under the frozen reference, in nats. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.

    Returns: nats per token, of either sign; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong.
    Source: Schulman, "Approximating KL Divergence" (2020).
    """
    return log_ratios(log_probs, ref_log_probs, mask, "ref_log_probs")


def kl_k2(
    log_probs: Float[Tensor, "B T"], ref_log_probs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Half the squared log-ratio: not an estimate of KL(pi || pi_ref), but its gradient is one.

        k2 = (log pi(y) - log pi_ref(y))^2 / 2,    y ~ pi                      (KL.2)

    Args:
        log_probs, ref_log_probs, mask: as in ``kl_k1``.

    Returns: non-negative, per token; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong.
    Source: Schulman, "Approximating KL Divergence" (2020).
    """
    return log_ratios(log_probs, ref_log_probs, mask, "ref_log_probs").square() / 2


def kl_k3(
    log_probs: Float[Tensor, "B T"], ref_log_probs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Estimate KL(pi || pi_ref) at each token from one sample of pi, never below 0.

        u = log pi_ref(y) - log pi(y),    k3 = exp(u) - 1 - u,    y ~ pi       (KL.3)

    Args:
        log_probs, ref_log_probs, mask: as in ``kl_k1``.

    Returns: non-negative, in nats per token; exactly 0 where ``mask`` is False. Above u = 20 exp(u) goes on as its
        tangent, so value and gradient stay finite.
    Raises ValueError: a shape or dtype is wrong.

    Facts (each is a test):
        E_pi[k3] = KL(pi || pi_ref): swapping the first two arguments is an error that no type can catch.
        E_pi[grad k3] = grad KL(pi_ref || pi). For grad KL(pi || pi_ref) use kl_k2.
    Source: Schulman, "Approximating KL Divergence" (2020); Shao et al., arXiv:2402.03300v3, eq. 4.
    """
    u = -log_ratios(log_probs, ref_log_probs, mask, "ref_log_probs")
    return bounded_expm1(u) - u


def kl_exact(
    logits: Float[Tensor, "B T V"], ref_logits: Float[Tensor, "B T V"], *, temperature: float
) -> Float[Tensor, "B T"]:
    """KL(pi || pi_ref) of each position's whole next-token distribution.

        KL = sum_v pi(v) (log pi(v) - log pi_ref(v))                           (KL.4)

    Args:
        logits: of the policy, finite or -inf (such a token adds exactly 0). Gradient flows through it.
        ref_logits: of the frozen reference, for the same positions. Treated as a constant. A token that the
            reference excludes (-inf) and the policy does not makes the KL infinite, and its gradient meaningless.
        temperature: the temperature that the tokens were sampled at, for both.

    Returns: nats per position.
    Raises ValueError: a shape or dtype is wrong; temperature is not positive.
    """
    as_float("logits", logits, "B T V")
    as_float("ref_logits", ref_logits, logits.shape)
    log_p = log_softmax("logits", logits, temperature)
    log_q = log_softmax("ref_logits", ref_logits, temperature).detach()
    p = log_p.exp()
    return (p * (log_p - log_q).masked_fill(p == 0, 0)).sum(-1)
