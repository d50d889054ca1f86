"""Evaluations side by side: the better one is marked, what differs is told, strangers refused."""

import json

import numpy as np
import pytest
from support import report_data

from depth_ros.evaluation.report.comparison import comparison_text
from depth_ros.evaluation.report.comparison_page import write_comparison


def rows(found: dict) -> dict[str, dict]:
    return {f'{row["group"]}: {row["name"]}': row for row in found['rows']}


@pytest.fixture
def first(tmp_path):
    return report_data.write_result(tmp_path / 'first', report_data.found(), report_data.frames())


def another(folder, change=None, frames=None, **options):
    found = report_data.found(**options)
    if change:
        change(found)
    return report_data.write_result(folder, found, frames or report_data.frames())


def test_the_better_value_is_marked(tmp_path, first):
    def change(found):
        found['depth']['rows']['median_scaled']['abs_rel'] = 0.005
        found['semantics']['mean_iou'] = 0.5
        found['trajectory']['scale'] = 1.0

    found = write_comparison(tmp_path / 'out', [first, another(tmp_path / 'b', change)])
    assert found['runs'] == ['first', 'b'] and found['notes'] == []
    row = rows(found)
    assert row['Depth: median-scaled, Abs Rel']['values'] == [0.01, 0.005]
    assert row['Depth: median-scaled, Abs Rel']['best'] == [1]  # lower is better
    assert row['Semantics: mean IoU']['best'] == [0]  # higher is better
    assert row['Trajectory: scale of the alignment']['best'] == []  # neither is
    assert row['Depth: as published, Abs Rel']['best'] == []  # both are
    assert json.loads((tmp_path / 'out' / 'comparison.json').read_text()) == found
    page = (tmp_path / 'out' / 'comparison.html').read_text()
    assert '<td class="best">0.0050<small>−50.0 %</small></td>'.replace('"', '') in page.replace(
        '"', ''
    )
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == [
        'comparison.html',
        'comparison.json',
    ]
    line = next(
        x
        for x in comparison_text(found).splitlines()
        if x.startswith('Depth: median-scaled, Abs Rel')
    )
    assert line.split()[-2:] == ['0.0100', '0.0050*']


def test_what_changed_is_told(tmp_path, first):
    def change(found):
        found['settings']['fit'] = 'crop'
        found['models']['perception_node']['path'] = 'new.onnx'

    found = write_comparison(tmp_path / 'out', [first, another(tmp_path / 'b', change)])
    assert found['changed'] == {
        'perception node: path': ['perception_node.onnx', 'new.onnx'],
        'fit': ['stretch', 'crop'],
    }
    assert 'fit: stretch | crop' in comparison_text(found)
    page = (tmp_path / 'out' / 'comparison.html').read_text()
    assert 'new.onnx' in page and page.count('<section') == 5


def test_runs_of_other_frames_are_compared_on_those_they_share(tmp_path, first):
    columns = report_data.frames(first=10)
    columns['abs_rel'] = columns['abs_rel'] / 2
    found = write_comparison(tmp_path / 'out', [first, another(tmp_path / 'b', frames=columns)])
    assert found['notes'] == [
        'the runs judged different frames: 40 (first), 30 (b); the rows of shared frames count '
        'only those that all have'
    ]
    row = rows(found)['Shared frames: depth, Abs Rel (29 frames)']  # one of the 30 is unknown
    mean = float(np.nanmean(report_data.frames()['abs_rel'][10:]))
    assert row['values'] == pytest.approx([mean, mean / 2]) and row['best'] == [1]


def test_other_recordings_are_told_and_not_drawn_over_each_other(tmp_path, first):
    found = write_comparison(
        tmp_path / 'out', [first, another(tmp_path / 'b', recording='some/house', truth=False)]
    )
    assert found['notes'][0].startswith('the runs are of different recordings')
    assert 'depth was judged in first only' in found['notes']
    row = rows(found)['Depth: median-scaled, Abs Rel']
    assert row['values'] == [0.01, None] and row['best'] == []
    page = (tmp_path / 'out' / 'comparison.html').read_text()
    assert 'Trajectories' not in page and 'Over time' not in page


def test_runs_of_one_name_are_told_apart(tmp_path, first):
    other = another(tmp_path / 'later' / 'first')
    found = write_comparison(tmp_path / 'out', [first, other])
    assert found['runs'] == [f'{tmp_path.name}/first', 'later/first']
    with pytest.raises(ValueError, match='compared with itself'):
        write_comparison(tmp_path / 'out', [first, first])
    with pytest.raises(ValueError, match='two or more'):
        write_comparison(tmp_path / 'out', [first])


@pytest.mark.parametrize(
    'name, text, problem',
    [
        ('metrics.json', None, 'No such file'),
        ('metrics.json', '{"a": 1}', 'another program or version'),
        ('metrics.json', '[1]', "no attribute 'keys'"),
        ('metrics.json', '{', 'Expecting'),
        ('frames.csv', '', 'not enough values'),
        ('frames.csv', 'stamp,abs_rel\n1.0', 'cut off'),
        ('frames.csv', 'stamp\nx', 'could not convert'),
        ('trajectory/truth.tum', '1 2 3', 'TUM'),
    ],
)
def test_folders_without_a_result_are_refused(tmp_path, first, name, text, problem):
    broken = another(tmp_path / 'broken')
    (broken / name).unlink()
    if text is not None:
        (broken / name).write_text(text)
    with pytest.raises(ValueError, match=problem) as caught:
        write_comparison(tmp_path / 'out', [first, broken])
    assert str(broken) in str(caught.value) and 'evaluate_bag' in str(caught.value)
    assert not (tmp_path / 'out').exists()
