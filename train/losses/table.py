"""The table of all terms of the training loss: a new loss is a file with a ``TERM``, and a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from train.losses import (
    camera_height,
    consistency,
    depth_edges,
    explainability,
    motion,
    points,
    semantic,
    sky,
    smoothness,
    triplet,
    true_depth,
    velocity,
    view_synthesis,
)
from train.losses.term import Need, Term
from train.setting import setting

C = TypeVar('C', bound=type)

TERMS: tuple[Term, ...] = (
    explainability.TERM,
    consistency.TERM,
    view_synthesis.TERM,
    smoothness.TERM,
    semantic.TERM,
    triplet.TERM,
    velocity.TERM,
    camera_height.TERM,
    true_depth.TERM,
    depth_edges.TERM,
    points.TERM,
    sky.TERM,
    motion.TERM,
)
"""In the order in which they are computed and summed."""


def needs(settings: Any) -> Iterator[Need]:
    """Everything that the terms of a training with these settings need."""
    for term in TERMS:
        yield from (need for need in term.needs if need.applies(settings))


def with_terms(terms: tuple[Term, ...]) -> Callable[[C], C]:
    """Class decorator, to be applied before ``dataclass``: adds the settings of the terms."""

    def add(cls: C) -> C:
        for term in terms:
            weight = setting(term.help, term.weight)
            for name, item in {term.weight_setting or term.name: weight, **term.settings}.items():
                cls.__annotations__[name] = type(item.default)
                setattr(cls, name, item)
        return cls

    return add
