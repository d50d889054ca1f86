"""Warnings that do not repeat, and the times of a frame's stages."""

import types

import pytest

from depth_ros.core.camera import CameraError
from depth_ros.core.images import ImageError
from depth_ros.nodes import monitor
from depth_ros.nodes.monitor import (
    CAUSES,
    STAGES,
    WORDINGS,
    Health,
    Monitor,
    Reporter,
    StageTimes,
    slow_readers,
)


class Log:
    """Collects what a logger would print."""

    def __init__(self):
        self.lines = []

    def warning(self, text):
        self.lines.append(text)

    error = warning


def test_each_cause_is_said_once_a_period(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(monitor.time, 'monotonic', lambda: now[0])
    log = Log()
    report = Reporter(log)
    for _ in range(10):
        report('a', 'first cause')
    report('b', 'second cause')
    assert log.lines == ['first cause', 'second cause']
    now[0] += monitor.REPORT_PERIOD
    report('a', 'first cause')
    assert log.lines[2:] == ['first cause (9 more like this)']
    assert report.counts == {'a': 11, 'b': 1}


def test_some_things_are_said_once_only(monkeypatch):
    log = Log()
    report = Reporter(log)
    for _ in range(3):
        report.once('c', 'third cause')
    assert log.lines == ['third cause']


def test_stage_times_are_medians_in_milliseconds(monkeypatch):
    clock = iter([0.0, 0.001, 10.0, 10.003, 20.0, 20.001, 20.001, 20.002])
    monkeypatch.setattr(monitor.time, 'perf_counter', lambda: next(clock))
    times = StageTimes()
    assert times.medians() == {}
    with times.stage('decode'):
        pass
    times.discard()  # a frame that failed does not count
    with times.stage('inference'):
        pass
    times.finish(0.004, 0.007)
    with times.stage('publish'):
        pass
    with times.stage('publish'):
        pass
    times.finish(0.003, 0.009)
    found = times.medians()
    assert set(found) == {*STAGES, 'overhead', 'latency'}
    assert found['decode'] == 0
    assert found['inference'] == pytest.approx(1.5) and found['publish'] == pytest.approx(1)
    assert found['overhead'] == pytest.approx(2) and found['latency'] == pytest.approx(8)


def test_wordings_are_said_side_by_side_but_are_one_cause(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(monitor.time, 'monotonic', lambda: now[0])
    log = Log()
    report = Reporter(log)
    for number in range(3):
        report('image', f'encoding purple of frame {number}')
        report('image', f'truncated: {number} bytes')
    assert log.lines == ['encoding purple of frame 0', 'truncated: 0 bytes']
    for letters in map(chr, range(97, 123)):  # a camera that sends nonsense
        report('image', f'encoding {letters}')
    assert len(log.lines) == WORDINGS and report.counts == {'image': 32}
    now[0] += monitor.REPORT_PERIOD
    report('image', 'truncated: 9 bytes')
    assert log.lines[WORDINGS:] == ['truncated: 9 bytes (2 more like this)']


def test_a_second_of_images_without_an_output_is_a_problem(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(monitor.time, 'monotonic', lambda: now[0])
    health = Health()
    for _ in range(9):
        health.begin()
        health.bad('encoding purple')
        assert health.problem() == ''
        now[0] += 0.11
    now[0] += 0.11
    assert health.problem() == 'no output for 1 s: encoding purple'
    health.begin()
    health.good()
    assert health.problem() == ''
    now[0] += 3600  # no image at all is for others to say
    assert health.problem() == ''
    health.begin()
    now[0] += monitor.REPORT_PERIOD + 1
    assert health.problem() == 'one image has been in work for 6 s'


def test_errors_of_all_kinds_are_counted_under_few_keys():
    node = types.SimpleNamespace(get_logger=Log, create_publisher=lambda *_: None)
    counted = Monitor(node)
    for word in ('purple', 'sepia', 'mauve'):
        counted.fail(ImageError(f"encoding '{word}' is not supported"))
    counted.fail(CameraError('no usable intrinsics'))
    counted.fail(KeyError('x'))
    counted.finish(0.1, 0.2, 'two images have the same stamp')
    values = counted.values(6, 0)
    problems = {k: v for k, v in values.items() if k.startswith('problem')}
    assert problems == {
        'problem: image': '3',
        'problem: camera_info': '1',
        'problem: internal error': '1',
    }
    assert values['failed'] == '5' and values['processed'] == '1'
    assert all(' ' not in cause for cause in CAUSES.values())


def test_a_subscriber_that_holds_up_the_others_is_pointed_out():
    assert slow_readers({}) == slow_readers({'inference': 10.0, 'publish': 4.0}) == ''
    assert slow_readers({'inference': 80.0, 'publish': 60.0}) == ''  # a slow machine
    assert 'publishing takes 38 ms: a subscriber' in slow_readers(
        {'inference': 6.0, 'publish': 38.0}
    )
