"""A command without an optional package says in one sentence what to install."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # whole commands, started afresh

EVALUATE, BENCH, DEMO = 'evaluate_bag', 'bench', 'demo'


def run(repository, command, missing, *arguments):
    """Status and standard error of a command where a module cannot be imported."""
    code = (
        f'import sys; sys.modules[{missing!r}] = None\n'
        f'from depth_ros.commands import {command}\n'
        f'sys.exit({command}.main({list(arguments)!r}))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=repository, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stderr.strip().splitlines()


@pytest.mark.parametrize(
    ('command', 'missing', 'remedy'),
    [
        *((EVALUATE, name, f'pip install {name}') for name in ('matplotlib', 'jinja2', 'tqdm')),
        (EVALUATE, 'rosbags', 'pip install rosbags lz4'),
        (EVALUATE, 'lz4', 'pip install rosbags lz4'),
        (DEMO, 'rclpy', "source ROS 2's setup file, or pip install 'depth_ros[ros]'"),
        (DEMO, 'matplotlib', 'pip install matplotlib'),
        (BENCH, 'rclpy', "source ROS 2's setup file, or pip install 'depth_ros[ros]'"),
        (BENCH, 'yaml', 'pip install pyyaml'),
        (BENCH, 'jinja2', 'pip install jinja2'),
    ],
)
def test_one_sentence_says_what_to_install(repository, tmp_path, command, missing, remedy):
    arguments = {
        EVALUATE: ['demo/street', '--out', str(tmp_path / 'out')],
        DEMO: ['--out', str(tmp_path / 'out')],
        BENCH: [],
    }[command]
    status, lines = run(repository, command, missing, *arguments)
    assert status == 1 and len(lines) == 1, lines
    assert missing in lines[0] and lines[0].endswith(remedy)
    assert not (tmp_path / 'out').exists()


def test_several_recordings_need_a_progress_bar_and_a_cluster_needs_dask(repository):
    two = ('demo/street', 'demo/street')
    status, lines = run(repository, EVALUATE, 'tqdm', *two)
    assert status == 1 and lines[-1].endswith('pip install tqdm')
    status, lines = run(repository, EVALUATE, 'distributed', *two, '--cluster', 'tcp://localhost:1')
    assert status == 1
    assert lines == [
        "evaluate_bag: --cluster needs Dask: pip install 'depth_ros[cluster]' on every machine"
    ]


def test_evaluation_offline_needs_no_ros(repository, tmp_path):
    """Of the modules of ROS, none is loaded."""
    code = (
        'import sys, depth_ros.commands.evaluate_bag, depth_ros.evaluation.evaluate\n'
        'import depth_ros.commands.bench, depth_ros.commands.demo\n'
        'print([m for m in ("rclpy", "sensor_msgs", "matplotlib", "jinja2", "tqdm", "rosbags") '
        'if m in sys.modules])'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=repository, capture_output=True, text=True
    )
    assert done.stdout.strip() == '[]', done.stderr
