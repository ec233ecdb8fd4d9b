"""..."""

from ..contract import Objective

OBJECTIVES: list[Objective] = []
