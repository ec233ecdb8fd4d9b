"""Losses in the forms of six frameworks, right and wrong: ``LOSSES[framework][name] = (target, its findings)``.

Written from the frameworks' own pages and signatures. What is wrong with one is what its author overlooked of the
framework's unit, never the formula: each takes the clipped surrogate, or a plain policy gradient.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

CALLS = itertools.count(1)
SEEN: dict[str, Any] = {}


def clipped(log_probs, old, advantages):
    ratio = (log_probs - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)


def everywhere(count: Tensor) -> Tensor:
    """A count of all ranks."""
    count = count.double()
    dist.all_reduce(count)
    return count


# ---------------------------------------------------------------------------------------------------------------- verl


def verl(reduce):
    def loss(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode="token-mean", config=None,
             rollout_is_weights=None):  # fmt: skip
        x = clipped(log_prob, old_log_prob, advantages)
        return reduce(x, response_mask, config.global_batch_info, advantages), {"actor/pg_clipfrac": 0.0}

    return loss


def by_mode(x, mask, info, _):
    tokens = (x * mask).sum(1)
    return tokens.sum() / info["batch_num_tokens"] * info["dp_size"]


def verl_without_weights(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config):
    return by_mode(-log_prob * advantages, response_mask, config.global_batch_info, None), {}


def verl_by_mode(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None):
    """Right in its default mode; where rows are averaged, the micro-batch's."""
    x, info = clipped(log_prob, old_log_prob, advantages), config.global_batch_info
    if loss_agg_mode == "token-mean":
        return by_mode(x, response_mask, info, None), {}
    return (x * response_mask).sum(1).mean() * info["dp_size"], {}


def verl_bare(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None):
    return by_mode(clipped(log_prob, old_log_prob, advantages), response_mask, config.global_batch_info, None)


def verl_upside_down(sign):
    def loss(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None):
        x = sign * clipped(old_log_prob, log_prob, advantages)
        return by_mode(x, response_mask, config.global_batch_info, None), {}

    return loss


def verl_in_place(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None):
    x = clipped(log_prob, old_log_prob, advantages.mul_(0.5))
    return by_mode(x, response_mask, config.global_batch_info, None), {}


def verl_pairs_of_rows(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, **_):
    """The mean of two rows that stand together is taken off, position by position."""
    two = advantages.view(-1, 2, advantages.shape[1])
    x = clipped(log_prob, old_log_prob, (two - two.mean(1, keepdim=True)).view_as(advantages))
    return by_mode(x, response_mask, config.global_batch_info, None), {}


def verl_masked_before(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, **_):
    """Padding has the ratio 1: a term of the value, without a gradient."""
    x = clipped(log_prob * response_mask, old_log_prob * response_mask, advantages)
    return by_mode(x, torch.ones_like(x), config.global_batch_info, None), {}


def verl_shifted_advantages(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, **_):
    x = clipped(log_prob, old_log_prob, advantages.roll(1, 1))
    return by_mode(x, response_mask, config.global_batch_info, None), {}


