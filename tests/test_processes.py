"""What is drawn in a round depends on (seed, round, row, token) alone; micro-batches, and several processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import several_processes
import torch
from safetensors.torch import load_file
from test_train_folder import records

from torchstone.cli import main
from torchstone.data.tasks import load_task
from torchstone.rewards.reward_model import reward_model_of
from torchstone.store import checkpoint
from torchstone.store.files import load_config
from torchstone.terminal import UserError
from torchstone.train import checks, processes, run
from torchstone.train.checks import check_options
from torchstone.train.methods import Batch, method_of
from torchstone.train.model import Policy, small_policy
from torchstone.train.options import METHODS, DPOOptions, GRPOOptions, Online, RecipeOptions, RewardOptions
from torchstone.train.rollout import choose, cut, outputs_of, sample, uniforms


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.manual_seed(3)
    policy = small_policy("0123456789>", 24, "cpu").double()
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return policy


# ---------------------------------------------------------------------------------------------------------- noise


def chi_square(tokens: torch.Tensor, probs: torch.Tensor) -> float:
    """By how many standard deviations it is above its mean; the rarest tokens are counted as one, expected 20 times."""
    expected, order = (probs.double() * len(tokens)).sort()
    found = torch.bincount(tokens, minlength=len(probs)).double()[order]
    rare = int((expected.cumsum(0) < 20).sum()) + 1
    expected, found = (torch.cat([x[:rare].sum()[None], x[rare:]]) for x in (expected, found))
    degrees = len(found) - 1
    return float((((found - expected) ** 2 / expected).sum() - degrees) / (2 * degrees) ** 0.5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_as_frequent_as_the_softmax_says(temperature):
    logits, n = torch.randn(50, generator=torch.Generator().manual_seed(1)) * 2, 200_000
    tokens = choose(logits.expand(n, -1), temperature, uniforms(7, 3, n, 1)[:, 0])
    assert abs(chi_square(tokens, (logits / temperature).softmax(0))) < 4
    assert chi_square(tokens, (logits / temperature * 1.03).softmax(0)) > 10  # the control: a temperature 3% too low


def test_every_number_lands_on_its_own_share_exactly():
    """The cumulative distribution is stepped through on a grid; what has no probability is never chosen."""
    probs = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0], dtype=torch.float64)
    grid = torch.arange(1024, dtype=torch.float64) / 1024
    tokens = choose(probs.log().expand(1024, -1), 1.0, grid)
    assert torch.bincount(tokens, minlength=6).tolist() == [0, 256, 0, 512, 256, 0]
    last = torch.tensor([1 - 2.0**-53], dtype=torch.float64)  # the largest number that is drawn
    for seed in range(200):
        logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(seed)) * 5
        logits[0, -7:] = -torch.inf
        assert choose(logits, 1.0, last) == 292
    assert choose(probs.log()[None], 0.0, last) == 3


def test_sums_that_grow_where_nothing_is_added_choose_nothing_of_probability_0(monkeypatch):
    """As a sum in parallel may: at a token of probability 0, and at the last, it is a rounding above the one before."""
    probs, up = torch.tensor([0.5, 0.0, 0.5, 0.0]), 2.0**-52
    below = torch.tensor([[0.5, 0.5 + up, 1.0, 1.0 + up]], dtype=torch.float64).repeat(4, 1)
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda x, dim, dtype: below)
    numbers = torch.tensor([0.0, 0.5, 0.75, 1 - 2.0**-53], dtype=torch.float64)
    scaled = numbers[:, None] * below[:, -1:]
    assert torch.searchsorted(below, scaled, right=True)[:, 0].tolist() == [0, 1, 2, 3]
    assert choose(probs.log().expand(4, -1), 1.0, numbers).tolist() == [0, 0, 2, 2]


def test_unlikely_tokens_of_a_large_vocabulary_keep_their_probability():
    """In float32, the sum over 50,000 tokens steps over those of 1e-8; here each still has its interval."""
    logits = torch.full((50_000,), -18.5)
    logits[0] = 0.0  # the others have 9e-9 each, 4.6e-4 together
    below = (logits.double().softmax(0)).cumsum(0)
    wanted = torch.arange(2, 50_000, 25)
    numbers = (below[wanted - 1] + below[wanted]) / 2  # the middle of each one's share
    batches = zip(numbers.split(500), wanted.split(500), strict=True)
    assert all(torch.equal(choose(logits.expand(len(u), -1), 1.0, u), want) for u, want in batches)
    single = torch.searchsorted(logits.softmax(0).cumsum(0), numbers.float(), right=True)
    assert (single != wanted).float().mean() > 0.3  # the control: the same in float32


def test_a_row_s_numbers_do_not_depend_on_how_long_completions_may_be_and_differ_between_rounds_and_seeds():
    assert torch.equal(uniforms(1, 2, 6, 9)[:, :4], uniforms(1, 2, 6, 4))
    several = torch.stack([uniforms(seed, step, 40, 50) for seed in (0, 1) for step in (-1, 0, 1)])
    assert several.unique().numel() == several.numel() and several.min() >= 0 and several.max() < 1
    correlation = torch.corrcoef(several.flatten(1)) - torch.eye(6)
    assert correlation.abs().max() < 4 / 2000**0.5


def test_a_completion_depends_on_its_own_row_alone(policy):
    """Whichever others are sampled with it, in whatever order and number, and whenever they end."""
    prompts = policy.encode_prompts([f"{'7' * (i % 4)}{i}>" for i in range(24)])
    noise = uniforms(0, 0, 24, 10)
    whole = sample(policy, prompts, 10, 1.0, noise)
    lengths = whole.mask.sum(1)
    assert len(set(lengths.tolist())) > 4
    for order in (range(24), range(23, -1, -1), range(1, 24, 3), [5]):
        some = sample(policy, [prompts[i] for i in order], 10, 1.0, noise[list(order)])
        assert some.completions == [whole.completions[i] for i in order]
        assert some.mask.sum(1).tolist() == [int(lengths[i]) for i in order]
    for budget in (1, 40, 100, 10_000):
        part = sample(policy, prompts, 10, 1.0, noise, budget)
        assert torch.equal(part.tokens, whole.tokens) and torch.equal(part.mask, whole.mask)
    other = sample(policy, prompts, 10, 1.0, uniforms(0, 1, 24, 10))
    assert other.completions != whole.completions


def test_the_budget_bounds_the_tokens_that_are_read_at_once(policy, monkeypatch):
    prompts, sizes, read = policy.encode_prompts([f"{'1' * i}>" for i in range(10)]), [], policy.read_prompts
    monkeypatch.setattr(
        policy, "read_prompts", lambda t, a: (sizes.append(tuple(t.shape)), read(t, a))[1], raising=False
    )
    sample(policy, prompts, 6, 1.0, uniforms(0, 0, 10, 6), 48)
    assert [rows for rows, _ in sizes] == [3, 3, 3, 1] and all(rows * (width + 6) <= 48 for rows, width in sizes)


# -------------------------------------------------------------------------------------------------- micro-batches

ROUND = {"prompts": 6, "group_size": 4, "minibatches": 1, "max_new_tokens": 8}


def gradient(policy: Policy, config: Online) -> torch.Tensor:
    """Of a round's first minibatch, from samples that do not depend on the micro-batches."""
    method, B = method_of(config), config.prompts * config.group_size
    policy.entropy_bonus, policy.keep_logits = "entropies" in method.needs, False
    prompts = policy.encode_prompts([row["prompt"] for row in load_task("sort").examples[:6] for _ in range(4)])
    rollout = sample(policy, prompts, 8, 1.0, uniforms(0, 0, B, 8), config.rollout_tokens)
    (whole, parts), *_ = cut(config, rollout.tokens.shape[1], 4)
    rewards = torch.linspace(0, 1, B, dtype=torch.float64).sin().mul(50).frac().view(6, 4)
    old = outputs_of(policy, rollout, 1.0, parts)
    batch = method.advantages(rewards, Batch(rollout.mask, old, old.log_probs - 0.1))
    policy.zero_grad()
    for rows in parts:
        method.loss(
            policy(*rollout[rows].inputs, 1.0), batch[rows], method.denominator(batch.mask[whole])
        ).value.backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


