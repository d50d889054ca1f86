"""The documented ways from a bag to running nodes and from a video to models, command by command,
on a tiny budget."""

import argparse
import os
import re
import shlex
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Image
from support.ros_process import ROOT, Camera, NodeProcess, Peer, image_message, info_message, stamp
from support.scene import pixels

from depth_ros.bags.messages import CAMERA_INFO, IMAGE, ODOMETRY
from depth_ros.bags.reader import Bag
from depth_ros.bags.writer import BagWriter
from depth_ros.inference.contract import read_contract
from train.training.config import add_config_arguments, read_config
from train.training.system import System

WIDTH, HEIGHT, FOCAL = 160, 120, 120.0
FRAMES, RATE = 60, 10
PAGES = {'walk-through': 'README.md', 'video': 'docs/training.md'}
# What makes each command small.
BUDGET = {
    'prepare': ['--width', '64', '--height', '64'],
    'fit': [
        '--width',
        '64',
        '--height',
        '64',
        '--steps',
        '2',
        '--batch-size',
        '2',
        '--val-every',
        '1',
        '--workers',
        '0',
        '--accelerator',
        'cpu',
    ],
    'export': [],
}


def documented_commands(marker):
    """The commands of the block after a marker, as lists of words."""
    page = (ROOT / PAGES[marker]).read_text()
    block = re.search(rf'<!-- {marker} -->\s+```sh\n(.*?)```', page, re.DOTALL)[1]
    return [shlex.split(line) for line in block.replace('\\\n', ' ').splitlines()]


def view(i):
    """What the camera sees: a wall that slides by 4 pixels a frame."""
    small = np.random.default_rng(0).integers(0, 255, (20, 100, 3), np.uint8)
    wide = cv2.resize(small, (1000, 200), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(wide[40 : 40 + HEIGHT, 4 * i : 4 * i + WIDTH])


def record(path):
    """A robot's bag: raw images of a lens that bends, their calibration, and wheel odometry."""
    with BagWriter(path) as bag:
        types = bag.types.types

        def put(topic, kind, *fields):
            time = types['builtin_interfaces/msg/Time'](*divmod(ns, 10**9))
            bag.write(
                topic, kind, ns, types[kind](types['std_msgs/msg/Header'](time, 'camera'), *fields)
            )

        vector, geometry = types['geometry_msgs/msg/Vector3'], 'geometry_msgs/msg/'
        k = np.array([FOCAL, 0, 79.5, 0, FOCAL, 59.5, 0, 0, 1])
        p = np.column_stack([k.reshape(3, 3), np.zeros(3)]).ravel()
        for i in range(FRAMES):
            ns = 10**18 + i * 10**9 // RATE
            put(
                '/camera/camera_info',
                CAMERA_INFO,
                HEIGHT,
                WIDTH,
                'plumb_bob',
                np.array([-0.1, 0.01, 0, 0, 0]),
                k,
                np.eye(3).ravel(),
                p,
                0,
                0,
                types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False),
            )
            put('/camera/image_raw', IMAGE, HEIGHT, WIDTH, 'rgb8', 0, 3 * WIDTH, view(i).ravel())
            put(
                '/odom',
                ODOMETRY,
                'base_link',
                types[f'{geometry}PoseWithCovariance'](
                    types[f'{geometry}Pose'](
                        types[f'{geometry}Point'](0.1 * i, 0.0, 0.0),
                        types[f'{geometry}Quaternion'](0.0, 0.0, 0.0, 1.0),
                    ),
                    np.zeros(36),
                ),
                types[f'{geometry}TwistWithCovariance'](
                    types[f'{geometry}Twist'](vector(1.0, 0, 0), vector(0, 0, 0)), np.zeros(36)
                ),
            )


