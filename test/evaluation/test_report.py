"""The report: complete, self-contained, well-formed, and honest about what is missing."""

import base64
import functools
import re
import subprocess
import sys
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from support import report_data
from support.report_data import SHAPE

from depth_ros.evaluation.report import report

pytestmark = pytest.mark.slow  # pages with charts and pictures

VOID = {'area', 'base', 'br', 'col', 'hr', 'img', 'input', 'link', 'meta', 'source'}
PERCEPTION, ODOMETRY = ('perception_node',), ('odometry_node',)


@pytest.fixture(scope='module')
def write(tmp_path_factory):
    """Writes a report to a folder of its own and returns it, each kind once."""

    @functools.cache
    def written(truth=True, nodes=report_data.NODES, metric=True, **options):
        folder = tmp_path_factory.mktemp('report')
        report.write_report(
            folder,
            report_data.found(truth, nodes, **options),
            report_data.frames(truth, nodes),
            report_data.evaluation(truth, nodes),
            report_data.contracts(metric, nodes),
        )
        return folder

    return lambda *args, **options: (written(*args, **options) / 'report.html').read_text()


def changed(folder, found=None, evaluation=None) -> str:
    """A report of one model, which is soon written, with other results."""
    report.write_report(
        folder,
        found or report_data.found(nodes=PERCEPTION),
        {'stamp': report_data.frames()['stamp']},
        evaluation or report_data.evaluation(nodes=PERCEPTION),
        report_data.contracts(nodes=PERCEPTION),
    )
    return (folder / 'report.html').read_text()


def drawings(page: str) -> list[str]:
    """Text of the figures of the wide page, in order."""
    return [
        base64.b64decode(text).decode()
        for text in re.findall(r'src="data:image/svg\+xml;base64,([^"]*)', page)
    ]


def words(page: str) -> str:
    """The page's text without its pictures, whose letters could read as anything."""
    return ' '.join(re.sub(r'"data:[^"]*"', '""', page).split())


def titles(page: str) -> list[str]:
    return re.findall(r'<h2>(.*?)</h2>', page)


