"""What mutation testing (docs/mutation.md) found that no other test held, and that belongs to no one function."""

import pytest
import torch
from objectives import OBJECTIVES
from test_common import assert_same, run, simplest

OWN = [
    o for o in OBJECTIVES if o.name not in ("kto", "bco unpaired", "optimism")
]  # these rows make a tensor themselves


@pytest.mark.parametrize("objective", OWN, ids=str)
def test_everything_is_made_where_the_inputs_are(objective):
    """What is made without saying where lies on the default device: here on one that holds no numbers."""
    batch = objective.batch()
    expected = run(objective, batch, **simplest(objective))
    with torch.device("meta"):
        found = run(objective, batch, **simplest(objective))
    assert_same(expected, found, rtol=0, atol=0)
