"""A setting of a training, as a field of a dataclass."""

from __future__ import annotations

from dataclasses import MISSING, field
from typing import Any


def setting(help: str, default: Any = MISSING, choices: tuple | None = None) -> Any:
    """A dataclass field that also holds the text for ``--help`` and the values to choose from."""
    return field(default=default, metadata={'help': help, 'choices': choices})
