"""Runs and models looked at afterwards: held-out rewards, pass@k, questions, curves of several runs."""

import itertools
import json
import math
import random
import shutil
from pathlib import Path

import pytest
import torch

from torchstone.cli import main
from torchstone.evaluate.passes import by_prompt, difference, estimate, paired, pass_at_k, values
from torchstone.report import interval, t95
from torchstone.terminal import UserError
from torchstone.train.options import GRPOOptions
from torchstone.train.run import train

SIZES = {"pretrain_steps": 40, "warmup_steps": 5, "eval_prompts": 4, "device": "cpu", "task": "sort"}
SIZES |= {"steps": 2, "prompts": 8, "group_size": 4, "eval_every": 1}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return train(GRPOOptions(out=tmp_path_factory.mktemp("runs") / "grpo-sort-0", **SIZES))


# ------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize(("n", "k", "p"), [(1, 1, 0.3), (4, 2, 0.5), (8, 8, 0.1), (10, 3, 0.25)])
def test_pass_at_k_is_unbiased(n, k, p):
    """Its mean over all outcomes of n samples is the chance that one of k is right; that of 1 - (1 - c/n)^k is not."""
    chance = {c: math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)}
    mean = sum(chance[c] * pass_at_k(n, c, k) for c in chance)
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    naive = sum(chance[c] * (1 - (1 - c / n) ** k) for c in chance)
    assert k == 1 or naive < mean - 0.01


def test_pass_at_k_counts_the_subsets_that_have_a_right_one():
    right = [True, True, False, False, False]
    subsets = list(itertools.combinations(right, 3))
    assert pass_at_k(5, 2, 3) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    for n, c, k in [(4, 1, 5), (4, 5, 1), (4, 1, 0)]:
        with pytest.raises(ValueError, match="k: expected from 1 to n"):
            pass_at_k(n, c, k)


def test_intervals_are_those_of_the_books():
    assert t95(4) == 2.78 and t95(30) == pytest.approx(2.0423, abs=1e-3)
    assert t95(10**6) == pytest.approx(1.95997, abs=1e-4)
    seeds = [0.0, 1.0] * 15 + [0.5]  # 31 seeds: 30 degrees of freedom, variance 1/4
    assert interval(seeds) == pytest.approx((0.5, 2.0423 * 0.5 / 31**0.5), abs=1e-4)
    found = difference(seeds, [0.0] * 31)
    assert found.high - found.mean == pytest.approx(interval(seeds)[1])  # one and the same over prompts and over seeds
    # Wilson's for 10 of 20: the roots of (p - 1/2)^2 = z^2 p (1 - p) / 20, which are 0.5 +- 0.2007
    half = estimate([1.0] * 10 + [0.0] * 10)
    z = 1.959964
    for p in (half.low, half.high):
        assert (p - 0.5) ** 2 == pytest.approx(z**2 * p * (1 - p) / 20, rel=1e-5)
    sure = estimate([1.0] * 20)  # 20 of 20 does not show 1: the low end is n / (n + z^2)
    assert sure.high == pytest.approx(1.0) and sure.low == pytest.approx(20 / (20 + z**2))
    shares = estimate([0.5, 0.25, 0.75, 0.5])  # Student's t: sd 0.2041, over 2, times 3.18
    assert shares.mean == 0.5 and shares.high - shares.mean == pytest.approx(3.18 * 0.204124 / 2, abs=1e-5)
    assert estimate([0.5]).low == -math.inf


def test_intervals_hold_the_truth_19_times_in_20():
    rng, held = random.Random(0), {"wilson": 0, "pairs": 0}
    for _ in range(1000):
        shares = [rng.random() for _ in range(40)]
        a, b = ([float(rng.random() < p) for p in shares] for _ in range(2))
        one, pair = estimate(a), difference([x - 0.1 for x in a], b)
        held["wilson"] += one.low <= 0.5 <= one.high
        held["pairs"] += pair.low <= -0.1 <= pair.high
    assert all(930 <= n <= 985 for n in held.values()), held


