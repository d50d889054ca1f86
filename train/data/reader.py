"""The interface of readers, each of which reads one kind of recordings to train on."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from train.data.source import Source


class Option:
    """A command line option that a reader adds; several readers may share one.

    Args:
        flags, settings: Arguments for `ArgumentParser.add_argument`.
    """

    def __init__(self, *flags: str, **settings: Any) -> None:
        self.flags, self.settings = flags, settings
        self.name = flags[0].removeprefix('--').replace('-', '_')


class Found(NamedTuple):
    """A source that a reader has found.

    Attributes:
        name: Name of the sequence folder to be written.
        path: Path of the source.
        read: Reads and returns the source; may raise `DataError`.
    """

    name: str
    path: Path
    read: Callable[[], Source]


class Reader(ABC):
    """Reads one kind of recordings. Existing readers are listed in `train.data.readers`.

    Attributes:
        name: Name of the kind on the command line.
        summary: What such a recording is, for the command's help.
        note: Introduction to its options, for the command's help.
        options: Options that it adds to the command line.
        in_time: Whether its sources are whole drives, which by default are divided in time into
            train, val and test, and thinned to frames with parallax.
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
        """Find the sources at some paths.

        Args:
            paths: Paths on the command line.
            args: All options of the command.

        Returns:
            The sources, and remarks for the user.

        Raises:
            DataError: if there is none, or one cannot be used.
        """

    def contradiction(self, args: argparse.Namespace) -> str:
        """Say which options contradict each other; '' if none do."""
        return ''

    def chosen(self, args: argparse.Namespace) -> bool:
        """Tell whether the options choose the frames, so that static ones are kept."""
        return False

    def data_sets(self, args: argparse.Namespace) -> Iterator[argparse.Namespace]:
        """Yield the arguments of each data set that a command writes."""
        yield args


def found(sources: list[Source], path: Path) -> list[Found]:
    """Wrap sources that have already been read."""
    return [Found(source.name, path, lambda source=source: source) for source in sources]
