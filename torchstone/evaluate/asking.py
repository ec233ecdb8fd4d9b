"""What ``torchstone eval`` and ``torchstone ask`` print, and how they end."""

from __future__ import annotations

import inspect
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchstone.terminal import UserError, bold, dim, read_options, table, wrapped

EVAL = "eval MODEL [MODEL ...]"
ASK = 'ask MODEL "PROMPT"'


def eval(arguments: list[str]) -> int:
    """``torchstone eval MODEL [MODEL ...] [options]``."""
    from torchstone.evaluate.options import Eval

    names, rest = operands(arguments)
    options = read_options(EVAL, Eval, Eval(), rest)
    if not names:
        raise UserError("which model? torchstone eval MODEL, where MODEL is a run's folder, a model's, or a hub id", 2)
    if len(set(names)) < len(names):
        raise UserError(f"{max(names, key=names.count)} is given twice")
    check(options)
    return _eval(names, options)


def check(options: Any) -> None:
    """Numbers that cannot work, by name. Raises UserError."""
    if min(options.prompts, options.samples, options.micro_batch) < 1:
        raise UserError("--prompts, --samples and --micro-batch must be at least 1")
    for k in options.k:
        if not 1 <= k <= options.samples:
            raise UserError(f"--k {k} needs from 1 to --samples {options.samples} completions of each prompt")
    if options.temperature == 0 and options.samples > 1:
        raise UserError("--temperature 0 is greedy, and all --samples would be one and the same: leave one out")
    if not math.isfinite(options.threshold):
        raise UserError(f"--threshold must be a number, got {options.threshold}")
    check_measured(options)


def check_measured(options: Any) -> None:
    """The same for what ``ask`` has too."""
    if options.temperature is not None and not 0 <= options.temperature < math.inf:
        raise UserError(f"--temperature must be at least 0, got {options.temperature}")
    if options.max_new_tokens is not None and options.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens must be at least 1, got {options.max_new_tokens}")


def _eval(names: list[str], options: Any) -> int:
    from torchstone.evaluate.models import config_for, load, task_of
    from torchstone.evaluate.passes import sampled, scorers, summary
    from torchstone.progress import Bar
    from torchstone.store.files import check_writable, write_text

    check_writable(options.json, options.completions)
    config = config_for(names, options)
    task = task_of(config, names)
    if not scorers(task):
        raise UserError(f'{task.name} has nothing to score with: name a --reward, or give each line an "answer"')
    prompts, stopped = min(options.prompts, len(task.held_out)), False
    rows: dict[str, list[dict[str, Any]]] = {}
    seconds: dict[str, float] = {}
    for name in names:
        started, rows[name] = time.perf_counter(), []
        try:
            with Bar(Path(name).name[:20], "completion") as bar:
                policy = load(name, config)
                for some in sampled(config, task, policy, prompts, options.samples):
                    rows[name] += some
                    earned = [row["reward"] for row in rows[name] if "reward" in row]
                    note = f"reward {sum(earned) / len(earned):.3f}" if earned else ""
                    bar.update(len(rows[name]), prompts * options.samples, note)
        except KeyboardInterrupt:
            stopped = True
        seconds[name] = round(time.perf_counter() - started, 1)
        if stopped:
            break
    done = {name: some for name, some in rows.items() if len(some) >= options.samples}
    setting = {
        "task": task.name, "prompts": prompts, "samples": options.samples, "temperature": config.temperature,
        "max_new_tokens": config.max_new_tokens, "system": config.system, "seed": config.seed,
        "threshold": options.threshold, "complete": not stopped,
    }  # fmt: skip
    models = {
        name: {"model": name, "seconds": seconds[name]} | summary(some, options.samples, options.k, options.threshold)
        for name, some in done.items()
    }
    told = setting | {"models": list(models.values()), "differences": differences(done, options)}
    if models:
        print(eval_table(told), flush=True)
    if options.json:
        write_text(options.json, json.dumps(told, indent=1) + "\n")
    if options.completions:
        lines = ({"model": name, **row} for name, some in rows.items() for row in some)
        write_text(options.completions, "".join(json.dumps(line) + "\n" for line in lines))
    if stopped:
        raise UserError("stopped: what was sampled until then is above, and in --json" if models else "stopped", 130)
    return 0


def differences(rows: dict[str, list[Any]], options: Any) -> list[dict[str, Any]]:
    """What each model has more than the first, for each scorer and measure, prompt by prompt."""
    from dataclasses import asdict

    from torchstone.evaluate.passes import paired, values

    found, measured = [], {n: values(some, options.samples, options.k, options.threshold) for n, some in rows.items()}
    first, *others = measured
    for name in others:
        for scorer, columns in measured[name].items():
            pairs = {k: paired(column, measured[first][scorer][k]) for k, column in columns.items()}
            more = {k: asdict(pair) for k, pair in pairs.items() if pair}
            found += [{"model": name, "minus": first, "scorer": scorer, "measures": more}] if more else []
    return found


