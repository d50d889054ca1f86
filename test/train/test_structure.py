"""Structure from motion on a corridor whose depth and motion are exact."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from support.corridor import CAMERA_HEIGHT, HEIGHT, INTRINSICS, WIDTH, render, texture, write_drive

from depth_ros.core.metrics.depth import depth_errors
from depth_ros.core.metrics.trajectory import pose_metrics
from depth_ros.evaluation.structure import FILE, Structure, StructureError, read_structure
from depth_ros.files import HeldError, locked
from train.__main__ import main
from train.data.sequences import read_sequence
from train.structure import workers
from train.structure.build import REPORTS, Job, Report, build, done, fingerprint
from train.structure.reconstruct import Options

pytest.importorskip('pycolmap', reason='pycolmap is not installed')
pytestmark = pytest.mark.slow
FRAMES = 14


def job(folder, **options):
    return Job(folder, folder.name, folder.parent / REPORTS, camera_height=CAMERA_HEIGHT, **options)


@pytest.fixture(scope='module')
def drive(tmp_path_factory):
    """A data set of one drive with its structure; its folder, true depth and true poses."""
    data = tmp_path_factory.mktemp('data')
    depth, poses = write_drive(data / 'drive', FRAMES)
    status = main(['structure', str(data), '--camera-height', str(CAMERA_HEIGHT)])
    assert status == 0
    return data / 'drive', depth, poses


@pytest.fixture
def copied(drive, tmp_path):
    """A copy of the drive without structure."""
    shutil.copytree(drive[0], tmp_path / 'data' / 'drive')
    (tmp_path / 'data' / 'drive' / FILE).unlink()
    return tmp_path / 'data' / 'drive'


# What is found


def test_depth_is_true_and_in_metres(drive):
    folder, depth, _ = drive
    structure = read_structure(folder, FRAMES)
    assert structure.registered.all() and len(structure.metric_spread) == 1
    for index in range(FRAMES):
        truth = structure.points(index).as_map((HEIGHT, WIDTH))
        seen = truth > 0
        errors = depth_errors(truth[seen], depth[index][seen])
        assert seen.sum() > 300
        assert errors.abs_rel < 0.03
        assert errors.a1 > 0.98


def test_motion_is_true_and_in_metres(drive):
    folder, _, poses = drive
    structure = read_structure(folder, FRAMES)
    found = pose_metrics(structure.poses, poses, 'sim3')
    assert found.scale == pytest.approx(1, abs=0.02)
    assert found.ate < 0.03
    step = np.linalg.inv(poses[6]) @ poses[5]
    assert np.allclose(structure.motion(5, 6), step, atol=0.02)


def test_sigma_is_about_the_error(drive):
    folder, depth, _ = drive
    structure = read_structure(folder, FRAMES)
    ratios = []
    for index in range(FRAMES):
        points = structure.points(index)
        x, y = np.rint(points.xy).astype(int).T
        ratios += list(np.abs(points.depth / depth[index][y, x] - 1) / points.sigma)
    assert 0.1 < np.median(ratios) < 2


def test_a_tenth_of_the_places_is_held_out(drive):
    structure = read_structure(drive[0], FRAMES)
    assert 0.05 < structure.held_out.mean() < 0.17
    # A point is held out wherever it is seen.
    sums = np.bincount(structure.point, structure.held_out)
    counts = np.bincount(structure.point)
    assert ((sums == 0) | (sums == counts)).all()


def test_the_page_and_the_report_say_what_was_found(drive):
    folder = drive[0]
    report = Report.load(folder.parent / REPORTS, 'drive')
    assert (report.frames, report.registered, report.failure) == (FRAMES, FRAMES, '')
    assert report.parts[0].source == 'camera height'
    assert report.parts[0].length == pytest.approx(0.4 * (FRAMES - 1), rel=0.05)
    page = (folder.parent / 'structure.html').read_text()
    assert page.count('<img') == 5 and 'camera height' in page and 'Nothing.' in page


def test_unknown_lens_is_found_and_taken_out(copied, tmp_path):
    (copied / 'intrinsics.txt').write_text('unknown\n')
    _distort(copied, -0.15)
    out = tmp_path / 'out'
    report = build(replace(job(copied), out=out / 'drive', reports=out / REPORTS))
    assert report.failure == '' and report.estimated
    assert report.focal[0] == pytest.approx(INTRINSICS[0, 0], rel=0.08)
    assert report.distortion == pytest.approx(-0.15, abs=0.06)
    sequence = read_sequence(out / 'drive')
    assert np.allclose(sequence.structure().intrinsics, sequence.intrinsics, rtol=1e-6)
    assert len(list((out / 'drive' / 'semantics').iterdir())) == FRAMES
    # Where points are in the new pictures is where the pinhole camera sees them.
    structure = sequence.structure()
    a, b = structure.points(4), structure.points(8)
    assert _reprojection(structure, 4, 8) < 1.0
    assert len(a.xy) > 200 and len(b.xy) > 200


def _distort(folder, k1):
    """Pictures as a lens with radial distortion would take them."""
    grid = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1).reshape(-1, 1, 2)
    where = cv2.undistortPoints(
        grid.astype(np.float64), INTRINSICS, np.array([k1, 0, 0, 0]), P=INTRINSICS
    )
    where = where.reshape(HEIGHT, WIDTH, 2).astype(np.float32)
    for path in sorted((folder / 'images').iterdir()):
        picture = cv2.remap(cv2.imread(str(path)), where, None, cv2.INTER_LINEAR)
        cv2.imwrite(str(path), picture)


def _reprojection(structure, source, target):
    """Median pixels between where shared points are and where motion and depth say."""
    seen = {}
    for index in (source, target):
        there = slice(*structure.starts[index : index + 2])
        seen[index] = dict(zip(structure.point[there], range(there.start, there.stop), strict=True))
    shared = sorted(set(seen[source]) & set(seen[target]))
    a = [seen[source][p] for p in shared]
    b = [seen[target][p] for p in shared]
    rays = np.linalg.solve(structure.intrinsics, np.c_[structure.xy[a], np.ones(len(a))].T)
    motion = structure.motion(source, target)
    moved = motion[:3, :3] @ (rays * structure.depth[a]) + motion[:3, 3:]
    pixels = structure.intrinsics @ moved
    return np.median(np.linalg.norm((pixels[:2] / pixels[2]).T - structure.xy[b], axis=1))


def test_odometry_goes_before_camera_height(copied, drive):
    np.savetxt(copied / 'odometry.txt', 2 * drive[2][:, :3].reshape(FRAMES, 12)[:, :])
    poses = drive[2].copy()
    poses[:, :3, 3] *= 2
    np.savetxt(copied / 'odometry.txt', poses[:, :3].reshape(FRAMES, 12))
    report = build(job(copied))
    assert report.parts[0].source == 'odometry'
    assert report.parts[0].length == pytest.approx(0.8 * (FRAMES - 1), rel=0.05)


def test_movable_things_have_no_points(copied):
    for path in (copied / 'semantics').iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels[:, : WIDTH // 8] = 13  # a car
        labels[: HEIGHT // 8] = 10  # sky
        cv2.imwrite(str(path), labels)
    assert build(job(copied)).failure == ''
    xy = read_structure(copied).xy
    assert xy[:, 0].min() > WIDTH // 8 and xy[:, 1].min() > HEIGHT // 8 - 1


# The command goes on where it stopped


def test_what_is_there_is_not_made_again(drive, monkeypatch, capsys):
    folder = drive[0]
    before = (folder / FILE).read_bytes()
    monkeypatch.setattr(workers, 'run_apart', None)
    assert main(['structure', str(folder.parent), '--camera-height', str(CAMERA_HEIGHT)]) == 0
    assert '1 of 1 sequences reconstructed (1 before)' in capsys.readouterr().out
    assert (folder / FILE).read_bytes() == before


def test_what_changed_is_made_again(drive):
    folder = drive[0]
    same = job(folder, options=Options(threads=7))
    assert done(same) is not None, 'threads change nothing'
    assert done(replace(same, camera_height=1.6)) is None
    assert done(replace(same, options=Options(features=500))) is None


def test_a_picture_of_another_size_in_bytes_is_seen(copied, drive):
    shutil.copytree(drive[0].parent / REPORTS, copied.parent / REPORTS)
    shutil.copyfile(drive[0] / FILE, copied / FILE)
    assert done(job(copied)) is not None
    image = copied / 'images' / '0003.png'
    image.write_bytes(image.read_bytes() + b' ')
    assert done(job(copied)) is None


# What cannot be reconstructed is said and left out


def _failure(folder):
    report = build(job(folder))
    assert report.registered == 0 and not (folder / FILE).exists()
    return report.failure


def _fill(folder, make, frames=FRAMES):
    for index in range(frames):
        cv2.imwrite(str(folder / 'images' / f'{index:04d}.png'), make(index))


def test_standing_camera(copied):
    picture = cv2.imread(str(copied / 'images' / '0003.png'), 0)
    _fill(copied, lambda _: picture)
    assert 'the camera stands' in _failure(copied)


def test_camera_that_only_turns(copied):
    textures = [texture(n) for n in range(4)]

    def turned(index):
        angle = 0.04 * index
        pose = np.eye(4)
        pose[0, :3] = [np.cos(angle), 0, np.sin(angle)]
        pose[2, :3] = [-np.sin(angle), 0, np.cos(angle)]
        pose[2, 3] = 10
        return render(pose, textures)[0]

    _fill(copied, turned)
    assert 'no parallax' in _failure(copied) or 'only turns' in _failure(copied)


def test_wall_without_texture(copied):
    _fill(copied, lambda _: np.full((HEIGHT, WIDTH), 128, np.uint8))
    assert 'without texture' in _failure(copied)


def test_night(copied):
    random = np.random.default_rng(0)
    pictures = [cv2.imread(str(p), 0) for p in sorted((copied / 'images').iterdir())]
    _fill(
        copied,
        lambda i: np.clip(0.02 * pictures[i] + random.normal(3, 2, (HEIGHT, WIDTH)), 0, 255).astype(
            np.uint8
        ),
    )
    assert 'too dark' in _failure(copied)


def test_pictures_of_two_sizes(copied):
    cv2.imwrite(str(copied / 'images' / '0005.png'), np.zeros((HEIGHT, WIDTH + 8), np.uint8))
    assert 'a sequence is of one camera' in _failure(copied)


def test_damaged_picture(copied):
    path = copied / 'images' / '0005.png'
    path.write_bytes(path.read_bytes()[:200])
    assert '0005.png' in _failure(copied)


def test_labels_of_another_size(copied):
    for path in (copied / 'semantics').iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), cv2.resize(labels, None, fx=0.5, fy=0.5, interpolation=0))
    report = build(job(copied))
    assert report.failure == '' and report.parts[0].source == 'camera height'


def test_wrong_intrinsics(copied):
    np.savetxt(copied / 'intrinsics.txt', INTRINSICS * [[1.6, 1, 1], [1, 1.6, 1], [1, 1, 1]])
    failure = _failure(copied)
    assert 'from the 320 of the intrinsics' in failure and "'unknown'" in failure


def test_too_few_pictures(copied):
    for path in sorted((copied / 'images').iterdir())[5:]:
        path.unlink()
    assert 'only 5 images' in _failure(copied)


def test_unknown_intrinsics_without_out(copied):
    (copied / 'intrinsics.txt').write_text('unknown\n')
    assert '--out' in _failure(copied)


def test_a_long_drive_is_reconstructed_in_spans(tmp_path):
    folder = tmp_path / 'long'
    depth, _ = write_drive(folder, 24)
    (folder / 'intrinsics.txt').write_text('unknown\n')
    out = tmp_path / 'out'
    stages = []
    report = build(
        replace(job(folder, options=Options(span=12)), out=out / 'long', reports=out / REPORTS),
        lambda share, stage: stages.append((share, stage)),
    )
    structure = read_structure(out / 'long')
    assert report.failure == '' and structure.part.tolist() == 12 * [0] + 12 * [1]
    assert np.diff([share for share, _ in stages]).min() >= 0
    assert ('mapping 2/2' in [stage for _, stage in stages]) and stages[-1] == (1.0, 'writing')
    # The lens that the first span found serves the second, too.
    for index in (3, 20):
        points = structure.points(index)
        x, y = np.rint(points.xy).astype(int).T
        assert np.median(np.abs(points.depth / depth[index][y, x] - 1)) < 0.05


def test_a_cut_makes_two_parts(tmp_path):
    folder = tmp_path / 'cut'
    write_drive(folder, 12)
    write_drive(tmp_path / 'other', 12, seed=5)
    for kind in ('images', 'semantics'):
        for path in (tmp_path / 'other' / kind).iterdir():
            shutil.copyfile(path, folder / kind / f'1{path.name}')
    report = build(job(folder))
    structure = read_structure(folder)
    assert structure.part.tolist() == 12 * [0] + 12 * [1]
    assert structure.motion(11, 12) is None
    assert any('no points connect' in remark for remark in report.remarks)


def test_without_metres_depth_is_relative(copied):
    report = build(replace(job(copied), camera_height=None))
    structure = read_structure(copied)
    assert report.parts[0].source == 'none' and not structure.is_metric(0)
    assert np.median(structure.depth) == pytest.approx(1, rel=0.1)
    assert 'is not metric: no odometry' in ' '.join(report.remarks)


def test_a_structure_that_is_no_longer_right_goes(copied, drive):
    shutil.copyfile(drive[0] / FILE, copied / FILE)
    _fill(copied, lambda _: np.zeros((HEIGHT, WIDTH), np.uint8))
    assert _failure(copied)


def test_nothing_at_all(tmp_path, capsys):
    assert main(['structure', str(tmp_path)]) == 2
    assert 'no sequences' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (['--camera-height', '-1'], '--camera-height must be'),
        (['--features', '3'], '--features must be'),
        (['--workers', '0'], '--workers must be'),
    ],
)
def test_options_out_of_range(drive, capsys, option, message):
    assert main(['structure', str(drive[0]), *option]) == 2
    assert message in capsys.readouterr().err


# Nothing half-written


def test_full_disk_leaves_nothing(copied, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('depth_ros.evaluation.structure.write_file', full)
    out = tmp_path / 'out'
    with pytest.raises(OSError, match='No space left'):
        build(replace(job(copied), out=out / 'drive', reports=out / REPORTS))
    assert list(out.iterdir()) == [out / REPORTS] and not list((out / REPORTS).iterdir())


def test_colmap_that_dies_is_told_and_tried_again(copied, monkeypatch, capsys):
    monkeypatch.setattr(workers, 'ARGUMENTS', ['-c', 'import os; os.kill(os.getpid(), 6)'])
    assert main(['structure', str(copied.parent)]) == 2
    error = capsys.readouterr().err
    assert 'SIGABRT' in error and 'the same command goes on' in error
    assert done(job(copied)) is None and not (copied / FILE).exists()


def test_a_process_is_ended_when_all_is_stopped(copied, monkeypatch):
    import threading

    monkeypatch.setattr(workers, 'ARGUMENTS', ['-c', 'import time; time.sleep(60)'])
    stopped = threading.Event()
    threading.Timer(0.5, stopped.set).start()
    assert workers.run_apart(job(copied), stopped=stopped).error == workers.STOPPED


@pytest.mark.parametrize('what', ['cut', 'other', 'nothing'])
def test_damaged_structure_is_told(drive, tmp_path, what):
    data = (drive[0] / FILE).read_bytes()
    path = tmp_path / FILE
    path.write_bytes({'cut': data[:1000], 'other': b'text', 'nothing': b''}[what])
    with pytest.raises(StructureError, match='make it again'):
        Structure.read(path)


def test_structure_of_other_images(drive):
    with pytest.raises(StructureError, match='is of 14 images, there are 15'):
        read_structure(drive[0], 15)


def test_damaged_report_is_made_again(drive, tmp_path):
    (tmp_path / 'drive.json').write_text(json.dumps({'parts': []}))
    assert Report.load(tmp_path, 'drive') is None


def test_two_at_once(copied):
    one = job(copied)
    one.reports.mkdir(parents=True, exist_ok=True)
    with (
        locked(one.reports / f'.{one.name}.lock', 'structure'),
        pytest.raises(HeldError, match='is in use by process'),
    ):
        build(one)


def test_an_image_of_the_same_size_is_another_image(copied):
    """A replaced image is seen by its bytes."""
    before = fingerprint(job(copied))
    image = next((copied / 'images').iterdir())
    data = bytearray(image.read_bytes())
    data[-200 if len(data) < 4000 else 3000] ^= 1
    image.write_bytes(data)
    assert fingerprint(job(copied)) != before
