"""Which training a run folder belongs to, so that no other training resumes in it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from depth_ros.files import write_file
from train.data.dataset import FrameDataset
from train.data.mixture import MixedDataset
from train.data.sequences import MAPS, Sequence
from train.training.config import Config
from train.training.data import Data

NAME = 'training.json'

MAY_CHANGE = (
    'out',
    'steps',
    'learning_rate',
    'gradient_clip',
    'workers',
    'accelerator',
    'devices',
    'nodes',
    'val_every',
)
"""Settings that may change when a training is resumed; the new values apply from then on."""

_BY_CONTENT = ('data', 'val')  # compared by their content, so that data sets may be moved


def claim(config: Config, data: Data, goes_on: bool) -> dict[str, Any]:
    """Describe a training by its settings and data, and compare it with the one in its folder.

    Args:
        config: settings of the training.
        data: its data sets.
        goes_on: whether it resumes the training in the folder, which must then be the same.

    Returns:
        The content of :data:`NAME`, to be written when the training starts.

    Raises:
        ValueError: if the folder holds another training (the message says what differs), or its
            description is damaged.
    """
    wanted = {
        'settings': _settings(asdict(config)),
        'data': _fingerprint(data.train),
        'val': _fingerprint(data.val),
    }
    path = Path(config.out) / NAME
    # Earlier versions wrote no description: then only the checkpoint's settings are compared.
    if not goes_on or not path.exists():
        return wanted
    try:
        found = json.loads(path.read_text())
        differing = [
            *_differing(found['settings'], wanted['settings']),
            *_changed('data', config.data, found['data'], wanted['data']),
            *_changed('val', config.val, found['val'], wanted['val']),
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{path}' is damaged: remove it to go on without its check") from error
    _refuse(config, differing)
    return wanted


def write_claim(config: Config, content: dict[str, Any]) -> None:
    """Write what :func:`claim` returned."""
    write_file(Path(config.out) / NAME, json.dumps(content, indent=1) + '\n')


def read_checkpoint(path: Path, config: Config) -> dict[str, Any]:
    """Read the checkpoint from which a training is to be resumed.

    Args:
        path: the checkpoint.
        config: settings of the training.

    Returns:
        The content of the checkpoint.

    Raises:
        ValueError: if it is missing, damaged, or of a training with other settings.
    """
    remedy = 'start over with --restart, or in another --out'
    older = sorted(str(p) for p in path.parent.glob('last-*.ckpt') if p != path)
    if older:
        remedy = f'go on from an older one with --resume {older[0]}, or {remedy}'
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
        found = checkpoint['hyper_parameters']
        _ = checkpoint['state_dict'], checkpoint['optimizer_states'], checkpoint['global_step']
    except FileNotFoundError as error:
        raise ValueError(f"checkpoint '{path}' does not exist") from error
    except Exception as error:  # pickle, zip and torch each have their own
        raise ValueError(
            f"'{path}' is damaged, or no checkpoint to go on from: {remedy}"
        ) from error
    wanted = asdict(config)
    names = [n for n in wanted if n not in (*MAY_CHANGE, *_BY_CONTENT)]
    if not (Path(config.out) / NAME).exists():  # of the data, only the path can be compared
        names += _BY_CONTENT
    _refuse(config, _differing({n: found.get(n) for n in names}, {n: wanted[n] for n in names}))
    return checkpoint


def _refuse(config: Config, differing: list[str]) -> None:
    if differing:
        raise ValueError(
            f"'{config.out}' holds another training: {'; '.join(differing)}. Give another --out, "
            'or --restart to overwrite it; when a training goes on, only '
            + ', '.join(MAY_CHANGE[1:])
            + ' may change'
        )


def _settings(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(
        json.dumps({k: v for k, v in values.items() if k not in (*MAY_CHANGE, *_BY_CONTENT)})
    )


def _differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Describe each setting whose value differs."""
    return [
        f'{name} was {found.get(name)!r}, is {wanted.get(name)!r}'
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]


def _changed(setting: str, place: str, found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Describe how the sequences of a data set differ; [] if all are the same."""
    counts = {
        'added': len(wanted.keys() - found.keys()),
        'gone': len(found.keys() - wanted.keys()),
        'changed': sum(found[n] != wanted[n] for n in found.keys() & wanted.keys()),
    }
    words = ', '.join(f'{count} {what}' for what, count in counts.items() if count)
    return [f"{setting} '{place}' has other content (sequences: {words})"] if words else []


def _fingerprint(data: FrameDataset | MixedDataset) -> dict[str, str]:
    """Hash of each sequence, by its number and name; independent of the data set's path."""
    return {
        f'{number} {sequence.folder.name}': _sequence_hash(sequence)
        for number, sequence in enumerate(data.sequences)
    }


def _sequence_hash(sequence: Sequence) -> str:
    """Hash a sequence: names and sizes of all files, and the first 64 KiB of some.

    Read are the tables beside the folders and about eight images and maps of each kind.
    """
    found = hashlib.sha256()
    texts = sorted(p for p in sequence.folder.glob('*.*') if p.is_file() and p.name[0] != '.')
    images = sequence.images
    maps = [
        sequence.folder / kind / f'{image.stem}.png'
        for kind in MAPS
        if (sequence.folder / kind).is_dir()
        for image in images
    ]
    looked_at = {*texts, *images[:: max(1, len(images) // 8)], *maps[:: max(1, len(maps) // 8)]}
    for path in (*texts, *images, *maps):
        try:
            size = path.stat().st_size
        except OSError:
            size = -1
        found.update(f'{path.name} {size}\n'.encode())
        if size > 0 and path in looked_at:
            with path.open('rb') as file:
                found.update(file.read(1 << 16))
    return found.hexdigest()[:16]
