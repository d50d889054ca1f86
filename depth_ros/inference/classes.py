"""Cityscapes' classes, and mapping the classes of a model to those of ground truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depth_ros.core.labels import UNLABELED
from depth_ros.inference.contract import SemanticClass
from depth_ros.packages import require_packages

_NAMES_AND_COLORS = (
    ('road', (128, 64, 128)),
    ('sidewalk', (244, 35, 232)),
    ('building', (70, 70, 70)),
    ('wall', (102, 102, 156)),
    ('fence', (190, 153, 153)),
    ('pole', (153, 153, 153)),
    ('traffic light', (250, 170, 30)),
    ('traffic sign', (220, 220, 0)),
    ('vegetation', (107, 142, 35)),
    ('terrain', (152, 251, 152)),
    ('sky', (70, 130, 180)),
    ('person', (220, 20, 60)),
    ('rider', (255, 0, 0)),
    ('car', (0, 0, 142)),
    ('truck', (0, 0, 70)),
    ('bus', (0, 60, 100)),
    ('train', (0, 80, 100)),
    ('motorcycle', (0, 0, 230)),
    ('bicycle', (119, 11, 32)),
)

CITYSCAPES = tuple(
    SemanticClass(i, name, color) for i, (name, color) in enumerate(_NAMES_AND_COLORS)
)
"""The nineteen classes of Cityscapes, whose ids are its trainIds, with their usual colours."""

ROAD = 0
SKY = 10
MOVABLE = (11, 12, 13, 14, 15, 16, 17, 18)
"""Ids of Cityscapes' classes of what can move by itself: person to bicycle."""


def movable_ids(classes: Iterable[SemanticClass]) -> tuple[int, ...]:
    """Ids, among a model's classes, of what can move by itself, by Cityscapes' names."""
    names = {CITYSCAPES[i].name for i in MOVABLE}
    return tuple(c.id for c in classes if c.name in names)


KNOWN: dict[str, dict[str, Any]] = {
    # Its trainIds 0..18.
    'cityscapes': {
        'names': tuple(c.name for c in CITYSCAPES),
        'map': {c.name: c.name for c in CITYSCAPES},
    },
    # The eleven classes of Badrinarayanan et al. (SegNet), and Cityscapes' classes in them.
    'camvid': {
        'names': (
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        'map': {
            'sky': 'sky',
            'building': 'building',
            'wall': 'building',
            'pole': 'pole',
            'road': 'road',
            'sidewalk': 'pavement',
            'vegetation': 'tree',
            'terrain': 'tree',
            'traffic sign': 'sign',
            'traffic light': 'sign',
            'fence': 'fence',
            'car': 'car',
            'truck': 'car',
            'bus': 'car',
            'train': 'car',
            'person': 'pedestrian',
            'rider': 'bicyclist',
            'bicycle': 'bicyclist',
            'motorcycle': 'bicyclist',
        },
    },
}
"""Known label sets: names of their classes, and the class for each of a model's, by name."""


def _read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file.

    Raises:
        MissingPackageError: if PyYAML is not installed.
        OSError, ValueError: if it cannot be read.
    """
    require_packages('a file of classes', 'yaml')
    import yaml

    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


_GREY: tuple[int, int, int] = (255, 255, 255)


@dataclass(frozen=True)
class ClassMap:
    """The classes of ground truth, and the one for each class of a model.

    Attributes:
        classes: the true classes, with colours.
        lookup: uint8 (256,), true class of each of the model's ids; 255 = none.
    """

    classes: tuple[SemanticClass, ...]
    lookup: np.ndarray

    @classmethod
    def read(cls, source: str | None, model: Sequence[SemanticClass]) -> ClassMap:
        """Find or read a label set.

        Args:
            source: a name in :data:`KNOWN`, a YAML file with the same two entries, or ``None``
                where the truth has the ids of the model.
            model: the model's classes.

        Raises:
            ValueError: if the file cannot be used.
        """
        lookup = np.full(256, UNLABELED, np.uint8)
        if source is None:
            lookup[: len(model)] = range(len(model))
            return cls(tuple(model), lookup)
        try:
            given = KNOWN.get(source) or _read_yaml(Path(source))
            names, pairs = list(given['names']), dict(given['map'])
            ids = {item.name: item.id for item in model}
            colors = dict.fromkeys(names, _GREY)
            for ours, theirs in reversed(pairs.items()):
                if ours in ids:
                    lookup[ids[ours]] = names.index(theirs)
                    colors[theirs] = model[ids[ours]].color
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"cannot use --classes '{source}': {error}; it is one of {', '.join(KNOWN)}, or a "
                "file with names, a list, and map, the model's classes with one of the names each"
            ) from error
        return cls(tuple(SemanticClass(i, n, colors[n]) for i, n in enumerate(names)), lookup)

    def predicted(self, labels: np.ndarray) -> np.ndarray:
        """The model's labels as classes of the truth, uint8 (H, W)."""
        return self.lookup[labels]

    def truth(self, labels: np.ndarray) -> np.ndarray:
        """True labels as uint8 (H, W), with 255 for ids that are no class."""
        return np.where(labels < len(self.classes), labels, UNLABELED).astype(np.uint8)
