"""A model that transformers reads: its folder is what it should be, and every weight comes from its files.

By itself transformers draws what is missing at random, and says so in a warning alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from torchstone.data.files import first_line
from torchstone.train.processes import main_process

FAILS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)  # what reading a model raises
REWARD = "ForSequenceClassification"  # how transformers ends the name of a reward model's kind


def check_folder(folder: Path) -> None:
    """A folder of something else than a policy's model. Raises ValueError."""
    if (folder / "metrics.jsonl").is_file() and (folder / "model").is_dir():
        raise ValueError(f"it is the folder of a run, whose model is {folder / 'model'}")
    if (folder / "adapter_config.json").is_file():
        return
    if not (file := folder / "config.json").is_file():
        raise ValueError("config.json is not in it, so it is no folder in Hugging Face format")
    try:
        kinds = json.loads(file.read_text(encoding="utf-8")).get("architectures") or ()
    except (ValueError, AttributeError) as e:
        raise ValueError(f"its config.json is damaged ({e})") from e
    if found := [kind for kind in kinds if str(kind).endswith(REWARD)]:
        raise ValueError(f"it is a reward model ({found[0]}), and not what such a model was made of")


def read_tokenizer(source: str, trust: bool) -> Any:
    """The tokenizer that pads on the left. Raises ValueError: the folder has none, or a damaged one."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=trust)
    except Exception as e:  # the package tokenizers raises nothing narrower
        if not Path(source).is_dir() or "trust_remote_code" in str(e):
            raise
        if not any(Path(source).glob("*token*")) and not any(Path(source).glob("vocab*")):
            raise ValueError("no tokenizer is in it (tokenizer.json, tokenizer_config.json)") from e
        raise ValueError(f"its tokenizer cannot be read ({first_line(e)})") from e


def read_model(kind: Any, source: str, **options: Any) -> Any:
    """``kind.from_pretrained(source)``. Raises ValueError: a weight is missing in the files, or has another shape."""
    model, found = kind.from_pretrained(source, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    for name, theirs, ours in sorted(found["mismatched_keys"]):
        raise ValueError(f"{name} is {list(theirs)} in its files, and {list(ours)} by its config.json")
    if lacking := found["missing_keys"]:
        raise ValueError(f"its files lack {some(lacking)}: transformers would draw them at random")
    if (others := found["unexpected_keys"]) and main_process():
        told = f"{source} has files with {some(others)} that its config.json has no place for: they are left out"
        print(f"torchstone: {told}", file=sys.stderr, flush=True)
    return model


def some(names: set[str]) -> str:
    """How many weights, and the first."""
    several = len(names) > 1
    return f"{len(names)} weight{'s' * several} ({min(names)}{', ...' * several})"
