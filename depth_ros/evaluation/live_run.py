"""Plays a recording through the real nodes and records what they publish.

Nodes, recorder and player run in a process each, in a ROS domain of their own on this machine, and
communicate over DDS.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from depth_ros.bags.ground_truth import TF_PREFIX
from depth_ros.bags.messages import ODOMETRY
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import Streams
from depth_ros.evaluation.processes import GraphObserver, LiveError, Processes
from depth_ros.inference.contract import read_contract
from depth_ros.inference.model_files import NODES as NODES_BY_TASK
from depth_ros.inference.outputs import TOPICS, topics
from depth_ros.ros import transport
from depth_ros.ros.player import play_seconds

NODES = tuple(NODES_BY_TASK.values())

NODE_OF_PARAMETER = {
    'max_depth': 'perception_node',
    'depth_scale': 'perception_node',
    'scale_source': 'perception_node',
    'translation_scale': 'odometry_node',
    'camera_pose': 'odometry_node',
    'max_gap': 'odometry_node',
    'refinement': 'odometry_node',
}
"""Parameters that an evaluation sets and that only one node has, with that node."""


@dataclass(frozen=True)
class LiveSetup:
    """Settings of a live run.

    Attributes:
        bag: The recording to play.
        streams: Its topics.
        compressed: Whether the images are CompressedImages.
        out: Folder for the results.
        rate: Speed of the replay.
        domain: ROS domain.
        models: Model file of each node to run, by node name.
        parameters: Further parameters, by name; each node gets those that it has.
        outputs: Names of the output topics to record; nodes do not compute others.
        timing: Whether to save processor time: inputs are not recorded, and nothing is compressed.
    """

    bag: Path
    streams: Streams
    compressed: bool
    out: Path
    models: dict[str, Path]
    rate: float = 1.0
    domain: int = 1
    parameters: dict[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
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
class LiveOutcome:
    """Result of a live run.

    Attributes:
        frames_in: Number of images that were played.
        latency_ms: By output topic and stamp of the image in ns, the time from just before the
            image was published to the arrival of the output at the recorder.
        latest_s: Largest delay of the player behind its schedule, seconds.
        messages: Warnings and errors of the nodes, each once.
        stages_ms: By node and stage of its work, the median time in ms, from its diagnostics.
        backends: By node, the inference runtime that it used.
    """

    frames_in: int
    latency_ms: dict[str, dict[int, float]]
    latest_s: float
    messages: list[str]
    stages_ms: dict[str, dict[str, float]]
    backends: dict[str, str]

    def frames_out(self, topic: str) -> int:
        """Return the number of frames that were published on a topic."""
        return len(self.latency_ms.get(topic, ()))

    def latencies_ms(self, topic: str) -> np.ndarray:
        """Return the latencies of a topic's outputs, (N,)."""
        return np.array(list(self.latency_ms.get(topic, {}).values()))


def run_nodes(setup: LiveSetup, say: Callable[[str], None] = print) -> LiveOutcome:
    """Play a recording through the nodes and record what they publish to `<out>/recording`.

    Args:
        setup: What to run.
        say: Function that is called with messages for the user.

    Raises:
        LiveError: if a process failed or nothing was published; the message shows why.
    """
    logs = setup.out / 'logs'
    os.environ.update(ROS_DOMAIN_ID=str(setup.domain), ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST')
    environment = transport.env({**os.environ, 'PYTHONUNBUFFERED': '1'})
    with Processes(logs, environment) as processes:
        for node in setup.models:
            processes.start(node, f'nodes.{node}', *_node_arguments(setup, node))
        recorded = ['/diagnostics', *map(setup.output, setup.outputs)]
        if not setup.timing:
            recorded = [*setup.played, *recorded]
        arrived = logs / 'arrived.csv'
        processes.start(
            'recorder',
            'ros.recorder',
            str(setup.out / 'recording'),
            '--log',
            str(arrived),
            *(['--uncompressed'] if setup.timing else []),
            '--topics',
            *recorded,
            '--ros-args',
            '-p',
            'use_sim_time:=true',
        )
        player = processes.start('player', 'ros.player', *_player_arguments(setup, logs))
        say('Starting the nodes')
        with GraphObserver() as observer:
            for node in setup.models:
                observer.wait_until_active(f'{setup.namespace}/{node}', processes)
            wanted = [setup.output(t) for t in model_topics(setup)]
            observer.wait_until_recorded(wanted, processes)
        assert player.stdin
        player.stdin.write(b'\n')
        player.stdin.close()
        with Bag(setup.bag) as bag:
            frames = bag.topics[setup.streams.image].count
            played = (m.log_ns for m in bag.messages(_played_topics(setup, bag)))
            seconds = play_seconds(played) / setup.rate
        say(f'Playing {setup.bag}: {frames} images in {seconds:.1f} s')
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
            (stamp for topic, stamp, _ in sent['published'] if topic == setup.streams.image),
            default=0,
        )
        _drain(arrived, last, wanted, processes)
        if processes.stop('recorder', 60.0):
            raise LiveError(f'the recorder failed; its last lines:\n{processes.tail("recorder")}')
        processes.check()
        outcome = _collect(setup, sent, arrived)
        if not outcome.frames_out(wanted[0]):
            node = next(iter(setup.models))
            said = _node_messages([processes.log(node)])[:5]
            raise LiveError(
                f'no frame came out on {wanted[0]} for {outcome.frames_in} images; {node} says:\n'
                + ('\n'.join(f'  | {line}' for line in said) or processes.tail(node))
            )
    # Read after the nodes have ended, so that their last messages are included.
    outcome.messages = _node_messages([processes.log(node) for node in setup.models])
    return outcome


