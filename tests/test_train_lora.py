"""LoRA: the adapters alone are trained, their base is the reference; AdamW and the schedules of transformers."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from test_train_folder import REWARD, records, weights
from transformers import AutoModelForCausalLM, get_scheduler

from torchstone.core import Loss
from torchstone.store import checkpoint
from torchstone.store.files import load_config
from torchstone.terminal import UserError
from torchstone.train.checks import check_options
from torchstone.train.learner import Learner
from torchstone.train.loading import load_policy
from torchstone.train.model import Policy, small_policy
from torchstone.train.options import METHODS, DPOOptions, GRPOOptions, PPOOptions
from torchstone.train.rollout import as_rollout
from torchstone.train.run import Interrupted, train

SIZES = {"eval_prompts": 4, "eval_every": 1, "device": "cpu", "max_new_tokens": 4, "lr": 1e-2, "lora": 4}
SIZES |= {"beta": 0.1}
ROUNDS = {m: {"steps": 4, "prompts": 4} for m in ("grpo", "ppo")} | {"dpo": {"pairs": 6, "epochs": 1}}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    torch.manual_seed(3)
    policy = small_policy("".join(map(chr, range(32, 127))) + "\n", 64, "cpu")
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.2)
    policy.save(folder / "base")
    (folder / "r.py").write_text(REWARD)
    (folder / "d.jsonl").write_text("".join(json.dumps({"prompt": f"say {i}"}) + "\n" for i in range(20)))
    rows = [{"prompt": f"say {i}", "chosen": f"{i}", "rejected": f"{i + 1} no"} for i in range(20)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config(home: Path, out: Path, method: str = "grpo", **options):
    given = {"model": str(home / "base"), "data": home / ("pairs.jsonl" if method == "dpo" else "d.jsonl")}
    given |= {} if method == "dpo" else {"reward": f"{home / 'r.py'}:reward", "group_size": 4}
    return METHODS[method](out=out, **given | SIZES | ROUNDS[method] | options)


@pytest.fixture(scope="module")
def trained(home) -> Path:
    return train(config(home, home / "run"))


def log_probs(policy: Policy) -> torch.Tensor:
    prompts = policy.encode_prompts(["say 1", "say 12"])
    with torch.no_grad():
        return policy(*as_rollout(policy, prompts, [[5, 6, 7], [8, 9]]).inputs, 1.0).log_probs


def test_adapters_start_at_the_base_and_the_reference_stays_there(home):
    policy = load_policy(str(home / "base"), "cpu", "float32")
    before = log_probs(policy)
    policy.add_lora(4, "base")
    assert not policy.model.training  # no dropout
    reference, learner = policy.frozen(), Learner(policy)
    torch.testing.assert_close(log_probs(policy), before, rtol=0, atol=1e-5)
    assert all("lora_" in name for name in learner.weights) and len(learner.weights) == 2 * 7 * 2
    learner.begin_round(0.1, 1)
    batch = as_rollout(policy, policy.encode_prompts(["say 1"]), [[5, 6]])
    for _ in range(3):  # the first step moves B from 0; then A has a gradient too
        learner.backward(Loss(-policy(*batch.inputs, 1.0).log_probs.sum(), {}))
        learner.update(1.0)
    assert (log_probs(policy) - before).abs().max() > 0.1
    torch.testing.assert_close(log_probs(reference), before, rtol=0, atol=1e-5)
    copied = {id(p) for p in reference.parameters()} - {id(p) for p in policy.parameters()}
    assert not copied and (log_probs(policy) - before).abs().max() > 0.1  # and its adapters are on again


def test_the_kl_of_a_run_is_to_the_base(home, trained):
    kls = [record["kl"] for record in records(trained)[1:]]
    assert abs(kls[0]) < 1e-6 and max(kls[1:]) > 1e-4


def test_the_result_is_merged_and_beside_it_the_adapters(home, trained):
    base, model = (AutoModelForCausalLM.from_pretrained(folder) for folder in (home / "base", trained / "model"))
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, base.get_parameter(name))}
    linear = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    assert changed == linear - {"lm_head.weight"}
    merged, adapted = (load_policy(str(trained / name), "cpu", "float32") for name in ("model", "adapter"))
    torch.testing.assert_close(log_probs(merged), log_probs(adapted), rtol=0, atol=1e-5)
    assert (trained / "adapter" / "adapter_model.safetensors").stat().st_size < 200_000 and merged.end_id == 1


def test_a_checkpoint_holds_the_adapters_only(trained):
    with safe_open(checkpoint.files(trained)[-1], "pt") as file:
        names = list(file.keys())
    assert names and all("lora_" in name for name in names)


@pytest.mark.parametrize("method", ["grpo", "ppo", "dpo"])
def test_stopped_and_resumed_is_the_same_as_never_stopped(tmp_path, home, method):
    whole = train(config(home, tmp_path / "a", method))
    assert max(record.get("grad_norm", 0) for record in records(whole)) > 0
    with pytest.raises(Interrupted):
        train(config(home, tmp_path / "b", method), lambda record: record["step"] == 2)
    train(load_config(tmp_path / "b"), resume=True)
    assert records(tmp_path / "b") == records(whole) and weights(tmp_path / "b") == weights(whole)


def test_the_adapters_are_gone_on_with_as_a_model(tmp_path, home, trained):
    with pytest.raises(UserError, match=r"is adapters: with --lora, give a whole model, as model/ beside them is"):
        train(config(home, tmp_path / "run", model=str(trained / "adapter")))
    folder = train(config(home, tmp_path / "run", model=str(trained / "adapter"), steps=1, lora=0))
    first, last = records(folder)[0]["eval_reward"], records(trained)[-1]["eval_reward"]
    assert first == pytest.approx(last)


@pytest.mark.parametrize("own", [True, False], ids=["given", "the small one"])
def test_adapters_are_loaded_from_any_working_directory(tmp_path, home, monkeypatch, own):
    monkeypatch.chdir(home)
    small = {"task": "sort", "data": None, "reward": (), "pretrain_steps": 2, "warmup_steps": 1}
    train(config(home, tmp_path / "run", steps=1, **{"model": "base"} if own else {"model": None} | small))
    monkeypatch.chdir(tmp_path)
    merged, adapted = (load_policy(f"run/{name}", "cpu", "float32").state_dict() for name in ("model", "adapter"))
    for name in merged:
        torch.testing.assert_close(merged[name], adapted[name], rtol=0, atol=1e-6)


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("torchstone.train.checks.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'--lora needs peft: pip install "\.\[lora\]"'):
        check_options(GRPOOptions(lora=8))
    check_options(GRPOOptions())
    assert importlib.util.find_spec("peft")


# -------------------------------------------------------------------------------------- optimiser and schedules


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup", "inverse_sqrt"])
def test_a_schedule_is_that_of_transformers(schedule):
    learner = Learner(small_policy("ab", 8, "cpu"), schedule=schedule, lr_warmup=3)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    theirs = get_scheduler(schedule, optimizer, num_warmup_steps=3, num_training_steps=10)
    for _ in range(10):
        learner.begin_round(0.5, 10)
        assert learner.end_round()["learning_rate"] == pytest.approx(theirs.get_last_lr()[0], abs=1e-7)
        optimizer.step()
        theirs.step()


def test_weights_decay_by_lr_times_their_share():
    policy = small_policy("ab", 8, "cpu")
    learner = Learner(policy, weight_decay=0.5, schedule="constant")
    before = [p.detach().clone() for p in policy.parameters()]
    learner.begin_round(0.1, 1)
    for p in policy.parameters():
        p.grad = torch.zeros_like(p)  # nothing but the decay
    learner.optimizer.step()
    for p, old in zip(policy.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old * (1 - 0.1 * 0.5))


def test_the_default_schedule_is_up_in_a_tenth_and_down_to_nearly_0():
    learner = Learner(small_policy("ab", 8, "cpu"))
    rates = []
    for learner.step in range(20):
        learner.begin_round(3e-4, 20)
        rates.append(learner.optimizer.param_groups[0]["lr"])
    assert rates == [3e-4 * min(1, (n + 1) / 2) * (1 - n / 20) for n in range(20)]  # to the bit
    assert math.isclose(rates[-1], 0.05 * 3e-4)
    assert type(learner.optimizer) is torch.optim.Adam


@pytest.mark.parametrize("schedule", ["up-down", "constant"])
def test_a_warmup_that_no_schedule_takes_is_refused(schedule):
    with pytest.raises(UserError, match="--lr-warmup would change nothing: --schedule"):
        check_options(PPOOptions(schedule=schedule, lr_warmup=3))
    check_options(DPOOptions(schedule="cosine", lr_warmup=3))
