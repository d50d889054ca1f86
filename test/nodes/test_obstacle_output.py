"""Obstacles and scan as a costmap gets them, and when there are none."""

import math
import types

import numpy as np
import pytest
from sensor_msgs.msg import LaserScan, PointCloud2
from support.onnx_models import CLASSES, save_perception
from support.ros_process import FRAME, NodeProcess, Peer
from support.scene import Scene

from depth_ros.core.camera import ImageFit, Intrinsics
from depth_ros.core.obstacles import OBSTACLE
from depth_ros.nodes.obstacle_output import PATIENCE, ObstacleOutput, body_frame, knows_metres

CAMERA = Intrinsics(32.0, 32.0, 31.5, 23.5, 64, 48)
SETTINGS = types.SimpleNamespace(
    camera_height=0.0,
    obstacle_min_height=0.15,
    obstacle_max_height=2.0,
    obstacle_min_range=0.5,
    obstacle_max_range=15.0,
    obstacle_ignore='sky, no such class',
    robot_rows=0.0,
    scan_frame='',
)


def frame_at(seconds):
    return types.SimpleNamespace(
        stamp=round(seconds * 1e9), fit=ImageFit(CAMERA, CAMERA, CAMERA, 0, 0, 64, 48)
    )


def road_with_a_car():
    """1.5 m below the camera, a car 5 m ahead."""
    rows = (np.arange(48) - CAMERA.cy) / CAMERA.fy
    with np.errstate(divide='ignore'):
        depth = np.repeat((1.5 / rows)[:, None], 64, 1)
    labels = np.where(depth > 0, 0, 3).astype(np.uint8)
    depth[depth <= 0] = np.nan
    depth[20:32, 28:36], labels[20:32, 28:36] = 5.0, 1
    return depth.astype(np.float32), labels


def output(said):
    contract = types.SimpleNamespace(classes=CLASSES)
    return ObstacleOutput(contract, lambda cause, text: said.append(text))


def test_the_plane_is_kept_for_a_while():
    said = []
    obstacles, (depth, labels) = output(said), road_with_a_car()
    seen = obstacles.look(depth, labels, frame_at(10), SETTINGS)
    assert len(seen.points) and set(seen.points['label']) == {1}
    covered = np.where(labels == 0, np.nan, depth)  # no road in sight
    later = obstacles.look(covered, labels, frame_at(10 + 0.9 * PATIENCE), SETTINGS)
    assert len(later.points) == len(seen.points)
    assert obstacles.look(covered, labels, frame_at(11 + PATIENCE), SETTINGS) is None
    assert 'too little ground' in said[0] and 'camera_height' in said[0]
    level = types.SimpleNamespace(**{**vars(SETTINGS), 'camera_height': 1.5})
    assert len(obstacles.look(covered, labels, frame_at(20), level).points) == len(seen.points)


def test_ignored_classes_are_left_out():
    obstacles, (depth, labels) = output([]), road_with_a_car()
    without = types.SimpleNamespace(**{**vars(SETTINGS), 'obstacle_ignore': 'car,sky'})
    assert not len(obstacles.look(depth, labels, frame_at(10), without).points)


def test_frames_of_scans_by_rep_103():
    assert body_frame('camera_color_optical_frame') == 'camera_color_frame'
    assert body_frame('front_optical') == 'front' and body_frame('camera') == ''


@pytest.mark.parametrize(
    ('metric', 'scale', 'measured', 'known'),
    [(True, 0.0, False, True), (False, 2.0, False, True), (False, 0.0, True, True)]
    + [(False, 0.0, False, False)],
)
def test_heights_need_metres(metric, scale, measured, known):
    assert knows_metres(types.SimpleNamespace(metric=metric), scale, measured) is known


@pytest.fixture(scope='module')
def running(tmp_path_factory):
    model = save_perception(tmp_path_factory.mktemp('models') / 'perception.onnx')
    parameters = {'model': model, 'camera_height': 1.0}
    with NodeProcess('perception_node', parameters) as process, Peer() as peer:
        for kind, topic in ((PointCloud2, '/obstacles'), (LaserScan, '/scan')):
            peer.listen(kind, topic)
        peer.wait_state('perception_node', 'active')
        scene = Scene(peer, process)
        scene.camera.wait_matched()
        yield scene
        assert process.stop() == 0 and 'Traceback' not in process.output


def test_messages_are_what_nav2_expects(running):
    found = running.answer(['/obstacles', '/scan'])
    cloud, scan = found['/obstacles'], found['/scan']
    assert cloud.header.frame_id == FRAME and cloud.is_dense and cloud.height == 1
    assert [f.name for f in cloud.fields] == ['x', 'y', 'z', 'height', 'label']
    points = np.frombuffer(cloud.data, OBSTACLE)
    assert len(points) == cloud.width > 0
    assert ((points['height'] >= 0.15) & (points['height'] <= 2)).all()
    np.testing.assert_allclose(points['height'], 1 - points['y'], atol=1e-5)  # held level
    assert scan.header.frame_id == 'camera_frame' and scan.header.stamp == cloud.header.stamp
    ranges = np.array(scan.ranges)
    assert len(ranges) == round((scan.angle_max - scan.angle_min) / scan.angle_increment) + 1
    assert scan.angle_min == pytest.approx(-math.atan(31.5 / 32), abs=0.05)
    finite = ranges[np.isfinite(ranges)]
    assert len(finite) and scan.range_min <= finite.min() and finite.max() <= scan.range_max


def test_no_obstacle_is_an_empty_cloud(running):
    """Nav2 clears by it; a missing message would leave the last obstacles."""
    peer = running.peer
    assert peer.set_parameters('perception_node', obstacle_ignore='road,car,building').successful
    found = running.answer(['/obstacles', '/scan'])
    assert found['/obstacles'].width == 0 and not len(found['/obstacles'].data)
    assert not np.isfinite(found['/scan'].ranges).any()
    assert peer.set_parameters('perception_node', obstacle_ignore='sky').successful


def test_the_costmap_example_fits_the_node(repository):
    """Topics and ranges of config/nav2_costmap.yaml; Nav2 itself does not run here."""
    import yaml

    from depth_ros.inference.outputs import TOPICS
    from depth_ros.nodes.parameters import PERCEPTION

    defaults = {p.name: p.default for p in PERCEPTION}
    maps = yaml.safe_load((repository / 'config' / 'nav2_costmap.yaml').read_text())
    sources = []
    for name, layers in (('local_costmap', 'voxel_layer'), ('global_costmap', 'obstacle_layer')):
        layer = maps[name][name]['ros__parameters'][layers]
        for source in layer['observation_sources'].split():
            sources.append((source, layer[source]))
    assert {kind['topic'].strip('/') for _, kind in sources} == {'obstacles', 'scan'}
    for _, source in sources:
        assert TOPICS[source['topic'].strip('/')].msgtype.endswith(source['data_type'])
        assert source['obstacle_max_range'] <= defaults['obstacle_max_range']
        assert source['obstacle_max_range'] <= source['raytrace_max_range']
        assert source['min_obstacle_height'] < source['max_obstacle_height']