def test_prompts_that_are_not_whole_and_scores_that_are_missing_are_left_out():
    rows = [{"reward": r} for r in (1.0, 0.0, math.nan, 1.0, math.nan, math.nan, 1.0)]
    assert by_prompt(rows, 2, "reward") == [[1.0, 0.0], [1.0], []]
    found = values(rows, 2, (1, 2), 1.0)["reward"]
    assert found["mean"][:2] == [0.5, 1.0] and math.isnan(found["mean"][2])
    assert found["pass@2"][0] == 1.0 and math.isnan(found["pass@2"][1])
    assert paired(found["mean"], [0.0, 0.5, 1.0]) == difference([0.5, 1.0], [0.0, 0.5])
    assert paired([math.nan], [1.0]) is None


# ------------------------------------------------------------------------------------------- torchstone eval


def test_eval_compares_models_of_a_run_on_its_held_out_prompts(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    files = {name: tmp_path / name for name in ("e.json", "c.jsonl")}
    options = ["--prompts", "6", "--samples", "4", "--k", "1", "4", "--micro-batch", "10"]
    options += ["--json", str(files["e.json"]), "--completions", str(files["c.jsonl"])]
    assert main(["eval", str(run / "start"), str(run), *options]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and "2 - 1" in out and "pass@4" in out
    told = json.loads(files["e.json"].read_text())
    assert told["complete"] and told["task"] == "sort" and told["max_new_tokens"] == 8 and len(told["models"]) == 2
    rows = [json.loads(line) for line in files["c.jsonl"].read_text().splitlines()]
    assert len(rows) == 48
    for model in told["models"]:
        mine = [row for row in rows if row["model"] == model["model"]]
        groups = [[row["strict"] for row in mine[i : i + 4]] for i in range(0, 24, 4)]
        assert len({row["prompt"] for row in mine}) == 6
        measures = model["measures"]["strict"]
        assert measures["mean"]["mean"] == pytest.approx(sum(map(sum, groups)) / 24) == measures["pass@1"]["mean"]
        assert measures["pass@4"]["mean"] == pytest.approx(sum(any(group) for group in groups) / 6)
    first, second = (model["measures"]["reward"]["pass@1"]["mean"] for model in told["models"])
    [difference_of_reward] = [d for d in told["differences"] if d["scorer"] == "reward"]
    assert difference_of_reward["measures"]["pass@1"]["mean"] == pytest.approx(second - first)


def test_eval_is_greedy_at_temperature_0_and_takes_data_and_reward(run, tmp_path, capsys):
    data, reward = tmp_path / "d.jsonl", tmp_path / "r.py"
    data.write_text("".join(json.dumps({"prompt": f"{n}>"}) + "\n" for n in range(100, 140)))
    reward.write_text("def reward(prompts, completions, **columns): return [len(c) / 4 for c in completions]\n")
    arguments = ["eval", str(run), "--data", str(data), "--reward", str(reward), "--temperature", "0"]
    told = []
    for seed in ("0", "1"):
        file = tmp_path / f"{seed}.json"
        assert main([*arguments, "--seed", seed, "--json", str(file)]) == 0
        told.append(json.loads(file.read_text())["models"][0]["measures"])
    assert told[0] == told[1] and set(told[0]) == {"reward"} and told[0]["reward"]["mean"]["n"] == 4
    assert "greedy" in capsys.readouterr().out


WHOLE = """def reward(prompts, completions, completion_ids, cut_off, trainer_state):
    assert trainer_state.global_step == 0
    return [float(len(ids) + 100 * cut) for ids, cut in zip(completion_ids, cut_off, strict=True)]
"""


def test_rewards_are_handed_what_they_are_in_training(run, tmp_path, capsys):
    data, reward, file = tmp_path / "d.jsonl", tmp_path / "r.py", tmp_path / "c.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{n}>"}) + "\n" for n in range(100, 140)))
    reward.write_text(WHOLE)
    own = ["--data", str(data), "--reward", str(reward), "--max-new-tokens", "4"]
    assert main(["eval", str(run), *own, "--samples", "8", "--completions", str(file)]) == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["reward"] for row in rows] == [row["tokens"] + 100 * row["cut_off"] for row in rows]
    assert {row["cut_off"] for row in rows} == {True, False}
    judged = shutil.copytree(run, tmp_path / "run")
    options = json.loads((judged / "config.json").read_text())
    (judged / "config.json").write_text(json.dumps(options | {"reward": [str(reward)]}))
    capsys.readouterr()
    assert main(["ask", str(judged), "314159>", "--max-new-tokens", "4", "--n", "5"]) == 0
    notes = [line.split("  ") for line in capsys.readouterr().out.splitlines() if "reward" in line]
    found = [(int(note[1].split()[0]), "cut off" in note[1], float(note[2].split()[1])) for note in notes]
    assert len(found) == 5 and all(earned == n + 100 * cut for n, cut, earned in found)


