"""Stage 6: how far the policy's next-token distribution is from the teacher's, over the vocabulary or its top k."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.inputs import as_float, check_mask, number, require
from torchstone.core.logprobs import log_softmax


def jsd_exact(
    logits: Float[Tensor, "B T V"], teacher_logits: Float[Tensor, "B T V"], *, beta: float, temperature: float
) -> Float[Tensor, "B T"]:
    """The generalised Jensen-Shannon divergence of each position's whole next-token distributions.

        M = beta pi_T + (1 - beta) pi
        JSD = beta KL(pi_T || M) + (1 - beta) KL(pi || M)                       (DISTILL.2)
        beta = 0: KL(pi_T || pi),  beta = 1: KL(pi || pi_T),  by definition: the formula gives 0 at both ends

    Args:
        logits: of the policy, at the positions of the sampled tokens. Finite or -inf. Gradient flows through it.
        teacher_logits: of the teacher, for the same positions and the same vocabulary. Treated as a constant.
        beta: in [0, 1]. 0 is forward KL (the policy covers what the teacher does), 1 reverse KL (the policy stays
            where the teacher is). Near the ends JSD is small: JSD / beta goes to KL(pi_T || pi) as beta goes to 0.
        temperature: divides both logits. The result is not multiplied by temperature^2.

    Returns: nats per position. A token that both exclude (-inf) adds exactly 0, to the gradient too. Below beta 1 a
        token that only the teacher excludes, and above beta 0 one that only the policy excludes, adds a finite amount;
        at that end the KL is infinite, and at beta 1 its gradient meaningless.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is outside [0, 1]; ``temperature`` is not positive.
    Source: Agarwal et al. (GKD), arXiv:2306.13649, eq. 1; the ends by definition: TRL 1.16.0.
    """
    return _jsd(*_log_softmaxes(logits, teacher_logits, temperature), beta)


def jsd_top_k(
    logits: Float[Tensor, "B T V"],
    teacher_logits: Float[Tensor, "B T V"],
    *,
    k: int,
    of: str,
    rest: str,
    beta: float,
    temperature: float,
) -> Float[Tensor, "B T"]:
    """``jsd_exact`` on k tokens of the vocabulary, so that the teacher need not send all of it.

        JSD of p = pi(v) and q = pi_T(v), v in K:  the k likeliest tokens of pi_T or of pi    (DISTILL.3)
        rest "tail":        and one more token, with the mass that is left: 1 - sum p, 1 - sum q
        rest "renormalise": of p / sum p and q / sum q
        rest "drop":        of p and q as they are, which no longer sum to 1

    Args:
        logits, teacher_logits, beta, temperature: as in ``jsd_exact``.
        k: how many tokens, from 1 to V. At V all three are ``jsd_exact``.
        of: ``"teacher"`` or ``"policy"``: whose k likeliest tokens. Which they are is treated as a constant.
        rest: what becomes of the other tokens, as above. With ``"renormalise"`` the k need mass under both.

    Returns: nats per position.
    Raises ValueError: a shape or dtype is wrong; ``k`` is not an integer from 1 to V; ``of`` or ``rest`` is unknown;
        ``beta`` is outside [0, 1]; ``temperature`` is not positive.

    Facts (each is a test):
        ``"tail"`` is between 0 and ``jsd_exact``; ``"drop"`` too if 0 < beta < 1, where no token's term is below 0.
        ``"drop"`` at beta 0 or 1 is no divergence: it may be below 0, and has a gradient where pi is pi_T.
    """
    log_p, log_q = _log_softmaxes(logits, teacher_logits, temperature)
    of_whom = {"teacher": log_q, "policy": log_p}
    require(of in list(of_whom), "of", "'teacher' or 'policy'", of)
    require(rest in ("tail", "renormalise", "drop"), "rest", "'tail', 'renormalise' or 'drop'", rest)
    size = logits.shape[-1]
    require(type(k) is int and 1 <= k <= size, "k", f"an integer from 1 to the vocabulary's {size}", k)
    top = of_whom[of].topk(k).indices
    return _jsd(_at(top, log_p, rest), _at(top, log_q, rest), beta)


def under_mask(
    logits: Float[Tensor, "B T V"], teacher_logits: Float[Tensor, "B T V"], mask: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T V"], Float[Tensor, "B T V"]]:
    """Both logits, 0 where ``mask`` is False: there they may hold anything.

    Raises ValueError: a shape or dtype is wrong.
    """
    check_mask(mask)
    shape = (*mask.shape, as_float("logits", logits, "B T V").shape[-1])
    both = as_float("logits", logits, shape), as_float("teacher_logits", teacher_logits, shape)
    return both[0].masked_fill(~mask[..., None], 0), both[1].masked_fill(~mask[..., None], 0)


def _log_softmaxes(logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    as_float("logits", logits, "B T V")
    as_float("teacher_logits", teacher_logits, logits.shape)
    log_p = log_softmax("logits", logits, temperature)
    return log_p, log_softmax("teacher_logits", teacher_logits, temperature).detach()


def _at(top: Tensor, log_p: Tensor, rest: str) -> Tensor:
    """Log-probs of the tokens ``top``, with the others' mass where ``rest`` puts it."""
    kept = log_p.gather(-1, top)
    if rest == "renormalise":
        return kept - kept.logsumexp(-1, keepdim=True)
    if rest == "tail":
        others = log_p.scatter(-1, top, -torch.inf)
        none = (others == -torch.inf).all(-1, keepdim=True)  # of nothing logsumexp has no gradient
        tail = others.masked_fill(none, 0).logsumexp(-1, keepdim=True).masked_fill(none, -torch.inf)
        return torch.cat([kept, tail], -1)
    return kept


def _jsd(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """DISTILL.2 of the policy's and the teacher's log-probs, over the last dimension."""
    number("beta", beta, at_least=0, at_most=1)
    if beta in (0, 1):
        return _kl(log_p, log_q) if beta == 1 else _kl(log_q, log_p)
    finite = log_p.clamp(min=torch.finfo(log_p.dtype).min)  # of -inf and -inf logaddexp has no gradient
    log_m = torch.logaddexp(log_q + math.log(beta), finite + math.log1p(-beta))
    return beta * _kl(log_q, log_m) + (1 - beta) * _kl(log_p, log_m)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum p (log p - log q) over the last dimension; where p is 0 nothing, to the gradient too."""
    p = log_p.exp()
    return (p * (log_p - log_q).masked_fill(p == 0, 0)).sum(-1)
