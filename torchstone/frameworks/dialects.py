"""What frameworks compute under an algorithm's name: one row an objective, all of them in one list.

A row is the published one with the framework's own choices: the algorithm is selected by its name there, and every
other setting is left at the framework's default. The row's name carries the version, its source the file and line,
and its ``about`` what a choice of ours cannot say. tests/frameworks/test_dialects.py holds each row against the
framework itself. ``torchstone.recipes.named`` reads the list by its name; no framework is imported.
"""

from __future__ import annotations

from torchstone.frameworks.liger import distill_rows as liger_distill
from torchstone.frameworks.liger import rows as liger
from torchstone.frameworks.openrlhf import rows as openrlhf
from torchstone.frameworks.skyrl import rows as skyrl
from torchstone.frameworks.torchrl import rows as torchrl
from torchstone.frameworks.torchtune import rows as torchtune
from torchstone.frameworks.trl import distill_rows as trl_distill
from torchstone.frameworks.trl import rows as trl
from torchstone.frameworks.verl import distill_rows as verl_distill
from torchstone.frameworks.verl import rows as verl
from torchstone.recipes.choices import Recipe

DISTILL = [*trl_distill.ROWS, *verl_distill.ROWS, *torchrl.ROWS, *liger_distill.ROWS, *torchtune.ROWS]
ROWS: list[Recipe] = [*trl.ROWS, *verl.ROWS, *openrlhf.ROWS, *liger.ROWS, *skyrl.ROWS, *DISTILL]