def test_code_of_a_model_runs_in_eval_and_ask_only_when_asked_for(tmp_path, capsys, monkeypatch):
    from torchstone.evaluate import models

    trusted: list[bool] = []

    def load(source, device, dtype, option, trust):
        trusted.append(trust)
        raise UserError("seen")

    monkeypatch.setattr(models, "load_policy", load)
    for words in (["ask", "m", "x"], ["eval", "m", "--task", "sort"]):
        assert main(words) == main([*words, "--trust-remote-code"]) == 1
    assert trusted == [False, True, False, True]


def test_ctrl_c_leaves_what_is_done(run, tmp_path, monkeypatch, capsys):
    from torchstone.evaluate import passes

    calls, completed = [], passes.completed

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return completed(*arguments)

    monkeypatch.setattr(passes, "completed", interrupted)
    file = tmp_path / "e.json"
    arguments = ["eval", str(run), "--prompts", "20", "--micro-batch", "4", "--json", str(file)]
    assert main(arguments) == 130
    told = json.loads(file.read_text())
    assert not told["complete"] and told["models"][0]["measures"]["reward"]["mean"]["n"] == 8
    assert "stopped: what was sampled until then" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["eval"], "which model? torchstone eval MODEL"),
        (["eval", "nowhere"], "nowhere is no run's folder: say --task NAME, or --data FILE and --reward"),
        (["eval", "nowhere/at/all", "--task", "sort"], "MODEL nowhere/at/all cannot be loaded"),
        (["eval", "a", "a"], "a is given twice"),
        (["eval", "a", "--samples", "2", "--k", "3"], "--k 3 needs from 1 to --samples 2"),
        (["eval", "a", "--prompts", "0"], "must be at least 1"),
        (["eval", "a", "--temperature", "0", "--samples", "2"], "--temperature 0 is greedy"),
        (["eval", "a", "--temperature", "-1"], "--temperature must be at least 0, got -1"),
        (["eval", "a", "--max-new-tokens", "0"], "--max-new-tokens must be at least 1, got 0"),
        (["eval", "a", "--threshold", "nan"], "--threshold must be a number, got nan"),
        (["eval", "a", "--json", "no/such/folder.json"], "cannot write no/such/folder.json: No such file"),
        (["ask", "a"], "a model and a prompt: torchstone ask"),
        (["ask", "a", "b\udcff"], "the prompt 'b\\udcff' is no text in utf-8"),
        (["ask", "--n", "2", "a"], "unexpected 'a' among the options"),
        (["ask", "a", "b", "--n", "0"], "--n must be at least 1"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_a_line(arguments, says, capsys):
    assert main(arguments) in (1, 2)
    assert says in capsys.readouterr().err


def test_a_run_that_has_not_finished_is_named(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text("")
    assert main(["eval", str(tmp_path)]) == 1
    assert f"{tmp_path} has no model yet: torchstone train --resume {tmp_path}" in capsys.readouterr().err


def test_scores_that_nothing_has_are_said_and_left_out(run, tmp_path, capsys):
    (tmp_path / "r.py").write_text("def none(completions):\n    return [None for _ in completions]\n")
    rows = [{"prompt": f"{i}>"} for i in range(12)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row | {"answer": "1"}) + "\n" for row in rows))
    ask = ["eval", str(run), "--reward", str(tmp_path / "r.py"), "--prompts", "2", "--data"]
    assert main([*ask, str(tmp_path / "p.jsonl")]) == 0
    assert "none of the completions could be scored" in capsys.readouterr().out
    assert main([*ask, str(tmp_path / "a.jsonl")]) == 0
    told = capsys.readouterr().out
    assert "strict" in told and "lenient" in told and "reward " not in told


