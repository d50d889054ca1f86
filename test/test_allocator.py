"""The allocator's settings: buffers that were freed come back without the system's help."""

import os
import platform
import subprocess
import sys

import pytest

from depth_ros.allocator import allocator_environment

FAULTS = """
import resource, sys
from depth_ros.allocator import keep_memory
if sys.argv[1] == 'keep':
    keep_memory()
def work():
    for megabytes in (4, 8, 16):
        b'x' * (megabytes << 20)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

PAGES = (28 << 20) // os.sysconf('SC_PAGE_SIZE')

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='settings of glibc')


def page_faults(mode, **settings):
    """Of the second time that 4, 8 and 16 MiB are allocated and filled."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')}
    run = subprocess.run(
        [sys.executable, '-c', FAULTS, mode],
        env=environment | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(run.stdout)


def test_freed_buffers_are_kept():
    assert page_faults('default') > PAGES / 2
    assert page_faults('keep') < PAGES / 10
    assert page_faults('default', **allocator_environment()) < PAGES / 10


def test_a_users_own_setting_is_kept():
    assert page_faults('keep', MALLOC_MMAP_THRESHOLD_='65536') > PAGES / 2
