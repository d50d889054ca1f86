"""``evaluate_bag`` with several recordings: one after the other, in processes, on a cluster."""

import json
from pathlib import Path

import pytest
from support.evaluating import evaluate, read, street

from depth_ros.commands import evaluate_bag
from depth_ros.evaluation import batch


def check_several(out: Path, error: str) -> None:
    assert read(out / 'one')['frames']['judged'] == read(out / 'two')['frames']['judged'] == 10
    assert 'does not exist' in json.loads((out / 'failed.json').read_text())[error]
    assert 'one' in (out / 'comparison.html').read_text()
    assert (out / 'comparison.json').is_file()


@pytest.mark.slow
def test_several_recordings_in_processes_and_one_that_fails(tiny, tmp_path, capsys):
    bags = [
        street(tmp_path / 'one'),
        tmp_path / 'missing',
        street(tmp_path / 'two', storage='sqlite3'),
    ]
    out = tmp_path / 'out'
    assert (
        evaluate_bag.main([*map(str, bags), '--model', str(tiny), '--out', str(out), '--jobs', '2'])
        == 1
    )
    printed = capsys.readouterr()
    assert '2 of 3 recordings evaluated' in printed.err
    check_several(out, str(bags[1]))
    evaluate('--compare', out / 'one', out / 'two', '--out', tmp_path / 'both')
    assert (tmp_path / 'both/comparison.html').is_file()


@pytest.mark.slow
def test_of_two_recordings_one_is_bad(tiny, tmp_path, capsys):
    bags = [street(tmp_path / 'one'), tmp_path / 'dangling']
    bags[1].mkdir()
    (bags[1] / 'x_0.mcap').symlink_to(tmp_path / 'nowhere.mcap')
    out = tmp_path / 'out'
    assert evaluate_bag.main([*map(str, bags), '--model', str(tiny), '--out', str(out)]) == 1
    printed = capsys.readouterr()
    assert '10 in, 10 out' in printed.out and str(out / 'one/report.html') in printed.out
    assert printed.err.splitlines()[-1] == '1 of 2 recordings evaluated'
    assert 'it/s' not in printed.err and 'recording/s' not in printed.err  # no bar in a pipe
    assert 'Traceback' not in printed.err
    assert 'x_0.mcap' in json.loads((out / 'failed.json').read_text())[str(bags[1])]


def test_nothing_stops_the_other_recordings(monkeypatch):
    errors = iter([OSError(28, 'No space left on device', 'out/x'), KeyError('x')])

    def fail(*_, **__):
        raise next(errors)

    monkeypatch.setattr(batch, 'evaluate_recording', fail)
    assert batch._attempt(None) == 'No space left on device: out/x'
    assert batch._attempt(None) == "internal error: KeyError: 'x'"


@pytest.mark.slow
def test_several_recordings_on_a_cluster(tiny, tmp_path):
    distributed = pytest.importorskip('distributed', reason='Dask is not installed')
    bags = [street(tmp_path / 'one'), tmp_path / 'missing', street(tmp_path / 'two')]
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        status = evaluate_bag.main(
            [
                *map(str, bags),
                '--model',
                str(tiny),
                '--out',
                str(tmp_path / 'out'),
                '--cluster',
                cluster.scheduler_address,
            ]
        )
    assert status == 1
    check_several(tmp_path / 'out', str(bags[1]))
