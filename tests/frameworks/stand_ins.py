"""What prime-rl, slime, SkyRL and tinker do with a loss, so far as their own code does not load on a CPU.

Each function cuts the batch of ``policy_batch`` as the framework does, hands the pieces to a loss, adds up what comes
back as the framework's unit.py says, and returns the gradient by the log-probs, which are a leaf. A split lists the
rows of each micro-batch of each rank.
"""

import ast
import importlib
import inspect
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from batch import PolicyBatch, leaf, two_token_logits
from torch import Tensor

from torchstone.frameworks.loading import empty
from torchstone.frameworks.skyrl.load import core, load
from torchstone.frameworks.skyrl.settings import CORRECTIONS

SPLIT = [[slice(0, 1), slice(1, 5)], [slice(5, 10), slice(10, 12)]]
EVEN = [[slice(0, 1), slice(1, 6)], [slice(6, 10), slice(10, 12)]]  # SkyRL's ranks have equally many rows
WHOLE = [[slice(0, 12)]]
PROMPT = 2  # tokens, whose log-probs mean nothing


@dataclass
class LossInputs:
    """prime-rl 559b447, src/prime_rl/trainer/rl/loss.py:13-28."""

    trainer_logprobs: Tensor
    inference_logprobs: Tensor
    ref_logprobs: Tensor | None
    advantages: Tensor
    loss_mask: Tensor
    loss_weights: Tensor | None = None


@dataclass
class LossOutputs:
    """The same, loss.py:31-36."""

    loss: Tensor
    metrics: dict[str, Tensor]


def _packages(name: str, **names: Any) -> None:
    """A module of this name in packages that need not be there."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        empty(".".join(parts[:i]), Path("/nowhere"))
    empty(name, **names)


def prime_rl() -> Any:
    """The plug, beside a stand-in of the module that it imports."""
    _packages("prime_rl.trainer.rl.loss", LossInputs=LossInputs, LossOutputs=LossOutputs)
    return importlib.import_module("torchstone.frameworks.prime_rl.plug")


def with_prompt(x: Tensor, value: float) -> Tensor:
    return torch.cat([x.new_full((PROMPT,), value), x])


def prime_rl_gradient(batch: PolicyBatch, split: Any, loss: Any, weights: Tensor | None = None) -> Tensor:
    """train.py:307-323, 461-479 and 555-558; loss.py:351-394."""
    log_probs = leaf(batch.log_probs)
    member = batch.mask if weights is None else batch.mask & (weights != 0)
    scale = max(int(member.sum()), 1)
    for rank in split:
        for rows in rank:
            total = log_probs[rows].sum() * 0.0
            for i in range(*rows.indices(len(batch.mask))):
                if weights is not None and not member[i].any():
                    continue
                inputs = LossInputs(
                    with_prompt(log_probs[i], -5.0),
                    with_prompt(batch.old_log_probs[i], 0.0),
                    None,
                    with_prompt(batch.token_advantages[i], 0.0),
                    with_prompt(member[i], False),
                    None if weights is None else with_prompt(weights[i], 0.0),
                )
                found = loss(inputs)
                assert isinstance(found, LossOutputs)
                assert all(isinstance(x, Tensor) and x.ndim == 0 for x in found.metrics.values())
                total = total + found.loss
            (total / scale / len(split)).backward()  # FSDP averages the ranks
    return log_probs.grad * len(split)  # fsdp_gradient_divide_factor


def slime() -> Any:
    """The plug, beside a stand-in of the module that it imports."""
    _packages(
        "slime.backends.megatron_utils.loss",
        get_log_probs_and_entropy=_log_probs_and_entropy,
        get_rollout_top_p_logprob_kwargs=lambda args, batch: {},
    )
    return importlib.import_module("torchstone.frameworks.slime.plug")


def _log_probs_and_entropy(
    logits: Tensor, *, args: Any, unconcat_tokens: list[Tensor], total_lengths: list[int], response_lengths: list[int],
    with_entropy: bool = False,
) -> tuple[Tensor, dict[str, list[Tensor]]]:  # fmt: skip
    """slime 624b824, loss.py:513-610, without parallel ranks: a token's log-prob is at the position before it."""
    per_sample, end = {"log_probs": [], "entropy": []}, 0
    for tokens, total, length in zip(unconcat_tokens, total_lengths, response_lengths, strict=True):
        end += total
        found = logits[0, end - length - 1 : end - 1].log_softmax(-1)
        per_sample["log_probs"].append(found.gather(-1, tokens[-length:, None])[:, 0])
        entropy = -(found.exp() * found).sum(-1)
        per_sample["entropy"].append(entropy if args.entropy_coef else entropy.detach())
    return logits.new_empty(0), per_sample if with_entropy else {"log_probs": per_sample["log_probs"]}


