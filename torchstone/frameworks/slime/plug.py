"""A row of the table as slime's custom loss: ``--custom-loss-function-path torchstone.frameworks.slime.plug.loss``.

The row is ``args.torchstone_recipe``, which slime sets from the file of ``--custom-config-path``.
"""

from __future__ import annotations

from typing import Any

from slime.backends.megatron_utils.loss import get_log_probs_and_entropy, get_rollout_top_p_logprob_kwargs
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from torchstone.frameworks.refusals import allowed
from torchstone.frameworks.slime.settings import check, check_rows, loss_refusal, loss_settings

KEYS = {"ref_log_probs": "ref_log_probs", "sampler_log_probs": "rollout_log_probs"}


def loss(args: Any, batch: dict[str, Any], logits: Tensor, sum_of_sample_mean: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The row's loss in slime's form: the sum over a micro-batch's tokens, or over its completions.

    Raises ValueError: slime cannot run the row, or a setting is another than the row's (settings.py).
    """
    row = allowed("slime", args.torchstone_recipe, loss_refusal)
    check(row, loss_settings(row), args)
    samples = {name: batch[name] for name in ("unconcat_tokens", "total_lengths", "response_lengths")}
    samples |= get_rollout_top_p_logprob_kwargs(args, batch)
    _, present = get_log_probs_and_entropy(logits, args=args, with_entropy="entropies" in row.takes("loss"), **samples)
    old = batch["rollout_log_probs"] if args.use_rollout_logprobs else batch.get("log_probs")
    lists = {"old_log_probs": old or [x.detach() for x in present["log_probs"]], "entropies": present.get("entropy")}
    lists |= {ours: batch.get(theirs) for ours, theirs in KEYS.items()}
    known: dict[str, Any] = {name: padded(rows) for name, rows in row.used("loss", lists).items() if rows}
    known |= row.used("loss", {"max_length": args.rollout_max_response_len})
    mask = padded(batch["loss_masks"]).bool()
    check_rows(row, batch["rollout_mask_sums"], mask)
    value, metrics = row.loss(padded(present["log_probs"]), padded(batch["advantages"]), mask, denominator=1, **known)
    logged = {"loss": value.detach()}
    for name, mean in metrics.items():  # slime divides what is logged by its tokens, or by its completions
        logged[name] = mean.total if args.calculate_per_token_loss else value.new_tensor(float(mean) * len(mask))
    return value, logged


def padded(rows: list[Tensor]) -> Tensor:
    """[B T] of one tensor a sample."""
    return pad_sequence(rows, batch_first=True)
