"""Stage 3: from logits to the log-probabilities of the sampled tokens, and from two of them to a ratio."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchstone.core.inputs import as_float, as_ids, check_mask, number

LOG_RATIO_BOUND = 20.0  # nats; exp(20) = 4.9e8


def next_token_log_probs(
    logits: Float[Tensor, "B S V"], tokens: Int[Tensor, "B S"], *, temperature: float
) -> Float[Tensor, "B S-1"]:
    """The log-probability of each token given those before it: logits are shifted here.

        column t:  log pi(y_{t+1} | y_<=t)                                     (CORE.1)

    Args:
        logits: the model's output at every position of ``tokens``. Finite or -inf. Gradient flows through it.
        tokens: prompt, completion and padding, as they went into the model. Every id in [0, V).
        temperature: the temperature that the tokens were sampled at.

    Returns: nats; column t scores token t + 1. Pair it with ``next_token_mask``.
    Raises ValueError: a shape or dtype is wrong; temperature is not positive.
    """
    as_float("logits", logits, "B S V")
    tokens = as_ids("tokens", tokens, logits.shape[:2])
    return token_log_probs(logits[:, :-1], tokens[:, 1:], temperature=temperature)


def token_log_probs(
    logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"], *, temperature: float
) -> Float[Tensor, "B T"]:
    """The log-probability of ``targets`` under the distribution that was sampled.

        log pi(y) = z_y / temperature - log sum_v exp(z_v / temperature)       (CORE.2)

    Args:
        logits: z, aligned with ``targets`` (already shifted). Finite or -inf. Gradient flows through it.
        targets: the token ids to score, in [0, V); padding takes any valid id.
        temperature: the temperature that the tokens were sampled at; the same for policy and reference.

    Returns: nats, at most 0.
    Raises ValueError: a shape or dtype is wrong; temperature is not positive.
    """
    log_p = log_softmax("logits", logits, temperature)
    return log_p.gather(-1, as_ids("targets", targets, logits.shape[:2])[..., None]).squeeze(-1)


def token_entropies(logits: Float[Tensor, "B T V"], *, temperature: float) -> Float[Tensor, "B T"]:
    """The entropy of the whole next-token distribution, not an estimate from the sampled token.

        H = -sum_v pi(v) log pi(v)                                             (CORE.3)

    Args:
        logits: finite or -inf (a token that cannot be chosen adds exactly 0, to the gradient too).
            Gradient flows through it.
        temperature: the temperature that the tokens were sampled at.

    Returns: nats, from 0 to log V.
    Raises ValueError: a shape or dtype is wrong; temperature is not positive.
    """
    log_p = log_softmax("logits", logits, temperature)
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(-1)


def log_softmax(argument: str, logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) over the vocabulary, checked, in at least float32."""
    number("temperature", temperature, above=0)
    return torch.log_softmax(as_float(argument, logits, "B T V") / temperature, dim=-1)


def log_ratios(
    log_probs: Float[Tensor, "B T"], other: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], name: str
) -> Float[Tensor, "B T"]:
    """log pi(y_t) - log pi_other(y_t) in nats; 0 where ``mask`` is False. ``other``, called ``name``, is detached."""
    check_mask(mask)
    log_probs, other = as_float("log_probs", log_probs, mask.shape), as_float(name, other, mask.shape)
    return torch.where(mask, log_probs - other.detach(), 0)


def bounded_exp(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """exp(x), and above +20 its tangent exp(20) (1 + x - 20): finite, and its gradient is never 0.

    k3 and the losses of PPO and GRPO take the same numbers from ``fast.pointwise``.
    """
    bound = LOG_RATIO_BOUND
    return x.clamp(max=bound).exp() + math.exp(bound) * (x - bound).relu()


def bounded_expm1(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``bounded_exp(x) - 1`` without cancellation near 0."""
    bound = LOG_RATIO_BOUND
    return x.clamp(max=bound).expm1() + math.exp(bound) * (x - bound).relu()
