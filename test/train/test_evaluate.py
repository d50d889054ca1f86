"""``python -m train evaluate``: an oracle whose errors are known, then the shipped models."""

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.metrics import depth_metrics

from depth_ros.core.camera import Intrinsics
from depth_ros.core.metrics.depth import mean_depth_metrics
from depth_ros.core.metrics.trajectory import pose_metrics, snippet_metrics
from depth_ros.core.se3 import pose, rotation_from_vector
from depth_ros.evaluation.structure import Structure
from depth_ros.inference.classes import CITYSCAPES, ClassMap
from depth_ros.inference.loader import load_engine
from train.__main__ import main
from train.commands import evaluate
from train.data.sequences import DataError, read_image
from train.data.velodyne import file_projection, project_velodyne, read_points
from train.evaluation.kitti import read_split
from train.evaluation.predict import Perceived, Predictor, blend, chain, load_predictor
from train.evaluation.protocol import Protocol
from train.geometry import transform_from_pose
from train.training.config import Config
from train.training.system import System

WIDTH, HEIGHT, FRAMES = 64, 32, 8


class Oracle(Predictor):
    """Sees everything in the image: red is depth, green the class, blue the way driven, 0.1 m.

    Args:
        factor: what its depth and motion are multiplied by.
        views: of the pose network.
    """

    perception_size = pose_size = (WIDTH, HEIGHT)
    camera = Intrinsics(50, 50, 31.5, 15.5, WIDTH, HEIGHT)
    classes = CITYSCAPES

    def __init__(self, factor=1.0, views=2):
        self.factor, self.views = factor, views

    def _perceive(self, image):
        return Perceived(image[..., 0].astype(np.float32) / 10 * self.factor, image[..., 1].copy())

    def _window(self, frames):
        along = np.array([f[0, 0, 2] / 10 for f in frames]) * self.factor
        return np.stack([pose(np.eye(3), [0, 0, z - along[0]]) for z in along])


