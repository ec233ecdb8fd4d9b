"""The folder of a run: found again wherever it is, never overwritten, one process at a time, damage by name."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchstone.cli import main
from torchstone.store.files import claimed, load_config
from torchstone.terminal import UserError
from torchstone.train.options import DPOOptions, GRPOOptions
from torchstone.train.run import Interrupted, train

REWARD = "def reward(prompts, completions, **columns): return [float(len(c) % 7) for c in completions]\n"
SIZES = {"pretrain_steps": 3, "warmup_steps": 2, "eval_prompts": 4, "device": "cpu", "task": "sort"}
SIZES |= {"steps": 4, "prompts": 4, "group_size": 4, "eval_every": 1}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def records(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.fixture
def stopped(tmp_path, monkeypatch) -> Path:
    """A run that was stopped after round 2 of 4, in runs/a; its options are paths as they are typed there."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    Path("r.py").write_text(REWARD)
    with pytest.raises(Interrupted):
        train(GRPOOptions(reward="r.py:reward", out=Path("runs/a"), **SIZES), lambda record: record["step"] == 2)
    return home / "runs" / "a"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The same run, never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "r.py").write_text(REWARD)
    return train(GRPOOptions(reward=str(folder / "r.py"), out=folder / "run", **SIZES))


# --------------------------------------------------------------------------------------------- where things are


def test_a_run_that_was_moved_goes_on_where_it_is(stopped, whole, monkeypatch):
    moved = stopped.rename(stopped.with_name("b"))
    monkeypatch.chdir("/")
    assert main(["train", "--resume", str(moved)]) == 0
    assert not stopped.exists() and records(moved) == records(whole) and weights(moved) == weights(whole)


def test_a_run_goes_on_from_another_working_directory(stopped, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "grpo", "--resume=home/runs/a"]) == 0
    assert not (tmp_path / "runs").exists() and records(stopped) == records(whole)


def test_what_was_moved_is_given_beside_resume_and_nothing_else_may_be(stopped, whole, capsys):
    Path("r.py").rename("s.py")
    assert main(["train", "--resume", "runs/a"]) == 1
    assert f"no file {stopped.parents[1]}/r.py" in capsys.readouterr().err
    assert main(["train", "--resume", "runs/a", "--lr", "1"]) == 1
    assert "--resume takes every option from the folder but --steps, --data" in capsys.readouterr().err
    assert main(["train", "--resume", "runs/a", "--reward", "s.py"]) == 0
    assert records(stopped) == records(whole)


# ------------------------------------------------------------------------------------------- nothing overwritten


@pytest.mark.parametrize("gone", ["checkpoint-000004.safetensors", "config.json", "metrics.jsonl", "model"])
def test_a_folder_with_anything_of_a_run_is_not_overwritten(tmp_path, whole, gone, capsys):
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", whole, folder], check=True)
    (folder / gone).rename(tmp_path / "away")
    kept = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="holds a run already: go on with --resume"):
        train(GRPOOptions(out=folder, **SIZES | {"steps": 1}))
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == kept


def test_rounds_without_their_checkpoint_are_not_begun_again(stopped):
    (stopped / "checkpoint-000002.safetensors").unlink()
    with pytest.raises(UserError, match=r"no checkpoint"):
        train(load_config(stopped), resume=True)
    assert [record["step"] for record in records(stopped)] == [0, 1, 2]


