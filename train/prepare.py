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
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from train.readers import Read, Recording
from train.readers.kitti import REACH
from train.sequences import UNKNOWN, DataError, Sequence, resize_image, scale_intrinsics

SOURCES = ('kitti_raw', 'kitti_odometry', 'folder', 'bag')
PARTS = ('both', 'train', 'val', 'all')
WITHOUT = ('depth', 'semantics', 'poses')
HELD_OUT = 0.1  # of the targets are for validation, as SfMLearner does
STATIC = 0.5  # pixels at network size
AHEAD = 16  # pictures that are read before they are written
T = TypeVar('T')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = '''\
sources:
  kitti_raw       folder with DATE/DATE_drive_NNNN_sync and DATE/calib_*.txt, as published.
                  Which frames: --split LIST --val-split LIST ("folder frame l", as monodepth2 and
                  FSRE-Depth publish the Eigen-Zhou split); or --test-scenes and --static-frames
                  with the lists that SfMLearner publishes, divided at random as it does.
  kitti_odometry  folder with sequences/NN and poses/NN.txt, as published
  folder          a video; a folder of images; or a sequence folder, or a folder of them, with
                  images/ and, where known, intrinsics.txt, times.txt, poses.txt, odometry.txt,
                  speed.txt, depth/, semantics/
  bag             rosbag2 recording with an image and a camera_info topic; images are rectified

examples:
  python -m train prepare kitti_raw KITTI --split train_files.txt --val-split val_files.txt \\
    --out data/kitti
  python -m train prepare folder walk.mp4 --rate 10 --out data/walk
'''
    parser.add_argument('source', choices=SOURCES, help='kind of recording')
    parser.add_argument('path', type=Path, help='where it lies')
    parser.add_argument('--out', type=Path, required=True, help='folder of sequence folders')
    parser.add_argument('--width', type=int, default=640, help='pixels (%(default)s)')
    parser.add_argument('--height', type=int, default=192, help='pixels (%(default)s)')
    parser.add_argument('--png', action='store_true', help='pictures as PNG instead of JPEG')
    parser.add_argument('--jpeg-quality', type=int, default=95, help='1 to 100 (%(default)s)')
    parser.add_argument('--without', nargs='+', choices=WITHOUT, default=(), metavar='WHAT',
                        help=f'leave out some of {", ".join(WITHOUT)}')
    parser.add_argument('--part', choices=PARTS, default='both',
                        help='train: hold a random tenth of the targets out; val: that tenth; '
                        'both: to OUT/train and OUT/val; all: everything, to OUT (%(default)s)')
    parser.add_argument('--min-motion', type=float, metavar='PIXELS',
                        help='leave out frames whose picture has moved by less (median) since '
                        f'the last one that was kept (default {STATIC:g}; 0, which keeps all, '
                        'for kitti_odometry and where a list chooses the frames)')
    parser.add_argument('--rate', type=float, help='take at most so many frames a second')
    parser.add_argument('--workers', type=int, default=os.cpu_count(),
                        help='pictures at a time (%(default)s)')
    kitti = parser.add_argument_group('kitti_raw, kitti_odometry')
    kitti.add_argument('--cameras', type=int, nargs='+', choices=range(4), metavar='N',
                       help='which (raw: 2 3; odometry: 2 where it is, or else 0)')
    kitti.add_argument('--split', type=Path, help='list of target frames')
    kitti.add_argument('--val-split', type=Path, help='likewise, for OUT/val')
    kitti.add_argument('--test-scenes', type=Path, help='list of drives to leave out')
    kitti.add_argument('--static-frames', type=Path, help='list of frames to leave out')
    folder = parser.add_argument_group('folder')
    folder.add_argument('--intrinsics', type=float, nargs=4, metavar=('FX', 'FY', 'CX', 'CY'),
                        help='of the pictures as they are, pixels; where none are known, the '
                        'training learns them')
    bag = parser.add_argument_group('bag')
    bag.add_argument('--image-topic', help='default: found by type and name')
    bag.add_argument('--camera-info-topic', help='default: beside the images')
    bag.add_argument('--odom-topic', help='nav_msgs/Odometry, for metric training')


