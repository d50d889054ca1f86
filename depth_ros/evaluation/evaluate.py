"""Evaluates one recording, offline or live, and writes all of its results."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from depth_ros.bags.ground_truth import TF_PREFIX
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import find_streams
from depth_ros.evaluation.offline import evaluate_offline
from depth_ros.evaluation.report.page import require_page_packages
from depth_ros.evaluation.report.report import write_report
from depth_ros.evaluation.results import write_results
from depth_ros.evaluation.session import EvaluationError, Job, Session
from depth_ros.files import locked
from depth_ros.inference.contract import read_contract
from depth_ros.packages import require_packages

RESULTS = ('metrics.json', 'frames.csv', 'report.html', 'overview.jpg')
FOLDERS = ('recording', 'trajectory', 'logs')


def evaluate_recording(job: Job, say: Callable[[str], None] = print, bar: bool = True) -> dict:
    """Evaluate one recording and write its folder; returns what metrics.json holds.

    Args:
        job: What is asked for.
        say: Tells the user what happens next.
        bar: Whether to show progress.

    Raises:
        HeldError: if another process writes to the same folder.
        BagError, ContractError, EngineError, LiveError, EvaluationError, ValueError: if it cannot
            be evaluated; each message says why and what to do.
        MissingPackageError: if a package for the report or for live mode is not installed.
        KeyboardInterrupt: if the user stopped it; offline, the results so far have been written.
    """
    require_page_packages()
    if job.mode == 'live':
        require_packages('live mode', 'rclpy', 'yaml')
    else:
        require_packages('the evaluation', 'tqdm')
    contracts = {node: read_contract(path) for node, path in job.models.items()}
    with ExitStack() as stack:
        with Bag(job.bag) as bag:
            topics = dict(job.topics)
            frames_of_truth = topics.get('odom', '')
            if frames_of_truth.startswith(TF_PREFIX):
                del topics['odom']
            streams = find_streams(bag, **topics)
            if frames_of_truth.startswith(TF_PREFIX):
                streams = replace(streams, odom=frames_of_truth)
            _check_out(job)
            job.out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(job.out / '.lock', 'evaluate_bag'))
            _clear(job)
            session = Session(job, bag, streams, contracts, say, bar)
            if job.mode == 'live':
                from depth_ros.evaluation.live import evaluate_live  # needs ROS

                evaluation, found = evaluate_live(session)
            else:
                evaluation, found = evaluate_offline(session)
        write_results(job.out, evaluation, found)
        write_report(job.out, found, evaluation.frames, evaluation, contracts)
    if session.interrupted:
        raise KeyboardInterrupt
    return found


def _check_out(job: Job) -> None:
    """Check that the output folder can be emptied.

    Raises:
        EvaluationError: if the recording would be lost, or it is a file.
    """
    out, bag = job.out.resolve(), job.bag.resolve()
    emptied = [out / name for name in FOLDERS]
    if out in (bag, *bag.parents) and (bag == out or set(emptied) & {bag, *bag.parents}):
        raise EvaluationError(
            f'the recording {job.bag} lies in the output folder {job.out}, which '
            'is about to be emptied: choose another one with --out'
        )
    if job.out.is_file():
        raise EvaluationError(f'{job.out} is a file: choose a folder with --out')


def _clear(job: Job) -> None:
    """Remove the results of an earlier run, so that none of them can be taken for this run's."""
    out = job.out.resolve()
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in RESULTS:
        (out / name).unlink(missing_ok=True)
