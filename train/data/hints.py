"""What lies at a path that is no sequence, and which command reads it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from depth_ros.bags.files import is_recording, is_storage

OTHER_PICTURES = (
    '.bmp',
    '.tif',
    '.tiff',
    '.webp',
    '.ppm',
    '.pgm',
    '.gif',
    '.heic',
    '.avif',
    '.jp2',
)
"""Pictures that are not read: jpg and png are what every part of a training reads alike."""

PACKED = {
    '.zip': 'unzip',
    '.tar': 'tar xf',
    '.tgz': 'tar xf',
    '.gz': 'gunzip',
    '.bz2': 'bunzip2',
    '.xz': 'unxz',
    '.zst': 'zstd -d',
    '.zstd': 'zstd -d',
    '.lz4': 'lz4 -d',
    '.7z': '7z x',
    '.rar': 'unrar x',
}
"""What unpacks a file, by its suffix."""


def hint(path: Path) -> str:
    """Say what lies at a path and what to do with it, '' where nothing is known of it."""
    if path.is_file():
        return _file_hint(path)
    if not path.is_dir():
        return ''
    name, entries = path.resolve().name, sorted(path.iterdir())
    if '_drive_' in name or any('_drive_' in p.name for p in (*entries, *path.glob('*/*'))):
        return (
            'it looks like KITTI raw: `python -m train prepare kitti_raw FOLDER` makes sequences '
            'of it, and `python -m train evaluate --kitti FOLDER --split LIST` judges on it '
            '(FOLDER is the one with the dates)'
        )
    if (path / 'sequences').is_dir():
        return (
            "it looks like KITTI's odometry benchmark: `python -m train prepare kitti_odometry "
            'FOLDER` makes sequences of it'
        )
    if is_recording(path) or any(map(is_recording, entries)):
        return 'it has a recording: `python -m train prepare` makes sequences of it'
    return _pictures_hint([p for folder in (path, path / 'images') for p in _files(folder)])


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []


def _file_hint(path: Path) -> str:
    suffix = path.suffix.lower()
    if is_storage(path):
        return 'it is a recording: `python -m train prepare` makes sequences of it'
    if suffix in PACKED:
        return f'it is packed: unpack it with `{PACKED[suffix]} {path}`'
    if suffix in (*OTHER_PICTURES, '.jpg', '.jpeg', '.png'):
        return 'it is a single picture: give the folder of all of them'
    return ''


def _pictures_hint(files: list[Path]) -> str:
    kinds = Counter(p.suffix.lower() for p in files)
    for suffix, count in kinds.most_common():
        if suffix in OTHER_PICTURES:
            return (
                f'it holds {count} pictures of the kind {suffix}, which is not read: convert them '
                f'to png, such as with `mogrify -format png *{suffix}`'
            )
        if suffix in PACKED:
            return f'it holds packed files ({suffix}): unpack them with `{PACKED[suffix]}`'
    return ''
