"""Following a run: what is told while it goes on, on a terminal and without one, and where its metrics go."""

import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from torchstone import progress
from torchstone.cli import main
from torchstone.data.tasks import DIGITS
from torchstone.evaluate import dry
from torchstone.progress import Bar, duration, evaluated, noted, shown
from torchstone.store.files import load_config
from torchstone.terminal import UserError
from torchstone.train.model import small_policy
from torchstone.train.options import GRPOOptions, RewardOptions
from torchstone.train.run import Interrupted, train

SIZES = {"pretrain_steps": 3, "warmup_steps": 2, "eval_prompts": 4, "device": "cpu", "task": "sort"}
SIZES |= {"steps": 4, "prompts": 4, "group_size": 4, "eval_every": 2}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


# ------------------------------------------------------------------------------------------------ trackers


class Module(SimpleNamespace):
    """In place of trackio: keeps what it is given."""

    def __init__(self):
        super().__init__(__spec__=True, runs=[])

    def init(self, **options):
        self.runs.append({"options": options, "logged": [], "open": True})

    def log(self, metrics, step):
        self.runs[-1]["logged"].append({"step": step} | metrics)

    def finish(self):
        self.runs[-1]["open"] = False


def read_tensorboard(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, round(event.value, 6)) for event in events.Scalars(name)]


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_trackers_have_the_numbers_of_metrics_jsonl_and_a_resumed_run_each_once(tmp_path, monkeypatch):
    trackio = Module()
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    config = GRPOOptions(out=tmp_path / "run", log=("tensorboard", "trackio"), **SIZES)
    with pytest.raises(Interrupted):
        train(config, lambda record: record["step"] == 2)
    again = load_config(tmp_path / "run")
    assert again.log == config.log
    folder = train(again, resume=True)
    rows = [(r["step"], round(r["entropy"], 6)) for r in records(folder)[1:]]
    assert read_tensorboard(folder, "entropy") == rows and [step for step, _ in rows] == [1, 2, 3, 4]
    first, second = trackio.runs
    assert first["options"]["name"] == second["options"]["name"] and not second["open"]
    assert second["options"]["resume"] == "allow" and second["options"]["config"]["group_size"] == 4
    logged = {r["step"]: r["entropy"] for run in trackio.runs for r in run["logged"] if "entropy" in r}
    assert logged == {r["step"]: r["entropy"] for r in records(folder)[1:]}


