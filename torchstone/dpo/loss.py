"""Stages 3 and 6: log-probs of whole completions, and the DPO loss on pairs of them."""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from torchstone.core.inputs import number, same_length, select
from torchstone.core.reduce import Count, mean_of_pairs
from torchstone.core.result import Loss, Mean, mean_of


def sequence_log_probs(
    log_probs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, average: bool
) -> Float[Tensor, " B"]:
    """The log-probability of each completion.

        log pi(y | x) = sum_t log pi(y_t | x, y_<t)    [/ |y|, with average]    (DPO.1)

    Args:
        log_probs: log pi(y_t | x, y_<t), in nats. Gradient flows through it.
        mask: True at the completion's tokens, its end token included; False at prompt and padding.
        average: False for the sum (DPO), True for the mean per token (length-normalised objectives).

    Returns: nats, or nats per token; 0 for a row without a True.
    Raises ValueError: a shape or dtype is wrong.
    Source: Rafailov et al., arXiv:2305.18290v3, appendix B (the sum).
    """
    (log_probs,) = select(mask, log_probs=log_probs)
    return log_probs.sum(1) / mask.sum(1).clamp(min=1) if average else log_probs.sum(1)


def implicit_rewards(
    log_probs: Float[Tensor, " N"], ref_log_probs: Float[Tensor, " N"], *, beta: float
) -> Float[Tensor, " N"]:
    """The reward that a policy is optimal for, up to a constant per prompt.

        r(x, y) = beta (log pi(y | x) - log pi_ref(y | x))                      (DPO.2)

    Args:
        log_probs: log pi(y | x) of whole completions, in nats. Gradient flows through it.
        ref_log_probs: the same under the frozen reference, in nats. Treated as a constant.
        beta: strength of the KL constraint, in reward units per nat.

    Returns: reward units.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive.
    Source: Rafailov et al., arXiv:2305.18290v3, eq. 5, without its beta log Z(x).
    """
    number("beta", beta, above=0)
    log_probs, ref_log_probs = same_length(log_probs=log_probs, ref_log_probs=ref_log_probs)
    return beta * (log_probs - ref_log_probs.detach())


def dpo_loss(
    chosen_log_probs: Float[Tensor, " N"],
    rejected_log_probs: Float[Tensor, " N"],
    ref_chosen_log_probs: Float[Tensor, " N"],
    ref_rejected_log_probs: Float[Tensor, " N"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
    denominator: Count | None = None,
) -> Loss:
    """Direct preference optimisation: logistic regression on the difference of implicit rewards.

        h = r(x, y_w) - r(x, y_l)                                               (DPO.3)
        L = mean( -(1 - label_smoothing) log sigmoid(h) - label_smoothing log sigmoid(-h) )    (DPO.4)

    Args:
        chosen_log_probs, rejected_log_probs: log pi(y_w | x), log pi(y_l | x), summed over tokens, in nats: of the
            completions that people chose, and did not. Gradient flows through both.
        ref_chosen_log_probs, ref_rejected_log_probs: the same under the frozen reference. Treated as constants.
        beta: strength of the KL constraint, in reward units per nat.
        label_smoothing: the share of labels believed to be flipped; 0 is DPO, above 0 is cDPO.
        denominator: number of pairs in the whole batch; None counts those given. At 0 the loss is 0.

    Returns: ``Loss`` (log 2 where policy and reference agree); metrics: ``rewards/chosen``, ``rewards/rejected``,
        ``rewards/margins``, ``rewards/accuracies``, ``logps/chosen``, ``logps/rejected``.
    Raises ValueError: a shape or dtype is wrong; ``beta`` is not positive; ``label_smoothing`` is outside [0, 1].
    Source: Rafailov et al., arXiv:2305.18290v3, eq. 7; label smoothing: Mitchell, "A note on DPO with noisy
        preferences & relationship to IPO" (2023), eq. 3.
    """
    number("label_smoothing", label_smoothing, at_least=0, at_most=1)
    chosen, rejected, metrics = reward_pair(
        beta, chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs
    )
    h = chosen - rejected  # DPO.3
    losses = -logsigmoid(h)
    if label_smoothing > 0:
        losses = (1 - label_smoothing) * losses - label_smoothing * logsigmoid(-h)  # DPO.4
    return Loss(mean_of_pairs(losses, denominator), metrics)


def reward_pair(
    beta: float, chosen_log_probs: Tensor, rejected_log_probs: Tensor,
    ref_chosen_log_probs: Tensor | None, ref_rejected_log_probs: Tensor | None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], dict[str, Mean]]:  # fmt: skip
    """r(x, y_w) and r(x, y_l) of (DPO.2), and what every loss on pairs reports."""
    number("beta", beta, above=0)
    chosen_log_probs, rejected_log_probs, ref_chosen, ref_rejected = same_length(
        chosen_log_probs=chosen_log_probs, rejected_log_probs=rejected_log_probs,
        ref_chosen_log_probs=ref_chosen_log_probs, ref_rejected_log_probs=ref_rejected_log_probs,
    )  # fmt: skip
    chosen = beta * (chosen_log_probs - ref_chosen.detach())
    rejected = beta * (rejected_log_probs - ref_rejected.detach())
    metrics = {
        "rewards/chosen": mean_of(chosen),
        "rewards/rejected": mean_of(rejected),
        "rewards/margins": mean_of(chosen - rejected),
        "rewards/accuracies": mean_of(chosen > rejected),
        "logps/chosen": mean_of(chosen_log_probs),
        "logps/rejected": mean_of(rejected_log_probs),
    }
    return chosen, rejected, metrics
