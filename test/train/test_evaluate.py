"""``python -m train evaluate``: an oracle whose errors are known, then the shipped models."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.metrics import depth_metrics
from support.oracle import FRAMES, HEIGHT, WIDTH, Oracle, run, write_street

from depth_ros.core.metrics.depth import mean_depth_metrics
from depth_ros.core.metrics.trajectory import pose_metrics, snippet_metrics
from depth_ros.evaluation.structure import Structure
from depth_ros.inference.classes import CITYSCAPES, ClassMap
from train.__main__ import main
from train.commands import evaluate
from train.data.sequences import read_image
from train.data.velodyne import file_projection, project_velodyne, read_points
from train.evaluation.predict import load_predictor
from train.evaluation.protocol import Protocol


@pytest.fixture
def street(tmp_path):
    return write_street(tmp_path / 'street')


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
    assert 'trivial: constant' in shown and 'constant velocity: ATE' in shown
    assert 'metres as published: of the model' in shown
    trivial = report['depth']['baselines']
    assert set(trivial) == {'constant', 'flat_ground', 'constant_in_metres'}
    truth = [cv2.imread(str(f), -1) / 1000 for f in sorted(street.glob('depth/*'))]
    assert trivial['constant']['abs_rel'] == pytest.approx(
        np.mean([np.mean(np.abs(np.median(t) - t) / t) for t in truth]), rel=1e-3
    )
    # Its speed grows from step to step, so that a constant one is off by metres.
    assert numbers['baselines']['constant_velocity']['ate_se3'] > 0.2
    assert report['semantics']['baselines']['one_class']['mean_iou'] == pytest.approx(0.25)
    assert 'mean IoU 1.000' in shown and '5-frame snippets: ATE 0.0000' in shown


def test_a_flat_ground_at_the_height_of_the_camera(monkeypatch, tmp_path, street):
    (street / 'camera_height.txt').write_text('1.2\n')
    report = run(monkeypatch, tmp_path, Oracle(), street, '--tasks', 'depth')
    assert 'flat_ground_in_metres' in report['depth']['baselines']


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
    assert set(report) == {'model', 'data', 'fit', 'depth'}  # nothing else was asked for


@pytest.mark.parametrize('garg', ['none', 'garg'])
def test_what_a_crop_leaves_out_is_not_judged(monkeypatch, tmp_path, garg):
    """Three times as high as the network's images: the oracle is right of what it sees."""
    street = write_street(tmp_path / 'street')
    for file in street.glob('*/*.png'):
        image = cv2.imread(str(file), -1)
        rows = np.random.default_rng(1).integers(20, 200, (HEIGHT, *image.shape[1:]))
        noise = rows.astype(image.dtype)
        cv2.imwrite(str(file), np.concatenate([noise, image, noise]))
    np.savetxt(street / 'intrinsics.txt', [[50, 0, 31.5], [0, 50, 15.5 + HEIGHT], [0, 0, 1]])
    arguments = street, '--tasks', 'depth', 'semantics', '--crop', garg
    for mode in ('crop', 'auto'):
        report = run(monkeypatch, tmp_path, Oracle(), *arguments, '--fit', mode)
        assert report['depth']['as_published']['abs_rel'] == pytest.approx(0, abs=1e-6)
        assert report['semantics']['iou'] == {'road': 1, 'car': 1}
    report = run(monkeypatch, tmp_path, Oracle(), *arguments, '--fit', 'stretch')
    assert report['depth']['as_published']['abs_rel'] > 0.1
    assert report['fit'] == 'stretch'


def test_truth_that_the_model_cannot_say_is_mentioned(monkeypatch, tmp_path, street):
    oracle = Oracle()
    oracle.depth_range = 5.0, 80.0
    notes = run(monkeypatch, tmp_path, oracle, street, '--tasks', 'depth')['notes']
    nearer = np.mean([(cv2.imread(str(f), -1) < 5000).mean() for f in street.glob('depth/*')])
    assert notes[0].startswith(f'{100 * nearer:.0f} % of the true depth is outside')
    oracle.depth_range = 1.0, 80.0
    assert 'notes' not in run(monkeypatch, tmp_path, oracle, street, '--tasks', 'depth')


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
    few = f'trajectory of street: {FRAMES} poses only; aligning fits so few by itself'
    assert [note.startswith(few) for note in whole['notes']] == [True]
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
        (['nowhere'], 'there is no folder'),
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
