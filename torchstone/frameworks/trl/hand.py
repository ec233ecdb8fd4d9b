"""What TRL hands to a trainer's loss: a model, and a micro-batch of the inputs that its trainer has made.

Lines are those of trl 1.16.0. ``_compute_loss(model, inputs)`` of GRPOTrainer gets what
``_generate_and_score_completions`` returns (grpo_trainer.py:2898-2936); DPOTrainer's gets what its collator returns,
chosen rows first. A target that subclasses one of TRL's trainers runs with that trainer's settings, its ``__init__``
apart; any other class with ``_compute_loss`` or ``compute_loss`` finds on ``self`` what ``Doors`` has.
"""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from torchstone.frameworks.contract.batch import Batch, made
from torchstone.frameworks.contract.hand import FormError, Given, Hand, Piece
from torchstone.frameworks.contract.stand_in import IDS, logits_of
from torchstone.frameworks.loading import default_dtype
from torchstone.frameworks.registry import theirs
from torchstone.frameworks.trl import load
from torchstone.frameworks.trl.unit import PAIRS, UNIT

FORM = """\
class MyTrainer(GRPOTrainer):  # or DPOTrainer
    def _compute_loss(self, model, inputs):  # DPOTrainer: and return_outputs
        return loss"""
MAX_LENGTH = 10
DEFAULTS = {
    "beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2, "temperature": 1.0, "loss_type": "dapo", "use_vllm": False,
    "importance_sampling_level": "token", "top_entropy_quantile": 1.0, "num_iterations": 2, "aux_loss_enabled": False,
    "max_completion_length": MAX_LENGTH, "num_generations": 2, "scale_rewards": "group",
    "off_policy_mask_threshold": None,
}  # fmt: skip


def accelerator(piece: Piece) -> SimpleNamespace:
    """In the place of accelerate's: what ranks exchange is exchanged."""

    def gather(x: Tensor) -> Tensor:
        return torch.cat([torch.atleast_1d(part) for part in piece.world.exchange(x.detach())])

    def reduce(x: Tensor, reduction: str = "sum", scale: float = 1.0) -> Tensor:
        found = torch.stack(piece.world.exchange(x.detach()))
        return (found.mean(0) if reduction == "mean" else found.sum(0)) * scale

    same = lambda x, **_: x  # noqa: E731
    return SimpleNamespace(
        num_processes=piece.ranks, process_index=piece.world.rank, is_main_process=True, sync_gradients=True,
        device=torch.device("cpu"), gather=gather, gather_for_metrics=gather, reduce=reduce, unwrap_model=same,
        pad_across_processes=same, autocast=nullcontext,
    )  # fmt: skip


class Model(torch.nn.Module):
    """``logits`` [B T+1 V] for rows that the first token id names; a prompt of one token stands before each."""

    is_gradient_checkpointing = False

    def __init__(self, log_probs: Tensor):
        super().__init__()
        self.log_probs, self.config = log_probs, SimpleNamespace(vocab_size=IDS, model_type="llama")

    def forward(self, input_ids: Tensor, attention_mask: Any = None, logits_to_keep: int = 0, labels: Any = None,
                **_: Any) -> SimpleNamespace:  # fmt: skip
        """Logits, and with ``labels`` what TRL's fused LM head returns."""
        rows = input_ids[:, 0]
        logits = logits_of(self.log_probs[rows], ids_of(self.log_probs)[rows])
        logits = torch.nn.functional.pad(logits, (0, 0, 0, 1))[:, -logits_to_keep:]
        head = vars(load.head_output(self.log_probs[rows], labels[:, 1:] != -100)) if labels is not None else {}
        return SimpleNamespace(**(head | {"logits": logits, "aux_loss": None}))


def ids_of(log_probs: Tensor) -> Tensor:
    """The token ids of all completions."""
    return torch.arange(log_probs.numel()).view(log_probs.shape) % IDS


