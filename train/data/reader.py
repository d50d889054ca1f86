"""What a reader of recordings is: its name, how it knows its own, its options, its sources."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from train.data.source import Source


class Option:
    """An option of the command line that a reader adds. Arguments as of `add_argument`.

    Two readers may share one.
    """

    def __init__(self, *flags: str, **settings: Any) -> None:
        self.flags, self.settings = flags, settings
        self.name = flags[0].removeprefix('--').replace('-', '_')


class Found(NamedTuple):
    """A source that a reader has found.

    Attributes:
        name: Of the sequence folder to be written.
        path: Where it lies.
        read: Returns the source; may raise `DataError`.
    """

    name: str
    path: Path
    read: Callable[[], Source]


class Reader(ABC):
    """Reads one kind of recordings. See `train.data.readers` for those that there are.

    Attributes:
        name: Of the kind, as on the command line.
        summary: For the command line's help: what such a recording is.
        note: For the help of its options.
        options: What it adds to the command line.
        in_time: Its sources are whole drives, by default divided in time into train, val and test
            and thinned to frames with parallax.
    """

    name: str
    summary: str
    note: str | None = None
    options: tuple[Option, ...] = ()
    in_time = False

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Tell whether a path seems to be of this kind."""

    @abstractmethod
    def find(self, paths: list[Path], args: argparse.Namespace) -> tuple[list[Found], list[str]]:
        """Return the sources at some paths, and remarks.

        Raises:
            DataError: There is none, or one cannot be used.
        """

    def contradiction(self, args: argparse.Namespace) -> str:
        """Say which options contradict each other; '' if none do."""
        return ''

    def chosen(self, args: argparse.Namespace) -> bool:
        """Tell whether the frames are chosen already, so that none is left out as static."""
        return False

    def data_sets(self, args: argparse.Namespace) -> Iterator[argparse.Namespace]:
        """Yield the arguments of each data set that a command writes."""
        yield args


def found(sources: list[Source], path: Path) -> list[Found]:
    """Return sources that are read already."""
    return [Found(source.name, path, lambda source=source: source) for source in sources]
