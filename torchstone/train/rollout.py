"""Stage 2: from prompts to B sequences of tokens, and the mask of what the policy chose."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchstone.core import completion_mask
from torchstone.terminal import UserError
from torchstone.train.model import Outputs, Policy, Sliceable
from torchstone.train.options import Online
from torchstone.train.processes import any_of, divided, share


@dataclass(frozen=True)
class Rollout(Sliceable):
    """Prompts padded on the left to one width, then T columns of completion padded on the right."""

    tokens: Int[Tensor, "B S"]
    attention: Bool[Tensor, "B S"]  # False on the padding before a prompt
    mask: Bool[Tensor, "B T"]  # True where the policy chose the token, the end token included
    cut_off: Bool[Tensor, " B"]  # True where the completion reached the longest length without an end token
    completions: list[str]

    @property
    def ids(self) -> list[list[int]]:
        """The tokens of each completion, the end token included."""
        chosen = zip(self.tokens[:, -self.mask.shape[1] :].tolist(), self.mask.sum(1).tolist(), strict=True)
        return [row[:n] for row, n in chosen]

    @property
    def inputs(self) -> tuple[Tensor, Tensor, int]:
        """What the policy's forward pass wants."""
        return self.tokens, self.attention, self.mask.shape[1]


@dataclass(frozen=True)
class Reader:
    """A frozen policy before a rollout: ``reader[rows].logits()`` is what it says of those rows, made when asked for.

    The logits of a whole round would be the vocabulary's size times its log-probs.
    """

    policy: Policy
    rollout: Rollout

    def __getitem__(self, rows: slice) -> Reader:
        return Reader(self.policy, self.rollout[rows])

    @torch.no_grad()
    def logits(self) -> Float[Tensor, "B T V"]:
        """At the positions of the completions' tokens. Constants."""
        return self.policy.logits(*self.rollout.inputs)


