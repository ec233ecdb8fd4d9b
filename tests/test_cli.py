"""What a person meets at the command line."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from torchstone.cli import main
from torchstone.train.report import at, interval, read_records

TINY = ["--pretrain-steps", "3", "--warmup-steps", "2", "--eval-prompts", "16", "--device", "cpu"]
ROUNDS = ["--prompts", "8", "--group-size", "4"]


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # a busy machine slows two threads far more than one


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torchstone", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **{"env": ONE_THREAD} | options)


def test_help_is_quick_and_loads_no_torch():
    code = "import sys; from torchstone.cli import main; main(['--help']); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "torchstone compare" in out and "torchstone train grpo --model FOLDER" in out and out.endswith("False\n")


@pytest.mark.parametrize("method", ["reinforce", "ppo", "grpo", "dpo"])
def test_each_method_explains_its_own_options(method, capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", method, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "--max-new-tokens" in out and "--task" in out
    assert ("--lam" in out) == (method == "ppo") and ("--pairs" in out) == (method == "dpo")
    assert ("--baseline" in out) == (method == "reinforce") and ("--divide-by-std" in out) == (method == "grpo")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compair"], "unknown command 'compair' (did you mean 'compare'?); choose compare, train"),
        (["train", "grop"], "unknown method 'grop' (did you mean 'grpo'?); choose reinforce, ppo, grpo, dpo"),
        (["train", "grpo", "--task", "srot"], "unknown task 'srot' (did you mean 'sort'?)"),
        (["compare", "--task", "srot"], "unknown task 'srot'"),
        (["train", "grpo", "--group-size", "1"], "--group-size must be at least 2 for grpo, got 1"),
        (["train", "dpo", "--data", "no.jsonl"], "cannot read no.jsonl"),
        (["train", "ppo", "--model", "./nowhere"], "--model ./nowhere cannot be loaded"),
        (["train", "--resume", "nowhere"], "--resume nowhere: no run there"),
        (["train", "grpo", "--resume", "nowhere", "--lr", "1"], "takes every option from the folder"),
        (["compare", "--resume", "nowhere"], "--resume nowhere: no comparison there"),
        (["train", "grpo", "--device", "gpu"], "--device gpu cannot be used here"),
        (["compare", "--seeds", "0"], "must be at least 1"),
        (["compare", "--recipes", "gspo,grop"], "--recipe grop: "),
        (["compare", "--recipes", "gspo,grop"], "(did you mean 'grpo'"),
        (["compare", "--recipes", "grpo", "ipo"], "--recipe ipo: ipo learns from preference pairs, and this loop from"),
        (["compare", "--recipes", "grpo:advantage=group"], "expected one of reward, batch-mean, group-mean, group-std"),
        (["compare", "--recipes", "dapo"], "raise --max-new-tokens, or write dapo:penalty.cache=1"),
        (["compare", "--recipes", "grpo", "--group-size", "1"], "expected at least 2 samples in a group"),
        (["compare", "--recipes", "ppo", "--lr", "0"], "--lr must be above 0"),
        (["train", "recipe", "--recipe", "grpo:surogate=clip"], "did you mean 'surrogate'"),
    ],
)
def test_a_mistake_is_one_line(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and "Traceback" not in error
    assert not list(tmp_path.glob("runs/*/checkpoint.pt"))


def test_a_misspelt_option_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "grpo", "--epsilom", "0.2"])
    assert end.value.code == 2 and "--epsilon" in capsys.readouterr().err


def test_train_writes_metrics_samples_a_picture_and_a_model(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "grpo", "--out", str(out), "--steps", "3", *TINY, *ROUNDS]) == 0
    records = read_records(out)
    assert [r["step"] for r in records] == [0, 1, 2, 3] and records[-1]["samples"] == 3 * 32
    wanted = "reward reward_std frac_reward_zero_std entropy clip_ratio/low_mean clip_ratio/high_mean "
    wanted += "completions/mean_length completions/clipped_ratio grad_norm learning_rate"
    assert set(wanted.split()) <= records[1].keys()
    assert {"prompt", "completion", "reward"} <= json.loads(
        (out / "completions.jsonl").read_text().split("\n")[0]
    ).keys()
    assert (out / "curves.png").stat().st_size > 10_000 and (out / "model" / "model.safetensors").exists()
    assert str(out) in capsys.readouterr().out.replace("\n", "")
    assert main(["train", "grpo", "--out", str(out), *TINY]) == 1
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "torchstone",
        "train",
        "grpo",
        "--out",
        str(out),
        "--steps",
        "5000",
        *TINY,
        *ROUNDS,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_THREAD)
    deadline = time.time() + 60
    while time.time() < deadline and not (out / "checkpoint.pt").exists():
        time.sleep(0.1)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error
    assert f"Go on with: torchstone train --resume {out}" in error
    assert 0 < read_records(out)[-1]["step"] < 5000


def test_compare_runs_all_methods_and_goes_on_where_it_stopped(tmp_path):
    out = tmp_path / "c"
    done = run("compare", "--quick", "--samples", "512", "--out", str(out), "--workers", "2")
    assert done.returncode == 0, done.stderr
    for name in ("REINFORCE", "PPO", "GRPO", "DPO"):
        assert name in done.stdout and name in (out / "table.txt").read_text()
    assert (out / "curves.png").stat().st_size > 10_000
    before = [read_records(out / f"{m}-0")[0]["eval_reward"] for m in ("reinforce", "ppo", "grpo", "dpo")]
    assert len(set(before)) == 1 and before[0] > 0.1  # one start for all
    assert run("compare", "--quick", "--out", str(out)).returncode == 1
    first = (out / "ppo-0" / "metrics.jsonl").read_text()
    assert run("compare", "--resume", str(out)).returncode == 0
    assert (out / "ppo-0" / "metrics.jsonl").read_text() == first


def test_compare_takes_recipes_and_goes_on_where_it_stopped(tmp_path):
    out, recipes = tmp_path / "c", ["grpo,gspo", "dapo:penalty.cache=2"]
    options = ["--quick", "--samples", "512", "--group-size", "4", "--minibatches", "2", "--first-seed", "3"]
    done = run("compare", "--recipes", *recipes, *options, "--seeds", "2", "--workers", "2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    for name in ("grpo", "gspo", "dapo:penalty.cache=2", "tokens if wrong", "3 - 1"):
        assert name in (out / "table.txt").read_text()
    assert "dapo" in done.stdout and (out / "curves.png").stat().st_size > 10_000
    data = (out / "data.csv").read_text()
    rows = [line.split(",") for line in data.splitlines()]
    assert rows[0][:4] == ["run", "seed", "samples", "eval_reward"]
    assert {(row[0], row[1]) for row in rows[1:]} == {(r, s) for r in ("grpo", "gspo", recipes[1]) for s in "34"}
    config = json.loads((out / "dapo_penalty.cache=2-3" / "config.json").read_text())
    assert (config["recipe"], config["group_size"], config["minibatches"]) == (recipes[1], 4, 2)
    assert run("compare", "--resume", str(out)).returncode == 0
    assert (out / "data.csv").read_text() == data


def test_train_takes_a_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "recipe", "--recipe", "gspo:reduction=token-mean", "--steps", "2", *TINY, *ROUNDS]) == 0
    assert [r["step"] for r in read_records(tmp_path / "runs" / "gspo_reduction=token-mean-sort-0")] == [0, 1, 2]
    assert "gspo_reduction=token-mean-sort-0" in capsys.readouterr().out.replace("\n", "")


def test_the_interval_is_student_s_t():
    mean, half = interval([0.9, 1.0, 0.8])
    assert abs(mean - 0.9) < 1e-12 and abs(half - 4.30 * 0.1 / 3**0.5) < 1e-9
    assert interval([0.5]) == (0.5, 0.0)
    assert at([(0.0, 0.0), (0.5, 1.0), (1.0, 2.0)], 0.25) == 0.5


def test_a_missing_extra_is_named(tmp_path: Path):
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError('no rich', name='rich')\n")
    done = run("compare", "--quick", cwd=tmp_path, env=ONE_THREAD | {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"})
    assert done.returncode == 1 and 'pip install "torchstone[train]"' in done.stderr and "Traceback" not in done.stderr


def test_compare_without_out_takes_a_folder_that_is_not_there_yet(tmp_path):
    from torchstone.train.command import _new_folder

    for name in ("compare-sort", "compare-sort-2", "compare-sort-3"):
        assert _new_folder(tmp_path / "compare-sort") == tmp_path / name
        (tmp_path / name).mkdir()


@pytest.mark.parametrize("name", ["length", "clip", "std", "std-kl"])
def test_shipped_comparisons_have_their_data_and_recipes_that_run(name):
    from torchstone.train.checks import check_options
    from torchstone.train.options import Recipe

    folder = Path(__file__).parents[1] / "docs" / "comparisons"
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{name}.csv" in page and f"{name}.png" in page and (folder / f"{name}.png").exists()
    assert (folder / f"{name}.csv").stat().st_size < 100_000
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    for recipe in dict.fromkeys(row["run"] for row in rows):
        check_options(Recipe(recipe=recipe))
        assert recipe in page and len({row["seed"] for row in rows if row["run"] == recipe}) >= 5
