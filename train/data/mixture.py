"""Several data sets in one training, each with its share, its targets and its own cameras.

``data`` of a config may name a YAML file with a list ``sets``; an entry has ``data`` (a data set,
relative to where the training starts) and, where they differ from the training's own settings,

- ``weight``: its share of the samples, against the others' weights (1);
- ``use``: what it teaches, of images (by view synthesis), points, depth, motion and semantics
  (all that there is);
- ``singles``: true where its images are no video (false);
- ``span``: the part of each sequence to take, [0, 0.667]: the first two thirds (all);
- ``crop``, ``still``, ``backward``, ``max_gap``: in place of the setting of that name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
import yaml
from torch.utils.data import Dataset

from train.data.augment import Augmentation
from train.data.checks import check_sequences
from train.data.dataset import FrameDataset
from train.data.sequences import DataError, Sequence, find_sequences
from train.data.windows import USES, WindowDataset
from train.training.config import Config

SUFFIXES = ('.yaml', '.yml')


class Share:
    """The settings of an entry that have a type: see the module."""

    data: str
    weight: float
    use: list
    singles: bool
    span: list
    crop: float
    still: float
    backward: float
    max_gap: int


def is_mixture(path: str | Path) -> bool:
    """Whether a config's ``data`` is a mixture instead of a data set."""
    return Path(path).suffix in SUFFIXES


def read_mixture(path: str | Path) -> list[dict[str, Any]]:
    """The entries of a mixture's file, checked.

    Raises:
        DataError: if it cannot be read, or a setting of it is unknown or wrong.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"cannot read the mixture '{path}': {error}") from error
    entries = content.get('sets') if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or set(content) != {'sets'}:
        raise DataError(f"'{path}' is no mixture: expected a list of data sets, named sets")
    kinds = get_type_hints(Share)
    for number, entry in enumerate(entries, 1):
        where = f"'{path}', data set {number}"
        if not isinstance(entry, dict) or 'data' not in entry:
            raise DataError(f"{where}: expected settings, with 'data' among them")
        for name, value in entry.items():
            if name not in kinds:
                raise DataError(f"{where}: '{name}' is unknown, must be of {', '.join(kinds)}")
            if type(value) is not kinds[name] and not (kinds[name] is float and type(value) is int):
                raise DataError(f"{where}: '{name}' is {value!r}, must be {kinds[name].__name__}")
        if entry.get('weight', 1) <= 0:
            raise DataError(f"{where}: 'weight' must be positive, is {entry['weight']}")
        if not set(entry.get('use', ())) <= set(USES):
            raise DataError(f"{where}: 'use' must be some of {', '.join(USES)}")
        span = entry.get('span', [0, 1])
        if len(span) != 2 or not 0 <= span[0] < span[1] <= 1:
            raise DataError(f"{where}: 'span' is {span}, must be two shares, the less first")
    return entries


class MixedDataset(Dataset):
    """Samples of several data sets, drawn by weight.

    A sample's seed alone decides which data set and which of its samples: the index that comes
    with it (see :class:`train.data.dataset.StepSampler`) does not. An index alone is that of the
    data sets one after another, as for a validation, which sees each sample once.

    Args:
        parts: the data sets.
        weights: of each, positive.
    """

    def __init__(self, parts: list[WindowDataset], weights: list[float]) -> None:
        self.parts = parts
        self.shares = np.cumsum(weights) / np.sum(weights)
        self.ends = np.cumsum([len(part) for part in parts])

    @property
    def sequences(self) -> list:
        """Of all data sets."""
        return [sequence for part in self.parts for sequence in part.sequences]

    def has(self, kind: str) -> bool:
        """Whether some data set has, and uses, ground truth of a kind, 'depth' or 'semantics'."""
        return any(part.has(kind) for part in self.parts if kind in part.use)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        if isinstance(key, tuple):
            _, seed = key
            u, v = np.random.default_rng(seed).random(2)
            number = min(int(np.searchsorted(self.shares, u, 'right')), len(self.parts) - 1)
            part = self.parts[number]
            return part[int(v * len(part)), seed]
        number = int(np.searchsorted(self.ends, key, 'right'))
        return self.parts[number][key - int(self.ends[number - 1] if number else 0)]


def make_dataset(
    path: str, config: Config, augment: Augmentation | None = None
) -> FrameDataset | WindowDataset | MixedDataset:
    """The samples of a config's ``data`` (with ``augment``) or ``val`` (without, to judge on).

    Raises:
        DataError: if a data set has nothing to offer.
    """
    if not is_mixture(path) and not config.crop:
        return FrameDataset(
            path,
            config.width,
            config.height,
            views=config.views,
            max_gap=config.max_gap if augment else 1,
            augment=augment,
            exclude=check_sequences(path),
        )
    entries = read_mixture(path) if is_mixture(path) else [{'data': path}]
    parts = [_part(entry, config, augment) for entry in entries]
    if len(parts) == 1:
        return parts[0]
    return MixedDataset(parts, [float(entry.get('weight', 1)) for entry in entries])


def _part(entry: dict[str, Any], config: Config, augment: Augmentation | None) -> WindowDataset:
    own = {
        name: entry.get(name, getattr(config, name))
        for name in ('crop', 'still', 'backward', 'max_gap')
    }
    own['crop'] = own['crop'] or 1.0
    if augment is None:
        own.update(still=0.0, backward=0.0, max_gap=1)
    return WindowDataset(
        entry['data'],
        config.width,
        config.height,
        views=config.views,
        augment=augment,
        exclude=check_sequences(entry['data']),
        use=entry.get('use', USES),
        filters=config.filters,
        singles=entry.get('singles', False),
        judge=augment is None,
        span=tuple(entry.get('span', (0.0, 1.0))),
        **own,
    )


def find_training_sequences(path: str | Path) -> list[Sequence]:
    """The sequences of a config's ``data``, whether a mixture or a data set."""
    if not is_mixture(path):
        return find_sequences(path)
    return [s for entry in read_mixture(path) for s in find_sequences(entry['data'])]