def eval_table(told: dict[str, Any]) -> str:
    """The numbers as a table: a row for each model and scorer, then the differences to the first model."""
    numbers = {model["model"]: str(i) for i, model in enumerate(told["models"], start=1)}
    found = [(numbers[m["model"]], score, of, "") for m in told["models"] for score, of in m["measures"].items()]
    single = len(found)
    for pair in told["differences"]:
        found.append((f"{numbers[pair['model']]} - 1", pair["scorer"], pair["measures"], "+"))
    if not found:
        return f"{told['task']}: none of the completions could be scored (None)"
    names = list(dict.fromkeys(name for _, _, of, _ in found for name in of))
    if all(of["mean"]["mean"] == of.get("pass@1", {"mean": None})["mean"] for _, _, of, _ in found):
        names.remove("mean")  # scores of 0 and 1 alone: their mean is pass@1
    head = ["model", "score", *names]
    rows = [
        [model, score, *(cell(name, of[name], sign) if name in of else "-" for name in names)]
        for model, score, of, sign in found
    ]
    drawn = f"{told['samples']} sampled at temperature {told['temperature']:g}" if told["temperature"] else "greedy"
    note = f"{told['task']}: {told['prompts']} held-out prompts, {drawn}; in brackets 95% intervals over prompts."
    note += " 2 - 1: what 2 has more than 1, prompt by prompt." if told["differences"] else ""
    shown = table(head, rows, right=names, sums=range(single, len(rows)))
    return "\n".join([shown, *(f"{i}  {name}" for name, i in numbers.items()), wrapped(note)])


def cell(name: str, one: dict[str, float], sign: str) -> str:
    """Mean and interval: a mean score as a number, a share in percent."""
    scale, digits, unit = (1, 3, "") if name == "mean" else (100, 1, "%")
    low, high = (f"{scale * x:{sign}.{digits}f}" if math.isfinite(x) else "?" for x in (one["low"], one["high"]))
    return f"{scale * one['mean']:{sign}.{digits}f}{unit} [{low}, {high}]"


def ask(arguments: list[str]) -> int:
    """``torchstone ask MODEL "PROMPT" [options]``."""
    from torchstone.evaluate.options import Ask

    words, rest = operands(arguments)
    if len(words) == 1 and rest and not rest[0].startswith("--") and rest[0] != "-h":  # -3+4= is a prompt
        words, rest = [*words, rest[0]], rest[1:]
    options = read_options(ASK, Ask, Ask(), rest)
    if len(words) != 2 or not words[1]:
        raise UserError('a model and a prompt: torchstone ask runs/grpo-add-0 "27+65="', 2)
    if any("\ud800" <= character <= "\udfff" for character in words[1]):
        raise UserError(
            f"the prompt {words[1]!a} is no text in {sys.getfilesystemencoding()}: is it in another encoding?"
        )
    check_measured(options)
    if options.n < 1 or (options.temperature == 0 and options.n > 1 and "--n" in rest):
        raise UserError("--n must be at least 1, and 1 with --temperature 0, which is greedy")
    return _ask(words[0], words[1], options)


def _ask(name: str, prompt: str, options: Any) -> int:
    from torchstone.evaluate.models import config_for, load
    from torchstone.evaluate.passes import answers

    config = config_for([name], options)
    n = 1 if config.temperature == 0 else options.n
    rows, rollout = answers(config, load(name, config), prompt, n)
    rewards = rewards_of(config, prompt, rollout)
    for i, row in enumerate(rows, start=1):
        notes = [f"{row['tokens']} tokens" + (", cut off" if row["cut_off"] else "")]
        notes += [f"reward {rewards[i - 1]:.3g}"] if rewards else []
        print(bold(f"{i}") + dim(f"  {'  '.join(notes)}"))
        print(row["completion"])
    return 0


def rewards_of(config: Any, prompt: str, rollout: Any) -> list[float]:
    """What the run's reward pays for completions, where it needs no column of the data; nothing otherwise."""
    from torchstone.evaluate.models import task_of
    from torchstone.rewards.calling import GIVEN
    from torchstone.rewards.judging import judge

    try:
        task = task_of(config, [])
        wanted = inspect.signature(task.reward).parameters.values() if task.reward else ()
        needs = {p.name for p in wanted if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
        if not task.reward or needs - set(GIVEN):
            return []
        return judge(task, [{"prompt": prompt} for _ in rollout.completions], rollout.completions, rollout)
    except UserError:  # the data was moved, the reward wants more: the completions are what was asked for
        return []


def operands(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first option, and the rest."""
    first = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    return list(arguments[:first]), list(arguments[first:])