def run_commands(marker, folder, **more):
    """Run a page's commands in a folder; returns what they printed, by their names.

    ``more`` are options besides the budget's, by the commands' names.
    """
    (folder / 'train').symlink_to(ROOT / 'train')  # the commands' paths begin in the repository
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    printed = {}
    for words in documented_commands(marker):
        if words[0] != 'python':
            continue
        name = words[3]
        done = subprocess.run(
            [sys.executable, *words[1:], *BUDGET[name], *more.get(name, [])],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        printed[name] = done.stdout
    return printed


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Folder in which the commands for a bag were run, and what they printed."""
    folder = tmp_path_factory.mktemp('walk')
    record(folder / 'my_bag')
    return folder, run_commands('walk-through', folder)


def test_the_commands_make_data_a_checkpoint_and_models(trained):
    folder, printed = trained
    assert list(printed) == ['prepare', 'fit', 'export']
    for part in ('train', 'val', 'test'):
        assert any((folder / 'data/mine' / part / 'my_bag/images').iterdir())
    page = (folder / 'data/mine/summary.html').read_text()
    assert 'rectified here (plumb_bob; ' in page and '/odom, of 100 %' in page
    assert (folder / 'runs/mine/best.ckpt').exists()
    assert {p.name for p in (folder / 'models/mine').iterdir()} == {'perception.onnx', 'pose.onnx'}
    assert read_contract(folder / 'models/mine/perception.onnx').metric, 'by the odometry'


def test_the_nodes_run_the_models(trained):
    """With the models and topics of the last command: depth, and odometry."""
    folder, _ = trained
    launch = dict(
        word.split(':=') for word in documented_commands('walk-through')[-1] if ':=' in word
    )
    models = {
        name: launch[f'{name}_model'].replace('$PWD', str(folder))
        for name in ('perception', 'odometry')
    }
    remap = {'image': launch['image_topic'], 'camera_info': launch['camera_info_topic']}
    with (
        Peer() as peer,
        NodeProcess('perception_node', {'model': models['perception']}, remap),
        NodeProcess('odometry_node', {'model': models['odometry']}, remap),
    ):
        peer.listen(Image, '/depth/image_rect')
        peer.listen(Odometry, '/odom')
        camera = Camera(peer, *remap.values())
        for node in ('perception_node', 'odometry_node'):
            peer.wait_state(node, 'active')
        camera.wait_matched(nodes=2)
        depths, odom = peer.messages['/depth/image_rect'], peer.messages['/odom']
        for i in range(3):
            camera.publish(
                image_message(view(i), 10 + i / RATE), info_message(WIDTH, HEIGHT, FOCAL)
            )
            peer.spin_until(
                lambda count=i: len(depths) > count and len(odom) >= count,
                what=f'outputs of frame {i}',
            )
        depth = pixels(depths[0])
        assert depth.shape == (HEIGHT, WIDTH) and np.isfinite(depth).all() and depth.min() > 0
        assert [stamp(m) for m in odom] == pytest.approx([10.1, 10.2])
        place = odom[-1].pose.pose.position
        assert np.isfinite([place.x, place.y, place.z]).all()


def film(path):
    """A video of the demo's street; returns its pictures (N, 64, 64, 3), at the networks' size."""
    with Bag(ROOT / 'demo/street') as bag:
        pictures = [
            cv2.imdecode(bag.decode(message).data, cv2.IMREAD_COLOR)
            for message in bag.messages(['/camera/image_rect/compressed'])
        ][:40]
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*'mp4v'), 10, pictures[0].shape[1::-1]
    )
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return np.stack([cv2.resize(p, (64, 64), interpolation=cv2.INTER_AREA) for p in pictures])


def begin(path, pictures):
    """A checkpoint that knows the road as a plane: two steps teach nobody where the ground is."""
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    words = next(words for words in documented_commands('video') if words[3] == 'fit')[4:]
    config = str(ROOT / words[words.index('--config') + 1])
    torch.manual_seed(0)
    system = System(read_config(parser.parse_args([*words, '--config', config])))
    optimizer = torch.optim.Adam(system.perception.parameters(), 3e-3)
    images = torch.from_numpy(pictures[..., ::-1].copy()).permute(0, 3, 1, 2) / 255
    wanted = (torch.arange(64.0) - 30).clamp(min=1).div(20).log()[:, None].expand(64, 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # pictures as small as these cost more to divide
    for step in range(40):
        disparity = system.perception(images[step % 10 :: 10]).disparities[0]
        error = (disparity.log() - wanted[::2, ::2]).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    torch.save({'state_dict': system.state_dict()}, path)


def test_a_video_without_calibration_makes_metric_models(tmp_path):
    begin(tmp_path / 'begin.ckpt', film(tmp_path / 'walk.mp4'))
    printed = run_commands('video', tmp_path, fit=['--init', 'begin.ckpt'])
    assert list(printed) == ['prepare', 'fit', 'export']
    assert (tmp_path / 'data/mine/train/walk/intrinsics.txt').read_text() == 'unknown\n'
    scale = float(re.search(r'metric scale (\S+) from', printed['export'])[1])
    for name in ('perception', 'pose'):
        contract = read_contract(tmp_path / f'models/mine/{name}.onnx')
        assert contract.metric and contract.provenance['camera_height'] == 1.4
        assert contract.provenance['metric_scale'] == pytest.approx(scale, abs=1e-3) and scale > 0
        assert 10 < contract.intrinsics[0] < 200, 'learnt, of 64 pixels'
