"""``torchstone check --as``: what TRL, verl and SkyRL ship, as they are installed here; their faults, and no other."""

import importlib

import pytest
import torch
from trl import DPOTrainer, GRPOTrainer
from trl.experimental.gmpo import GMPOTrainer

from torchstone.cli import main
from torchstone.frameworks.contract.find import find
from torchstone.frameworks.skyrl import hand as skyrl
from torchstone.frameworks.skyrl.load import core, load
from torchstone.frameworks.trl import hand as trl
from torchstone.frameworks.verl import hand as verl
from torchstone.frameworks.verl.functions import FRAMEWORK


def faults(hand, target, **settings):
    return {f.name: f.said for f in find(hand, target, settings).faults}


GRPO = {
    **{name: {"loss_type": name} for name in ("grpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "a KL": {"beta": 0.04},
    "vLLM's weights": {"use_vllm": True},
    "half of the tokens": {"top_entropy_quantile": 0.5},
    "dropped completions": {"off_policy_mask_threshold": 0.1},
    "an entropy bonus": {"entropy_coef": 0.1},
}
PAIRS = "sigmoid sigmoid_norm hinge ipo nca_pair robust bco_pair sppo_hard apo_zero apo_down discopop"
DPO = {name: {"loss_type": (name,)} for name in PAIRS.split()}
DPO |= {"exo_pair": {"loss_type": ("exo_pair",), "label_smoothing": 0.001}, "WPO": {"use_weighting": True}}
DPO |= {"LD-DPO": {"ld_alpha": 0.5}}


@pytest.mark.parametrize("name", GRPO)
def test_no_loss_of_grpo_trainer_is_accused(name):
    assert not faults(trl.hand_for(GRPOTrainer), GRPOTrainer, **GRPO[name])


@pytest.mark.parametrize("name", DPO)
def test_no_loss_of_dpo_trainer_is_accused(name):
    assert not faults(trl.hand_for(DPOTrainer), DPOTrainer, **DPO[name])


def test_no_loss_of_gmpo_trainer_is_accused():
    assert not faults(trl.hand_for(GMPOTrainer), GMPOTrainer)


@pytest.mark.parametrize(
    ("trainer", "loss_type", "told"),
    [
        (GRPOTrainer, "bnpo", "tokens"),  # GRPOConfig says so of it: "normalization is performed over the local batch"
        (DPOTrainer, ("sft",), "pairs weights"),  # the chosen alone, a mean over their tokens in the micro-batch
        (DPOTrainer, ("aot",), "beside"),  # it sorts the log-ratios of the micro-batch
        (DPOTrainer, ("aot_unpaired",), "beside"),
    ],
)
def test_what_trl_takes_of_a_micro_batch_is_told(trainer, loss_type, told):
    assert list(faults(trl.hand_for(trainer), trainer, loss_type=loss_type)) == told.split()


class Forgets(GRPOTrainer):
    """As a person writes one: the mean over rows, which TRL adds up over micro-batches."""

    def _compute_loss(self, model, inputs):
        ids, mask = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], 1) for x in ("ids", "mask"))
        kept = inputs["completion_ids"].shape[1]
        log_probs, _, _ = self._get_per_token_logps_and_entropies(model, ids, mask, kept)
        ratio = (log_probs - inputs["old_per_token_logps"]).exp()
        mask = inputs["completion_mask"] * inputs["tool_mask"]
        per_row = -(ratio * inputs["advantages"][:, None] * mask).sum(1) / mask.sum(1)
        return per_row.mean()


def test_a_subclass_that_forgets_accumulation_is_told():
    found = faults(trl.hand_for(Forgets), Forgets)
    assert list(found) == ["micro_batches"] and "doubles with two micro-batches" in found["micro_batches"]


VERL = "vanilla dppo_tv dppo_kl gspo sapo gpg clip_cov kl_cov dro cispo bypass_mode"


@pytest.mark.parametrize("name", VERL.split())
def test_no_registered_loss_of_verl_is_accused_but_geo_mean(name):
    FRAMEWORK.prepare()
    registry = importlib.import_module("verl.trainer.ppo.core_algos").POLICY_LOSS_REGISTRY
    assert {k for k in registry if not k.startswith("torchstone")} == {*VERL.split(), "geo_mean"}
    assert not faults(verl.HAND, registry[name], **({"policy_loss.dro_beta": 0.1} if name == "dro" else {}))


def test_geo_mean_of_verl_0_9_1_changes_with_the_split(capsys):
    """verl-project/verl#7913."""
    FRAMEWORK.prepare()
    target = "verl.trainer.ppo.core_algos:compute_policy_loss_geo_mean"
    assert main(["check", target, "--as", "verl", "--recipe", "gmpo@verl-0.9.1"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "it divides by its micro-batch's rows" in out and "it doubles with two micro-batches" in out
    assert "Uncut, it equals the loss of gmpo@verl-0.9.1" in out


SKYRL = {
    "ppo_policy_loss": [{}, {"policy_loss_type": "dual_clip"}, {"loss_reduction": "sequence_mean"}],
    **{f"{name}_policy_loss": [{"loss_reduction": "sequence_mean"}] for name in ("sapo", "gspo", "rollout_is", "dppo")},
    **{f"compute_policy_loss_{name}": [{}] for name in ("cispo", "clip_cov", "kl_cov")},
    "importance_sampling_loss": [{}],
}


@pytest.mark.parametrize("name", SKYRL)
def test_no_policy_loss_of_skyrl_is_accused(name):
    load()
    for settings in SKYRL[name]:
        assert not faults(skyrl.HAND, getattr(core(), name), **settings)


def test_the_supervised_loss_of_skyrl_reads_no_advantages():
    load()
    assert list(faults(skyrl.HAND, core().cross_entropy_loss)) == ["advantages"]