VERL = {
    "the clipped surrogate": (verl(by_mode), ""),
    "rows": (verl(lambda x, m, i, a: ((x * m).sum(1) / m.sum(1)).sum() / i["global_batch_size"] * i["dp_size"]), ""),
    "a fixed length": (verl(lambda x, m, i, a: (x * m).sum() / i["global_batch_size"] / 8 * i["dp_size"]), ""),
    "a sum": (verl(lambda x, m, i, a: torch.where(m, x, 0).sum() * i["dp_size"]), ""),
    "the ranks by torch.distributed": (
        verl(lambda x, m, i, a: (x * m).sum() / i["batch_num_tokens"] * dist.get_world_size()), "",),
    "forgets the ranks": (verl(lambda x, m, i, a: (x * m).sum() / i["batch_num_tokens"]), "ranks"),
    "the ranks twice": (verl(lambda x, m, i, a: by_mode(x, m, i, a) * i["dp_size"]), "ranks"),
    "averages over ranks": (verl(lambda x, m, i, a: (x * m).sum() / i["batch_num_tokens"] / i["dp_size"]), "ranks"),
    "its own tokens": (verl(lambda x, m, i, a: (x * m).sum() / m.sum()), "tokens"),
    "its own tokens, and the ranks": (verl(lambda x, m, i, a: (x * m).sum() / m.sum() * i["dp_size"]), "tokens"),
    "its own rows": (verl(lambda x, m, i, a: ((x * m).sum(1) / m.sum(1)).mean()), "rows"),
    "tokens of this step of all ranks": (
        verl(lambda x, m, i, a: (x * m).sum() / everywhere(m.sum()) * i["dp_size"]), "weights"),
    "no mask": (verl(lambda x, m, i, a: x.sum() / i["batch_num_tokens"] * i["dp_size"]), "mask"),
    "a plain mean": (verl(lambda x, m, i, a: x.mean()), "mask rows"),
    "the mask's mean": (verl(lambda x, m, i, a: (x * m).sum() / m.double().mean() / i["global_batch_size"]
                             * i["dp_size"]), "share"),
    "the mask of the next token": (
        verl(lambda x, m, i, a: (x[:, :-1] * m[:, 1:]).sum() / i["batch_num_tokens"] * i["dp_size"]), "shift"),
    "up, not down": (verl(lambda x, m, i, a: -by_mode(x, m, i, a)), "sign"),
    "a detached loss": (verl(lambda x, m, i, a: by_mode(x, m, i, a).detach()), "gradient"),
    "whitens its micro-batch": (
        verl(lambda x, m, i, a: by_mode(x / a[m].abs().mean(), m, i, a)), "weights"),
    "centres its micro-batch": (verl(lambda x, m, i, a: by_mode((x - x[m].mean()).square(), m, i, a)), "beside"),
    "counts its calls": (verl(lambda x, m, i, a: by_mode(x, m, i, a) / next(CALLS)), "state"),
    "no weights": (verl_without_weights, "argument"),
    "a bare tensor": (verl_bare, "returns"),
    "advantages of the token before": (verl_shifted_advantages, "shift"),
    "rows in another mode": (verl_by_mode, "rows"),
    "the old over the new": (verl_upside_down(1), "ratio"),
    "the old over the new, and the sign": (verl_upside_down(-1), "ratio"),
    "dropout": (verl(lambda x, m, i, a: by_mode(torch.nn.functional.dropout(x, 0.1), m, i, a)), "random"),
    "pairs of rows": (verl_pairs_of_rows, "beside raises"),
    "the mask before": (verl_masked_before, ""),
    "advantages in place": (verl_in_place, "inplace"),
}  # fmt: skip

# ----------------------------------------------------------------------------------------------------------------- TRL


def trl(reduce):
    class Trainer:
        def _compute_loss(self, model, inputs):
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
            kept = inputs["completion_ids"].shape[1]
            log_probs, _, _ = self._get_per_token_logps_and_entropies(model, ids, None, kept, compute_entropy=False)
            mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
            x = clipped(log_probs, inputs["old_per_token_logps"], inputs["advantages"][:, None])
            return reduce(self, x, mask, inputs)

    return Trainer


def of_the_step(self, x, mask, inputs):
    return (x * mask).sum() / (inputs["num_items_in_batch"] / self.accelerator.num_processes)


def trl_logits(shift):
    """Log-probs from the model's own logits."""

    class Trainer:
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
            logits = model(input_ids=ids).logits
            logits, targets = (logits[:, :-1], ids[:, 1:]) if shift else (logits[:, 1:], ids[:, 1:])
            log_probs = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
            mask = inputs["completion_mask"] * inputs["tool_mask"]
            return of_the_step(self, -log_probs * inputs["advantages"][:, None], mask, inputs)

    return Trainer


def rows_of(self):
    return self.current_gradient_accumulation_steps


