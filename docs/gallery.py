"""Train the runs of docs/gallery.png, six that went wrong beside six that did not, and write docs/gallery.csv.

    python docs/gallery.py [FOLDER]        default: runs/gallery; what is there is not trained again (minutes in all)

docs/pictures.py draws them. Each run is one command; docs/symptoms.md prints the wrong ones.
"""

import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REWARDS = '''\
"""Rewards of docs/symptoms.md: one that is never earned, for length, for one answer, for a cheap one."""


def vowels(prompts, completions, **columns):
    return [float(sum(letter in "aeiou" for letter in text)) for text in completions]


def length(prompts, completions, **columns):
    return [float(len(text)) for text in completions]


def sevens(prompts, completions, **columns):
    return [float(text.count("7")) for text in completions]


def rising(prompts, completions, **columns):
    return [float(len(text) == 6 and sorted(text) == list(text)) for text in completions]
'''
# A name, its metric, its title; the command that went wrong, and the one beside it.
RUNS = [
    ("rate", "reward", "Learning rate too high: reward", "grpo --lr 5e-3", "grpo"),
    ("tied", "frac_reward_zero_std", "Groups tied: share of groups", "grpo --reward rewards.py:vowels", "grpo"),
    ("length", "completions/mean_length", "Paid for length: tokens",
     "grpo --max-new-tokens 16 --reward rewards.py:length", "grpo --max-new-tokens 16"),
    ("entropy", "entropy", "Entropy gone: nats a token", "grpo --reward rewards.py:sevens", "grpo"),
    ("kl", "kl", "KL ignored: nats a token", "ppo --reward rewards.py:rising --beta 1e-9",
     "ppo --reward rewards.py:rising --beta 0.5"),
    ("hacked", "rewards/exact/mean", "Reward hacked: share of right answers",
     "grpo --reward rewards.py:rising exact --reward-weights 1 0",
     "grpo --reward exact rewards.py:rising --reward-weights 1 0"),
]  # fmt: skip
ROUNDS = 40


def metrics(folder: Path, name: str, words: str) -> list[dict]:
    """The records of the run of this name, which is trained if it is not there."""
    out = folder / name
    if not (out / "model").exists():
        extra = ["--steps", str(ROUNDS), "--eval-prompts", "0", "--out", str(out)]
        command = [sys.executable, "-m", "torchstone", "train", *shlex.split(words), *extra]
        print(" ".join(command[1:]), flush=True)
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines][1:]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rewards.py").write_text(REWARDS, encoding="utf-8")
    with (ROOT / "docs" / "gallery.csv").open("w", encoding="utf-8", newline="") as file:
        write = csv.writer(file, lineterminator="\n").writerow
        write(["panel", "metric", "run", "round", "value"])
        for panel, metric, _, wrong, beside in RUNS:
            for run, words in (("wrong", wrong), ("beside", beside)):
                for record in metrics(folder, f"{panel}-{run}", words):
                    write([panel, metric, run, record["step"], f"{record[metric]:.5g}"])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/gallery").resolve())
