"""What held-out completions earn: means with intervals, pass@k, and what one model has more, prompt by prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

from torch import Tensor

from torchstone.data.tasks import Task
from torchstone.report import t95
from torchstone.rewards.judging import judge
from torchstone.rewards.library import exact, lenient
from torchstone.train.model import Policy
from torchstone.train.options import Run
from torchstone.train.rollout import Rollout, sample, slices, uniforms

Row = dict[str, Any]  # prompt, completion, tokens, cut_off, and a score by each scorer


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that one of k samples is right, from n samples of which c are: unbiased for n >= k.

        1 - C(n - c, k) / C(n, k)

    1 - (1 - c/n)^k would be too low on average. Source: Chen et al. 2021, arXiv:2107.03374.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"k: expected from 1 to n = {n} samples, of which c from 0 to n are right; got k {k}, c {c}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts and its 95% interval."""

    mean: float
    low: float
    high: float
    n: int  # prompts


def estimate(values: Sequence[float]) -> Estimate:
    """Wilson's interval where each value is 0 or 1, which has a width at 0 and 1 too; else Student's t over prompts."""
    n, mean = len(values), sum(values) / len(values)
    if set(values) <= {0.0, 1.0}:
        z = NormalDist().inv_cdf(0.975)
        middle, half = mean + z**2 / (2 * n), z * math.sqrt(mean * (1 - mean) / n + (z / (2 * n)) ** 2)
        return Estimate(mean, (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n), n)
    found = difference(values, [0.0] * n)
    bounded = n > 1 and all(0 <= value <= 1 for value in values)  # then no mean is outside
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high)) if bounded else found


def difference(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """The mean of ``values`` minus ``others``, prompt by prompt, with Student's t interval."""
    differences = [a - b for a, b in zip(values, others, strict=True)]
    n, mean = len(differences), sum(differences) / len(differences)
    if n == 1:
        return Estimate(mean, -math.inf, math.inf, n)
    half = t95(n - 1) * math.sqrt(sum((x - mean) ** 2 for x in differences) / (n - 1) / n)
    return Estimate(mean, mean - half, mean + half, n)


# -------------------------------------------------------------------------------------------------- sampling


def scorers(task: Task) -> dict[str, Callable[..., Any]]:
    """The task's reward; and, where there is a column ``answer``, a strict and a lenient reading of it."""
    found: dict[str, Callable[..., Any]] = {"reward": task.reward} if task.reward else {}
    return found | ({"strict": exact, "lenient": lenient} if "answer" in task.held_out[0] else {})


def sampled(config: Run, task: Task, policy: Policy, prompts: int, samples: int) -> Iterator[list[Row]]:
    """Some rows at a time: ``samples`` completions of each of the first held-out ``prompts``, scored.

    A prompt's rows follow each other. The noise depends on the seed and the row: models that are compared share it.
    """
    noise = uniforms(config.seed, -1, prompts * samples, config.max_new_tokens)
    for piece in slices(0, prompts * samples, config.micro_batch):
        examples = [task.held_out[i // samples] for i in range(piece.start, piece.stop)]
        rows, rollout = completed(config, policy, [example["prompt"] for example in examples], noise[piece])
        for name, scorer in scorers(task).items():
            scores = judge(replace(task, reward=scorer), examples, rollout.completions, rollout)
            rows = [row | {name: score} for row, score in zip(rows, scores, strict=True)]
        yield rows


def answers(config: Run, policy: Policy, prompt: str, n: int) -> tuple[list[Row], Rollout]:
    """``n`` completions of one prompt."""
    return completed(config, policy, [prompt] * n, uniforms(config.seed, -1, n, config.max_new_tokens))


def completed(config: Run, policy: Policy, prompts: list[Any], noise: Tensor) -> tuple[list[Row], Rollout]:
    """A completion of each prompt, sampled as in training, from its row of the noise [B T]."""
    ids = policy.encode_prompts(prompts, config.system)
    budget = config.micro_batch * (max(map(len, ids)) + config.max_new_tokens)
    rollout = sample(policy, ids, config.max_new_tokens, config.temperature, noise, budget)
    tokens, cut_off = rollout.mask.sum(1).tolist(), rollout.cut_off.tolist()
    columns = zip(prompts, rollout.completions, tokens, cut_off, strict=True)
    rows = [{"prompt": prompt, "completion": text, "tokens": n, "cut_off": cut} for prompt, text, n, cut in columns]
    return rows, rollout


def by_prompt(rows: list[Row], samples: int, scorer: str) -> list[list[float]]:
    """The scores of each prompt whose samples are all there; those that cannot be scored are left out."""
    whole = len(rows) // samples
    groups = [rows[i * samples : (i + 1) * samples] for i in range(whole)]
    return [[row[scorer] for row in group if math.isfinite(row[scorer])] for group in groups]


def values(rows: list[Row], samples: int, ks: Sequence[int], threshold: float) -> dict[str, dict[str, list[float]]]:
    """For each scorer and measure (``mean``, ``pass@1``, ...) each prompt's value; NaN where it cannot be known."""
    found: dict[str, dict[str, list[float]]] = {}
    for scorer in [name for name in ("reward", "strict", "lenient") if rows and name in rows[0]]:
        groups = by_prompt(rows, samples, scorer)
        found[scorer] = {"mean": [sum(group) / len(group) if group else math.nan for group in groups]}
        for k in ks:
            right = [(len(group), sum(score >= threshold for score in group)) for group in groups]
            found[scorer][f"pass@{k}"] = [pass_at_k(n, c, k) if n >= k else math.nan for n, c in right]
    return found


def summary(rows: list[Row], samples: int, ks: Sequence[int], threshold: float) -> dict[str, Any]:
    """What is told of one model: each measure with its interval; lengths; how many completions were cut off."""
    measures = {
        scorer: {name: asdict(estimate(known)) for name, column in columns.items() if (known := finite(column))}
        for scorer, columns in values(rows, samples, ks, threshold).items()
    }
    measures = {scorer: of for scorer, of in measures.items() if of}  # without those that could score nothing
    tokens, cut_off = (sum(row[name] for row in rows) / len(rows) for name in ("tokens", "cut_off"))
    return {"measures": measures, "completions/mean_length": tokens, "completions/clipped_ratio": cut_off}


def paired(a: list[float], b: list[float]) -> Estimate | None:
    """What the first has more, over the prompts that both have a value for; None if there is none."""
    both = [(x, y) for x, y in zip(a, b, strict=False) if math.isfinite(x) and math.isfinite(y)]
    return difference(*map(list, zip(*both, strict=True))) if both else None


def finite(column: Sequence[float]) -> list[float]:
    """The values that are known."""
    return [value for value in column if math.isfinite(value)]