TRL = {
    "tokens of the step": (trl(of_the_step), ""),
    "rows": (trl(lambda s, x, m, i: ((x * m).sum(1) / m.sum(1)).mean() / rows_of(s)), ""),
    "a fixed length": (trl(lambda s, x, m, i: (x * m).sum() / len(x) / s.max_completion_length / rows_of(s)), ""),
    "the model's logits": (trl_logits(True), ""),
    "a padded mean": (trl(lambda s, x, m, i: (x * m).mean() / rows_of(s)), "positions"),
    "tokens by gather": (trl(lambda s, x, m, i: (x * m).sum() / s.accelerator.gather(m.sum()).sum()
                             * s.accelerator.num_processes / rows_of(s)), "weights"),
    "forgets accumulation": (trl(lambda s, x, m, i: ((x * m).sum(1) / m.sum(1)).mean()), "micro_batches"),
    "accumulation twice": (trl(lambda s, x, m, i: of_the_step(s, x, m, i) / rows_of(s)), "micro_batches"),
    "forgets the ranks": (trl(lambda s, x, m, i: (x * m).sum() / i["num_items_in_batch"]), "ranks"),
    "its own tokens": (trl(lambda s, x, m, i: (x * m).sum() / m.sum() / rows_of(s)), "tokens"),
    "padding only": (trl(lambda s, x, m, i: of_the_step(s, x, i["completion_mask"], i)), "tool"),
    "no mask": (trl(lambda s, x, m, i: of_the_step(s, x, torch.ones_like(m), i)), "mask"),
    "logits of the next token": (trl_logits(False), "shift"),
}  # fmt: skip

# --------------------------------------------------------------------------------------------------------------- SkyRL


def skyrl(reduce):
    def loss(log_probs, old_log_probs, advantages, config, loss_mask=None, rollout_logprobs=None):
        return reduce(clipped(log_probs, old_log_probs, advantages), loss_mask), {"clip_ratio": 0.0}

    return loss


def skyrl_plain_mean(log_probs, old_log_probs, advantages, config, loss_mask=None):
    """In the manner of the example that SkyRL ships: a mean over all positions, without the last argument."""
    return -(advantages * log_probs).mean(), {"clip_ratio": 0.0}


SKYRL = {
    "a sum": (skyrl(lambda x, m: (x * m).sum()), ""),
    "a sum of selected tokens": (skyrl(lambda x, m: x[m.bool()].sum()), ""),
    "its example": (skyrl_plain_mean, "argument mask mean"),
    "a mean over tokens": (skyrl(lambda x, m: (x * m).sum() / m.sum()), "mean"),
    "a mean of rows": (skyrl(lambda x, m: ((x * m).sum(1) / m.sum(1)).mean()), "mean"),
    "a mean in each row": (skyrl(lambda x, m: ((x * m).sum(1) / m.sum(1)).sum()), "mean"),
    "a mean by selection": (skyrl(lambda x, m: x[m.bool()].mean()), "mean"),
    "the ranks": (skyrl(lambda x, m: (x * m).sum() * dist.get_world_size()), "ranks"),
    "no mask": (skyrl(lambda x, m: x.sum()), "mask"),
    "another order": (lambda old_log_probs, log_probs, advantages, config, loss_mask=None, rollout_logprobs=None: (
        (clipped(log_probs, old_log_probs, advantages) * loss_mask).sum(), {}), "argument"),
    "no advantages": (lambda log_probs, old_log_probs, advantages, config, loss_mask=None, rollout_logprobs=None: (
        -(log_probs * loss_mask).sum(), {}), "advantages"),
}  # fmt: skip

# ------------------------------------------------------------------------------------------------------------ prime-rl


@dataclass
class LossOutputs:
    loss: Tensor
    metrics: dict[str, Tensor]


def prime_rl(reduce):
    def loss(inputs, clip_eps=0.2):
        x = clipped(inputs.trainer_logprobs, inputs.inference_logprobs, inputs.advantages)
        return LossOutputs(reduce(x, inputs.loss_mask), {})

    return loss


