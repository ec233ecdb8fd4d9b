"""Stage 5: advantages relative to a group of samples of the same prompt."""

from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.reduce import by_deviation, check_deviation, root_mean_square
from torchstone.reinforce.returns import centred_rewards


def group_advantages(
    rewards: Float[Tensor, "P G"],
    *,
    divide_by_std: bool,
    correction: int,
    eps: float,
    scored: Bool[Tensor, "P G"] | None = None,
) -> Float[Tensor, "P G"]:
    """Each sample's reward against the mean, and if asked the deviation, of its group.

        A_i = r_i - mean r                                                      (GRPO.1)
        A_i = (r_i - mean r) / (std r + eps)    with divide_by_std              (GRPO.2)

    Args:
        rewards: one a completion, in reward units; row p holds the G samples of prompt p. Treated as a constant.
        divide_by_std: True is GRPO as published, False is Dr. GRPO. Dividing biases the gradient: prompts that
            are nearly solved, or nearly hopeless, weigh more.
        correction: 0 for the population deviation, 1 for the sample deviation (sum / (n - 1)).
        eps: added to the deviation, in reward units.
        scored: False where a completion could not be scored; its reward may then be NaN.

    Returns: unitless with ``divide_by_std``, else reward units; detached. Exactly 0 for an unscored sample, and in a
        group whose scored rewards are all equal or fewer than two, whatever ``eps`` is.
    Raises ValueError: a shape or dtype is wrong; G is 1; ``correction`` is not 0 or 1; ``eps`` is negative.
    Source: Shao et al., arXiv:2402.03300v3, section 4.1.2 (which has no eps, and no word on the correction);
        without the deviation: Liu et al., arXiv:2503.20783v2, section 3.2.
    """
    check_deviation(correction, eps)
    centred, n = centred_rewards(rewards, scored)
    if not divide_by_std:
        return centred
    return by_deviation(centred, root_mean_square(centred, n - correction), eps)
