"""What loading a framework takes: settings, and empty packages in place of those that want a server or a GPU."""

from __future__ import annotations

import os


def quiet() -> None:
    """Settings under which frameworks import without a network and without notices."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