def test_wandb_works_offline_and_ends_when_the_run_does(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged, log = [], wandb.Run.log
    monkeypatch.setattr(wandb.Run, "log", lambda run, record: (logged.append(record), log(run, record))[1])
    folder = train(GRPOOptions(out=tmp_path / "run", log=("wandb",), **SIZES))
    assert wandb.run is None and list((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert [r["step"] for r in logged] == [0, 1, 2, 3, 4]
    assert [r["reward"] for r in logged[1:]] == [r["reward"] for r in records(folder)[1:]]


def test_a_tracker_that_is_not_installed_is_named_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torchstone.train.checks.find_spec", lambda name: None if name == "trackio" else name)
    assert main(["train", "grpo", "--log", "tensorboard", "trackio", "--out", str(tmp_path / "run")]) == 1
    told = capsys.readouterr().err
    assert "--log trackio needs a package that is not installed: pip install" in told and not list(tmp_path.iterdir())
    assert main(["train", "grpo", "--log", "mlflow"]) == 2
    assert "invalid choice: 'mlflow'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ progress


def test_tokens_are_those_sampled_so_far_also_after_a_stop(tmp_path):
    config = GRPOOptions(out=tmp_path / "run", **SIZES)
    with pytest.raises(Interrupted):
        train(config, lambda record: record["step"] == 3)
    rows = records(train(config, resume=True))
    sums = [round(16 * sum(r["completions/mean_length"] for r in rows[1:n])) for n in range(2, 6)]
    assert [r["tokens"] for r in rows[1:]] == sums


def test_without_a_terminal_a_line_comes_now_and_then(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    with Bar("grpo") as bar:
        for step in range(401):
            clock[0] += 1
            bar.update(step, 1000, f"reward {step}", "evaluated" if step == 50 else "")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "round",
        "29",
        "of",
        "1,000",
        "reward",
        "29",
        "16",
        "min",
        "left",
    ]  # 30 s after the start
    assert "evaluated" in lines and not any(line.startswith("round    59") for line in lines)  # 9 s after it
    assert any(line.startswith("round    80 ") for line in lines)  # 30 s after it
    assert any(line.startswith("round   100 ") for line in lines)  # a tenth of the run


@pytest.mark.parametrize(("seconds", "says"), [(5.4, "5 s"), (100, "2 min"), (9000, "2.5 h")])
def test_durations_are_short(seconds, says):
    assert duration(seconds) == says


def test_what_is_told_of_a_round_and_of_a_completion(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    record = {"step": 3, "seconds": 2.0, "tokens": 5000, "reward": 0.5, "entropy": 0.25, "kl": 0.1}
    assert noted(record) == "reward 0.500  entropy 0.250  2,500 tok/s" and evaluated(record) == ""
    assert evaluated(record | {"eval_reward": 0.75}) == "round     3  held-out reward 0.750     2.0 s"
    lines = shown({"prompt": "3+4=", "completion": "7\n" + "x" * 100, "reward": 1.0}).splitlines()
    assert lines[0].strip() == "asked '3+4='" and lines[1].endswith("…  reward 1") and max(map(len, lines)) <= 60


# ------------------------------------------------------------------------------------------------ the dry step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model in a folder, so that --model takes it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    small_policy(DIGITS, 32, "cpu").save(folder)
    return folder


REAL = {"task": "sort", "device": "cpu", "eval_prompts": 4, "steps": 2, "prompts": 4, "group_size": 4, "micro_batch": 3}


def test_a_dry_step_says_what_it_found_and_changes_nothing(folder, tmp_path, capsys, monkeypatch):
    train(GRPOOptions(model=str(folder), out=tmp_path / "a", **REAL))
    told = capsys.readouterr().err
    assert re.search(r"dry step: a completion of \d tokens took [\d.]+ s, reward 0; 3 rows of 15 tokens there", told)
    assert "a checkpoint takes" in told
    monkeypatch.setattr("torchstone.train.run.dry_step", lambda *_: "")
    train(GRPOOptions(model=str(folder), out=tmp_path / "b", **REAL))
    a, b = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "ab")
    assert a == b and not list((tmp_path / "a").glob("*.tmp"))


def test_the_dry_step_of_a_reward_model_ranks_a_pair(folder, tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"prompt": "1", "chosen": "2", "rejected": "3"}\n' * 20)
    train(RewardOptions(model=str(folder), data=tmp_path / "p.jsonl", out=tmp_path / "a", device="cpu", pairs=18))
    assert re.search(r"dry step: a pair took [\d.]+ s; a checkpoint takes", capsys.readouterr().err)


def test_what_does_not_fit_is_said_before_the_first_round(folder, tmp_path, monkeypatch):
    config = GRPOOptions(model=str(folder), out=tmp_path / "a", **REAL)
    with (
        monkeypatch.context() as patched,
        pytest.raises(UserError, match=r"not fit on cpu: .* are free; try a smaller"),
    ):
        patched.setattr(dry, "free_memory", lambda device: 1e6)
        train(config)

    def full(*_):
        raise OSError(122, "Disk quota exceeded")

    with monkeypatch.context() as patched, pytest.raises(UserError, match=r"does not take it .Disk quota exceeded"):
        patched.setattr(dry.os, "posix_fallocate", full)
        train(replace(config, out=tmp_path / "b"))

    def large(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")

    with monkeypatch.context() as patched, pytest.raises(UserError, match="3 rows of 15 tokens do not fit into memory"):
        patched.setattr(dry, "as_rollout", large)
        train(replace(config, out=tmp_path / "c"))
    assert not list(tmp_path.glob("*/metrics.jsonl"))


def test_free_memory_is_a_number_of_bytes():
    assert dry.free_memory(torch.device("cpu")) > 1e7 and dry.peak_memory(torch.device("cpu")) > 1e7
