"""What a person meets at the command line."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from torchstone.cli import main
from torchstone.evaluate.options import Compare
from torchstone.recipes import RECIPES
from torchstone.report import at, interval, read_records
from torchstone.terminal import read_options, styled, table, unstyled, wrapped
from torchstone.train.options import GRPOOptions, PPOOptions, Run
from torchstone.train.run import make_and_save_start

ROOT = Path(__file__).parent.parent
TINY = ["--pretrain-steps", "3", "--warmup-steps", "2", "--eval-prompts", "16", "--device", "cpu"]
ROUNDS = ["--prompts", "8", "--group-size", "4"]


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # a busy machine slows two threads far more than one


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torchstone", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **{"env": ONE_THREAD} | options)


def without(*packages: str, command: str) -> subprocess.CompletedProcess:
    """The command where these packages are not installed."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({packages})); from torchstone.cli import main; sys.exit(main())"
    )
    arguments, env = [sys.executable, "-c", code, *command.split()], ONE_THREAD | {"COLUMNS": "80"}
    return subprocess.run(arguments, capture_output=True, text=True, env=env)


HELPS = ["", "compare", "train", "train grpo", "train distill", "recipes", "check", "identify", "peers", "frameworks"]
HELPS += ["cost", "eval", "ask", "plot", "sanity", "pipeline", "train sft", "train reward"]


