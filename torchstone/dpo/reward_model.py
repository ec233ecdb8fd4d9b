"""Stage 4, before any policy is trained: fitting a reward model to the same pairs."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from torchstone.core.inputs import as_float, number, same_length
from torchstone.core.reduce import Count, mean_of_pairs
from torchstone.core.result import Loss, mean_of


def bradley_terry_loss(
    chosen_rewards: Float[Tensor, " N"],
    rejected_rewards: Float[Tensor, " N"],
    *,
    margin: float | Float[Tensor, " N"] | None = None,
    centre: float = 0.0,
    denominator: Count | None = None,
) -> Loss:
    """The negative log-likelihood of the preferences under the Bradley-Terry model.

        P(y_w > y_l | x) = sigmoid( r(x, y_w) - r(x, y_l) )                     (DPO.5)
        L = mean( -log sigmoid( r(x, y_w) - r(x, y_l) - margin ) )              (DPO.6)
        centred: L + centre mean( (r(x, y_w) + r(x, y_l))^2 )                   (DPO.27)

    Args:
        chosen_rewards, rejected_rewards: r(x, y_w), r(x, y_l), in reward units. Gradient flows through both.
        margin: how much better the chosen one is held to be, in reward units: a number, or one a pair. Treated
            as a constant.
        centre: how strongly the rewards, whose zero the pairs leave open, are held around 0. In 1 / reward units^2.
        denominator: number of pairs in the whole batch; None counts those given. At 0 the loss is 0.

    Returns: ``Loss``; metrics: ``accuracy``, ``reward_gap`` (r(x, y_w) - r(x, y_l)), ``mean_reward``.
    Raises ValueError: a shape or dtype is wrong; ``margin`` is not finite; ``centre`` is negative.
    Source: Christiano et al., arXiv:1706.03741v4, eq. 1; Ouyang et al., arXiv:2203.02155v1, eq. 1; the margin:
        Llama 2, arXiv:2307.09288v2, eq. 2; centring: Eisenstein et al., arXiv:2312.09244v3, eq. 2.
    """
    number("centre", centre, at_least=0)
    chosen_rewards, rejected_rewards = same_length(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    gaps = chosen_rewards - rejected_rewards
    losses = -logsigmoid(gaps - _margin(margin, gaps))  # DPO.6
    if centre > 0:
        losses = losses + centre * (chosen_rewards + rejected_rewards).square()  # DPO.27
    metrics = {
        "accuracy": mean_of(gaps > 0),
        "reward_gap": mean_of(gaps),
        "mean_reward": mean_of((chosen_rewards + rejected_rewards) / 2),
    }
    return Loss(mean_of_pairs(losses, denominator), metrics)


def _margin(margin: float | Tensor | None, gaps: Tensor) -> float | Tensor:
    """The margin, checked and constant: one for all pairs, or one a pair; 0 for none."""
    if margin is None:
        return 0.0
    if isinstance(margin, Tensor):
        return as_float("margin", margin, gaps.shape).detach()
    number("margin", margin)
    return margin
