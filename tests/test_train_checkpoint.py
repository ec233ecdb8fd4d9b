"""Nothing is lost: what is on the disk is whole, checked, and of the run that goes on."""

import dataclasses
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from test_train_folder import REWARD, SIZES, records, weights
from transformers import AutoModelForCausalLM

from torchstone.cli import main
from torchstone.store import checkpoint, files
from torchstone.store.files import load_config
from torchstone.terminal import UserError
from torchstone.train.learner import Learner
from torchstone.train.loading import load_policy
from torchstone.train.model import Policy, small_policy
from torchstone.train.options import (
    DistillOptions,
    DPOOptions,
    GRPOOptions,
    PPOOptions,
    RecipeOptions,
    RewardOptions,
    SFTOptions,
)
from torchstone.train.run import Interrupted, train

KEEP = SIZES | {"keep": 3}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "r.py").write_text(REWARD)
    (folder / "d.jsonl").write_text("".join(json.dumps({"prompt": f"{i}>", "answer": "1"}) + "\n" for i in range(20)))
    return folder


def config(home: Path, out: Path, **options) -> GRPOOptions:
    return GRPOOptions(reward=f"{home / 'r.py'}:reward", out=out, **KEEP | options)


@pytest.fixture(scope="module")
def whole(home) -> Path:
    return train(config(home, home / "whole"))


@pytest.fixture(scope="module")
def _stopped(home) -> Path:
    with pytest.raises(Interrupted):
        train(config(home, home / "stopped"), lambda record: record["step"] == 3)
    return home / "stopped"


@pytest.fixture
def stopped(_stopped, tmp_path) -> Path:
    """A run of 4 rounds that was stopped after the third, with the checkpoints of rounds 1 to 3."""
    return Path(shutil.copytree(_stopped, tmp_path / "run"))


def newest(folder: Path) -> Path:
    return checkpoint.files(folder)[-1]


# ----------------------------------------------------------------------------------------------- damage


def flip(file: Path, at: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(at * len(data))] ^= 1
    file.write_bytes(data)


class Hostile:
    def __reduce__(self):
        return (os.system, ("touch hostile",))


DAMAGE = {
    "the lowest bit of a byte in the middle": lambda file: flip(file, 0.5),
    "a bit of the last byte": lambda file: flip(file, 0.9999999),
    "a bit of the header": lambda file: flip(file, 50 / file.stat().st_size),
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: file.write_bytes(b""),
    "a hostile pickle": lambda file: file.write_bytes(pickle.dumps(Hostile())),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_said_and_the_one_before_gone_on_from(stopped, whole, damage, capsys, monkeypatch):
    monkeypatch.chdir(stopped.parent)
    name = newest(stopped).name
    DAMAGE[damage](newest(stopped))
    train(load_config(stopped), resume=True)
    assert f"{name} is damaged" in capsys.readouterr().err and not Path("hostile").exists()
    assert records(stopped) == records(whole) and weights(stopped) == weights(whole)


def test_copies_of_a_users_beside_the_checkpoints_are_left_alone(tmp_path):
    for name in (
        "checkpoint-000002.safetensors",
        "checkpoint-best.safetensors",
        "checkpoint-000001",
        "checkpoint-9.txt",
    ):
        (tmp_path / name).touch()
    assert [file.name for file in checkpoint.files(tmp_path)] == ["checkpoint-000001", "checkpoint-000002.safetensors"]


def test_if_every_checkpoint_is_damaged_nothing_is_begun_again(stopped, capsys):
    for file in checkpoint.files(stopped):
        flip(file, 0.5)
    before = (stopped / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        train(load_config(stopped), resume=True)
    assert (stopped / "metrics.jsonl").read_bytes() == before and len(checkpoint.files(stopped)) == 3


def test_a_checkpoint_is_safetensors_with_all_that_a_run_is(stopped):
    with safe_open(newest(stopped), "pt") as file:
        names, about = set(file.keys()), file.metadata()
    notes = json.loads(about["notes"])
    assert notes["step"] == 3 and notes["options"]["group_size"] == 4 and len(notes["files"]["reward"]) == 64
    policy = load_policy(str(stopped / "start"), "cpu", "float32")
    wanted = {f"policy/{name}" for name, _ in policy.named_parameters()}
    kinds = ("step", "exp_avg", "exp_avg_sq")
    assert names == wanted | {f"adam/{name}/{k}" for name, _ in policy.named_parameters() for k in kinds}


def test_weights_that_stand_in_two_places_are_kept_once(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = small_policy("abc", 16, "cpu").tokenizer
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=1, tie_word_embeddings=True, **sizes))
    learner = Learner(Policy(model, tokenizer))
    notes = {"step": 2, "best": None, "options": {}, "files": {}}
    checkpoint.write(tmp_path, learner, notes, 1)
    before = {name: x.clone() for name, x in learner.tensors().items()}
    with torch.no_grad():
        for p in learner.policy.parameters():
            p.add_(1.0)
    checkpoint.read(tmp_path, learner, notes)
    assert learner.step == 2 and all(torch.equal(x, before[name]) for name, x in learner.tensors().items())
    assert learner.policy.model.lm_head.weight is learner.policy.model.model.embed_tokens.weight


# ---------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize(("keep", "steps"), [(1, [4]), (2, [3, 4]), (9, [0, 1, 2, 3, 4])])
def test_the_newest_are_kept(tmp_path, home, keep, steps):
    folder = train(config(home, tmp_path / "run", keep=keep))
    assert [int(file.stem[-6:]) for file in checkpoint.files(folder)] == steps
    assert (folder / "best").exists() == (keep > 1) and not list(folder.rglob("*.tmp"))


def test_best_is_the_model_of_the_best_held_out_reward_also_after_resuming(tmp_path, home, stopped, whole, monkeypatch):
    rewards = [record["eval_reward"] for record in records(whole)]
    best = rewards.index(max(rewards))
    (file,) = [f for f in checkpoint.files(train(config(home, tmp_path / "all", keep=9))) if f.stem.endswith(str(best))]
    with safe_open(file, "pt") as found:
        names = [name for name in found.keys() if name.startswith("policy/")]  # noqa: SIM118
        wanted = {name.removeprefix("policy/model."): found.get_tensor(name) for name in names}
    train(load_config(stopped), resume=True)
    for folder in (whole, stopped):
        model = AutoModelForCausalLM.from_pretrained(folder / "best")  # also for transformers
        assert all(torch.equal(p, wanted[name]) for name, p in model.named_parameters())


# --------------------------------------------------------------------------------------- what a run belongs to


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"group_size": 3}, "config.json says group_size 3, and the run began with 4: set it back"),
        ({"lr": 1.0}, "config.json says lr 1.0, and the run began with 0.0005"),
        ({"task": "add"}, "config.json says task 'add', and the run began with 'sort'"),
        ({"steps": 2}, "--steps 2: round 3 of the run in .* is done already"),
    ],
)
def test_an_edited_config_is_another_run(stopped, change, says):
    file = stopped / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    before = newest(stopped).read_bytes()
    with pytest.raises(UserError, match=says):
        train(load_config(stopped), resume=True)
    assert newest(stopped).read_bytes() == before


