"""Real nodes over DDS, on this machine only, under every fault that we could think of.

    python -m support.soak --minutes 2        (in test/; make soak runs it)

Rounds of all faults follow each other until the time is over; at least one is finished. After each
fault both nodes must answer good images. It ends with status 1 if a node ended, printed a traceback
or did not answer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

NODES = ('perception_node', 'odometry_node')
TOPICS = {'perception_node': '/depth/image_rect', 'odometry_node': '/odom'}
SIZE = (320, 240)
PATIENCE = 15.0  # seconds for an answer, on a machine that may be busy


@dataclass
class Findings:
    """What came of it.

    Attributes:
        tried: how often each fault was tried.
        crashes: nodes that ended or printed a traceback, with the fault.
        lost: good images without an answer after a fault, as 'node after fault'.
        latency_ms: by fault, from the publication of a good image to its depth.
        memory_mb: of each node at the end of each round.
    """

    tried: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    crashes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    latency_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory_mb: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def growth(self, node: str) -> float | None:
        """Growth of a node's memory in percent after the first two rounds; None if too short."""
        rounds = self.memory_mb[node][1:]
        return 100 * (rounds[-1] / rounds[0] - 1) if len(rounds) > 1 else None


class Rig:
    """Both nodes, a camera, and a listener."""

    def __init__(self, folder: Path) -> None:
        from nav_msgs.msg import Odometry
        from sensor_msgs.msg import Image

        from support.onnx_models import save_perception, save_pose
        from support.ros_process import Camera, Peer

        self.folder = folder
        self.models = {
            'perception_node': save_perception(folder / 'perception.onnx'),
            'odometry_node': save_pose(folder / 'pose.onnx'),
        }
        self.findings = Findings()
        self.peer = Peer()
        self.nodes = {}
        self.time = 1000.0
        self.size = SIZE
        for name, kind in (('perception_node', Image), ('odometry_node', Odometry)):
            self.peer.listen(kind, TOPICS[name])
            self.start(name)
        self.camera = Camera(self.peer)

    def start(self, name: str) -> None:
        """Start a node and wait until it is active."""
        from support.ros_process import NodeProcess

        self.nodes[name] = NodeProcess(name, {'model': self.models[name]})
        # Not by its service: one that was killed seems to be there for a while.
        self.nodes[name].wait_for('active: waiting')

    def another(self, name: str):
        """Start one more node of a kind, on the same topics."""
        from support.ros_process import NodeProcess

        node = NodeProcess(name, {'model': self.models[name]}, {'__node': f'another_{name}'})
        node.wait_for('active: waiting')
        return node

    def close(self) -> None:
        for name, node in self.nodes.items():
            if node.process.poll() is None and node.stop():
                self.findings.crashes.append(f'{name} at its end')
        self.peer.close()

    def publish(self, image=None, info=None, advance: float = 0.1) -> float:
        """Publish an image, a good one unless told otherwise; returns its stamp."""
        from support.ros_process import image_message, info_message, set_stamp

        width, height = self.size
        self.time += advance
        if image is None:
            rgb = np.full((height, width, 3), int(10 * self.time) % 200, np.uint8)
            image = image_message(rgb, self.time)
        set_stamp(image, self.time)
        self.camera.publish(image, info or info_message(width, height, 0.5 * width))
        return self.time

    def good(self, fault: str, count: int = 3) -> None:
        """Both nodes must answer good images."""
        from support.ros_process import stamp

        self.settle()
        for messages in self.peer.messages.values():
            messages.clear()
        for name, node in self.nodes.items():
            if node.process.poll() is not None:
                self.findings.crashes.append(f'{name} ended with {node.process.poll()}: {fault}')
                self.start(name)
            elif 'Traceback' in node.output:
                self.findings.crashes.append(f'{name} printed a traceback: {fault}')
        self.camera.wait_matched(nodes=len(NODES))
        for index in range(count + 1):
            sent, started = self.publish(), time.monotonic()
            # The first image after a gap gives no motion.
            wanted = NODES if index else NODES[:1]

            def missing(wanted=wanted, sent=sent):
                return [
                    n
                    for n in wanted
                    if not any(abs(stamp(m) - sent) < 1e-6 for m in self.peer.messages[TOPICS[n]])
                ]

            while missing() and time.monotonic() - started < PATIENCE:
                self.peer.executor.spin_once(timeout_sec=0.05)
            self.findings.lost += [f'{name} after {fault}' for name in missing()]
            self.findings.latency_ms[fault].append(1e3 * (time.monotonic() - started))

    def settle(self) -> None:
        self.peer.spin_for(0.3)

    def memory(self) -> None:
        """Note the memory of both nodes."""
        for name, node in self.nodes.items():
            status = Path(f'/proc/{node.process.pid}/status').read_text()
            kilobytes = next(r for r in status.splitlines() if r.startswith('VmRSS')).split()[1]
            self.findings.memory_mb[name].append(int(kilobytes) / 1024)


