"""The parameters of each node."""

from __future__ import annotations

from depth_ros.core.camera import FIT_MODES
from depth_ros.core.scale import SOURCES
from depth_ros.core.se3 import OPTICAL_IN_BASE, pose_from_list
from depth_ros.core.visual_odometry import REFINEMENTS
from depth_ros.inference.loader import BACKENDS
from depth_ros.ros.parameters import Parameter
from depth_ros.ros.transport import RELIABILITIES

AUTO_BUILD = ('never', 'fp32', 'fp16')
"""Values of ``auto_build``. Int8 needs calibration, so it is not among them; 'no' and 'off' would
be read as false by YAML."""

GPU_MEMORY = {'auto': None, 'mapped': True, 'copied': False}
"""Values of ``gpu_memory``, and what ``mapped`` of ``load_engine`` is for each."""


def frame_name(name: str) -> None:
    """Check the name of a TF frame.

    Raises:
        ValueError: if it is empty, starts with '/' or has spaces in it, which TF refuses.
    """
    if not name or name.startswith('/') or any(c.isspace() for c in name):
        raise ValueError(f"'{name}' is no name of a frame: give one without spaces and leading /")


COMMON = (
    Parameter(
        'autostart', True, 'Configure and activate without a lifecycle manager.', when='start'
    ),
    Parameter(
        'model',
        '',
        'Model file: .onnx with a depth_ros contract, or .engine of '
        'build_engine, which runs with TensorRT or not at all. Empty: the model that comes '
        'with the package.',
    ),
    Parameter(
        'backend',
        'auto',
        'Inference runtime. auto: TensorRT where there is an engine of '
        'the model that fits, else the fastest one that is installed.',
        choices=BACKENDS,
    ),
    Parameter(
        'auto_build',
        'never',
        'Precision in which to build the TensorRT engine of an .onnx '
        'model where none fits. The CPU runs the model until the engine is ready.',
        choices=AUTO_BUILD,
    ),
    Parameter(
        'gpu_memory',
        'auto',
        'How TensorRT gets images and gives results. mapped: the GPU '
        "works in the processor's memory. copied: to and from its own. auto: mapped where "
        'they share memory (Jetson), else copied.',
        choices=tuple(GPU_MEMORY),
    ),
    Parameter('threads', 2, 'Threads that one inference may use.', minimum=1, maximum=256),
    Parameter(
        'image_transport',
        'raw',
        "raw: sensor_msgs/Image on 'image'. compressed: "
        "sensor_msgs/CompressedImage (JPEG or PNG) on 'image/compressed'.",
        choices=('raw', 'compressed'),
    ),
    Parameter(
        'reliability',
        'auto',
        'Reliability of the input subscriptions. auto: reliable if '
        'every publisher of the topic is, else best effort.',
        choices=RELIABILITIES,
    ),
    Parameter(
        'fit',
        'auto',
        "How the image becomes the network's input. stretch: the whole "
        'image, resized on both axes. crop: the largest part with the aspect ratio of the training '
        'camera; outputs are invalid outside. auto: crop where stretching would make pixels more '
        'than twice as wide as high or the reverse, against the training, as of 3:2 and 4:3 images '
        'for a network of 640x192; else stretch.',
        choices=FIT_MODES,
    ),
    Parameter(
        'rectify',
        False,
        'The images are raw: rectify them by camera_info (plumb_bob, rational_polynomial, '
        'equidistant) before the network. false: they are rectified already.',
        when='live',
    ),
    Parameter(
        'niceness',
        0,
        'How much the node lets others go first on a busy processor, as nice does: with 5 for '
        'perception_node, odometry_node comes before it where both share a core.',
        '',
        0,
        19,
        when='start',
    ),
    Parameter(
        'min_rate',
        0.0,
        'Diagnostics warn if fewer outputs come while images are wanted. 0: no limit.',
        'Hz',
        0.0,
        1000.0,
        when='live',
    ),
    Parameter(
        'max_input_age',
        0.0,
        'Diagnostics warn if images are older than this when they come, by their '
        'stamps. 0: no limit.',
        'ms',
        0.0,
        1000000.0,
        when='live',
    ),
    Parameter(
        'max_latency',
        0.0,
        'Diagnostics warn if more than one frame in twenty takes longer from its '
        'arrival to the output. 0: no limit.',
        'ms',
        0.0,
        1000000.0,
        when='live',
    ),
    Parameter(
        'max_drops',
        0.0,
        'Diagnostics warn if a greater share of the images is dropped, as newer ones '
        'came. 0: no limit.',
        '%',
        0.0,
        100.0,
        when='live',
    ),
    Parameter(
        'max_memory',
        0.0,
        'Diagnostics warn if the process has more memory. 0: no limit.',
        'MB',
        0.0,
        1000000.0,
        when='live',
    ),
    Parameter(
        'max_temperature',
        95.0,
        'Diagnostics warn if a sensor of the processor is hotter. 0: no limit.',
        'degrees Celsius',
        0.0,
        200.0,
        when='live',
    ),
    Parameter(
        'watchdog',
        0.0,
        'The process ends, with status 3, if one frame is in work for longer: a runtime'
        ' that hangs. To start it again is for respawn of the launch file, or systemd. '
        '0: never.',
        's',
        0.0,
        3600.0,
        when='live',
    ),
)

