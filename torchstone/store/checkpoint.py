"""What a run goes on from: weights, Adam's state and what they belong to, in one safetensors file with a checksum."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from torchstone.rewards.loading import file_of
from torchstone.rewards.reward_model import weights_hash
from torchstone.store.files import absolute, file_hash, remove, replacing, say, sync
from torchstone.terminal import UserError
from torchstone.train.learner import Learner
from torchstone.train.options import RESUMABLE, Run
from torchstone.train.processes import main_process, wait, world

Notes = dict[
    str, Any
]  # step, best (the best held-out reward so far), tokens (sampled so far), options, files (a hash of data and reward)


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """A mistake that ends a run in the middle says how far it is saved, and how to go on."""
    try:
        yield
    except UserError as e:
        if "--resume" in str(e) or not (saved := files(folder)):
            raise
        rounds = int(saved[-1].stem.rpartition("-")[2])
        said = f"all up to round {rounds} is saved, to go on from with: torchstone train --resume {folder}"
        raise UserError(f"{e}. {said[0].upper()}{said[1:]}", e.status) from e


def files(folder: Path) -> list[Path]:
    """Those in the folder, the oldest first."""
    found = {file: file.stem.rpartition("-")[2] for file in folder.glob("checkpoint-*")}
    ours = [file for file in found if file.suffix in ("", ".safetensors") and found[file].isdigit()]
    return sorted(ours, key=lambda file: int(found[file]))


def write(folder: Path, learner: Learner, notes: Notes, keep: int) -> None:
    """Write one for this round, then delete the oldest but ``keep``."""
    sync(folder / "metrics.jsonl", folder / "completions.jsonl")
    tensors, text = learner.tensors(), json.dumps(notes)
    file = folder / f"checkpoint-{notes['step']:06d}"
    if learner.policy.is_cut:
        write_shares(file, tensors, text)
    elif main_process():
        with replacing(file.with_suffix(".safetensors")) as temporary:
            save_file(tensors, temporary, {"notes": text, "sha256": checksum(text, tensors)})
    for old in files(folder)[:-keep] if main_process() else ():
        remove(old)
    wait()


def write_shares(folder: Path, tensors: dict[str, Tensor], notes: str) -> None:
    """A folder in place of a file: each process writes its share of every tensor, and the first hashes the files."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    writing: Any = replacing(folder) if main_process() else nullcontext(folder.with_name(folder.name + ".tmp"))
    with writing as temporary:
        wait()
        dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(temporary), save_distributed=True))
        if main_process():
            hashes = {file.name: file_hash(file) for file in temporary.glob("*.safetensors")}
            (temporary / "notes.json").write_text(json.dumps({"notes": notes, "sha256": hashes}), encoding="utf-8")
    wait()