def test_what_else_is_in_a_folder_stays(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.tmp").write_text("mine")
    (folder / "start.tmp").mkdir()  # of a run that was killed before its first round
    (folder / "start.tmp" / ".tmpw6nj88").touch()
    train(GRPOOptions(out=folder, **SIZES | {"steps": 1}))
    assert (folder / "notes.tmp").read_text() == "mine" and not list((folder / "start").glob(".tmp*"))


def test_a_result_is_not_written_over_by_beginning_again(tmp_path, whole):
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", whole, folder], check=True)
    for file in (*folder.glob("checkpoint-*"), folder / "metrics.jsonl"):
        file.unlink()
    before = weights(folder)
    with pytest.raises(UserError, match=r"no checkpoint"):
        train(load_config(folder), resume=True)
    assert weights(folder) == before


def test_edited_pairs_are_named(tmp_path):
    data = tmp_path / "d.jsonl"
    rows = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no"} for i in range(20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = {"pretrain_steps": 1, "warmup_steps": 1, "eval_prompts": 2, "device": "cpu", "pairs": 4, "eval_every": 1}
    run = DPOOptions(data=data, out=tmp_path / "run", **small)
    with pytest.raises(Interrupted):
        train(run, lambda record: record["step"] == 1)
    (tmp_path / "run" / "pairs.jsonl").write_text(data.read_text())
    with pytest.raises(UserError, match=r"run/pairs.jsonl: 'ref_chosen' or 'ref_rejected' is missing"):
        train(load_config(tmp_path / "run"), resume=True)


def test_one_process_at_a_time(stopped, whole):
    hold = "import sys, time; from pathlib import Path; from torchstone.store.files import claimed\n"
    hold += "with claimed(Path(sys.argv[1]), True): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(stopped)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    before = (stopped / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="another process trains in"):
        train(load_config(stopped), resume=True)
    assert (stopped / "metrics.jsonl").read_bytes() == before
    holder.kill()  # which frees the folder, as the end of any process does
    holder.wait()
    holder.stdout.close()
    train(load_config(stopped), resume=True)
    assert records(stopped) == records(whole)


def test_several_processes_are_started_by_torchrun(tmp_path):
    env = os.environ | {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torchstone", "train", "grpo", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 1 and "RANK is not set" in done.stderr and not (tmp_path / "run").exists()


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/run"])
def test_a_folder_that_cannot_be_written_is_said_before_any_work(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    with pytest.raises(UserError, match="nothing can be written into"), claimed(Path(out), False):
        pytest.fail("it was claimed")
    assert Path("file").read_text() == "mine"


# ------------------------------------------------------------------------------------------------ damage by name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("{", "config.json does not hold the options of a run: Expecting property name"),
        ("", "config.json does not hold the options of a run: Expecting value"),
        ("[1]", "method must be one of reinforce, ppo, grpo"),
        ({"method": "grop"}, "method must be one of .*got 'grop'"),
        ({"method": ["grpo"]}, "config.json does not hold"),
        ({"foo": 1}, "unknown option '--foo=1'"),
        ({"epsilom": 1}, "did you mean '--epsilon'"),
        ({"lr": "fast"}, "config.json does not hold the options of a run: --lr: invalid float value: 'fast'"),
        ({"steps": [3]}, "config.json does not hold .*--steps: invalid int value"),
        ({"steps": True}, "config.json does not hold .*--steps: expected one argument"),
        ({"dtype": "float8"}, "config.json does not hold .*--dtype: invalid choice"),
    ],
)
def test_a_damaged_config_is_named(tmp_path, change, says):
    config = {"method": "grpo", **dataclasses.asdict(GRPOOptions())}
    text = change if isinstance(change, str) else json.dumps(config | change, default=str)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=says):
        load_config(tmp_path)


def test_every_option_is_read_again_as_it_was(tmp_path):
    config = GRPOOptions(
        data=tmp_path / "a_b.jsonl", reward="r.py", system="No-nonsense_answers", lr=1e-5, divide_by_std=False,
        epsilon_high=0.28, kl="k1", out=tmp_path, pretrain_steps=0, beta=0.1,
    )  # fmt: skip
    text = json.dumps({"method": "grpo", **dataclasses.asdict(config)}, default=str)
    (tmp_path / "config.json").write_text(text)
    assert load_config(tmp_path) == config


