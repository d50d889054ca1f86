"""The nodes' parameters, as data: declaration, checks and documentation come from one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from depth_ros.core.camera import FIT_MODES
from depth_ros.core.se3 import OPTICAL_IN_BASE, pose_from_list
from depth_ros.inference.loader import BACKENDS
from depth_ros.ros.transport import RELIABILITIES

AUTO_BUILD = ('never', 'fp32', 'fp16')
"""Values of ``auto_build``. Int8 needs calibration, so it is not among them; 'no' and 'off' would
be read as false by YAML."""

GPU_MEMORY = {'auto': None, 'mapped': True, 'copied': False}
"""Values of ``gpu_memory``, and what ``mapped`` of ``load_engine`` is for each."""

Value = bool | int | float | str | list[float]

TYPE_NAMES = {bool: 'bool', int: 'int', float: 'double', str: 'string', list: 'double[]'}


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: ROS name.
        default: default value, which also fixes the type.
        description: one or two sentences.
        unit: SI unit or another unit, empty if there is none.
        minimum, maximum: inclusive range of a number.
        choices: allowed texts; empty for any.
        when: when a new value takes effect: ``start`` (read only), ``configure`` (may be set while
            the node is unconfigured) or ``live`` (from the next frame on).
        check: raises ValueError on a value that the other fields cannot rule out.
    """

    name: str
    default: Value
    description: str
    unit: str = ''
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    when: str = 'configure'
    check: Callable[[Value], object] | None = None

    def descriptor(self) -> ParameterDescriptor:
        """What ``ros2 param describe`` shows."""
        text = self.description + (f' Unit: {self.unit}.' if self.unit else '')
        descriptor = ParameterDescriptor(
            name=self.name, description=text, read_only=self.when == 'start'
        )
        notes = []
        if self.choices:
            notes.append(f'one of: {", ".join(self.choices)}')
        if self.when == 'configure':
            notes.append('can be set while the node is unconfigured')
        descriptor.additional_constraints = '; '.join(notes)
        if self.minimum is not None and isinstance(self.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(self.minimum), to_value=float(self.maximum))
            ]
        elif self.minimum is not None:
            descriptor.integer_range = [
                IntegerRange(from_value=int(self.minimum), to_value=int(self.maximum), step=1)
            ]
        return descriptor

    def problem(self, value: Value) -> str:
        """Why ``value`` cannot be taken, beyond type and range; empty if it can."""
        if self.choices and value not in self.choices:
            return f"{self.name} is '{value}', must be one of: {', '.join(self.choices)}"
        if isinstance(value, float) and not math.isfinite(value):
            return f'{self.name} is {value}, must be finite'
        if self.check is not None:
            try:
                self.check(value)
            except ValueError as error:
                return f'{self.name}: {error}'
        return ''


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
        'stretch',
        "How the image becomes the network's input. stretch: the whole "
        'image, resized on both axes. crop: the largest part with the aspect ratio of the '
        'training camera; outputs are invalid outside.',
        choices=FIT_MODES,
    ),
)

PERCEPTION = (
    *COMMON,
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
    Parameter('odom_frame', 'odom', 'Frame of the trajectory: header.frame_id of odom and path.'),
    Parameter('base_frame', 'base_link', 'Body frame: child_frame_id of odom.'),
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
        'sigma_translation',
        0.02,
        'Standard deviation of the translation of one step, constant part.',
        'm',
        1e-6,
        100.0,
    ),
    Parameter(
        'sigma_translation_ratio',
        0.1,
        'Standard deviation of the translation of one step, part that grows with its length.',
        'm/m',
        0.0,
        10.0,
    ),
    Parameter(
        'sigma_rotation',
        0.002,
        'Standard deviation of the rotation of one step, constant part.',
        'rad',
        1e-7,
        3.2,
    ),
    Parameter(
        'sigma_rotation_ratio',
        0.05,
        'Standard deviation of the rotation of one step, part that grows with its angle.',
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


def declare(node: Node, table: Sequence[Parameter], configured: Callable[[], bool]) -> None:
    """Declare a table's parameters on a node and check every later change.

    A request that would set several parameters is taken as a whole or not at all.

    Args:
        node: the node.
        table: its parameters.
        configured: whether the node is configured now, when ``configure`` parameters are fixed.

    Raises:
        ValueError: naming the parameter, if the command line or parameter file gives a value of a
            wrong type or outside the allowed ones.
    """
    known = {p.name: p for p in table}

    def check(changes: list[RosParameter]) -> SetParametersResult:
        for change in changes:
            parameter = known.get(change.name)
            if parameter is None:
                continue
            reason = parameter.problem(change.value)
            if not reason and parameter.when == 'configure' and configured():
                reason = (
                    f'{change.name} is fixed while the node is configured; deactivate it '
                    'and clean it up first (ros2 lifecycle set)'
                )
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    for parameter in table:
        try:
            value = node.declare_parameter(
                parameter.name, parameter.default, parameter.descriptor()
            ).value
        except Exception as error:  # rclpy raises a type of its own for each kind of mismatch
            kind = TYPE_NAMES[type(parameter.default)]
            raise ValueError(
                f"parameter '{parameter.name}' must be a {kind}{_range(parameter, ' in ')}: {error}"
            ) from error
        reason = parameter.problem(value)
        if reason:
            raise ValueError(f'parameter {reason}')
    node.add_on_set_parameters_callback(check)


def read(node: Node, table: Sequence[Parameter]) -> SimpleNamespace:
    """The present values, as attributes."""
    return SimpleNamespace(**{p.name: node.get_parameter(p.name).value for p in table})


def unknown(node: Node) -> list[str]:
    """Names that the command line or a parameter file sets and the node does not have."""
    given = getattr(node, '_parameter_overrides', {})  # rclpy has no public list of them
    return sorted(
        name
        for name in given
        if not node.has_parameter(name) and not name.startswith('qos_overrides.')
    )


def markdown(table: Sequence[Parameter]) -> str:
    """The table of parameters for the README."""
    lines = [
        '| Parameter | Type | Default | Range | Set when | Meaning |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    moments = {'start': 'at start', 'configure': 'unconfigured', 'live': 'any time'}
    for p in table:
        allowed = ', '.join(f'`{c}`' for c in p.choices) or f'{_range(p)} {p.unit}'.strip()
        default = str(p.default).lower() if isinstance(p.default, bool) else p.default
        lines.append(
            f'| `{p.name}` | {TYPE_NAMES[type(p.default)]} | `{default}` | {allowed} | '
            f'{moments[p.when]} | {p.description} |'
        )
    return '\n'.join(lines)


def _range(parameter: Parameter, prefix: str = '') -> str:
    """The numeric range as text, empty if there is none."""
    if parameter.minimum is None:
        return ''
    return f'{prefix}{parameter.minimum:g} .. {parameter.maximum:g}'
