"""Time works in turns, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

Work = Callable[[], Any]
Code = Callable[[], Work]
"""Makes what is to be timed, in the process in which it is."""


def process_clock(threads: int) -> Callable[[], float]:
    """Of the processor for one thread, which others do not disturb; of the wall for more."""
    return time.process_time if threads == 1 else time.perf_counter


def in_turns(codes: Sequence[Code], threads: int, runs: int) -> list[list[float]]:
    """Time works in turns, each in a process of its own.

    Args:
        codes: make the works, in their processes.
        threads: of each process.
        runs: of which the median is taken.

    Returns:
        Of each: time, ms; the most memory of its process, MB; its libraries' memory, MB.
    """
    spawn = multiprocessing.get_context('spawn')
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, spawn)) for _ in codes]
        libraries = [
            pool.submit(_prepare, code, threads).result()
            for pool, code in zip(pools, codes, strict=True)
        ]
        times = medians([lambda pool=pool: pool.submit(_take).result() for pool in pools], runs)
        peaks = [pool.submit(_memory, 'VmHWM').result() for pool in pools]
    return [times, peaks, libraries]


def medians(timed: Sequence[Callable[[], float]], runs: int) -> list[float]:
    """The median time of each, one after the other in turns."""
    times = [[work() for work in timed] for _ in range(runs + 2)][2:]  # the first two warm up
    return [statistics.median(found) for found in zip(*times, strict=True)]


def _prepare(code: Code, threads: int) -> float:
    """Make this process ready to work; returns the memory of its libraries, MB."""
    global _work
    torch.set_num_threads(threads)
    libraries = _memory('VmRSS')
    _work = partial(_timed, code(), process_clock(threads))
    return libraries


def _take() -> float:
    """Time of this process's work, ms."""
    return _work()


def _timed(work: Work, clock: Callable[[], float]) -> float:
    """Time that it takes, ms."""
    start = clock()
    work()
    return 1e3 * (clock() - start)


def _memory(name: str) -> float:
    """Memory of this process, MB: 'VmRSS' now, 'VmHWM' at most so far."""
    # Not getrusage, whose maximum begins with the parent's memory.
    status = Path('/proc/self/status').read_text()
    return int(status.split(f'{name}:')[1].split()[0]) / 1024
