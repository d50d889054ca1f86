"""Bring up depth, masks and odometry of one camera, or of several.

    ros2 launch depth_ros depth_ros.launch.py image_topic:=/camera/image_rect \
        camera_info_topic:=/camera/camera_info

    ros2 launch depth_ros depth_ros.launch.py cameras:=front,rear \
        image_topic:=/{camera}/image_rect camera_info_topic:=/{camera}/camera_info
"""

import os

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from depth_ros.ros import transport
from depth_ros.share import share_path

BOOLEAN = ['true', 'false']
UNSET = ['', *BOOLEAN]
BOTH = ('perception_node', 'odometry_node')

# Name, default, choices, description. What is left empty is as params_file says, or a parameter
# that was set around this launch file.
ARGUMENTS = (
    (
        'image_topic',
        'image',
        None,
        'Rectified camera image; for compressed images the name without /compressed. {camera} '
        'stands for the name of the camera.',
    ),
    ('camera_info_topic', 'camera_info', None, 'Calibration of the camera, likewise.'),
    (
        'compressed_topic',
        '',
        None,
        'Compressed images that are not called image_topic and /compressed, likewise.',
    ),
    (
        'cameras',
        '',
        None,
        'Names of several cameras, by commas: each gets nodes in a namespace of its name. Empty: '
        'one camera, without a namespace of its own.',
    ),
    ('perception', 'true', BOOLEAN, 'Start perception_node.'),
    ('odometry', 'true', BOOLEAN, 'Start odometry_node.'),
    (
        'perception_model',
        '',
        None,
        'Model of perception_node. Empty: that of params_file, or else the one in the package.',
    ),
    ('odometry_model', '', None, 'Model of odometry_node. Empty: as for perception_model.'),
    (
        'image_transport',
        '',
        ['', 'raw', 'compressed'],
        'How the images come. Empty: as in params_file.',
    ),
    ('backend', '', None, 'Inference runtime of the nodes. Empty: as in params_file.'),
    (
        'autostart',
        '',
        UNSET,
        "Whether the nodes configure and activate themselves; false for Nav2's lifecycle manager. "
        'Empty: as in params_file.',
    ),
    (
        'camera_height',
        '',
        None,
        'Height of the camera over the ground, metres. Empty: as in params_file.',
    ),
    ('publish_tf', '', UNSET, 'Whether odometry publishes TF. Empty: as in params_file.'),
    ('odom_frame', '', None, 'Frame of the trajectory. Empty: as in params_file.'),
    ('base_frame', '', None, 'Body frame of the odometry. Empty: as in params_file.'),
    (
        'namespaced_tf',
        'false',
        BOOLEAN,
        "TF on the namespace's tf and tf_static in place of /tf and /tf_static, for several "
        'robots, as Nav2 does it.',
    ),
    (
        'respawn',
        'false',
        BOOLEAN,
        'Start a node again, after two seconds, if it ends by itself.',
    ),
    (
        'params_file',
        str(share_path('config/depth_ros.yaml')),
        None,
        'Parameters of both nodes.',
    ),
    ('use_sim_time', '', UNSET, 'Take the time from /clock. Empty: as set elsewhere, or false.'),
    ('namespace', '', None, 'Namespace of the nodes and their topics.'),
    ('log_level', 'info', ['debug', 'info', 'warn', 'error', 'fatal'], 'What the nodes report.'),
    ('rviz', 'false', BOOLEAN, 'Show image, depth, masks, cloud and odometry in RViz.'),
    (
        'fixed_frame',
        'odom',
        None,
        "RViz's fixed frame; without TF from odom to the camera, the camera's optical frame.",
    ),
)

# The parameters that arguments of the same name set, and the nodes that have them.
PARAMETERS = {
    'use_sim_time': BOTH,
    'image_transport': BOTH,
    'backend': BOTH,
    'autostart': BOTH,
    'camera_height': BOTH,
    'publish_tf': ('odometry_node',),
    'odom_frame': ('odometry_node',),
    'base_frame': ('odometry_node',),
}

