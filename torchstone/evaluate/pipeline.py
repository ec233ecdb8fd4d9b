"""``torchstone pipeline``: SFT, pairs, a reward model, PPO paid by it; and what the true reward says of that."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torchstone.progress import evaluated, noted
from torchstone.stopping import ctrl_c_waits, stopped, unread
from torchstone.terminal import UserError, read_options, table, wrapped
from torchstone.train.command import resume_folder

STAGES = {
    "sft": "1  SFT. The pre-trained model imitates {demonstrations} demonstrations, and so learns what an answer looks "
    "like. What comes out is the start of all that follows.",
    "pairs": "2  Pairs. The start answers some prompts eight times each. Of two answers to one prompt, the "
    "better one is marked, as a person would: here the task's own reward says which.",
    "reward": "3  A reward model. The start's body, under a head that gives one number, learns to give more to the "
    "better answer. From here on it stands for the true reward: a proxy.",
    "ppo": "4  PPO, --beta {beta:g}. The start is paid by the reward model, less {beta:g} for each nat that it is "
    "surer of a token than the start. The true reward is only watched.",
}  # fmt: skip
PANELS = {
    "proxy": ("reward model's score: what is paid", 1),
    "true": ("true reward, %", 100),
    "kl": ("KL to the start, nats per token", 1),
    "length": ("length, tokens", 1),
}
Curves = dict[float, list[dict[str, float]]]  # beta -> a row a round


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """SFT, then pairs, then a reward model, then PPO paid by it, on the small model; a picture of over-optimisation."""

    task: Literal["sort", "add"] = "sort"  # A built-in task: its true reward is known, and watched
    demonstrations: int = 100  # Prompts with answers that SFT imitates
    pairs: int = 256  # Pairs that the reward model learns from; more of them make a better proxy
    noise: float = 0.0  # Share of the pairs that are marked the wrong way round
    betas: tuple[float, ...] = (0.01, 1.0)  # PPO runs with these prices of the KL to the start, each from the start
    steps: int = 100  # Rounds of each PPO run
    prompts: int = 128  # Prompts in a round, one completion each
    critic: Literal["linear", "reward-model"] = "linear"  # Of PPO: a layer; or the reward model, trained on
    eval_prompts: int = 200  # Held-out prompts at an evaluation
    pretrain_steps: int | None = None  # Steps on raw text before SFT; if left out, the task's own
    seed: int = 0  # Same seed, same machine, same numbers
    out: Path | None = None  # Folder for everything; if left out, runs/pipeline-TASK-SEED


def pipeline(arguments: list[str]) -> int:
    """``torchstone pipeline [options]``, or ``torchstone pipeline --resume FOLDER``."""
    folder, rest = resume_folder(arguments)
    if folder:
        if rest:
            raise UserError("--resume FOLDER takes every option from the folder; give nothing else with it")
        if not (folder / "pipeline.json").is_file():
            raise UserError(f"--resume {folder}: no pipeline there (pipeline.json is missing)")
        from torchstone.store.files import read_options_of

        options = read_options_of(folder / "pipeline.json", Pipeline, out=folder)
    else:
        options = read_options("pipeline", Pipeline, Pipeline(), arguments)
        folder = options.out or Path("runs") / f"pipeline-{options.task}-{options.seed}"
        if (folder / "pipeline.json").exists():
            raise UserError(f"{folder} holds a pipeline already: --resume {folder}, or choose another --out")
    if not (0 <= options.noise <= 1 and options.pairs >= 2 and options.betas and options.steps >= 1):
        raise UserError("--noise must be from 0 to 1, --pairs at least 2, --steps at least 1, and --betas not empty")
    if min(options.prompts, options.eval_prompts, options.demonstrations) < 1:
        raise UserError("--prompts, --eval-prompts and --demonstrations must be at least 1")
    if bad := [beta for beta in options.betas if not 0 <= beta < math.inf]:
        raise UserError(f"--betas must be at least 0, got {bad[0]}")
    from torchstone.store.files import make_folder, write_text

    write_text(make_folder(folder) / "pipeline.json", json.dumps(asdict(options) | {"out": str(folder)}))
    return _run(options, folder)


def _run(options: Pipeline, folder: Path) -> int:
    from torchstone.train.options import PPOOptions, RewardOptions, SFTOptions

    stop, task, start = ctrl_c_waits(), options.task, str(folder / "sft" / "model")
    shared: Any = {"device": "cpu", "seed": options.seed, "eval_prompts": options.eval_prompts}
    shown: Any = {"demonstrations": options.demonstrations, "pretrain_steps": options.pretrain_steps}
    size = max(1, min(32, options.pairs // 4))
    paid: Any = {"steps": options.steps, "prompts": options.prompts, "reward_model": str(folder / "reward")}
    ppo = {
        beta: PPOOptions(
            task=task, model=start, out=folder / f"ppo-{beta:g}", beta=beta, schedule="constant",
            critic=options.critic, **paid, **shared,
        )
        for beta in options.betas
    }  # fmt: skip
    stages: list[tuple[str, Any]] = [
        ("sft", SFTOptions(task=task, out=folder / "sft", **shown, **shared)),
        ("pairs", None),
        ("reward", RewardOptions(data=folder / "pairs.jsonl", model=start, out=folder / "reward", lr=5e-4, epochs=8,
                                 pairs=size, **shared)),
        *(("ppo", config) for config in ppo.values()),
    ]  # fmt: skip
    for stage, config in stages:
        values = asdict(options) | {"beta": getattr(config, "beta", 0)}
        print("\n" + wrapped(STAGES[stage].format(**values), indent="   "), flush=True)
        if stage == "pairs":
            print(wrapped(make_pairs(options, folder, start), "   "), flush=True)
        elif (config.folder / "model").exists():
            print(f"   done: {config.folder}")
        else:
            _train(config, folder, stop)
    curves = {beta: rows_of(config.folder) for beta, config in ppo.items()}
    write_csv(curves, folder / "data.csv")
    plot(curves, f"{task}: paid by a reward model of {options.pairs} pairs", folder / "overoptimisation.png")
    print(f"\n{told(curves)}\n\n{written(folder, list(ppo.values()))}")
    print(f"The picture is {folder}/overoptimisation.png, its numbers {folder}/data.csv")
    return 0


def _train(config: Any, folder: Path, stop: Any) -> None:
    from torchstone.progress import Bar
    from torchstone.train.run import Interrupted, train

    with Bar(config.label) as bar:

        def show(record: dict[str, Any]) -> bool:
            with unread(stop):
                bar.update(record["step"], record["steps"], noted(record), evaluated(record), config.label)
            return bool(stop.is_set())

        try:
            train(config, show, resume=(config.folder / "config.json").exists(), dry=False)
        except Interrupted as e:
            raise stopped("pipeline", folder) from e
        except KeyboardInterrupt:
            raise UserError("stopped at once; what was saved before is kept", 130) from None


def make_pairs(options: Pipeline, folder: Path, start: str) -> str:
    """pairs.jsonl: so many, of the start's own answers, some of them marked the wrong way round; and what it holds."""
    from torchstone.data.find import find_task
    from torchstone.store.files import save
    from torchstone.train.loading import load_policy
    from torchstone.train.offline import sample_pairs
    from torchstone.train.options import RewardOptions

    file = folder / "pairs.jsonl"
    if file.exists():
        return f"done: {file}"
    config = RewardOptions(task=options.task, seed=options.seed, samples=32 * options.pairs)
    pairs = sample_pairs(config, find_task(config), load_policy(start, "cpu", "float32"))[: options.pairs]
    if len(pairs) < 2:
        raise UserError("no two answers to one prompt differ in their reward: try more --demonstrations or --pairs")
    wrong = set(random.Random(options.seed).sample(range(len(pairs)), round(options.noise * len(pairs))))
    for i in wrong:
        pairs[i] |= {"chosen": pairs[i]["rejected"], "rejected": pairs[i]["chosen"]}
    save(file, "".join(json.dumps(pair) + "\n" for pair in pairs))
    noise = f", {len(wrong)} of them marked the wrong way round" if wrong else ""
    return (
        f"{len(pairs)} pairs{noise}, such as {pairs[0]['prompt']} {pairs[0]['chosen']!r}, not {pairs[0]['rejected']!r}"
    )