@pytest.mark.parametrize("line", ["{garbage", '{"reward": 1}', '{"step": "x"}', "[1]", '{"step": 1, "reward": 0.5, x}'])
@pytest.mark.parametrize("name", ["metrics.jsonl", "completions.jsonl"])
def test_a_damaged_line_is_named_and_nothing_is_dropped(stopped, name, line):
    file = stopped / name
    first, *rest = file.read_text().splitlines(keepends=True)
    file.write_text("".join([first, line + "\n", *rest]))
    before = file.read_text()
    with pytest.raises(UserError, match=rf"{name}, line 2: not a record"):
        train(load_config(stopped), resume=True)
    assert file.read_text() == before


def test_missing_rounds_are_said(stopped, whole, capsys):
    (stopped / "metrics.jsonl").unlink()
    train(load_config(stopped), resume=True)
    assert "metrics.jsonl lacks 3 of the rounds before 3" in capsys.readouterr().err
    assert weights(stopped) == weights(whole)


def test_a_mistake_in_the_middle_says_how_far_the_run_is_saved(tmp_path):
    (file := tmp_path / "r.py").write_text(
        "n = 0\ndef reward(completions):\n    global n\n    n += 1\n    return [1.0] * (len(completions) - (n > 5))\n"
    )
    with pytest.raises(
        UserError, match=rf"rewards for 16 .* All up to round 2 is saved, .* --resume {tmp_path / 'run'}"
    ):
        train(GRPOOptions(reward=str(file), out=tmp_path / "run", **SIZES))


def test_a_warm_up_longer_than_the_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="--lr-warmup 4: the run has 4 rounds, and would end before --lr"):
        train(GRPOOptions(out=tmp_path / "run", schedule="linear", lr_warmup=4, **SIZES))


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGHUP"])
def test_the_end_of_a_job_or_of_a_terminal_saves(tmp_path, signal_name):
    (tmp_path / "r.py").write_text(
        f"import os, signal\ndef reward(completions, trainer_state):\n    if trainer_state.global_step == 1:\n"
        f"        os.kill(os.getpid(), signal.{signal_name})\n    return [1.0] * len(completions)\n"
    )
    heard = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)  # noqa: E731, under nohup too
    ended = command(tmp_path, "--reward", "r.py", "--eval-every", "4", preexec_fn=heard)
    assert ended.returncode == 130 and "stopped; everything is saved in run" in ended.stderr
    assert (tmp_path / "run" / "checkpoint-000002.safetensors").is_file()


def test_output_that_nobody_reads_stops_a_run_and_loses_nothing(tmp_path):
    read, write = os.pipe()
    os.close(read)
    ended = command(tmp_path, stdout=write, env={"PYTHONUNBUFFERED": ""})  # else it ends before it has begun
    assert ended.returncode == 141 and ended.stderr.count("cannot be written (Broken pipe): stopping") == 1
    assert (tmp_path / "run" / "checkpoint-000000.safetensors").is_file()


def test_a_command_without_output_or_with_a_narrow_encoding_goes_on(tmp_path):
    assert command(tmp_path, "--out", "a", preexec_fn=lambda: os.close(1)).returncode == 0
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps({"prompt": f"ü… {i}", "answer": "ü"}) + "\n" for i in range(9))
    )
    narrow = ["--data", "p.jsonl", "--reward", "exact", "--out", "ö"]
    assert command(tmp_path, *narrow, env={"PYTHONIOENCODING": "ascii"}).returncode == 0


def command(home: Path, *options: str, stdout=subprocess.PIPE, env=None, **how) -> subprocess.CompletedProcess:
    """``torchstone train grpo`` in a process of its own, in the folder run."""
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items() if name != "task"]
    words = [sys.executable, "-m", "torchstone", "train", "grpo", "--out", "run", *sizes, *options]
    there = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)} | (env or {})
    return subprocess.run(words, cwd=home, stdout=stdout, stderr=subprocess.PIPE, text=True, env=there, **how)
