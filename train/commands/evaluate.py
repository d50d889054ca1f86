"""``python -m train evaluate``: a model against the ground truth of data.

Depth by the protocol of Eigen et al. 2014, odometry by SfMLearner's snippets, by ATE and RPE and
by the KITTI benchmark's drift, semantics by IoU. An exported model is judged as the file that the
robot runs, through the engine that the robot uses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from depth_ros.core.camera import FIT_MODES
from depth_ros.core.visual_odometry import REFINEMENTS
from depth_ros.inference.classes import ClassMap
from depth_ros.inference.loader import BACKENDS
from train.data.sequences import DataError, Sequence
from train.evaluation.evaluators import evaluate_frames, evaluate_odometry
from train.evaluation.frames import frames_of, sequences_in
from train.evaluation.kitti import kitti_frames
from train.evaluation.points import POINTS
from train.evaluation.predict import MODELS, load_predictor
from train.evaluation.protocol import Protocol
from train.evaluation.results import as_json, draw, table, write, write_picture, write_results
from train.evaluation.scores import TASKS, SequenceScores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument(
        'data', type=Path, nargs='?', help='a sequence folder, or a folder of them; or use --kitti'
    )
    parser.add_argument(
        '--model',
        '--models',
        type=Path,
        default=MODELS,
        metavar='PATH',
        help='folder with perception.onnx and pose.onnx, one of them, or a '
        '.ckpt of a training (default: the shipped ones)',
    )
    parser.add_argument(
        '--tasks',
        nargs='+',
        choices=TASKS,
        default=TASKS,
        metavar='TASK',
        help='what to evaluate, where there is ground truth: depth semantics odometry (all)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FOLDER',
        help='write metrics.json, tables, trajectories and pictures there',
    )
    parser.add_argument(
        '--pictures',
        type=int,
        default=8,
        metavar='N',
        help='pictures in --out: half of them the worst, the others evenly spread (%(default)s)',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers there')
    parser.add_argument('--backend', choices=BACKENDS, default='auto', help='of .onnx files')
    parser.add_argument('--threads', type=int, default=2, help='of .onnx files (%(default)s)')
    parser.add_argument(
        '--fit',
        choices=FIT_MODES,
        default='auto',
        help='how images are fitted to the network, as the parameter fit of the nodes; what a crop '
        'leaves out is not judged (%(default)s)',
    )

    odometry = parser.add_argument_group('odometry')
    odometry.add_argument(
        '--refinement',
        choices=REFINEMENTS,
        default='none',
        help="none: the pose network alone. pnp: as the odometry node's parameter; the network "
        'alone, and corners with an essential matrix and true step lengths, stand beside '
        '(%(default)s)',
    )
    odometry.add_argument(
        '--odometry-height',
        type=float,
        default=0.0,
        metavar='METRES',
        help='height of the camera over the ground, for the scale of --refinement '
        '(camera_height.txt of a sequence)',
    )

    odometry.add_argument(
        '--use-depth',
        action='store_true',
        help="depth and labels help --refinement, as the odometry node's parameter use_depth",
    )

    depth = parser.add_argument_group('depth')
    depth.add_argument(
        '--cap',
        type=float,
        nargs='+',
        metavar='METRES',
        help='farthest ground truth that counts; several give several rows '
        '(80 50; improved ground truth: 80, all of it counts)',
    )
    depth.add_argument(
        '--crop',
        choices=('garg', 'none'),
        help="count only Garg's crop (garg for --kitti with classic ground truth, else none)",
    )
    depth.add_argument(
        '--resize',
        choices=('disparity', 'depth'),
        default='disparity',
        help='what is interpolated to the size of the ground truth: disparity as '
        'monodepth2 and FSRE-Depth do, depth as SfMLearner (%(default)s)',
    )
    depth.add_argument(
        '--flip', action='store_true', help='average with the mirrored image (Godard et al. 2017)'
    )
    depth.add_argument(
        '--edge-radius',
        type=float,
        default=5,
        metavar='PIXELS',
        help='errors are also given within so many pixels of a semantic edge (%(default)s)',
    )
    depth.add_argument(
        '--structure-points',
        choices=POINTS,
        help="judge depth against the points of 'train structure': held_out, the tenth that no "
        'training has seen, or all, for sequences that none has (default: depth/, and held_out '
        'where there is none)',
    )
    depth.add_argument(
        '--kitti',
        type=Path,
        metavar='FOLDER',
        help='KITTI raw data, with folders by date: judge depth on --split of it',
    )
    depth.add_argument(
        '--split',
        type=Path,
        metavar='FILE',
        help="list of KITTI images: 'date/drive frame l' or paths, a line each",
    )
    depth.add_argument(
        '--truth',
        choices=('classic', 'improved'),
        default='classic',
        help="ground truth of --kitti: classic, the Velodyne's points as Eigen et "
        'al. project them; or improved, the maps of Uhrig et al. 2017, under '
        'proj_depth/groundtruth of each drive, or of train/ and val/ as '
        'KITTI packs them (%(default)s)',
    )

    semantics = parser.add_argument_group('semantics')
    semantics.add_argument(
        '--semantics-dir',
        default='semantics',
        metavar='NAME',
        help='folder of the true labels in a sequence (%(default)s)',
    )
    semantics.add_argument(
        '--classes',
        metavar='FILE',
        help="true classes, if they are not the model's: camvid, or a YAML or "
        'JSON file with names (in the order of their ids; higher ids do '
        "not count) and map (the model's class: true class)",
    )


def run(args: argparse.Namespace) -> None:
    """Evaluate, print and write.

    Raises:
        DataError: if there is nothing to compare the model with, or an option is wrong.
    """
    if (args.data is None) == (args.kitti is None):
        raise DataError('name either a folder of sequences or --kitti with --split')
    if args.cap and min(args.cap) <= 0 or args.pictures < 0:
        raise DataError('--cap must be positive and --pictures not negative')
    predictor = load_predictor(args.model, args.backend, args.threads)
    protocol = protocol_of(args)
    classes = None
    if predictor.classes:
        classes = ClassMap.read(args.classes, predictor.classes)
    scores = SequenceScores(args.tasks)
    sequences: list[Sequence] = []
    if args.kitti is not None:
        frames = kitti_frames(args.kitti, args.split, args.truth, predictor, scores.notes, args.fit)
    else:
        sequences = sequences_in(args.data)
        frames = [
            frame
            for sequence in sequences
            for frame in frames_of(
                sequence, predictor, args.semantics_dir, args.structure_points, args.fit
            )
        ]
    frames = [
        f
        for f in frames
        if f.depth and 'depth' in args.tasks or f.labels and 'semantics' in args.tasks
    ]
    evaluate_frames(frames, predictor, protocol, classes, scores)
    if 'odometry' in args.tasks:
        evaluate_odometry(
            sequences,
            predictor,
            scores,
            args.fit,
            args.refinement,
            args.odometry_height,
            args.use_depth,
        )
    report = {
        'model': str(args.model),
        'data': str(args.kitti or args.data),
        'fit': args.fit,
        **scores.report(protocol, classes),
    }
    print(table(report))
    if args.json:
        write(args.json, as_json(report))
    if args.out:
        write_results(args.out, report, scores, classes)
        pictures = args.out / 'pictures'
        for old in pictures.glob('[0-9][0-9]_*.jpg'):  # of another run
            old.unlink()
        for number, frame in enumerate(
            tqdm(scores.pick(frames, args.pictures), 'pictures', disable=None)
        ):
            write_picture(
                pictures / f'{number:02d}_{frame.sequence}_{frame.name}.jpg',
                draw(frame, predictor, protocol, classes),
            )


def protocol_of(args: argparse.Namespace) -> Protocol:
    """The protocol that the command line asks for."""
    improved = args.kitti is not None and args.truth == 'improved'
    classic = args.kitti is not None and not improved
    crop = args.crop or ('garg' if classic else 'none')
    return Protocol(
        tuple(args.cap or ((80.0,) if improved else (80.0, 50.0))),
        None if crop == 'none' else crop,
        args.resize,
        args.flip,
        not improved,
        args.edge_radius,
    )
