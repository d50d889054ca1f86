"""Parameters as data: declaration, checks and documentation of a node come from one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

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
        choices: allowed texts; empty if any text is allowed.
        when: when a new value takes effect: ``start`` (read only), ``configure`` (may be set while
            the node is unconfigured) or ``live`` (from the next frame on).
        check: raises ValueError if it cannot take a value, where the other fields do not say so.
    """

    name: str
    default: Value
    description: str
    unit: str = ''
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    when: str = 'configure'
    check: Callable[[Any], object] | None = None

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
        if self.minimum is None or self.maximum is None:
            return descriptor
        if isinstance(self.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(self.minimum), to_value=float(self.maximum))
            ]
        else:
            descriptor.integer_range = [
                IntegerRange(from_value=int(self.minimum), to_value=int(self.maximum), step=1)
            ]
        return descriptor

    def problem(self, value: Value | None) -> str:
        """Why ``value`` is refused although type and range are right; empty if it is not."""
        if value is None:
            return f"'{self.name}' has no value ([]), must be a {TYPE_NAMES[type(self.default)]}"
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


def declare(node: Node, table: Sequence[Parameter], configured: Callable[[], bool]) -> None:
    """Declare a table's parameters on a node and check every later change.

    A request to set several parameters takes effect as a whole or not at all.

    Args:
        node: the node.
        table: its parameters.
        configured: whether the node is configured now, so that ``configure`` parameters are fixed.

    Raises:
        ValueError: if a value on the command line or in a parameter file has the wrong type or is
            not allowed; the message names the parameter.
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
    """Names set on the command line or in a parameter file that the node does not have."""
    given = getattr(node, '_parameter_overrides', {})  # rclpy has no public list of them
    return sorted(
        name
        for name in given
        if not node.has_parameter(name) and not name.startswith('qos_overrides.')
    )


def markdown(table: Sequence[Parameter]) -> str:
    """The table of parameters for the documentation."""
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