PERCEPTION = (
    *COMMON,
    Parameter(
        'depth_encoding',
        '32FC1',
        'Pixels of depth/image_rect and its compressedDepth. 32FC1: metres. 16UC1: millimetres, '
        'half of the bytes; what is farther than 65.535 m is invalid.',
        choices=('32FC1', '16UC1'),
    ),
    Parameter(
        'output_size',
        'input',
        "Geometry of the outputs. input: the image's. network: the "
        "network's, with depth/camera_info scaled to match.",
        choices=('input', 'network'),
    ),
    Parameter(
        'depth_scale',
        0.0,
        'Metres per unit of a model that is not metric. 0: unknown, '
        'depth stays in model units. Ignored for metric models.',
        'm/unit',
        0.0,
        1e6,
        when='live',
    ),
    Parameter(
        'scale_source',
        'model',
        'Where metres come from. model: from the model, or depth_scale. height: from the height of '
        'the camera over the ground. odometry: from distances on wheel_odom or speed. fused: from '
        'all that there are.',
        choices=SOURCES,
    ),
    Parameter(
        'camera_height',
        0.0,
        'Height of the camera over the ground, for scale_source height or fused. 0: unknown.',
        'm',
        0.0,
        100.0,
    ),
    Parameter(
        'camera_height_from_tf',
        False,
        "Look the camera's height and tilt over ground_frame up in TF instead. Needs tf2_ros.",
    ),
    Parameter(
        'ground_frame',
        'base_footprint',
        'Frame on the ground below the robot, for camera_height_from_tf.',
        check=frame_name,
    ),
    Parameter(
        'obstacle_min_height',
        0.15,
        'What is lower over the ground is no obstacle: at least a tenth of the height of the '
        'camera, for the errors of depth.',
        'm',
        0.0,
        100.0,
        when='live',
    ),
    Parameter(
        'obstacle_max_height',
        2.0,
        'What is higher over the ground is no obstacle: the height of the robot.',
        'm',
        0.0,
        100.0,
        when='live',
    ),
    Parameter(
        'obstacle_min_range',
        0.5,
        'What is nearer to the camera is no obstacle but the robot itself.',
        'm',
        0.0,
        1000.0,
        when='live',
    ),
    Parameter(
        'obstacle_max_range',
        15.0,
        'What is farther from the camera is not published in obstacles and scan.',
        'm',
        0.1,
        1000.0,
        when='live',
    ),
    Parameter(
        'obstacle_ignore',
        'sky',
        "Classes that are no obstacles, by commas; names that the model's classes lack do not "
        'matter.',
        when='live',
    ),
    Parameter(
        'robot_rows',
        0.0,
        "Share of the image's rows, from below, in which the robot sees itself, such as its hood.",
        '',
        0.0,
        0.9,
        when='live',
    ),
    Parameter(
        'scan_frame',
        '',
        'Frame of scan: at the camera, x ahead, z up. Empty: that of the image with _frame in '
        'place of _optical_frame.',
        when='live',
    ),
    Parameter(
        'max_depth',
        0.0,
        'Farther depth is invalid (NaN). 0: the limit of the model.',
        'm',
        0.0,
        1e6,
        when='live',
    ),
    Parameter(
        'points_stride',
        2,
        'The point cloud has every n-th pixel of every n-th row.',
        'pixels',
        1,
        64,
        when='live',
    ),
)