class Balance(HTMLParser):
    """Fails on a tag that closes another one, and keeps those that stay open."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize('truth', [True, False])
@pytest.mark.parametrize('nodes', [report_data.NODES, PERCEPTION, ODOMETRY])
def test_page_is_well_formed_and_needs_nothing_else(write, truth, nodes):
    page = write(truth, nodes)
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r'<(script|link|iframe)|@import|url\(', page)
    sources = re.findall(r'(?:src|srcset)="([^"]*)"', page)
    assert len(sources) > 4 and all(source.startswith('data:image/') for source in sources)
    anchors = re.findall(r'href="#(\w+)"', page)
    assert anchors == re.findall(r'<section id="(\w+)"', page)
    assert page.count('href=') == len(anchors)
    assert 'nan' not in words(page)


def test_pictures_can_be_decoded(write):
    jpegs = re.findall(r'data:image/jpeg;base64,([^"]*)', write())
    # Two examples: image, depth, masks, error and two truths; two worst frames: without masks.
    assert len(jpegs) == 2 * 6 + 2 * 4
    for text in jpegs:
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape == (*SHAPE, 3)


def test_what_is_written(tmp_path):
    changed(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['overview.jpg', 'report.html']
    assert cv2.imread(str(tmp_path / 'overview.jpg')).shape[1] > 1000


def test_figures(write):
    bands, time, trajectory, latency = drawings(write())
    assert 'true distance, m' in bands and '>0.040<' in bands and '>0.050<' in bands
    for title in ('depth, Abs Rel', 'scale to the truth', 'position error, m', 'photometric error'):
        assert title in time
    assert 'labels right' not in time  # the table of frames has no such column
    assert 'ground truth' in trajectory and 'odometry, aligned' in trajectory
    assert 'perception' in latency and 'odometry' in latency and 'inference' in latency


def test_trivial_scores_and_the_scale_are_on_the_page(write):
    page = words(write())
    for text in ('trivial: constant in metres (12.5 m)', '0.438', '14.500', 'standing still'):
        assert text in page
    assert 'Metres come from the height of the camera, 1.65 m.' in page
    assert '<td>height</td><td>1.062</td><td>4.5</td><td>88</td><td>−3.2</td>' in page
    assert 'most frequent class everywhere: 0.250 and 50' in page
    assert 'Scale' in titles(write()) and 'Scale' not in titles(write(False))


def test_numbers_are_on_the_page(write):
    page = words(write())
    for text in (
        '40 / 42',
        '21.5',
        '0.010',
        '0.938',
        '0.812',
        '0.25',
        '4.50 m',
        '12.25',
        'onnxruntime',
        'a &amp; b',
        'Abs Rel 0.123',
        'True masks',
        'its data is cut off',
        '0 to 10 m',
        'near edges',
        '97.5 %',
        '1.062',
        '−2.1 %',
        '0.75 s at 1.5 s',
        '96.9 %',
        '>75<',
        '>25<',
        '50 %',
        '101.5',
        'a gap (2 times)',
    ):
        assert text in page, text
    assert 'drift of scale' not in page and 'KITTI' not in page  # neither is known
    assert 'dropped' not in page.replace('without dropping any', '')


def test_live_runs_tell_of_latency_and_drops(write):
    page = write(mode='live')
    for text in ('5.0 % dropped', '>31<', '95 % under 40 ms', 'at worst 2 ms late', 'Latency'):
        assert text in words(page), text
    assert 'receiving the output' in drawings(page)[-1]


def test_worst_frames_come_in_the_order_of_their_rank(tmp_path):
    evaluation = report_data.evaluation(nodes=PERCEPTION)
    evaluation.examples[2].rank, evaluation.examples[3].rank = 2, 1
    page = changed(tmp_path, evaluation=evaluation)
    assert re.findall(r'<b>(\d+)</b>at ([\d.]+) s', page) == [('1', '3.0'), ('2', '2.0')]


def test_without_ground_truth_consistency_leads(write):
    page = write(False)
    text = words(page)
    assert 'No ground truth in this recording.' in text
    assert 'against ground truth' not in text and 'True ' not in text and 'ATE' not in text
    assert titles(page)[0] == 'Consistency' and titles(write())[0] == 'Frames'
    assert page.count('data:image/jpeg') == 4 * 3
    assert 'highest photometric error' in page


def test_one_model_alone(write):
    page = write(nodes=PERCEPTION)
    assert 'One camera in; depth and masks out' in page
    assert 'Trajectory' not in titles(page) and 'Consistency' not in titles(page)
    page = write(nodes=ODOMETRY)
    assert 'One camera in; odometry out' in page and 'Trajectory' in titles(page)
    assert not {'Depth against ground truth', 'Semantics against ground truth'} & set(titles(page))


def test_relative_models_are_not_shown_in_metres(write):
    page = write(False, metric=False)
    assert '∞ model units' in page and '25.0<small> units' in page


def test_many_classes_have_no_confusion_matrix(write, tmp_path):
    found = report_data.found(nodes=PERCEPTION)
    many = report.MAX_CONFUSION + 1
    found['semantics'] |= {
        'classes': [f'class {i}' for i in range(many)],
        'confusion': np.eye(many, many + 1, dtype=int).tolist(),
    }
    assert 'class="confusion"' not in changed(tmp_path, found)
    assert 'class="confusion"' in write()


def test_foreign_text_is_escaped(tmp_path):
    page = changed(tmp_path, report_data.found(nodes=PERCEPTION, recording='some/<i>&street'))
    assert '<i>&street' not in page and '&lt;i&gt;&amp;street' in page
    assert '&lt;odd&gt; &amp; so on' in page


@pytest.mark.slow
def test_without_its_packages_the_command_says_what_to_install(repository):
    code = (
        'import sys\n'
        'sys.modules["matplotlib"] = sys.modules["jinja2"] = None\n'
        'from depth_ros.commands.evaluate_bag import main\n'
        'sys.exit(main(["demo/street"]))'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=repository, text=True, capture_output=True
    )
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert 'pip install jinja2 matplotlib' in result.stderr
