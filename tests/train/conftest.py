"""The toy method and data of the training tests; ``toy.py`` also runs as a script, to be killed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    if "abbe_tests_toy" not in sys.modules:
        spec = importlib.util.spec_from_file_location("abbe_tests_toy", Path(__file__).with_name("toy.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["abbe_tests_toy"] = module
        spec.loader.exec_module(module)
    return sys.modules["abbe_tests_toy"]
