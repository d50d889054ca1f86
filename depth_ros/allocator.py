"""glibc's allocator, told to keep the memory of large buffers.

By itself it returns a large buffer to the system when it is freed, and gets it back page by page
when the next image needs it: half of the time of a large message, one part in twenty of a step of
training. And it gives threads heaps of their own, up to eight for each core, of which each keeps
what its largest moment needed: a node that is started and stopped grows by hundreds of megabytes.
"""

from __future__ import annotations

import ctypes
import os

# mallopt's parameter number, the environment variable that glibc reads at start, and the value:
# take buffers up to 32 MiB (the most that every glibc accepts) from the heap and keep its top; two
# heaps for all threads.
_SETTINGS = (
    (-3, 'MALLOC_MMAP_THRESHOLD_', 33_554_432),
    (-1, 'MALLOC_TRIM_THRESHOLD_', 2_000_000_000),
    (-2, 'MALLOC_TOP_PAD_', 33_554_432),
    (-8, 'MALLOC_ARENA_MAX', 2),
)


def allocator_environment() -> dict[str, str]:
    """The settings for a child process, which glibc reads when it starts."""
    return {name: str(value) for _, name, value in _SETTINGS}


def keep_memory() -> None:
    """Give this process the settings, but for those that its user has made."""
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)  # absent where libc is not glibc
    if mallopt is not None:
        for parameter, name, value in _SETTINGS:
            if name not in os.environ:  # a user's own setting was read by glibc at start
                mallopt(parameter, value)