SLIME = {
    "context_parallel_size": 1, "use_kl_loss": False, "entropy_coef": 0.0, "use_tis": False, "use_opsm": False,
    "use_rollout_logprobs": False, "advantage_estimator": "grpo", "normalize_advantages": False,
}  # fmt: skip


def slime_gradient(batch: PolicyBatch, split: Any, loss: Any, args: Any, old: bool = True) -> Tensor:
    """model.py:580-657 and loss.py:1317-1365; Megatron's division, and its average over ranks."""
    log_probs, masks = leaf(batch.log_probs), batch.mask
    lengths = [int(row.nonzero().max()) + 1 if row.any() else 1 for row in masks]
    tokens_of_step = 0
    for rank in split:
        for rows in rank:
            numbers = range(*rows.indices(len(masks)))

            def cut(x: Tensor, numbers: range = numbers) -> list[Tensor]:
                return [x[i, : lengths[i]] for i in numbers]

            pieces = [_sample_logits(log_probs[i, : lengths[i]]) for i in numbers]
            data = {
                "unconcat_tokens": [torch.zeros(PROMPT + lengths[i], dtype=torch.int64) for i in numbers],
                "total_lengths": [PROMPT + lengths[i] for i in numbers],
                "response_lengths": [lengths[i] for i in numbers],
                "loss_masks": [x.int() for x in cut(masks)],
                "rollout_mask_sums": masks[rows].sum(1),
                "advantages": cut(batch.token_advantages),
                "log_probs": cut(batch.old_log_probs) if old else None,
                "rollout_log_probs": cut(batch.sampler_log_probs),
            }
            if args.use_kl_loss:
                data["ref_log_probs"] = cut(batch.ref_log_probs)
            value, logged = loss(args, data, torch.cat(pieces)[None], None)
            assert all(isinstance(x, Tensor) and x.ndim == 0 and not x.requires_grad for x in logged.values())
            tokens_of_step += sum(max(int(x.sum()), 1) for x in data["loss_masks"])
            if not args.calculate_per_token_loss:
                value = value * len(rank) / len(masks) * len(split)  # loss.py:1354-1359
                value = value / len(rank) / len(split)  # Megatron's schedule, and its average over ranks
            value.backward()
    return log_probs.grad / tokens_of_step if args.calculate_per_token_loss else log_probs.grad


def _sample_logits(log_probs: Tensor) -> Tensor:
    """Logits [PROMPT + T, 2] whose log_softmax before each response token has its log-prob at token 0."""
    logits = two_token_logits(log_probs)
    return torch.cat([logits.new_zeros(PROMPT - 1, 2), logits, logits.new_zeros(1, 2)])


def skyrl() -> Any:
    """The plug, in SkyRL's own registries."""
    load()
    return importlib.import_module("torchstone.frameworks.skyrl.plug")


def skyrl_config(**knobs: Any) -> SimpleNamespace:
    """The fields of ``AlgorithmConfig`` that are read here, with its defaults; its ``use_kl_loss`` is True."""
    correction = dict.fromkeys(CORRECTIONS.split())
    fields = {
        "loss_reduction": "token_mean", "use_kl_loss": False, "kl_loss_coef": 0.001, "kl_estimator_type": "k3",
        "use_entropy_loss": False, "max_seq_len": None, "advantage_batch_normalize": False, "use_kl_in_reward": False,
        "zero_variance_filter": False, "off_policy_correction": SimpleNamespace(**correction),
    }  # fmt: skip
    return SimpleNamespace(**fields | knobs)


