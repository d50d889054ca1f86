"""``python -m train bench``, with small images; what it measures is not judged."""

import argparse
from concurrent.futures import ThreadPoolExecutor

import pytest

from train.bench import turns, works
from train.bench.turns import medians
from train.commands import bench


def options(*words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.slow
def test_prints_a_time_for_every_part(monkeypatch, capsys):
    monkeypatch.setattr(works, 'HEIGHT', 64)
    monkeypatch.setattr(works, 'WIDTH', 96)
    monkeypatch.setattr(turns, 'ProcessPoolExecutor', lambda *_: ThreadPoolExecutor(1))
    bench.run(options('--runs', '1'))
    rows = capsys.readouterr().out.splitlines()[2:]
    names = [row[: bench.NAME_WIDTH].strip() for row in rows]
    for part in (
        'photometric',
        'triplet',
        'attention',
        'network',
        'exported',
        'training step',
        'memory',
    ):
        assert any(part in name for name in names)
    values = [float(row[bench.NAME_WIDTH :]) for row in rows]
    assert min(values) > 0 and values[-2] > values[-1]


def test_works_take_turns():
    turns = []

    def work(name, times):
        def timed():
            turns.append(name)
            return next(times)

        return timed

    found = medians([work('a', iter([9, 9, 1, 3, 2])), work('b', iter([9, 9, 4, 4, 5]))], 3)
    assert turns == ['a', 'b'] * 5 and found == [2, 4]


@pytest.mark.parametrize(
    'words, message', [(['--threads', '0'], 'at least 1'), (['--reference', '.'], 'is no clone of')]
)
def test_options_are_checked(words, message):
    with pytest.raises(ValueError, match=message):
        bench.run(options(*words))