def run(args: argparse.Namespace) -> None:
    """Write the sequences that ``args`` asks for and say what became of the frames.

    Raises:
        DataError: the source or an option cannot be used.
    """
    _check(args)
    if args.part != 'both':
        return _run(args)
    for part in ('train', 'val'):
        options = {**vars(args), 'out': args.out / part, 'part': part, 'val_split': None}
        if args.val_split:
            options.update(part='all', split=args.val_split if part == 'val' else args.split)
        _run(argparse.Namespace(**options))


def _run(args: argparse.Namespace) -> None:
    """:func:`run` for one folder."""
    recordings, notes = _read(args)
    if args.rate is not None:
        recordings = [_thin(r, args.rate) for r in recordings]
    _claim(args)
    counts = Counts()
    with (ThreadPoolExecutor(args.workers) as pool,
          tqdm(total=sum(len(r.stems) for r in recordings), unit='frame', desc=str(args.out),
               disable=None) as bar):
        for recording in recordings:
            prepare(recording, args.out, Options.create(args), pool, counts, bar.update)
    for note in notes + counts.damaged[:20]:
        print(note)
    if len(counts.damaged) > 20:
        print(f'... and {len(counts.damaged) - 20} more damaged')
    print(counts.summary(args.out))
    if not counts.sequences:
        raise DataError(f"nothing usable in '{args.path}': no sequence was written")


@dataclass(frozen=True)
class Options:
    """What to make of each recording; as the command line's options."""

    width: int
    height: int
    png: bool
    jpeg_quality: int
    without: tuple[str, ...]
    part: str
    min_motion: float

    @classmethod
    def create(cls, args: argparse.Namespace) -> Options:
        """From the command line."""
        listed = args.source == 'kitti_odometry' or args.split or args.static_frames
        motion = (0.0 if listed else STATIC) if args.min_motion is None else args.min_motion
        return cls(args.width, args.height, args.png, args.jpeg_quality,
                   tuple(sorted(args.without)), args.part, motion)


@dataclass
class Counts:
    """What became of the frames."""

    sequences: int = 0
    there: int = 0  # sequences that were complete before
    frames: int = 0
    targets: int = 0
    static: int = 0
    empty: int = 0  # sequences without a frame to keep
    damaged: list[str] = field(default_factory=list)

    def summary(self, out: Path) -> str:
        """One line for all."""
        there = f' ({self.there} were there)' if self.there else ''
        empty = f', {self.empty} recordings gave none' if self.empty else ''
        return (f'{out}: {self.sequences} sequences{there}{empty}; written {self.frames} frames, '
                f'{self.targets} of them targets; left out {self.static} static and '
                f'{len(self.damaged)} damaged')


def prepare(recording: Recording, out: Path, options: Options, pool: ThreadPoolExecutor,
            counts: Counts, step: Callable[[int], object] = lambda _: None) -> None:
    """Write one recording to ``out / recording.name``, or go on with it.

    Args:
        recording: what to write.
        out: folder of sequence folders.
        options: what to make of it.
        pool: of threads that read, resize and write; OpenCV works outside of Python's lock.
        counts: added to.
        step: is told each number of frames done.
    """
    folder = out / recording.name
    total = len(recording.stems)
    if folder.exists():
        counts.sequences += 1
        counts.there += 1
        step(total)
        return
    part = out / f'.{recording.name}.part'
    images = part / 'images'
    images.mkdir(parents=True, exist_ok=True)
    suffix = '.png' if options.png else '.jpg'
    paths = [images / f'{stem}{suffix}' for stem in recording.stems]

    def write(index: int, read: Read) -> np.ndarray:
        return _write_frame(recording, index, read, part, paths[index], options)

    keep = np.zeros(total, bool)
    still = np.zeros(total, bool)
    motion = _Motion(options.min_motion)
    for index, result in in_order(_tasks(recording, paths, write), pool):
        step(1)
        try:
            keep[index] = motion.moved(result())
        except ValueError as error:
            counts.damaged.append(f'{recording.name}: {error}')
            continue
        still[index] = not keep[index]
    counts.static += int(still.sum())

    numbers, targets = recording.numbers, recording.targets
    if numbers is None:  # the frames around static ones are successive
        numbers = np.arange(total) - np.cumsum(still)
    targets = keep if targets is None else targets & keep
    if options.part != 'all':
        held_out = _held_out(recording, targets)
        targets = held_out if options.part == 'val' else targets & ~held_out
    if options.part == 'val':
        near = np.unique(numbers[targets, None] + np.arange(-REACH, REACH + 1))
        keep &= np.isin(numbers, near)
    if not targets.any():
        counts.empty += 1
        shutil.rmtree(part)
        return
    for name in ('images', 'depth', 'semantics'):
        for path in (part / name).glob('*'):  # also what an interrupted run left half-written
            if path.stem not in {recording.stems[i] for i in np.flatnonzero(keep)}:
                path.unlink()
    _write_tables(recording, part, np.flatnonzero(keep), numbers, targets, options)
    os.replace(part, folder)
    counts.sequences += 1
    counts.frames += int(keep.sum())
    counts.targets += int(targets.sum())


