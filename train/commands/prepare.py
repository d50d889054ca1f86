"""``python -m train prepare``: recordings of any kind become sequence folders, once.

Pictures are stored at network size, so that training reads no more than it needs. After an
interruption, the same command continues where it stopped: no file is ever incomplete, and a
sequence folder appears only when it is complete.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from depth_ros.files import write_file
from train.cluster import add_cluster_option, spread_command
from train.data.prepare import REPORTS, Options, fingerprint, prepare
from train.data.prepare_page import Report, warnings, write_page
from train.data.reader import Reader
from train.data.readers import READERS, add_options, foreign_options, recognise
from train.data.sequences import DataError
from train.data.source import Source

PARTS = ('both', 'train', 'val', 'all')
WITHOUT = ('depth', 'semantics', 'poses')

SHARES = (0.8, 0.1, 0.1)
"""Of the time of a drive that is divided in time: training, validation, test."""

STATIC = 0.5
"""Pixels at network size: what has moved by less stands."""

PARALLAX = 3 / 640
"""Of the width; a car in a street, at ten pictures a second, has 4 / 640."""

AT_A_TIME = 4
"""Sources that are written at a time."""

LISTED = 20
"""Remarks that are printed one by one."""

_EPILOG = """\
kinds, found by looking at the path where none is given:
{kinds}

The same command again goes on where an interrupted one stopped; with other recordings of the same
kind, it adds them. OUT/summary.html shows what became of them.

