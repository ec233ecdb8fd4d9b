"""The recipe in TRL's checkpoints: written beside every model that is saved, compared where a run is resumed."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from torchstone.frameworks.trl.settings import of_a_micro_batch
from torchstone.recipes.choices import Choice, Recipe

FILE = "torchstone_recipe.json"


_Trainer: Any = Trainer  # TRL's subclasses have members that it has not


class Recorded(_Trainer):
    """A trainer whose checkpoints name their recipe, and which resumes none of another."""

    recipe: Any

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """TRL's, and the recipe in the same folder; a reader never sees half of it."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            file = Path(output_dir or self.args.output_dir) / FILE
            file.parent.mkdir(parents=True, exist_ok=True)  # FSDP's sharded state makes it later
            half = file.with_suffix(".part")
            half.write_text(json.dumps(record(self.recipe), indent=1), encoding="utf-8")
            os.replace(half, file)

    def train(self, resume_from_checkpoint: str | bool | None = None, *given: Any, **named: Any) -> Any:
        """TRL's. Raises ValueError: the checkpoint's recipe is another."""
        last = resume_from_checkpoint
        if last is True:
            last = get_last_checkpoint(self.args.output_dir)
        if last:
            compare(Path(last), self.recipe)
        return super().train(resume_from_checkpoint, *given, **named)


def record(row: Recipe) -> dict[str, Any]:
    """The row's name, its choices, and whether a micro-batch's count divides it, as in some of TRL's own."""
    choices = {at: [getattr(row, at).name, dict(getattr(row, at).numbers)] for at in row.COLUMNS}
    return {"recipe": row.name, "of_a_micro_batch": of_a_micro_batch(row), "choices": choices}


def compare(checkpoint: Path, row: Recipe) -> None:
    """Raise ``ValueError`` where the checkpoint was trained with another objective; warn where it does not say."""
    if not (checkpoint / FILE).exists():
        warnings.warn(f"{checkpoint} has no {FILE}: it may have been trained with another loss", stacklevel=3)
        return
    saved = json.loads((checkpoint / FILE).read_text(encoding="utf-8"))
    theirs, ours = _parts(saved), _parts(record(row))
    both = {part: (theirs.get(part, "none"), ours.get(part, "none")) for part in theirs | ours}
    apart = [f"{part} was {was}, is {now}" for part, (was, now) in both.items() if was != now]
    if apart:
        raise ValueError(
            f"recipe: expected that of {checkpoint}, {saved['recipe']}, got {row.name}: {'; '.join(apart)}. To go on "
            f'with another, start from the weights alone: model="{checkpoint}", without resume_from_checkpoint (of an '
            "adapter: the base model, with the adapter loaded by peft)"
        )


def _parts(recorded: dict[str, Any]) -> dict[str, str]:
    """What is compared, in words; a number that is None is one that is left out."""
    parts = {"the denominator": "a micro-batch's" if recorded["of_a_micro_batch"] else "a step's"}
    for at, (name, numbers) in recorded["choices"].items():
        parts[at] = str(Choice(name, **{k: numbers[k] for k in sorted(numbers) if numbers[k] is not None}))
    return parts