def rows_of(folder: Path) -> list[dict[str, float]]:
    """What the picture shows of each round of a PPO run."""
    from torchstone.store.files import read_records

    records = read_records(folder / "metrics.jsonl")[1:]
    (true,) = {key for key in records[0] if key.startswith("rewards/")} - {"rewards/reward_model/mean"}
    names = {"step": "step", "proxy": "rewards/reward_model/mean", "true": true, "kl": "kl"}
    names["length"] = "completions/mean_length"
    return [{name: record.get(key, 0.0) for name, key in names.items()} for record in records]


def write_csv(curves: Curves, file: Path) -> None:
    """Every round of every PPO run."""
    with file.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["beta", "step", *PANELS])
        for beta, found in curves.items():
            rows.writerows([f"{beta:g}", row["step"], *(f"{row[name]:.4g}" for name in PANELS)] for row in found)


def plot(curves: Curves, title: str, file: Path) -> None:
    """A panel for each of the proxy, the true reward, the KL and the length; a line for each beta."""
    from torchstone.drawing import LINE, PALETTE, label_ends, pyplot

    plt = pyplot()
    figure, grid = plt.subplots(2, 2, figsize=(8.3, 5.6), sharex=True, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    for axes, (name, (words, factor)) in zip(grid.flat, PANELS.items(), strict=True):
        ends = []
        for (beta, rows), colour in zip(curves.items(), PALETTE, strict=False):
            axes.plot([row["step"] for row in rows], [factor * row[name] for row in rows], color=colour, linewidth=1.6)
            ends.append((factor * rows[-1][name], f"β {beta:g}", colour))
        axes.set_title(words, fontsize=11)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.set_xlim(0, len(rows))
        label_ends(axes, ends, 10)
    for axes in grid[1]:
        axes.set_xlabel("round of PPO")
    figure.savefig(file)
    plt.close(figure)


def told(curves: Curves) -> str:
    """The start, and each PPO run's best round by the true reward, and its last."""
    first = next(iter(curves.values()))[0]
    rows = [["the start", *_cells(first)]]
    for beta, found in curves.items():
        best = max(found, key=lambda row: row["true"])
        ends = (best, found[-1]) if 1 < best["step"] < found[-1]["step"] else (found[-1],)
        rows += [[f"beta {beta:g}, round {row['step']}", *_cells(row)] for row in ends]
    head = ["", "reward model", "true reward", "KL", "length"]
    note = "Of each run the round with the most true reward, which PPO does not know, and the last one."
    return table(head, rows, title="What PPO earned", right=head[1:]) + "\n" + wrapped(note)


def _cells(row: dict[str, float]) -> list[str]:
    return [f"{row['proxy']:.2f}", f"{100 * row['true']:.0f}%", f"{row['kl']:.2f}", f"{row['length']:.1f}"]


def written(folder: Path, runs: Sequence[Any]) -> str:
    """What the start, and each run at its end, answer to three held-out prompts, with both rewards."""
    from torchstone.store.files import read_records

    rows = []
    for config in runs:
        samples = read_records(config.folder / "completions.jsonl")
        for step in {0, samples[-1]["step"]} if config is runs[0] else {samples[-1]["step"]}:
            who = f"beta {config.beta:g}" if step else "the start"
            for one in [sample for sample in samples if sample["step"] == step][:3]:
                proxy, true = one["rewards"].values()
                rows.append([who, one["prompt"], one["completion"], f"{proxy:.2f}", f"{true:.0f}"])
    rows.sort(key=lambda row: row[1])
    return table(["who", "asked", "wrote", "reward model", "true"], rows, right=["reward model", "true"])
