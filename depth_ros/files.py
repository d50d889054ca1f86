"""Files that robot and training both write."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file that is never seen half-written, not even after a power failure or a full disk.

    Args:
        path: the file; an older one stays as it is until the new one is whole.

    Yields:
        Where to write it: beside it, under a name that no other process or thread uses.
    """
    part = path.with_name(f'.{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part')
    try:
        yield part
        with part.open('r+b') as file:
            os.fsync(file.fileno())  # else the name can outlive a power failure, and the bytes not
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, see :func:`replacing`."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def discard_parts(path: Path) -> None:
    """Remove what :func:`replacing` left of a file because its process was killed.

    Only for whoever holds the lock on that file: another process may be writing it otherwise.
    """
    for part in path.parent.glob(f'.{glob.escape(path.name)}.*-*.part'):
        part.unlink(missing_ok=True)


class HeldError(ValueError):
    """Another process holds a lock."""


_held: set[int] = set()
"""File descriptors of the locks that this process holds."""


def _forget() -> None:
    """In a forked child: do not hold the parent's locks beyond its end."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_forget)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Be the only one who holds a lock, until the end of the block or of the process.

    Args:
        path: the lock's file, which exists while somebody holds it and says who: host, process
            and since when. Its folder must exist. What a killed process leaves holds nobody up.
        what: what the holder does, such as "training in 'runs/mine'", for the message to others.

    Raises:
        HeldError: if another process holds it.
    """
    descriptor = _open_lock(path)
    try:
        since = datetime.now().astimezone().isoformat(' ', 'seconds')
        holder = {'host': socket.gethostname(), 'pid': os.getpid(), 'since': since, 'what': what}
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode() + b'\n')
        _held.add(descriptor)
        yield
    finally:
        _held.discard(descriptor)
        path.unlink(missing_ok=True)  # before it is let go: whoever waits finds it gone
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    """Descriptor of a lock that nobody else holds."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:  # its holder has just removed it
            pass
        except BlockingIOError:
            with os.fdopen(descriptor) as file:
                raise HeldError(_holder(path, file.read())) from None
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
                return descriptor  # a file system without locks: the file tells people at least
            os.close(descriptor)
            raise
        os.close(descriptor)


def _holder(path: Path, text: str) -> str:
    try:
        found = json.loads(text)
        who = f'process {found["pid"]} on {found["host"]} since {found["since"]}: {found["what"]}'
    except (ValueError, KeyError, TypeError):  # it has not written yet
        who = 'another process'
    return f"'{path.parent}' is in use by {who}; wait for its end, or give another folder"


def check_writable(path: Path, folders: bool = False) -> None:
    """Find out before long work, not after it, that a file cannot be written.

    Args:
        path: the file.
        folders: whether missing folders will be made.

    Raises:
        OSError: if the file cannot be written; the message names it and the remedy.
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


def natural(path: Path) -> tuple[list[str | int], str]:
    """Key to sort paths by: numbers in them count as numbers, so that frame10 follows frame9.

    A name that is one decimal number, as times are, counts as that: 1.5 follows 1.25.
    """
    text = str(path)
    if decimal := re.fullmatch(r'([0-9]+)\.([0-9]+)', path.stem):
        text = str(path.with_name(f'{decimal[1]}.{decimal[2]:0<20}{path.suffix}'))
    words = re.split('([0-9]+)', text)
    return [int(word) if i % 2 else word for i, word in enumerate(words)], str(path)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
