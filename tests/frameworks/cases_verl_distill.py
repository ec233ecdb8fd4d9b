"""verl 0.9.1: distillation_ppo_loss (verl/trainer/distillation/losses.py) on given logits, with its real configs.

`yaml` settings start from verl/trainer/config/distillation/distillation.yaml, the others from the dataclass. Both have
use_task_rewards=False: the task's own policy loss is another row. float32 inside verl: `kl_divergence`, float64 here.
"""

from functools import partial
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import cases_verl
import torch
import yaml
from batch import DistillBatch, leaf, value_and_grads
from cases import Case, Output
from torch import Tensor

from torchstone.frameworks.loading import casts_to_float64
from torchstone.frameworks.verl import functions as verl
from torchstone.frameworks.verl.distill_rows import VERSION

from verl.trainer.distillation import losses  # isort: skip
from verl.workers.config import DistillationLossConfig  # isort: skip

BATCHES = ("distill", "distill-gaps", "distill-empty", "distill-far")
BELOW_0 = "distill-sure"  # a policy surer than the teacher: sums over k tokens below 0


def settings(source: str, **knobs: Any) -> SimpleNamespace:
    """A distillation config: of ``source`` "yaml" or "dataclass", without the task's rewards."""
    text = files("verl").joinpath("trainer/config/distillation/distillation.yaml").read_text("utf-8")
    own = yaml.safe_load(text)["distillation_loss"] if source == "yaml" else {}
    own.pop("_target_", None)
    return SimpleNamespace(distillation_loss=DistillationLossConfig(**(own | {"use_task_rewards": False} | knobs)))


def jagged(x: Tensor) -> Tensor:
    """[B 1+T ...] as verl's engine has it: the tokens of all rows in one, a nested tensor."""
    return torch.nested.nested_tensor_from_jagged(x.flatten(0, 1), torch.arange(len(x) + 1) * x.shape[1])


def shifted(x: Tensor) -> Tensor:
    """[B T ...] with an entry for the last token, which chooses none."""
    return torch.cat([x, torch.zeros_like(x[:, :1])], 1)


def distill(batch: DistillBatch, source: str, **knobs: Any) -> Output:
    """The actor's loss; with a top-k mode the logits are processed first, by the same function."""
    config, of = verl.config(), settings(source, **knobs)
    logits, teacher = leaf(batch.logits), batch.sampled(batch.teacher_logits)
    output = {"log_probs": cases_verl.model_output(batch.sampled(logits))}
    task = {"advantages": torch.zeros_like(batch.old_log_probs)}  # of the policy loss that verl then leaves out
    data = cases_verl.inputs(batch.mask.long(), old_log_probs=batch.old_log_probs, **task)
    with casts_to_float64():
        if of.distillation_loss.loss_mode == "forward_kl_topk":
            top = batch.teacher_logits.log_softmax(-1).topk(of.distillation_loss.topk)
            given = {"teacher_logprobs": jagged(shifted(top.values)), "teacher_ids": jagged(shifted(top.indices))}
            found = losses.distillation_ppo_loss(
                config, of, None, given, student_logits=shifted(logits).flatten(0, 1)[None]
            )
            output |= {name: x[0] for name, x in found.items()}
        else:
            data["teacher_logprobs"] = jagged(shifted(teacher)[..., None])
        loss, _ = losses.distillation_ppo_loss(config, of, output, data)
        return Output(*value_and_grads(loss, logits=logits))


ADVANTAGE = {"source": "yaml", "loss_mode": "k1", "use_policy_gradient": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "opd": ADVANTAGE,
    "opd-k3": {"source": "yaml"},
    "opd-k2": {"source": "yaml", "loss_mode": "k2"},
    "opd-k3-advantage": {"source": "dataclass"},
    "opd-topk-drop": {"source": "yaml", "loss_mode": "forward_kl_topk"},
}
CASES = {f"{name}@{VERSION}": Case(partial(distill, **knobs), (*BATCHES, BELOW_0)) for name, knobs in SETTINGS.items()}
SAME: set[str] = set()
