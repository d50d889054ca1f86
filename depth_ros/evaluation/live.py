"""Plays a recording through the real nodes and records what they publish.

Both nodes, a recorder and a player run in a process each, in a ROS domain of their own on this
machine, and talk over DDS.
"""

from __future__ import annotations

import csv
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

from depth_ros.bags.ground_truth import TF_PREFIX
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import Streams
from depth_ros.inference import model_files as models
from depth_ros.inference.contract import read_contract
from depth_ros.inference.outputs import TOPICS, topics

NODES = tuple(models.NODES.values())
OUTPUT_TOPICS = tuple(topic.name for topic in TOPICS.values() if topic.recorded)
ONLY = {
    'max_depth': 'perception_node',
    'depth_scale': 'perception_node',
    'translation_scale': 'odometry_node',
    'camera_pose': 'odometry_node',
    'max_gap': 'odometry_node',
}
"""Parameters that only one node has, of those that an evaluation sets."""

PR_SET_PDEATHSIG = 1


class LiveError(RuntimeError):
    """The nodes cannot be run; the message says why and what to do."""


# Processes --------------------------------------------------------------------------------------


class Processes:
    """Children that all end with the block, whatever happens in it.

    Each child writes to `<logs>/<name>.log`, runs in a session of its own, so that Ctrl-C reaches
    only this process, and is ended by the kernel should this process be killed.
    """

    def __init__(self, logs: Path, environment: dict[str, str]) -> None:
        self._logs = logs
        self._environment = environment
        self._children: dict[str, subprocess.Popen] = {}
        self._asked: set[str] = set()
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, *command: str) -> subprocess.Popen:
        """Start `python -m depth_ros.<module>` under a name."""
        libc = ctypes.CDLL(None)  # loaded before the fork: the child must not allocate
        with self.log(name).open('w') as log:
            child = subprocess.Popen(
                [sys.executable, '-m', f'depth_ros.{command[0]}', *command[1:]],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
            )
        self._children[name] = child
        return child

    def log(self, name: str) -> Path:
        """Return the log file of a child."""
        return self._logs / f'{name}.log'

    def tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines that a child wrote."""
        text = self.log(name).read_text(errors='replace').splitlines()[-lines:]
        return '\n'.join(f'  | {line}' for line in text) or '  | (it wrote nothing)'

    def check(self) -> None:
        """Raise LiveError with the last lines of a child that has ended and should not have."""
        for name, child in self._children.items():
            status = child.poll()
            # Only the player ends by itself, at the end of the recording.
            if status is not None and (status or name != 'player'):
                how = f'signal {-status}' if status < 0 else f'status {status}'
                raise LiveError(f'{name} ended with {how}; its last lines:\n{self.tail(name)}')

    def ask_to_stop(self, name: str) -> None:
        """Send SIGINT to a child, the first time only: a second one would hurt its clean-up."""
        child = self._children[name]
        if name not in self._asked and child.poll() is None:
            self._asked.add(name)
            child.send_signal(signal.SIGINT)

    def stop(self, name: str, patience_s: float) -> int:
        """End a child: SIGINT, then SIGTERM, then SIGKILL; returns its exit status."""
        self.ask_to_stop(name)
        child = self._children.pop(name)
        for force in (child.terminate, child.kill):
            try:
                return child.wait(patience_s)
            except subprocess.TimeoutExpired:
                force()
        return child.wait()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in self._children:
            self.ask_to_stop(name)
        for name in list(self._children):
            self.stop(name, 5.0)


# One run ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        bag: The recording to play.
        streams: Its topics.
        compressed: Whether the images are CompressedImages.
        out: Folder for the results.
        rate: Speed of the replay.
        domain: ROS domain.
        models: Model file of each node that is to run, by node name.
        parameters: Further parameters of the nodes, by name, each for those that have it.
        outputs: Names of the outputs to record; what nobody records is not computed.
        timing: Record no inputs and do not compress, since both take a processor's time.
    """

    bag: Path
    streams: Streams
    compressed: bool
    out: Path
    models: dict[str, Path]
    rate: float = 1.0
    domain: int = 1
    parameters: dict[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = OUTPUT_TOPICS
    timing: bool = False

    @property
    def namespace(self) -> str:
        """Namespace of the nodes: none, unless a played topic has the name of an output."""
        taken = {f'/{topic}' for topic in TOPICS}
        return '/depth_ros' if taken & set(self.played) else ''

    @property
    def image(self) -> str:
        """Base name of the image topic; compressed images are played at `<image>/compressed`."""
        name = self.streams.image
        return name.removesuffix('/compressed') if self.compressed else name

    @property
    def played(self) -> list[str]:
        """Names of the topics as they are played, the images first."""
        others = [
            t
            for t in vars(self.streams).values()
            if t and t != self.streams.image and not t.startswith(TF_PREFIX)
        ]
        return [self.image + ('/compressed' if self.compressed else ''), *others]

    def output(self, name: str) -> str:
        """Return the full name of an output topic."""
        return f'{self.namespace}/{name}'


@dataclass
class Run:
    """What happened.

    Attributes:
        frames_in: Images that were played.
        latency_ms: By output topic and stamp of the image in ns, the time from just before the
            image was published to the arrival of the output at the recorder.
        latest_s: How late, at worst, the player was.
        messages: Warnings and errors of the nodes, each once.
        stages_ms: By node, the median time of each stage of its work, from its diagnostics.
        backends: By node, the inference runtime that it used.
    """

    frames_in: int
    latency_ms: dict[str, dict[int, float]]
    latest_s: float
    messages: list[str]
    stages_ms: dict[str, dict[str, float]]
    backends: dict[str, str]

    def frames_out(self, topic: str) -> int:
        """Return how many frames came out on a topic."""
        return len(self.latency_ms.get(topic, ()))

    def latencies_ms(self, topic: str) -> np.ndarray:
        """Return the latencies of a topic's outputs, (N,)."""
        return np.array(list(self.latency_ms.get(topic, {}).values()))


def run_nodes(plan: Plan, say: Callable[[str], None] = print) -> Run:
    """Play a recording through the nodes and record what they publish to `<out>/recording`.

    Raises:
        LiveError: A process failed or nothing came out; the message shows why.
    """
    from depth_ros.ros import transport

    logs = plan.out / 'logs'
    os.environ.update(ROS_DOMAIN_ID=str(plan.domain), ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST')
    environment = transport.env({**os.environ, 'PYTHONUNBUFFERED': '1'})
    with Processes(logs, environment) as processes:
        for node in plan.models:
            processes.start(node, f'nodes.{node}', *_node_arguments(plan, node))
        recorded = ['/diagnostics', *map(plan.output, plan.outputs)]
        if not plan.timing:
            recorded = [*plan.played, *recorded]
        arrived = logs / 'arrived.csv'
        processes.start(
            'recorder',
            'ros.recorder',
            str(plan.out / 'recording'),
            '--log',
            str(arrived),
            *(['--uncompressed'] if plan.timing else []),
            '--topics',
            *recorded,
            '--ros-args',
            '-p',
            'use_sim_time:=true',
        )
        player = processes.start('player', 'ros.player', *_player_arguments(plan, logs))
        say('Starting the nodes')
        with _Observer() as observer:
            for node in plan.models:
                observer.wait_until_active(f'{plan.namespace}/{node}', processes)
            wanted = [plan.output(t) for t in model_topics(plan)]
            observer.wait_until_recorded(wanted, processes)
        player.stdin.write(b'\n')
        player.stdin.close()
        with Bag(plan.bag) as bag:
            frames = bag.topics[plan.streams.image].count
            seconds = (bag.end_ns - bag.start_ns) / 1e9 / plan.rate
        say(f'Playing {plan.bag}: {frames} images in {seconds:.1f} s')
        deadline = time.monotonic() + seconds + 120
        while player.poll() is None:
            processes.check()
            if time.monotonic() > deadline:
                raise LiveError(
                    f'the player does not end; its last lines:\n{processes.tail("player")}'
                )
            time.sleep(0.1)
        processes.check()
        sent = json.loads((logs / 'sent.json').read_text())
        last = max(
            (stamp for topic, stamp, _ in sent['published'] if topic == plan.streams.image),
            default=0,
        )
        _drain(arrived, last, wanted, processes)
        if processes.stop('recorder', 60.0):
            raise LiveError(f'the recorder failed; its last lines:\n{processes.tail("recorder")}')
        processes.check()
        run = _collect(plan, sent, arrived)
        if not run.frames_out(wanted[0]):
            node = next(iter(plan.models))
            said = _node_messages([processes.log(node)])[:5]
            raise LiveError(
                f'no frame came out on {wanted[0]} for {run.frames_in} images; {node} says:\n'
                + ('\n'.join(f'  | {line}' for line in said) or processes.tail(node))
            )
    # Read after the nodes have ended, for their last words.
    run.messages = _node_messages([processes.log(node) for node in plan.models])
    return run


def _node_arguments(plan: Plan, node: str) -> list[str]:
    parameters = {
        'use_sim_time': 'true',
        'model': str(plan.models[node].resolve()),
        'image_transport': 'compressed' if plan.compressed else 'raw',
    }
    parameters |= {
        name: value for name, value in plan.parameters.items() if ONLY.get(name, node) == node
    }
    arguments = [
        '--ros-args',
        '-r',
        f'image:={plan.image}',
        '-r',
        f'camera_info:={plan.streams.camera_info}',
    ]
    if plan.namespace:
        arguments += ['-r', f'__ns:={plan.namespace}']
    for name, value in parameters.items():
        arguments += ['-p', f'{name}:={value}']
    return arguments


def _player_arguments(plan: Plan, logs: Path) -> list[str]:
    streams = plan.streams
    topics = [t for t in vars(streams).values() if t and not t.startswith(TF_PREFIX)]
    with Bag(plan.bag) as bag:
        topics += [t for t in ('/tf', '/tf_static') if t in bag.topics]
    readers = len(plan.models) + (not plan.timing)  # the recorder
    return [
        str(plan.bag),
        '--paused',
        '--rate',
        str(plan.rate),
        '--log',
        str(logs / 'sent.json'),
        '--topics',
        *topics,
        '--remap',
        f'{streams.image}:={plan.played[0]}',
        '--wait-for',
        f'{streams.image}={readers}',
        f'{streams.camera_info}={readers}',
    ]


def model_topics(plan: Plan) -> list[str]:
    """Names of the outputs that the models give, one for each frame, the first for latency."""
    found: list[str] = []
    for node in NODES:
        if node in plan.models:
            contract = read_contract(plan.models[node])
            found += [
                name
                for name, (_, topic) in topics(contract.outputs, contract.affine_invariant).items()
                if topic.every_frame
            ]
    return found


class _Observer:
    """Looks at the ROS graph from this process."""

    def __enter__(self) -> _Observer:
        import rclpy

        from depth_ros.ros.transport import prepare_process

        prepare_process()
        rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
        self._node = rclpy.create_node('evaluation')
        return self

    def __exit__(self, *_: object) -> None:
        import rclpy

        self._node.destroy_node()
        rclpy.shutdown()

    def wait_until_active(self, name: str, processes: Processes, timeout_s: float = 90.0) -> None:
        """Wait until a lifecycle node is active."""
        import rclpy
        from lifecycle_msgs.msg import State
        from lifecycle_msgs.srv import GetState

        client = self._node.create_client(GetState, f'{name}/get_state')
        end = time.monotonic() + timeout_s
        state = 'not there'
        while state != 'active':
            processes.check()
            if time.monotonic() > end:
                child = name.rpartition('/')[2]
                raise LiveError(
                    f'{name} is {state} after {timeout_s:g} s; its last lines:\n'
                    f'{processes.tail(child)}'
                )
            if not client.wait_for_service(0.2):
                continue
            future = client.call_async(GetState.Request())
            rclpy.spin_until_future_complete(self._node, future, timeout_sec=1.0)
            if future.done():
                state = future.result().current_state.label
                if future.result().current_state.id == State.PRIMARY_STATE_UNCONFIGURED:
                    time.sleep(0.2)

    def wait_until_recorded(
        self, topics: Sequence[str], processes: Processes, timeout_s: float = 30.0
    ) -> None:
        """Wait until every topic has a publisher and a subscriber."""
        end = time.monotonic() + timeout_s
        while missing := [
            t
            for t in topics
            if not self._node.count_subscribers(t) or not self._node.count_publishers(t)
        ]:
            processes.check()
            if time.monotonic() > end:
                raise LiveError(f'{", ".join(missing)}: nobody publishes or records this')
            time.sleep(0.1)
        # What this process sees, the others are about to see: their discovery takes as long.
        time.sleep(0.5)


def _drain(
    arrived: Path, last: int, topics: Sequence[str], processes: Processes, timeout_s: float = 10.0
) -> None:
    """Wait for the outputs of the last image, which the nodes never drop; or give up."""
    end = time.monotonic() + timeout_s
    missing = set(topics)
    while missing and time.monotonic() < end:
        processes.check()
        for topic, stamp, _ in _arrivals(arrived):
            if stamp >= last:
                missing.discard(topic)
        time.sleep(0.1)


def _arrivals(path: Path) -> list[tuple[str, int, int]]:
    with path.open() as file:
        rows = [row for row in csv.reader(file) if len(row) == 3 and row[2]]
    return [(topic, int(stamp), int(received)) for topic, stamp, received in rows]


def _collect(plan: Plan, sent: dict, arrived: Path) -> Run:
    published = {stamp: at for topic, stamp, at in sent['published'] if topic == plan.streams.image}
    latency: dict[str, dict[int, float]] = {}
    for topic, stamp, received in _arrivals(arrived):
        if stamp in published and topic not in plan.played:
            latency.setdefault(topic, {})[stamp] = (received - published[stamp]) / 1e6
    run = Run(
        frames_in=len(published),
        latency_ms=latency,
        latest_s=sent['latest_s'],
        messages=[],
        stages_ms={},
        backends={},
    )
    with Bag(plan.out / 'recording') as bag:
        for message in bag.messages(['/diagnostics']):
            for status in bag.decode(message).status:
                node = next((n for n in NODES if f'{n}:' in status.name), None)
                values = {v.key: v.value for v in status.values}
                times = {
                    key[5:-3]: float(value)
                    for key, value in values.items()
                    if key.startswith('time_') and key.endswith('_ms') and value
                }
                if node and times:
                    run.stages_ms[node] = times
                    run.backends[node] = values.get('backend', '')
    return run


def _node_messages(logs: Sequence[Path]) -> list[str]:
    """Warnings and errors in the nodes' logs, without their times, each once."""
    found: dict[str, None] = {}
    for log in logs:
        for line in log.read_text(errors='replace').splitlines():
            if line.startswith(('[WARN]', '[ERROR]', '[FATAL]')):
                level, _, rest = line.partition(' ')
                found[f'{level} {rest.partition("] ")[2]}'] = None
    return list(found)
