"""Storage files that the recorder compressed as a whole, unpacked for as long as they are read."""

from __future__ import annotations

import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from depth_ros.bags.files import plain_name
from depth_ros.bags.messages import BagError, damaged

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_BLOCK = 1 << 20


class Unpacked:
    """A compressed storage file's content, in a temporary folder that goes with this object.

    A file that was cut short is unpacked up to there; whoever reads it then finds that it ends too
    early.

    Args:
        file: The compressed file.

    Attributes:
        path: Where the content lies.

    Raises:
        BagError: if there is no room for it, or nothing of it can be unpacked.
    """

    def __init__(self, file: Path) -> None:
        folder = tempfile.mkdtemp(prefix='depth_ros.')
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = Path(folder, plain_name(file))
        fault = 'nothing of it can be unpacked'
        try:
            with self.path.open('wb') as out, file.open('rb') as packed:
                for block in _unpacked_blocks(packed):
                    out.write(block)
        except OSError as error:
            raise BagError(
                f'recording {file} cannot be unpacked into {folder} ({error.strerror}): name a '
                'folder with more room in the environment variable TMPDIR'
            ) from error
        except zstd.ZstdError as error:
            fault = str(error)
        if not self.path.stat().st_size:
            raise BagError(damaged(file, fault))


def _unpacked_blocks(packed: BinaryIO) -> Iterator[bytes]:
    """Yield what a stream of zstd frames holds, up to where it was cut short."""
    frame = zstd.ZstdDecompressor()
    while block := packed.read(_BLOCK):
        while block:
            yield frame.decompress(block, _BLOCK)
            while not (frame.needs_input or frame.eof):
                yield frame.decompress(b'', _BLOCK)
            block = b''
            if frame.eof:
                block, frame = frame.unused_data, zstd.ZstdDecompressor()


_shared: weakref.WeakValueDictionary[tuple[Path, int, int], Unpacked] = (
    weakref.WeakValueDictionary()
)


def unpacked(file: Path) -> Unpacked:
    """Unpack a file, or return what another reader in this process has unpacked of it.

    Raises:
        BagError: see `Unpacked`.
    """
    stat = file.stat()
    key = file.resolve(), stat.st_size, stat.st_mtime_ns
    found = _shared.get(key)
    if found is None:
        found = _shared[key] = Unpacked(file)
    return found