examples:
  python -m train prepare monday.mcap tuesday.mcap --image /camera/image_raw \\
    --camera-info /camera/camera_info --odom /odom --out data/mine
  python -m train prepare kitti_raw KITTI --split train_files.txt --val-split val_files.txt \\
    --out data/kitti
  python -m train prepare walk.mp4 --rate 10 --out data/walk
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    kinds = '\n'.join(
        f'  {name:<15} ' + reader.summary.replace('\n', '\n' + 18 * ' ')
        for name, reader in READERS.items()
    )
    parser.epilog = _EPILOG.format(kinds=kinds)
    parser.add_argument(
        'paths',
        nargs='+',
        metavar='PATH',
        help='recordings of one kind; the word before them may name it: ' + ', '.join(READERS),
    )
    parser.add_argument('--out', type=Path, required=True, help='folder of sequence folders')
    parser.add_argument('--width', type=int, default=640, help='pixels (%(default)s)')
    parser.add_argument('--height', type=int, default=192, help='pixels (%(default)s)')
    parser.add_argument('--png', action='store_true', help='pictures as PNG instead of JPEG')
    parser.add_argument('--jpeg-quality', type=int, default=95, help='1 to 100 (%(default)s)')
    parser.add_argument(
        '--without',
        nargs='+',
        choices=WITHOUT,
        default=(),
        metavar='WHAT',
        help=f'leave out some of {", ".join(WITHOUT)}',
    )
    parser.add_argument(
        '--part',
        choices=PARTS,
        default='both',
        help='train: hold a random tenth of the targets out; val: that tenth; '
        'both: to OUT/train and OUT/val, bags by --shares; all: everything, to OUT '
        '(%(default)s)',
    )
    parser.add_argument(
        '--shares',
        type=float,
        nargs=3,
        metavar=('TRAIN', 'VAL', 'TEST'),
        help="of each recording's frames, one after the other in time, with a gap "
        'between, to OUT/train, OUT/val and OUT/test, instead of a random tenth '
        f'(bag: {" ".join(f"{s:g}" for s in SHARES)})',
    )
    parser.add_argument(
        '--min-motion',
        type=float,
        metavar='PIXELS',
        help='leave out frames whose picture has moved by less (median) since '
        f'the last one that was kept: the camera stands (default {STATIC:g}; 0, '
        'which keeps all, for kitti_odometry and where a list chooses the frames)',
    )
    parser.add_argument(
        '--parallax',
        type=float,
        metavar='PIXELS',
        help='likewise, as the motion wanted between two frames: more are too '
        f'close to each other (bag: {PARALLAX * 640:g} at a width of 640; others: '
        '0)',
    )
    parser.add_argument('--rate', type=float, help='take at most so many frames a second')
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count(), help='pictures at a time (%(default)s)'
    )
    add_cluster_option(parser, 'recordings')
    parser.set_defaults(only=None)
    add_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write the sequences that the options ask for and say what became of the frames.

    Raises:
        DataError: if a source or an option cannot be used.
    """
    reader, args = _understand(args)
    _check(reader, args)
    if args.cluster:  # what is left to do here is the page
        found, _ = reader.find(args.paths, args)
        for data_set in reader.data_sets(args):  # before many do at once
            _claim(data_set)
        paths = [reader.name, *args.paths]
        spread_command(
            'prepare',
            {one.name: _changed(args, paths=paths, only=one.name) for one in found},
            args.cluster,
        )
    for one in reader.data_sets(args):
        _run(reader, one)


def _changed(args: argparse.Namespace, **changes: object) -> argparse.Namespace:
    """Return the options with some of them changed."""
    return argparse.Namespace(**{**vars(args), **changes})


def _run(reader: Reader, args: argparse.Namespace) -> None:
    """Write one data set."""
    options = _options(reader, args)
    sources, there, notes = _read(reader, args)
    _claim(args)
    reports = [*there]
    stopped = threading.Event()

    def step(count: int) -> None:
        bar.update(count)
        if stopped.is_set():
            raise InterruptedError

    with (
        ThreadPoolExecutor(args.workers) as pool,
        ThreadPoolExecutor(min(AT_A_TIME, args.workers)) as drivers,
        tqdm(
            total=sum(len(s.stems) for s in sources),
            unit='frame',
            desc=str(args.out),
            disable=None,
        ) as bar,
    ):
        tasks = [drivers.submit(prepare, s, args.out, options, pool, step) for s in sources]
        try:
            reports += [task.result() for task in as_completed(tasks)]
        except BaseException:  # of one source, or Ctrl-C: the others end, too
            stopped.set()
            for task in tasks:
                task.cancel()
            raise
    reports.sort(key=lambda report: report.name)
    _say(args.out, reports, notes)
    if not sources:
        print(f'{args.out}: nothing to do, all of it was there')
    if not any(report.parts for report in reports):
        raise DataError(f"nothing usable in '{args.paths[0]}': no sequence was written")
    if args.only is None:  # else it is for who spreads
        print(f'look at {write_page(args.out, _all_reports(args.out))}')


def _say(out: Path, reports: list[Report], notes: list[str]) -> None:
    """Print what became of the frames."""
    remarks = notes + [f'{r.name}: {text}' for r in reports for text in r.damaged]
    for remark in remarks[:LISTED]:
        print(remark)
    if len(remarks) > LISTED:
        print(f'... and {len(remarks) - LISTED} more damaged')
    for name, text in warnings(reports)[:LISTED]:
        print(f'warning: {name}: {text}')
    for part in sorted({part for r in reports for part in r.parts}):
        counts = [r.parts[part] for r in reports if part in r.parts]
        print(
            f'{out / part}: {len(counts)} sequences of {sum(c[0] for c in counts)} frames, '
            f'{sum(c[1] for c in counts)} of them targets'
        )
    total, static, close, apart = (
        sum(getattr(r, name) for r in reports) for name in ('frames', 'static', 'close', 'apart')
    )
    print(
        f'{out}: of {total} frames left out {static} static, {close} too close to another, '
        f'{apart} between the parts and {sum(len(r.damaged) for r in reports)} damaged'
    )


def _understand(args: argparse.Namespace) -> tuple[Reader, argparse.Namespace]:
    """Return the reader, as named or recognised, and `args` with its name and the bare paths."""
    words = args.paths
    given = words[0] if words[0] in READERS and len(words) > 1 else None
    paths = [Path(word) for word in words[given is not None :]]
    for path in paths:
        if not path.exists():
            raise DataError(f"there is no '{path}': check the path")
    kinds = {recognise(path).name: path for path in paths}
    if given is None and len(kinds) > 1:
        raise DataError(
            'recordings of one kind make a data set, these are '
            + ' and '.join(f"{kind} ('{path}')" for kind, path in kinds.items())
        )
    kind = given or next(iter(kinds))
    return READERS[kind], argparse.Namespace(**{**vars(args), 'source': kind, 'paths': paths})


def _options(reader: Reader, args: argparse.Namespace) -> Options:
    """Return what to make of each source, with the defaults of its kind."""
    motion, parallax, shares = args.min_motion, args.parallax, args.shares
    if motion is None:
        motion = 0.0 if reader.chosen(args) else STATIC
    if parallax is None:
        parallax = PARALLAX * args.width if reader.in_time else 0.0
    if shares is None and reader.in_time and args.part == 'both':
        shares = SHARES
    return Options(
        args.width,
        args.height,
        args.png,
        args.jpeg_quality,
        tuple(sorted(args.without)),
        args.part,
        None if shares is None else tuple(shares),
        motion,
        parallax,
    )


def _read(reader: Reader, args: argparse.Namespace) -> tuple[list[Source], list[Report], list[str]]:
    """Return the sources to be written, reports of those that are there, and remarks."""
    sources: list[Source] = []
    there: list[Report] = []
    found, notes = reader.find(args.paths, args)
    counts = Counter(path for _, path, _ in found)
    shared = {path for path, count in counts.items() if count > 1}
    found = [one for one in found if args.only in (None, one.name)]
    for name, path, read in found:
        place = str(path.resolve())
        report, inputs = Report.load(args.out / REPORTS, name, place), _inputs(name, path, shared)
        if report and report.parts and report.inputs in ('', inputs):  # not even opened
            there.append(report)
            continue
        try:
            source = read()
        except DataError as error:
            if not (report and report.parts):
                raise
            notes.append(
                f'{name}: what was prepared of it stays, as it cannot be read now: {error}'
            )
            there.append(report)
            continue
        if report and report.parts:
            notes.append(
                f'{name}: has changed since it was prepared, and is made anew; make its labels and '
                'structure again'
            )
        facts = {'source': place, **source.facts}
        sources.append(replace(source, facts=facts, inputs=inputs))
    names = Counter([source.name for source in sources] + [report.name for report in there])
    if twice := [name for name, count in names.items() if count > 1]:
        raise DataError(f"two recordings are called '{twice[0]}': rename one")
    if args.rate is not None:
        sources = [source.at_most(args.rate) for source in sources]
    return sources, there, notes


def _inputs(name: str, path: Path, shared: set[Path]) -> str:
    """Return the fingerprint of a source's files, '' where they are among those of others."""
    if path in shared:
        path = path / name
    return fingerprint(path) if path.exists() else ''


