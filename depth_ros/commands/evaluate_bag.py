"""How good the models are on a recording: `evaluate_bag RECORDING [--model ...]`.

offline: every image through the networks, as fast as it goes; the same recording and models give
the same numbers. live: the recording is played with /clock into the real nodes over DDS, and what
they published is judged, with latencies and drops. Ground truth is used where there is some;
without it, the frames are judged against each other.

Each recording leaves a folder: metrics.json, frames.csv, trajectory/, recording/ (for RViz and
Foxglove) and report.html.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from depth_ros.bags.files import recording_name
from depth_ros.commands.options import add_model_option, command_parser, count, positive
from depth_ros.core.camera import FIT_MODES
from depth_ros.core.metrics.depth import CAPS
from depth_ros.core.rectification import SAID
from depth_ros.core.scale import SOURCES
from depth_ros.core.se3 import OPTICAL_IN_BASE
from depth_ros.core.visual_odometry import REFINEMENTS
from depth_ros.evaluation.batch import (
    FAILURES,
    evaluate_in_processes,
    evaluate_on_cluster,
    failure_text,
)
from depth_ros.evaluation.evaluate import evaluate_recording
from depth_ros.evaluation.report.comparison import comparison_text
from depth_ros.evaluation.report.comparison_page import write_comparison
from depth_ros.evaluation.results import summary_text
from depth_ros.evaluation.runner import Settings
from depth_ros.evaluation.session import OUTPUT_TOPICS, EvaluationError, Job
from depth_ros.files import write_file
from depth_ros.inference.classes import KNOWN
from depth_ros.inference.loader import BACKENDS
from depth_ros.inference.model_files import chosen_models
from depth_ros.packages import require_packages

_POSE = ('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw')


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        return _compare(arguments) if arguments.compare else _run(arguments)
    except FAILURES as error:
        print(f'evaluate_bag: {failure_text(error)}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('evaluate_bag: interrupted', file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = command_parser('evaluate_bag', __doc__)
    parser.add_argument(
        'bags',
        nargs='+',
        type=Path,
        metavar='RECORDING',
        help='recordings; with --compare, result folders',
    )
    parser.add_argument(
        '--out',
        type=Path,
        help='folder for the results; for several recordings, '
        'of a folder each (default: out/NAME, out/evaluation)',
    )
    parser.add_argument(
        '--mode', choices=('offline', 'live'), default='offline', help='(default: %(default)s)'
    )
    parser.add_argument(
        '--compare',
        action='store_true',
        help='put the results in folders side by side, in OUT/comparison.html',
    )
    add_model_option(parser)
    topics = parser.add_argument_group(
        'topics', 'found by type and name if not given; as ground truth, what calls itself so'
    )
    topics.add_argument('--image', metavar='TOPIC', help='camera images, raw or compressed')
    topics.add_argument('--camera-info', metavar='TOPIC', help='their camera_info')
    topics.add_argument(
        '--depth-gt',
        metavar='TOPIC',
        help='true depth: depth images, raw or compressedDepth, or the PointCloud2 of a lidar',
    )
    topics.add_argument(
        '--odom-gt',
        metavar='TOPIC',
        help='true poses: Odometry, PoseStamped or '
        'PoseWithCovarianceStamped; or two TF frames as tf:odom>base_link',
    )
    topics.add_argument('--semantics-gt', metavar='TOPIC', help='true class ids')
    topics.add_argument(
        '--wheel-odom',
        metavar='TOPIC',
        help='distances for --scale-source: Odometry of wheels, or TwistStamped of GPS',
    )
    topics.add_argument(
        '--rectified',
        choices=SAID,
        default='auto',
        help='whether the images are rectified already; auto: find out by the '
        "topic's name, the distortion in camera_info and the pictures (default)",
    )
    truth = parser.add_argument_group('ground truth')
    truth.add_argument(
        '--tolerance',
        type=positive,
        metavar='SECONDS',
        help='how far in time truth may be from an image (default: half an image period)',
    )
    truth.add_argument(
        '--cap',
        type=positive,
        nargs='+',
        default=CAPS,
        metavar='METRES',
        help='farthest true depth that counts; several give several rows '
        f'({" ".join(f"{cap:g}" for cap in CAPS)})',
    )
    truth.add_argument(
        '--crop',
        choices=('garg', 'none'),
        default='none',
        help="count only Garg's crop of the image, as papers on KITTI do (default: %(default)s)",
    )
    truth.add_argument(
        '--lidar-pose',
        type=float,
        nargs=7,
        metavar=_POSE,
        help="pose of the lidar in the camera's optical frame (default: from TF)",
    )
    truth.add_argument(
        '--structure',
        type=Path,
        metavar='FOLDER',
        help="judge depth against the points of 'python -m train structure': the sequence folder "
        'that was prepared of the recording, or the folder that holds it',
    )
    truth.add_argument(
        '--structure-points',
        choices=('held_out', 'all'),
        default='held_out',
        help='of --structure: the tenth that no training has seen, or all, where none has seen '
        'the recording (default: %(default)s)',
    )
    truth.add_argument(
        '--classes',
        default='cityscapes',
        metavar='SET',
        help='what true class ids '
        f'mean: {", ".join(KNOWN)}, model, or a YAML file with names and map '
        '(default: %(default)s)',
    )
    run = parser.add_argument_group("the nodes' parameters")
    run.add_argument('--fit', choices=FIT_MODES, default='auto', help='(default: %(default)s)')
    run.add_argument('--max-depth', type=float, default=0.0, help='metres, 0 for no limit')
    run.add_argument(
        '--scale-source',
        choices=SOURCES,
        default='model',
        help='where the metres of depth come from (default: %(default)s)',
    )
    run.add_argument(
        '--camera-height',
        type=positive,
        default=0.0,
        metavar='METRES',
        help='of the camera over the ground: for the scale, and for flat ground as a baseline',
    )
    run.add_argument('--depth-scale', type=float, default=0.0, help='metres per unit of depth')
    run.add_argument(
        '--translation-scale', type=float, default=0.0, help='metres per unit of motion'
    )
    run.add_argument(
        '--max-gap',
        type=positive,
        default=Settings.max_gap,
        metavar='SECONDS',
        help='images farther apart are not chained (%(default)s)',
    )
    run.add_argument(
        '--camera-pose',
        type=float,
        nargs=7,
        default=OPTICAL_IN_BASE,
        metavar=_POSE,
        help='optical frame in the base frame (default: at its origin, facing forward)',
    )
    run.add_argument(
        '--refinement',
        choices=REFINEMENTS,
        default=Settings.refinement,
        help='of the odometry; none: the pose network alone (%(default)s)',
    )
    run.add_argument('--backend', choices=BACKENDS, default='auto', help='(default: %(default)s)')
    run.add_argument('--threads', type=count, default=2, help='of an inference (%(default)s)')
    live = parser.add_argument_group('live mode')
    live.add_argument('--rate', type=positive, default=1.0, help='speed, 1 = as recorded')
    live.add_argument('--points', action='store_true', help='record the point cloud, too')
    live.add_argument('--domain', type=int, help='ROS_DOMAIN_ID (default: a free one)')
    parser.add_argument('--no-recording', action='store_true', help='leave no recording/ (offline)')
    many = parser.add_argument_group('several recordings')
    many.add_argument(
        '--jobs',
        type=count,
        default=1,
        help='recordings at the same time, each in a process (%(default)s)',
    )
    many.add_argument(
        '--cluster',
        metavar='ADDRESS',
        help='scheduler of a Dask cluster to spread '
        'the recordings over, such as tcp://host:8786; all must see the same files',
    )
    return parser


def _jobs(arguments: argparse.Namespace) -> list[Job]:
    models = chosen_models(arguments.model)
    topics = {
        'image': arguments.image,
        'camera_info': arguments.camera_info,
        'depth': arguments.depth_gt,
        'labels': arguments.semantics_gt,
        'odom': arguments.odom_gt,
        'wheels': arguments.wheel_odom,
    }
    settings = Settings(
        arguments.fit,
        arguments.max_depth,
        arguments.depth_scale,
        arguments.translation_scale,
        tuple(arguments.camera_pose),
        arguments.max_gap,
        arguments.scale_source,
        arguments.camera_height,
        arguments.refinement,
    )
    needs = {'height': arguments.camera_height, 'odometry': arguments.wheel_odom}
    if not needs.get(arguments.scale_source, True):
        option = {'height': '--camera-height', 'odometry': '--wheel-odom'}[arguments.scale_source]
        raise EvaluationError(f'--scale-source {arguments.scale_source} needs {option}')
    names = _names(arguments.bags)
    single = len(arguments.bags) == 1
    out = arguments.out or Path('out') / (names[0] if single else 'evaluation')
    outputs = (*OUTPUT_TOPICS, 'points') if arguments.points else OUTPUT_TOPICS
    return [
        Job(
            bag=bag,
            out=out if single else out / name,
            models=models,
            topics={k: v for k, v in topics.items() if v},
            settings=settings,
            mode=arguments.mode,
            rate=arguments.rate,
            backend=arguments.backend,
            threads=arguments.threads,
            classes=None if arguments.classes == 'model' else arguments.classes,
            tolerance=arguments.tolerance,
            lidar_pose=tuple(arguments.lidar_pose) if arguments.lidar_pose else None,
            structure=arguments.structure,
            structure_points=arguments.structure_points,
            rectified=arguments.rectified,
            caps=tuple(arguments.cap),
            crop=None if arguments.crop == 'none' else arguments.crop,
            record=not arguments.no_recording,
            outputs=outputs,
            domain=arguments.domain,
        )
        for bag, name in zip(arguments.bags, names, strict=True)
    ]


def _names(bags: Sequence[Path]) -> list[str]:
    """A name for each recording's folder, each another one."""
    found: list[str] = []
    for bag in bags:
        name = recording_name(bag)
        number = sum(n == name or n.startswith(f'{name}_') for n in found)
        found.append(f'{name}_{number + 1}' if number else name)
    return found


