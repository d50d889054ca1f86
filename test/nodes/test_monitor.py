"""Warnings that do not repeat, and the times of a frame's stages."""

import pytest

from depth_ros.nodes import monitor
from depth_ros.nodes.monitor import STAGES, Reporter, StageTimes


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
