"""The report: complete, self-contained, well-formed, and honest about what is missing."""

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from depth_ros import metrics, report
from depth_ros.contract import POSE_CONVENTION, ModelContract, SemanticClass
from depth_ros.evaluation import Evaluation, Picture

CLASSES = (SemanticClass(0, 'road', (128, 64, 128)), SemanticClass(1, 'sky', (70, 130, 180)))
VOID = {'area', 'base', 'br', 'col', 'hr', 'img', 'input', 'link', 'meta'}
SHAPE = (60, 200)


def contracts(metric: bool = True) -> dict[str, ModelContract]:
    size = {'input_width': 64, 'input_height': 48, 'intrinsics': (50, 50, 32, 24)}
    return {
        'perception_node': ModelContract(
            'perception', 'net', outputs=('depth', 'labels'), depth_range=(0.1, 100), metric=metric,
            classes=CLASSES, provenance={'licence': 'a & b'}, **size),
        'odometry_node': ModelContract('pose', 'motion', outputs=('pose',), metric=metric,
                                       pose_convention=POSE_CONVENTION, **size)}


def evaluation(truth: bool) -> Evaluation:
    rng = np.random.default_rng(0)
    result = Evaluation(estimate=np.cumsum(rng.uniform(0, 1, (20, 3)), axis=0))
    for index in range(3):
        depth = rng.uniform(3, 60, SHAPE).astype(np.float32)
        labels = rng.integers(0, 2, SHAPE).astype(np.uint8)
        picture = Picture(10**9 * index, np.full((*SHAPE, 3), 40 * index, np.uint8), depth, labels)
        if truth:
            picture.true_depth, picture.true_labels, picture.abs_rel = depth, labels, 0.123
        result.pictures.append(picture)
    if truth:
        result.truth = result.estimate * 2
        result.trajectory = metrics.trajectory_metrics(result.estimate, result.truth)
    else:
        result.notes = ['no ground truth in this recording']
    return result


def found(truth: bool, name: str = 'street') -> dict:
    depth = dict(zip(metrics.DepthMetrics._fields, np.arange(1, 8) / 100, strict=True))
    return {
        'recording': f'some/{name}', 'topics': {'image': '/camera/image_rect'}, 'rate': 1.0,
        'frames_in': 20, 'frames_out': 19, 'odometry_out': 19, 'dropped_percent': 5.0,
        'latency_ms': {'perception': {'p50': 31.4, 'p95': 40, 'max': 50}, 'odometry': None},
        'depth': depth if truth else None, 'depth_median_scaled': depth if truth else None,
        'depth_frames': 19,
        'semantics': {'mean_iou': 0.8125, 'road_iou': 0.9375, 'frames': 19,
                      'iou': {'road': 0.9375, 'sky': 0.6875}} if truth else None,
        'trajectory': {'ate_se3_m': 4.5, 'ate_sim3_m': 0.25, 'scale': 2.0, 'length_m': 50.0,
                       'poses': 20} if truth else None,
        'odometry_length': 25.0, 'stages_ms': {'perception_node': {'inference': 12.25}},
        'backends': {'perception_node': 'onnxruntime'}, 'player_latest_ms': 2.0,
        'models': {'perception_node': 'p.onnx', 'odometry_node': 'm.onnx'},
        'notes': [], 'node_messages': ['[WARN] [perception_node]: <odd> & so on']}


def write(folder, truth: bool, name: str = 'street', metric: bool = True) -> str:
    latencies = {'/depth/image_rect': np.linspace(20, 50, 19), '/odom': np.linspace(9, 20, 19)}
    report.write_report(folder, found(truth, name), latencies, evaluation(truth), contracts(metric))
    return (folder / 'report.html').read_text()


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
def test_page_is_well_formed_and_needs_nothing_else(tmp_path, truth):
    page = write(tmp_path, truth)
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r'<(script|link|iframe)|@import|url\(', page)
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) > 8 and all(source.startswith('data:image/') for source in sources)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['overview.jpg', 'report.html']


def test_pictures_can_be_decoded(tmp_path):
    page = write(tmp_path, True)
    jpegs = re.findall(r'data:image/jpeg;base64,([^"]*)', page)
    assert len(jpegs) == 3 * 5  # image, depth, masks and two truths of three frames
    for text in jpegs:
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape == (*SHAPE, 3)
    drawings = re.findall(r'data:image/svg\+xml;base64,([^"]*)', page)
    texts = [base64.b64decode(text).decode() for text in drawings]
    assert len(texts) == 2
    assert 'ground truth' in texts[0] and 'odometry, aligned' in texts[0]
    assert '/depth/image_rect' in texts[1] and '/odom' in texts[1]
    assert cv2.imread(str(tmp_path / 'overview.jpg')).shape[1] > 1000


def test_numbers_are_on_the_page(tmp_path):
    page = write(tmp_path, True)
    for text in ('19 / 20', '5.0 % dropped', '>31<', '0.010', '0.938', '0.812', '0.25', '4.50 m',
                 '12.25', 'onnxruntime', 'a &amp; b', 'Abs Rel 0.123', 'True masks'):
        assert text in page, text


def test_without_ground_truth_the_page_says_so_and_shows_pictures_only(tmp_path):
    page = write(tmp_path, False)
    assert 'No ground truth in this recording.' in page
    assert 'against ground truth' not in page and 'True ' not in page and 'ATE' not in page
    assert page.count('data:image/jpeg') == 3 * 3


def test_relative_models_are_not_shown_in_metres(tmp_path):
    page = write(tmp_path, False, metric=False)
    assert '∞ model units' in page and '25.0<small> units' in page


def test_foreign_text_is_escaped(tmp_path):
    page = write(tmp_path, True, name='<i>&street')
    assert '<i>&street' not in page and '&lt;i&gt;&amp;street' in page
    assert '&lt;odd&gt; &amp; so on' in page


def test_depth_colors():
    depth = np.array([[2.0, 4.0, 1e9, np.nan]], np.float32)
    near, middle, far, invalid = report.color_depth(depth, 2.0)[0].astype(int)
    assert near[0] > near[2] and far[2] >= far[0] and far.sum() < middle.sum()
    assert invalid.tolist() == [0, 0, 0]
    assert np.array_equal(report.color_depth(depth, 5.0)[0, 0], near)  # nearer than near


def test_label_colors():
    labels = np.array([[0, 1, 255]], np.uint8)
    assert report.color_labels(labels, CLASSES).tolist() == [
        [[128, 64, 128], [70, 130, 180], [0, 0, 0]]]
    over = report.color_labels(labels, CLASSES, np.full((2, 6, 3), 200, np.uint8))
    assert over[0, 2].tolist() == [200, 200, 200]
    assert over[0, 0].tolist() == pytest.approx([0.65 * c + 0.35 * 200 for c in (128, 64, 128)],
                                                abs=1)