def _run(arguments: argparse.Namespace) -> int:
    jobs = _jobs(arguments)
    if len(jobs) == 1:
        found = evaluate_recording(jobs[0])
        print(f'\n{summary_text(found)}\nReport      {jobs[0].out / "report.html"}')
        return 0
    require_packages('the evaluation', 'tqdm')
    from tqdm import tqdm

    failed: dict[str, str] = {}
    results = (
        evaluate_on_cluster(jobs, arguments.cluster)
        if arguments.cluster
        else evaluate_in_processes(jobs, arguments.jobs)
    )
    for job, error in tqdm(results, total=len(jobs), unit='recording', disable=None):
        if error:
            failed[str(job.bag)] = error
            tqdm.write(f'{job.bag}: {error}', file=sys.stderr)
    done = [job.out for job in jobs if str(job.bag) not in failed]
    out = jobs[0].out.parent
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / 'failed.json', json.dumps(failed, indent=2) + '\n')
    if len(done) == 1:
        print(summary_text(json.loads((done[0] / 'metrics.json').read_text())))
        print(f'Report      {done[0] / "report.html"}')
    elif done:
        print(comparison_text(write_comparison(out, done)))
        print(f'Summary     {out / "comparison.html"}')
    print(f'{len(done)} of {len(jobs)} recordings evaluated', file=sys.stderr)
    return 1 if failed else 0


def _compare(arguments: argparse.Namespace) -> int:
    out = arguments.out or Path('out/comparison')
    out.mkdir(parents=True, exist_ok=True)
    print(comparison_text(write_comparison(out, arguments.bags)))
    print(f'Comparison  {out / "comparison.html"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
