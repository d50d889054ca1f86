"""Judge depth, classes and trajectories of a model against ground truth."""

from __future__ import annotations

from collections import Counter, abc

import numpy as np
from tqdm import tqdm

from depth_ros.core.metrics.baselines import depth_baselines, trajectory_baselines
from depth_ros.core.metrics.depth import ALIGNED, DepthTable
from depth_ros.core.metrics.semantics import confusion, edge_mask
from depth_ros.core.metrics.trajectory import path_length, snippet_metrics, trajectory_table
from depth_ros.evaluation.frame_evaluator import FEW_POSES
from depth_ros.evaluation.results import TRAJECTORY_NUMBERS
from depth_ros.inference.classes import ClassMap
from train.data.sequences import LISTED, DataError, Sequence, read_map, resize_map, stored_size
from train.evaluation.frames import EvaluatedFrame, camera_of, fitted_image, image_fit
from train.evaluation.odometry import peer, refined_numbers, standing_numbers, travel
from train.evaluation.points import POINTS, TOLD
from train.evaluation.predict import Predictor, chain
from train.evaluation.protocol import Protocol
from train.evaluation.scores import SequenceScores

SNIPPET = 5

STANDS = 0.01
"""Metres of a true trajectory up to which the camera stands."""

ALONE, CLASSICAL = 'pose_network_alone', 'corners_and_true_step_lengths'
"""Names of what stands beside the odometry."""


def evaluate_frames(
    frames: abc.Sequence[EvaluatedFrame],
    predictor: Predictor,
    protocol: Protocol,
    classes: ClassMap | None,
    scores: SequenceScores,
) -> None:
    """Judge depth and classes, as far as the model and the data have them.

    A frame with a file that cannot be used is left out, and noted.
    """
    if not frames:
        return
    if predictor.perception_size is None:
        scores.notes.append('the model has no perception network')
        return
    empty = 0
    for frame in tqdm(frames, 'perception', unit='frame', disable=None):
        try:
            image = fitted_image(frame.image, predictor.perception_size, frame.fit)
            truth = frame.depth() if frame.depth and 'depth' in scores.tasks else None
            true_labels = None if frame.labels is None else frame.seen(read_map(frame.labels))
        except (DataError, OSError) as error:
            scores.left_out[frame] = str(error)
            continue
        depth, labels = predictor.perceive(image, protocol.flip)
        if truth is not None and depth is not None:
            truth, seen = protocol.seen(truth, frame)
            _look_at_range(truth, frame, predictor, scores)
            edges = (
                None
                if true_labels is None
                else edge_mask(resize_map(true_labels, *truth.shape[::-1]), protocol.edge_radius)
            )
            found = seen.table(depth, truth, frame.focal, edges, predictor.affine)
            if not frame.metric:  # nothing that asks for metres
                found = DepthTable({ALIGNED[predictor.affine]: found.aligned}, found.scale)
            if found.rows:
                scores.depth[frame], scores.scales[frame] = found.rows, found.scale
                scores.baselines[frame] = depth_baselines(
                    truth,
                    frame.fit.network if frame.fit else frame.camera,
                    height=frame.camera_height if frame.metric and not predictor.affine else 0.0,
                    affine=predictor.affine,
                    max_depth=protocol.caps[0],
                    **seen.options,
                )
                if frame.metric and not predictor.affine:
                    scores.constant.add(truth)
            empty += not found.rows
        if true_labels is not None and labels is not None and 'semantics' in scores.tasks:
            assert classes is not None  # as for every model that finds labels
            wanted = classes.truth(true_labels)
            found = classes.predicted(resize_map(labels, *wanted.shape[::-1]))
            matrix = confusion(found, wanted, len(classes.classes))
            scores.matrix = matrix if scores.matrix is None else scores.matrix + matrix
            scores.labelled += 1
    judged = Counter(frame.truth for frame in scores.depth)
    for which in POINTS:
        if judged[which]:
            scores.notes.append(
                f'depth in {judged[which]} frames is judged against points of structure from '
                f'motion, {TOLD[which]}: static things with texture, within some 80 m'
            )
    if predictor.affine and scores.depth:
        scores.notes.append(
            'the model knows depth only up to scale and shift of its inverse; both '
            'are fitted to the truth in each image'
        )
    _tell_range(predictor, scores)
    if empty:
        scores.notes.append(f'{empty} depth maps have no pixel that counts')
    if scores.left_out:
        scores.notes.append(
            f'{len(scores.left_out)} of {len(frames)} frames are left out, as a '
            'file of each cannot be used:'
        )
        scores.notes += list(scores.left_out.values())[:LISTED]


def _look_at_range(
    truth: np.ndarray, frame: EvaluatedFrame, predictor: Predictor, scores: SequenceScores
) -> None:
    """Take note of the share of the true depth (H, W) that the model cannot say."""
    known = truth[np.isfinite(truth) & (truth > 0)]
    if predictor.depth_range is not None and frame.metric and len(known):
        low, high = (frame.focal * limit for limit in predictor.depth_range)
        scores.out_of_range.append(float(((known < low) | (known > high)).mean()))


