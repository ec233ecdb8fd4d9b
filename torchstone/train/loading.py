"""A model of the user's: to be trained, or to teach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchstone.data.files import first_line
from torchstone.store.models import FAILS, check_folder, read_model, read_tokenizer
from torchstone.terminal import UserError, near
from torchstone.train.model import Policy
from torchstone.train.options import GRPOOptions


def load_teacher(config: Any, device: str) -> Policy:
    """The frozen model of ``--teacher``: of a finished run's folder, or of one in Hugging Face format."""
    if config.teacher is None:
        grpo = GRPOOptions(task=config.task, data=config.data, seed=config.seed)
        given: dict[str, Any] = {"model": config.model, "seed": config.seed}
        given |= (
            {"data": grpo.data, "reward": " ".join(config.reward) or "FILE.py"} if grpo.data else {"task": grpo.task}
        )
        command = " ".join(f"--{name} {value}" for name, value in given.items() if value)
        raise UserError(
            f"{config.label} needs --teacher FOLDER: torchstone train grpo {command} makes one in {grpo.folder}"
        )
    folder = Path(config.teacher)
    if not folder.is_dir():
        runs = [str(f.parents[1]) for f in folder.parent.glob("*/model/config.json")]
        there = f"; finished runs there: {', '.join(sorted(runs))}" if runs else ""
        raise UserError(f"--teacher {folder}: no such folder{near(str(folder), runs)}{there}")
    if (folder / "metrics.jsonl").exists() and not (folder / "model").exists():
        raise UserError(
            f"--teacher {folder}: that run has not finished; go on with: torchstone train --resume {folder}"
        )
    source = folder / "model" if (folder / "model").is_dir() else folder
    if not (source / "config.json").exists():
        raise UserError(f"--teacher {folder} holds no model: config.json is missing")
    return load_policy(str(source), device, config.dtype, "--teacher", config.trust_remote_code).requires_grad_(False)


def load_policy(source: str, device: str, dtype: str, option: str = "--model", trust: bool = False) -> Policy:
    """Load a folder in Hugging Face format, or a model of the hub; ``option`` is who named it.

    ``trust``: code that comes with the model may run here.
    """
    import torch
    from transformers import AutoModelForCausalLM, logging

    folder = Path(source)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        local = source.startswith((".", "/", "~")) or source.count("/") > 1
        if not folder.is_dir() and (local or ("/" in source and folder.parent.is_dir())):
            raise OSError("no such folder")
        if folder.is_dir():
            check_folder(folder)
        tokenizer = read_tokenizer(source, trust)
        weights = torch.bfloat16 if dtype == "pure-bfloat16" else torch.float32
        if (folder / "adapter_config.json").is_file():
            from peft import AutoPeftModelForCausalLM

            model: Any = AutoPeftModelForCausalLM.from_pretrained(source, dtype=weights).merge_and_unload()
        else:
            model = read_model(AutoModelForCausalLM, source, dtype=weights, trust_remote_code=trust)
        last, room = max(tokenizer.get_vocab().values()), model.get_input_embeddings().num_embeddings
        if last >= room:
            raise ValueError(f"its tokenizer has a token {last}, and the model none from {room} on")
        policy = Policy(model.to(device), tokenizer).requires_grad_(True)  # merged adapters leave it frozen
        policy.compute = torch.bfloat16 if dtype == "bfloat16" else None
        return policy
    except FAILS as e:
        beside = [str(f.parent) for f in folder.parent.glob("*/config.json")] if not folder.is_dir() else []
        choices = f"; folders with a model there: {', '.join(sorted(beside))}" if beside else ""
        why = first_line(e)
        if "trust_remote_code" in str(e):
            why = "it brings code of its own, which would run here as you; read it, then add --trust-remote-code"
        raise UserError(f"{option} {source} cannot be loaded: {why}{near(source, beside)}{choices}") from e