@pytest.mark.parametrize("command", HELPS)
def test_help_fits_80_columns_and_loads_no_torch(command):
    code = (
        "import sys; from torchstone.cli import main\ntry: main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    )
    arguments = [sys.executable, "-c", code, *command.split(), "--help"]
    out = subprocess.run(arguments, capture_output=True, text=True, env=ONE_THREAD | {"COLUMNS": "80"}).stdout
    assert f"usage: torchstone {command or 'COMMAND'}" in out and out.endswith("False\n")
    assert max(map(len, out.splitlines())) <= 80


TABLES = ["recipes", "recipes dapo", "recipes grpo dapo", "cost --params 7e9 --method ppo"]
TABLES += ["frameworks", "check --list", "check torchstone.core:kl_k3 --metamorphic"]


@pytest.mark.parametrize("command", TABLES)
def test_tables_fit_80_columns_and_need_torch_and_jaxtyping_only(command):
    done = without("rich", "mpmath", "numpy", "matplotlib", "transformers", command=command)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not re.search(r"\w-$", done.stdout, re.M)  # no word is broken


def test_every_row_of_the_table_fits_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in RECIPES:
        assert main(["recipes", name]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80, name


@pytest.mark.parametrize("command", [*(f"{c} --help" for c in HELPS), "recipes --json", *TABLES])
def test_a_closed_pipe_ends_a_command_in_silence(command):
    arguments = [sys.executable, "-m", "torchstone", *command.split()]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ONE_THREAD)
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert not error and process.wait(60) in (0, 141), error


@pytest.mark.parametrize("method", ["reinforce", "ppo", "grpo", "dpo", "distill"])
def test_each_method_explains_its_own_options(method, capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", method, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "--max-new-tokens" in out and "--task" in out
    assert ("--lam" in out) == (method == "ppo") and ("--pairs" in out) == (method == "dpo")
    assert ("--teacher" in out) == ("--signal" in out) == (method == "distill")
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
        (["train", "ppo", "--model", "./nowhere", "--task", "add"], "--model ./nowhere cannot be loaded"),
        (["train", "--resume", "nowhere"], "--resume nowhere: no run there"),
        (
            ["train", "grpo", "--resume", "--lr", "1"],
            "--resume FOLDER: the folder of a run that was stopped is missing",
        ),
        (["compare", "--resume", "nowhere", "--lr", "1"], "takes every option from the folder"),
        (["compare", "--resume", "nowhere"], "--resume nowhere: no comparison there"),
        (["train", "grpo", "--device", "gpu"], "--device gpu cannot be used here"),
        (["frameworks", "velr"], "unknown engine 'velr' (did you mean 'verl'?); choose trl, verl"),
        (["compare", "--seeds", "0"], "must be at least 1"),
        (
            ["compare", "--methods", "ppo", "distill"],
            "distill learns from a teacher: compare it with grpo, or give --",
        ),
        (["compare", "--teacher", "runs/grpo-sort-0"], "--teacher is for distill, and nothing else"),
        (["compare", "--methods", "distill", "--teacher", "nowhere"], "--teacher nowhere: no such folder"),
        (["compare", "--recipes", "gspo,opd"], "opd learns from a teacher: compare it with grpo, or give --teacher"),
        (["train", "distill"], "distill needs --teacher FOLDER: torchstone train grpo --task sort makes one in runs/"),
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
    assert not list(tmp_path.glob("runs/*/checkpoint-*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("train grpo --epsilom 0.2", "unknown option '--epsilom' (did you mean '--epsilon'"),
        ("train grpo --epsilon high", "--epsilon: invalid float value: 'high'"),
        ("train ppo --value-epsilon high", "--value-epsilon: invalid float value: 'high'"),
        ("train grpo --split tset", "--split: invalid choice: 'tset'"),
        ("compare --methods grpo gropo", "--methods: invalid choice: 'gropo'"),
        ("train dpo --divide-by-std", "unknown option '--divide-by-std'"),
    ],
)
def test_a_wrong_option_is_one_line(arguments, says, capsys):
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_options_are_read_into_their_fields():
    words = "--methods grpo dpo --recipes grpo,gspo ppo --out x --lr 1e-3 --prompts 4 --quick --split=validation"
    read = read_options("compare", Compare, Compare(), words.split())
    assert read == Compare(
        methods=("grpo", "dpo"), recipes=("grpo,gspo", "ppo"), out=Path("x"), lr=1e-3, prompts=4, quick=True,
        split="validation",
    )  # fmt: skip
    assert read_options("x", PPOOptions, PPOOptions(), ["--value-epsilon", "None"]).value_epsilon is None
    assert not read_options("x", GRPOOptions, GRPOOptions(), ["--no-divide-by-std"]).divide_by_std
    assert read_options("x", GRPOOptions, GRPOOptions(lr=1e-5), []) == GRPOOptions(lr=1e-5)


def test_the_help_of_an_option_is_the_comment_behind_it_on_whichever_line_it_ends(capsys):
    with pytest.raises(SystemExit):
        read_options("x", Folded, Folded(), ["--help"])
    assert "how many" in (out := capsys.readouterr().out) and "which # of them" in out


@dataclass
class Folded:
    """Two options."""

    number: int = 3  # how many
    name: str = " ".join(
        ["one", "two"],
    )  # which # of them


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
    while time.time() < deadline and not list(out.glob("checkpoint-*")):
        time.sleep(0.1)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error
    assert f"Go on with: torchstone train --resume {out}" in error
    assert 0 < read_records(out)[-1]["step"] < 5000


def test_compare_runs_all_methods_and_goes_on_where_it_stopped(tmp_path):
    out = tmp_path / "c"
    methods = ["distill", *Compare().methods]  # the student waits for its teacher
    done = run("compare", "--quick", "--samples", "512", "--out", str(out), "--workers", "2", "--methods", *methods)
    assert done.returncode == 0, done.stderr
    for name in ("REINFORCE", "PPO", "GRPO", "DPO", "Distillation"):
        assert name in done.stdout and name in (out / "table.txt").read_text()
    assert (out / "curves.png").stat().st_size > 10_000
    told = "Distillation learns from the GRPO run of its seed, whose 512 samples are not counted."
    assert told in " ".join((out / "table.txt").read_text().split())
    assert json.loads((out / "distill-0" / "config.json").read_text())["teacher"] == str(out / "grpo-0")
    before = [read_records(out / f"{m}-0")[0]["eval_reward"] for m in methods]
    assert len(set(before)) == 1 and before[0] > 0.1  # one start for all
    assert main(["compare", "--quick", "--out", str(out)]) == 1
    first = (out / "ppo-0" / "metrics.jsonl").read_text()
    assert main(["compare", "--resume", str(out)]) == 0
    assert (out / "ppo-0" / "metrics.jsonl").read_text() == first


def test_compare_takes_recipes_and_goes_on_where_it_stopped(tmp_path):
    out, recipes = tmp_path / "c", ["grpo,gspo", "dapo:penalty.cache=2"]
    make_and_save_start(Run(pretrain_steps=20), out / "start")  # what is there already is not made again
    options = ["--quick", "--samples", "512", "--group-size", "4", "--minibatches", "2", "--first-seed", "3"]
    done = run("compare", "--recipes", *recipes, *options, "--seeds", "2", "--workers", "2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    for name in ("grpo", "gspo", "dapo:penalty.cache=2", "tokens if wrong", "3 - 1"):
        assert name in (out / "table.txt").read_text()
    assert "dapo" in done.stdout and (out / "curves.png").stat().st_size > 10_000
    data = (out / "data.csv").read_text()
    rows = [line.split(",") for line in data.splitlines()]
    assert rows[0][:5] == ["run", "seed", "samples", "step", "eval_reward"]
    assert {(row[0], row[1]) for row in rows[1:]} == {(r, s) for r in ("grpo", "gspo", recipes[1]) for s in "34"}
    config = json.loads((out / "dapo_penalty.cache=2-3" / "config.json").read_text())
    assert (config["recipe"], config["group_size"], config["minibatches"]) == (recipes[1], 4, 2)
    assert main(["compare", "--resume", str(out)]) == 0
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


def test_a_missing_extra_is_named():
    done = without("rich", command="compare --quick")
    assert done.returncode == 2 and 'pip install ".[train]"' in done.stderr and "Traceback" not in done.stderr


def test_a_table_is_wrapped_at_words_until_it_fits(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    rows = [["a", "one two three four five", "1.5"], ["bb", "six", "12.25"]]
    lines = table(["x", "words", "n"], rows, title="t", right=["n"], sums=[1]).splitlines()
    assert lines[0] == "t" and lines[1] == "x   words                    n"
    assert lines[3:5] == ["a   one two three four     1.5", "    five"]
    assert lines[2] == lines[5] and len(lines[5]) == 30 and lines[6] == "bb  six                  12.25"


def test_styles_take_no_room_and_words_stay_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "26")
    rows = [["a", "a-word-of-its-own"], ["bb", "one two three four five"]]
    plain = table((), rows)
    assert plain.splitlines() == ["a   a-word-of-its-own", "bb  one two three four", "    five"]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = table((), [[styled(name, "bold red"), text] for name, text in rows])
    assert shown.startswith("\x1b[1;31ma\x1b[0m   a-word") and unstyled(shown) == plain
    assert unstyled(wrapped("one two", styled("first", "dim") + "  ")) == "first  one two"


def test_compare_without_out_takes_a_folder_that_is_not_there_yet(tmp_path):
    from torchstone.evaluate.command import _new_folder

    for name in ("compare-sort", "compare-sort-2", "compare-sort-3"):
        assert _new_folder(tmp_path / "compare-sort") == tmp_path / name
        (tmp_path / name).mkdir()


@pytest.mark.parametrize("name", ["length", "clip", "std", "std-kl"])
def test_shipped_comparisons_have_their_data_and_recipes_that_run(name):
    from torchstone.train.checks import check_options
    from torchstone.train.options import RecipeOptions

    folder = Path(__file__).parents[1] / "docs" / "comparisons"
    page = (folder / "README.md").read_text(encoding="utf-8")
    picture = f"{name.removesuffix('-kl')}.png"  # one picture for both halves of the third comparison
    assert f"{name}.csv" in page and picture in page and (folder / picture).exists()
    assert (folder / f"{name}.csv").stat().st_size < 100_000
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    for recipe in dict.fromkeys(row["run"] for row in rows):
        check_options(RecipeOptions(recipe=recipe))
        assert recipe in page and len({row["seed"] for row in rows if row["run"] == recipe}) >= 5
