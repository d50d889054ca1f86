"""A recording through the real nodes: `python -m depth_ros.demo [--bag RECORDING]`.

Starts both nodes, a recorder and a player, each in a process of its own, in a ROS domain of their
own on this machine; replays the recording with its clock; then judges what came out. Writes to the
output folder: `recording/` (input, ground truth and outputs), `metrics.json`, `report.html` and
`logs/`.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

from depth_ros import metrics
from depth_ros.bag import COMPRESSED_IMAGE, Bag, BagError, Streams, find_streams
from depth_ros.contract import ContractError, read_contract
from depth_ros.domain import claim_domain
from depth_ros.evaluation import Evaluation, Outputs, evaluate
from depth_ros.replay import positive

NODES = ('perception_node', 'odometry_node')
OUTPUT_TOPICS = ('depth/image_rect', 'depth/camera_info', 'depth/color', 'semantics/labels',
                 'semantics/color', 'odom', 'path')
PR_SET_PDEATHSIG = 1


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why and what to do."""


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
        """Start `python -m depth_ros.<command>` under a name."""
        libc = ctypes.CDLL(None)  # loaded before the fork: the child must not allocate
        with self.log(name).open('w') as log:
            child = subprocess.Popen(
                [sys.executable, '-m', f'depth_ros.{command[0]}', *command[1:]],
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
                env=self._environment, start_new_session=True,
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
        """Raise DemoError with the last lines of a child that has ended and should not have."""
        for name, child in self._children.items():
            status = child.poll()
            # Only the player ends by itself, at the end of the recording.
            if status is not None and (status or name != 'player'):
                how = f'signal {-status}' if status < 0 else f'status {status}'
                raise DemoError(f'{name} ended with {how}; its last lines:\n{self.tail(name)}')

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
        models: Model file of each node, by node name.
        parameters: Further parameters of both nodes, by name.
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
        taken = {f'/{topic}' for topic in (*OUTPUT_TOPICS, 'points')}
        return '/depth_ros' if taken & set(self.played) else ''

    @property
    def image(self) -> str:
        """Base name of the image topic; compressed images are played at `<image>/compressed`."""
        name = self.streams.image
        return name.removesuffix('/compressed') if self.compressed else name

    @property
    def played(self) -> list[str]:
        """Names of the topics as they are played, the images first."""
        others = [t for t in vars(self.streams).values() if t and t != self.streams.image]
        return [self.image + ('/compressed' if self.compressed else ''), *others]

    def output(self, name: str) -> str:
        """Return the full name of an output topic."""
        return f'{self.namespace}/{name}'


@dataclass
class Run:
    """What happened.

    Attributes:
        frames_in: Images that were played.
        latencies_ms: By output topic, for each output the time from just before its image was
            published to its arrival at the recorder.
        latest_s: How late, at worst, the player was.
        messages: Warnings and errors of the nodes, each once.
        stages_ms: By node, the median time of each stage of its work, from its diagnostics.
        backends: By node, the inference runtime that it used.
    """

    frames_in: int
    latencies_ms: dict[str, np.ndarray]
    latest_s: float
    messages: list[str]
    stages_ms: dict[str, dict[str, float]]
    backends: dict[str, str]

    def frames_out(self, topic: str) -> int:
        """Return how many frames came out on a topic."""
        return len(self.latencies_ms.get(topic, ()))


def run_nodes(plan: Plan, say: Callable[[str], None] = print) -> Run:
    """Play a recording through the nodes and record what they publish to `<out>/recording`.

    Raises:
        DemoError: A process failed or nothing came out; the message shows why.
    """
    from depth_ros import transport

    logs = plan.out / 'logs'
    os.environ.update(
        ROS_DOMAIN_ID=str(plan.domain), ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST')
    environment = transport.env({**os.environ, 'PYTHONUNBUFFERED': '1'})
    with Processes(logs, environment) as processes:
        for node in NODES:
            processes.start(node, node, *_node_arguments(plan, node))
        recorded = ['/diagnostics', *map(plan.output, plan.outputs)]
        if not plan.timing:
            recorded = [*plan.played, *recorded]
        arrived = logs / 'arrived.csv'
        processes.start(
            'recorder', 'record', str(plan.out / 'recording'), '--log', str(arrived),
            *(['--uncompressed'] if plan.timing else []),
            '--topics', *recorded, '--ros-args', '-p', 'use_sim_time:=true')
        player = processes.start('player', 'replay', *_player_arguments(plan, logs))
        say('Starting the nodes')
        with _Observer() as observer:
            for node in NODES:
                observer.wait_until_active(f'{plan.namespace}/{node}', processes)
            wanted = [plan.output(t) for t in _model_topics(plan)]
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
                raise DemoError(f'the player does not end; its last lines:\n'
                                f'{processes.tail("player")}')
            time.sleep(0.1)
        processes.check()
        sent = json.loads((logs / 'sent.json').read_text())
        last = max((stamp for topic, stamp, _ in sent['published']
                    if topic == plan.streams.image), default=0)
        _drain(arrived, last, wanted, processes)
        if processes.stop('recorder', 60.0):
            raise DemoError(f'the recorder failed; its last lines:\n{processes.tail("recorder")}')
        processes.check()
        run = _collect(plan, sent, arrived)
        if not run.frames_out(wanted[0]):
            said = _node_messages([processes.log('perception_node')])[:5]
            raise DemoError(
                f'no frame came out on {wanted[0]} for {run.frames_in} images; perception_node '
                'says:\n' + ('\n'.join(f'  | {line}' for line in said)
                             or processes.tail('perception_node')))
    # Read after the nodes have ended, for their last words.
    run.messages = _node_messages([processes.log(node) for node in NODES])
    return run


def _node_arguments(plan: Plan, node: str) -> list[str]:
    parameters = {
        'use_sim_time': 'true',
        'model': str(plan.models[node].resolve()),
        'image_transport': 'compressed' if plan.compressed else 'raw',
        **plan.parameters,
    }
    arguments = ['--ros-args', '-r', f'image:={plan.image}',
                 '-r', f'camera_info:={plan.streams.camera_info}']
    if plan.namespace:
        arguments += ['-r', f'__ns:={plan.namespace}']
    for name, value in parameters.items():
        arguments += ['-p', f'{name}:={value}']
    return arguments


def _player_arguments(plan: Plan, logs: Path) -> list[str]:
    streams = plan.streams
    topics = list(filter(None, vars(streams).values()))
    with Bag(plan.bag) as bag:
        topics += [t for t in ('/tf', '/tf_static') if t in bag.topics]
    readers = len(NODES) + (not plan.timing)  # the recorder
    return [
        str(plan.bag), '--paused', '--rate', str(plan.rate), '--log', str(logs / 'sent.json'),
        '--topics', *topics, '--remap', f'{streams.image}:={plan.played[0]}',
        '--wait-for', f'{streams.image}={readers}', f'{streams.camera_info}={readers}']


def _model_topics(plan: Plan) -> list[str]:
    """Names of the outputs that the models give, one for each frame, the first for latency."""
    outputs = read_contract(plan.models['perception_node']).outputs
    topics = [('depth', 'depth/image_rect'), ('labels', 'semantics/labels')]
    return [*(topic for output, topic in topics if output in outputs), 'odom']


class _Observer:
    """Looks at the ROS graph from this process."""

    def __enter__(self) -> _Observer:
        import rclpy

        from depth_ros.transport import prepare_process

        prepare_process()
        rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
        self._node = rclpy.create_node('demo')
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
                raise DemoError(f'{name} is {state} after {timeout_s:g} s; its last lines:\n'
                                f'{processes.tail(child)}')
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
        while missing := [t for t in topics if not self._node.count_subscribers(t)
                          or not self._node.count_publishers(t)]:
            processes.check()
            if time.monotonic() > end:
                raise DemoError(f'{", ".join(missing)}: nobody publishes or records this')
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
    published = {stamp: at for topic, stamp, at in sent['published']
                 if topic == plan.streams.image}
    latencies: dict[str, list[float]] = {}
    for topic, stamp, received in _arrivals(arrived):
        if stamp in published and topic not in plan.played:
            latencies.setdefault(topic, []).append((received - published[stamp]) / 1e6)
    run = Run(
        frames_in=len(published),
        latencies_ms={topic: np.array(values) for topic, values in latencies.items()},
        latest_s=sent['latest_s'],
        messages=[], stages_ms={}, backends={},
    )
    with Bag(plan.out / 'recording') as bag:
        for message in bag.messages(['/diagnostics']):
            for status in bag.decode(message).status:
                node = next((n for n in NODES if f'{n}:' in status.name), None)
                values = {v.key: v.value for v in status.values}
                times = {key[5:-3]: float(value) for key, value in values.items()
                         if key.startswith('time_') and key.endswith('_ms') and value}
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


# Summary ----------------------------------------------------------------------------------------


def summarize(plan: Plan, run: Run, evaluation: Evaluation) -> dict:
    """Return everything measured as plain data, for `metrics.json` and the report."""
    contract = read_contract(plan.models['perception_node'])
    depth_topic, odom_topic = plan.output(_model_topics(plan)[0]), plan.output('odom')
    out = run.frames_out(depth_topic)

    def latency(topic: str) -> dict | None:
        values = run.latencies_ms.get(topic, np.empty(0))
        if not values.size:
            return None
        p50, p95 = np.percentile(values, (50, 95))
        return {'p50': float(p50), 'p95': float(p95), 'max': float(values.max())}

    semantics = None
    if evaluation.confusion is not None:
        scores = metrics.iou(evaluation.confusion)
        present = evaluation.confusion.sum(axis=1) > 0
        by_class = {c.name: float(scores[c.id]) for c in contract.classes if present[c.id]}
        semantics = {
            'mean_iou': metrics.mean_iou(evaluation.confusion),
            'road_iou': by_class.get('road'),
            'iou': by_class,
            'frames': evaluation.label_frames,
        }
    trajectory = None
    if evaluation.trajectory:
        found = evaluation.trajectory
        trajectory = {
            'ate_se3_m': found.ate_se3, 'ate_sim3_m': found.ate_sim3, 'scale': found.scale,
            'length_m': found.length, 'poses': len(found.aligned)}
    return {
        'recording': str(plan.bag),
        'topics': {k: v for k, v in vars(plan.streams).items() if v},
        'rate': plan.rate,
        'frames_in': run.frames_in,
        'frames_out': out,
        'odometry_out': run.frames_out(odom_topic),
        'dropped_percent': 100 * (1 - out / run.frames_in),
        'latency_ms': {'perception': latency(depth_topic), 'odometry': latency(odom_topic)},
        'depth': evaluation.depth and evaluation.depth._asdict(),
        'depth_median_scaled': evaluation.depth_scaled and evaluation.depth_scaled._asdict(),
        'depth_frames': evaluation.depth_frames,
        'semantics': semantics,
        'trajectory': trajectory,
        'odometry_length': metrics.path_length(evaluation.estimate),
        'stages_ms': run.stages_ms,
        'backends': run.backends,
        'player_latest_ms': 1e3 * run.latest_s,
        'models': {node: str(path) for node, path in plan.models.items()},
        'notes': evaluation.notes,
        'node_messages': run.messages,
    }


def summary_text(found: dict) -> str:
    """Return the summary that the demo prints, from `summarize`."""
    lines = [
        f'Frames      {found["frames_in"]} in, {found["frames_out"]} out, '
        f'{found["dropped_percent"]:.1f} % dropped; {found["odometry_out"]} poses']
    title = 'Latency'
    for name, values in found['latency_ms'].items():
        if values:
            lines.append(f'{title:11} {name}: p50 {values["p50"]:.0f} ms, p95 {values["p95"]:.0f} '
                         f'ms, max {values["max"]:.0f} ms')
            title = ''
    if found['depth_median_scaled']:
        names = metrics.DepthMetrics._fields
        lines.append('Depth       ' + ' ' * 15 + ''.join(f'{name:>9}' for name in names))
        for title, key in (('median-scaled', 'depth_median_scaled'), ('metric', 'depth')):
            if found[key]:
                lines.append(f'            {title:15}'
                             + ''.join(f'{found[key][name]:9.3f}' for name in names))
    if found['semantics']:
        road = found['semantics']['road_iou']
        lines.append(('Semantics   ' + (f'road IoU {road:.3f}, ' if road is not None else ''))
                     + f'mean IoU {found["semantics"]["mean_iou"]:.3f}')
    if found['trajectory']:
        t = found['trajectory']
        lines.append(f'Trajectory  ATE {t["ate_se3_m"]:.2f} m (SE3), {t["ate_sim3_m"]:.2f} m '
                     f'(Sim3, scale {t["scale"]:.3f}) over {t["length_m"]:.1f} m')
    lines += [f'Note        {note}' for note in found['notes']]
    return '\n'.join(lines)


# Command line -----------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    arguments = _arguments(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        _demo(arguments)
    except (DemoError, BagError, ContractError) as error:
        print(f'depth_ros.demo: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('depth_ros.demo: interrupted', file=sys.stderr)
        return 130
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m depth_ros.demo', description='Replay a recording through the nodes, '
        'record what they publish, judge it and write a report.')
    parser.add_argument('--bag', type=Path, help='rosbag2 recording (default: the shipped one)')
    parser.add_argument('--out', type=Path, default=Path('out/demo'), help='folder for the results')
    parser.add_argument('--rate', type=positive, default=1.0, help='speed, 1 = as recorded')
    add_model_options(parser)
    for option, what in (
        ('image-topic', 'camera images'), ('camera-info-topic', 'their camera_info'),
        ('depth-gt', 'true depth'), ('labels-gt', 'true class ids'), ('odom-gt', 'true poses'),
    ):
        parser.add_argument(f'--{option}', metavar='TOPIC', help=f'topic of {what} (default: '
                            'found by type and name)')
    parser.add_argument('--threads', type=int, help='threads of each node (default: its own)')
    parser.add_argument('--backend', help='inference runtime of the nodes (default: their own)')
    parser.add_argument('--fit', help='how images are fitted to the network: stretch or crop')
    parser.add_argument('--points', action='store_true', help='record the point cloud, too')
    parser.add_argument('--domain', type=int, help='ROS_DOMAIN_ID (default: a free one)')
    return parser.parse_args(argv)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the models."""
    for option in ('perception-model', 'odometry-model'):
        parser.add_argument(f'--{option}', type=Path, help='(default: the shipped one)')


def chosen_models(arguments: argparse.Namespace) -> dict[str, Path]:
    """Return the model file of each node, by node name, after a look at their contracts.

    Raises:
        DemoError: A shipped model is missing, or a model is of another task.
        ContractError: A model file cannot be used.
    """
    models = {
        'perception_node': arguments.perception_model
        or _shipped('models/perception.onnx', '--perception-model'),
        'odometry_node': arguments.odometry_model or _shipped('models/pose.onnx',
                                                              '--odometry-model')}
    for path, task in zip(models.values(), ('perception', 'pose'), strict=True):
        found = read_contract(path).task
        if found != task:
            raise DemoError(f"model '{path}' has the task '{found}', not '{task}': were the two "
                            'models swapped?')
    return models


def _demo(arguments: argparse.Namespace) -> None:
    from depth_ros.report import write_report

    models = chosen_models(arguments)
    contracts = {node: read_contract(path) for node, path in models.items()}
    path = arguments.bag or _shipped('demo/street', '--bag')
    with Bag(path) as bag:
        streams = find_streams(bag, arguments.image_topic, arguments.camera_info_topic,
                               arguments.depth_gt, arguments.labels_gt, arguments.odom_gt)
        compressed = bag.topics[streams.image].msgtype == COMPRESSED_IMAGE
    plan = Plan(
        bag=path, streams=streams, compressed=compressed, out=arguments.out, models=models,
        rate=arguments.rate,
        domain=arguments.domain or claim_domain(),
        parameters={name: str(value) for name in ('threads', 'backend', 'fit')
                    if (value := getattr(arguments, name)) is not None},
        outputs=(*OUTPUT_TOPICS, 'points') if arguments.points else OUTPUT_TOPICS)
    _clear(plan)
    run = run_nodes(plan)
    print('Judging the outputs')
    contract = contracts['perception_node']
    outputs = Outputs(
        depth=plan.output('depth/image_rect') if 'depth' in contract.outputs else None,
        labels=plan.output('semantics/labels') if 'labels' in contract.outputs else None,
        odom=plan.output('odom'))
    evaluation = evaluate(path, streams, plan.out / 'recording', outputs, contract.classes,
                          contract.metric)
    found = summarize(plan, run, evaluation)
    part = plan.out / '.metrics.json.part'
    part.write_text(json.dumps(found, indent=2, allow_nan=False) + '\n')
    os.replace(part, plan.out / 'metrics.json')
    write_report(plan.out, found, run.latencies_ms, evaluation, contracts)
    print(f'\n{summary_text(found)}\nReport      {plan.out / "report.html"}')


def _shipped(relative: str, option: str) -> Path:
    from depth_ros.transport import share_path

    try:
        return share_path(relative)
    except FileNotFoundError as error:
        raise DemoError(f'{relative} is not installed: give another one with {option}') from error


def _clear(plan: Plan) -> None:
    """Remove the results of an earlier run, so that none of them can be taken for this one's."""
    out, bag = plan.out.resolve(), plan.bag.resolve()
    if bag == out or out in bag.parents:
        raise DemoError(f'the recording {plan.bag} lies in the output folder {plan.out}, which is '
                        'about to be emptied: choose another one with --out')
    for name in ('recording', 'logs'):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ('metrics.json', 'report.html', 'overview.jpg'):
        (out / name).unlink(missing_ok=True)


if __name__ == '__main__':
    sys.exit(main())
