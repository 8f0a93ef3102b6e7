"""What is installed."""

import importlib.metadata
from pathlib import Path

import sotto


def test_each_shared_library_is_there_once():
    names = [file.name.split(".so")[0] for file in Path(sotto.__file__).parent.glob("*.so*")]
    assert "libsotto_torch" in names and len(names) == len(set(names))


def test_licences_of_what_comes_along():
    names = {file.name for file in importlib.metadata.files("sotto") or []}
    assert {"LICENSE", "fmt.txt", "highway.txt"} <= names
