"""What docs/distillation.md says of frameworks: the expected gradient of their own code, over every token of a vocabulary.

One position, every token of the vocabulary once as the sample: the expectation is a finite sum, so it is exact. Policy
and teacher are the same for all: 6 tokens, or 160 where a framework looks at its 100 likeliest.
"""

import re
from functools import cache
from pathlib import Path

import cases_torchrl
import cases_verl_distill
import pytest
import torch
from batch import DistillBatch
from test_dialects import CASES, RECIPES, far, run_distill
from torch import Tensor

from torchstone.frameworks.torchrl.rows import VERSION as TORCHRL
from torchstone.frameworks.trl.rows import VERSION as TRL
from torchstone.frameworks.verl.rows import VERSION as VERL

PAGE = (Path(__file__).parents[2] / "docs" / "distillation.md").read_text(encoding="utf-8")


def pair(seed: int = 0, size: int = 6) -> tuple[Tensor, Tensor]:
    """Logits of a policy and of a teacher that is 1.5 times as sure."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(c * torch.randn(size, dtype=torch.float64, generator=generator) for c in (1.0, 1.5))


def one(logits: Tensor, teacher: Tensor, token: int) -> DistillBatch:
    """A completion of this one token, on policy."""
    log_prob = logits.log_softmax(-1)[token].view(1, 1)
    ids, mask = torch.tensor([[token]]), torch.ones(1, 1, dtype=torch.bool)
    return DistillBatch(logits[None, None], teacher[None, None], ids, mask, log_prob, log_prob, torch.zeros(1))


def expected(name: str, logits: Tensor, teacher: Tensor) -> Tensor:
    """The gradient [V] of the framework's loss, in expectation over the token that the policy samples."""
    p = logits.softmax(-1)
    tokens = range(len(p)) if len(p) <= 6 else [0]  # over the vocabulary: whichever was sampled
    weights = p if len(p) <= 6 else torch.ones(1)
    found = [CASES[name].run(one(logits, teacher, y)).gradients["logits"][0, 0] for y in tokens]
    return sum(w * g for w, g in zip(weights, found, strict=True))


def kl_gradients(logits: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """The gradients [V] of the two KLs of this position, in closed form."""
    p, q = logits.softmax(-1), teacher.softmax(-1)
    gap = logits.log_softmax(-1) - teacher.log_softmax(-1)
    return {"reverse": p * (gap - (p * gap).sum()), "forward": p - q}


REVERSE = [f"opd-exact@{TRL}", f"opd@{TRL}", f"opd@{VERL}", f"opd-k2@{VERL}", "opd-exact@torchtune-0.6.1"]
FORWARD = [f"opd-k3@{VERL}", f"opd-k3@{TORCHRL}"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "name,direction", [*((x, "reverse") for x in REVERSE), *((x, "forward") for x in FORWARD)]
)  # fmt: skip
def test_which_kl_a_framework_lowers(name: str, direction: str, seed: int) -> None:
    found, exact = expected(name, *pair(seed)), kl_gradients(*pair(seed))
    assert not far(found, exact[direction], 1e-10)
    assert far(found, exact[{"reverse": "forward", "forward": "reverse"}[direction]], 0.1)


def test_iw_opd_of_one_token_is_reverse_kl_one_and_a_half_times() -> None:
    assert not far(expected(f"iw-opd@{TRL}", *pair()), 1.5 * kl_gradients(*pair())["reverse"], 1e-10)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_k3_as_a_reward_points_uphill_in_a_share_of_pairs() -> None:
    """verl's dataclass default. The row is the same loss (test_dialects.py), so the many pairs are the row's."""
    name = f"opd-k3-advantage@{VERL}"
    rows, uphill, draws = RECIPES[name], 0, 1000
    for seed in range(draws):
        logits, teacher = pair(seed)
        p = logits.softmax(-1)
        runs = [run_distill(rows, one(logits, teacher, y), {}).gradients["logits"][0, 0] for y in range(len(p))]
        found = sum(w * g for w, g in zip(p, runs, strict=True))
        if seed < 3:
            assert not far(found, expected(name, logits, teacher), 1e-10)
        uphill += cosine(found, kl_gradients(logits, teacher)["reverse"]) < 0
    print("uphill", uphill / draws)
    assert f"{100 * uphill / draws:.0f}%" in re.search(r".*as the reward.*uphill.*", PAGE)[0]
