"""The time that a recording takes to play."""

import time
import types

import pytest

from depth_ros.ros import player
from depth_ros.ros.player import Player, play_seconds

S = 10**9
START = 1_700_000_000 * S


def test_long_pauses_do_not_count():
    assert play_seconds([]) == play_seconds([START]) == 0
    assert play_seconds([START, START + S, START + 3 * S]) == 3
    assert play_seconds([0, START, START + S, START + 3600 * S, START + 3601 * S]) == 2


class Log:
    """Collects what a logger would print."""

    def __init__(self):
        self.lines = []

    def warning(self, text):
        self.lines.append(text)


@pytest.fixture
def played(monkeypatch):
    """A function that plays messages of some log times; returns ticks, warnings and seconds."""
    monkeypatch.setattr(player, '_sleep', lambda seconds: time.sleep(max(seconds, 0)))

    def play(log_times):
        this = Player.__new__(Player)
        messages = [types.SimpleNamespace(log_ns=t, topic='/tf_static') for t in log_times]
        this._bag = types.SimpleNamespace(messages=lambda _: iter(messages))
        this._outputs, this.latest_s, this._start_ns = {}, 0.0, log_times[0]
        ticks, log, sent = [], Log(), []
        this._tick, this._publish = ticks.append, sent.append
        this.get_logger = lambda: log
        began = time.monotonic()
        this.play()
        assert len(sent) == len(log_times)
        return ticks, log.lines, time.monotonic() - began

    return play


def test_a_message_at_log_time_0_does_not_hold_the_rest_up(played):
    ticks, lines, seconds = played([0, START, START + S // 10, START + S // 5])
    assert 0.2 <= seconds < 10
    assert ticks == sorted(ticks) and ticks[-1] == START + S // 5
    assert lines == ['a pause of 1700000000.0 s before a message of /tf_static is left out']
