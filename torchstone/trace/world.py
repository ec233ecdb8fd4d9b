"""A language model that fits on a screen: 32 logits, two prompts, completions of at most three words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torchstone.core import completion_mask, token_entropies, token_log_probs
from torchstone.dpo.variants import log_sum_squares

PROMPTS = ["sky?", "grass?"]
WORDS = ["blue", "green", "grey", "."]  # the vocabulary; "." ends a completion
RIGHT = [0, 1]  # the word that earns 1, by prompt
END, T = 3, 3


class Table(nn.Module):
    """A policy without layers: for each prompt and last word one logit a next word, and one value for a critic."""

    def __init__(self, generator: torch.Generator):
        super().__init__()
        shape = len(PROMPTS) * len(WORDS)  # a state: the prompt, and its last word, or none yet (in the place of ".")
        self.logits = nn.Parameter(0.5 * torch.randn(shape, len(WORDS), generator=generator, dtype=torch.float64))
        self.values = nn.Parameter(0.3 * torch.randn(shape, generator=generator, dtype=torch.float64))


@dataclass(frozen=True)
class Rollout:
    """B = 2 G completions, row p * G + g the g-th of prompt p."""

    tokens: Int[Tensor, "B T"]
    states: Int[Tensor, "B T"]  # the row of the table that token t was chosen by
    mask: Bool[Tensor, "B T"]
    rewards: Float[Tensor, "P G"]

    def __getitem__(self, rows: Any) -> Rollout:
        return Rollout(self.tokens[rows], self.states[rows], self.mask[rows], self.rewards)

    def names(self) -> list[tuple[str, list[str]]]:
        """Each completion's prompt and words."""
        count = self.mask.sum(1).tolist()
        words = [[WORDS[i] for i in row[:n]] for row, n in zip(self.tokens.tolist(), count, strict=True)]
        return [(PROMPTS[int(s[0]) // len(WORDS)], w) for s, w in zip(self.states, words, strict=True)]


def sample(model: Table, G: int, generator: torch.Generator | None) -> Rollout:
    """G completions of each prompt; without a generator the likeliest word each time."""
    prompts = torch.arange(len(PROMPTS)).repeat_interleave(G)
    states, tokens, last = [], [], torch.full_like(prompts, END)
    for _ in range(T):
        states.append(len(WORDS) * prompts + last)
        logits = model.logits.detach()[states[-1]]
        choice = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0] if generator else logits.argmax(1)
        tokens.append(last := choice)
    ids = torch.stack(tokens, 1)
    mask = completion_mask(ids, eos_id=END)
    right = ((ids == torch.tensor(RIGHT)[prompts][:, None]) & mask).any(1)
    return Rollout(ids, torch.stack(states, 1), mask, right.double().view(len(PROMPTS), G))


def outputs(model: Table, rollout: Rollout) -> dict[str, Tensor]:
    """What the table says of the tokens, by the names that recipes know. Gradient flows to its numbers."""
    logits = model.logits[rollout.states]  # [B T V]
    p = logits.detach().softmax(-1)
    score = nn.functional.one_hot(rollout.tokens, len(WORDS)) - p  # of log pi with respect to the row of logits
    return {
        "logits": logits, "log_probs": token_log_probs(logits, rollout.tokens, temperature=1.0),
        "values": model.values[rollout.states],
        "entropies": token_entropies(logits, temperature=1.0), "energies": score.square().sum(-1),
        "log_normalisers": log_sum_squares(logits.detach(), temperature=1.0),
    }  # fmt: skip
