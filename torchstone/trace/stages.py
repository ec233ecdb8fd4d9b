"""From a recipe and a batch to what each stage gives, in the order in which data flows.

The numbers are the library's: a recipe runs as it always does, and what each of its columns returns is noted.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from torchstone.recipes import PolicyRecipe

Cell = str | float | tuple[float, float] | None  # two: before and after
Text = tuple[str, list[str]]  # a prompt, and the words of its completion
Step = tuple[str, dict[str, Any], Any]  # a column of the recipe, what it was given, what it gave
GIVEN = {  # what stage 3 shows of a token, by the name that recipes know it by
    "old_log_probs": "log pi_old", "log_probs": "log pi", "ref_log_probs": "log pi_ref", "values": "V",
    "sampler_log_probs": "log pi_s", "teacher_log_probs": "log pi_T", "entropies": "entropy", "energies": "energy",
}  # fmt: skip
TERMS = {
    "signal": "signal",
    "surrogate": "L_t",
    "tokens": "L_t, chosen",
    "sampler": "w_t",
    "loss_kl": "KL term",
    "value": "V term",
    "entropy": "H term",
}


@dataclass(frozen=True)
class Part:
    """A heading, lines of text under it, and a table: the names of its columns, then rows of words and numbers."""

    title: str
    text: list[str]
    head: list[str]
    rows: list[list[Cell]]


def noting(recipe: Any) -> tuple[Any, list[Step]]:
    """The same row, and a list that fills as it runs."""
    steps: list[Step] = []

    class Noting(type(recipe)):
        def run(self, at: str, batch: Any, stage: str = "loss") -> Any:
            steps.append((at, dict(batch), found := super().run(at, batch, stage)))
            return found

    return Noting(**{f.name: getattr(recipe, f.name) for f in fields(recipe)}), steps


def said_of(recipe: Any, columns: Iterable[str]) -> list[str]:
    """What the row's choices in these columns do, and, indented, their equations; nothing of what is off."""
    lines: list[str] = []
    for at in columns:
        choice, run = getattr(recipe, at), recipe.option(at).ahead or recipe.option(at).run
        if choice.name not in ("none", "all", "trainer"):
            lines.append(f"{at}: {choice}. {recipe.effect(at)}")
            lines += [f"  {line}" for line in equations(getattr(run, "func", run))]
    return lines


def equations(function: Any) -> list[str]:
    """The tagged equations of a function's docstring, or of those of the functions that it names there."""
    text = inspect.getdoc(function) or ""
    tagged = [block for block in text.split("\n\n") if re.search(r"\([A-Z]+\.\d+\)$", block)]
    own = [re.sub("  +", "  ", line.strip()) for block in tagged for line in block.splitlines()]
    named = [getattr(function, "__globals__", {}).get(name) for name in re.findall(r"``(\w+)``", text)]
    return own or [line for f in named if callable(f) and f is not function for line in equations(f)]