@pytest.mark.parametrize("reduction", ["token-mean", "sequence-mean", "sequence-sum", "fixed-length"])
@pytest.mark.parametrize("kind", ["reinforce", "grpo"])
def test_a_budget_of_tokens_changes_no_gradient(policy, kind, reduction):
    whole = gradient(policy, METHODS[kind](reduction=reduction, beta=0.1, **ROUND))
    for bounds in ({"micro_batch_tokens": 4 * 15, "rollout_tokens": 50}, {"micro_batch_tokens": 130, "micro_batch": 9}):
        parts = gradient(policy, METHODS[kind](reduction=reduction, beta=0.1, **ROUND, **bounds))
        assert 0 < (parts - whole).norm() < 1e-10 * whole.norm()  # other sums, so not the same to the bit


def test_a_budget_of_tokens_cuts_whole_units_and_never_less_than_one():
    def sizes(unit=1, width=10, **options):
        config = GRPOOptions(prompts=4, group_size=4, minibatches=2, **options)
        return [[part.stop - part.start for part in parts] for _, parts in cut(config, width, unit)]

    assert sizes() == [[8], [8]] and sizes(micro_batch=3) == [[3, 3, 2]] * 2
    assert sizes(micro_batch_tokens=35) == [[3, 3, 2]] * 2 == sizes(micro_batch_tokens=35, micro_batch=5)
    assert sizes(micro_batch_tokens=9) == [[1] * 8] * 2  # a row that is longer than the budget is read alone
    assert sizes(unit=4, micro_batch_tokens=75) == [[4, 4]] * 2 == sizes(unit=4, micro_batch_tokens=9)


