"""Where data comes from: a file, a data set that was saved, a name on the hub; plain text, or by ``datasets``."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torchstone.data.text import CSVRows, JSONArray, JSONLines, Row
from torchstone.terminal import UserError, near

FORMATS = ".jsonl, .json, .csv, .tsv or .parquet (each also .gz), a folder of datasets' save_to_disk, a name on the hub"


@runtime_checkable
class Rows(Protocol):
    """Rows of any source, which may be larger than memory."""

    name: str
    path: Path | None  # a file, or a folder; None: the hub

    def __len__(self) -> int: ...

    def take(self, rows: Iterable[int]) -> list[Row]:
        """The rows of these numbers."""

    def scan(self) -> Iterable[Any]:
        """All in turn, each looked at closely; in place of one that cannot be read, why."""

    def where(self, i: int) -> str:
        """The place of a row, in words."""


class ArrowRows:
    """The rows of a data set of the package ``datasets``, which maps its files into memory."""

    def __init__(self, data: Any, name: str, path: Path | None):
        self.data, self.name, self.path = data, name, path

    def __len__(self) -> int:
        return len(self.data)

    def take(self, rows: Iterable[int]) -> list[Row]:
        columns = self.data[list(rows)]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def scan(self) -> Iterator[Row]:
        for start in range(0, len(self), 1000):
            yield from self.take(range(start, min(start + 1000, len(self))))

    def where(self, i: int) -> str:
        return f"row {i + 1}"


class Renamed:
    """Rows whose columns have other names: those of ``--columns prompt=question,answer=final``."""

    def __init__(self, rows: Any, columns: str):
        self.rows, self.name, self.path, self.where = rows, rows.name, rows.path, rows.where
        pairs = [pair.split("=") for pair in columns.split(",")]
        if any(len(pair) != 2 or not all(pair) for pair in pairs):
            raise UserError(f"--columns {columns}: expected NAME=COLUMN,..., such as prompt=question,answer=final")
        self.names = dict(pairs)
        if len(self.names) < len(pairs):
            raise UserError(f"--columns {columns}: one name is given twice")

    def __len__(self) -> int:
        return len(self.rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rows, name)

    def rename(self, row: Any) -> Any:
        """The row with the new names; instead of one that lacks a column, why it is bad."""
        if not isinstance(row, dict):
            return row
        if lacks := [column for column in self.names.values() if column not in row]:
            return UserError(f"--columns: {lacks[0]!r} is missing (it has {', '.join(row) or 'nothing'})")
        rest = {name: value for name, value in row.items() if name not in (*self.names, *self.names.values())}
        return {name: row[column] for name, column in self.names.items()} | rest

    def take(self, rows: Iterable[int]) -> list[Row]:
        return [self.rename(row) for row in self.rows.take(rows)]

    def scan(self) -> Iterator[Any]:
        return map(self.rename, self.rows.scan())


def open_rows(source: str) -> Rows:
    """The rows of a file, a folder (``FOLDER``, ``FOLDER:SPLIT``) or a name of the hub (``NAME,CONFIG:SPLIT``)."""
    path = Path(source).expanduser()
    if path.is_file():
        return open_file(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"cannot read {source}: it is no regular file; write what it gives into one")
    name, _, split = source.rpartition(":") if ":" in source else (source, "", "")
    if Path(name).is_file():
        raise UserError(f"{name} is a file, without splits: leave :{split} out")
    if (folder := Path(name).expanduser()).is_dir():
        return saved(folder, split)
    if (
        source.startswith((".", "/", "~", "\\"))
        or source.count("/") > 1
        or re.search(r"\.(jsonl?|[ct]sv|parquet|gz)$", source)
    ):
        beside = [str(file) for file in path.parent.glob("*") if file.exists()]
        raise UserError(f"cannot read {source}: no such file{near(str(path), beside)}")
    return on_the_hub(name, split)


def open_file(path: Path) -> Rows:
    """The rows of a file, by what its name ends in; a JSON array by its bracket, gzip by its first bytes."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        plain = unpacked(path) if packed else path
        suffix, name = plain.suffix.lower(), str(path)
        if suffix == ".parquet":
            return ArrowRows(read_parquet(plain), name, plain)
        if suffix in (".csv", ".tsv"):
            return CSVRows(plain, name, "," if suffix == ".csv" else "\t")
        with plain.open("rb") as file:
            array = file.read(1000).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
        return (JSONArray if array else JSONLines)(plain, name)
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"cannot read {path}: {e}") from e


