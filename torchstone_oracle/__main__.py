"""``python -m torchstone_oracle FOLDER [NAME ...]``: write the vectors of all objectives, or of some."""

from __future__ import annotations

import sys
from pathlib import Path

from .contracts import OBJECTIVES
from .write import write


def main(folder: str, *names: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names or OBJECTIVES:
        print(write(OBJECTIVES[name], Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
