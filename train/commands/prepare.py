"""``python -m train prepare``: recordings of any kind become sequence folders, once.

Pictures are stored at network size, so that training reads no more than it needs. What is
interrupted goes on where it stopped: every file appears whole or not at all, a sequence folder
when it is complete.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from depth_ros.core.camera import scale_intrinsics
from depth_ros.files import write_file
from train.data.prepare_page import Report, warnings, write_page
from train.data.readers import Read, Recording
from train.data.readers.kitti import REACH
from train.data.sequences import UNKNOWN, DataError, Sequence, resize_image

SOURCES = ('kitti_raw', 'kitti_odometry', 'folder', 'bag')
PARTS = ('both', 'train', 'val', 'all')
WITHOUT = ('depth', 'semantics', 'poses')
SPANS = ('train', 'val', 'test')
SHARES = (0.8, 0.1, 0.1)  # of a bag's time
LEAST = 2 * REACH + 1  # frames of a span: one sample of five
GAP = 5  # frames between two spans, so that the one does not show what the other shows
HELD_OUT = 0.1  # of the targets are for validation, as SfMLearner does
STATIC = 0.5  # pixels at network size
PARALLAX = 3 / 640  # of the width; a car in a street, at ten pictures a second, has 4 / 640
AHEAD = 16  # pictures that are read before they are written
RECORDINGS = 4  # at a time
LISTED = 20  # remarks that are printed one by one
REPORTS = '.prepared'  # folder in OUT of what became of each recording that is done
T = TypeVar('T')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
kinds, found by looking at the path where none is given:
  bag             ROS 2 or ROS 1 recording (a rosbag2 folder, .mcap, .db3, .bag), or a folder of
                  them, with an image and a camera_info topic; images are rectified
  folder          a video; a folder of images; or a sequence folder, or a folder of them, with
                  images/ and, where known, intrinsics.txt, times.txt, poses.txt, odometry.txt,
                  speed.txt, depth/, semantics/
  kitti_raw       folder with DATE/DATE_drive_NNNN_sync and DATE/calib_*.txt, as published.
                  Which frames: --split LIST --val-split LIST ("folder frame l", as monodepth2 and
                  FSRE-Depth publish the Eigen-Zhou split); or --test-scenes and --static-frames
                  with the lists that SfMLearner publishes, divided at random as it does.
  kitti_odometry  folder with sequences/NN and poses/NN.txt, as published; some of them:
                  --sequences 00 01

The same command again goes on where an interrupted one stopped; with other recordings of the same
kind, it adds them. OUT/summary.html shows what became of them.

examples:
  python -m train prepare monday.mcap tuesday.mcap --image /camera/image_raw \\
    --camera-info /camera/camera_info --odom /odom --out data/mine
  python -m train prepare kitti_raw KITTI --split train_files.txt --val-split val_files.txt \\
    --out data/kitti
  python -m train prepare walk.mp4 --rate 10 --out data/walk
"""
    parser.add_argument(
        'paths',
        nargs='+',
        metavar='PATH',
        help='recordings of one kind; the word before them may name it: ' + ', '.join(SOURCES),
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
    bag = parser.add_argument_group('bag', 'topics, found by type and name where none is given')
    bag.add_argument('--image', '--image-topic', metavar='TOPIC', help='Image or CompressedImage')
    bag.add_argument('--camera-info', '--camera-info-topic', metavar='TOPIC', help='CameraInfo')
    bag.add_argument(
        '--odom',
        '--odom-topic',
        metavar='TOPIC',
        help='nav_msgs/Odometry as measured, for metric training',
    )
    bag.add_argument(
        '--gps',
        metavar='TOPIC',
        help='NavSatFix, TwistStamped or TwistWithCovarianceStamped, for metric training',
    )
    bag.add_argument(
        '--depth',
        metavar='TOPIC',
        help="depth from the camera's view, for "
        'evaluation: Image 32FC1 (m) or 16UC1 (mm), or compressedDepth',
    )
    folder = parser.add_argument_group('folder')
    folder.add_argument(
        '--intrinsics',
        type=float,
        nargs=4,
        metavar=('FX', 'FY', 'CX', 'CY'),
        help='of the pictures as they are, pixels; where none are known, the training learns them',
    )
    kitti = parser.add_argument_group('kitti_raw, kitti_odometry')
    kitti.add_argument(
        '--cameras',
        type=int,
        nargs='+',
        choices=range(4),
        metavar='N',
        help='which (raw: 2 3; odometry: 2 where it is, or else 0)',
    )
    kitti.add_argument(
        '--sequences',
        nargs='+',
        metavar='NN',
        help='which of odometry (all); published results train on 00 to 08 and test on 09 and 10',
    )
    kitti.add_argument('--split', type=Path, help='list of target frames')
    kitti.add_argument('--val-split', type=Path, help='likewise, for OUT/val')
    kitti.add_argument('--test-scenes', type=Path, help='list of drives to leave out')
    kitti.add_argument('--static-frames', type=Path, help='list of frames to leave out')


def run(args: argparse.Namespace) -> None:
    """Write the sequences that ``args`` asks for and say what became of the frames.

    Raises:
        DataError: a source or an option cannot be used.
    """
    args = _understand(args)
    _check(args)
    if not args.val_split:
        return _run(args)
    for part in ('train', 'val'):
        _run(
            argparse.Namespace(
                **{
                    **vars(args),
                    'out': args.out / part,
                    'part': 'all',
                    'val_split': None,
                    'split': args.val_split if part == 'val' else args.split,
                }
            )
        )


def _run(args: argparse.Namespace) -> None:
    """:func:`run` for one folder."""
    options = Options.create(args)
    recordings, there, notes = _read(args)
    _claim(args)
    reports = [*there]
    stopped = threading.Event()

    def step(count: int) -> None:
        bar.update(count)
        if stopped.is_set():
            raise InterruptedError

    with (
        ThreadPoolExecutor(args.workers) as pool,
        ThreadPoolExecutor(min(RECORDINGS, args.workers)) as drivers,
        tqdm(
            total=sum(len(r.stems) for r in recordings),
            unit='frame',
            desc=str(args.out),
            disable=None,
        ) as bar,
    ):
        tasks = [drivers.submit(prepare, r, args.out, options, pool, step) for r in recordings]
        try:
            reports += [task.result() for task in as_completed(tasks)]
        except BaseException:  # of one recording, or Ctrl-C: the others end, too
            stopped.set()
            for task in tasks:
                task.cancel()
            raise
    reports.sort(key=lambda report: report.name)
    _say(args.out, reports, notes)
    if not recordings:
        print(f'{args.out}: nothing to do, all of it was there')
    if not any(report.parts for report in reports):
        raise DataError(f"nothing usable in '{args.paths[0]}': no sequence was written")
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


class Options(NamedTuple):
    """What to make of each recording; as the command line's options."""

    width: int
    height: int
    png: bool
    jpeg_quality: int
    without: tuple[str, ...]
    part: str
    shares: tuple[float, ...] | None
    min_motion: float
    parallax: float

    @classmethod
    def create(cls, args: argparse.Namespace) -> Options:
        """From the command line."""
        listed = args.source == 'kitti_odometry' or args.split or args.static_frames
        is_bag = args.source == 'bag'
        motion = (0.0 if listed else STATIC) if args.min_motion is None else args.min_motion
        parallax = (
            (PARALLAX * args.width if is_bag else 0.0) if args.parallax is None else args.parallax
        )
        shares = args.shares or (SHARES if is_bag and args.part == 'both' else None)
        return cls(
            args.width,
            args.height,
            args.png,
            args.jpeg_quality,
            tuple(sorted(args.without)),
            args.part,
            shares and tuple(shares),
            motion,
            parallax,
        )


def prepare(
    recording: Recording,
    out: Path,
    options: Options,
    pool: ThreadPoolExecutor,
    step: Callable[[int], object] = lambda _: None,
) -> Report:
    """Write one recording's sequences, ``out / PART / recording.name``, or go on with them.

    Args:
        recording: what to write.
        out: folder of parts, or of sequence folders where there are no parts.
        options: what to make of it.
        pool: of threads that read, resize and write; OpenCV works outside of Python's lock.
        step: is told each number of frames done.
    """
    work = out / f'.{recording.name}.part'
    (work / 'images').mkdir(parents=True, exist_ok=True)
    suffix = '.png' if options.png else '.jpg'
    paths = [work / 'images' / f'{stem}{suffix}' for stem in recording.stems]

    def write(index: int, read: Read) -> np.ndarray:
        return _write_frame(recording, index, read, work, paths[index], options)

    total = len(paths)
    flow, brightness, sharpness = np.full((3, total), np.nan)  # NaN: damaged
    keep = np.zeros(total, bool)
    damaged = []
    motion = _Motion()
    for index, result in in_order(_tasks(recording, paths, write), pool):
        step(1)
        try:
            image = result()
        except ValueError as error:
            damaged.append(str(error))
            continue
        flow[index] = motion.since_kept(image)
        brightness[index], sharpness[index] = image.mean(), _sharpness(image)
        keep[index] = flow[index] >= max(options.min_motion, options.parallax)
        if keep[index]:
            motion.keep(image)
    dropped = np.isfinite(brightness) & ~keep
    static = dropped & (flow < options.min_motion)

    numbers = np.arange(total) if recording.numbers is None else recording.numbers
    numbers = numbers - np.cumsum(dropped)  # the frames around those are successive
    parts = _divide(recording, keep, numbers, options)
    shown = np.any([frames for frames, _ in parts.values()], axis=0)
    for folder in (work / 'parts', *(out / name / recording.name for name in ('', *SPANS))):
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut off at its very end
    for name, (frames, targets) in parts.items():
        folder = work / 'parts' / name / recording.name
        _gather(work, folder, [recording.stems[i] for i in np.flatnonzero(frames)])
        _write_tables(recording, folder, np.flatnonzero(frames), numbers, targets, options)
    for name in parts:
        (out / name).mkdir(exist_ok=True)
        os.replace(work / 'parts' / name / recording.name, out / name / recording.name)
    shutil.rmtree(work)

    report = Report(
        recording.name,
        dict(recording.facts),
        list(recording.warnings),
        total,
        int(static.sum()),
        int((dropped & ~static).sum()),
        int((keep & ~shown).sum()),
        damaged,
        {
            name: (int(f.sum()), int(t.sum()), _samples(numbers, f, t))
            for name, (f, t) in parts.items()
        },
        [round(float(x), 3) for x in flow[keep & np.isfinite(flow)]],
        [round(float(x), 2) for x in brightness[np.isfinite(brightness)]],
        [round(float(x), 5) for x in sharpness[keep]],
        list(recording.size),
        None
        if np.isnan(recording.intrinsics).any()
        else _stored_intrinsics(recording, options).round(4).tolist(),
    )
    report.save(out / REPORTS)
    return report


def _divide(
    recording: Recording, keep: np.ndarray, numbers: np.ndarray, options: Options
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By part (of the name '' where there are none) which frames it has, and which are targets."""
    targets = keep if recording.targets is None else recording.targets & keep
    if options.shares:
        parts = {
            name: (frames, targets & frames)
            for name, frames in zip(SPANS, _spans(keep, options.shares), strict=True)
        }
    elif options.part == 'all':
        parts = {'': (keep, targets)}
    else:
        held_out = _held_out(recording, targets)
        near = np.unique(numbers[held_out, None] + np.arange(-REACH, REACH + 1))
        parts = {
            'train': (keep, targets & ~held_out),
            'val': (keep & np.isin(numbers, near), held_out),
        }
        if options.part != 'both':
            parts = {'': parts[options.part]}
    return {name: part for name, part in parts.items() if part[1].any()}


def _spans(keep: np.ndarray, shares: tuple[float, ...]) -> Iterator[np.ndarray]:
    """Which frames are for train, val and test; for train all, where there are too few for all."""
    kept = np.flatnonzero(keep)
    gap = min(GAP, len(kept) // 20)
    lengths = [max(LEAST, round(len(kept) * share)) if share else 0 for share in shares]
    # Training has what the others leave.
    lengths[0] = len(kept) - sum(lengths[1:]) - gap * sum(n > 0 for n in lengths[1:])
    if lengths[0] < LEAST:
        lengths = [len(kept), 0, 0]
    start = 0
    for length in lengths:
        frames = np.zeros(len(keep), bool)
        frames[kept[start : start + length]] = True
        yield frames
        start += length + gap * (length > 0)


def _samples(numbers: np.ndarray, frames: np.ndarray, targets: np.ndarray) -> int:
    """How many targets have both neighbours."""
    there = set(numbers[frames].tolist())
    return sum(n - 1 in there and n + 1 in there for n in numbers[targets].tolist())


def _gather(work: Path, folder: Path, stems: list[str]) -> None:
    """Put the frames' files into a sequence folder. They stay in ``work`` for other parts."""
    for kind in ('images', 'depth', 'semantics'):
        files = {path.stem: path for path in (work / kind).glob('*') if path.suffix != '.part'}
        found = [files[stem] for stem in stems if stem in files]
        if found:
            (folder / kind).mkdir(parents=True)
        for path in found:
            try:
                os.link(path, folder / kind / path.name)
            except OSError:  # a file system without links
                shutil.copyfile(path, folder / kind / path.name)


def _tasks(
    recording: Recording, paths: list[Path], write: Callable[[int, Read], np.ndarray]
) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """For each frame what is to be done: write it, or read again what is there."""
    there = {i for i, path in enumerate(paths) if path.exists()}
    pictures = recording.pictures([i for i in range(len(paths)) if i not in there])
    for index, path in enumerate(paths):
        if index in there:
            yield index, lambda path=path: _small(path.read_bytes())
        else:
            _, read = next(pictures)
            yield index, lambda index=index, read=read: write(index, read)


def in_order(
    tasks: Iterable[tuple[int, Callable[[], T]]], pool: ThreadPoolExecutor
) -> Iterator[tuple[int, Callable[[], T]]]:
    """Run tasks in a pool, few at a time, and yield their results' getters in order."""
    waiting: deque[tuple[int, Future[T]]] = deque()
    for index, task in tasks:
        waiting.append((index, pool.submit(task)))
        if len(waiting) > AHEAD:
            index, future = waiting.popleft()
            yield index, future.result
    for index, future in waiting:
        yield index, future.result


def _write_frame(
    recording: Recording, index: int, read: Read, folder: Path, path: Path, options: Options
) -> np.ndarray:
    """Write a frame's files, the picture last; returns it as :func:`_small` does."""
    image = read()
    if image.shape[1::-1] != recording.size:
        raise DataError(
            f"frame '{recording.stems[index]}' has {image.shape[1]}x{image.shape[0]} "
            f'pixels, others have {recording.size[0]}x{recording.size[1]}'
        )
    depth = None if 'depth' in options.without else recording.depth(index)
    labels = None if 'semantics' in options.without else recording.labels(index)
    if depth is not None:
        steps = np.rint(depth / recording.depth_scale)
        steps[steps > np.iinfo(np.uint16).max] = 0
        save(folder / 'depth' / f'{path.stem}.png', steps.astype(np.uint16))
    if labels is not None:
        save(folder / 'semantics' / f'{path.stem}.png', labels)
    return _small(
        save(path, resize_image(image, options.width, options.height), options.jpeg_quality)
    )


def save(path: Path, image: np.ndarray, jpeg_quality: int = 95) -> bytes:
    """Write an image file whole or not at all; returns its bytes."""
    okay, data = cv2.imencode(
        path.suffix,
        image,
        [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
        if path.suffix == '.jpg'
        else [cv2.IMWRITE_PNG_COMPRESSION, 3],
    )
    if not okay:
        raise DataError(f"cannot encode '{path}'")
    path.parent.mkdir(exist_ok=True)
    write_file(path, encoded := data.tobytes())
    return encoded


def _small(data: bytes) -> np.ndarray:
    """A stored picture at half its size, grey."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_2)


class _Motion:
    """Tells how far the picture has moved since the last frame that was kept.

    The median length of the optical flow: a camera that stands among moving cars stands, and one
    that creeps is seen to move in the end.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._last: np.ndarray | None = None

    def since_kept(self, image: np.ndarray) -> float:
        """Pixels at network size, of a :func:`_small` picture; infinite for the first."""
        if self._last is None:
            return np.inf
        flow = self._flow.calc(self._last, image, None)
        return 2 * float(np.median(np.hypot(flow[..., 0], flow[..., 1])))

    def keep(self, image: np.ndarray) -> None:
        """Measure the following frames from this one."""
        self._last = image


def _sharpness(image: np.ndarray) -> float:
    """Power of the finest detail in a picture, as a part of all that it shows."""
    return float(cv2.Laplacian(image, cv2.CV_32F).var() / max(float(image.var()), 1.0))


def _held_out(recording: Recording, targets: np.ndarray) -> np.ndarray:
    """A tenth of the targets, but of two or more at least one; the recording's name decides."""
    random = np.random.default_rng(zlib.crc32(recording.name.encode()))
    chosen = targets & (random.random(len(targets)) < HELD_OUT)
    if not chosen.any() and targets.sum() > 1:
        chosen[random.choice(np.flatnonzero(targets))] = True
    return chosen


def _write_tables(
    recording: Recording,
    folder: Path,
    keep: np.ndarray,
    numbers: np.ndarray,
    targets: np.ndarray,
    options: Options,
) -> None:
    """Write the text files of the frames with the indices ``keep``."""
    if np.isnan(recording.intrinsics).any():
        (folder / 'intrinsics.txt').write_text(UNKNOWN + '\n')
    else:
        np.savetxt(folder / 'intrinsics.txt', _stored_intrinsics(recording, options), fmt='%.9g')
    tables = {
        'times': (recording.times, '%.9f'),
        'speed': (recording.speeds, '%.9g'),
        'odometry': (recording.odometry, '%.9g'),
        'poses': (recording.poses, '%.9g'),
    }
    for name, (table, form) in tables.items():
        if table is not None and name not in options.without:
            table = table[keep, :3].reshape(len(keep), -1) if table.ndim == 3 else table[keep]
            np.savetxt(folder / f'{name}.txt', table, fmt=form)
    if (folder / 'depth').is_dir() and recording.depth_scale != Sequence.depth_scale:
        (folder / 'depth_scale.txt').write_text(f'{recording.depth_scale:.9g}\n')
    frames = np.stack([numbers, targets], 1)[keep]
    if not ((np.diff(frames[:, 0]) == 1).all() and frames[:, 1].all()):
        np.savetxt(folder / 'frames.txt', frames, fmt='%d')


def _stored_intrinsics(recording: Recording, options: Options) -> np.ndarray:
    """Of the pictures as they are stored (3, 3)."""
    return scale_intrinsics(
        recording.intrinsics, options.width / recording.size[0], options.height / recording.size[1]
    )


# What the command line asks for


def _understand(args: argparse.Namespace) -> argparse.Namespace:
    """``args`` with ``source``, given or seen, and ``paths`` without it."""
    words = args.paths
    given = words[0] if words[0] in SOURCES and len(words) > 1 else None
    paths = [Path(word) for word in words[given is not None :]]
    for path in paths:
        if not path.exists():
            raise DataError(f"there is no '{path}': check the path")
    kinds = {_kind(path): path for path in paths}
    if given is None and len(kinds) > 1:
        raise DataError(
            'recordings of one kind make a data set, these are '
            + ' and '.join(f"{kind} ('{path}')" for kind, path in kinds.items())
        )
    return argparse.Namespace(
        **{**vars(args), 'source': given or next(iter(kinds)), 'paths': paths}
    )


def _kind(path: Path) -> str:
    """What a recording seems to be."""
    from train.data.readers.bag import find_bags

    if find_bags(path):
        return 'bag'
    if path.is_dir() and any(path.glob('sequences/*/calib.txt')):
        return 'kitti_odometry'
    return 'kitti_raw' if path.is_dir() and any(path.glob('*/*_drive_*_sync')) else 'folder'


def _read(args: argparse.Namespace) -> tuple[list[Recording], list[Report], list[str]]:
    """The recordings that are to be written, reports of those that are there, and remarks."""
    recordings, there, notes = [], [], []
    if args.source == 'bag':
        from train.data.readers.bag import Topics, bag_recording

        topics = Topics(args.image, args.camera_info, args.odom, args.depth, args.gps)
        for name, path in _named_bags(args.paths):
            source = str(path.resolve())
            report = Report.load(args.out / REPORTS, name, source)
            if report:  # not even opened
                there.append(report)
            else:
                recordings.append(
                    _from(
                        source,
                        bag_recording(path, topics, name, with_depth='depth' not in args.without),
                    )
                )
    for path in args.paths if args.source != 'bag' else ():
        found, remarks = _read_path(args, path)
        notes += remarks
        for recording in found:
            recording = _from(str(path.resolve()), recording)
            report = Report.load(args.out / REPORTS, recording.name, str(path.resolve()))
            (there if report else recordings).append(report or recording)
    names = Counter(item.name for item in recordings + there)
    if twice := [name for name, count in names.items() if count > 1]:
        raise DataError(f"two recordings are called '{twice[0]}': rename one")
    if args.rate is not None:
        recordings = [_thin(r, args.rate) for r in recordings]
    return recordings, there, notes


def _from(source: str, recording: Recording) -> Recording:
    return replace(recording, facts={'source': source, **recording.facts})


def _named_bags(paths: list[Path]) -> Iterator[tuple[str, Path]]:
    """Bags and their names; those that several have, with the folder's name before it."""
    from train.data.readers.bag import bag_name, find_bags

    found = list(dict.fromkeys(bag for path in paths for bag in find_bags(path) or [path]))
    names = Counter(map(bag_name, found))
    for bag in found:
        name = bag_name(bag)
        yield name if names[name] == 1 else f'{bag.resolve().parent.name}_{name}', bag


def _read_path(args: argparse.Namespace, path: Path) -> tuple[list[Recording], list[str]]:
    """Recordings of KITTI or in a folder, and remarks."""
    if args.source == 'kitti_raw':
        from train.data.readers.kitti import raw_recordings

        return raw_recordings(
            path, args.cameras or (2, 3), args.split, args.test_scenes, args.static_frames
        )
    if args.source == 'kitti_odometry':
        from train.data.readers.kitti import odometry_recordings

        return odometry_recordings(path, args.cameras, args.sequences), []
    from train.data.readers.folder import folder_recordings

    matrix = None
    if args.intrinsics:
        fx, fy, cx, cy = args.intrinsics
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return folder_recordings(path, matrix), []


def _all_reports(out: Path) -> list[Report]:
    """Of every recording in a data set."""
    return [
        Report.load(out / REPORTS, path.stem) for path in sorted((out / REPORTS).glob('*.json'))
    ]


def _thin(recording: Recording, rate: float) -> Recording:
    """At most ``rate`` frames a second."""
    if recording.times is None:
        raise DataError(f"--rate needs times, and '{recording.name}' has no times.txt")
    kept, following = [], recording.times[0]
    for index, time in enumerate(recording.times):
        if time >= following - 0.05 / rate:
            kept.append(index)
            # On a steady beat; a pause starts a new one.
            following = (following if time < following + 0.5 / rate else time) + 1 / rate
    thin = recording.only(np.array(kept))
    if thin.numbers is None:
        return thin
    # Of the gaps in the numbers only those that were there before.
    gaps = recording.numbers - np.arange(len(recording.stems))
    return replace(thin, numbers=np.arange(len(kept)) + gaps[kept])


def _check(args: argparse.Namespace) -> None:
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
    used = {
        'kitti_raw': ('cameras', 'split', 'val_split', 'test_scenes', 'static_frames'),
        'kitti_odometry': ('cameras', 'sequences'),
        'folder': ('intrinsics',),
        'bag': ('image', 'camera_info', 'odom', 'gps', 'depth'),
    }
    for name in {n for names in used.values() for n in names} - set(used[args.source]):
        if getattr(args, name) is not None:
            raise DataError(f'--{name.replace("_", "-")} is not for {args.source}')
    if args.shares:
        if min(args.shares) < 0 or not args.shares[0] or abs(sum(args.shares) - 1) > 1e-6:
            raise DataError(
                '--shares must be three parts of one, the first more than zero, are '
                + ' '.join(f'{s:g}' for s in args.shares)
            )
        if args.part != 'both' or args.split:
            raise DataError(
                '--shares divides into train, val and test: leave out --part and --split'
            )
    if args.val_split and not (args.split and args.part == 'both'):
        raise DataError('--val-split is for both parts, and needs --split for OUT/train')
    if args.split and (args.test_scenes or args.static_frames):
        raise DataError(
            '--split says which frames; --test-scenes and --static-frames are for '
            'another division: give one or the other'
        )


def _claim(args: argparse.Namespace) -> None:
    """Write what ``args.out`` holds into it, or make sure that it is this.

    Raises:
        DataError: if it was made with other options.
    """
    wanted = {
        k: str(v.resolve()) if isinstance(v, Path) else v
        for k, v in vars(args).items()
        if k not in ('out', 'paths', 'workers', 'run', 'command') and v is not None
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
