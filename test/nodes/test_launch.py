"""The launch file, the parameter file and the RViz display."""

import ast
import importlib.util
import os
import signal
import subprocess
import sys

import pytest
import yaml
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Image
from support.onnx_models import save_perception, save_pose
from support.ros_process import (
    ROOT,
    Camera,
    NodeProcess,
    Peer,
    image_message,
    info_message,
    ros_environment,
)
from support.scene import FOCAL, HEIGHT, WIDTH, bands

from depth_ros.inference.outputs import TOPICS

LAUNCH_FILE = ROOT / 'launch' / 'depth_ros.launch.py'
# Our own folder launch looks like a package without an __init__.py.
HAS_LAUNCH = importlib.util.find_spec('launch_ros') is not None and (
    getattr(importlib.util.find_spec('launch'), 'origin', None) is not None
)


def constants(tree):
    """Texts in a syntax tree."""
    return {
        n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }


def test_launch_file_compiles_and_offers_the_arguments():
    tree = ast.parse(LAUNCH_FILE.read_text(), LAUNCH_FILE.name)
    compile(tree, LAUNCH_FILE.name, 'exec')
    table = next(
        n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == 'ARGUMENTS'
    )
    names = {row.elts[0].value for row in table.elts}
    assert names >= {
        'image_topic',
        'camera_info_topic',
        'perception_model',
        'odometry_model',
        'params_file',
        'rviz',
        'use_sim_time',
        'namespace',
        'log_level',
        'image_transport',
    }
    # Every declared argument is read somewhere; those of one node by the node's name.
    kept = [n for n in tree.body if not (isinstance(n, ast.Assign) and n.value is table)]
    by_node = {f'{node}{end}' for node in ('perception', 'odometry') for end in ('', '_model')}
    assert names <= constants(ast.Module(kept, [])) | by_node


def test_launch_file_starts_executables_that_exist():
    scripts = (ROOT / 'setup.py').read_text()
    for executable in ('perception_node', 'odometry_node'):
        assert executable in constants(ast.parse(LAUNCH_FILE.read_text()))
        assert f'{executable} = ' in scripts


def test_rviz_file_shows_the_topics_of_the_nodes():
    """RViz itself does not run here: its file is only read."""
    config = yaml.safe_load((ROOT / 'config' / 'depth_ros.rviz').read_text())
    displays = config['Visualization Manager']['Displays']
    topics = {d['Name']: d['Topic']['Value'] for d in displays if 'Topic' in d}
    assert topics == {
        'Image': 'image',
        'Depth': 'depth/color',
        'Masks': 'semantics/color',
        'Cloud': 'points',
        'Odometry': 'odom',
        'Path': 'path',
    }
    assert set(topics.values()) - {'image'} <= TOPICS.keys()
    assert all(d['Enabled'] for d in displays)


@pytest.mark.parametrize('module', ['perception_node', 'odometry_node'])
def test_parameter_file_starts_the_nodes(module, tmp_path):
    """Every line of it is taken: the node knows the name and accepts type and range."""
    save = save_perception if module == 'perception_node' else save_pose
    extra = ('--params-file', str(ROOT / 'config' / 'depth_ros.yaml'))
    with NodeProcess(module, {'model': save(tmp_path / 'model.onnx')}, extra=extra) as process:
        process.wait_for('active: waiting')
        assert 'unknown parameters' not in process.output
        assert process.stop() == 0


@pytest.fixture
def prefix(tmp_path):
    """An install prefix with the package's executables where ROS 2 looks for them."""
    index = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages'
    library = tmp_path / 'lib' / 'depth_ros'
    index.mkdir(parents=True)
    library.mkdir(parents=True)
    (index / 'depth_ros').touch()
    for module in ('perception_node', 'odometry_node'):
        script = library / module
        script.write_text(
            f'#!/bin/sh\nexec {sys.executable} -m depth_ros.nodes.start {module} "$@"\n'
        )
        script.chmod(0o755)
    return tmp_path


RUN = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService()
service.include_launch_description(IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]),
    launch_arguments=[a.split(':=', 1) for a in sys.argv[2:]]))
