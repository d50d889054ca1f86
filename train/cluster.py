"""Work spread over the machines of a Dask cluster, all of which see the same files."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from train.data.sequences import DataError

Job = TypeVar('Job')
Result = TypeVar('Result')


def add_cluster_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare ``--cluster``; ``what`` names what is spread."""
    parser.add_argument(
        '--cluster',
        metavar='ADDRESS',
        help=f'scheduler of a Dask cluster to spread the {what} over, such as tcp://host:8786; '
        'all must see the same files',
    )


def on_cluster(
    function: Callable[[Job], Result], jobs: Sequence[Job], address: str
) -> Iterator[tuple[Job, Result]]:
    """Call a function for each job, somewhere on the cluster; yields each as it ends.

    Raises:
        DataError: if Dask is not installed, or nobody answers.
    """
    try:
        import distributed
    except ImportError as error:
        raise DataError(
            "--cluster needs Dask: pip install 'depth_ros[cluster]' on every machine"
        ) from error
    try:
        client = distributed.Client(address, timeout=30)
    except (OSError, ValueError) as error:
        raise DataError(f'no Dask scheduler answers at {address}: {error}') from error
    with client:
        waiting = {client.submit(function, job, pure=False): job for job in jobs}
        for task in distributed.as_completed(waiting):
            yield waiting[task], task.result()


def spread_command(name: str, jobs: dict[str, argparse.Namespace], address: str) -> None:
    """Run a command of ``python -m train`` once for each job, under a progress bar.

    Args:
        name: of the command.
        jobs: its options, by what each is for.
        address: of the scheduler.

    Raises:
        DataError: if Dask or the cluster is missing, or some jobs failed; the others are done.
    """
    items = [(name, label, resolved(args)) for label, args in jobs.items()]
    failed: dict[str, str] = {}
    done = on_cluster(_run, items, address)
    for (_, label, _), error in tqdm(done, name, len(items), unit='job', disable=None):
        if error:
            failed[label] = error
    if failed:
        label, error = next(iter(failed.items()))
        raise DataError(
            f'{len(failed)} of {len(items)} are not done, such as {label}: {error}; the same '
            'command goes on with them'
        )


def resolved(args: argparse.Namespace) -> argparse.Namespace:
    """The same options for another machine: paths are whole, and nothing is spread further."""

    def whole(value: object) -> object:
        if isinstance(value, list):
            return [whole(item) for item in value]
        return value.resolve() if isinstance(value, Path) else value

    values = {key: whole(value) for key, value in vars(args).items() if key != 'run'}
    return argparse.Namespace(**{**values, 'cluster': None})


def _run(item: tuple[str, str, argparse.Namespace]) -> str:
    """Run a command; returns what went wrong: one job must not stop the others."""
    name, _, args = item
    try:
        importlib.import_module(f'train.commands.{name}').run(args)
    except (ValueError, OSError) as error:
        return str(error)
    return ''
