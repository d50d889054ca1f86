"""README's way from a bag to running nodes, command by command, on a tiny budget."""

import os
import re
import shlex
import subprocess
import sys

import cv2
import numpy as np
import pytest
from nav_msgs.msg import Odometry
from ros_process import ROOT, Camera, NodeProcess, Peer, image_message, info_message, stamp
from scene import pixels
from sensor_msgs.msg import Image

from depth_ros.bag import CAMERA_INFO, IMAGE, ODOMETRY, BagWriter
from depth_ros.contract import read_contract

WIDTH, HEIGHT, FOCAL = 160, 120, 120.0
FRAMES, RATE = 60, 10
# What makes each command small.
BUDGET = {
    'prepare': ['--width', '64', '--height', '64'],
    'fit': ['--width', '64', '--height', '64', '--steps', '2', '--batch-size', '2', '--val-every',
            '1', '--workers', '0', '--accelerator', 'cpu'],
    'export': [],
}


def readme_commands():
    """The walk-through's commands, as lists of words."""
    block = re.search(r'<!-- walk-through -->\s+```sh\n(.*?)```',
                      (ROOT / 'README.md').read_text(), re.DOTALL)[1]
    return [shlex.split(line) for line in block.replace('\\\n', ' ').splitlines()]


def view(i):
    """What the camera sees: a wall that slides by 4 pixels a frame."""
    small = np.random.default_rng(0).integers(0, 255, (20, 100, 3), np.uint8)
    wide = cv2.resize(small, (1000, 200), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(wide[40:40 + HEIGHT, 4 * i:4 * i + WIDTH])


def record(path):
    """A robot's bag: raw images of a lens that bends, their calibration, and wheel odometry."""
    with BagWriter(path) as bag:
        types = bag.types.types

        def put(topic, kind, *fields):
            time = types['builtin_interfaces/msg/Time'](*divmod(ns, 10**9))
            bag.write(topic, kind, ns, types[kind](
                types['std_msgs/msg/Header'](time, 'camera'), *fields))
        vector, geometry = types['geometry_msgs/msg/Vector3'], 'geometry_msgs/msg/'
        k = np.array([FOCAL, 0, 79.5, 0, FOCAL, 59.5, 0, 0, 1])
        p = np.column_stack([k.reshape(3, 3), np.zeros(3)]).ravel()
        for i in range(FRAMES):
            ns = 10**18 + i * 10**9 // RATE
            put('/camera/camera_info', CAMERA_INFO, HEIGHT, WIDTH, 'plumb_bob',
                np.array([-0.1, 0.01, 0, 0, 0]), k, np.eye(3).ravel(), p, 0, 0,
                types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False))
            put('/camera/image_raw', IMAGE, HEIGHT, WIDTH, 'rgb8', 0, 3 * WIDTH, view(i).ravel())
            put('/odom', ODOMETRY, 'base_link',
                types[f'{geometry}PoseWithCovariance'](
                    types[f'{geometry}Pose'](
                        types[f'{geometry}Point'](0.1 * i, 0.0, 0.0),
                        types[f'{geometry}Quaternion'](0.0, 0.0, 0.0, 1.0)), np.zeros(36)),
                types[f'{geometry}TwistWithCovariance'](
                    types[f'{geometry}Twist'](vector(1.0, 0, 0), vector(0, 0, 0)), np.zeros(36)))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Folder in which README's commands were run, and what they printed by their names."""
    folder = tmp_path_factory.mktemp('walk')
    (folder / 'train').symlink_to(ROOT / 'train')  # README's paths begin in the repository
    record(folder / 'my_bag')
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    printed = {}
    for words in readme_commands():
        if words[0] != 'python':
            continue
        name = words[3]
        done = subprocess.run([sys.executable, *words[1:], *BUDGET[name]], cwd=folder,
                              env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        printed[name] = done.stdout
    return folder, printed


def test_the_commands_make_data_a_checkpoint_and_models(trained):
    folder, printed = trained
    assert list(printed) == ['prepare', 'fit', 'export']
    for part in ('train', 'val', 'test'):
        assert any((folder / 'data/mine' / part / 'my_bag/images').iterdir())
    page = (folder / 'data/mine/summary.html').read_text()
    assert 'rectified here (plumb_bob)' in page and '/odom, of 100 %' in page
    assert (folder / 'runs/mine/best.ckpt').exists()
    assert {p.name for p in (folder / 'models/mine').iterdir()} == {'perception.onnx', 'pose.onnx'}
    assert read_contract(folder / 'models/mine/perception.onnx').metric, 'by the odometry'


def test_the_nodes_run_the_models(trained):
    """With the models and topics of README's last command: depth, and odometry."""
    folder, _ = trained
    launch = dict(word.split(':=') for word in readme_commands()[-1] if ':=' in word)
    models = {name: launch[f'{name}_model'].replace('$PWD', str(folder))
              for name in ('perception', 'odometry')}
    remap = {'image': launch['image_topic'], 'camera_info': launch['camera_info_topic']}
    with (Peer() as peer, NodeProcess('perception_node', {'model': models['perception']}, remap),
          NodeProcess('odometry_node', {'model': models['odometry']}, remap)):
        peer.listen(Image, '/depth/image_rect')
        peer.listen(Odometry, '/odom')
        camera = Camera(peer, *remap.values())
        for node in ('perception_node', 'odometry_node'):
            peer.wait_state(node, 'active')
        camera.wait_matched(nodes=2)
        depths, odom = peer.messages['/depth/image_rect'], peer.messages['/odom']
        for i in range(3):
            camera.publish(image_message(view(i), 10 + i / RATE),
                           info_message(WIDTH, HEIGHT, FOCAL))
            peer.spin_until(lambda count=i: len(depths) > count and len(odom) >= count,
                            what=f'outputs of frame {i}')
        depth = pixels(depths[0])
        assert depth.shape == (HEIGHT, WIDTH) and np.isfinite(depth).all() and depth.min() > 0
        assert [stamp(m) for m in odom] == pytest.approx([10.1, 10.2])
        place = odom[-1].pose.pose.position
        assert np.isfinite([place.x, place.y, place.z]).all()
