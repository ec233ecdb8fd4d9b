"""What docs/distillation.md says of frameworks: the expected gradient of their own code, and their remarks.

One position, every token of the vocabulary once as the sample: the expectation is a finite sum, so it is exact. The
vocabulary has 6 tokens, or 160 where a framework looks at its 32 or 100 likeliest.
"""

import re
from dataclasses import replace
from pathlib import Path

import cases_liger_distill
import cases_trl_distill
import cases_verl_distill
import pytest
import torch
from batch import DistillBatch, distill_batch, leaf
from cases import BATCHES
from test_dialects import CASES, RECIPES, far, run_distill
from torch import Tensor

from torchstone.frameworks.liger import load as liger
from torchstone.frameworks.loading import default_dtype
from torchstone.frameworks.trl.rows import VERSION as TRL
from torchstone.frameworks.verl.rows import VERSION as VERL
from torchstone.recipes import DistillRecipe

PAGE = (Path(__file__).parents[2] / "docs" / "distillation.md").read_text(encoding="utf-8")
RUN = dict(re.findall(r"^\| `([\w-]+@[\w.-]+)` \| .* \| ([^|]+) \|$", PAGE, re.M))


def pair(seed: int = 0, size: int = 6) -> tuple[Tensor, Tensor]:
    """Logits of a policy and of a teacher that is 1.5 times as sure."""
    generator = torch.Generator().manual_seed(seed)
    policy, teacher = (c * torch.randn(size, dtype=torch.float64, generator=generator) for c in (1.0, 1.5))
    return policy, teacher


def each(logits: Tensor, teacher: Tensor) -> DistillBatch:
    """Completions of one token, on policy: every token of the vocabulary once."""
    size = len(logits)
    log_probs = logits.log_softmax(-1)[:, None]
    ids, mask = torch.arange(size)[:, None], torch.ones(size, 1, dtype=torch.bool)
    rows = [x.expand(size, 1, size) for x in (logits, teacher)]
    return DistillBatch(*rows, ids, mask, log_probs, log_probs, torch.zeros(size))


def expectation(gradients: Tensor, logits: Tensor) -> Tensor:
    """The mean [V] over the policy's samples of the gradients [V 1 V] of a mean over completions of one token."""
    return len(logits) * logits.softmax(-1) @ gradients[:, 0]


def expected(name: str, logits: Tensor, teacher: Tensor) -> Tensor:
    """The gradient [V] of the framework's loss, in expectation over the token that the policy samples."""
    return expectation(CASES[name].run(each(logits, teacher)).gradients["logits"], logits)


def kl_gradients(logits: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """The gradients [V] of the two KLs of this position, in closed form."""
    p, q = logits.softmax(-1), teacher.softmax(-1)
    gap = logits.log_softmax(-1) - teacher.log_softmax(-1)
    return {"reverse": p * (gap - (p * gap).sum()), "forward": p - q}


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_the_page_has_every_row_that_is_run() -> None:
    assert set(RUN) == {name for name, row in RECIPES.items() if "@" in name and isinstance(row, DistillRecipe)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", RUN)
def test_the_page_says_which_kl_a_framework_lowers(name: str, seed: int) -> None:
    logits, teacher = pair(seed, 160 if "k" in RECIPES[name].signal.numbers else 6)
    found, exact = expected(name, logits, teacher), kl_gradients(logits, teacher)
    towards = {way: cosine(found, gradient) for way, gradient in exact.items()}
    if RUN[name].startswith("neither"):
        assert max(towards.values()) < 0.999
    elif RUN[name].startswith("reverse KL **minus** forward KL"):
        assert not far(found, exact["reverse"] - exact["forward"], 1e-10)
    elif "forward KL of 32 tokens" in RUN[name]:
        assert 0.999 > towards["forward"] > towards["reverse"]
    else:
        way = re.match(r"(?:\*\*)?(reverse|forward) KL", RUN[name])[1]
        times = 1.5 if "1.5 times" in RUN[name] else 1.0  # a single token is the first
        assert not far(found, times * exact[way], 1e-10)
        assert towards[{"reverse": "forward", "forward": "reverse"}[way]] < 0.999


def test_k3_as_a_reward_points_uphill_in_a_quarter_of_pairs() -> None:
    """verl's dataclass default. The row is its loss (test_dialects.py), so many pairs are the row's."""
    name, uphill, draws = f"opd-k3-advantage@{VERL}", 0, 1000
    for seed in range(draws):
        logits, teacher = pair(seed)
        found = expectation(run_distill(RECIPES[name], each(logits, teacher), {}).gradients["logits"], logits)
        if seed < 3:
            assert not far(found, expected(name, logits, teacher), 1e-10)
        uphill += cosine(found, kl_gradients(logits, teacher)["reverse"]) < 0
    assert uphill == 252
    assert "uphill on the reverse in 25% of pairs" in RUN[name] and "1,000 random pairs" in PAGE


def test_verls_top_k_has_no_gradient_where_it_is_cut_at_0() -> None:
    batch = BATCHES[cases_verl_distill.BELOW_0](0)
    p, q = (x.log_softmax(-1) for x in (batch.logits, batch.teacher_logits))
    top = q.topk(32).indices
    kl = (q.gather(-1, top).exp() * (q.gather(-1, top) - p.gather(-1, top))).sum(-1)
    gradient = CASES[f"opd-topk-drop@{VERL}"].run(batch).gradients["logits"].abs().sum(-1)
    assert (kl < 0).sum() > 10
    assert ((gradient > 0) == ((kl > 0) & batch.mask)).all()


def test_gkds_temperature_is_not_in_its_loss() -> None:
    batch = distill_batch(0)
    cold, hot = (cases_trl_distill.gkd(batch, temperature=t).value for t in (0.9, 2.0))
    assert cold == hot
    assert cases_trl_distill.distillation(batch, temperature=2.0).value != cases_trl_distill.distillation(batch).value


def test_trls_index_of_papers_leaves_out_the_rest_that_sdpos_authors_keep() -> None:
    index, tail = (RECIPES[f"{name}@{TRL}"] for name in ("sdpo", "sdpo-tail"))
    assert index.signal.numbers["rest"] == "renormalise"
    assert tail.signal == RECIPES["sdpo"].signal


def test_liger_gives_probability_to_tokens_that_the_policy_lacks() -> None:
    batch = distill_batch(0)
    size, small = batch.logits.shape[-1], 150
    policy = torch.nn.functional.pad(batch.logits[..., :small], (0, size - small))  # logits of 0
    whole = cases_liger_distill.jsd(replace(batch, logits=policy)).value
    head = torch.eye(size, dtype=torch.float64)
    flat = (leaf(batch.logits[..., :small].flatten(0, 1)), leaf(head[:small, :small]))
    labels = batch.ids.masked_fill(~batch.mask, -100).flatten()
    with default_dtype(torch.float64):
        loss = liger.module("JSD", weight_hard_loss=0.0, weight_soft_loss=1.0)
        assert not far(loss(*flat, batch.teacher_logits.flatten(0, 1), head, labels.clamp(max=small - 1)), whole, 1e-10)
