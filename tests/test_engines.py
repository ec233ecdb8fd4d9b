"""What the plugs into engines share: the number that makes the pieces of a batch add up to the whole."""

import pytest
import torch

from torchstone.core import token_mean
from torchstone.frameworks.refusals import in_proportion
from torchstone.frameworks.unit import Unit
from torchstone.recipes import RECIPES, PolicyRecipe
from torchstone.recipes.columns import SURROGATES


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


@pytest.mark.parametrize("name", SURROGATES)
def test_a_loss_is_said_to_be_in_proportion_to_its_advantage_where_it_is(name):
    row = next(row for row in RECIPES.values() if isinstance(row, PolicyRecipe) and row.surrogate.name == name)
    g = torch.Generator().manual_seed(0)
    log_probs, old, advantages = (torch.randn(4, 3, generator=g, dtype=torch.float64) for _ in range(3))
    batch = {"log_probs": log_probs - 4, "old_log_probs": old - 4, "mask": torch.ones(4, 3, dtype=torch.bool)}
    batch |= {"group_size": 2}

    def losses(factor):
        found = row.run("surrogate", batch | {"advantages": factor * advantages.sum(1, keepdim=True).expand(4, 3)})
        return found[0] if isinstance(found, tuple) else found

    assert in_proportion(row) == torch.allclose(losses(3.0), 3 * losses(1.0), rtol=1e-9)