TF_REMAPPINGS = [('/tf', 'tf'), ('/tf_static', 'tf_static')]


def _bring_up(context):
    """All nodes. Whatever is wrong is found before the first of them is started."""
    values = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    names = [name.strip() for name in values['cameras'].split(',') if name.strip()]
    if len(set(names)) < len(names):
        raise RuntimeError(f'cameras:={values["cameras"]}: a name is there twice')
    if len(names) > 1 and values['publish_tf'] == 'true':
        raise RuntimeError(
            'publish_tf:=true with several cameras: only one may say where base_frame is; leave '
            'it out and set it for one camera in params_file'
        )
    if names and '{camera}' not in values['image_topic'] and values['image_topic'].startswith('/'):
        raise RuntimeError(
            f'image_topic:={values["image_topic"]} is the same for all cameras; write '
            'image_topic:=/{camera}/image_rect, or a relative name'
        )
    if values['rviz'] == 'true':
        try:
            get_package_prefix('rviz2')
        except PackageNotFoundError:
            raise RuntimeError(
                'rviz:=true needs the package rviz2, which is not installed: install it (apt '
                'install ros-$ROS_DISTRO-rviz2) or leave rviz out'
            ) from None
    nodes = [
        _node(values, camera, executable)
        for camera in names or ['']
        for executable in BOTH
        if values[executable.removesuffix('_node')] == 'true'
    ]
    if values['rviz'] == 'true':
        nodes += [_rviz(values, camera) for camera in names or ['']]
    return nodes


def _typed(name, value):
    """The value of an argument as a parameter."""
    if name == 'camera_height':
        try:
            return float(value)
        except ValueError:
            raise RuntimeError(f'camera_height:={value} is no number of metres') from None
    return value == 'true' if value in BOOLEAN else value


def _namespace(values, camera):
    return '/'.join(part for part in (values['namespace'].rstrip('/'), camera) if part)


def _topic(values, argument, camera):
    return values[argument].replace('{camera}', camera)


def _node(values, camera, executable):
    """One of our nodes; arguments that are left empty override nothing."""
    overrides = {
        name: _typed(name, values[name])
        for name, nodes in PARAMETERS.items()
        if executable in nodes and values[name]
    }
    if model := values[executable.replace('_node', '_model')]:
        overrides['model'] = model
    remappings = [
        ('image', _topic(values, 'image_topic', camera)),
        ('camera_info', _topic(values, 'camera_info_topic', camera)),
    ]
    if values['compressed_topic']:
        remappings.append(('image/compressed', _topic(values, 'compressed_topic', camera)))
    if values['namespaced_tf'] == 'true':
        remappings += TF_REMAPPINGS
    return Node(
        package='depth_ros',
        executable=executable,
        name=executable,
        namespace=_namespace(values, camera),
        output='screen',
        emulate_tty=True,
        respawn=values['respawn'] == 'true',
        respawn_delay=2.0,
        parameters=[values['params_file'], *([overrides] if overrides else [])],
        remappings=remappings,
        ros_arguments=['--log-level', values['log_level']],
    )


def _rviz(values, camera):
    sim_time = values['use_sim_time']
    return Node(
        package='rviz2',
        executable='rviz2',
        name='rviz2',
        namespace=_namespace(values, camera),
        arguments=[
            *('-d', str(share_path('config/depth_ros.rviz'))),
            *('-f', values['fixed_frame']),
        ],
        parameters=[{'use_sim_time': _typed('use_sim_time', sim_time)}] if sim_time else [],
        remappings=[
            ('image', _topic(values, 'image_topic', camera)),
            *(TF_REMAPPINGS if values['namespaced_tf'] == 'true' else []),
        ],
    )


def generate_launch_description():
    """Arguments, environment, the nodes, and RViz."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)
        for name, default, choices, description in ARGUMENTS
    ]
    environment = [
        SetEnvironmentVariable(name, value)
        for name, value in transport.env().items()
        if name not in os.environ
    ]
    return LaunchDescription([*arguments, *environment, OpaqueFunction(function=_bring_up)])
