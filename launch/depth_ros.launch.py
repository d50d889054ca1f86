"""Bring up depth, masks and odometry of one camera.

    ros2 launch depth_ros depth_ros.launch.py image_topic:=/camera/image_rect \
        camera_info_topic:=/camera/camera_info
"""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from depth_ros.ros import transport
from depth_ros.share import share_path

BOOLEAN = ['true', 'false']

# Name, default, choices, description.
ARGUMENTS = (
    (
        'image_topic',
        'image',
        None,
        'Rectified camera image; for compressed images the name without /compressed.',
    ),
    ('camera_info_topic', 'camera_info', None, 'Calibration of the camera.'),
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
    (
        'params_file',
        str(share_path('config/depth_ros.yaml')),
        None,
        'Parameters of both nodes.',
    ),
    ('use_sim_time', 'false', BOOLEAN, 'Take the time from /clock.'),
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


def _node(context, executable, model_argument):
    """One of our nodes; arguments that are left empty do not override the parameter file."""

    def value(name):
        return LaunchConfiguration(name).perform(context)

    overrides = {'use_sim_time': value('use_sim_time') == 'true'}
    for parameter, argument in (('model', model_argument), ('image_transport', 'image_transport')):
        if value(argument):
            overrides[parameter] = value(argument)
    return [
        Node(
            package='depth_ros',
            executable=executable,
            name=executable,
            namespace=value('namespace'),
            output='screen',
            emulate_tty=True,
            parameters=[value('params_file'), overrides],
            remappings=[
                ('image', value('image_topic')),
                ('camera_info', value('camera_info_topic')),
            ],
            ros_arguments=['--log-level', value('log_level')],
        )
    ]


def generate_launch_description():
    """Arguments, environment, the two nodes, and RViz."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)
        for name, default, choices, description in ARGUMENTS
    ]
    environment = [
        SetEnvironmentVariable(name, value)
        for name, value in transport.env().items()
        if name not in os.environ
    ]
    rviz = Node(
        package='rviz2',
        executable='rviz2',
        name='rviz2',
        namespace=LaunchConfiguration('namespace'),
        arguments=[
            '-d',
            str(share_path('config/depth_ros.rviz')),
            '-f',
            LaunchConfiguration('fixed_frame'),
        ],
        parameters=[{'use_sim_time': LaunchConfiguration('use_sim_time')}],
        remappings=[('image', LaunchConfiguration('image_topic'))],
        condition=IfCondition(LaunchConfiguration('rviz')),
    )
    return LaunchDescription(
        [
            *arguments,
            *environment,
            OpaqueFunction(
                function=_node,
                args=['perception_node', 'perception_model'],
                condition=IfCondition(LaunchConfiguration('perception')),
            ),
            OpaqueFunction(
                function=_node,
                args=['odometry_node', 'odometry_model'],
                condition=IfCondition(LaunchConfiguration('odometry')),
            ),
            rviz,
        ]
    )