sys.exit(service.run())
"""


needs_launch = pytest.mark.skipif(
    not HAS_LAUNCH, reason='launch and launch_ros come with ROS 2, not with pip'
)


@pytest.fixture
def described(monkeypatch, tmp_path):
    """The nodes that the launch file would start with these arguments, by their names."""
    from launch import LaunchContext
    from launch_ros.actions import Node

    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location('depth_ros_launch', LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = []
    monkeypatch.setattr(
        module, 'Node', lambda **settings: made.append(settings) or Node(**settings)
    )

    def describe(**arguments):
        context = LaunchContext()
        defaults = {name: default for name, default, *_ in module.ARGUMENTS}
        context.launch_configurations.update(defaults | arguments)
        made.clear()
        module._bring_up(context)
        return {f'{n["namespace"]}/{n["name"]}': n for n in made}

    return describe


@needs_launch
def test_what_is_left_empty_overrides_nothing(described):
    for node in described().values():
        assert len(node['parameters']) == 1 and not node['respawn']
    found = described(
        use_sim_time='false', publish_tf='true', backend='onnxruntime', camera_height='2'
    )
    common = {'use_sim_time': False, 'backend': 'onnxruntime', 'camera_height': 2.0}
    assert found['/perception_node']['parameters'][1] == common
    with pytest.raises(RuntimeError, match='camera_height:=high'):
        described(camera_height='high')
    assert found['/odometry_node']['parameters'][1] == {**common, 'publish_tf': True}


@needs_launch
def test_several_cameras(described):
    found = described(
        cameras='front, rear',
        namespace='robot',
        image_topic='/{camera}/image_rect',
        compressed_topic='/{camera}/jpeg',
        namespaced_tf='true',
        odometry='false',
    )
    assert list(found) == ['robot/front/perception_node', 'robot/rear/perception_node']
    remappings = dict(found['robot/rear/perception_node']['remappings'])
    assert remappings == {
        'image': '/rear/image_rect',
        'camera_info': 'camera_info',
        'image/compressed': '/rear/jpeg',
        '/tf': 'tf',
        '/tf_static': 'tf_static',
    }
    for wrong in (
        {'image_topic': '/camera/image'},
        {'cameras': 'front,front'},
        {'publish_tf': 'true'},
    ):
        with pytest.raises(RuntimeError, match=next(iter(wrong))):
            described(**{'cameras': 'front,rear'} | wrong)


@needs_launch
def test_without_rviz_nothing_is_started(described):
    try:
        importlib.import_module('ament_index_python').get_package_prefix('rviz2')
    except LookupError:
        with pytest.raises(RuntimeError, match='rviz2, which is not installed'):
            described(rviz='true')
    else:
        assert '/rviz2' in described(rviz='true')


@needs_launch
@pytest.mark.parametrize('namespace', ['', 'robot'])
def test_launch_brings_up_both_nodes(namespace, prefix, tmp_path):
    base = f'/{namespace}' if namespace else ''
    environment = ros_environment()
    for name in ('FASTDDS_DEFAULT_PROFILES_FILE', 'MALLOC_TOP_PAD_'):
        environment = {k: v for k, v in environment.items() if k != name}
    environment['AMENT_PREFIX_PATH'] = os.pathsep.join(
        filter(None, [str(prefix), environment.get('AMENT_PREFIX_PATH')])
    )
    environment['ROS_LOG_DIR'] = str(tmp_path / 'log')
    # A folder of its own: in the checkout, Python would take our launch folder for the package.
    arguments = [
        'image_topic:=/front/image',
        'camera_info_topic:=/front/camera_info',
        f'perception_model:={save_perception(tmp_path / "perception.onnx")}',
        f'odometry_model:={save_pose(tmp_path / "pose.onnx")}',
        f'namespace:={namespace}',
    ]
    process = subprocess.Popen(
        [sys.executable, '-c', RUN, str(LAUNCH_FILE), *arguments],
        env=environment,
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        with Peer() as peer:
            topics = (f'{base}/depth/image_rect', f'{base}/odom')
            peer.listen(Image, topics[0])
            peer.listen(Odometry, topics[1])
            camera = Camera(peer, '/front/image', '/front/camera_info')
            for node in ('perception_node', 'odometry_node'):
                peer.wait_state(f'{base}/{node}'.lstrip('/'), 'active')
            camera.wait_matched()
            for i in range(100):
                camera.publish(
                    image_message(bands(), 1 + 0.1 * i), info_message(WIDTH, HEIGHT, FOCAL)
                )
                peer.spin_for(0.1)
                if all(peer.messages[t] for t in topics):
                    break
            assert all(peer.messages[t] for t in topics)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert output.count('process has finished cleanly') == 2 and 'Traceback' not in output
