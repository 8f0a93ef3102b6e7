"""The examples in docstrings run as doctests."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import sotto

modules = [module.name for module in pkgutil.iter_modules(sotto.__path__)]
modules.remove("libsotto_torch")  # compiled, and no module of Python's


@pytest.mark.parametrize("name", modules)
def test_docstrings(name):
    torch.manual_seed(1)
    assert doctest.testmod(importlib.import_module(f"sotto.{name}")).failed == 0


def test_every_public_function_has_one():
    for name in sotto.__all__:
        thing = getattr(sotto, name)
        if callable(thing) and not isinstance(thing, type):
            assert ">>> " in thing.__doc__, name
