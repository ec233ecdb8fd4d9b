"""Work that teaches nothing is said in its first round, and again at the end: what was flat, why, what to try."""

from __future__ import annotations

from typing import Any

from torchstone.data.tasks import PRINTABLE, Task
from torchstone.rewards.several import optional_columns
from torchstone.train.options import Run


def nothing_learned(config: Run, task: Task, records: list[dict[str, Any]]) -> str:
    """What most of these rounds lacked, and what may be why; nothing if they taught something."""
    tied = [record for record in records if record.get("frac_reward_zero_std") == 1 and not config.has_teacher]
    unscored = [record for record in records if record.get("unscored") == 1 and not config.has_teacher]
    if 2 * len(unscored) > len(records):
        return f"{len(unscored)} of {len(records)} rounds taught nothing: the reward could score no completion (None)"
    still = [record for record in records if record.get("grad_norm") == 0]
    flat = max(tied, still, key=len)
    if 2 * len(flat) <= len(records):
        return ""
    rounds = "round 1" if len(records) == 1 else f"{len(flat)} of {len(records)} rounds"
    if flat is not tied:
        return f"{rounds} taught nothing: the gradient is exactly 0. Is anything in the data to be told apart?"
    pay = f"all completions of a prompt earn the same, {flat[-1]['reward']:.4g} on average"
    advice = "Try: read completions.jsonl; pay for a part of the answer too, easier prompts, or more --group-size."
    return " ".join([f"the rewards of {rounds} taught nothing: {pay}.", *reasons(config, task, flat), advice])


def reasons(config: Run, task: Task, records: list[dict[str, Any]]) -> list[str]:
    """What in the options, the data and the rounds makes all rewards the same, a sentence each."""
    found, texts = [], [str(value) for example in task.examples[:1000] for value in example.values()]
    optional = [name for name in optional_columns(task.reward) if name not in task.examples[0]] if task.reward else []
    if optional and config.data:
        found.append(f"The reward function's {', '.join(optional)}: no such column in {config.data}.")
    if not config.model and config.data and "answer" not in task.examples[0]:
        found.append("The small model was shown no answers: give each line an 'answer', or --model FOLDER.")
    if not config.model and (unknown := sorted({c for text in texts for c in text if c not in PRINTABLE})):
        found.append(f"The small model cannot write {' '.join(unknown[:8])}.")
    if all(record.get("completions/clipped_ratio") == 1 for record in records):
        found.append(f"No completion ended within --max-new-tokens {config.max_new_tokens}.")
    if all(record.get("entropy", 1.0) < 0.01 for record in records):
        found.append("The model is sure of every token, and its completions are alike: raise --temperature.")
    return found