def test_a_checkpoint_of_another_method_is_refused(stopped):
    file = stopped / "config.json"
    values = json.loads(file.read_text())
    shared = {
        k: values[k] for k in ("task", "reward", "seed", "steps", "prompts", "group_size", "eval_prompts", "keep")
    }
    small = {k: values[k] for k in ("pretrain_steps", "warmup_steps", "device", "eval_every")}
    file.write_text(json.dumps({"method": "ppo"} | shared | small))
    with pytest.raises(UserError, match="says method 'ppo', and the run began with 'grpo'"):
        train(load_config(stopped), resume=True)


def test_another_model_in_the_place_of_the_first_is_refused(stopped):
    shutil.rmtree(stopped / "start")
    small_policy("0123456789+=>" + "abc", 16, "cpu").save(stopped / "start")
    with pytest.raises(UserError, match=r"checkpoint-000003.safetensors is of another model than the run has now"):
        train(load_config(stopped), resume=True)


def test_changed_data_is_refused_and_a_changed_reward_is_said(tmp_path, home, capsys):
    data, reward = tmp_path / "d.jsonl", tmp_path / "r.py"
    shutil.copy(home / "d.jsonl", data)
    reward.write_text(REWARD)
    options = {k: v for k, v in KEEP.items() if k != "task"}
    run = GRPOOptions(data=data, reward=f"{reward}:reward", out=tmp_path / "run", **options)
    with pytest.raises(Interrupted):
        train(run, lambda record: record["step"] == 2)
    text = data.read_text()
    data.write_text(text.replace("5>", "6>"))
    with pytest.raises(UserError, match=r"d\.jsonl is not the file of before"):
        train(load_config(tmp_path / "run"), resume=True)
    data.unlink()
    (tmp_path / "moved.jsonl").write_text(text)
    reward.write_text(REWARD.replace("7", "5"))
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "run"), "--data", str(tmp_path / "moved.jsonl")]) == 0
    assert "r.py:reward has changed since round 2: it judges from there on" in capsys.readouterr().err


def test_a_finished_run_is_made_longer(tmp_path, home, whole):
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    assert main(["train", "--resume", str(folder), "--steps", "6"]) == 0
    longer = records(folder)
    assert [record["step"] for record in longer] == [*range(7)] and longer[:5] == records(whole)
    assert longer[5]["learning_rate"] == pytest.approx(5e-4 * 2 / 6)  # its place in the schedule of six
    assert json.loads((folder / "config.json").read_text())["steps"] == 6