def _tasks(recording: Recording, paths: list[Path], write: Callable[[int, Read], np.ndarray]
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


def in_order(tasks: Iterable[tuple[int, Callable[[], T]]], pool: ThreadPoolExecutor
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


def _write_frame(recording: Recording, index: int, read: Read, folder: Path, path: Path,
                 options: Options) -> np.ndarray:
    """Write a frame's files, the picture last; returns it as :func:`_small` does."""
    image = read()
    if image.shape[1::-1] != recording.size:
        raise DataError(f"frame '{recording.stems[index]}' has {image.shape[1]}x{image.shape[0]} "
                        f'pixels, others have {recording.size[0]}x{recording.size[1]}')
    depth = None if 'depth' in options.without else recording.depth(index)
    labels = None if 'semantics' in options.without else recording.labels(index)
    if depth is not None:
        steps = np.rint(depth / recording.depth_scale)
        steps[steps > np.iinfo(np.uint16).max] = 0
        save(folder / 'depth' / f'{path.stem}.png', steps.astype(np.uint16))
    if labels is not None:
        save(folder / 'semantics' / f'{path.stem}.png', labels)
    return _small(save(path, resize_image(image, options.width, options.height),
                        options.jpeg_quality))


def save(path: Path, image: np.ndarray, jpeg_quality: int = 95) -> bytes:
    """Write an image file whole or not at all; returns its bytes."""
    okay, data = cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
                              if path.suffix == '.jpg' else [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not okay:
        raise DataError(f"cannot encode '{path}'")
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    part.write_bytes(data)
    os.replace(part, path)
    return data.tobytes()


def _small(data: bytes) -> np.ndarray:
    """A stored picture at half its size, grey."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_2)


class _Motion:
    """Tells frames that show motion from those of a camera that stands.

    The median length of the optical flow since the last frame that was kept: a camera that
    stands among moving cars stands, and one that creeps is seen to move in the end.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._last: np.ndarray | None = None

    def moved(self, image: np.ndarray) -> bool:
        """Whether to keep the frame with this :func:`_small` picture."""
        if self._threshold <= 0:
            return True
        if self._last is not None:
            flow = self._flow.calc(self._last, image, None)
            if np.median(np.hypot(flow[..., 0], flow[..., 1])) * 2 < self._threshold:
                return False
        self._last = image
        return True


def _held_out(recording: Recording, targets: np.ndarray) -> np.ndarray:
    """A tenth of the targets, but of two or more at least one; the recording's name decides."""
    random = np.random.default_rng(zlib.crc32(recording.name.encode()))
    chosen = targets & (random.random(len(targets)) < HELD_OUT)
    if not chosen.any() and targets.sum() > 1:
        chosen[random.choice(np.flatnonzero(targets))] = True
    return chosen


def _write_tables(recording: Recording, folder: Path, keep: np.ndarray, numbers: np.ndarray,
                  targets: np.ndarray, options: Options) -> None:
    """Write the text files of the frames with the indices ``keep``."""
    if np.isnan(recording.intrinsics).any():
        (folder / 'intrinsics.txt').write_text(UNKNOWN + '\n')
    else:
        matrix = scale_intrinsics(recording.intrinsics, options.width / recording.size[0],
                                  options.height / recording.size[1])
        np.savetxt(folder / 'intrinsics.txt', matrix, fmt='%.9g')
    tables = {'times': (recording.times, '%.9f'), 'speed': (recording.speeds, '%.9g'),
              'odometry': (recording.odometry, '%.9g'), 'poses': (recording.poses, '%.9g')}
    for name, (table, form) in tables.items():
        if table is not None and name not in options.without:
            table = table[keep, :3].reshape(len(keep), -1) if table.ndim == 3 else table[keep]
            np.savetxt(folder / f'{name}.txt', table, fmt=form)
    if (folder / 'depth').is_dir() and recording.depth_scale != Sequence.depth_scale:
        (folder / 'depth_scale.txt').write_text(f'{recording.depth_scale:.9g}\n')
    frames = np.stack([numbers, targets], 1)[keep]
    if not ((np.diff(frames[:, 0]) == 1).all() and frames[:, 1].all()):
        np.savetxt(folder / 'frames.txt', frames, fmt='%d')


def _read(args: argparse.Namespace) -> tuple[list[Recording], list[str]]:
    """The source's recordings, and remarks."""
    if not args.path.exists():
        raise DataError(f"there is no '{args.path}': check the path")
    if args.source == 'kitti_raw':
        from train.readers.kitti import raw_recordings
        return raw_recordings(args.path, args.cameras or (2, 3), args.split, args.test_scenes,
                              args.static_frames)
    if args.source == 'kitti_odometry':
        from train.readers.kitti import odometry_recordings
        return odometry_recordings(args.path, args.cameras), []
    if args.source == 'bag':
        from train.readers.bag import bag_recording
        return [bag_recording(args.path, args.image_topic, args.camera_info_topic,
                              args.odom_topic)], []
    from train.readers.folder import folder_recordings
    matrix = None
    if args.intrinsics:
        fx, fy, cx, cy = args.intrinsics
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return folder_recordings(args.path, matrix), []


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
    return recording.only(np.array(kept))


def _check(args: argparse.Namespace) -> None:
    for name, low, high in (('width', 32, 8192), ('height', 32, 8192), ('jpeg_quality', 1, 100),
                            ('workers', 1, 1024), ('rate', 1e-3, 1e4), ('min_motion', 0, 1e3)):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise DataError(f'--{name.replace("_", "-")} must be {low:g} to {high:g}, '
                            f'is {value:g}')
    used = {'kitti_raw': ('cameras', 'split', 'val_split', 'test_scenes', 'static_frames'),
            'kitti_odometry': ('cameras',), 'folder': ('intrinsics',),
            'bag': ('image_topic', 'camera_info_topic', 'odom_topic')}
    for name in {n for names in used.values() for n in names} - set(used[args.source]):
        if getattr(args, name) is not None:
            raise DataError(f'--{name.replace("_", "-")} is not for {args.source}')
    if args.val_split and not (args.split and args.part == 'both'):
        raise DataError('--val-split is for both parts, and needs --split for OUT/train')
    if args.split and (args.test_scenes or args.static_frames):
        raise DataError('--split says which frames; --test-scenes and --static-frames are for '
                        'another division: give one or the other')


def _claim(args: argparse.Namespace) -> None:
    """Write what ``args.out`` holds into it, or make sure that it is this.

    Raises:
        DataError: if it was made with other options.
    """
    wanted = {k: str(v.resolve()) if isinstance(v, Path) else v for k, v in vars(args).items()
              if k not in ('out', 'workers', 'run', 'command') and v is not None}
    wanted = json.loads(json.dumps(wanted))
    path = args.out / 'prepared.json'
    if path.exists():
        found = json.loads(path.read_text())
        other = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
        if other:
            k = other[0]
            raise DataError(f"'{args.out}' was prepared with {k} {found.get(k)}, not "
                            f'{wanted.get(k)}: choose another --out or remove it')
        return
    args.out.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    part.write_text(json.dumps(wanted, indent=2) + '\n')
    os.replace(part, path)
