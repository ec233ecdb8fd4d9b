"""The folder of a run: one process at a time, files that are whole or not there, damage by name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from torchstone.rewards.loading import absolute_spec
from torchstone.terminal import UserError, read_options
from torchstone.train.options import METHODS, RESUMABLE, Run
from torchstone.train.processes import main_process, wait, whole

LEFT = ("config.json", "metrics.jsonl", "checkpoint-*", "model")  # any of these, and a folder holds a run


def say(text: str) -> None:
    """Something that the user has to know while the run goes on, if it is anything: a line on stderr."""
    if text and main_process():
        print(f"torchstone train: {text}", file=sys.stderr, flush=True)


@contextmanager
def claimed(folder: Path, resume: bool) -> Iterator[None]:
    """The folder for this run alone, made if need be; taken away again if nothing was written."""
    from filelock import FileLock, Timeout

    if not main_process():
        wait()
        yield
        return
    lock = FileLock(folder / ".lock", timeout=0)
    with writable(make_folder(folder)):
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"another process trains in {folder}: let it end, or choose another --out") from None
    try:
        held = [file.name for name in LEFT for file in folder.glob(name)]
        if held and not resume:
            do = f"go on with --resume {folder}, or choose another --out"
            raise UserError(f"{folder} holds a run already: {do} (found {', '.join(held)})")
        left = (*folder.glob("*.tmp"), *folder.glob(".tmp*")) if resume else ()  # by a process that was killed
        for file in left:
            remove(file)
        wait()
        yield
    finally:
        lock.release()
        if folder.is_dir() and [file.name for file in folder.iterdir()] in ([], [".lock"]):
            (folder / ".lock").unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()


def load_config(folder: Path, given: Sequence[str] = ()) -> Run:
    """The options of the run in a folder, with the changes that ``given`` makes, such as ``--steps 200``."""
    if not (file := folder / "config.json").is_file():
        raise UserError(f"--resume {folder}: no run there (config.json is missing)")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        method = values.pop("method", None) if isinstance(values, dict) else None
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        kind, default = METHODS[method], METHODS[method]()
        values |= {name: tuple(value) for name, value in values.items() if is_tuple(default, name, value)}
        changed = {name: value for name, value in values.items() if getattr(default, name, ...) != value}
        read = replace(read_options(f"train {method}", kind, default, list(as_words(changed))), out=folder)
    except (ValueError, TypeError, UserError) as e:
        raise UserError(f"{file} does not hold the options of a run: {e}") from e
    config = read_options(f"train {method}", kind, read, given)
    differ = [field.name for field in fields(kind) if getattr(config, field.name) != getattr(read, field.name)]
    if fixed := [name for name in differ if name not in RESUMABLE]:
        may, (other, *_) = ", ".join(as_words(dict.fromkeys(RESUMABLE, True))), as_words(dict.fromkeys(fixed, True))
        raise UserError(f"--resume takes every option from the folder but {may}: another {other} is another run")
    return config


def is_tuple(default: Run, name: str, value: Any) -> bool:
    """Whether the option has several values, which JSON calls a list."""
    return isinstance(getattr(default, name, None), tuple) and isinstance(value, list)


def as_words(options: dict[str, Any]) -> Iterator[str]:
    """Options as they are typed."""
    for name, value in options.items():
        option = name.replace("_", "-")
        for one in value if isinstance(value, tuple) else [value]:
            yield f"--no-{option}" if one is False else f"--{option}" + ("" if one is True else f"={one}")


def absolute(name: str, value: Any) -> Any:
    """An option's path as it is from any working directory; a hub id, or a value of another option, as it is."""
    if isinstance(value, tuple):
        return [absolute_spec(one) if name == "reward" else one for one in value]
    may_be = value and name in ("model", "data", "chat_template", "reward_model") and Path(value).exists()
    return os.path.abspath(value) if value and (name in ("out", "teacher") or may_be) else value


