"""The corpus: every function is what its header says. What the checker says of them all: ``make corpus``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "corpus"))
from functions import entries, errors


def test_every_function_is_what_its_header_says():
    assert list(errors()) == []
    assert sum(e.wrong for e in entries()) >= 200 and sum(not e.wrong for e in entries()) >= 100
    assert all(e.named and e.kind if e.wrong else e.style for e in entries())