# ---------------------------------------------------------------------------------------------- several processes


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    torch.manual_seed(3)
    for name in ("model", "teacher"):
        policy = small_policy("0123456789>+= abcdefghijklmnopqrstuvwxyz", 40, "cpu")
        for p in policy.parameters():
            torch.nn.init.normal_(p, std=0.15)
        policy.save(folder / name)
    model = reward_model_of(RewardOptions(), policy)
    torch.nn.init.normal_(model.model.score.weight, std=0.3)
    model.save(folder / "reward")
    (folder / "r.py").write_text(several_processes.REWARD)
    prompts = [{"prompt": f"{'7' * (i % 4)}{i}>", "answer": str(i)} for i in range(20)]
    pairs = [{"prompt": f"say {i}", "chosen": f"{i}", "rejected": f"{i + 1} no"} for i in range(20)]
    for name, rows in (("prompts", prompts), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def torchrun(n: int, *words: str | Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), *map(str, words)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def apart(a: Path, b: Path) -> tuple[float, float]:
    """How far two runs' weights are from one another, and their metrics."""
    (x, y), (m, n) = ([f(folder) for folder in (a, b)] for f in (result, records))
    assert x.keys() == y.keys() and [record.keys() for record in m] == [record.keys() for record in n]
    numbers = [(one[k], two[k]) for one, two in zip(m, n, strict=True) for k in one if not isinstance(one[k], str)]
    assert all(w.dtype == torch.float64 for w in (*x.values(), *y.values()))
    return max(float((x[k] - y[k]).abs().max()) for k in x), max(abs(u - v) for u, v in numbers)


def result(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_one_two_and_four_processes_are_the_same(home, tmp_path, monkeypatch):
    """Every method, weights whole or cut, stopped and gone on with: weights and metrics are those of one process."""
    started = [torchrun(n, several_processes.__file__, home, tmp_path / str(n)) for n in (2, 4)]
    for owner, name in (*several_processes.MADE, (checks, "check_processes")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back at the end
    several_processes.main(home, tmp_path / "1")
    for process in started:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output[-3000:]
    names = {folder.name for folder in (tmp_path / "1").iterdir()}
    compared = [folder for n in "24" for folder in (tmp_path / n).iterdir() if "stopped" not in folder.name]
    assert len(compared) == 2 * (len(names) + len(several_processes.CUT) + len(several_processes.STOPPED))
    for folder in compared:
        whole = tmp_path / "1" / folder.name.removesuffix(" gone on").removesuffix(" cut")
        weights, metrics = apart(folder, whole)
        assert weights < 1e-10 and metrics < 1e-10, (folder, weights, metrics)
        assert max(float((x - start).abs().max()) for x, start in moved(home, whole)) > 1e-3
    for n, other in ((2, 4), (4, 2)):  # to the bit with the same number of processes
        gone_on = tmp_path / str(n) / "grpo token-mean gone on"
        assert result(gone_on).keys() and apart(gone_on, tmp_path / str(n) / "grpo token-mean") == (0, 0), other
    for name in several_processes.STOPPED:  # begun in two processes, gone on with in one
        folder = tmp_path / "2" / f"{name} gone on stopped"
        assert not (folder / "model").exists() and records(folder)[-1]["step"] == 1
        run.train(load_config(folder), resume=True)
        assert max(apart(folder, tmp_path / "1" / name.removesuffix(" cut"))) < 1e-10


def moved(home: Path, folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights of a result, and those that it started from."""
    start, end = load_file(home / "model" / "model.safetensors"), result(folder)
    return [(end[k], start[k]) for k in end.keys() & start.keys()]


@pytest.mark.parametrize("how", ["a process dies", "SIGTERM"])
def test_processes_stop_together_and_say_once_how_to_go_on(home, tmp_path, how):
    out = tmp_path / "run"
    words = ["--model", home / "model", "--data", home / "prompts.jsonl", "--reward", f"{home / 'r.py'}:reward"]
    words += ["--steps", "5000", "--eval-every", "3", "--eval-prompts", "4", "--max-new-tokens", "4", "--out", out]
    process = torchrun(2, "-m", "torchstone", "train", "grpo", *words, "--shard")
    deadline = time.time() + 120
    while time.time() < deadline and not list(out.glob("checkpoint-*3")):
        time.sleep(0.1)
    if how == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        os.kill(int(children.stdout.split()[1]), signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    said = [line for line in output.splitlines() if line.startswith("torchstone train: ")]
    assert process.returncode and len(said) == 2 and "held out" in said[0] and f"--resume {out}" in said[1], output
    assert ("stopped" if how == "SIGTERM" else "another process has ended") in said[1]
    last = int(checkpoint.files(out)[-1].name[-6:])
    assert last == records(out)[-1]["step"] if how == "SIGTERM" else last >= 3
    run.train(load_config(out, ["--steps", str(last + 1)]), resume=True)  # in one process
    assert [record["step"] for record in records(out)] == list(range(last + 2))


def test_accelerate_launch_starts_the_same_processes(home, tmp_path):
    """By the launcher that is torchrun's; with --cpu it starts one process, whatever --num_processes says."""
    words = ["--model", home / "model", "--data", home / "pairs.jsonl", "--pairs", "4", "--epochs", "1"]
    words += ["--eval-prompts", "2", "--max-new-tokens", "5", "--device", "cpu", "--out"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [*launch, "-m", "torchstone", "train", "reward", *map(str, words), str(tmp_path / "accelerate")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1]), "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("metrics.jsonl, completions.jsonl") == 1, done
    assert torchrun(2, "-m", "torchstone", "train", "reward", *words, tmp_path / "torchrun").wait(120) == 0
    a, b = (result(tmp_path / name) for name in ("accelerate", "torchrun"))
    assert all(torch.equal(a[name], b[name]) for name in b)
    alone = run.train(replace(load_config(tmp_path / "torchrun"), out=tmp_path / "one"))  # rounds otherwise
    assert any(not torch.equal(a[name], x) for name, x in result(alone).items())


def test_what_several_processes_cannot_do_is_said(tmp_path, monkeypatch, capsys):
    def said(*words: str) -> str:
        assert main(list(words)) == 1 and not (tmp_path / "run").exists()
        return capsys.readouterr().err

    options = ["train", "grpo", "--out", str(tmp_path / "run")]
    assert "this is one: torchrun --nproc-per-node 2 -m torchstone train grpo --shard" in said(*options, "--shard")
    monkeypatch.setattr(processes, "world", lambda: 9)
    config = GRPOOptions(prompts=4, group_size=8, minibatches=4)
    with pytest.raises(UserError, match="9 processes, and an optimizer step is on 8 completions: fewer processes, or"):
        check_options(config)
    with pytest.raises(UserError, match="9 processes, and an optimizer step is on 1 groups"):
        check_options(RecipeOptions(recipe="grpo:reduction=group-token-mean", prompts=4, minibatches=4))
    with pytest.raises(UserError, match="9 processes, and an optimizer step is on 8 examples"):
        check_options(DPOOptions(pairs=8))
    with pytest.raises(UserError, match="--device meta is one device for 9 processes"):
        run.usable_device("meta")
    monkeypatch.undo()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "WORLD_SIZE is 2, and RANK is not set: start several processes with torchrun" in said(*options)
    assert "only torchstone train takes them" in said("compare")


def test_the_loop_of_one_s_own_learns_in_60_lines():
    example = Path(__file__).parents[1] / "examples" / "fsdp_loop.py"
    process = torchrun(2, example)
    output, _ = process.communicate(timeout=120)
    rewards = [float(reward) for reward in re.findall(r"reward (\S+) of 8", output)]
    assert process.returncode == 0 and len(rewards) == 6 and rewards[0] < 1.5 and rewards[-1] > 5, output
    assert len(example.read_text().splitlines()) <= 60
