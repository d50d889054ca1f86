"""What is said of optional packages that are not installed."""

import sys

import pytest

from depth_ros.packages import MissingPackageError, missing_packages, require_packages


def test_missing_packages_are_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, 'yaml', None)
    monkeypatch.setitem(sys.modules, 'lz4', None)
    assert missing_packages('numpy', 'yaml', 'lz4') == ['yaml', 'lz4']
    require_packages('the test', 'numpy')
    with pytest.raises(MissingPackageError) as error:
        require_packages('the test', 'numpy', 'yaml')
    assert str(error.value) == (
        'the test needs a Python package that is not installed (yaml): pip install pyyaml'
    )
    with pytest.raises(MissingPackageError, match=r'packages that are .*: pip install pyyaml lz4$'):
        require_packages('the test', 'yaml', 'lz4')


def test_missing_ros_is_sourced_rather_than_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'rclpy', None)
    with pytest.raises(MissingPackageError, match=r"\(rclpy\): source ROS 2's setup file, or pip"):
        require_packages('live mode', 'rclpy')
