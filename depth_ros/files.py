"""Files that robot and training both write."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def part_file(path: Path) -> Path:
    """Where a file is while :func:`write_file` writes it."""
    return path.with_name(f'.{path.name}.part')


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file that is never seen half-written, not even after a power failure."""
    part = part_file(path)
    try:
        with part.open('wb') as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # else the name can outlive a power failure, and the bytes not
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_writable(path: Path, folders: bool = False) -> None:
    """Find out before long work, not after it, that a file cannot be written.

    Args:
        path: the file.
        folders: whether missing folders will be made.

    Raises:
        OSError: naming the file and the remedy.
    """
    folder = path.parent
    while folders and not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        what = 'is a file; give' if folder.exists() else 'does not exist; make it, or give'
        raise FileNotFoundError(
            f"'{path}' cannot be written: folder '{folder}' {what} another file"
        )
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder; give a file")
    if not os.access(folder, os.W_OK):
        raise PermissionError(
            f"'{path}' cannot be written: no permission to write to '{folder}'; give another file"
        )


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