def sample(
    policy: Policy, prompts: list[list[int]], max_new_tokens: int, temperature: float, noise: Tensor | None = None,
    budget: int = 0,
) -> Rollout:  # fmt: skip
    """Sample one completion for each prompt from the whole softmax: no top-k, top-p or penalty.

    Anything that cuts the distribution would make its log-probs differ from those that the training sees. At
    temperature 0 every token is the most likely one.

    Args:
        noise: [B T], from ``uniforms``: a completion depends on its own row of it alone. Left out, it is drawn here.
        budget: tokens, padding included, of the completions that are sampled together; 0 for all of them.
    """
    B, tokens, attention = len(prompts), *(x.to(policy.device) for x in _pad(prompts, policy.pad_id, left=True))
    check_room(policy, prompts, [max_new_tokens] * B)
    noise = torch.rand(B, max_new_tokens, dtype=torch.float64) if noise is None else noise
    completions = torch.full((B, max_new_tokens), policy.pad_id, device=policy.device)  # [B T]
    longest = max(map(len, prompts)) + max_new_tokens
    parts = share(0, B, max(1, budget // longest) if budget else B)
    every = divided(
        parts, lambda rows: write(policy, prompts[rows], max_new_tokens, temperature, noise[rows]), policy.is_cut
    )
    for rows, written in zip(parts, every, strict=True):
        completions[rows, : written.shape[1]] = written
    ends = torch.tensor(policy.eos_ids, device=policy.device)
    mask = completion_mask(completions, eos_id=policy.eos_ids)
    T = int(mask.sum(1).max())
    completions, mask = completions[:, :T], mask[:, :T]
    lengths = zip(completions.tolist(), mask.sum(1).tolist(), strict=True)
    texts = policy.tokenizer.batch_decode([row[:n] for row, n in lengths], skip_special_tokens=True)
    attention = torch.cat([attention, torch.ones_like(mask)], 1)
    cut_off = ~torch.isin(completions, ends).any(1)
    return Rollout(torch.cat([tokens, completions], 1), attention, mask, cut_off, texts)


@torch.no_grad()
def write(
    policy: Policy, prompts: list[list[int]], T: int, temperature: float, noise: Float[Tensor, "B T"]
) -> Int[Tensor, "B N"]:
    """Completions of at most T tokens, padded behind their end tokens; N is the longest one's."""
    tokens, visible = (x.to(policy.device) for x in _pad(prompts, policy.pad_id, left=True))
    ends = torch.tensor(policy.eos_ids, device=policy.device)
    completions = torch.full((len(tokens), T), policy.pad_id, device=policy.device)
    rows, going = torch.arange(len(tokens), device=policy.device), True  # those that go on, and whether any do
    noise = noise if policy.device.type == "mps" else noise.to(policy.device)  # which has no float64
    with torch.inference_mode(not policy.is_cut), policy.computing():  # gathered weights outlive the block
        out = policy.read_prompts(tokens, visible)
        cache = out.past_key_values
        for t in range(T):
            new = choose(out.logits[:, -1], temperature, noise[rows.to(noise.device), t])
            if going:
                completions[rows, t] = new
                goes_on = (~torch.isin(new, ends)).nonzero()[:, 0]
                going = len(goes_on) > 0
            if t + 1 == T or not (any_of(going) if policy.is_cut else going):
                break
            if not going:  # another process goes on, and layers are fetched by all
                goes_on = rows.new_zeros(1)
            if len(goes_on) < len(rows):  # a completion that has ended is read no further
                rows, new, visible = rows[goes_on], new[goes_on], visible[goes_on]
                cache.reorder_cache(goes_on)
            visible = torch.cat([visible, torch.ones_like(visible[:, :1])], 1)
            out = policy.read(new[:, None], visible, past_key_values=cache, use_cache=True)
    return completions[:, : t + 1]


def uniforms(seed: int, step: int, rows: int, length: int) -> Float[Tensor, "B T"]:
    """Numbers from [0, 1) for the tokens of a round: row and column decide, however many are sampled together.

    Round -1 stands for the held-out prompts.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.rand(length, rows, dtype=torch.float64, generator=generator).T


def choose(logits: Float[Tensor, "B V"], temperature: float, noise: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """From each row the first token whose cumulative probability exceeds the row's number from [0, 1).

    Never one of probability 0. Summed in float64: in float32 a large vocabulary's sum loses its unlikely tokens.
    """
    if temperature == 0:
        return logits.argmax(1)
    probs = (logits.float() / temperature).softmax(1).to(noise.device)
    below = probs.cumsum(1, dtype=torch.float64)
    found = torch.searchsorted(below, noise[:, None] * below[:, -1:], right=True)
    if not (probs.gather(1, found.clamp(max=probs.shape[1] - 1)) > 0).all():
        if probs.isnan().any():
            raise UserError(
                "what the model says of the next token is no number (NaN): damaged weights, or too large a --lr"
            )
        # sums in parallel may grow by a rounding where nothing is added
        columns = torch.arange(probs.shape[1], device=probs.device)
        found = torch.where((probs > 0) & (columns <= found), columns, 0).amax(1, keepdim=True)
    return found[:, 0].to(logits.device)


def check_room(policy: Policy, prompts: list[list[int]], completions: list[int], whose: str = "a") -> None:
    """A prompt that is empty, or that with so many tokens of its completion exceeds the context. Raises UserError."""
    context = policy.context
    for ids, room in zip(prompts, completions, strict=True):
        if not 0 < len(ids) <= context - room:
            sizes = f"{len(ids)} tokens, then {room} of a completion, in {whose} context of {context}"
            advice = "shorten the text, or try a smaller --max-new-tokens"
            raise UserError(f"a prompt does not fit ({sizes}): {policy.tokenizer.decode(ids[:30])[:60]!r}; {advice}")


def as_rollout(policy: Policy, prompts: list[list[int]], completions: list[list[int]]) -> Rollout:
    """The same object from token ids that someone else wrote: demonstrations, preference pairs."""
    tokens, attention = _pad(prompts, policy.pad_id, left=True)
    padded, mask = _pad(completions, policy.pad_id, left=False)
    tokens, attention = torch.cat([tokens, padded], 1), torch.cat([attention, torch.ones_like(mask)], 1)
    tokens, attention, mask = (x.to(policy.device) for x in (tokens, attention, mask))
    return Rollout(tokens, attention, mask, torch.zeros_like(mask[:, 0]), [])


def outputs_of(
    policy: Policy, rollout: Rollout, temperature: float, micro_batches: list[slice], gradient: bool = False
) -> Outputs:
    """Stage 3: what the policy says about all rows, one micro-batch at a time; constants, unless ``gradient``."""
    with torch.set_grad_enabled(gradient):
        if gradient:
            return Outputs.cat([policy(*rollout[rows].inputs, temperature) for rows in micro_batches], dim=0)
        reading = lambda rows: policy(*rollout[rows].inputs, temperature).detach()  # noqa: E731
        return Outputs.cat(divided(micro_batches, reading, policy.is_cut), dim=0)


def cut(config: Online, width: int, unit: int) -> list[tuple[slice, list[slice]]]:
    """The rows of a round in minibatches, one update each, and those in micro-batches, one forward pass each.

    Both hold whole units of rows, such as groups; a row has ``width`` tokens, padding included. Old and new log-probs
    of a row come from the same micro-batch, so that their ratio starts at exactly 1.
    """
    rows = config.prompts * config.group_size
    size = math.ceil(rows / config.minibatches / unit) * unit
    at_once = config.rows_at_once(width)
    return [(part, share(part.start, part.stop, at_once, unit)) for part in slices(0, rows, size)]


def slices(start: int, stop: int, size: int) -> Iterator[slice]:
    """Cut the rows from start to stop into slices of at most ``size``."""
    return (slice(i, min(i + size, stop)) for i in range(start, stop, size))


def _pad(rows: Sequence[Sequence[int]], pad_id: int, left: bool) -> tuple[Int[Tensor, "B N"], Bool[Tensor, "B N"]]:
    """Rows of one width, and where they are real. On the left of prompts: completions then start at one column."""
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    columns = torch.arange(int(lengths.max()))
    real = columns >= len(columns) - lengths if left else columns < lengths
    tokens = torch.full(real.shape, pad_id)
    tokens[real] = torch.tensor([i for row in rows for i in row], dtype=torch.long)
    return tokens, real
