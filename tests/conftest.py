"""Every call in the tests has its shapes and dtypes checked against the annotations."""

import jaxtyping
import pytest

jaxtyping.install_import_hook("torchstone", "annotations.check")


@pytest.fixture
def unchecked():
    """Switch the annotations' checks off: what a user meets is the ``ValueError`` of the function itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
