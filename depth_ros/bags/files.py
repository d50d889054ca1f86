"""Which files make up a recording, and what it is called. Needs no optional package."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from depth_ros.bags.messages import ROS1_SUFFIXES, BagError
from depth_ros.packages import require_packages

STORAGE_SUFFIXES = ('.mcap', '.db3')
"""Of the storage files of ROS 2."""

COMPRESSED_SUFFIXES = ('.zstd', '.zst')
"""Behind them: of a file that the recorder (the first) or `zstd` (the second) compressed."""

NEWEST = 9
"""Version of metadata.yaml up to which its meaning is known."""


@dataclass
class Files:
    """The storage files of a recording.

    Attributes:
        paths: The files that are there.
        unnamed: Those of them that metadata.yaml should know, but does not.
        faults: What is wrong: files that are missing.
        remarks: What is unusual, but takes nothing away.
    """

    paths: list[Path]
    unnamed: frozenset[Path] = frozenset()
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def plain_name(path: Path) -> str:
    """Return the name of a storage file without what says that it is compressed."""
    return path.stem if path.suffix in COMPRESSED_SUFFIXES else path.name


def is_storage(path: Path) -> bool:
    """Tell whether a name is that of a storage file of ROS 2, compressed or not."""
    return plain_name(path).endswith(STORAGE_SUFFIXES)


def is_recording(path: Path) -> bool:
    """Tell whether a path seems to be one recording, of ROS 2 or ROS 1."""
    if path.is_file():
        return is_storage(path) or path.suffix in ROS1_SUFFIXES
    return (path / 'metadata.yaml').is_file() or (
        path.is_dir() and any(is_storage(p) for p in path.iterdir())
    )


def recording_name(path: Path) -> str:
    """Return what a recording is called: its folder, or its file without the suffixes."""
    path = path.resolve()
    if path.is_dir():
        return path.name
    name = plain_name(path).removesuffix('.active')
    for suffix in (*STORAGE_SUFFIXES, *ROS1_SUFFIXES):
        name = name.removesuffix(suffix)
    return name


def storage_files(path: Path) -> Files:
    """Find the storage files of a recording: those that its metadata.yaml names, if it has one.

    What else metadata.yaml says, such as topics, counts and QoS, is not asked: others edit it, and
    the files hold it, too.

    Args:
        path: A folder, or a single file.

    Raises:
        BagError: if it is no recording, or not one of its files is there.
    """
    if not path.exists():
        raise BagError(f'recording {path} does not exist: check the path')
    if path.is_file():
        if not is_recording(path):
            raise BagError(
                f'{path} is no rosbag2 recording: give a rosbag2 folder, an .mcap or a .db3 file, '
                'or a ROS 1 .bag file'
            )
        return Files([path])
    there: dict[str, Path] = {}
    for file in sorted(p for p in path.iterdir() if is_storage(p) and not p.is_dir()):
        # A recorder removes a file when it has compressed it: where both are there, it died.
        there.setdefault(plain_name(file), file)
    found = Files(list(there.values()))
    if (path / 'metadata.yaml').is_file():
        _by_metadata(path, there, found)
    elif not there:
        raise BagError(
            f'{path} has no metadata.yaml, .mcap or .db3 file: give the folder of a rosbag2 '
            'recording, or a ROS 1 .bag file'
        )
    if len({Path(plain_name(file)).suffix for file in found.paths}) > 1:
        raise BagError(f'{path} has .mcap and .db3 files but no metadata.yaml: give one of them')
    if not found.faults:
        found.remarks += _gaps(found.paths)
    return found


def _by_metadata(path: Path, there: dict[str, Path], found: Files) -> None:
    """Take the files that metadata.yaml names first, in its order, then those it does not know.

    Raises:
        BagError: if none is there.
    """
    named, remark = _named_files(path / 'metadata.yaml')
    if remark:
        found.remarks.append(remark)
    names = [plain_name(Path(name)) for name in named]
    missing = [name for name in names if name not in there]
    if not there:
        raise BagError(
            f'recording {path} has none of its storage files '
            f'({", ".join(missing) or remark or "metadata.yaml names none"}): copy them into it'
        )
    if missing:
        found.faults.append(f'{", ".join(missing)}, which metadata.yaml names, is not there')
    known = [name for name in names if name in there]
    suffixes = {Path(name).suffix for name in known}
    # A recorder that crashed has not written its last files down.
    later = [n for n in there if n not in known and (not known or Path(n).suffix in suffixes)]
    found.paths = [there[name] for name in (*dict.fromkeys(known), *later)]
    found.unnamed = frozenset(there[name] for name in later if known)


def _named_files(metadata: Path) -> tuple[list[str], str]:
    """Return the names of files in a metadata.yaml, and a remark about it; '' for none."""
    # Here, as folders of images need it not.
    require_packages(f"reading '{metadata}'", 'yaml')
    import yaml

    try:
        found = yaml.safe_load(metadata.read_text())['rosbag2_bagfile_information']
        # Until version 4 with the folder before the name.
        named = [PurePosixPath(str(p)).name for p in found['relative_file_paths']]
        version = int(found.get('version', NEWEST))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        what = ' '.join(str(error).split())
        return [], f'metadata.yaml cannot be read ({what}): `ros2 bag reindex` writes a new one'
    if version > NEWEST:
        return (
            named,
            f'metadata.yaml is of version {version}, newer than {NEWEST}, the newest known',
        )
    return named, ''


def _gaps(paths: list[Path]) -> list[str]:
    """Say which files are missing by the numbers at the ends of their names: x_0, x_2."""
    found = [re.fullmatch(r'(.*_)(\d+)', Path(plain_name(p)).stem) for p in paths]
    if len(found) < 2 or not all(found) or len({m[1] for m in found if m}) > 1:
        return []
    numbers = {int(m[2]) for m in found if m}
    lost = [n for n in range(min(numbers), max(numbers)) if n not in numbers]
    if not lost or len(lost) > len(numbers):  # such numbers count something else
        return []
    start, suffix = (found[0] or [''])[1], Path(plain_name(paths[0])).suffix
    return [f'{", ".join(f"{start}{n}{suffix}" for n in lost)}, by the numbering, is not there']