def _all_reports(out: Path) -> list[Report]:
    """Return the reports of every recording in a data set."""
    loaded = (
        Report.load(out / REPORTS, path.stem) for path in sorted((out / REPORTS).glob('*.json'))
    )
    return [report for report in loaded if report]


def _check(reader: Reader, args: argparse.Namespace) -> None:
    """Check the options.

    Raises:
        DataError: if one is out of its range, of another reader, or contradicts another.
    """
    for name, low, high in (
        ('width', 32, 8192),
        ('height', 32, 8192),
        ('jpeg_quality', 1, 100),
        ('workers', 1, 1024),
        ('rate', 1e-3, 1e4),
        ('min_motion', 0, 1e3),
        ('parallax', 0, 1e3),
    ):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise DataError(f'--{name.replace("_", "-")} must be {low:g} to {high:g}, is {value:g}')
    for name in sorted(foreign_options(reader)):
        if getattr(args, name) is not None:
            raise DataError(f'--{name.replace("_", "-")} is not for {reader.name}')
    if args.shares:
        if min(args.shares) < 0 or not args.shares[0] or abs(sum(args.shares) - 1) > 1e-6:
            raise DataError(
                '--shares must be three parts of one, the first more than zero, are '
                + ' '.join(f'{s:g}' for s in args.shares)
            )
        if args.part != 'both':
            raise DataError(
                '--shares divides into train, val and test: leave out --part and --split'
            )
    if contradiction := reader.contradiction(args):
        raise DataError(contradiction)


def _claim(args: argparse.Namespace) -> None:
    """Write the options into `args.out`, or make sure that it was made with the same.

    Raises:
        DataError: if it was made with other options.
    """
    wanted = {
        k: str(v.resolve()) if isinstance(v, Path) else v
        for k, v in vars(args).items()
        if k not in ('out', 'paths', 'workers', 'run', 'command', 'cluster', 'only')
        and v is not None
    }
    wanted = json.loads(json.dumps(wanted))
    path = args.out / 'prepared.json'
    if path.exists():
        found = json.loads(path.read_text())
        other = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
        if other:
            k = other[0]
            raise DataError(
                f"'{args.out}' was prepared with {k} {found.get(k)}, not "
                f'{wanted.get(k)}: choose another --out or remove it'
            )
        return
    args.out.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(wanted, indent=2) + '\n')
