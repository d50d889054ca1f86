"""Reconstructing each sequence in a process of its own, here or on a Dask cluster.

COLMAP is native code: it can crash, aborts if the disk is full, and ignores Ctrl-C. In a process of
its own it harms nothing else, and can be stopped.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from typing import IO, NamedTuple

from train.cluster import on_cluster
from train.structure.build import Job, Report, build

STEP, REPORT, ERROR = '@step', '@report', '@error'  # first words of the lines that a process prints
STOPPED = 'stopped'
ARGUMENTS = ['-m', 'train.structure.workers']
POLL = 0.2  # seconds

Progress = Callable[[Job, float, str], object]


class Outcome(NamedTuple):
    """Result of a job.

    Attributes:
        report: the report; ``None`` if the job failed because of the machine, not the data.
        error: what went wrong with the machine.
    """

    report: Report | None
    error: str = ''


def run_here(jobs: list[Job], workers: int, progress: Progress) -> Iterator[tuple[Job, Outcome]]:
    """Run jobs in processes of this machine; yields each with its outcome when it ends.

    Args:
        jobs: the jobs.
        workers: number of processes at a time.
        progress: function that is called with a job, the share of it done, and its next stage.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        tasks = {pool.submit(run_apart, job, progress, stopped): job for job in jobs}
        try:
            for task in as_completed(tasks):
                yield tasks[task], task.result()
        finally:  # Ctrl-C too
            stopped.set()
            for task in tasks:
                task.cancel()


def run_on_cluster(jobs: list[Job], address: str) -> Iterator[tuple[Job, Outcome]]:
    """Run jobs on a Dask cluster, all of whose machines must see the same files.

    Args:
        jobs: the jobs.
        address: address of the scheduler.

    Raises:
        DataError: if Dask is not installed, or no scheduler answers.
    """
    absolute = [
        replace(
            job,
            folder=job.folder.resolve(),
            reports=job.reports.resolve(),
            out=job.out and job.out.resolve(),
        )
        for job in jobs
    ]
    yield from on_cluster(run_apart, absolute, address)


def run_apart(
    job: Job,
    progress: Progress = lambda job, share, stage: None,
    stopped: threading.Event | None = None,
) -> Outcome:
    """Run a job in a process of its own.

    Args:
        job: the job.
        progress: as for :func:`run_here`.
        stopped: ends the process when it is set.
    """
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [sys.executable, *ARGUMENTS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C reaches only the parent, which then stops this
        )
        watch = threading.Thread(target=_kill_when, args=(process, stopped), daemon=True)
        watch.start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(pickle.dumps(job))
            process.stdin.close()
            outcome = _listen(process.stdout, job, progress)
            process.wait()
        finally:
            process.kill()
            process.wait()
            watch.join()
            process.stdout.close()
        words.seek(0)
        said = words.read().decode(errors='replace').strip()
    if stopped is not None and stopped.is_set():
        return Outcome(None, STOPPED)
    return outcome or Outcome(None, _died(process.returncode, said))


def _kill_when(process: subprocess.Popen, stopped: threading.Event | None) -> None:
    """Kill a process as soon as ``stopped`` is set."""
    while process.poll() is None:
        if stopped is None:
            return
        if stopped.wait(POLL):
            process.kill()


def _listen(stream: IO[bytes], job: Job, progress: Progress) -> Outcome | None:
    """Read what a process prints about its job; returns ``None`` if it ends without a result."""
    outcome = None
    for line in stream:
        kind, _, text = line.decode(errors='replace').rstrip('\n').partition(' ')
        if kind == STEP:
            share, _, stage = text.partition(' ')
            progress(job, float(share), stage)
        elif kind == REPORT:
            outcome = Outcome(Report.parse(text))
        elif kind == ERROR:
            outcome = Outcome(None, json.loads(text))
    return outcome


def _died(code: int, said: str) -> str:
    """Describe how a process ended without a result, with COLMAP's last line."""
    how = f'exit code {code}'
    if code < 0:
        how = signal.Signals(-code).name
        how += ': is memory short?' if how == 'SIGKILL' else ': is the disk full?'
    last = said.splitlines()[-1:] or ['']
    return f'COLMAP ended with {how} {last[0]}'.strip()


def _main() -> None:
    """Run the job that is pickled on standard input."""
    job = pickle.load(sys.stdin.buffer)
    out = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)  # keep what COLMAP prints apart from our lines
    try:
        report = build(job, lambda share, stage: print(STEP, share, stage, file=out))
    except (OSError, ValueError) as error:
        print(ERROR, json.dumps(str(error)), file=out)
    else:
        print(REPORT, json.dumps(asdict(report)), file=out)


if __name__ == '__main__':
    _main()
