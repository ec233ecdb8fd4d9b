"""What the families share, in the order in which data flows through it. The rules are in README.md."""

from torchstone.core.kl import kl_exact, kl_k1, kl_k2, kl_k3
from torchstone.core.logprobs import next_token_log_probs, token_entropies, token_log_probs
from torchstone.core.masks import completion_mask, next_token_mask
from torchstone.core.reduce import fixed_length_mean, masked_whiten, sequence_mean, sequence_sum, token_mean
from torchstone.core.result import Loss, Mean
from torchstone.core.scan import linear_recurrence
from torchstone.fast.linear import linear_log_probs, linear_log_probs_and_entropies, linear_loss

# fmt: off
__all__ = [
    "completion_mask", "next_token_mask",
    "next_token_log_probs", "token_log_probs", "token_entropies",
    "linear_log_probs", "linear_log_probs_and_entropies", "linear_loss",
    "kl_k1", "kl_k2", "kl_k3", "kl_exact",
    "linear_recurrence", "masked_whiten",
    "token_mean", "sequence_mean", "sequence_sum", "fixed_length_mean", "Mean", "Loss",
]
