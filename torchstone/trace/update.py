"""One update of the table by a recipe, from the prompts to the changed probabilities; or of numbers of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchstone.dpo.variants import wpo_weights
from torchstone.recipes import PreferenceRecipe
from torchstone.recipes.choices import TENSORS, Choice
from torchstone.terminal import UserError
from torchstone.trace.stages import Cell, Part, pairs_parts, samples_parts
from torchstone.trace.world import PROMPTS, RIGHT, WORDS, Rollout, Table, outputs, sample

STAND_INS = {  # what this small world has not, and what is taken for it
    "gold_log_probs": "There is no third completion: the chosen one is learnt in its place.",
    "chosen_is_from_reference": "The policy wrote every completion: the rejected ones are taken for the reference's.",
    "reference_point": "The reference point is taken to be 0.",
    "reward_shift": "The reward shift is taken to be 0.",
}
RATE, FURTHEST = 3.0, 1.0  # the learning rate, so large that a step can be seen; but no number moves further than 1


def of_the_table(recipe: Any, seed: int, G: int) -> list[Part]:
    """The second update on G sampled completions of each prompt: the policy has moved since they were drawn."""
    recipe, told = fitted(recipe)
    generator = torch.Generator().manual_seed(seed)
    model, start, teacher = (Table(generator) for _ in range(3))
    with torch.no_grad():
        start.logits.copy_(model.logits + 0.3 * start.logits)  # what the policy was before it began to learn
        teacher.logits[range(8), [RIGHT[state // 4] for state in range(8)]] += 1.5  # it mostly knows the right word
    rollout = sample(model, G, generator)
    old, ref, of_teacher = (outputs(each, rollout) for each in (model, start, teacher))
    constants = {
        "old_log_probs": old["log_probs"], "old_values": old["values"], "energies": old["energies"],
        "ref_log_probs": ref["log_probs"], "teacher_log_probs": of_teacher["log_probs"],
        "teacher_logits": of_teacher["logits"], "greedy_rewards": sample(model, 1, None).rewards[:, 0],
        "right": rollout.rewards.flatten() > 0,
        "prompt_values": sample(start, 64, torch.Generator().manual_seed(0)).rewards.mean(1),
        "sampler_log_probs": old["log_probs"] + 0.02 * torch.randn(old["log_probs"].shape, generator=generator),
        "draws": torch.rand(old["log_probs"].shape, generator=generator),
    }  # fmt: skip
    known = {name: x.detach() for name, x in constants.items()} | {"max_length": rollout.mask.shape[1], "group_size": G}
    expert = sample(teacher, 1, torch.Generator().manual_seed(0))  # its answers, for a row that learns from an expert
    pairs = [rollout[rows] for rows in pair_up(rollout)] if isinstance(recipe, PreferenceRecipe) else []
    told += [sentence for name, sentence in STAND_INS.items() if pairs and name in recipe.takes()]

    def parts_of_an_update() -> list[Part]:
        model.zero_grad()
        if not pairs:
            shown = {"expert_log_probs": outputs(model, expert)["log_probs"], "expert_mask": expert.mask}
            batch_now = known | shown | outputs(model, rollout)
            return samples_parts(recipe, rollout.names(), rollout.mask, rollout.rewards, batch_now)
        batch: dict[str, Any] = {"reference_point": 0.0, "reward_shift": 0.0}
        batch["chosen_is_from_reference"] = torch.zeros(len(pairs[0].mask), dtype=torch.bool)
        batch["weights"] = torch.ones(len(pairs[0].mask), dtype=torch.float64)
        for side, part in zip(("chosen", "rejected"), pairs, strict=True):
            now, mask = outputs(model, part), part.mask
            batch |= {f"{side}_log_probs": now["log_probs"], f"{side}_mask": mask}
            batch[f"ref_{side}_log_probs"] = outputs(start, part)["log_probs"].detach()
            batch["weights"] = batch["weights"] * wpo_weights(now["log_probs"], now["log_normalisers"], mask)
        batch |= {f"gold_{what}": batch[f"chosen_{what}"] for what in ("log_probs", "mask")}
        return pairs_parts(recipe, pairs[0].names(), pairs[1].names(), batch)

    parts_of_an_update()
    step(model)
    middle = parts_of_an_update()
    return [*beginning(rollout, old["log_probs"].detach(), told), *middle, *change(model, rollout)]


def pair_up(rollout: Rollout) -> tuple[list[int], list[int]]:
    """The rows that are chosen and rejected: the first of each prompt that earned 1, and the first that earned 0."""
    G, chosen, rejected = rollout.rewards.shape[1], [], []
    for p, rewards in enumerate(rollout.rewards.tolist()):
        if 1 in rewards and 0 in rewards:
            chosen.append(p * G + rewards.index(1))
            rejected.append(p * G + rewards.index(0))
    if not chosen:
        raise UserError("all completions of a prompt earn the same with this --seed, so there is no pair: try another")
    return chosen, rejected


def beginning(rollout: Rollout, log_probs: Tensor, told: list[str]) -> list[Part]:
    """Stages 1 and 2."""
    right: list[list[Cell]] = [[prompt, WORDS[i]] for prompt, i in zip(PROMPTS, RIGHT, strict=True)]
    earn = "A completion earns 1 if the right word is in it, else 0."
    drawn = (
        f"{rollout.rewards.shape[1]} completions of each prompt, of at most {rollout.mask.shape[1]} words; '.' ends "
        "one. They were drawn from pi_old. One update on them is done; what follows is the second."
    )
    chances = (log_probs * rollout.mask).sum(1).exp().tolist()
    rows = [[prompt, " ".join(words), chance] for (prompt, words), chance in zip(rollout.names(), chances, strict=True)]
    return [
        Part("1 prompts", [*told, earn], ["prompt", "right word"], right),
        Part("2 rollout", [drawn], ["prompt", "completion", "pi_old of it"], rows),
    ]


def fitted(recipe: Any) -> tuple[Any, list[str]]:
    """The row with the numbers that this small world has room for, and which those are."""
    sizes, least = {"cache": 2, "k": 2}, {"share": 0.2}
    changes = {f"{at}.{name}": size for at in recipe.COLUMNS for name, size in sizes.items()
               if (getattr(recipe, at).numbers.get(name) or 0) > size}  # fmt: skip
    changes |= {f"{at}.{name}": size for at in recipe.COLUMNS for name, size in least.items()
                if getattr(recipe, at).numbers.get(name, size) < size}  # fmt: skip
    if not changes:
        return recipe, []
    told = [f"{name}={size}" for name, size in changes.items()]
    for name, size in changes.items():
        at, number = name.split(".")
        recipe = recipe.but(**{at: Choice(getattr(recipe, at).name, **{**getattr(recipe, at).numbers, number: size})})
    return recipe, [f"The row with {' and '.join(told)}, since this model is small."]


def step(model: Table) -> float:
    """Stage 7: gradient descent, from the gradients that are there; gives back the learning rate."""
    steepest = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    rate = min(RATE, FURTHEST / steepest) if steepest > 0 else RATE
    with torch.no_grad():
        for p in model.parameters():
            p -= rate * (0 if p.grad is None else p.grad)
    return rate


def change(model: Table, rollout: Rollout) -> list[Part]:
    """Stage 7: in each state of the batch, the gradient of the logits, and the probabilities before and after."""
    visited = sorted({int(s) for s in rollout.states[rollout.mask]}, key=lambda s: (s // 4, (s + 1) % 4))
    names = [f"{PROMPTS[s // 4]}{' ' + WORDS[s % 4] if s % 4 < 3 else ''} ..." for s in visited]
    assert model.logits.grad is not None
    gradient, before = model.logits.grad[visited].tolist(), model.logits.detach().softmax(1)[visited].tolist()
    rate = step(model)
    after = model.logits.detach().softmax(1)[visited].tolist()
    text = [f"Of the logit of each next word, by what stands before it. The step takes {rate:.3g} times it away."]
    slopes: list[list[Cell]] = [[name, *row] for name, row in zip(names, gradient, strict=True)]
    moves: list[list[Cell]] = [
        [name, *zip(*rows, strict=True)] for name, *rows in zip(names, before, after, strict=True)
    ]
    return [
        Part("7 update: the gradient", text, ["after", *WORDS], slopes),
        Part("7 update: the probabilities", ["Before and after the step."], ["after", *WORDS], moves),
    ]


def of_a_file(recipe: Any, file: Path, case: int | None) -> list[Part]:
    """Stages 3 to 6 of numbers of one's own, by the names of the vectors. Raises UserError: what is wrong with them."""
    batch = read_batch(file, case)
    pairs = isinstance(recipe, PreferenceRecipe)
    texts = []
    for name in ("chosen_mask", "rejected_mask") if pairs else ("mask",):
        if not isinstance(mask := batch.get(name), Tensor) or mask.ndim != 2 or mask.dtype != torch.bool:
            raise UserError(f"{file}: {name!r} must be a table of true and false, a row a completion, got {mask!r}")
        rows = [[f"y{t + 1}" for t in range(mask.shape[1])] for _ in mask]
        texts.append([(f"{i + 1}", words) for i, words in enumerate(rows)])
    for name in ("log_probs", "values", "logits", "entropies", "chosen_log_probs", "rejected_log_probs"):
        if name in batch:
            batch[name] = batch[name].requires_grad_()
    if "values" in batch:
        batch.setdefault("old_values", batch["values"].detach().clone())
    try:
        if pairs:
            return pairs_parts(recipe, texts[0], texts[1], batch)
        return samples_parts(recipe, texts[0], batch["mask"], batch.get("rewards"), batch)
    except (ValueError, KeyError) as e:
        missing = f"{e} is missing: {TENSORS.get(str(e.args[0]), '')}" if isinstance(e, KeyError) else str(e)
        raise UserError(f"{file}: {missing}") from e