# -------------------------------------------------------------------------------------------- torchstone ask


def test_ask_samples_as_the_run_did(run, capsys, monkeypatch):
    from torchstone.evaluate import passes

    seen, sample = [], passes.sample
    monkeypatch.setattr(passes, "sample", lambda *options: (seen.append(options), sample(*options))[1])
    assert main(["ask", str(run), "314159>", "--n", "3"]) == 0
    first = capsys.readouterr().out
    assert [line.split()[0] for line in first.splitlines() if "token" in line] == ["1", "2", "3"]
    policy, prompts, room, temperature = seen[0][:4]
    assert (len(prompts), room, temperature) == (3, 8, 1.0) and policy.tokenizer.decode(prompts[0]) == "314159>"
    assert main(["ask", str(run), "314159>", "--n", "3"]) == 0 and capsys.readouterr().out == first
    assert main(["ask", str(run), "314159>", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.count("token") == 1


def test_ask_shows_a_reward_that_needs_the_completion_alone(tmp_path, capsys):
    reward = tmp_path / "r.py"
    reward.write_text("def reward(prompts, completions, **columns): return [float(len(c)) for c in completions]\n")
    config = GRPOOptions(out=tmp_path / "run", reward=str(reward), **SIZES | {"pretrain_steps": 3})
    assert main(["ask", str(train(config)), "314159>", "--n", "1"]) == 0
    note, text = capsys.readouterr().out.split("\n", 1)
    assert note.endswith(f"reward {len(text.removesuffix(chr(10)))}")


# ----------------------------------------------------------------------------------------- torchstone sanity

FIRST = """def reward(prompts, completions, **columns):
    return [float(c != "" and ord(c[0]) % 3 == 0) for c in completions]
"""  # the first token decides, so that a mask without it teaches nothing


@pytest.fixture
def odd(tmp_path, monkeypatch) -> list[str]:
    """The options of a task that the small model, which is not trained here, solves in a third of its samples."""
    from torchstone.train import start

    monkeypatch.setattr(start, "make_start", start.untrained)
    data, reward = tmp_path / "d.jsonl", tmp_path / "r.py"
    data.write_text("".join(json.dumps({"prompt": f"{n}+1="}) + "\n" for n in range(40)))
    reward.write_text(FIRST)
    return ["--data", str(data), "--reward", str(reward), "--max-new-tokens", "3"]


def test_a_sound_loop_learns_and_three_broken_ones_do_not(odd, tmp_path, capsys):
    from torchstone.train import methods, online

    before = methods.GRPO.loss, methods.GRPO.advantages, online.judged
    sizes = ["--group-size", "32", "--lr", "1e-2", "--samples", "64"]
    assert main(["sanity", *odd, *sizes, "--json", str(tmp_path / "s.json")]) == 0
    assert before == (methods.GRPO.loss, methods.GRPO.advantages, online.judged)  # nothing stays broken
    told = json.loads((tmp_path / "s.json").read_text())
    loops = {name: loop["rates"] for name, loop in told["loops"].items()}
    assert told["sane"] and loops["sound"][-1] >= 0.95 and len(told["prompts"]) == 8
    assert all(max(loops[name]) < 0.8 for name in ("sign flipped", "mask shifted", "rewards shuffled"))
    assert len({rates[0] for rates in loops.values()}) == 1  # the same start, the same samples
    assert loops["sign flipped"][-1] < 0.1
    out = capsys.readouterr().out
    assert "Training works here" in out and out.count("yes") == 4


def test_a_loop_that_does_not_learn_is_said_and_the_broken_ones_are_spared(odd, capsys):
    assert main(["sanity", *odd, "--rounds", "2", "--lr", "1e-6", "--group-size", "8", "--samples", "32"]) == 1
    out = capsys.readouterr().out
    assert "The sound loop did not learn: do not trust" in out and "sign flipped" not in out


def test_a_broken_loop_that_learns_is_said(odd, capsys, monkeypatch):
    from contextlib import nullcontext

    from torchstone.evaluate import sanity

    monkeypatch.setattr(sanity, "LOOPS", {"sound": nullcontext, "mask shifted": nullcontext})
    sizes = ["--group-size", "32", "--lr", "1e-2", "--samples", "64"]
    assert main(["sanity", *odd, *sizes]) == 1
    assert "A broken loop learned too (mask shifted)" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(("pays", "says"), [("0.0", "hardly ever solves this. Try"), ("1.0", "nearly always")])
def test_too_few_prompts_say_what_to_change(odd, tmp_path, capsys, pays, says):
    (tmp_path / "r.py").write_text(f"def reward(completions, **columns): return [{pays}] * len(completions)\n")
    assert main(["sanity", *odd, "--search", "16"]) == 2
    assert f"too few: the model {says}" in capsys.readouterr().err.replace("\n", " ")
    assert main(["sanity", "--model", "somewhere"]) == 1 and "what is to be solved is --task" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- torchstone plot


def made(folder: Path, values: dict[int, float], **options) -> Path:
    """A run's folder with these held-out rewards by round."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"method": "grpo", "seed": 0, "out": str(folder), **options}))
    records = [
        {"step": step, "samples": 10 * step, "seconds": 1.0 * step, "eval_reward": y} for step, y in values.items()
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r | {"reward": 0.5}) + "\n" for r in records))
    return folder


def test_plot_pools_seeds_and_tells_other_options_apart(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    runs = [made(tmp_path / f"a{i}", {0: 0.1 * i, 2: 0.5, 4: 0.6 + 0.1 * i}, seed=i, lr=0.1) for i in range(3)]
    runs.append(made(tmp_path / "b0", {0: 0.2, 4: 0.4}, lr=0.2))
    picture = tmp_path / "p.png"
    assert main(["plot", *map(str, runs), "--out", str(picture)]) == 0
    out = capsys.readouterr().out
    assert picture.read_bytes()[:4] == b"\x89PNG" and max(map(len, out.splitlines())) <= 80
    rows = [line.split() for line in out.splitlines() if line.startswith("grpo lr")]
    # mean 0.7 of 0.6, 0.7, 0.8; their deviation 0.1 over the root of 3, times 4.30
    assert rows[0] == ["grpo", "lr", "0.1", "eval_reward", "3", "0.1", "±", "0.25", "0.7", "±", "0.25", "40"]
    assert rows[1] == ["grpo", "lr", "0.2", "eval_reward", "1", "0.2", "0.4", "40"] and "Other metrics: reward" in out


def test_curves_of_seeds_are_averaged_where_all_of_them_are():
    from torchstone.evaluate.plot import mean_curve

    curves = [[(0.0, 0.0), (2.0, 2.0), (4.0, 4.0)], [(1.0, 3.0), (3.0, 5.0)]]
    points = [(x, mean) for x, mean, _ in mean_curve(curves)]
    assert points == [(1.0, 2.0), (2.0, 3.0), (3.0, 4.0)] and mean_curve([[], []]) == []


def test_plot_says_what_there_is(tmp_path, capsys):
    run = str(made(tmp_path / "a", {0: 0.1, 1: 0.2}))
    assert main(["plot", run, "--metric", "list"]) == 0 and capsys.readouterr().out == "eval_reward, reward\n"
    assert main(["plot", run, "--metric", "rewrd"]) == 1
    assert "no run has the metric 'rewrd' (did you mean 'reward' or 'eval_reward'?)" in capsys.readouterr().err
    assert main(["plot", str(tmp_path)]) == 1 and f"{tmp_path} is no run's folder" in capsys.readouterr().err
    assert main(["plot", run, "--out", str(tmp_path / "no" / "p.png")]) == 1
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "axis"), [([], "step"), (["--x", "samples"], "samples")])
def test_plot_of_a_run_that_sampled_all_before_it_began(tmp_path, capsys, monkeypatch, options, axis):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"method": "dpo", "seed": 0}))
    lines = [{"step": step, "samples": 64, "eval_reward": 0.1 * step} for step in range(3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["plot", ".", *options]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[0].split()[-1] == axis and "0.2" in told
