"""Bundles in the place where a browser finds them."""

import pytest
from support.bundles import make_bundle, numbers_llama


@pytest.fixture(scope="session")
def numbers_bundle(tmp_path_factory):
    """A small decoder at 8 bits: four ranges of weights."""
    folder = tmp_path_factory.mktemp("numbers")
    return make_bundle(numbers_llama(folder / "llama"), "int8-rtn", folder)