def read_batch(file: Path, case: int | None) -> dict[str, Any]:
    """The inputs of a file: an object of tables by name, a case with ``inputs``, or a case of a file of vectors."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("expected an object")
        if "groups" in data:
            cases = {one["id"]: one for group in data["groups"] for one in group["cases"]}
            number = next(iter(cases)) if case is None else case
            if number not in cases:
                raise ValueError(f"no case {number}; it has {min(cases)} to {max(cases)}")
            data = cases[number]
        return {name: as_tensor(name, value) for name, value in data.get("inputs", data).items() if value is not None}
    except OSError as e:
        raise UserError(f"cannot read {file}: {e.strerror}") from e
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise UserError(f"{file}: {e}; expected tables of numbers by name, as the vectors have them") from e


def as_tensor(name: str, value: Any) -> Any:
    """A table of numbers, or of texts of numbers as the vectors have them, in float64; a single number as it is."""
    if not isinstance(value, list):
        return float(value) if isinstance(value, str) else value
    numbers: Any = lambda x: [numbers(y) for y in x] if isinstance(x, list) else float(x) if isinstance(x, str) else x  # noqa: E731
    try:
        found = torch.tensor(numbers(value))
    except (ValueError, TypeError) as e:
        raise ValueError(f"{name!r} is no table: {e}") from e
    return found if found.dtype == torch.bool else found.double()