def _tell_range(predictor: Predictor, scores: SequenceScores) -> None:
    if predictor.depth_range is None or not scores.out_of_range:
        return
    share, (low, high) = 100 * float(np.mean(scores.out_of_range)), predictor.depth_range
    if share >= 1:
        scores.notes.append(
            f'{share:.0f} % of the true depth is outside of what the model can say ({low:g} to '
            f'{high:g} m for its own camera): its errors there are those of the limit'
        )


def evaluate_odometry(
    sequences: abc.Sequence[Sequence],
    predictor: Predictor,
    scores: SequenceScores,
    mode: str = 'auto',
    refinement: str = 'none',
    camera_height: float = 0.0,
    use_depth: bool = False,
) -> None:
    """Judge the trajectory of each sequence that has true poses.

    Args:
        sequences: the sequences.
        predictor: the model.
        scores: gets the numbers.
        mode: how images are fitted to the network, see :func:`train.evaluation.frames.image_fit`.
        refinement: 'none', the pose network alone; or as of the odometry node, with the network
            alone and a classical odometry beside it.
        camera_height: of the camera over the ground, metres, where a sequence does not say.
        use_depth: whether the model's depth and labels help the refinement.
    """
    sequences = [r for r in sequences if r.poses is not None]
    if sequences and predictor.pose_size is None and refinement == 'none':
        scores.notes.append('the model has no pose network')
        return
    with tqdm(
        total=sum(len(r.images) for r in sequences),
        desc='odometry',
        unit='frame',
        disable=None if sequences else True,
    ) as bar:
        for sequence in sequences:
            name = sequence.folder.name
            assert sequence.poses is not None  # see above
            truth = np.linalg.inv(sequence.poses[0]) @ sequence.poses
            try:
                if refinement == 'none':
                    windows = _windows(sequence, predictor, mode, bar.update)
                    # A network that sees as many frames as a snippet is judged on what it says.
                    snippets = windows if predictor.views == SNIPPET else None
                    _judge(sequence, truth, chain(windows), scores, snippets=snippets)
                else:
                    height = sequence.camera_height or camera_height
                    found = travel(
                        sequence,
                        predictor,
                        mode,
                        refinement=refinement,
                        camera_height=height,
                        use_depth=use_depth,
                        done=bar.update,
                    )
                    if path_length(truth[:, :3, 3]) < STANDS:
                        scores.trajectories[name] = standing_numbers(found.poses)
                        continue
                    beside = {CLASSICAL: peer(sequence, truth)}
                    if predictor.pose_size is not None:
                        beside[ALONE] = chain(_windows(sequence, predictor, mode, lambda: None))
                    _judge(sequence, truth, found.poses, scores, beside=beside)
                    scores.trajectories[name] |= refined_numbers(found, truth)
            except ValueError as error:  # too short, or it does not move
                scores.notes.append(f'trajectory of {name}: {error}')
                continue
            if len(truth) < FEW_POSES:
                scores.notes.append(
                    f'trajectory of {name}: {len(truth)} poses only; aligning fits so few by '
                    'itself, so that the ATE says little'
                )


def _windows(
    sequence: Sequence, predictor: Predictor, mode: str, done: abc.Callable[[], object]
) -> list[np.ndarray]:
    """What the pose network says of each window of a sequence."""
    size = predictor.pose_size
    assert size is not None
    stored = stored_size(sequence)
    camera = camera_of(sequence.intrinsics, stored) if stored else None
    fit = image_fit(camera, predictor.pose_camera, mode)

    def images() -> abc.Iterator[np.ndarray]:
        for path in sequence.images:
            yield fitted_image(path, size, fit)
            done()

    return list(predictor.windows(images()))


def _judge(
    sequence: Sequence,
    truth: np.ndarray,
    estimate: np.ndarray,
    scores: SequenceScores,
    *,
    snippets: abc.Sequence[np.ndarray] | None = None,
    beside: abc.Mapping[str, np.ndarray] | None = None,
) -> None:
    """Take note of a trajectory's errors.

    Args:
        sequence: its sequence.
        truth, estimate: poses (N, 4, 4) in the first camera.
        scores: get the numbers.
        snippets: poses of each snippet; ``None``: they are parts of the estimate.
        beside: other estimates, by what they are.
    """
    name = sequence.folder.name
    if snippets is None:
        snippets = [estimate[i : i + SNIPPET] for i in range(len(estimate) - SNIPPET + 1)]
    scores.snippets[name] = [
        snippet_metrics(s, truth[i : i + SNIPPET]) for i, s in enumerate(snippets)
    ]
    times = sequence.times if sequence.times is not None else np.arange(len(truth))
    baselines = trajectory_baselines(truth, times)
    for what, other in (beside or {}).items():
        table = trajectory_table(other, truth)
        baselines[what] = {k: v for k, v in table.items() if k in TRAJECTORY_NUMBERS}
    scores.trajectories[name] = {
        **trajectory_table(estimate, truth, scores.snippets[name]),
        'baselines': baselines,
    }
    scores.poses[name] = estimate, truth, times