@pytest.fixture
def street(tmp_path):
    """A sequence that the oracle understands."""
    folder = tmp_path / 'street'
    for name in ('images', 'depth', 'semantics'):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(FRAMES):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[..., 0] = rng.integers(20, 250, (HEIGHT, WIDTH))
        image[:, WIDTH // 2 :, 1] = 13
        image[..., 2] = i * i  # accelerating, so that steps differ
        cv2.imwrite(str(folder / f'images/{i}.png'), image[..., ::-1])
        cv2.imwrite(str(folder / f'depth/{i}.png'), image[..., 0].astype(np.uint16) * 100)
        cv2.imwrite(str(folder / f'semantics/{i}.png'), image[..., 1])
    np.savetxt(folder / 'intrinsics.txt', [[50, 0, 31.5], [0, 50, 15.5], [0, 0, 1]])
    poses = np.tile(np.eye(4)[:3].ravel(), (FRAMES, 1))
    poses[:, 11] = np.arange(FRAMES) ** 2 / 10
    np.savetxt(folder / 'poses.txt', poses)
    return folder


def run(monkeypatch, tmp_path, predictor, *arguments):
    """Evaluate an oracle and return the report."""
    monkeypatch.setattr(evaluate, 'load_predictor', lambda *_: predictor)
    out = tmp_path / 'report.json'
    assert main(['evaluate', *map(str, arguments), '--json', str(out)]) == 0
    return json.loads(out.read_text())


def test_an_oracle_has_no_errors(monkeypatch, tmp_path, street, capsys):
    report = run(monkeypatch, tmp_path, Oracle(), street)
    # To the rounding of 25 m in float32.
    perfect = pytest.approx(
        {'abs_rel': 0, 'sq_rel': 0, 'rmse': 0, 'rmse_log': 0, 'a1': 1, 'a2': 1, 'a3': 1}, abs=3e-6
    )
    for row in ('median_scaled', 'as_published', 'median_scaled_50m', 'near_edges', '0_to_10m'):
        assert report['depth'][row] == perfect
    assert report['depth']['images'] == FRAMES
    assert report['semantics']['iou'] == {'road': 1, 'car': 1}
    numbers = report['trajectories']['street']
    assert numbers['length'] == pytest.approx(4.9) and numbers['scale'] == pytest.approx(1)
    for name in ('ate_se3', 'ate_sim3', 'ate_scale', 'rpe_se3', 'snippet_ate', 'snippet_re'):
        assert numbers[name] == pytest.approx(0, abs=1e-9)
    assert 't_err_sim3' not in numbers  # shorter than 100 m
    assert 'not_evaluated' not in report
    shown = capsys.readouterr().out
    assert 'mean IoU 1.000' in shown and '5-frame snippets: ATE 0.0000' in shown


def test_a_scale_shows_where_it_is_not_fitted(monkeypatch, tmp_path, street):
    report = run(monkeypatch, tmp_path, Oracle(factor=2.0), street, '--cap', '30')
    assert report['depth']['median_scaled']['abs_rel'] == pytest.approx(0, abs=1e-6)
    assert report['depth']['scale_median'] == pytest.approx(0.5)
    # Twice too far, but for what is clamped to 30 m.
    truth = [np.clip(cv2.imread(str(f), -1) / 1000, 0, 30) for f in street.glob('depth/*')]
    expected = np.mean([np.mean((np.minimum(2 * t, 30) - t) / t) for t in truth])
    assert report['depth']['as_published']['abs_rel'] == pytest.approx(expected, rel=1e-5)
    assert 'median_scaled_50m' not in report['depth']
    assert report['trajectories']['street']['scale'] == pytest.approx(0.5)
    assert report['trajectories']['street']['ate_se3'] > 0.1
    assert report['trajectories']['street']['snippet_ate'] == pytest.approx(0, abs=1e-9)


def test_depth_is_corrected_for_another_camera(monkeypatch, tmp_path, street):
    np.savetxt(street / 'intrinsics.txt', [[100, 0, 31.5], [0, 100, 15.5], [0, 0, 1]])
    report = run(monkeypatch, tmp_path, Oracle(factor=0.5), street, '--tasks', 'depth')
    assert report['depth']['as_published']['abs_rel'] == pytest.approx(0, abs=1e-6)
    assert set(report) == {'model', 'data', 'depth'}  # nothing else was asked for


def test_what_is_written(monkeypatch, tmp_path, street):
    out = tmp_path / 'out'
    for _ in range(2):  # into the same folder, as the second time
        report = run(
            monkeypatch, tmp_path, Oracle(factor=1.5), street, '--out', out, '--pictures', 5
        )
    assert json.loads((out / 'metrics.json').read_text()) == report
    with (out / 'depth.csv').open() as file:
        rows = [row for row in csv.DictReader(file) if row['row'] == 'as_published']
    assert [row['image'] for row in rows] == [str(i) for i in range(FRAMES)]
    assert np.mean([float(row['rmse']) for row in rows]) == pytest.approx(
        report['depth']['as_published']['rmse']
    )
    with (out / 'confusion.csv').open() as file:
        header, road, *_ = csv.reader(file)
    assert road[0] == 'road' and int(road[header.index('road')]) == FRAMES * HEIGHT * WIDTH // 2
    assert len((out / 'snippets.csv').read_text().splitlines()) == 1 + FRAMES - 4
    estimate = np.loadtxt(out / 'trajectories' / 'street_kitti.txt')
    truth = np.loadtxt(out / 'trajectories' / 'street_truth_kitti.txt')
    assert estimate[:, 11] == pytest.approx(1.5 * truth[:, 11])
    tum = np.loadtxt(out / 'trajectories' / 'street_tum.txt')
    assert tum[:, 3] == pytest.approx(estimate[:, 11])
    assert (tum[:, 4:] == [0, 0, 0, 1]).all() and (tum[:, 0] == np.arange(FRAMES)).all()
    pictures = sorted((out / 'pictures').iterdir())
    assert len(pictures) == 5
    # Image, depth, its truth and error, classes and their truth.
    assert cv2.imread(str(pictures[0])).shape == (3 * HEIGHT, 2 * WIDTH, 3)
    assert not list(out.rglob('*.part'))


def write_structure(folder, metric=True):
    """Points that the oracle sees, 40 a frame, each fourth held out, which are right; others not.

    Where it is not metric, depth is in halves of metres.
    """
    rng = np.random.default_rng(1)
    seen = FRAMES * 40
    index = np.repeat(np.arange(FRAMES), 40)
    place = np.concatenate([rng.permutation(HEIGHT * WIDTH)[:40] for _ in range(FRAMES)])
    y, x = np.divmod(place, WIDTH)
    images = [cv2.imread(str(folder / f'images/{i}.png')) for i in range(FRAMES)]
    depth = np.array([images[i][v, u, 2] / 10 for i, v, u in zip(index, y, x, strict=True)])
    held_out = np.arange(seen) % 4 == 0
    depth[~held_out] *= rng.uniform(1.5, 3, (~held_out).sum())
    Structure(
        part=np.zeros(FRAMES, np.int32),
        poses=np.tile(np.eye(4), (FRAMES, 1, 1)),
        metric_spread=np.array([0.02 if metric else np.nan]),
        starts=np.arange(0, seen + 1, 40),
        xy=np.stack([x, y], 1) + rng.uniform(-0.3, 0.3, (seen, 2)),
        depth=depth * (1 if metric else 2),
        sigma=np.full(seen, 0.02),
        error=np.full(seen, 0.3),
        track=np.full(seen, 5),
        angle=np.full(seen, 3.0),
        point=np.arange(seen),
        held_out=held_out,
        intrinsics=np.eye(3),
    ).write(folder / 'structure.npz')


def test_points_that_were_held_out_judge_where_no_sensor_does(monkeypatch, tmp_path, street):
    write_structure(street)
    sensor = run(monkeypatch, tmp_path, Oracle(), street, '--tasks', 'depth')
    assert sensor['depth']['truth'] == ['depth'] and 'notes' not in sensor
    for file in street.glob('depth/*'):
        file.unlink()
    points = run(monkeypatch, tmp_path, Oracle(), street, '--tasks', 'depth')
    assert points['depth']['truth'] == ['held_out']
    assert points['depth']['as_published']['abs_rel'] == pytest.approx(0, abs=1e-6)
    assert 'points of structure from motion, a tenth of them' in points['notes'][0]


def test_all_points_judge_what_no_training_has_seen(monkeypatch, tmp_path, street):
    write_structure(street)
    report = run(
        monkeypatch, tmp_path, Oracle(), street, '--structure-points', 'all', '--tasks', 'depth'
    )
    assert report['depth']['truth'] == ['all']
    assert report['depth']['as_published']['abs_rel'] > 0.2


def test_relative_points_judge_nothing_in_metres(monkeypatch, tmp_path, street):
    write_structure(street, metric=False)
    arguments = ('--structure-points', 'held_out', '--tasks', 'depth')
    report = run(monkeypatch, tmp_path, Oracle(), street, *arguments)
    assert report['depth']['median_scaled']['abs_rel'] == pytest.approx(0, abs=1e-6)
    assert report['depth']['scale_median'] == pytest.approx(2)
    assert not {'as_published', '0_to_10m', 'median_scaled_50m'} & set(report['depth'])


def test_a_damaged_structure_is_said(street, capsys):
    (street / 'structure.npz').write_bytes(b'PK')
    assert main(['evaluate', str(street)]) == 2
    assert 'make it again with python -m train structure' in capsys.readouterr().err


def test_missing_truth_is_said(monkeypatch, tmp_path, street, capsys):
    for file in street.glob('semantics/*'):
        file.unlink()
    cv2.imwrite(str(street / 'depth/0.png'), np.zeros((HEIGHT, WIDTH), np.uint16))
    (street / 'poses.txt').unlink()
    report = run(monkeypatch, tmp_path, Oracle(), street)
    assert report['not_evaluated'] == ['semantics', 'odometry']
    assert report['notes'] == ['1 depth maps have no pixel that counts']
    assert report['depth']['images'] == FRAMES - 1 and 'near_edges' not in report['depth']
    for file in street.glob('depth/*'):
        file.unlink()
    assert main(['evaluate', str(street)]) == 2
    assert 'no depth/, structure.npz, semantics/ or poses.txt' in capsys.readouterr().err


def test_frames_with_damaged_files_are_left_out(monkeypatch, tmp_path, street):
    np.savetxt(street / 'intrinsics.txt', [[100, 0, 31.5], [0, 100, 15.5], [0, 0, 1]])
    whole = run(monkeypatch, tmp_path, Oracle(factor=1.5), street)
    assert 'notes' not in whole
    shutil.copytree(street, tmp_path / 'set/whole')
    street.rename(tmp_path / 'set/torn')
    for name in ('images/0.png', 'depth/2.png', 'semantics/5.png'):
        path = tmp_path / 'set/torn' / name
        path.write_bytes(path.read_bytes()[:-20])
    report = run(
        monkeypatch,
        tmp_path,
        Oracle(factor=1.5),
        tmp_path / 'set',
        '--out',
        tmp_path / 'out',
        '--pictures',
        2 * FRAMES,
    )
    assert report['depth']['images'] == report['semantics']['images'] == 2 * FRAMES - 3
    # The first image is torn, so another one tells the camera.
    assert report['depth']['scale_median'] == pytest.approx(whole['depth']['scale_median'])
    assert report['depth']['scale_spread'] == pytest.approx(0, abs=1e-6)
    assert list(report['trajectories']) == ['whole']
    first, *notes = report['notes']
    assert first.startswith('3 of 16 frames are left out')
    for name in ('images/0.png', 'depth/2.png', 'semantics/5.png'):
        assert any(name in note and 'cut short' in note for note in notes)
    assert any(note.startswith('trajectory of torn: ') and '0.png' in note for note in notes)
    assert len(list((tmp_path / 'out/pictures').iterdir())) == 2 * FRAMES - 3


def test_a_path_that_cannot_be_judged_is_a_note(monkeypatch, tmp_path, street):
    report = run(
        monkeypatch, tmp_path, Oracle(factor=0.0), street, '--tasks', 'odometry', 'semantics'
    )
    assert report['notes'] == [
        'trajectory of street: the estimate does not move, so the paths cannot be aligned'
    ]
    assert report['not_evaluated'] == ['odometry']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'name either a folder'),
        (['--kitti', '.'], '--kitti needs --split'),
        (['.', '--kitti', '.'], 'name either a folder'),
        (['.', '--cap', '0'], '--cap must be'),
        (['.', '--classes', 'no.yaml'], "cannot use --classes 'no.yaml'"),
        (['nowhere'], 'no sequences'),
    ],
)
def test_bad_requests_are_named(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(evaluate, 'load_predictor', lambda *_: Oracle())
    assert main(['evaluate', *arguments]) == 2
    assert message in capsys.readouterr().err


# Depth rows


def protocol(**changes):
    return Protocol(
        **{
            'caps': (80.0,),
            'crop': None,
            'resize': 'disparity',
            'flip': False,
            'limit_truth': True,
            'edge_radius': 5,
            **changes,
        }
    )


def test_errors_near_edges_and_by_distance_keep_the_images_scale():
    truth = np.array([[4.0, 4.0, 4.0, 30.0, 60.0]])
    depth = np.array([[2.0, 2.0, 2.0, 30.0, 15.0]])
    edges = np.array([[False, False, True, True, False]])
    rows, scale, _ = protocol().table(depth, truth, 1.0, edges)
    assert scale == 2  # so the depths are 4, 4, 4, 60, 30
    assert rows['near_edges'].abs_rel == pytest.approx((0 + 1) / 2)
    assert rows['0_to_10m'].abs_rel == 0 and rows['20_to_40m'].abs_rel == pytest.approx(1)
    assert rows['40_to_80m'].abs_rel == pytest.approx(0.5) and '10_to_20m' not in rows


def test_what_is_interpolated():
    depth = np.array([[1.0, 3.0]], np.float32)
    assert protocol(resize='depth').resized(depth, (1, 4))[0, 1] == pytest.approx(1.5)
    # A quarter of the way from 1 to 1/3 in disparity.
    assert protocol().resized(depth, (1, 4))[0, 1] == pytest.approx(1 / (1 - 2 / 3 / 4))


# Classes


def test_cityscapes_in_camvid():
    classes = ClassMap.read('camvid', CITYSCAPES)
    assert [c.name for c in classes.classes][3:5] == ['road', 'pavement']
    names = {c.name: classes.classes[classes.lookup[c.id]].name for c in CITYSCAPES}
    assert len(names) == 19 and set(names.values()) == {c.name for c in classes.classes}
    assert names['sidewalk'] == 'pavement' and names['rider'] == names['bicycle'] == 'bicyclist'
    assert classes.lookup[255] == 255
    assert classes.classes[8].color == CITYSCAPES[13].color
    assert classes.truth(np.array([[0, 10, 11, 255]], np.uint8)).tolist() == [[0, 10, 255, 255]]


def test_classes_of_a_file(tmp_path):
    file = tmp_path / 'classes.json'
    file.write_text('{"names": ["free", "other"], "map": {"road": "free", "car": "other"}}')
    classes = ClassMap.read(str(file), CITYSCAPES)
    assert classes.predicted(np.array([0, 13, 10])).tolist() == [0, 1, 255]
    file.write_text('{"names": ["free"], "map": {"road": "fre"}}')
    with pytest.raises(ValueError, match="classes.json.*'fre'"):
        ClassMap.read(str(file), CITYSCAPES)
    file.write_text('names: [free]\n')
    with pytest.raises(ValueError, match="'map'"):
        ClassMap.read(str(file), CITYSCAPES)


# Predictors


@pytest.mark.parametrize('views', [2, 3, 5])
def test_windows_chain_to_the_whole_path(views):
    rng = np.random.default_rng(1)
    images = [np.full((HEIGHT, WIDTH, 3), v, np.uint8) for v in rng.integers(0, 255, 9)]
    poses = Oracle(views=views).snippet(images)
    along = [float(i[0, 0, 2]) / 10 - float(images[0][0, 0, 2]) / 10 for i in images]
    assert poses[:, 2, 3] == pytest.approx(along)
    with pytest.raises(DataError, match=f'sees {views} frames at once, given are 1'):
        Oracle(views=views).snippet(images[:1])


def test_the_chain_takes_the_step_to_the_middle():
    """Each window of three knows only the step to its middle frame, except at the ends."""

    def window(*steps):
        return np.stack([pose(np.eye(3), [x, 0, 0]) for x in (0, *np.cumsum(steps))])

    poses = chain([window(1, 99), window(2, 99), window(4, 8)])
    assert poses[:, 0, 3].tolist() == [0, 1, 3, 7, 15]


def test_snippets_of_a_network_that_sees_five_are_its_own(monkeypatch, tmp_path, street):
    class Drifting(Oracle):
        def _window(self, frames):
            poses = super()._window(frames)
            poses[4, 0, 3] += 1.0  # at the end of a window, which the chain takes only once
            return poses

    native = run(monkeypatch, tmp_path, Drifting(views=5), street, '--tasks', 'odometry')
    assert native['trajectories']['street']['snippet_ate'] > 0.1
    chained = run(monkeypatch, tmp_path, Drifting(views=6), street, '--tasks', 'odometry')
    assert chained['trajectories']['street']['snippet_ate'] < 0.1


def test_blending_of_mirrored_depth():
    found = blend(np.full((2, 201), 1.0), np.full((2, 201), 3.0))
    assert found[0, :11] == pytest.approx(3)  # up to 5 % from the left: the mirrored image's
    assert found[0, -11:] == pytest.approx(1)
    assert found[0, 20:-20] == pytest.approx(1.5)  # the mean of the disparities 1 and 1/3
    assert (np.diff(found[0]) <= 1e-6).all()


def test_flip_averaging_mirrors_twice():
    image = np.random.default_rng(2).integers(1, 255, (HEIGHT, WIDTH, 3), np.uint8)
    assert Oracle().depth(image, flip=True) == pytest.approx(Oracle().depth(image), rel=1e-5)


def test_shipped_models_are_read_from_folder_or_file(repository):
    models = repository / 'models'
    both = load_predictor(models)
    assert both.perception_size == both.pose_size == (640, 192) and both.views == 2
    assert both.classes == CITYSCAPES and both.camera.fx == pytest.approx(371.2)
    images = np.random.default_rng(3).integers(0, 255, (2, 192, 640, 3), np.uint8)
    outputs = load_engine(models / 'perception.onnx').infer({'image': images[:1]})
    alone = load_predictor(models / 'perception.onnx')
    assert np.array_equal(alone.depth(images[0]), outputs['depth'])
    assert np.array_equal(alone.labels(images[0]), outputs['labels'])
    with pytest.raises(DataError, match='no pose network'):
        alone.motion(*images)
    step = load_engine(models / 'pose.onnx').infer({'previous': images[:1], 'current': images[1:]})[
        'pose'
    ]
    pair = load_predictor(models / 'pose.onnx')
    assert pair.motion(*images) == pytest.approx(pose(rotation_from_vector(step[:3]), step[3:]))
    with pytest.raises(DataError, match='no perception network'):
        pair.depth(images[0])


def test_no_model_is_said(tmp_path):
    with pytest.raises(DataError, match='neither perception.onnx nor pose.onnx'):
        load_predictor(tmp_path)
    with pytest.raises(ValueError, match='does not exist'):
        load_predictor(tmp_path / 'no.ckpt')


@pytest.fixture
def checkpoint(tmp_path):
    """Writes a checkpoint of an untrained system and returns it with the system."""

    def write(**settings):
        config = Config(
            data='',
            val='',
            out='',
            width=64,
            height=32,
            batch_size=1,
            steps=1,
            learning_rate=1e-3,
            **settings,
        )
        torch.manual_seed(0)
        system = System(config).eval()
        path = tmp_path / 'last.ckpt'
        torch.save(
            {
                'hyper_parameters': asdict(config),
                'state_dict': system.state_dict(),
                'global_step': 0,
            },
            path,
        )
        return path, system

    return write


def test_a_checkpoint_predicts_what_its_networks_say(checkpoint):
    path, system = checkpoint(network='light', encoder='efficientnet_lite0', pose_network='light')
    predictor = load_predictor(path)
    assert predictor.views == 2 and predictor.classes == CITYSCAPES
    images = np.random.default_rng(4).integers(0, 255, (2, 32, 64, 3), np.uint8)
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        prediction = system.perception(tensors[:1])
        size = {'size': (32, 64), 'mode': 'bilinear', 'align_corners': False}
        disparity = torch.nn.functional.interpolate(prediction.disparities[0], **size)[0, 0]
        labels = torch.nn.functional.interpolate(prediction.logits, **size)[0].argmax(0)
        motion = transform_from_pose(system.pose(tensors[:1], tensors[1:]))[0]
    assert predictor.depth(images[0]) == pytest.approx((1 / disparity).numpy(), rel=1e-4)
    assert (predictor.labels(images[0]) == labels.numpy()).mean() > 0.99  # ties
    assert predictor.motion(*images) == pytest.approx(motion.numpy(), abs=1e-6)


@pytest.mark.parametrize('views', [3, 5])
def test_a_checkpoint_that_sees_several_frames(checkpoint, views):
    path, system = checkpoint(network='dispnet', semantics=False, pose_network='sfm', views=views)
    predictor = load_predictor(path)
    assert predictor.views == views and not predictor.classes
    images = np.random.default_rng(5).integers(0, 255, (views, 32, 64, 3), np.uint8)
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        to_sources = system.transforms(tensors[None])[0].double().numpy()
    poses = predictor.snippet(images)
    target = views // 2
    assert poses[0] == pytest.approx(np.eye(4), abs=1e-6)
    for k, source in enumerate([i for i in range(views) if i != target]):
        found = np.linalg.inv(poses[source]) @ poses[target]  # T_source_target
        assert found == pytest.approx(to_sources[k], abs=1e-5)
    with pytest.raises(DataError, match='no semantic output'):
        predictor.labels(images[0])


# KITTI


def test_both_forms_of_a_split(tmp_path):
    file = tmp_path / 'split.txt'
    file.write_text(
        '2011_09_26/2011_09_26_drive_0002_sync 69 r\n\n'
        '2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000054.png\n'
    )
    drive = ('2011_09_26', '2011_09_26_drive_0002_sync')
    assert read_split(file) == [(*drive, '0000000069', 3), (*drive, '0000000054', 2)]
    file.write_text('2011_09_26/drive 69\n')
    with pytest.raises(DataError, match="cannot understand '2011_09_26/drive 69'"):
        read_split(file)


def test_published_lists_of_the_eigen_split_agree(data_dir):
    splits = data_dir / 'splits'
    if not splits.is_dir():
        pytest.skip(f'{splits} is missing')
    eigen = read_split(splits / 'eigen' / 'test_files.txt')
    assert len(eigen) == 697
    assert eigen == read_split(splits / 'sfmlearner' / 'test_files_eigen.txt')


@pytest.fixture
def kitti(tmp_path):
    """A day of KITTI raw with one drive, whose oracle image shows a wall 10 m ahead."""
    date = tmp_path / 'kitti' / '2011_09_26'
    drive = date / '2011_09_26_drive_0001_sync'
    for name in ('image_02/data', 'velodyne_points/data', 'proj_depth/groundtruth/image_02'):
        (drive / name).mkdir(parents=True)
    (date / 'calib_cam_to_cam.txt').write_text(
        'calib_time: 09-Jan-2012 13:57:47\nR_rect_00: 1 0 0 0 1 0 0 0 1\n'
        f'S_rect_02: {WIDTH} {HEIGHT}\nP_rect_02: 50 0 31.5 0 0 50 15.5 0 0 0 1 0\n'
    )
    (date / 'calib_velo_to_cam.txt').write_text('R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n')
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 2] = 100
    cv2.imwrite(str(drive / 'image_02/data/0000000007.png'), image)
    # The wall is at 8 m in one half, as the laser sees it; Garg's crop takes its rows 13 to 30.
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    depth = np.where(u < WIDTH // 2, 10.0, 8.0)
    points = (
        np.stack(
            [
                depth,
                -(u + 1 - 31.5) / 50 * depth,
                -(v + 1 - 15.5) / 50 * depth,
                np.zeros_like(depth),
            ],
            -1,
        )
        .reshape(-1, 4)
        .astype(np.float32)
    )
    points.tofile(drive / 'velodyne_points/data/0000000007.bin')
    cv2.imwrite(
        str(drive / 'proj_depth/groundtruth/image_02/0000000007.png'),
        (np.where(u < WIDTH // 2, 10, 100) * 256).astype(np.uint16),
    )
    split = tmp_path / 'split.txt'
    split.write_text(
        '2011_09_26/2011_09_26_drive_0001_sync 7 l\n2011_09_26/2011_09_26_drive_0001_sync 8 l\n'
    )
    return tmp_path / 'kitti', split


def test_eigen_protocol_on_a_kitti_folder(monkeypatch, tmp_path, kitti, capsys):
    options = ('--kitti', kitti[0], '--split', kitti[1])
    classic = run(monkeypatch, tmp_path, Oracle(), *options)
    assert classic['depth']['protocol']['crop'] == 'garg'
    assert classic['notes'] == [
        '1 of 2 listed images lack the image or classic ground truth, '
        'such as 2011_09_26/2011_09_26_drive_0001_sync 0000000008'
    ]
    # Garg's crop keeps columns 2 to 60: 30 at 10 m, 29 at 8 m, all predicted at 10.
    assert classic['depth']['as_published']['abs_rel'] == pytest.approx(29 / 59 * 2 / 8, rel=1e-4)
    improved = run(monkeypatch, tmp_path, Oracle(factor=20.0), *options, '--truth', 'improved')
    assert improved['depth']['protocol']['caps'] == [80] and (
        improved['depth']['protocol']['crop'] is None
    )
    # 200 m is clamped to 80 m; the truth beyond it counts.
    assert improved['depth']['as_published']['abs_rel'] == pytest.approx((7 + 0.2) / 2)
    kitti[1].write_text('2011_09_26/2011_09_26_drive_0001_sync 8 l\n')
    assert main(['evaluate', *map(str, options)]) == 2
    assert 'none of the 1 images' in capsys.readouterr().err


# The shipped models on real data


def test_shipped_model_sees_more_than_a_flat_wall(repository, data_dir):
    folders = sorted((data_dir / 'kitti_lidar_frames').glob('*/'))
    if not folders:
        pytest.skip(f'no kitti_lidar_frames in {data_dir}')
    predictor = load_predictor(repository / 'models')
    options = {'median_scaling': True, 'crop': 'garg'}
    model, wall = [], []
    for folder in folders:
        shape = cv2.imread(str(folder / 'image.png')).shape[:2]
        truth = project_velodyne(
            read_points(folder / 'velodyne.bin'), file_projection(folder / 'calib.txt', 2), shape
        )
        depth = predictor.depth(read_image(folder / 'image.png', *predictor.perception_size))
        model.append(depth_metrics(protocol().resized(depth, shape), truth, **options))
        wall.append(depth_metrics(np.ones(shape), truth, **options))
    model, wall = map(mean_depth_metrics, (model, wall))
    assert model.abs_rel < 0.7 * wall.abs_rel and model.a1 > wall.a1


def test_shipped_models_on_a_kitti_sequence(repository, data_dir, tmp_path):
    folder = data_dir / 'kitti_odometry_00'
    if not folder.is_dir():
        pytest.skip(f'{folder} is missing')
    out = tmp_path / 'out'
    assert (
        main(
            [
                'evaluate',
                str(folder),
                '--models',
                str(repository / 'models'),
                '--tasks',
                'odometry',
                '--out',
                str(out),
            ]
        )
        == 0
    )
    numbers = json.loads((out / 'metrics.json').read_text())['trajectories'][folder.name]
    assert numbers['frames'] == 200 and numbers['length'] == pytest.approx(144.9, abs=0.1)
    truth = read_poses(out / 'trajectories' / f'{folder.name}_truth_kitti.txt')
    still = [
        snippet_metrics(np.tile(np.eye(4), (5, 1, 1)), truth[i : i + 5]).ate for i in range(196)
    ]
    assert numbers['snippet_ate'] < 0.1 * np.mean(still)
    estimate = read_poses(out / 'trajectories' / f'{folder.name}_kitti.txt')
    again = pose_metrics(estimate, truth, 'sim3')
    assert again.ate == pytest.approx(numbers['ate_sim3'], rel=1e-4)
    assert numbers['ate_sim3'] <= numbers['ate_se3'] and numbers['segments'] > 0


def read_poses(path: Path) -> np.ndarray:
    poses = np.tile(np.eye(4), (200, 1, 1))
    poses[:, :3] = np.loadtxt(path).reshape(-1, 3, 4)
    return poses
