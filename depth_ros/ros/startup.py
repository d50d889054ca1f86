"""What can be wrong before a node is there, each in one line: arguments and environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from rclpy.utilities import remove_ros_args

_LARGEST_DOMAIN = 232

_REMEDIES = {
    'params file': 'give --params-file an existing YAML file like config/depth_ros.yaml',
    'log level': 'levels are debug, info, warn, error and fatal',
    'remap rule': 'remap with -r OLD:=NEW',
    'parameter override': 'set a parameter with -p NAME:=VALUE',
    'logging directory': 'set HOME or ROS_LOG_DIR to a folder that can be written to',
}
"""What to do about an error of ROS that has these words."""


def argument_problem(args: Sequence[str]) -> str:
    """Why the command line is refused; empty if ROS may have it.

    ROS ignores what stands outside of ``--ros-args ... --``, or takes it for a remap of old.

    Args:
        args: Without the program's name.
    """
    unknown, inside = [], False
    for argument in args:
        if argument == '--ros-args':
            inside = True
        elif inside and argument == '--':
            inside = False
        elif not inside:
            unknown.append(argument)
    if not unknown:
        try:
            remove_ros_args(['', *args])  # parses them all, without a word of its own
        except Exception as error:  # rclpy raises types of its own
            return start_problem(error)
        return ''
    return (
        f'unknown arguments: {" ".join(unknown)}; parameters and remaps stand behind --ros-args: '
        '--ros-args -p NAME:=VALUE -r OLD:=NEW'
    )


def environment_problem(environment: Mapping[str, str] = os.environ) -> str:
    """Why ROS cannot start in this environment; empty if it probably can."""
    domain = environment.get('ROS_DOMAIN_ID', '').strip()
    if domain and not (domain.isdecimal() and int(domain) <= _LARGEST_DOMAIN):
        return f"ROS_DOMAIN_ID is '{domain}', must be a whole number 0 .. {_LARGEST_DOMAIN}"
    return ''


def start_problem(error: Exception) -> str:
    """Return an error of ``rclpy.init`` or of making a node as one line with the remedy."""
    text = re.sub(r', at [^\s,]+:\d+', '', str(error))  # lines of ROS's own source
    text = re.sub(r'^failed to (initialize|create) \w+: ', '', ' '.join(text.split()))
    remedy = next((r for words, r in _REMEDIES.items() if words in text), '')
    return f'ROS 2 cannot start: {text.rstrip(" .")}' + (f'; {remedy}' if remedy else '')
