"""Evaluates several recordings, in processes on this machine or on the machines of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context

from depth_ros.bags.messages import BagError
from depth_ros.evaluation.evaluate import evaluate_recording
from depth_ros.evaluation.processes import LiveError
from depth_ros.evaluation.session import EvaluationError, Job
from depth_ros.inference.contract import ContractError
from depth_ros.inference.engine import EngineError
from depth_ros.packages import MissingPackageError, missing_packages

FAILURES = (
    LiveError,
    BagError,
    ContractError,
    EngineError,
    EvaluationError,
    MissingPackageError,
    OSError,
    ValueError,
)
"""Errors that end one evaluation, whose messages say why and what to do."""


def evaluate_in_processes(jobs: Sequence[Job], count: int) -> Iterator[tuple[Job, str]]:
    """Evaluate recordings, `count` at a time; yields each job with its error, '' for none."""
    # Not forked: inference runtimes and DDS do not survive it.
    with ProcessPoolExecutor(count, get_context('spawn')) as pool:
        waiting = {pool.submit(_attempt, job): job for job in jobs}
        for future in as_completed(waiting):
            try:
                yield waiting[future], future.result()
            except BrokenProcessPool:
                yield waiting[future], 'its process was killed (out of memory?): use fewer --jobs'


def evaluate_on_cluster(jobs: Sequence[Job], address: str) -> Iterator[tuple[Job, str]]:
    """Evaluate recordings on the machines of a Dask cluster; yields as `evaluate_in_processes`.

    Args:
        jobs: The recordings; all machines must see the same files.
        address: The scheduler, such as tcp://host:8786.

    Raises:
        MissingPackageError: if Dask is not installed.
        EvaluationError: if no scheduler answers, while iterating.
    """
    if missing_packages('distributed'):
        raise MissingPackageError(
            "--cluster needs Dask: pip install 'depth_ros[cluster]' on every machine"
        )
    return _on_cluster(jobs, address)


def _on_cluster(jobs: Sequence[Job], address: str) -> Iterator[tuple[Job, str]]:
    import distributed

    try:
        client = distributed.Client(address, timeout=30)
    except OSError as error:
        raise EvaluationError(f'no Dask scheduler answers at {address}: {error}') from error
    with client:
        here = [
            replace(
                j,
                bag=j.bag.resolve(),
                out=j.out.resolve(),
                structure=j.structure and j.structure.resolve(),
                models={n: p.resolve() for n, p in j.models.items()},
            )
            for j in jobs
        ]
        waiting = {client.submit(_attempt, job, pure=False): job for job in here}
        for future in distributed.as_completed(waiting):
            try:
                error = future.result()
            except Exception as failure:  # the machine is gone
                error = _internal(failure)
            yield waiting[future], error


def _attempt(job: Job) -> str:
    """Evaluate one recording; returns its error, as one must not stop the others."""
    try:
        evaluate_recording(job, lambda text: None, bar=False)
    except FAILURES as error:
        return failure_text(error)
    except Exception as error:  # a fault of ours
        return _internal(error)
    return ''


def failure_text(error: BaseException) -> str:
    """Return one of `FAILURES` in words: errors of the system without their number."""
    if isinstance(error, OSError) and error.strerror:
        return f'{error.strerror}: {error.filename}' if error.filename else error.strerror
    return str(error)


def _internal(error: Exception) -> str:
    return ' '.join(f'internal error: {type(error).__name__}: {error}'.split())