def skyrl_gradient(batch: PolicyBatch, split: Any, loss: Any, config: Any, group: int) -> Tensor:
    """trainer.py:1457-1478 with SkyRL's own reduction, and worker.py:788-791, 894-991 with its own KL."""
    log_probs, marks = leaf(batch.log_probs), batch.mask.to(batch.log_probs.dtype)
    bounds = [(start, start + group) for start in range(0, len(marks), group)]
    advantages = core().apply_loss_reduction_to_advantages_minibatch(
        batch.token_advantages, marks, config.loss_reduction, 1, config.max_seq_len, bounds
    )
    for rank in split:
        of_rank = sum(len(marks[rows]) for rows in rank)
        for rows in rank:
            value, logged = loss(
                log_probs[rows],
                batch.old_log_probs[rows],
                advantages[rows],
                config=config,
                loss_mask=marks[rows],
                rollout_logprobs=batch.sampler_log_probs[rows],
            )
            assert all(isinstance(x, float) for x in logged.values())
            value = value * len(split)
            if config.use_kl_loss:
                given = (log_probs[rows], batch.ref_log_probs[rows])
                kl = core().compute_approx_kl(*given, marks[rows], config.kl_estimator_type)
                mean = core().masked_mean(kl, marks[rows], dim=-1).mean()
                value = value + mean * config.kl_loss_coef * len(marks[rows]) / of_rank
            (value / len(split)).backward()  # FSDP averages the ranks
    return log_probs.grad


@cache
def tinker_compute() -> Any:
    """tinker's own ``TrainingClient._compute_custom_loss``, out of its file: the package imports those of a client."""
    folder = next(iter(find_spec("tinker").submodule_search_locations))
    source = Path(folder, "lib/public_interfaces/training_client.py").read_text()
    client = next(x for x in ast.parse(source).body if isinstance(x, ast.ClassDef) and x.name == "TrainingClient")
    function = next(x for x in client.body if getattr(x, "name", "") == "_compute_custom_loss")
    function.decorator_list, function.returns = [], None
    for argument in function.args.args:
        argument.annotation = None
    names = {
        "torch": torch, "LossHandle": type("LossHandle", (), {}), "types": SimpleNamespace(Datum=SimpleNamespace),
        "Any": Any, "_CustomLossResult": lambda data, metrics, loss: SimpleNamespace(data=data, metrics=metrics),
    }  # fmt: skip
    exec(compile(ast.Module([function], []), str(folder), "exec"), names)
    assert "loss_fn" in inspect.signature(names["_compute_custom_loss"]).parameters
    return names["_compute_custom_loss"]


def tinker_data(batch: PolicyBatch, rows: slice, **more: Tensor) -> list[SimpleNamespace]:
    """Data as tinker-cookbook makes them: each as long as its completion."""
    columns = {
        "advantages": batch.token_advantages, "mask": batch.mask.to(batch.log_probs.dtype),
        "logprobs": batch.sampler_log_probs, **more,
    }  # fmt: skip
    found = []
    for i in range(*rows.indices(len(batch.mask))):
        length = int(batch.mask[i].nonzero().max()) + 1 if batch.mask[i].any() else 1
        inputs = {k: SimpleNamespace(to_torch=lambda x=x[i, :length]: x) for k, x in columns.items()}
        inputs["target_tokens"] = torch.zeros(length, dtype=torch.int64)
        found.append(SimpleNamespace(loss_fn_inputs=inputs, model_input=None, model_input_spans=None,
                                     loss_fn_input_spans=None))  # fmt: skip
    return found


def tinker_gradient(batch: PolicyBatch, calls: list[slice], loss: Any, **more: Tensor) -> Tensor:
    """What the server adds up before ``optim_step``: of each call minus the weights, times the slope of -log p."""
    compute, gradient = tinker_compute(), torch.zeros_like(batch.log_probs)
    for rows in calls:
        data = tinker_data(batch, rows, **more)
        lengths = [len(datum.loss_fn_inputs["target_tokens"]) for datum in data]
        numbers = list(range(*rows.indices(len(batch.mask))))
        sent = [SimpleNamespace(data=batch.log_probs[i, :n].tolist(), shape=None)
                for i, n in zip(numbers, lengths, strict=True)]  # fmt: skip
        result = compute(data, loss, SimpleNamespace(loss_fn_outputs=[{"logprobs": x} for x in sent]))
        assert all(isinstance(x, float) for x in result.metrics.values())
        for i, n, datum in zip(numbers, lengths, result.data, strict=True):
            gradient[i, :n] -= datum.loss_fn_inputs["weights"]
    return gradient


def forget_stand_ins() -> None:
    """Take the stand-in packages away, so that nothing else finds them."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("prime_rl", "slime")]:
        del sys.modules[name]
