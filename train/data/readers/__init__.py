"""Readers of recordings, one file a kind. To add one, write its file and add it to `READERS`."""

from __future__ import annotations

import argparse
from pathlib import Path

from train.data.reader import Option, Reader
from train.data.readers.bag import BagReader
from train.data.readers.folder import FolderReader
from train.data.readers.kitti_odometry import KittiOdometryReader
from train.data.readers.kitti_raw import KittiRawReader

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (BagReader(), KittiOdometryReader(), KittiRawReader(), FolderReader())
}
"""By name, in the order in which they are asked whether a path is theirs; the last takes all."""


def recognise(path: Path) -> Reader:
    """Return the reader of what a path seems to be."""
    return next(reader for reader in READERS.values() if reader.recognises(path))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of all readers, a group for each; those that several share only once."""
    users: dict[Option, list[Reader]] = {}
    for reader in READERS.values():
        for option in reader.options:
            users.setdefault(option, []).append(reader)
    groups = {}
    for option, readers in users.items():
        title = ', '.join(reader.name for reader in readers)
        if title not in groups:
            groups[title] = parser.add_argument_group(title, readers[0].note)
        groups[title].add_argument(*option.flags, **option.settings)


def foreign_options(reader: Reader) -> set[str]:
    """Return the names of the options of other readers that are not this one's."""
    everything = {o.name for other in READERS.values() for o in other.options}
    return everything - {o.name for o in reader.options}
