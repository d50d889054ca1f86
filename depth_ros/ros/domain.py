"""Claims a ROS domain of this machine, so that runs side by side do not hear each other."""

from __future__ import annotations

import fcntl
import random
import tempfile
from pathlib import Path
from typing import TextIO

LAST_DOMAIN = 101
"""Above it, the ports of ROS domains overlap those that Linux gives to other programs."""

_locks: list[TextIO] = []


def claim_domain() -> int:
    """Take a ROS domain that no other process has claimed, until this process ends.

    Raises:
        RuntimeError: if all are taken.
    """
    folder = Path(tempfile.gettempdir())
    for domain in random.sample(range(1, LAST_DOMAIN + 1), LAST_DOMAIN):
        try:
            lock = (folder / f'depth_ros_domain_{domain}.lock').open('w')
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process has it, or the file is another user's
            continue
        _locks.append(lock)
        return domain
    raise RuntimeError(f'all ROS domains are taken; are there *.lock files left in {folder}?')
