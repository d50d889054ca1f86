"""The papers' own code, imported from a clone."""

import importlib
import os
import sys
from pathlib import Path

import pytest


def load(variable, repository, *modules):
    """Modules of the clone that an environment variable names."""
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(
            f'{variable} names no clone: git clone https://github.com/{repository}, then '
            f'export {variable}=<its folder>'
        )
    assert Path(folder).is_dir(), f'{variable}={folder} is no folder'
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        return [importlib.import_module(name) for name in modules]
    finally:
        sys.path.remove(folder)
        # Both clones have a module called utils.
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], '__file__', None)).startswith(folder):
                del sys.modules[name]
