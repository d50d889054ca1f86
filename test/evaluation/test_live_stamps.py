"""Live mode knows images by their stamps."""

import pytest

from depth_ros.evaluation.live import _repeated_stamps
from depth_ros.evaluation.session import EvaluationError


def test_stamps_that_differ_need_no_word():
    assert _repeated_stamps([]) == _repeated_stamps([0]) == _repeated_stamps([1, 2, 3]) == ''


def test_repeated_stamps_are_noted():
    assert _repeated_stamps([1, 2, 2, 2, 3]).startswith('2 of 5 images have the stamp of another')


def test_a_single_stamp_is_refused_with_the_way_out():
    with pytest.raises(EvaluationError, match=r'all 8 images have the stamp 0.000.*--mode offline'):
        _repeated_stamps([0] * 8)
