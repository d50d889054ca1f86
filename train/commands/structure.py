"""``python -m train structure``: depth and motion reconstructed from a drive, for training.

COLMAP reconstructs each sequence of a data set: points with their depth in each frame, and camera
poses, in metres where the scale can be known. What cannot be reconstructed is reported, and left
out.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from depth_ros.evaluation.report.page import require_page_packages
from train.cluster import add_cluster_option
from train.data.sequences import DataError, find_sequences, read_sequence
from train.structure.build import REPORTS, Job, Report, done
from train.structure.page import write_page
from train.structure.reconstruct import Options
from train.structure.workers import Outcome, run_here, run_on_cluster

LISTED = 20  # remarks that are printed one by one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
Writes structure.npz into each sequence folder (docs/structure.md), and structure.html beside them:
a page that shows what was found. Sequences without intrinsics need --out: their pictures are
written again without the distortion of the lens that was estimated.

Metres come from odometry.txt or speed.txt where a sequence has them, or else from the height of
the camera over the road (semantics/ says where that is, or else the ground must be flat), or else
there are none: depths are then relative.

What moves is left out where semantics/ says person or vehicle; run 'python -m train label' first.

The same command again goes on where an interrupted one stopped, and does again only what has
changed.

examples:
  python -m train structure data/mine/train --camera-height 1.4
  python -m train structure films --out data/films --workers 4
"""
    parser.add_argument('data', type=Path, help='a sequence folder, or a folder of them')
    parser.add_argument(
        '--out',
        type=Path,
        help='write sequence folders there, with pictures, instead of structure.npz into DATA',
    )
    parser.add_argument(
        '--camera-height',
        type=float,
        metavar='METRES',
        help="of the camera over the road, where a sequence's camera_height.txt does not say",
    )
    parser.add_argument(
        '--features',
        type=int,
        default=Options.features,
        help='of an image, at most (%(default)s)',
    )
    parser.add_argument(
        '--neighbours',
        type=int,
        default=Options.neighbours,
        help='following frames that each is matched with (%(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=os.cpu_count() or 1,
        help='sequences at a time (%(default)s)',
    )
    parser.add_argument(
        '--threads', type=int, help='of each sequence (default: the processors, shared out)'
    )
    add_cluster_option(parser, 'sequences')


def run(args: argparse.Namespace) -> None:
    """Reconstruct every sequence that has no structure yet, and say what became of each.

    Raises:
        DataError: if the data or an option cannot be used, or nothing could be reconstructed.
        OSError: if something cannot be written.
    """
    _check(args)
    require_page_packages()
    root, jobs = _jobs(args)
    reports = {job.name: report for job in jobs if (report := done(job))}
    todo = [job for job in jobs if job.name not in reports]
    failed: dict[str, str] = {}
    for job, outcome in _progress(todo, args):
        if outcome.report is not None:
            reports[job.name] = outcome.report
        else:
            failed[job.name] = outcome.error
    found = [reports[name] for name in sorted(reports)]
    _say(args.data, found, failed, len(jobs) - len(todo))
    if found:
        print(f'look at {write_page(root, _all_reports(root))}')
    if failed:
        name, error = next(iter(failed.items()))
        raise OSError(
            f'{len(failed)} of {len(jobs)} sequences are not done, such as {name}: {error}; the '
            'same command goes on with them'
        )
    if all(report.failure for report in found):
        raise DataError(f"nothing in '{args.data}' could be reconstructed")


def _all_reports(root: Path) -> list[Report]:
    """Reports of every sequence in a data set, of earlier commands too."""
    names = sorted(path.stem for path in (root / REPORTS).glob('*.json'))
    return [report for name in names if (report := Report.load(root / REPORTS, name))]


def _check(args: argparse.Namespace) -> None:
    for name, low, high in (
        ('features', 200, 20000),
        ('neighbours', 2, 100),
        ('workers', 1, 1024),
        ('threads', 1, 1024),
        ('camera_height', 0.01, 100),
    ):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise DataError(f'--{name.replace("_", "-")} must be {low:g} to {high:g}, is {value:g}')
    if args.out is not None and args.out.resolve() == args.data.resolve():
        raise DataError('--out must be another folder than the data; leave it out to add to these')


def _jobs(args: argparse.Namespace) -> tuple[Path, list[Job]]:
    """Where the page goes, and a job for each sequence."""
    sequences = find_sequences(args.data, calibrated=False)
    root = args.out or args.data
    workers = min(args.workers, len(sequences))
    threads = args.threads or max(1, (os.cpu_count() or 1) // workers)
    options = Options(features=args.features, neighbours=args.neighbours, threads=threads)
    return root, [
        Job(
            folder=sequence.folder,
            name=(name := sequence.folder.resolve().name),
            reports=root / REPORTS,
            out=args.out and args.out / name,
            camera_height=args.camera_height,
            options=options,
        )
        for sequence in sequences
    ]


def _progress(jobs: list[Job], args: argparse.Namespace) -> Iterator[tuple[Job, Outcome]]:
    """Run jobs under a bar that counts frames; yields each as it ends."""
    frames = {job.name: len(read_sequence(job.folder, calibrated=False).images) for job in jobs}
    at: Counter[str] = Counter()  # frames' worth of work, by sequence
    with tqdm(total=sum(frames.values()), unit='frame', desc=str(args.data), disable=None) as bar:

        def advance(job: Job, share: float) -> None:
            now = round(share * frames[job.name])
            bar.update(now - at[job.name])
            at[job.name] = now

        def progress(job: Job, share: float, stage: str) -> None:
            bar.set_postfix_str(f'{job.name}: {stage}', refresh=False)
            advance(job, share)

        results = (
            run_on_cluster(jobs, args.cluster)
            if args.cluster
            else run_here(jobs, args.workers, progress)
        )
        for job, outcome in results:
            advance(job, 1.0)
            yield job, outcome


def _say(data: Path, reports: list[Report], failed: dict[str, str], before: int) -> None:
    """Print what became of the sequences."""
    remarks = [f'{r.name}: left out: {r.failure}' for r in reports if r.failure]
    remarks += [f'{name}: not done: {error}' for name, error in failed.items()]
    remarks += [f'{r.name}: {remark}' for r in reports for remark in r.remarks]
    for remark in remarks[:LISTED]:
        print(remark)
    if len(remarks) > LISTED:
        print(f'... and {len(remarks) - LISTED} more remarks')
    good = [r for r in reports if not r.failure]
    frames = sum(r.registered for r in good)
    points = sum(r.registered * r.points for r in good) / max(1, frames)
    print(
        f'{data}: {len(good)} of {len(reports) + len(failed)} sequences reconstructed ({before} '
        f'before), {frames} of {sum(r.frames for r in reports)} frames, {points:.0f} points a frame'
    )
