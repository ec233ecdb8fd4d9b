"""What a signature leaves open: the kind of arrays and of mask, the layout of rewards and advantages, the output."""

from __future__ import annotations

from dataclasses import dataclass

PER_ROW = ("advantages", "returns", "baseline")  # one number a row, or one a token


@dataclass(frozen=True)
class Calling:
    """How a function is called, beside the names of its parameters.

    ``output``: which of several results to take (an index, a key or an attribute); None takes the first that fits.
    """

    arrays: str = "torch"  # or "numpy", "jax"
    mask: str = "bool"  # or "float"
    rewards: str = "P G"  # or "flat", "row"
    advantages: str = ""  # as the case has it, or "B T", "B 1", "B"
    output: str | None = None
    padding: bool = False  # a mask that is named so is True where nothing counts
    pairs: str = "halves"  # of one tensor for chosen and rejected; or "interleaved", "rows", "columns"
    tokens: str = ""  # or "packed": one row of all chosen tokens; "lists"; "shifted": logits of the place before
    ids: str = "numpy"  # of groups; or "torch", "list"

    def in_words(self) -> str:
        """What is not as usual, such as "numpy arrays, a float mask"; "" if all is."""
        told = [f"{self.arrays} arrays"] if self.arrays != "torch" else []
        told += [f"a {self.mask} mask"] if self.mask != "bool" else []
        told += {
            "flat": ["rewards as one row [P * G]"],
            "row": ["one group [G] at a time"],
            "tokens": ["rewards as [P * G, T], each on its last token"],
        }.get(self.rewards, [])
        told += [f"advantages as [{self.advantages}]"] if self.advantages else []
        told += ["its padding mask True where nothing counts"] if self.padding else []
        told += [f"{self.tokens} tokens"] if self.tokens else []
        told += [f"pairs in {self.pairs}"] if self.pairs != "halves" else []
        return ", ".join(told + ([f"output {self.output}"] if self.output is not None else []))
