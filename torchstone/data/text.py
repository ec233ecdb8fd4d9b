"""The rows of a text file, JSONL, JSON or CSV, of any size: parsed when they are asked for, named by their line.

No library's reader would do. pyarrow's, which ``datasets`` has, turns texts that look like dates into dates, and what
is missing into null; and neither it nor pandas says in which line a column is missing.
"""

from __future__ import annotations

import csv
import io
import json
import mmap
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torchstone.terminal import UserError

Row = dict[str, Any]
LINE_END = re.compile(rb"\r\n|\r|\n")


class JSONLines:
    """An object a line. The file is mapped into memory; what is kept of a row is where it begins and ends."""

    language, shape = "JSON", "one JSON object a line"

    def __init__(self, path: Path, name: str):
        self.name = name
        self.path: Path | None = path
        with path.open("rb") as file:
            empty = not file.read(1)
            self.bytes: Any = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self.bytes[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError(f"{name} is text in UTF-16: save it in UTF-8")
        self.start = 3 if self.bytes[:3] == b"\xef\xbb\xbf" else 0
        self.spans = array("q", (edge for span in self.find_spans() for edge in span))
        if not self.spans:
            raise UserError(f"{name} is empty: expected {self.shape}")

    def find_spans(self) -> Iterator[tuple[int, int]]:
        """Where each row begins and ends: here the lines that are not blank."""
        return (found.span() for found in re.compile(rb"[^\r\n]*[^\s][^\r\n]*").finditer(self.bytes, self.start))

    def __len__(self) -> int:
        return len(self.spans) // 2

    def take(self, rows: Iterable[int]) -> list[Row]:
        """The rows of these numbers."""
        return [self.parse(self.text(i)) for i in rows]

    def scan(self) -> Iterator[Any]:
        """All in turn, each looked at closely; in place of one that cannot be read, why."""
        for i in range(len(self)):
            try:
                yield self.parse(self.text(i), strict=True)
            except UnicodeDecodeError as e:
                yield UserError(f"not text in UTF-8 ({e.reason}); expected {self.shape}")
            except (ValueError, RecursionError, csv.Error) as e:
                yield UserError(f"not {self.language} ({e})")

    def text(self, i: int) -> str:
        """The row as it stands in the file."""
        return self.bytes[self.spans[2 * i] : self.spans[2 * i + 1]].decode()

    def parse(self, text: str, strict: bool = False) -> Any:
        """The row, if it is one, that a text is; ``strict`` refuses one key twice."""
        return (STRICT if strict else LENIENT).decode(text)

    def where(self, i: int) -> str:
        """The place of a row, in words."""
        return self.line(self.spans[2 * i])

    def line(self, position: int) -> str:
        """The line of a byte, in words."""
        before = self.bytes[:position]
        ends = before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n")
        return f"line {ends + 1}"


class JSONArray(JSONLines):
    """One array of objects. Its parts are found in Latin-1, in which a character is a byte."""

    def find_spans(self) -> Iterator[tuple[int, int]]:
        text, at = self.bytes[self.start :].decode("latin-1"), 0
        between = re.compile(r"\s*(\[\s*\]?)").match(text)  # then a comma after each part, or the end
        while between and not between[1].endswith("]"):
            at = between.end()
            try:
                end = LENIENT.raw_decode(text, at)[1]
            except (ValueError, RecursionError) as e:
                at, why = self.start + getattr(e, "pos", at), getattr(e, "msg", e)
                raise UserError(f"{self.name}, {self.line(at)}: not JSON ({why})") from e
            yield self.start + at, self.start + end
            between = re.compile(r"\s*([,\]])\s*").match(text, end)
        if not between or between.end() < len(text.rstrip()):
            found = f"{self.name}, {self.line(self.start + (between.end() if between else end))}"
            raise UserError(f"{found}: not JSON (expected one array of objects with commas between them)")


class CSVRows(JSONLines):
    """A line of names, then the rows; every value is the text that stands there."""

    language, shape = "CSV", "a line of names, and a row below it"

    def __init__(self, path: Path, name: str, delimiter: str):
        csv.field_size_limit(2**31 - 1)
        self.form: Any = {"delimiter": delimiter, "strict": True}
        self.header: list[str] = []
        super().__init__(path, name)

    def find_spans(self) -> Iterator[tuple[int, int]]:
        """The first row is kept as the header."""
        at = begin = self.start

        def lines() -> Iterator[str]:
            nonlocal at
            while at < len(self.bytes):
                found = LINE_END.search(self.bytes, at)
                line = self.bytes[at : found.end() if found else len(self.bytes)]
                at += len(line)
                yield line.decode()

        reader = csv.reader(lines(), **self.form)
        while True:
            try:
                row = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as e:
                raise UserError(f"{self.name}, {self.line(begin)}: not CSV in UTF-8 ({e})") from e
            if row is None:
                return
            if self.header and row:
                yield begin, at
            elif twice := [name for i, name in enumerate(row) if name in row[:i]]:
                raise UserError(f"{self.name}: the first line names {twice[0]!r} twice")
            self.header, begin = self.header or self.checked(row), at

    def checked(self, row: list[str]) -> list[str]:
        """The names of the columns, if the right character is between them. Raises UserError."""
        (mark,) = {",", "\t"} - {self.form["delimiter"]}
        if len(row) == 1 and (found := [other for other in (mark, ";") if other in row[0]]):
            between = "commas (.csv) or tabs (.tsv)"
            raise UserError(f"{self.name}: {found[0]!r} is between the names of its first line: expected {between}")
        return row

    def parse(self, text: str, strict: bool = False) -> Row:
        fields = next(csv.reader(io.StringIO(text, newline=""), **self.form))
        if len(fields) != len(self.header):
            raise ValueError(f"{len(fields)} fields, and the first line names {len(self.header)}")
        return dict(zip(self.header, fields, strict=True))


def keys_once(pairs: list[tuple[str, Any]]) -> Row:
    """An object of JSON, each of whose keys stands there once."""
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"{twice!r} stands there twice")
    return row


def no_number(text: str) -> float:
    """NaN and infinity, which Python writes and JSON has not."""
    raise ValueError(f"{text} is no value of JSON: null is for what is missing")


LENIENT = json.JSONDecoder()
STRICT = json.JSONDecoder(object_pairs_hook=keys_once, parse_constant=no_number)
