"""Liger 0.8.5: for each row the settings of its module.

Liger casts log-probs to float32. Each row is held twice: Liger's code in float64 against the row, to 1e-10 by the
suite, and the same code as it is, in float32, against that here. In float64 means for a policy row the formula
(`ppo_loss_fn`) on float64 log-probs, for the others the whole module with `Tensor.float` taken as `Tensor.double`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import liger_losses as liger
import torch
from batch import PolicyBatch, PreferenceBatch
from cases import Case, Output

from torchstone.dpo.variants import kto_reference_point

VERSION = "liger-0.8.5"
FLOAT32 = "In float64; as it is Liger agrees with that to 1e-5 of the largest entry, since its log-probs are float32."


@contextmanager
def double() -> Iterator[None]:
    """What Liger casts to float32 is float64 inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(torch.Tensor, "float", torch.Tensor.double):
            yield
    finally:
        torch.set_default_dtype(before)


def same_in_float32(found: liger.Result, expected: liger.Result) -> liger.Result:
    """`expected`, where `found` is as near as float32 allows: a log-ratio of a sequence is a sum of rounded ones."""
    largest = max(float(x.abs().max()) for x in expected[1].values())
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5 * largest)
    return expected


def grpo(batch: PolicyBatch, **knobs: Any) -> Output:
    result = same_in_float32(liger.grpo(batch, **knobs), liger.grpo(batch, fused=False, **knobs))
    return Output(*result, given={"advantages": batch.advantages, "max_length": 512})


def on_pairs(run: Callable[..., liger.Result], batch: PreferenceBatch, **knobs: Any) -> Output:
    with double():
        result = run(batch, **knobs)
    return Output(*same_in_float32(run(batch, **knobs), result))


def kto(batch: PreferenceBatch) -> Output:
    log_probs, references = (torch.where(batch.kl_mask, x, 0).sum(1) for x in (batch.kl, batch.ref_kl))
    return on_pairs(liger.kto, batch)._replace(given={"reference_point": kto_reference_point(log_probs, references)})


SETTINGS: dict[str, dict[str, Any]] = {
    "dapo": {},
    "grpo": {"loss_type": "grpo"},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo", "max_completion_length": 512},
    "gspo": {"importance_sampling_level": "sequence", "loss_type": "grpo"},
    "luspo": {"importance_sampling_level": "sequence", "loss_type": "luspo", "beta": 0.0},
    "cispo": {"loss_type": "cispo"},
    "sapo": {"loss_type": "sapo"},
    "vespo": {"loss_type": "vespo"},
    "intellect-2": {"delta": 4.0},
    "deepseek-v3.2": {"use_bias_correction_kl": True},
}
PAIRS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "cdpo": {"label_smoothing": 0.1},
    "robust_dpo": {"loss_type": "robust", "label_smoothing": 0.1},
    "rso": {"loss_type": "hinge"},
    "exo": {"loss_type": "exo_pair", "label_smoothing": 1e-3},
    "nca": {"loss_type": "nca_pair"},
    "bco": {"loss_type": "bco_pair"},
    "sppo": {"loss_type": "sppo_hard"},
    "apo_zero": {"loss_type": "apo_zero"},
    "apo_down": {"loss_type": "apo_down"},
    "discopop": {"loss_type": "discopop"},
    "iterative-rpo": {"compute_nll_loss": True},
    "dpo-norm": {"average_log_prob": True},
}
OTHERS = {"cpo": liger.cpo, "simpo": liger.simpo, "orpo": liger.orpo}
RUNS = {
    **{name: partial(on_pairs, liger.dpo, **knobs) for name, knobs in PAIRS.items()},
    **{name: partial(on_pairs, run) for name, run in OTHERS.items()},
    "kto": kto,
}

CASES = {
    **{
        f"{name}@{VERSION}": Case(partial(grpo, **knobs), ("prefix", "gaps", "empty", "far"), note=FLOAT32)
        for name, knobs in SETTINGS.items()
    },
    **{f"{name}@{VERSION}": Case(run, ("pairs",), note=FLOAT32) for name, run in RUNS.items()},
}
SAME = {f"{name}@{VERSION}" for name in ("dpo", "robust_dpo", "nca", "apo_zero", "apo_down", "kto")}
