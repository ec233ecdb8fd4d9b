"""Stage 2: which tokens did the policy choose?"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from torchstone.core.inputs import as_ids, check_mask, require


def completion_mask(completions: Int[Tensor, "B T"], *, eos_id: int | Sequence[int]) -> Bool[Tensor, "B T"]:
    """True up to and including the first end token; everywhere in a row that has none.

    The end token is a choice of the policy, so it is trained: also where the padding uses the same id.

    Args:
        completions: the generated token ids, without the prompt.
        eos_id: the id, or a sequence of the ids, that end a completion.
    Raises ValueError: ``completions`` is not a two-dimensional integer tensor; ``eos_id`` is empty.
    """
    completions = as_ids("completions", completions, "B T")
    ids = list(eos_id) if isinstance(eos_id, Sequence) else [eos_id]
    require(bool(ids) and all(type(i) is int for i in ids), "eos_id", "an id or a non-empty sequence of ids", eos_id)
    is_end = torch.isin(completions, torch.tensor(ids, device=completions.device))
    ends_before = is_end.cumsum(1) - is_end.long()
    return ends_before == 0


def next_token_mask(chosen: Bool[Tensor, "B S"]) -> Bool[Tensor, "B S-1"]:
    """From "this token was chosen" to "this prediction counts": the mask that fits ``next_token_log_probs``.

    Args:
        chosen: True at each token of the full sequence (prompt included) that the *policy* chose, by sampling it. (In
            ``dpo`` it is people who choose: between two completions.)
    Raises ValueError: ``chosen`` is not a two-dimensional bool tensor.
    """
    check_mask(chosen, "chosen")
    return chosen[:, 1:]


def last_chosen(mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """True at the last True of each row; a row without a True stays all False."""
    check_mask(mask)
    chosen_from_here_on = mask.long().flip(1).cumsum(1).flip(1)
    return mask & (chosen_from_here_on == 1)