class Doors:
    """Mixed in before a trainer: its doors to a model give the micro-batch's log-probs."""

    def __init__(self) -> None:
        pass

    def _get_per_token_logps_and_entropies(self, model: Any, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        return model.log_probs, torch.ones_like(model.log_probs.detach()), None

    def _get_per_token_logps(self, model: Any, *_: Any, **__: Any) -> Tensor:
        found: Tensor = model.log_probs
        return found


def _kind(target: Any) -> str:
    """Whose subclass the target is, "" if of none of TRL's."""
    names = [base.__name__ for base in inspect.getmro(target) if base.__module__.partition(".")[0] == "trl"]
    return next((name.removesuffix("Trainer") for name in names if name.endswith("Trainer")), "")


def _method(target: Any) -> str:
    if not inspect.isclass(target):
        raise FormError("it is no class: TRL has no place for a function; write a subclass")
    for base in inspect.getmro(target):  # the first that is written: TRL's compute_loss calls _compute_loss
        own = [name for name in ("compute_loss", "_compute_loss") if name in vars(base)]
        if own:
            return own[-1] if base.__module__.startswith("trl.") else own[0]
    raise FormError("it is no trainer: it has neither _compute_loss nor compute_loss")


def padded(piece: Piece) -> Piece:
    """The rows up to the longest completion that its rank has generated: TRL pads no further."""
    rows = len(piece.whole.mask) // piece.ranks
    longest = int(piece.whole.completion[piece.world.rank * rows :][:rows].sum(1).max())
    return replace(piece, batch=piece.batch.each(lambda x: x[:, :longest]))


def bind(target: Any, piece: Piece) -> Callable[..., Any]:
    """The method, of a trainer whose ``__init__`` is not run, as it stands before this micro-batch."""
    piece = piece if _kind(target) == "DPO" else padded(piece)
    kind = _kind(target)
    settings = {
        k: tuple(v) if isinstance(v, list) else v for k, v in piece.settings.items()
    }  # configs are kept by them
    trainer = _real(target, kind, settings, piece.batch) if kind else _plain(target, settings)
    trainer.model, trainer.ref_model = Model(piece.batch.log_probs), Model(piece.batch.ref_log_probs)
    trainer.accelerator = accelerator(piece)
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps = piece.micro_batches
    trainer.args.steps_per_generation = piece.micro_batches
    trainer.state = SimpleNamespace(global_step=0, epoch=0.0, max_steps=1)
    found: Callable[..., Any] = getattr(trainer, _method(target))
    return found


def _plain(target: Any, settings: dict[str, Any]) -> Any:
    """An instance of a class that is none of TRL's, with the attributes of GRPOTrainer."""
    trainer = type(target.__name__, (Doors, target), {})()
    vars(trainer).update(DEFAULTS | settings)
    trainer.args = SimpleNamespace(**(DEFAULTS | {"delta": None, "epsilon": 0.2} | settings))
    trainer._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    return trainer


def _real(target: Any, kind: str, settings: dict[str, Any], batch: Batch) -> Any:
    """One of TRL's own trainers with its config's settings, made into the target."""
    alone = patch.multiple(torch.distributed, is_available=lambda: False, is_initialized=lambda: False)
    with default_dtype(torch.float64), alone:  # a config that TRL makes would look for a launcher's ranks
        fields = theirs(f"{load.HOMES.get(kind, 'trl')}:{kind}Config").__dataclass_fields__
        own: dict[str, Any] = {k: v for k, v in settings.items() if k in fields}
        if kind in ("GRPO", "RLOO", "GMPO"):
            sizes = {"per_device_train_batch_size": 2, "num_generations": 2, "max_completion_length": MAX_LENGTH}
            trainer = load.policy_trainer(kind, load.Numbers(batch.log_probs, batch.mask), **(sizes | own))
        elif kind == "DPO":
            trainer = load.preference_trainer(kind, load.Tables(), **own)
        else:
            raise FormError(f"a subclass of {kind}Trainer is not known here: GRPOTrainer, DPOTrainer and theirs are")
    trainer.__class__ = target if kind == "DPO" else type(target.__name__, (Doors, target), {})
    vars(trainer).update({k: v for k, v in settings.items() if k not in fields})  # what its own __init__ would have set
    return trainer


def calls(piece: Piece, **more: Any) -> list[Given]:
    """``model, inputs``; the count is that of the whole generated batch, all ranks."""
    piece = padded(piece)
    rows, prompt = piece.batch, torch.arange(len(piece.batch.mask))[:, None]
    inputs = {
        "prompt_ids": prompt, "prompt_mask": torch.ones_like(prompt), "completion_ids": ids_of(rows.log_probs),
        "completion_mask": rows.completion.long(), "tool_mask": (rows.mask | ~rows.completion).long(),
        "advantages": rows.advantages[:, 0], "num_items_in_batch": piece.whole.mask.sum(),
        "old_per_token_logps": rows.old_log_probs, "sampling_per_token_logps": rows.sampler_log_probs,
        "ref_per_token_logps": rows.ref_log_probs,
        "importance_sampling_ratio": (rows.old_log_probs - rows.sampler_log_probs).exp().where(rows.mask, 1.0),
    }  # fmt: skip
    return [Given({"model": Model(rows.log_probs), "inputs": inputs, **more}, positional=2)]


def read(result: Any) -> tuple[Any, str]:
    """The loss."""
    return (result[0], "") if isinstance(result, tuple) else (result, "")


# --------------------------------------------------------------------------------------------------------------- pairs


def made_pairs(seed: int = 0) -> Batch:
    """Pairs: the chosen completion in the first half of a row, the rejected one in the second, without tool output."""
    of = made(seed)
    chosen, rejected = of, of.each(lambda x: x.flip(0))
    both = {name: torch.cat([getattr(chosen, name), getattr(rejected, name)], 1) for name in vars(of)}
    return replace(of, **(both | {"mask": both["completion"]}))


def _halves(x: Tensor) -> Tensor:
    return torch.cat(x.chunk(2, 1))


def pair_calls(piece: Piece, **more: Any) -> list[Given]:
    """``model, inputs, return_outputs`` of DPOTrainer."""
    rows = piece.batch.each(_halves)
    inputs = load.completion_inputs(rows.completion)
    inputs["input_ids"] = torch.cat([torch.arange(len(rows.mask))[:, None], ids_of(rows.log_probs)], 1)
    inputs["attention_mask"][:, 1:] = rows.completion
    if piece.settings.get("precompute_ref_log_probs"):
        of_rows = rows.ref_log_probs.where(rows.mask, 0.0).sum(1).chunk(2)
        inputs.update(zip(("ref_chosen_logps", "ref_rejected_logps"), of_rows, strict=True))
    given = {"model": Model(rows.log_probs), "inputs": inputs, "return_outputs": False}
    return [Given(given | more, positional=2)]


def bind_pairs(target: Any, piece: Piece) -> Callable[..., Any]:
    """The method of a trainer of pairs."""
    return bind(target, replace(piece, batch=piece.batch.each(_halves)))


def selective_log_softmax(logits: Tensor, index: Tensor, **_: Any) -> Tensor:
    """The log-probs of the ids, as ``trl.trainer.utils`` has them."""
    return logits.log_softmax(-1).gather(-1, index[..., None])[..., 0]


LINES = {
    "micro_batches": "loss / self.current_gradient_accumulation_steps   # micro-batches are added up",
    "ranks": "divide by inputs['num_items_in_batch'] / self.accelerator.num_processes",
    "tokens": "(x * mask).sum() / (inputs['num_items_in_batch'] / self.accelerator.num_processes)",
    "positions": "(x * mask).sum() / len(x) / self.max_completion_length / self.current_gradient_accumulation_steps",
    "mask": "mask = inputs['completion_mask'] * inputs.get('tool_mask', 1)",
    "beside": "take statistics in _generate_and_score_completions, which sees the whole batch",
}
PAIRS_LINES = {
    "sign": "chosen, rejected = log_probs.chunk(2)   # chosen rows first; the loss falls as chosen - rejected grows",
    "pairs": "compare chosen - rejected, each over its reference, as in -logsigmoid(beta * (chosen - rejected))",
    "micro_batches": "losses.mean()   # Trainer divides by the micro-batches",
    "ranks": "losses.mean()   # the ranks are averaged",
    "tokens": "losses.mean(), one number a pair",
    "mask": "inputs['completion_mask'][:, 1:]",
    "shift": "inputs['completion_mask'][:, 1:]   # beside input_ids[:, 1:], which logits[:, :-1] predict",
}
STAND_INS: dict[str, dict[str, Any]] = {
    "trl": {}, "trl.trainer.utils": {"selective_log_softmax": selective_log_softmax}, "transformers": {},
    "accelerate": {}, "datasets": {}, "peft": {},
}  # fmt: skip
HAND = Hand(
    "TRL",
    UNIT,
    FORM,
    calls,
    read,
    LINES,
    bind=bind,
    even=True,
    advantages="row",
    stand_ins=STAND_INS,
    max_length=MAX_LENGTH,
)
OF_PAIRS = replace(
    HAND, unit=PAIRS, calls=pair_calls, lines=PAIRS_LINES, bind=bind_pairs, advantages="none", made=made_pairs
)


def hand_for(target: Any) -> Hand:
    """Of GRPOTrainer, or of DPOTrainer for its subclasses; ``compute_loss`` is passed one more argument by name."""
    more = {"num_items_in_batch": None} if _method(target) == "compute_loss" else {}
    hand = OF_PAIRS if "trl" in sys.modules and _kind(target) == "DPO" else HAND
    return replace(hand, calls=partial(hand.calls, **more))
