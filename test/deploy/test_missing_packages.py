"""Commands without a package that they need: one sentence that says what to install."""

import shutil
import subprocess
import sys

import pytest
from support import drive_recording, onnx_models

from depth_ros.share import share_path

pytestmark = pytest.mark.slow  # whole commands, started afresh

CODE = """
import sys
name, command, *arguments = sys.argv[1:]
sys.modules[name] = None
module = __import__(f'depth_ros.commands.{command}', fromlist=['main'])
sys.exit(module.main(arguments))
"""


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    onnx_models.save_perception(folder / 'net.onnx')
    drive_recording.write(folder / 'bag', truth=True)
    shutil.copy(share_path('models/pose.onnx'), folder)
    return folder


@pytest.mark.parametrize(
    ('command', 'missing', 'remedy'),
    [
        ('build_engine net.onnx --check', 'onnx', 'onnx'),
        ('build_engine net.onnx --check', 'tensorrt_rtx', 'tensorrt-rtx-cu13'),
        ('compare_engines net.onnx net.onnx --images bag', 'onnx', 'onnx'),
        ('compare_engines net.onnx net.onnx --images bag', 'tqdm', 'tqdm'),
        ('compare_engines net.onnx net.onnx --images bag', 'rosbags', 'rosbags lz4'),
        ('compare_engines net.onnx net.onnx --images bag --classes net.onnx', 'yaml', 'pyyaml'),
        (
            'compare_engines net.onnx net.onnx --images bag --backend openvino openvino',
            'openvino',
            'openvino',
        ),
        ('bench_engine net.onnx', 'onnx', 'onnx'),
        ('bench_engine net.onnx', 'tqdm', 'tqdm'),
        ('quantize net.onnx --calibration bag', 'onnx', 'onnx'),
        ('quantize net.onnx --calibration bag', 'onnxruntime', 'onnxruntime'),
        ('quantize pose.onnx --calibration bag', 'lz4', 'rosbags lz4'),
        ('adopt_model net.onnx --output new.onnx', 'onnx', 'onnx'),
        ('adopt_model net.onnx --output new.onnx', 'yaml', 'pyyaml'),
        ('adopt_model net.onnx --output new.onnx', 'onnxruntime', 'onnxruntime'),
    ],
)
def test_what_is_not_installed_is_asked_for(files, command, missing, remedy):
    found = subprocess.run(
        [sys.executable, '-c', CODE, missing, *command.split()],
        cwd=files,
        text=True,
        capture_output=True,
    )
    (line,) = found.stderr.strip().splitlines()
    assert found.returncode in (1, 2) and line.startswith(f'{command.split()[0]}: ')
    assert missing in line and line.endswith(f'pip install {remedy}')


@pytest.mark.parametrize(
    'command', ['adopt_model', 'bench_engine', 'build_engine', 'compare_engines', 'quantize']
)
def test_a_command_explains_itself_without_ros_and_optional_packages(files, command):
    missing = 'rclpy', 'sensor_msgs', 'onnx', 'onnxruntime', 'openvino', 'rosbags', 'tqdm', 'yaml'
    code = f'import sys; sys.modules.update(dict.fromkeys({missing}))\n' + CODE
    found = subprocess.run(
        [sys.executable, '-c', code, 'torch', command, '--help'],
        cwd=files,
        text=True,
        capture_output=True,
    )
    assert found.returncode == 0 and command in found.stdout, found.stderr


def test_what_happens_to_a_model_before_a_robot_runs_it_needs_no_ros():
    code = (
        'import sys; from depth_ros.commands import '
        'adopt_model, bench_engine, build_engine, compare_engines, quantize; '
        'from depth_ros.deploy import bench, build, compare, quantize; '
        'from depth_ros.deploy.adopt import adoption, read; '
        "print({'rclpy', 'sensor_msgs', 'std_msgs'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True)
    assert found.stdout.strip() == 'set()', found.stderr