# ------------------------------------------------------------------------------------ where nothing can be written


@pytest.fixture
def limit():
    """A file may not grow beyond so many bytes, as with a quota or on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(stopped, whole, limit):
    before, name = newest(stopped).read_bytes(), newest(stopped).name
    limit(500_000)  # below a checkpoint, above the model
    says = r"cannot write .*checkpoint-000004.safetensors: .*\(os error 27\).*what was saved before is whole.*--resume"
    with pytest.raises(UserError, match=says):
        train(load_config(stopped), resume=True)
    limit(resource.RLIM_INFINITY)
    assert newest(stopped).name == name and newest(stopped).read_bytes() == before
    assert not list(stopped.rglob("*tmp*"))  # it would take the room
    train(load_config(stopped), resume=True)
    assert records(stopped) == records(whole) and weights(stopped) == weights(whole)


def test_a_line_that_cannot_be_written_names_its_file(stopped, whole):
    metrics = stopped / "metrics.jsonl"
    kept = metrics.rename(stopped / "kept")
    with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl: No space left on device; what was saved"):
        metrics.symlink_to("/dev/full")
        files.append(metrics, [{"step": 4}])
    metrics.unlink()
    kept.rename(metrics)
    train(load_config(stopped), resume=True)
    assert records(stopped) == records(whole)


def test_too_little_room_is_said_before_any_round(tmp_path, home, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**6))
    with pytest.raises(UserError, match=r"has room for 0.001 GB, and the run writes 0.0058:"):
        train(config(home, tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


# ------------------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_round_and_saves(tmp_path, home, number):
    out = tmp_path / "run"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in (KEEP | {"steps": 5000}).items()]
    command = [sys.executable, "-m", "torchstone", "train", "grpo", f"--reward={home / 'r.py'}:reward", f"--out={out}"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    deadline = time.time() + 90
    while time.time() < deadline and not list(out.glob("checkpoint-*")):
        time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=90)
    assert process.returncode == 130 and f"Go on with: torchstone train --resume {out}" in error
    assert records(out)[-1]["step"] == int(newest(out).stem[-6:])


# ----------------------------------------------------------------------------------------- killed, again and again


KILLED = {
    "grpo": (GRPOOptions, {}), "grpo-lora": (GRPOOptions, {"lora": 2}), "ppo": (PPOOptions, {}),
    "ppo-critic": (PPOOptions, {"critic": "reward-model", "missing_eos_penalty": 0.5}), "dpo": (DPOOptions, {}),
    "sft": (SFTOptions, {"batch_size": 4, "demonstrations": 24}), "reward": (RewardOptions, {}),
    "distill": (DistillOptions, {"minibatches": 2, "beta": 1.0}), "recipe": (RecipeOptions, {"recipe": "ppo"}),
}  # fmt: skip


@pytest.mark.parametrize("name", KILLED)
def test_killed_while_it_saves_is_the_same_as_never_killed(tmp_path, home, whole, name):
    """SIGKILL when half a checkpoint is there; then the run is resumed."""
    kind, own = KILLED[name]
    names = {field.name for field in dataclasses.fields(kind)}
    sizes = SIZES | {"steps": 6, "samples": 256, "pairs": 8, "epochs": 1, "beta": 0.1}
    options = {k: v for k, v in sizes.items() if k in names} | {"reward": f"{home / 'r.py'}:reward"} | own
    options |= {"teacher": str(whole)} if kind is DistillOptions else {}
    if "critic" in own:
        small = {"samples": 256, "pairs": 16, "epochs": 1, "pretrain_steps": 3, "device": "cpu", "eval_prompts": 0}
        judge = train(RewardOptions(out=tmp_path / "judge", reward=options["reward"], **small))
        options |= {"reward_model": str(judge)}
    whole = train(kind(out=tmp_path / "whole", **options))
    assert max(record.get("grad_norm", 0) for record in records(whole)) > 0
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from torchstone.store import checkpoint; from torchstone.train.options import *\n"
        "from torchstone.train.run import train\n"
        "save_file, n = checkpoint.save_file, []\n"
        "def half(tensors, file, about):\n"
        "    save_file(tensors, file, about); n.append(file)\n"
        "    if len(n) == 3: os.truncate(file, 1000); os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoint.save_file = half\n"
        f"train({kind.__name__}(out=Path({str(tmp_path / 'run')!r}), **{options!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
    assert done.returncode == -signal.SIGKILL and list((tmp_path / "run").glob("*.tmp")), done.stderr.decode()
    (tmp_path / "run" / ".tmpw6nj88").touch()  # as safetensors leaves one when it is killed
    train(load_config(tmp_path / "run"), resume=True)
    assert records(tmp_path / "run") == records(whole) and weights(tmp_path / "run") == weights(whole)
    assert not list((tmp_path / "run").rglob("*tmp*"))
