"""SIGINT and SIGTERM end a node quietly with status 0, at any moment and however often."""

import signal
import subprocess
import sys
import time

import pytest
from support.onnx_models import save_pose
from support.ros_process import ROOT, NodeProcess, ros_environment


@pytest.mark.slow
@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('module', ['numpy', 'rclpy', 'depth_ros.nodes.camera_node'])
def test_while_it_loads(module, how):
    node = subprocess.Popen(
        [sys.executable, '-X', 'importtime', '-m', 'depth_ros.nodes.start', 'odometry_node'],
        env=ros_environment(),
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
    )
    said = []
    for line in node.stderr:
        if line.rpartition('|')[2].strip().startswith(module):
            node.send_signal(how)
            break
    said += node.stderr
    assert node.wait(60) == 0
    assert [line for line in said if not line.startswith('import time:')] == []


@pytest.mark.slow
@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
def test_again_and_again(how, tmp_path):
    model = save_pose(tmp_path / 'pose.onnx')
    with NodeProcess('odometry_node', {'model': model}) as node:
        node.wait_for('active: waiting')
        before = node.output
        while node.process.poll() is None:
            node.process.send_signal(how)
            time.sleep(0.003)
        assert node.stop() == 0
        assert 'Traceback' not in node.output and node.output == before


def test_a_missing_package_is_one_line():
    code = (
        'import sys, importlib.util as u; find = u.find_spec\n'
        'u.find_spec = lambda name, *a: None if name == "cv2" else find(name, *a)\n'
        'from depth_ros.nodes.start import start; sys.exit(start("perception_node"))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        'perception_node: the node perception_node needs a Python package that is not installed '
        '(cv2): pip install opencv-python-headless\n'
    )
