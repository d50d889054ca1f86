"""Timing of pieces of work in turns, each in a process of its own."""

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
"""What is timed."""

Code = Callable[[], Work]
"""Makes a work, in the process in which it is then timed."""


def process_clock(threads: int) -> Callable[[], float]:
    """Clock in seconds: processor time for one thread, wall-clock time for several.

    Other processes hardly change the processor time.
    """
    return time.process_time if threads == 1 else time.perf_counter


def in_turns(codes: Sequence[Code], threads: int, runs: int) -> list[list[float]]:
    """Time works in turns, each in a process of its own.

    Args:
        codes: functions that make the works, called in the works' processes.
        threads: number of threads of each process.
        runs: number of runs of each work; the median counts.

    Returns:
        Three lists with a number for each work: time, ms; peak memory of its process, MB; and
        memory of the loaded libraries, MB.
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
    """Median of each function's time over ``runs`` rounds, in which all take turns."""
    times = [[work() for work in timed] for _ in range(runs + 2)][2:]  # the first two warm up
    return [statistics.median(found) for found in zip(*times, strict=True)]


def _prepare(code: Code, threads: int) -> float:
    """Make the work in this process; returns the memory of the loaded libraries, MB."""
    global _work
    torch.set_num_threads(threads)
    libraries = _memory('VmRSS')
    _work = partial(_timed, code(), process_clock(threads))
    return libraries


def _take() -> float:
    """Run this process's work once; returns its time, ms."""
    return _work()


def _timed(work: Work, clock: Callable[[], float]) -> float:
    """Run a work once; returns its time, ms."""
    start = clock()
    work()
    return 1e3 * (clock() - start)


def _memory(name: str) -> float:
    """Memory of this process, MB: 'VmRSS', the current one, or 'VmHWM', the peak."""
    # The peak of getrusage would include the parent's memory.
    status = Path('/proc/self/status').read_text()
    return int(status.split(f'{name}:')[1].split()[0]) / 1024