def samples_parts(
    recipe: Any, names: list[Text], mask: Tensor, rewards: Tensor | None, batch: dict[str, Any]
) -> list[Part]:
    """Stages 3 to 6 of a row that learns from samples, whose loss is back-propagated.

    Args:
        names: the prompt and the words of each completion.
        batch: log-probs and all else that a recipe may ask for; ``advantages`` where there are no rewards.
    """
    noted, steps = noting(recipe)
    G = rewards.shape[1] if rewards is not None else 1
    keep = (
        recipe.keep(rewards) if rewards is not None and isinstance(recipe, PolicyRecipe) else torch.ones(len(mask)) > 0
    )
    mask = mask & keep.repeat_interleave(len(mask) // len(keep))[:, None]
    by_token = lambda columns: token_rows(names, mask, columns)  # noqa: E731

    asked = {name for stage in recipe.STAGES for name in recipe.takes(stage)} | {"log_probs"}
    given = {title: batch[name] for name, title in GIVEN.items() if name in asked and batch.get(name) is not None}
    parts = [Part("3 log-probs", ["In nats."], ["token", *given], by_token(given.values()))]
    if rewards is not None:
        head = ["prompt", *(f"completion {g + 1}" for g in range(G))]
        rows: list[list[Cell]] = [[names[p * G][0], *row] for p, row in enumerate(rewards.tolist())]
        alone = ["One reward a completion: the row takes several, of which this is one."]
        parts.append(Part("4 rewards", alone * getattr(recipe, "several", False), head, rows))
    if isinstance(recipe, PolicyRecipe):
        if rewards is not None:
            earned = noted.advantages(
                rewards[..., None] if recipe.several else rewards,
                mask,
                **noted.used("advantages", batch | {"values": batch.get("old_values")}),
            )
            batch = batch | {"advantages": earned.advantages, "returns": earned.returns}
        told = {"A_t": batch["advantages"]} | ({"return": batch["returns"]} if batch.get("returns") is not None else {})
        left = [f"groups left out: {', '.join(names[p * G][0] for p in (~keep).nonzero()[:, 0].tolist())}"] * (
            not keep.all()
        )
        made = said_of(recipe, recipe.STAGES["advantages"]) if rewards is not None else ["As they were given."]
        text = [*made, *left]
        parts.append(Part("5 advantages", text, ["token", *told], by_token(told.values())))
        sure = (batch["log_probs"].detach(), batch["advantages"], mask)
        batch = batch | {"token_weights": noted.token_weights(*sure, **noted.used("token_weights", batch))}
        steps.clear()
        loss = noted.loss(batch["log_probs"], batch["advantages"], mask, **noted.used("loss", batch)).value
    else:
        loss = noted.loss(mask, **noted.used("loss", batch)).value

    for name in ("log_probs", "values", "logits"):
        if batch.get(name) is not None and batch[name].requires_grad:
            batch[name].retain_grad()
    terms = terms_of(steps)
    x = next(given["x"] for at, given, _ in reversed(steps) if at == "reduction")
    shares = torch.autograd.grad(loss, x, retain_graph=True)[0] if x.requires_grad else torch.zeros_like(x)
    loss.backward()
    terms |= {"share": shares}
    terms |= {title: batch[name].grad for name, title in {"log_probs": "dL/dlog pi", "values": "dL/dV"}.items()
              if name in batch and batch[name].grad is not None}  # fmt: skip
    text = [*said_of(recipe, recipe.STAGES["loss"]), f"The loss of the batch is {loss.item():.4f}."]
    parts.append(Part("6 loss", text, ["token", *terms], by_token(terms.values())))
    return parts


def terms_of(steps: list[Step]) -> dict[str, Tensor]:
    """What each column gave a token: the ratio, and the terms of the loss."""
    terms: dict[str, Tensor] = {}
    for at, _, found in steps:
        first = found[0] if isinstance(found, tuple) else found
        if at == "ratio" and isinstance(found, tuple) and found[1] is not None:
            terms["ratio"] = (found[0] - found[1]).exp()
        elif at in TERMS and isinstance(first, Tensor):
            terms[TERMS[at]] = first
    return terms


def token_rows(names: list[Text], mask: Tensor, columns: Iterable[Tensor]) -> list[list[Cell]]:
    """A row for each word: its number in each column ``[B]`` or ``[B T]``, or none where it does not count."""
    values = [(x.detach()[:, None] if x.ndim == 1 else x.detach()).expand(mask.shape).tolist() for x in columns]
    counts = mask.tolist()
    return [
        [f"{prompt if t == 0 else ' ' * len(prompt)} {word}", *(x[i][t] if counts[i][t] else None for x in values)]
        for i, (prompt, words) in enumerate(names)
        for t, word in enumerate(words)
    ]


def pairs_parts(recipe: Any, chosen: list[Text], rejected: list[Text], batch: dict[str, Any]) -> list[Part]:
    """Stages 3 and 6 of a row that learns from N pairs, whose loss is back-propagated."""
    noted, steps = noting(recipe)
    sides = {"chosen": (chosen, batch["chosen_mask"]), "rejected": (rejected, batch["rejected_mask"])}
    rows: list[list[Cell]] = []
    asked = ("", "ref_") if "ref_chosen_log_probs" in recipe.takes() else ("",)
    for side, (texts, mask) in sides.items():
        found = token_rows(texts, mask, [batch[f"{ref}{side}_log_probs"] for ref in asked])
        rows += [[f"{side:<8} {row[0]}", *row[1:]] for row in found]
    parts = [Part("3 log-probs", ["In nats."], ["token", "log pi", "log pi_ref"][: 1 + len(asked)], rows)]
    for side in sides:
        batch[f"{side}_log_probs"].retain_grad()
    pair = [batch[f"{side}_log_probs"] for side in sides]
    loss, metrics = noted.loss(*pair, *(mask for _, mask in sides.values()), **noted.used("loss", batch))
    wholes = [found.detach() for at, _, found in steps if at == "log_prob"]
    head = ["pair", *[f"{s} log pi{ref}" for ref in ("", "_ref")[: len(asked)] for s in sides]]
    pair_rows: list[list[Cell]] = [[texts[0], *(x[n].item() for x in wholes)] for n, texts in enumerate(chosen)]
    parts.append(Part("3 log-probs of whole completions", said_of(recipe, ["log_prob"]), head, pair_rows))
    loss.backward()
    rows = []
    for side, (texts, mask) in sides.items():
        rows += [
            [f"{side:<8} {row[0]}", *row[1:]] for row in token_rows(texts, mask, [batch[f"{side}_log_probs"].grad])
        ]
    told = [f"{name} {float(value):.4f}" for name, value in metrics.items()]
    text = [*said_of(recipe, ["objective", "sft"]), f"The loss of the batch is {loss.item():.4f}.", "; ".join(told)]
    parts.append(Part("6 loss", text, ["token", "dL/dlog pi"], rows))
    return parts