# The faults. Each leaves the rig as it was.


def nothing(rig: Rig) -> int:
    """For comparison."""
    return 1


def corrupt_images(rig: Rig) -> int:
    """Truncated, of no size, of giant size, empty, of nonsense."""
    from sensor_msgs.msg import Image

    from support.ros_process import image_message

    rgb = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    changes = (
        {'data': image_message(rgb, 0).data[:100]},
        {'width': 0},
        {'height': 0},
        {'width': 2**31, 'height': 2**31, 'step': 2**32 - 1},
        {'width': 2**32 - 1},
        {'step': 1},
        {'encoding': 'purple'},
        {'encoding': '\ud7ff' * 50},
        {'is_bigendian': 1, 'encoding': 'mono16'},
    )
    for change in changes:
        image = image_message(rgb, 0)
        for name, value in change.items():
            setattr(image, name, value)
        rig.publish(image)
        rig.peer.spin_for(0.02)
    rig.publish(Image())
    rig.publish(image_message(np.zeros((4000, 4000, 3), np.uint8), 0))
    return len(changes) + 2


def random_messages(rig: Rig, count: int = 1500) -> int:
    """Random content in every field of images and camera_info."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
    from sensor_msgs.msg import CameraInfo, Image

    from depth_ros.core.images import ENCODINGS

    numbers = st.floats(width=64)
    encodings = st.one_of(st.sampled_from([*ENCODINGS, '32FC1']), st.text(max_size=20))
    whole = st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1))
    texts = st.text(st.characters(exclude_characters='\0', codec='utf-8'), max_size=20)
    images = st.builds(
        lambda **f: f,
        **{'width': whole, 'height': whole, 'step': whole, 'encoding': encodings},
        is_bigendian=st.integers(0, 255),
        data=st.binary(max_size=3000),
    )
    infos = st.builds(
        lambda **f: f,
        **{'width': whole, 'height': whole, 'distortion_model': texts},
        **{'binning_x': whole, 'binning_y': whole},
        d=st.lists(numbers, max_size=8),
        k=st.lists(numbers, min_size=9, max_size=9),
        r=st.lists(numbers, min_size=9, max_size=9),
        p=st.lists(numbers, min_size=12, max_size=12),
    )
    sent = [0]

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(images, infos, texts)
    def send(image, info, frame):
        message = Image(**{k: v for k, v in image.items() if k not in ('data', 'encoding')})
        message.encoding = image['encoding'].replace('\0', '').encode(errors='ignore').decode()
        message.data.frombytes(image['data'])
        calibration = CameraInfo(**info)
        rig.publish(message, calibration, advance=0.001)
        rig.camera.publish(message, calibration, info_frame=frame)
        sent[0] += 2
        rig.peer.executor.spin_once(timeout_sec=0)

    send()
    return sent[0]


def camera_infos(rig: Rig) -> int:
    """Missing, of another size, zero, not finite."""
    from sensor_msgs.msg import CameraInfo

    from support.ros_process import info_message

    bad = [CameraInfo(), info_message(640, 480, 300.0), info_message(*SIZE, 0.0)]
    bad.append(info_message(*SIZE, float('nan')))
    for info in bad:
        rig.publish(info=info)
        rig.peer.spin_for(0.05)
    return len(bad)


def start_and_stop(rig: Rig) -> int:
    """Two more nodes start, get an image, and are stopped, each by another signal."""
    for name, how in zip(NODES, (signal.SIGINT, signal.SIGTERM), strict=True):
        node = rig.another(name)
        rig.publish()
        status = node.stop(how)
        if status or 'Traceback' in node.output:
            rig.findings.crashes.append(f'another {name} stopped with status {status}')
    return len(NODES)


def life_cycles(rig: Rig, count: int = 3) -> int:
    """Deactivate, clean up, configure, activate, with images flowing."""
    for _ in range(count):
        for name in NODES:
            for transition in ('deactivate', 'cleanup', 'configure', 'activate'):
                rig.publish()
                if not rig.peer.change(name, transition):
                    rig.findings.crashes.append(f'{name} does not {transition}')
    return count * len(NODES)


LISTENER = """
import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, PointCloud2
rclpy.init()
node = rclpy.create_node('listener')
node.create_subscription(PointCloud2, '/points', lambda m: None, QoSProfile(depth=5))
node.create_subscription(Image, '/depth/image_rect', lambda m: None, QoSProfile(depth=5))
print('up', flush=True)
rclpy.spin(node)
"""


def _listener() -> subprocess.Popen:
    from support.ros_process import ros_environment

    process = subprocess.Popen(
        [sys.executable, '-c', LISTENER], env=ros_environment(), stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    return process


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def subscribers(rig: Rig) -> int:
    """They come, are stopped in the middle (SIGSTOP), and are killed."""
    first, second = _listener(), _listener()
    try:
        for _ in range(5):
            rig.publish()
            rig.peer.spin_for(0.05)
        first.send_signal(signal.SIGSTOP)
        for _ in range(20):
            rig.publish()
            rig.peer.spin_for(0.05)
    finally:
        _end(first)
        _end(second)
    return 2


def other_sizes(rig: Rig) -> int:
    """The camera goes and comes again with other sizes."""
    from support.ros_process import Camera

    for size in ((640, 480), (64, 48), SIZE):
        for publisher in (rig.camera._image, rig.camera._info):
            rig.peer.node.destroy_publisher(publisher)
        rig.camera, rig.size = Camera(rig.peer), size
        rig.camera.wait_matched(nodes=len(NODES))
        for _ in range(3):
            rig.publish()
            rig.peer.spin_for(0.05)
    return 3


def starvation(rig: Rig) -> int:
    """Every core is busy four times over, for three seconds."""
    code = 'import time; end = time.monotonic() + 3\nwhile time.monotonic() < end: pass'
    count = 4 * (os.cpu_count() or 1)
    busy = [subprocess.Popen([sys.executable, '-c', code]) for _ in range(count)]
    while any(process.poll() is None for process in busy):
        rig.publish()
        rig.peer.spin_for(0.1)
    return 1


def clocks(rig: Rig) -> int:
    """Stamps of 1970, of next year, doubled, and late by a little."""
    now = rig.time
    for there in (1.0, now + 3e7, now + 3e7, now, now - 0.05, now + 1):
        rig.time = there
        rig.publish(advance=0)
        rig.peer.spin_for(0.05)
    return 6


def full_disk(rig: Rig) -> int:
    """A recorder may write no more than 100 kB: the nodes must not notice."""
    from support.ros_process import ros_environment

    target = rig.folder / 'recording'
    shutil.rmtree(target, ignore_errors=True)
    recorder = subprocess.Popen(
        [sys.executable, '-m', 'depth_ros.ros.recorder', str(target), '--topics', '/image'],
        env=ros_environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for _ in range(30):
            rig.publish()
            rig.peer.spin_for(0.1)
    finally:
        _end(recorder)
    return 1


def model_files(rig: Rig) -> int:
    """A model is overwritten, then deleted, while it is in use, and loaded again."""
    name = 'perception_node'
    path, kept = rig.models[name], rig.folder / 'kept.onnx'
    shutil.copy(path, kept)
    for spoil in (lambda: path.write_bytes(b'nonsense'), path.unlink):
        spoil()
        rig.good('a model that is spoilt while it runs', 1)
        for transition in ('deactivate', 'cleanup'):
            rig.peer.change(name, transition)
        if rig.peer.change(name, 'configure'):
            rig.findings.crashes.append(f'{name} takes a spoilt model')
        shutil.copy(kept, path)
        for transition in ('configure', 'activate'):
            if not rig.peer.change(name, transition):
                rig.findings.crashes.append(f'{name} does not {transition} again')
    return 2


def killed(rig: Rig) -> int:
    """Two more nodes are killed (SIGKILL) in the middle of an image."""
    for name in NODES:
        node = rig.another(name)
        for _ in range(5):
            rig.publish()
            rig.peer.spin_for(0.02)
        rig.publish()
        node.stop(signal.SIGKILL)
    return len(NODES)


FAULTS: tuple[Callable[[Rig], int], ...] = (
    *(nothing, corrupt_images, random_messages, camera_infos, clocks, other_sizes, subscribers),
    *(starvation, full_disk, model_files, life_cycles, start_and_stop, killed),
)


def soak(seconds: float, faults=FAULTS, say: Callable[[str], None] = print) -> Findings:
    """Run rounds of faults for about so long, at least one round."""
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder))
        try:
            end, rounds = time.monotonic() + seconds, 0
            while not rounds or time.monotonic() < end:
                rounds += 1
                for fault in faults:
                    if rounds > 1 and time.monotonic() > end:
                        break
                    name = fault.__name__.replace('_', ' ')
                    started = time.monotonic()
                    try:
                        rig.findings.tried[name] += fault(rig)
                        rig.good(name)
                    except AssertionError as error:  # of waiting for a node
                        rig.findings.crashes.append(f'{name}: {error}')
                    say(f'round {rounds}: {name}, {time.monotonic() - started:.1f} s')
                else:
                    rig.good('nothing')
                    rig.memory()
        finally:
            rig.close()
        return rig.findings


def table(findings: Findings) -> str:
    """The findings as Markdown."""
    lines = ['| Fault | Tried | Latency of good images after it, ms: median, worst |']
    lines.append('| --- | --- | --- |')
    for name, count in findings.tried.items():
        times = findings.latency_ms[name]
        lines.append(f'| {name} | {count} | {median(times):.0f}, {max(times):.0f} |')
    lines.append('')
    lines.append(f'Crashes: {len(findings.crashes)}. Good images lost: {len(findings.lost)}.')
    for node in NODES:
        growth = findings.growth(node)
        rounds = ', '.join(f'{m:.0f}' for m in findings.memory_mb[node])
        text = 'too short to tell' if growth is None else f'{growth:+.1f} %'
        lines.append(f'Memory of {node}, MB a round: {rounds}; growth after the second: {text}.')
    return '\n'.join([*lines, *findings.crashes, *findings.lost])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=2.0)
    parser.add_argument('--out', type=Path, help='a JSON file for the findings')
    arguments = parser.parse_args()
    from depth_ros.ros.domain import claim_domain

    os.environ.update(ROS_DOMAIN_ID=str(claim_domain()), ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST')
    findings = soak(60 * arguments.minutes, say=lambda text: print(text, flush=True))
    print(table(findings))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(vars(findings), indent=2))
    return 1 if findings.crashes or findings.lost else 0


if __name__ == '__main__':
    sys.exit(main())
