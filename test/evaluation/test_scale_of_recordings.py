"""The scale of depth in evaluations: chosen, measured, judged, and told."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from support.bag_messages import image, odometry
from support.drive_recording import info
from support.onnx_models import save_perception
from support.ros_process import info_message

from depth_ros.bags.messages import CAMERA_INFO, IMAGE, ODOMETRY
from depth_ros.bags.topics import Streams
from depth_ros.bags.writer import BagWriter
from depth_ros.commands import evaluate_bag
from depth_ros.evaluation.live_run import LiveSetup, _node_arguments
from depth_ros.evaluation.runner import RecordedImage, Runner, Settings
from depth_ros.inference.contract import read_contract
from depth_ros.inference.loader import load_engine

PERIOD = 10**8
WIDTH, HEIGHT, FOCAL = 160, 96, 80.0


def ground(height, width, focal, under):
    """Depth of flat ground ``under`` below the camera, as far as 15 times that."""
    below = (np.arange(height) - (height - 1) / 2) / focal
    return np.repeat((under / np.maximum(below, 1 / 15))[:, None], width, axis=1)


def drive(path, camera_height, frames=12):
    """A recording of a road, with its true depth and wheels that say nothing of use."""
    calibration = info(PERIOD)
    height, width, focal = calibration.height, calibration.width, calibration.k[0]
    truth = ground(height, width, focal, camera_height).astype(np.float32)
    truth[: int(0.6 * height)] = np.nan
    with BagWriter(path, 'mcap') as writer:
        for i in range(1, frames + 1):
            stamp = i * PERIOD
            writer.write('/cam/camera_info', CAMERA_INFO, stamp, info(stamp))
            dark = np.full((height, width, 3), 20, np.uint8)
            writer.write('/cam/image', IMAGE, stamp, image(dark, 'rgb8', stamp))
            writer.write('/gt/depth', IMAGE, stamp, image(truth, '32FC1', stamp))
            writer.write('/wheels', ODOMETRY, stamp, odometry(stamp))
    return path


@pytest.fixture(scope='module')
def recording(tmp_path_factory):
    return drive(tmp_path_factory.mktemp('recording') / 'bag', 1.5)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """Sees the ground 0.5 units below the camera of the recording."""
    calibration = info(PERIOD)
    focal = calibration.k[0] * 64 / calibration.width
    return save_perception(
        tmp_path_factory.mktemp('model') / 'perception.onnx',
        metric=False,
        intrinsics=(focal, focal, 31.5, 23.5),
        depth=ground(48, 64, calibration.k[4] * 48 / calibration.height, 0.5),
    )


def evaluate(recording, model, out, *options):
    command = [str(recording), '--model', str(model), '--out', str(out), '--no-recording']
    assert evaluate_bag.main([*command, *options]) == 0
    return json.loads((out / 'metrics.json').read_text())


@pytest.mark.slow
@pytest.mark.filterwarnings('error::RuntimeWarning')
def test_the_height_of_the_camera_gives_metres(recording, model, tmp_path, capsys):
    options = ('--scale-source', 'height', '--camera-height', '1.5')
    found = evaluate(recording, model, tmp_path / 'out', *options)
    scale = found['scale']
    assert scale['source'] == 'height of the camera, 1.5 m' and scale['truth'] == 'depth'
    for name in ('height', 'used'):
        row = scale['sources'][name]
        assert abs(row['error_percent']) < 3 and row['within_7_percent'] == 100
        assert row['known_percent'] == pytest.approx(100 * 8 / 12)
    assert found['depth']['rows']['as_published']['abs_rel'] < 0.05
    # The truth is a flat ground.
    assert found['depth']['baselines']['flat_ground_in_metres']['abs_rel'] < 0.01
    assert found['depth']['baselines']['constant']['abs_rel'] > 0.1
    shown = capsys.readouterr().out
    assert 'Metres      from the height of the camera, 1.5 m' in shown
    assert 'scale height: ' in shown and 'flat_ground_in_metres' in shown
    table = (tmp_path / 'out' / 'frames.csv').read_text().splitlines()
    assert 'scale_height_error' in table[0]
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert 'Metres come from the height of the camera, 1.5 m.' in page


@pytest.mark.slow
def test_a_model_without_metres_says_none(recording, model, tmp_path):
    found = evaluate(recording, model, tmp_path / 'out')
    assert found['scale'] is None
    assert 'as_published' not in found['depth']['rows']
    assert set(found['depth']['baselines']) == {'constant', 'flat_ground'}


@pytest.mark.parametrize(
    'options, message',
    [
        (['--scale-source', 'height'], 'needs --camera-height'),
        (['--scale-source', 'odometry'], 'needs --wheel-odom'),
        (['--wheel-odom', '/wheel'], 'did you mean /wheels?'),
        (['--wheel-odom', '/gt/depth'], 'must be a nav_msgs/msg/Odometry or'),
    ],
)
def test_what_is_missing_is_said(recording, model, tmp_path, capsys, options, message):
    command = [str(recording), '--model', str(model), '--out', str(tmp_path / 'out'), *options]
    assert evaluate_bag.main(command) == 1
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


def test_a_height_below_the_ground_is_refused(recording, model, capsys):
    with pytest.raises(SystemExit):
        evaluate_bag.main([str(recording), '--camera-height', '-1.5'])
    assert 'is no positive number' in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['wheels', 'speed'])
def test_travelled_distances_give_metres(tmp_path, kind):
    """A wall 5 units ahead passes by a quarter of a unit a frame: half a metre."""
    path = save_perception(
        tmp_path / 'perception.onnx',
        width=WIDTH,
        height=HEIGHT,
        intrinsics=(FOCAL, FOCAL, (WIDTH - 1) / 2, (HEIGHT - 1) / 2),
        outputs=('depth',),
        metric=False,
        depth=np.full((HEIGHT, WIDTH), 5.0),
    )
    runner = Runner(load_engine(path), None, Settings(scale_source='odometry'), travelled=True)
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT // 4, WIDTH), np.uint8)
    picture = cv2.resize(noise, (4 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for i in range(40):
        stamp = (i + 1) * PERIOD
        if kind == 'wheels':
            message = odometry(stamp)
            message.pose.pose.position.x = 0.5 * i
        else:
            speed = SimpleNamespace(x=5.0, y=0.0, z=0.0)
            message = SimpleNamespace(twist=SimpleNamespace(linear=speed))
        runner.hear(stamp, message)
        seen = np.repeat(picture[:, 4 * i : 4 * i + WIDTH, None], 3, 2)
        output = runner(
            RecordedImage(stamp, 'camera', np.ascontiguousarray(seen)),
            info_message(WIDTH, HEIGHT, FOCAL),
        )
    # A wall's motion aside looks much as a turn does, which costs some exactness.
    assert output.numbers['scale_used'] == pytest.approx(2.0, rel=0.05)
    np.testing.assert_allclose(output.depth, 5 * output.numbers['scale_used'], rtol=1e-6)


@pytest.mark.parametrize('topic', ['wheel_odom', 'speed'])
def test_the_nodes_of_a_live_run_get_the_distances(recording, model, tmp_path, topic, monkeypatch):
    from depth_ros.evaluation import live_run

    if topic == 'speed':
        monkeypatch.setattr(live_run, 'ODOMETRY', 'something else')
    setup = LiveSetup(
        bag=recording,
        streams=Streams('/cam/image', '/cam/camera_info', wheels='/wheels'),
        compressed=False,
        out=tmp_path,
        models={'perception_node': model},
        parameters={'scale_source': 'odometry', 'camera_height': '1.5'},
    )
    arguments = _node_arguments(setup, 'perception_node')
    assert f'{topic}:=/wheels' in arguments and 'scale_source:=odometry' in arguments
    assert 'camera_height:=1.5' in arguments and '/wheels' in setup.played
    assert read_contract(model).metric is False
