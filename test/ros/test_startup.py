"""What is wrong before a node is there is one clear line."""

import subprocess
import sys

import pytest
from support.ros_process import ros_environment

from depth_ros.ros.startup import argument_problem, environment_problem, start_problem


def test_arguments_need_ros_args():
    assert argument_problem([]) == ''
    assert argument_problem(['--ros-args', '-p', 'threads:=3', '-r', 'a:=b']) == ''
    found = argument_problem(['image:=/camera', '--ros-args', '-p', 'threads:=3'])
    assert found.startswith('unknown arguments: image:=/camera; ') and '--ros-args -p' in found


@pytest.mark.parametrize('domain', ['', '0', '232'])
def test_good_domains(domain):
    assert environment_problem({'ROS_DOMAIN_ID': domain}) == ''


@pytest.mark.parametrize('domain', ['abc', '-1', '1.5', '233', '300'])
def test_bad_domains(domain):
    found = environment_problem({'ROS_DOMAIN_ID': domain})
    assert f"'{domain}'" in found and '0 .. 232' in found


def test_errors_of_ros_are_one_line_without_its_source():
    error = RuntimeError(
        "failed to initialize rcl: Couldn't parse params file: '--params-file x.yaml'. Error: "
        'Sequences can only be values. Error at line 1\n, at /project/src/parse.c:835, at '
        '/project/src/rcl/arguments.c:415'
    )
    assert start_problem(error) == (
        "ROS 2 cannot start: Couldn't parse params file: '--params-file x.yaml'. Error: Sequences "
        'can only be values. Error at line 1; give --params-file an existing YAML file like '
        'config/depth_ros.yaml'
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arguments', 'environment', 'causes'),
    [
        (['backend:=openvino'], {}, ('unknown arguments: backend:=openvino', '--ros-args')),
        (['--ros-args', '--params-file', '/no.yaml'], {}, ('/no.yaml', 'existing YAML file')),
        (['--ros-args', '--log-level', 'loud'], {}, ('loud', 'levels are debug')),
        (['--ros-args', '-r', 'image'], {}, ("'-r image'", '-r OLD:=NEW')),
        (['--ros-args', '-p', 'threads'], {}, ("'-p threads'", '-p NAME:=VALUE')),
        (['--ros-args', '--nonsense'], {}, ('--nonsense',)),
        ([], {'ROS_DOMAIN_ID': 'abc'}, ("ROS_DOMAIN_ID is 'abc'",)),
        ([], {'HOME': ''}, ('logging directory', 'ROS_LOG_DIR')),
    ],
)
def test_a_node_that_cannot_start_says_why(arguments, environment, causes):
    done = subprocess.run(
        [sys.executable, '-m', 'depth_ros.nodes.perception_node', *arguments],
        env={**ros_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith('perception_node: '), lines
    assert all(cause in lines[0] for cause in causes), lines


@pytest.mark.slow
@pytest.mark.parametrize('name', ['threads', 'camera_pose', 'model', 'max_gap', 'autostart'])
def test_a_parameter_without_a_value(name, tmp_path):
    file = tmp_path / 'parameters.yaml'
    file.write_text(f'odometry_node:\n  ros__parameters:\n    {name}: []\n')
    done = subprocess.run(
        [sys.executable, '-m', 'depth_ros.nodes.odometry_node']
        + ['--ros-args', '--params-file', str(file)],
        env=ros_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"parameter '{name}' " in done.stderr and 'must be a' in done.stderr
    assert 'Traceback' not in done.stderr and len(done.stderr.strip().splitlines()) == 1