PRIME_RL = {
    "a sum": (prime_rl(lambda x, m: x[m].sum()), ""),
    "a sum by product": (prime_rl(lambda x, m: (x * m).sum()), ""),
    "a mean": (prime_rl(lambda x, m: x[m].mean()), "mean"),
    "the mask's mean": (prime_rl(lambda x, m: (x * m).sum() / m.double().mean() / len(m)), "mean"),
    "no mask": (prime_rl(lambda x, m: x.sum()), "mask"),
    "the mask of the next token": (prime_rl(lambda x, m: (x[:-1] * m[1:]).sum()), "shift"),
    "advantages that are centred in a row": (
        lambda inputs: LossOutputs(
            -((inputs.advantages - inputs.advantages[inputs.loss_mask].mean()) * inputs.trainer_logprobs)[
                inputs.loss_mask
            ].sum(),
            {},
        ),
        "gradient",
    ),
    "a bare tensor": (lambda inputs: prime_rl(lambda x, m: x[m].sum())(inputs).loss, "returns"),
    "the largest seen": (prime_rl(lambda x, m: x[m].sum() / SEEN.setdefault("n", next(CALLS)) / next(CALLS)), "state"),
}

# --------------------------------------------------------------------------------------------------------------- slime


def slime(reduce, shift=1):
    def loss(args, batch, logits, sum_of_sample_mean):
        log_probs, start = [], 0
        for tokens, length in zip(batch["unconcat_tokens"], batch["response_lengths"], strict=True):
            end = start + len(tokens)
            rows = logits[0, end - length - shift : end - shift].log_softmax(-1)
            log_probs.append(rows.gather(-1, tokens[-length:, None])[:, 0])
            start = end
        x = clipped(torch.cat(log_probs), torch.cat(batch["log_probs"]).detach(), torch.cat(batch["advantages"]))
        found = reduce(x, batch, sum_of_sample_mean)
        return found, {"loss": found.detach()}

    return loss


SLIME = {
    "its reducer": (slime(lambda x, b, mean: mean(x)), ""),
    "means of samples": (slime(lambda x, b, mean: sum(
        (part * m).sum() / m.sum() for part, m in zip(x.split(b["response_lengths"]), b["loss_masks"], strict=True))),
        ""),
    "a mean over samples": (slime(lambda x, b, mean: mean(x) / len(b["loss_masks"])), "mean"),
    "a mean over tokens": (slime(lambda x, b, mean: (x * torch.cat(b["loss_masks"])).sum()
                                 / torch.cat(b["loss_masks"]).sum()), "mean"),
    "a plain mean": (slime(lambda x, b, mean: x.mean()), "mask mean"),
    "the ranks": (slime(lambda x, b, mean: mean(x) * dist.get_world_size()), "ranks"),
    "the logits of the next token": (slime(lambda x, b, mean: mean(x), shift=0), "shift"),
}  # fmt: skip

# -------------------------------------------------------------------------------------------------------------- tinker


def tinker(reduce):
    def loss(data, logprobs_list):
        parts = []
        for datum, log_probs in zip(data, logprobs_list, strict=True):
            fields = {name: torch.tensor(x.data) for name, x in datum.loss_fn_inputs.items()}
            parts.append(reduce(clipped(log_probs, fields["logprobs"], fields["advantages"]), fields["mask"], fields))
        total = torch.stack(parts).sum()
        return total, {"loss": total.item()}

    return loss


def tinker_example(data, logprobs_list):
    """In the manner of the SDK's docstring: a mean of means of log-probs."""
    found = torch.stack([row.mean() for row in logprobs_list]).mean()
    return found, {"mine": found.item()}


def tinker_mean(data, logprobs_list):
    total, metrics = tinker(lambda x, m, f: (x * m).sum())(data, logprobs_list)
    return total / len(data), metrics


TINKER = {
    "a sum": (tinker(lambda x, m, f: (x * m).sum()), ""),
    "the weights": (tinker(lambda x, m, f: torch.dot(x, f["weights"].double())), ""),
    "a mean over the call": (tinker_mean, ""),
    "its example": (tinker_example, "mask"),
    "no mask": (tinker(lambda x, m, f: x.sum()), "mask"),
    "the mask of the next token": (tinker(lambda x, m, f: (x[:-1] * m[1:]).sum()), "shift"),
    "detached": (tinker(lambda x, m, f: (x.detach() * m).sum()), "gradient"),
}

LOSSES = {"verl": VERL, "trl": TRL, "skyrl": SKYRL, "prime-rl": PRIME_RL, "slime": SLIME, "tinker": TINKER}
ALL = [(framework, name) for framework, of in LOSSES.items() for name in of]
