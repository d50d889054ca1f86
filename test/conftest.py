"""Shared by all tests: an isolated ROS 2 environment, the repository, real data where it is."""

import fcntl
import os
import random
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# Linux hands out ports above domain 101's to other programs.
LAST_DOMAIN = 101


def _claim_domain():
    """Take a ROS 2 domain that no other test process on this machine has.

    Returns:
        The domain's number and an open file, whose lock keeps others away until this process ends.
    """
    folder = Path(tempfile.gettempdir())
    for domain in random.sample(range(1, LAST_DOMAIN + 1), LAST_DOMAIN):
        try:
            lock = (folder / f'depth_ros_domain_{domain}.lock').open('w')
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process has it, or the file is another user's
            continue
        return domain, lock
    raise RuntimeError(f'all ROS 2 domains are taken; are there *.lock files left in {folder}?')


# Before any test module imports rclpy, and inherited by the nodes that tests start.
_domain, _domain_lock = _claim_domain()
os.environ['ROS_DOMAIN_ID'] = str(_domain)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
for _name in ('ROS_LOCALHOST_ONLY', 'ROS_STATIC_PEERS', 'ROS_DISCOVERY_SERVER', 'ROS_NAMESPACE'):
    os.environ.pop(_name, None)


def pytest_report_header():
    return f'ROS_DOMAIN_ID: {_domain}, on this machine only'


@pytest.fixture(scope='session')
def repository():
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope='session')
def data_dir():
    """Folder of real recordings; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get('DEPTH_ROS_DATA', REPOSITORY.parent / 'shared' / 'data'))
    if not folder.is_dir():
        pytest.skip(f'no real data at {folder}; DEPTH_ROS_DATA names its folder')
    return folder


@pytest.fixture
def clean_environment():
    """This process's environment for another installation's programs.

    The ROS wheels leave their library path to child processes, where it would mix two
    installations.
    """
    leaks = ('LD_LIBRARY_PATH', '_ROS_WHEELS_BOOTSTRAP_COMPLETE', 'PYTHONPATH')
    return {name: value for name, value in os.environ.items() if name not in leaks}
