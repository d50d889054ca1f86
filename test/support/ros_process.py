"""Real nodes in processes of their own, and a peer that talks to them over DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depth_ros.ros import transport

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60.0
FRAME = 'camera_optical_frame'


@cache
def ros_environment() -> dict[str, str]:
    """Environment of nodes under test: the domain that conftest took, this machine only."""
    environment = transport.env()
    environment['PYTHONPATH'] = os.pathsep.join(
        filter(None, [str(ROOT), environment.get('PYTHONPATH')])
    )
    environment['RCUTILS_COLORIZED_OUTPUT'] = '0'
    environment['PYTHONFAULTHANDLER'] = '1'
    return environment


class NodeProcess:
    """One node, started as its console command does."""

    def __init__(
        self,
        module: str,
        parameters: Mapping[str, Any] | None = None,
        remap: Mapping[str, str] | None = None,
        extra: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        before: tuple[str, ...] = (),
    ) -> None:
        """Start it; parameters and remappings go through the command line.

        ``environment`` has more variables, ``before`` a command to start it with.
        """
        command = [
            *before,
            sys.executable,
            '-u',
            '-m',
            'depth_ros.nodes.start',
            module,
            '--ros-args',
            *extra,
        ]
        for name, value in (parameters or {}).items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ['-p', f'{name}:={text}']
        for source, target in (remap or {}).items():
            command += ['-r', f'{source}:={target}']
        self.name = module
        self.process = subprocess.Popen(
            command,
            env={**ros_environment(), **(environment or {})},
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self._lines.extend(iter(self.process.stdout.readline, ''))

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return ''.join(self._lines)

    def wait_for(self, text: str, timeout: float = TIMEOUT) -> str:
        """Wait until it has printed ``text``; returns the line."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for line in list(self._lines):
                if text in line:
                    return line
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.02)
        raise AssertionError(f"'{text}' is not in the output of {self.name}:\n{self.output}")

    def stop(self, how: int = signal.SIGINT) -> int:
        """Ask it to end and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            code = self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler prints where it hangs
            self.process.wait(TIMEOUT)
            raise AssertionError(f'{self.name} does not end:\n{self.output}') from None
        self._reader.join(TIMEOUT)
        self.process.stdout.close()
        return code

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *args: object) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGTERM)


class Peer:
    """The test's own ROS node: publishes images, listens to outputs, calls services."""

    def __init__(self) -> None:
        """Join the domain that conftest took."""
        transport.prepare_process()
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('test_peer', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.messages: dict[str, list] = defaultdict(list)

    def close(self) -> None:
        """Leave the domain."""
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def spin_until(
        self, condition: Callable[[], object], timeout: float = TIMEOUT, what: str = 'condition'
    ) -> None:
        """Handle messages until ``condition``."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                got = {topic: len(m) for topic, m in self.messages.items()}
                raise AssertionError(f'no {what} in {timeout:g} s; messages so far: {got}')
            self.executor.spin_once(timeout_sec=0.05)

    def spin_for(self, seconds: float) -> None:
        """Handle messages for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def listen(self, kind: type, topic: str, depth: int = 50, reliable: bool = True):
        """Collect a topic's messages in ``messages[topic]``."""
        qos = QoSProfile(
            depth=depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        return self.node.create_subscription(kind, topic, self.messages[topic].append, qos)

    def publisher(self, kind: type, topic: str, reliable: bool = True, depth: int = 5):
        """A publisher."""
        qos = QoSProfile(
            depth=depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        return self.node.create_publisher(kind, topic, qos)

    def call(self, kind: type, service: str, request) -> Any:
        """Call a service and wait for the answer."""
        client = self.node.create_client(kind, service)
        try:
            self.spin_until(client.service_is_ready, what=f'service {service}')
            future = client.call_async(request)
            self.spin_until(future.done, what=f'answer of {service}')
            return future.result()
        finally:
            self.node.destroy_client(client)

    def state(self, node: str) -> str:
        """Lifecycle state of a node."""
        return self.call(GetState, f'/{node}/get_state', GetState.Request()).current_state.label

    def wait_state(self, node: str, state: str) -> None:
        """Wait until a node is in a lifecycle state."""
        end = time.monotonic() + TIMEOUT
        while (found := self.state(node)) != state:
            if time.monotonic() > end:
                raise AssertionError(f'{node} is {found}, not {state}')
            time.sleep(0.05)

    def change(self, node: str, transition: str) -> bool:
        """Ask for a lifecycle transition; whether it succeeded."""
        request = ChangeState.Request(
            transition=Transition(id=getattr(Transition, f'TRANSITION_{transition.upper()}'))
        )
        return self.call(ChangeState, f'/{node}/change_state', request).success

    def set_parameters(self, node: str, **values: Any):
        """Set parameters atomically; the result with its reason."""
        request = SetParametersAtomically.Request(
            parameters=[Parameter(k, value=v).to_parameter_msg() for k, v in values.items()]
        )
        return self.call(
            SetParametersAtomically, f'/{node}/set_parameters_atomically', request
        ).result

    def diagnostics(self, node: str) -> dict[str, str]:
        """The values of the node's latest diagnostics; listen to /diagnostics first."""
        for message in reversed(self.messages['/diagnostics']):
            for status in message.status:
                if status.name.startswith(f'{node}:'):
                    return {v.key: v.value for v in status.values}
        return {}

    def listen_diagnostics(self) -> None:
        """Collect /diagnostics."""
        self.listen(DiagnosticArray, '/diagnostics')

    def diagnostics_after(
        self, node: str, condition: Callable[[dict[str, str]], object]
    ) -> dict[str, str]:
        """The node's first diagnostics from now on that satisfy ``condition``."""
        self.messages['/diagnostics'].clear()
        self.spin_until(
            lambda: self.diagnostics(node) and condition(self.diagnostics(node)),
            what='such diagnostics',
        )
        return self.diagnostics(node)


class Camera:
    """A camera on a peer: an image topic and its camera_info."""

    def __init__(
        self,
        peer: Peer,
        image: str = '/image',
        info: str = '/camera_info',
        reliable: bool = True,
        compressed: bool = False,
    ) -> None:
        """Create the publishers."""
        self.peer = peer
        self._image = peer.publisher(
            CompressedImage if compressed else Image,
            image + ('/compressed' if compressed else ''),
            reliable,
        )
        self._info = peer.publisher(CameraInfo, info, reliable)
        self._reliability = (
            ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        )

    def wait_matched(self, with_info: bool = True, nodes: int = 1) -> None:
        """Wait until ``nodes`` nodes have subscribed, with a QoS that has settled."""
        publishers = [self._image, self._info] if with_info else [self._image]

        def matched() -> bool:
            # A node subscribes anew once it has seen the publishers' reliability.
            return all(
                p.get_subscription_count() >= nodes
                and all(
                    s.qos_profile.reliability == self._reliability
                    for s in self.peer.node.get_subscriptions_info_by_topic(p.topic_name)
                )
                for p in publishers
            )

        self.peer.spin_until(matched, what='subscription')
        self.peer.spin_for(0.6)
        self.peer.spin_until(matched, what='subscription')

    def publish(
        self, image: Image | CompressedImage, info: CameraInfo, info_frame: str | None = None
    ) -> None:
        """Publish an image and then its camera_info, of the same frame unless told otherwise."""
        self._image.publish(image)
        info.header.stamp = image.header.stamp
        info.header.frame_id = image.header.frame_id if info_frame is None else info_frame
        self._info.publish(info)


def image_message(
    rgb: np.ndarray, seconds: float, encoding: str = 'rgb8', frame: str = FRAME
) -> Image:
    """An image message of an array whose last axis is the channels, or a mono image."""
    message = Image(
        height=rgb.shape[0], width=rgb.shape[1], encoding=encoding, step=rgb.nbytes // rgb.shape[0]
    )
    message.data.frombytes(rgb.tobytes())
    set_stamp(message, seconds, frame)
    return message


def info_message(width: int, height: int, focal: float, distortion: float = 0.0) -> CameraInfo:
    """A pinhole camera with its principal point in the middle of the image."""
    cx, cy = (width - 1) / 2, (height - 1) / 2
    info = CameraInfo(width=width, height=height, distortion_model='plumb_bob')
    info.d = [distortion, 0.0, 0.0, 0.0, 0.0]
    info.k = [focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def set_stamp(message: Image | CompressedImage, seconds: float, frame: str = FRAME) -> None:
    """Stamp a message, to the nanosecond as ROS has it."""
    nanoseconds = round(seconds * 1e9)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(nanoseconds, 10**9)
    message.header.frame_id = frame


def stamp(message) -> float:
    """Stamp of a message in seconds."""
    return message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