ODOMETRY = (
    *COMMON,
    Parameter(
        'odom_frame',
        'odom',
        'Frame of the trajectory: header.frame_id of odom and path.',
        check=frame_name,
    ),
    Parameter('base_frame', 'base_link', 'Body frame: child_frame_id of odom.', check=frame_name),
    Parameter(
        'camera_pose',
        list(OPTICAL_IN_BASE),
        "Pose of the camera's optical frame in "
        'base_frame: x y z qx qy qz qw. Default: at its origin, looking along its x axis.',
        'm',
        check=pose_from_list,
    ),
    Parameter(
        'camera_pose_from_tf',
        False,
        "Look the camera's pose up in TF instead of camera_pose. Needs tf2_ros.",
    ),
    Parameter(
        'refinement',
        'pnp',
        'What the motion is made of. pnp: corners that are followed from image to image, with a '
        "map of the last metres; the pose network is a first guess. none: the pose network's word "
        'alone.',
        choices=REFINEMENTS,
    ),
    Parameter(
        'camera_height',
        0.0,
        'Height of the camera over the ground, from which refinement has its metres. 0: unknown; '
        "they are those of the perception node's depth with use_depth, or of the pose network.",
        'm',
        0.0,
        100.0,
    ),
    Parameter(
        'use_depth',
        False,
        "Subscribe depth/image_rect and semantics/labels (Cityscapes' ids) for refinement: depth "
        'for its metres, labels to leave out what may move. The perception node then works on '
        'every image.',
    ),
    Parameter(
        'publish_tf',
        False,
        'Publish odom_frame to base_frame on /tf. Only one node may do so. Needs tf2_msgs.',
    ),
    Parameter(
        'translation_scale',
        0.0,
        'Metres per unit of a model that is not metric. 0: '
        'unknown, the trajectory is in model units. Ignored for metric models.',
        'm/unit',
        0.0,
        1e6,
        when='live',
    ),
    Parameter(
        'max_gap',
        1.0,
        'Two images farther apart in time are not compared; the covariance grows instead.',
        's',
        0.001,
        3600.0,
        when='live',
    ),
    Parameter(
        'restart_gap',
        60.0,
        'After longer without an image, or when the clock was set forward by more, the trajectory '
        'starts again at the origin.',
        's',
        0.001,
        1e6,
        when='live',
    ),
    Parameter(
        'max_speed',
        40.0,
        'The fastest that the robot can drive. Gaps widen the covariance by no more.',
        'm/s',
        0.01,
        1000.0,
    ),
    Parameter(
        'max_turn_rate',
        3.0,
        'The fastest that the robot can turn. Gaps widen the covariance by no more.',
        'rad/s',
        0.001,
        100.0,
    ),
    Parameter(
        'sigma_translation',
        0.02,
        'Standard deviation of the translation of one step without refinement, constant part.',
        'm',
        1e-6,
        100.0,
    ),
    Parameter(
        'sigma_translation_ratio',
        0.1,
        'Standard deviation of the translation of one step without refinement, '
        'part that grows with its length.',
        'm/m',
        0.0,
        10.0,
    ),
    Parameter(
        'sigma_rotation',
        0.002,
        'Standard deviation of the rotation of one step without refinement, constant part.',
        'rad',
        1e-7,
        3.2,
    ),
    Parameter(
        'sigma_rotation_ratio',
        0.05,
        'Standard deviation of the rotation of one step without refinement, '
        'part that grows with its angle.',
        'rad/rad',
        0.0,
        10.0,
    ),
    Parameter(
        'path_step', 0.5, 'The path gets a pose every so many metres.', 'm', 0.0, 1e4, when='live'
    ),
    Parameter(
        'path_length',
        2000,
        'The path keeps so many poses, the newest.',
        'poses',
        2,
        100000,
        when='live',
    ),
)

TABLES = {'perception_node': PERCEPTION, 'odometry_node': ODOMETRY}
"""Every node's parameters."""
