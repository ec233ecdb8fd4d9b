"""What slime hands to a custom loss: packed logits, lists of one tensor a sample, and its reducer.

Read at slime 624b824: the call and the scale of ``slime/backends/megatron_utils/loss.py:1317-1358``, the reducer of
``cp_utils.py:47-90``, the alignment of ``get_responses`` (loss.py:97). ``log_probs_and_entropy`` and ``policy_loss`` do
what ``get_log_probs_and_entropy`` and ``compute_policy_loss`` do without context parallelism.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from torchstone.frameworks.contract.hand import Given, Hand, Piece, pair
from torchstone.frameworks.contract.stand_in import IDS, logits_of
from torchstone.frameworks.slime.unit import UNIT

FORM = """\
def loss(args, batch, logits, sum_of_sample_mean):
    # logits [1, tokens, vocabulary]: samples one after the other, with prompts;
    # batch: lists of one tensor a sample (advantages, log_probs, loss_masks)
    return loss, metrics"""
ARGS = {
    "eps_clip": 0.2, "eps_clip_high": 0.2, "eps_clip_c": None, "entropy_coef": 0.0, "use_kl_loss": False,
    "kl_loss_coef": 0.0, "kl_loss_type": "k1", "use_tis": False, "tis_clip": 2.0, "tis_clip_low": 0.0,
    "use_rollout_logprobs": False, "advantage_estimator": "grpo", "calculate_per_token_loss": False,
    "rollout_temperature": 1.0, "use_opsm": False, "get_mismatch_metrics": False, "qkv_format": "thd",
    "micro_batch_size": 1, "rollout_batch_size": 16, "n_samples_per_prompt": 1, "seed": 0,
}  # fmt: skip


def log_probs_and_entropy(
    logits: Tensor, *, args: Any = None, unconcat_tokens: list[Tensor], total_lengths: list[int],
    response_lengths: list[int], with_entropy: bool = False, **_: Any,
) -> tuple[Tensor, dict[str, list[Tensor]]]:  # fmt: skip
    """The log-probs of each sample's response: logits stand one position before the token that they choose."""
    found: dict[str, list[Tensor]] = {"log_probs": [], "entropy": []}
    rows = logits.squeeze(0).log_softmax(-1).split(total_lengths)
    for row, tokens, length in zip(rows, unconcat_tokens, response_lengths, strict=True):
        at = row[len(tokens) - length - 1 : len(tokens) - 1]
        found["log_probs"].append(at.gather(-1, tokens[-length:, None])[:, 0])
        found["entropy"].append(-(at.exp() * at).sum(-1))
    return logits.new_zeros(0), found if with_entropy else {"log_probs": found["log_probs"]}


def policy_loss(
    ppo_kl: Tensor, advantages: Tensor, eps_clip: float, eps_clip_high: float, eps_clip_c: Any = None
) -> Any:
    """The clipped surrogate of each token, and where it is clipped."""
    ratio = (-ppo_kl).exp()
    plain, clipped = -ratio * advantages, -ratio.clamp(1 - eps_clip, 1 + eps_clip_high) * advantages
    found = torch.maximum(plain, clipped)
    if eps_clip_c is not None:
        found = torch.where(advantages < 0, torch.minimum(found, -eps_clip_c * advantages), found)
    return found, (clipped > plain).to(ratio.dtype)


def reducer(masks: list[Tensor], a_token: bool) -> Callable[[Tensor], Tensor]:
    """``sum_of_sample_mean``: of numbers [tokens] of all responses, the sum of each one's mean; or of all tokens."""

    def of(x: Tensor) -> Tensor:
        parts = zip(x.split([len(m) for m in masks]), masks, strict=True)
        means = [(part * mask).sum() / (1 if a_token else mask.sum().clamp(min=1)) for part, mask in parts]
        return torch.stack(means).sum()

    return of


def calls(piece: Piece) -> list[Given]:
    """``args, batch, logits, sum_of_sample_mean``; each prompt is two tokens long."""
    rows, size = piece.batch, {"global_batch_size": len(piece.whole.mask)}
    args = SimpleNamespace(**(ARGS | size | dict(piece.settings)))
    lengths: list[int] = rows.completion.sum(1).tolist()
    each = lambda x: [x[i, :n] for i, n in enumerate(lengths)]  # noqa: E731
    tokens = [torch.arange(2 + n) % IDS for n in lengths]
    pairs = zip(each(rows.log_probs), tokens, strict=True)  # of the response; logits stand one place before their token
    logits = [torch.nn.functional.pad(logits_of(x, ids[2:]), (0, 0, 1, 1)) for x, ids in pairs]
    masks = each(rows.mask.to(rows.log_probs.dtype))
    batch = {
        "unconcat_tokens": tokens, "tokens": torch.cat(tokens), "total_lengths": [2 + n for n in lengths],
        "response_lengths": lengths, "loss_masks": masks, "rollout_mask_sums": [m.sum() for m in masks],
        "advantages": each(rows.advantages), "returns": each(rows.advantages), "log_probs": each(rows.old_log_probs),
        "rollout_log_probs": each(rows.sampler_log_probs), "ref_log_probs": each(rows.ref_log_probs),
    }  # fmt: skip
    given = {"args": args, "batch": batch, "logits": torch.cat(logits)[None],
             "sum_of_sample_mean": reducer(masks, args.calculate_per_token_loss)}  # fmt: skip
    return [Given(given, positional=4)]


LINES = {
    "mask": "loss = sum_of_sample_mean(torch.cat(x))",
    "mean": "loss = sum_of_sample_mean(torch.cat(x))   # slime divides by the samples of the step",
    "ranks": "loss as it is: slime multiplies by the ranks itself",
    "shift": "get_log_probs_and_entropy(logits, ...), or logits[start - 1 : end - 1] for tokens[start:end]",
}
MPU = SimpleNamespace(
    get_data_parallel_world_size=lambda **_: dist.get_world_size(), get_data_parallel_rank=lambda **_: dist.get_rank(),
    get_context_parallel_world_size=lambda: 1, get_tensor_model_parallel_world_size=lambda: 1,
)  # fmt: skip
HAND = Hand(
    "slime", UNIT, FORM, calls, pair("slime"), LINES, padded=False,
    stand_ins={
        "slime": {}, "megatron": {}, "megatron.core": {"mpu": MPU},
        "slime.utils.ppo_utils": {"compute_policy_loss": policy_loss},
        "slime.backends.megatron_utils.loss": {"get_log_probs_and_entropy": log_probs_and_entropy},
    },
)  # fmt: skip
