"""Stage 5: what the teacher thinks of each token that the policy sampled."""

from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core.logprobs import log_ratios
from torchstone.reinforce.returns import discounted_returns


def teacher_advantages(
    log_probs: Float[Tensor, "B T"],
    teacher_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float,
) -> Float[Tensor, "B T"]:
    """How much more likely the teacher finds each sampled token than the policy does, here and in what follows.

        d_t = log pi_T(y_t) - log pi(y_t),    A_t = d_t + gamma A_{t+1},    t over the chosen tokens    (DISTILL.1)

    d_t is -k1 of KL(pi || pi_T): the teacher's log-ratio, paid as a reward.

    Args:
        log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Treated as a constant.
        teacher_log_probs: the same tokens, given the same prefixes, under the teacher, in nats. Treated as a constant.
        mask: True where the policy chose the token. Other entries may hold anything, NaN included.
        gamma: discount per chosen token, in [0, 1]. 0 judges each token alone, given its prefix; 1 adds all that
            follows it. Tool output and padding are stepped over and cost no discount.

    Returns: nats, detached, of either sign; exactly 0 where ``mask`` is False.
    Raises ValueError: a shape or dtype is wrong; ``gamma`` is outside [0, 1].

    Facts (each is a test), as advantages of samples of pi:
        gamma 1: the expected gradient is that of -KL(pi || pi_T) between whole completions.
        gamma 0: that of the sum of the tokens' -KL(pi || pi_T), each with its prefix held fixed.
    Source: Lu & Thinking Machines Lab, "On-Policy Distillation" (2025).
    """
    rewards = -log_ratios(log_probs, teacher_log_probs, mask, "teacher_log_probs")
    return discounted_returns(rewards, mask, gamma=gamma)