@contextmanager
def named(path: Path) -> Iterator[None]:
    """A full disk and the like become one line that names the file. Raises UserError."""
    try:
        yield
    except (OSError, SafetensorError) as e:
        safe = f"what was saved before is whole: mend this, then go on with: torchstone train --resume {path.parent}"
        raise UserError(f"cannot write {path}: {getattr(e, 'strerror', None) or e}; {safe}") from e


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path, put in the place of ``path`` when all is on the disk; if it fails, the old one stays."""
    temporary = path.with_name(path.name + ".tmp")
    remove(temporary)  # of a process that was killed
    try:
        with named(path):
            yield temporary
            sync(*(temporary.rglob("*") if temporary.is_dir() else [temporary]))
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        remove(temporary)


def sync(*paths: Path) -> None:
    """Wait until what was written to these files, or renamed in these folders, is on the disk."""
    for path in paths:
        if path.exists() and os.name == "posix":  # elsewhere a folder cannot be opened
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes, read a megabyte at a time."""
    sha = hashlib.sha256()
    with file.open("rb") as f:
        while piece := f.read(2**20):
            sha.update(piece)
    return sha.hexdigest()


def remove(path: Path) -> None:
    """The file or the folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def save(file: Path, text: str | Iterable[str]) -> None:
    """Write a whole file, or leave the old one: nothing is ever half written. Several processes make its pieces."""
    placed = replacing(file) if main_process() else nullcontext(Path(os.devnull))
    with placed as temporary, temporary.open("w", encoding="utf-8") as out:
        out.writelines([text] if isinstance(text, str) else text)
    wait()


def save_model(policy: Any, folder: Path, adapters: bool = False) -> None:
    """A folder that ``--model`` and transformers (or peft) load, complete or not there at all."""
    from transformers import logging

    logging.disable_progress_bar()
    policy = whole(policy)
    if main_process():
        with replacing(folder) as temporary:
            (policy.save_adapters if adapters else policy.save)(temporary)
    wait()


def make_folder(folder: Path) -> Path:
    """The folder, made if need be. Raises UserError: it cannot be."""
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Raises UserError: inside, the system refused to make or to write something in the folder that --out names."""
    try:
        yield
    except OSError as e:
        raise UserError(f"nothing can be written into {folder}: {e.strerror}; choose another --out") from e


def read_options_of(file: Path, kind: Any, **changes: Any) -> Any:
    """The options that a file of JSON holds, as this dataclass. Raises UserError: it is damaged, or was edited."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return kind(**values | changes)
    except (OSError, ValueError, TypeError, AttributeError) as e:
        raise UserError(f"{file} does not hold the options that were written there: {e}") from e


def check_writable(*files: Path | None) -> None:
    """Before hours are spent on what is to stand in these files. Raises UserError: one of them cannot be written."""
    for file in filter(None, files):
        there = file.exists()
        write_text(file, "", "a")
        if not there:
            file.unlink()


def write_text(file: Path, text: str, mode: Literal["w", "a"] = "w") -> None:
    """A file that an option names. Raises UserError: it cannot be written."""
    try:
        with file.open(mode, encoding="utf-8") as out:
            out.write(text)
    except OSError as e:
        raise UserError(f"cannot write {file}: {e.strerror}; name another file") from e


def append(file: Path, records: list[dict[str, Any]]) -> None:
    """Add a line of JSON for each record."""
    if main_process():
        with named(file), file.open("a", encoding="utf-8") as out:
            out.write("".join(json.dumps(record) + "\n" for record in records))


def read_records(file: Path) -> list[dict[str, Any]]:
    """The records of a file of lines with ``step``; a half line at the end is that of a killed run, and left out."""
    records: list[dict[str, Any]] = []
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n") if file.exists() else [""]
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
            records.append(record | {"step": int(record["step"])})
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{file}, line {number}: not a record of a round: {line[:60]!r}; mend the line") from None
    return records


def rewind(folder: Path, step: int) -> float:
    """Drop what a killed run wrote after its last checkpoint; give back the seconds used until then."""
    metrics, completions = (read_records(folder / name) for name in ("metrics.jsonl", "completions.jsonl"))
    kept = [[record for record in records if step and record["step"] <= step] for records in (metrics, completions)]
    if lacking := set(range(step + 1 if step else 0)) - {record["step"] for record in kept[0]}:
        say(f"{folder / 'metrics.jsonl'} lacks {len(lacking)} of the rounds before {step + 1}: its curves have a gap")
    for name, records in zip(("metrics.jsonl", "completions.jsonl"), kept, strict=True):
        save(folder / name, "".join(json.dumps(record) + "\n" for record in records))
    return max([0.0, *(record.get("seconds", 0.0) for record in kept[0])])
