"""The demo from the command line: the real nodes, player and recorder over real DDS, with tiny
networks whose outputs are known."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import onnx_models
from support.bag_messages import compressed, header, image, odometry
from support.drive_recording import (
    FRAMES,
    PERIOD_NS,
    START_NS,
    info,
    pixels,
    truth_depth,
    write,
)

from depth_ros.bags.messages import CAMERA_INFO, IMAGE, ODOMETRY, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.writer import BagWriter
from depth_ros.core.images import decode_depth
from depth_ros.ros import domain

pytestmark = pytest.mark.slow  # real nodes in every test


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """Options that name the tiny networks, whose word alone is the odometry: pictures are noise."""
    folder = tmp_path_factory.mktemp('models')
    perception = onnx_models.save_perception(folder / 'perception.onnx')
    pose = onnx_models.save_pose(folder / 'pose.onnx')
    return ['--refinement', 'none', '--threads', '1', '--model', str(perception), str(pose)]


def start(*options) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable,
            '-m',
            'depth_ros.commands.demo',
            '--domain',
            os.environ['ROS_DOMAIN_ID'],
            *map(str, options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores interrupts, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def demo(*options) -> tuple[int, str, str]:
    process = start(*options)
    try:
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    return process.returncode, out, err


def children_of(out: Path) -> list[int]:
    """Processes that have a file of this demo open as their output."""
    found = []
    for entry in Path('/proc').iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / 'fd' / '1').startswith(str(out)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope='module')
def judged(models, tmp_path_factory):
    """A whole run on a recording with ground truth."""
    folder = tmp_path_factory.mktemp('demo')
    out = folder / 'out'
    status, printed, errors = demo(
        '--bag', write(folder / 'tiny', truth=True), '--out', out, *models
    )
    assert status == 0, errors
    return out, printed, json.loads((out / 'metrics.json').read_text())


def test_every_frame_comes_out(judged):
    _, printed, found = judged
    assert found['frames']['recorded'] == found['frames']['played'] == FRAMES
    # Newest-frame nodes may drop some on a busy machine; the last one never.
    assert found['frames']['judged'] > FRAMES / 2
    assert found['dropped_percent'] == pytest.approx(100 * (1 - found['frames']['judged'] / FRAMES))
    assert f'{FRAMES} in, {found["frames"]["judged"]} out' in printed
    latency = found['latency_ms']['perception']
    assert 0 < latency['p50'] <= latency['p95'] <= latency['max']


def test_errors_are_those_of_the_networks(judged):
    _, printed, found = judged
    assert found['depth']['frames'] == found['frames']['judged']
    rows = found['depth']['rows']
    assert rows['median_scaled']['abs_rel'] == pytest.approx(0, abs=2e-3)
    assert rows['as_published']['abs_rel'] == pytest.approx(1 - 1 / 1.1, abs=2e-3)
    # Everything is called road, a quarter is car.
    assert found['semantics']['iou'] == pytest.approx({'road': 0.75, 'car': 0.0})
    # The truth goes twice as far as the odometry says.
    assert found['trajectory']['ate_sim3'] == pytest.approx(0, abs=0.2)
    assert found['trajectory']['ate_se3'] > 1
    assert 'median_scaled' in printed and 'road IoU 0.750' in printed and 'ATE' in printed


def test_the_recording_has_input_truth_and_outputs(judged):
    out, _, found = judged
    with Bag(out / 'recording') as bag:
        assert {
            '/camera/image_rect/compressed',
            '/camera/camera_info',
            '/ground_truth/odom',
            '/ground_truth/depth/image_rect/compressedDepth',
            '/depth/image_rect',
            '/depth/camera_info',
            '/depth/color',
            '/semantics/labels',
            '/semantics/color',
            '/odom',
            '/path',
            '/tf',
            '/tf_static',
            '/depth/error/compressed',
        } <= bag.topics.keys()
        assert bag.topics['/depth/image_rect'].count == found['frames']['judged']
        stamps = {header_stamp(m.data) for m in bag.messages(['/depth/image_rect'])}
        assert START_NS + (FRAMES - 1) * PERIOD_NS in stamps
        assert stamps <= {START_NS + i * PERIOD_NS for i in range(FRAMES)}
        depth = decode_depth(bag.first('/depth/image_rect'))
    assert np.allclose(depth, truth_depth() / 1.1, atol=1e-3)


def test_nothing_is_left_over(judged):
    out, _, _ = judged
    assert children_of(out) == []
    assert sorted(os.listdir(out)) == [
        'frames.csv',
        'logs',
        'metrics.json',
        'overview.jpg',
        'recording',
        'report.html',
        'trajectory',
    ]


def test_the_nodes_leave_in_peace(judged):
    out, _, found = judged
    logs = ''.join(p.read_text() for p in (out / 'logs').glob('*.log'))
    assert 'Traceback' not in logs
    assert found['stages_ms'].keys() == {'perception_node', 'odometry_node'}


def test_a_recording_without_ground_truth(models, tmp_path):
    bag = write(tmp_path / 'plain', truth=False, storage='sqlite3')
    status, printed, errors = demo('--bag', bag, '--out', tmp_path / 'out', '--rate', 2, *models)
    assert status == 0, errors
    assert 'no ground truth in this recording' in printed
    found = json.loads((tmp_path / 'out/metrics.json').read_text())
    assert found['topics'] == {'image': '/front/image', 'camera_info': '/front/camera_info'}
    assert found['depth'] is None and found['semantics'] is None and found['trajectory'] is None
    page = (tmp_path / 'out/report.html').read_text()
    assert 'No ground truth in this recording' in page and page.count('<img') > 10


def test_the_nodes_get_their_parameters(models, tmp_path):
    bag, out = write(tmp_path / 'tiny', truth=True, frames=6), tmp_path / 'out'
    far = float(np.median(onnx_models.row_depth()))
    status, _, errors = demo(
        '--bag',
        bag,
        '--out',
        out,
        '--max-depth',
        far,
        '--camera-pose',
        0.5,
        0,
        1,
        0,
        0,
        0,
        1,
        *models,
    )
    assert status == 0, errors
    found = json.loads((out / 'metrics.json').read_text())
    assert 0.3 < found['depth']['coverage'] < 0.7  # about half of the rows are nearer
    with Bag(out / 'recording') as recording:
        position = recording.decode([*recording.messages(['/odom'])][0]).pose.pose.position
    # The base's axes are the camera's: forward along z, as the network says.
    assert abs(position.z) > 10 * abs(position.x)


def test_awkward_topic_names(models, tmp_path):
    """Compressed images without the usual suffix, and a true pose named like our output."""
    with BagWriter(tmp_path / 'awkward') as writer:
        for index in range(10):
            stamp = START_NS + index * PERIOD_NS
            picture = compressed(pixels(), '.jpg', 'jpeg')
            picture.header.stamp = header(stamp).stamp
            pose = odometry(stamp)
            pose.pose.pose.position.x = float(index)
            for topic, message in (
                ('/front/picture', picture),
                ('/front/camera_info', info(stamp)),
                ('/odom', pose),
            ):
                writer.write(topic, message.__msgtype__, stamp, message)
    out = tmp_path / 'out'
    status, printed, errors = demo(
        '--bag', tmp_path / 'awkward', '--out', out, '--odom-gt', '/odom', *models
    )
    assert status == 0, errors
    with Bag(out / 'recording') as bag:
        assert {
            '/front/picture/compressed',
            '/odom',
            '/depth_ros/odom',
            '/depth_ros/depth/image_rect',
        } <= bag.topics.keys()
        assert bag.topics['/odom'].count == 10
    assert (
        'ATE' in printed and json.loads((out / 'metrics.json').read_text())['frames']['judged'] > 5
    )


# What goes wrong


def test_bad_options_end_with_one_line(models, tmp_path):
    bag = write(tmp_path / 'tiny', truth=True, frames=2)
    cases = [
        (['--bag', tmp_path / 'nothing', *models], 'nothing does not exist'),
        (['--bag', bag, '--model', tmp_path / 'no.onnx'], 'no.onnx'),
        (['--bag', bag, '--model', models[-1], models[-1]], 'are both for the odometry_node'),
        (['--bag', bag, *models, '--image', '/x'], 'has no topic /x'),
        (['--bag', bag, *models, '--out', bag], 'lies in the output folder'),
    ]
    for options, message in cases:
        if '--out' not in options:
            options = [*options, '--out', tmp_path / 'out']
        status, _, errors = demo(*options)
        assert status == 1, message
        assert message in errors and 'Traceback' not in errors
        assert errors.count('\n') == 1


def test_a_recording_without_images(models, tmp_path):
    with BagWriter(tmp_path / 'b') as writer:
        writer.write('/odom', ODOMETRY, 1, odometry())
    status, _, errors = demo('--bag', tmp_path / 'b', '--out', tmp_path / 'out', *models)
    assert status == 1
    assert 'no camera image topic' in errors and '/odom (nav_msgs/msg/Odometry, 1)' in errors


def test_no_frame_out_is_a_failure_with_its_reason(models, tmp_path):
    bag = tmp_path / 'unusable'
    with BagWriter(bag) as writer:
        for index in range(5):
            stamp = START_NS + index * PERIOD_NS
            writer.write('/cam/image', IMAGE, stamp, image(pixels(), 'rgb8', stamp))
            message = info(stamp)
            message.k = message.k * 0
            message.p = message.p * 0
            writer.write('/cam/camera_info', CAMERA_INFO, stamp, message)
    status, _, errors = demo('--bag', bag, '--out', tmp_path / 'out', *models)
    assert status == 1
    assert 'no frame came out on /depth/image_rect for 5 images' in errors
    assert 'camera_info' in errors  # what the node said
    assert not (tmp_path / 'out/report.html').exists()
    assert children_of(tmp_path / 'out') == []


def wait_for_children(out: Path, count: int, timeout: float = 60) -> list[int]:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if len(found := children_of(out)) >= count:
            return found
        time.sleep(0.1)
    raise TimeoutError(f'{out} has {len(children_of(out))} processes')


def test_a_node_that_dies_is_reported(models, tmp_path):
    out = tmp_path / 'out'
    process = start(
        '--bag', write(tmp_path / 'tiny', truth=True), '--out', out, *models, '--rate', 0.2
    )
    try:
        wait_for_children(out, 4)
        node = next(
            pid
            for pid in children_of(out)
            if os.readlink(f'/proc/{pid}/fd/1').endswith('odometry_node.log')
        )
        os.kill(node, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert 'odometry_node ended with signal 9' in errors and 'Traceback' not in errors
    assert children_of(out) == []


@pytest.mark.parametrize(
    'number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_an_interrupted_demo_leaves_no_process(models, tmp_path, number, status):
    out = tmp_path / 'out'
    process = start(
        '--bag', write(tmp_path / 'tiny', truth=True), '--out', out, *models, '--rate', 0.1
    )
    try:
        assert len(wait_for_children(out, 4)) == 4
        time.sleep(2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status
    assert 'Traceback' not in errors
    end = time.monotonic() + 30
    while children_of(out) and time.monotonic() < end:  # the kernel tells them if we were killed
        time.sleep(0.2)
    assert children_of(out) == []
    assert not (out / 'report.html').exists()


def test_bench_prints_a_row_for_each_model_node_and_size(models):
    command = [
        sys.executable,
        '-m',
        'depth_ros.commands.bench',
        *models[2:],
        '--runs',
        '3',
        '--frames',
        '25',
        '--evaluated',
        '20',
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {row[0] for row in rows if len(row) > 2 and row[1] == '64x48'} == {
        'perception.onnx',
        'pose.onnx',
    }
    nodes = [row for row in rows if len(row) == 7 and row[1].endswith('_node')]
    assert [row[:2] for row in nodes] == [
        [size, node]
        for size in ('1280x720', '640x192')
        for node in ('perception_node', 'odometry_node')
    ]
    count, what, speed, without, memory = rows[-1]
    assert (count, what) == ('20', 'frames')
    assert 0 < float(speed) <= float(without) and float(memory) > 50
    for _, _, inference, other, ratio, latency, _ in nodes:
        assert float(ratio) == pytest.approx(float(other) / float(inference), rel=0.3, abs=0.02)
        assert float(latency) > 0


def test_a_domain_is_claimed_only_once(tmp_path, monkeypatch):
    monkeypatch.setattr(domain.tempfile, 'tempdir', str(tmp_path))
    monkeypatch.setattr(domain, 'LAST_DOMAIN', 3)
    monkeypatch.setattr(domain, '_locks', [])
    claim = (
        'from depth_ros.ros import domain; domain.LAST_DOMAIN = 3; print(domain.claim_domain()); '
        'input()'
    )
    with subprocess.Popen(
        [sys.executable, '-c', claim],
        env={**os.environ, 'TMPDIR': str(tmp_path)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        first = int(other.stdout.readline())
        assert {domain.claim_domain() for _ in range(2)} == {1, 2, 3} - {first}
        with pytest.raises(RuntimeError, match='all ROS domains are taken'):
            domain.claim_domain()
        other.communicate('\n')
    assert domain.claim_domain() == first  # free again when that process has ended
