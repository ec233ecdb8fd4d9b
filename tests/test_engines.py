"""What the plugs into engines share: the number that makes the pieces of a batch add up to the whole."""

import pytest
import torch

from torchstone.core import token_mean
from torchstone.frameworks.unit import Unit


@pytest.mark.parametrize("micro_batches", ["summed", "averaged"])
@pytest.mark.parametrize("ranks", ["summed", "averaged"])
def test_pieces_add_up_to_the_whole(micro_batches, ranks):
    """Two ranks of three micro-batches, added up as the unit says, are the loss of the batch."""
    unit = Unit("some", "some-1", "run", micro_batches, ranks, "")
    torch.manual_seed(0)
    x, mask = torch.randn(12, 5, dtype=torch.float64), torch.rand(12, 5) > 0.3
    add_up = {"summed": sum, "averaged": lambda found: sum(found) / len(found)}
    on_ranks = [
        add_up[micro_batches](
            [
                unit.scale(3, 2) * token_mean(a, m, denominator=mask.sum())
                for a, m in zip(part.split(2), part_mask.split(2), strict=True)
            ]
        )
        for part, part_mask in zip(x.split(6), mask.split(6), strict=True)
    ]
    assert torch.allclose(add_up[ranks](on_ranks), token_mean(x, mask), rtol=1e-12)


@pytest.mark.parametrize("pieces", [(0, 1), (1, 0), (True, 1)])
def test_a_number_of_pieces_is_a_positive_integer(pieces):
    with pytest.raises(ValueError, match="expected an integer of at least 1"):
        Unit("some", "some-1", "run", "summed", "averaged", "").scale(*pieces)
