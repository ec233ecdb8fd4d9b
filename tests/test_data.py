"""Data of one's own: what a file holds arrives as it was written, or is named by file and line."""

import pytest

from torchstone.data.examples import Examples, Survey
from torchstone.data.files import open_rows
from torchstone.terminal import UserError


def read(source, method="grpo", judged=True, skip=False) -> list:
    """Every example, in the order of the file."""
    found = Survey(open_rows(str(source)), method, judged, skip)
    return list(Examples(found.rows, found.kind, found.good))


# ------------------------------------------------------------------------------------- what cannot be read


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('{"prompt": "a"}\n{"prompt": ', "line 2: not JSON"),
        ('{"prompt": "a"}\n\n[1]', "line 3: expected an object, got list"),
        ('{"question": "a"}', "line 1: 'prompt' is missing .it has question"),
        ('{"prompt": "a", "answer": 1}\n{"prompt": "b"}', "line 2: 'answer' is missing"),
        ('{"prompt": ""}', "line 1: 'prompt' must be a text, got ''"),
        (
            '{"prompt": "a", "x": 1}\n{"prompt": "b", "x": 1, "y": 2}',
            "line 2: 'y' is not in the first row .it has prompt, x",
        ),
        ('{"prompt": "a"}\n{"prompt": "\\ud800"}', "line 2: 'prompt' is no text: surrogates not allowed"),
        (
            '{"prompt": "a"}\n{"prompt": "a", "n": ' + "9" * 5000 + "}",
            "line 2: not JSON .*5000 digits|line 2: .*4300 digits",
        ),
        ("[" * 100_000, "line 1: not JSON .*recursion"),
        ("\n\n", "is empty"),
    ],
)
def test_a_malformed_file_names_file_line_and_what_is_missing(tmp_path, lines, says):
    file = tmp_path / "data.jsonl"
    file.write_text(lines)
    with pytest.raises(UserError, match=f"data.jsonl.*{says}"):
        read(file)


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text('{"prompt": "a\u2028b"}\n', encoding="utf-8")
    assert read(file) == [{"prompt": "a\u2028b"}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"prompt": "a"}\n{"prompt": "b\xff"}\n', "line 2: not text in UTF-8"),
        ("{}".encode("utf-16"), "line 1: not text in UTF-8"),
        (b"PK\x80\x00", "line 1: not text in UTF-8 .*expected JSON, an object a line"),
    ],
)
def test_what_is_not_text_is_named_with_its_line(tmp_path, content, says):
    (tmp_path / "d.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=f"d.jsonl, {says}"):
        read(tmp_path / "d.jsonl")


def test_a_byte_order_mark_and_other_line_ends_are_read(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}\r{"prompt": "c"}\n')
    assert [row["prompt"] for row in read(tmp_path / "d.jsonl")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "a", "chosen": "b"}', "line 1: 'rejected' is missing"),
        ('{"prompt": "a", "chosen": 3, "rejected": "b"}', "line 1: 'chosen' must be a text, got 3"),
    ],
)
def test_a_malformed_pair(tmp_path, line, says):
    (tmp_path / "d.jsonl").write_text(line)
    with pytest.raises(UserError, match=f"d.jsonl, {says}"):
        read(tmp_path / "d.jsonl", "dpo", judged=False)