@lru_cache
def temporary() -> tempfile.TemporaryDirectory:
    """A folder for what is unpacked or converted, deleted when the process ends."""
    return tempfile.TemporaryDirectory(prefix="torchstone-")


def unpacked(path: Path) -> Path:
    """The file without gzip, in the temporary folder."""
    plain = Path(temporary().name) / (path.stem if path.suffix == ".gz" else path.name)
    with gzip.open(path, "rb") as packed, plain.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return plain


def datasets(source: Any) -> Any:
    """The package ``datasets``. Raises UserError: it is not installed."""
    try:
        import datasets
    except ImportError as e:
        raise UserError(
            f'{source} needs the package datasets: pip install ".[data]" in a checkout of Torchstone'
        ) from e
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets


def read_parquet(path: Path) -> Any:
    """Its rows, unpacked by ``datasets`` into the temporary folder."""
    Dataset = datasets(path).Dataset
    try:
        from pyarrow.parquet import read_metadata

        if read_metadata(path).num_rows == 0:
            raise ValueError("it has no rows")
        return Dataset.from_parquet(str(path), cache_dir=temporary().name)
    except Exception as e:
        raise UserError(f"cannot read {path} as Parquet: {first_line(e.__cause__ or e)}") from e


def saved(folder: Path, split: str) -> Rows:
    """What ``save_to_disk`` of ``datasets`` wrote: read where it is, copied nowhere."""
    package = datasets(folder)
    try:
        found = package.load_from_disk(str(folder))
    except Exception as e:
        raise UserError(f"cannot read the folder {folder}: {first_line(e)}; expected {FORMATS}") from e
    if not hasattr(found, "keys"):
        if split:
            raise UserError(f"{folder} has no splits: leave :{split} out")
        return ArrowRows(found, str(folder), folder)
    split = chosen(split, list(found), str(folder))
    return ArrowRows(found[split], f"{folder}:{split}", folder)


def on_the_hub(name: str, split: str) -> Rows:
    """A data set of the hub, in the cache of ``datasets``; without a network, if it is there already."""
    package = datasets(f"--data {name}, which is no file here,")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    repository, _, config = name.partition(",")
    why = ""
    try:
        HfApi().dataset_info(repository, timeout=10)
    except HFValidationError as e:
        raise UserError(f"--data {name}: no such file, and no name of the hub; expected {FORMATS}") from e
    except (RepositoryNotFoundError, GatedRepoError) as e:
        raise UserError(f"--data {name}: no such file here, and {first_line(e)}") from e
    except Exception as e:  # no network: asking again and again, as datasets would, takes half a minute
        package.config.HF_HUB_OFFLINE = True
        why = f"no such file here, the hub cannot be reached ({first_line(e)}), and it is not in the cache of datasets"
    try:
        found = package.load_dataset(repository, config or None, split=split or "train")
        return ArrowRows(found, f"{name}:{split or 'train'}", None)
    except Exception as e:
        raise UserError(f"--data {name}: {why if isinstance(e, ConnectionError) and why else first_line(e)}") from e


def chosen(split: str, splits: list[str], name: str) -> str:
    """The split that was asked for, or ``train``, or the only one. Raises UserError."""
    split = split or ("train" if len(splits) > 1 else splits[0])
    if split not in splits:
        raise UserError(
            f"{name} has no split {split!r}; it has {', '.join(splits)}: name one, as in {name}:{splits[0]}"
        )
    return split


def first_line(e: BaseException) -> str:
    """What an error says, in a line."""
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)


def fingerprint(rows: Any) -> str:
    """Another one if the data is another: SHA-256 of the files, or what ``datasets`` says of a data set of the hub."""
    if rows.path is None:
        return str(rows.data._fingerprint)
    sha = hashlib.sha256()
    for file in [rows.path] if rows.path.is_file() else sorted(rows.path.rglob("*.*")):
        with file.open("rb") as opened:
            while piece := opened.read(2**20):
                sha.update(piece)
    return sha.hexdigest()
