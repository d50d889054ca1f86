"""How images travel: quality of service, Fast DDS's shared memory, and shutdown.

Measured on two cores, the defaults lose over 95 % of best-effort images above 512 KiB and spend
most of the time of a large message on page faults. Three remedies live here: a Fast DDS profile
with a large shared memory segment (and sending in the background), subscriptions that follow what
the publishers offer, and :mod:`~depth_ros.allocator`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from rclpy.exceptions import NotInitializedException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from depth_ros.allocator import allocator_environment, keep_memory
from depth_ros.share import share_path

RELIABILITIES = ('auto', 'reliable', 'best_effort')

OUTPUT_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Outputs are reliable, which serves reliable and best-effort subscribers alike."""

EVENT_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""Who comes late still gets the last ones."""

SHARED_MEMORY = Path('/dev/shm')
SEGMENT_SIZE = 64 * 2**20
"""Bytes that the shipped profile reserves in shared memory for each process."""

PROFILE_VARIABLE = 'FASTDDS_DEFAULT_PROFILES_FILE'
# Distributions before Jazzy know only this name; later ones warn of it.
_OLD_PROFILE_VARIABLE = 'FASTRTPS_DEFAULT_PROFILES_FILE'
_OLD_DISTRIBUTIONS = ('humble', 'iron')

# A large message leaves in fragments of 64 KiB. The middleware's own thread sends them, so that
# the thread that publishes goes on with the next image.
_PUBLICATION_MODE = {'RMW_FASTRTPS_PUBLICATION_MODE': 'ASYNCHRONOUS'}


def profile_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables that make Fast DDS use the shipped profile; empty if the user has set one."""
    if environment.get(PROFILE_VARIABLE) or environment.get(_OLD_PROFILE_VARIABLE):
        return {}
    old = environment.get('ROS_DISTRO') in _OLD_DISTRIBUTIONS
    name = _OLD_PROFILE_VARIABLE if old else PROFILE_VARIABLE
    return {name: str(share_path('config/fastdds.xml'))}


def env(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """A complete environment for a child process that sends or receives images.

    Args:
        environment: variables to start from; they win over ours.
    """
    return {
        **allocator_environment(),
        **_PUBLICATION_MODE,
        **profile_environment(environment),
        **environment,
    }


def prepare_process() -> None:
    """Give this process the settings of :func:`env`; call it before ``rclpy.init``."""
    os.environ.update({**_PUBLICATION_MODE, **profile_environment(), **os.environ})
    keep_memory()


@contextmanager
def until_shutdown() -> Iterator[None]:
    """Run a block that SIGINT, SIGTERM or a shutdown of ROS may end at any moment, without error.

    Call it after ``rclpy.init``, whose own errors would be taken for a shutdown.

    A signal shuts ROS down on another thread. If the block is waiting at that moment it gets
    ExternalShutdownException; any other call to ROS fails with an ordinary error (RCLError,
    InvalidHandle). So such errors are passed on only while ROS is up.
    """
    try:
        yield
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (RuntimeError, NotInitializedException):  # RuntimeError: base of rclpy's C++ errors
        if rclpy.ok():
            raise


def shared_memory_problem() -> str:
    """Why large images will not go through shared memory; empty if they will."""
    if not SHARED_MEMORY.is_dir():
        return ''
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free > SEGMENT_SIZE:
        return ''
    return (
        f'{SHARED_MEMORY} has {free >> 20} MiB left, but each process needs '
        f'{SEGMENT_SIZE >> 20} MiB there to pass on large images, which will get lost; give a '
        'container more (option --shm-size=1g), or close other processes'
    )


def input_qos(publishers: Sequence[QoSProfile], reliability: str = 'auto') -> QoSProfile:
    """QoS of an input subscription of depth 1 that matches all its publishers.

    A reliable subscription does not match a best-effort publisher, so it is reliable only when
    every publisher is. It asks for the last message (transient local) only when every publisher
    offers that, as some drivers do for camera_info.

    Args:
        publishers: what the topic's publishers offer; may be empty.
        reliability: ``auto``, or the reliability to force.
    """
    if reliability == 'auto':
        reliable = bool(publishers) and all(
            p.reliability == ReliabilityPolicy.RELIABLE for p in publishers
        )
    else:
        reliable = reliability == 'reliable'
    latched = (
        reliable
        and bool(publishers)
        and all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers)
    )
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=(DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE),
    )


class FollowingSubscription:
    """A subscription of depth 1 whose QoS follows the topic's publishers.

    Attributes:
        type_name: message type, such as ``sensor_msgs/msg/Image``.
        topic: resolved topic name.
    """

    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        callback: Callable[[Any], None],
        reliability: str,
    ) -> None:
        """Subscribe.

        Args:
            node: the node that owns the subscription.
            message_type: ROS message class.
            topic: topic name; remapping applies.
            callback: called with each message.
            reliability: one of :data:`RELIABILITIES`.
        """
        package = message_type.__module__.split('.')[0]
        self.type_name = f'{package}/msg/{message_type.__name__}'
        self._node, self._type, self._callback = node, message_type, callback
        self._reliability = reliability
        self._name = topic
        self._subscription: Subscription | None = None
        self.topic = self._subscribe(input_qos([], reliability)).topic_name
        self.follow()

    @property
    def reliable(self) -> bool:
        """Whether messages are sent again when they get lost."""
        return self._qos.reliability == ReliabilityPolicy.RELIABLE

    def publishers(self) -> list[TopicEndpointInfo]:
        """The topic's publishers, of whatever type."""
        return self._node.get_publishers_info_by_topic(self.topic)

    def follow(self) -> None:
        """Subscribe anew if the publishers have changed what they offer; call it now and then."""
        qos = self._offered()
        if (qos.reliability, qos.durability) != (self._qos.reliability, self._qos.durability):
            self._subscribe(qos)

    def open(self) -> None:
        """Subscribe again after :meth:`close`."""
        if self._subscription is None:
            self._subscribe(self._offered())

    def _offered(self) -> QoSProfile:
        return input_qos(
            [p.qos_profile for p in self.publishers() if p.topic_type == self.type_name],
            self._reliability,
        )

    def _subscribe(self, qos: QoSProfile) -> Subscription:
        self.close()
        self._qos = qos
        self._subscription = self._node.create_subscription(
            self._type, self._name, self._callback, qos
        )
        return self._subscription

    def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
