"""Every call in the tests has its shapes and dtypes checked against the annotations.

The checker is left out: it has no tensors in its signatures, and calls small functions by the hundred thousand.
"""

from pathlib import Path

import jaxtyping
import pytest

PACKAGE = Path(__file__).parents[1] / "torchstone"
CHECKED = [f"torchstone.{p.stem}" for p in sorted(PACKAGE.iterdir()) if p.suffix in ("", ".py")]
jaxtyping.install_import_hook([k for k in CHECKED if k != "torchstone.conformance"], "annotations.check")


@pytest.fixture
def unchecked():
    """Switch the annotations' checks off: what a user meets is the ``ValueError`` of the function itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