def _node_arguments(setup: LiveSetup, node: str) -> list[str]:
    parameters = {
        'use_sim_time': 'true',
        'model': str(setup.models[node].resolve()),
        'image_transport': 'compressed' if setup.compressed else 'raw',
    }
    parameters |= {
        name: value
        for name, value in setup.parameters.items()
        if NODE_OF_PARAMETER.get(name, node) == node
    }
    arguments = [
        '--ros-args',
        '-r',
        f'image:={setup.image}',
        '-r',
        f'camera_info:={setup.streams.camera_info}',
    ]
    if wheels := setup.streams.wheels:
        with Bag(setup.bag) as bag:
            topic = 'wheel_odom' if bag.topics[wheels].msgtype == ODOMETRY else 'speed'
        arguments += ['-r', f'{topic}:={wheels}']
    if setup.namespace:
        arguments += ['-r', f'__ns:={setup.namespace}']
    for name, value in parameters.items():
        arguments += ['-p', f'{name}:={value}']
    return arguments


def _played_topics(setup: LiveSetup, bag: Bag) -> list[str]:
    named = [t for t in vars(setup.streams).values() if t and not t.startswith(TF_PREFIX)]
    return named + [t for t in ('/tf', '/tf_static') if t in bag.topics]


def _player_arguments(setup: LiveSetup, logs: Path) -> list[str]:
    streams = setup.streams
    with Bag(setup.bag) as bag:
        topics = _played_topics(setup, bag)
    readers = len(setup.models) + (not setup.timing)  # the recorder
    return [
        str(setup.bag),
        '--paused',
        '--rate',
        str(setup.rate),
        '--log',
        str(logs / 'sent.json'),
        '--topics',
        *topics,
        '--remap',
        f'{streams.image}:={setup.played[0]}',
        '--wait-for',
        f'{streams.image}={readers}',
        f'{streams.camera_info}={readers}',
    ]


def model_topics(setup: LiveSetup) -> list[str]:
    """Return the topics on which the models publish a message for each image.

    The first one belongs to the first node of `NODES` that runs; latency is told by it.
    """
    found: list[str] = []
    for node in NODES:
        if node in setup.models:
            contract = read_contract(setup.models[node])
            found += [
                name
                for name, (_, topic) in topics(contract.outputs, contract.affine_invariant).items()
                if topic.every_frame
            ]
    return found


def _drain(
    arrived: Path, last: int, topics: Sequence[str], processes: Processes, timeout_s: float = 10.0
) -> None:
    """Wait until the outputs of the last image have arrived, at most `timeout_s` seconds.

    Nodes never drop the last image. `last` is its stamp, ns.
    """
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


def _collect(setup: LiveSetup, sent: dict, arrived: Path) -> LiveOutcome:
    published = {
        stamp: at for topic, stamp, at in sent['published'] if topic == setup.streams.image
    }
    latency: dict[str, dict[int, float]] = {}
    for topic, stamp, received in _arrivals(arrived):
        if stamp in published and topic not in setup.played:
            latency.setdefault(topic, {})[stamp] = (received - published[stamp]) / 1e6
    outcome = LiveOutcome(
        frames_in=len(published),
        latency_ms=latency,
        latest_s=sent['latest_s'],
        messages=[],
        stages_ms={},
        backends={},
    )
    with Bag(setup.out / 'recording') as bag:
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
                    outcome.stages_ms[node] = times
                    outcome.backends[node] = values.get('backend', '')
    return outcome


def _node_messages(logs: Sequence[Path]) -> list[str]:
    """Return warnings and errors in the nodes' logs, without their times, each once."""
    found: dict[str, None] = {}
    for log in logs:
        for line in log.read_text(errors='replace').splitlines():
            if line.startswith(('[WARN]', '[ERROR]', '[FATAL]')):
                level, _, rest = line.partition(' ')
                found[f'{level} {rest.partition("] ")[2]}'] = None
    return list(found)