def read_shares(folder: Path, learner: Learner) -> tuple[dict[str, Tensor], str]:
    """The tensors, cut as the learner's weights are, and the notes. Raises ValueError: a file is missing or another."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    about = json.loads((folder / "notes.json").read_text(encoding="utf-8"))
    if {file.name: file_hash(file) for file in folder.glob("*.safetensors")} != about["sha256"]:
        raise ValueError("its checksum is another")
    reader = HuggingFaceStorageReader(str(folder))
    sizes: Any = {name: entry.size for name, entry in reader.read_metadata().state_dict_metadata.items()}  # type: ignore[union-attr]
    like = {name: learner.weights[name.split("/")[1]].detach() for name in sizes}
    tensors = {
        name: torch.zeros_like(x) if x.shape == sizes[name] else torch.zeros(sizes[name]) for name, x in like.items()
    }
    dcp.load(tensors, storage_reader=reader, no_dist=world() == 1)
    return tensors, about["notes"]


def read(folder: Path, learner: Learner, now: Notes) -> Notes:
    """Go on from the newest that is whole; give back its notes. Raises UserError: none is, or not of the run of now."""
    damaged: list[Path] = []
    for file in reversed(files(folder)):
        try:
            tensors, text = (read_shares if file.is_dir() else read_file)(file, learner)
        except (SafetensorError, ValueError, KeyError, TypeError, OSError) as e:
            say(f"{file} is damaged ({e}): it cannot be gone on from")
            damaged.append(file)
            continue
        notes: Notes = json.loads(text)
        check_same_run(folder, notes, now)
        try:
            learner.load(tensors, notes["step"])
        except (KeyError, RuntimeError) as e:
            raise UserError(f"{file} is of another model than the run has now: {e}") from e
        for later in damaged if main_process() else ():
            remove(later)
        return notes
    if damaged:
        raise UserError(f"no checkpoint in {folder} is whole: begin again with another --out (--keep 2 keeps two)")
    return now


def read_file(file: Path, learner: Learner) -> tuple[dict[str, Tensor], str]:
    """The tensors, and the notes. Raises ValueError: the checksum is another."""
    with safe_open(file, "pt", device=str(learner.policy.device)) as found:
        tensors, about = {name: found.get_tensor(name) for name in found.keys()}, found.metadata()  # noqa: SIM118
    if checksum(about["notes"], tensors) != about["sha256"]:
        raise ValueError("its checksum is another")
    return tensors, about["notes"]


def checksum(notes: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the notes and of every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(notes.encode())
    for name, x in sorted(tensors.items()):
        sha.update(f"{name} {x.dtype} {list(x.shape)}".encode())
        sha.update(x.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def notes_of(config: Run, data: str) -> Notes:
    """What a checkpoint of this run says of it, before its first round; ``data``: the fingerprint of its data."""
    judges = [file.read_bytes() for file in map(file_of, config.reward) if file]
    hashes = {"data": data} if data else {}
    hashes |= {"reward": hashlib.sha256(b"".join(judges)).hexdigest()} if judges else {}
    if source := getattr(config, "reward_model", None):
        hashes["reward_model"] = weights_hash(Path(source))
    options = {name: absolute(name, value) for name, value in asdict(config).items()}
    return {"step": 0, "best": None, "tokens": 0, "options": {"method": config.method, **options}, "files": hashes}


def check_same_run(folder: Path, then: Notes, now: Notes) -> None:
    """The options, and the file of data, are those that the run began with. Raises UserError, and says a new reward."""
    for name, value in then["options"].items():
        if name not in (*RESUMABLE, "out") and now["options"].get(name) != value:
            told = f"{name} {now['options'].get(name)!r}, and the run began with {value!r}"
            raise UserError(f"{folder / 'config.json'} says {told}: set it back, or begin a run with another --out")
    changed = [name for name, sha in then["files"].items() if now["files"].get(name) != sha]
    if "data" in changed:
        raise UserError(f"--data {now['options']['data']} is not the file of before: put that back, or begin anew")
    for name in {"reward", "reward_model"} & {*changed}:
        judge = now["options"][name]
        what = f"--{name.replace('_', '-')} {judge if isinstance(judge, str) else ' '.join(judge)}"
        say(f"{what} has changed since round {then['step']}: it judges from there on")


def check_disk(folder: Path, learner: Learner, keep: int) -> None:
    """Three times the trained weights for each checkpoint and one more, and the models. Raises UserError."""
    weights = (learner.weights.values(), learner.policy.parameters())
    trained, whole = (sum(p.numel() * p.element_size() for p in of_these) for of_these in weights)
    there = sum(file.stat().st_size for file in files(folder))
    need, free = 3 * (keep + 1) * trained + (1 + (keep > 1)) * whole, there + shutil.disk_usage(folder).free
    if free < need:
        sizes = f"{free / 1e9:.2g} GB, and the run writes {need / 1e9:.2g}"
        raise UserError(f"{folder} has room for {sizes}: choose another --out")
