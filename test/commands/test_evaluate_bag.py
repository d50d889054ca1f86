"""``evaluate_bag`` from the command line, offline: its numbers are those of every other way."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import onnx_models
from support.bag_messages import compressed, header, image
from support.drive_recording import HEIGHT, WIDTH, info

from depth_ros.bags.messages import CAMERA_INFO, IMAGE
from depth_ros.bags.reader import Bag
from depth_ros.bags.writer import BagWriter
from depth_ros.commands import evaluate_bag
from depth_ros.core.camera import ImageFit, Intrinsics
from depth_ros.core.images import decode_depth
from depth_ros.evaluation import batch
from depth_ros.inference.contract import read_contract
from depth_ros.inference.loader import load_engine
from depth_ros.inference.model_files import chosen_models

FRAMES = 24
PERIOD = 10**8


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """Folder with tiny networks whose outputs are known."""
    folder = tmp_path_factory.mktemp('models')
    onnx_models.save_perception(folder / 'perception.onnx')
    onnx_models.save_pose(folder / 'pose.onnx')
    return folder


@pytest.fixture(scope='module')
def shipped():
    return chosen_models(None)


def evaluate(*options) -> None:
    assert evaluate_bag.main([str(o) for o in options]) == 0


def read(out: Path) -> dict:
    return json.loads((out / 'metrics.json').read_text())


def street(path: Path, *, stamps=None, spoil=lambda index, message: message, storage='mcap'):
    """A recording of noise; `spoil` may change the message of an image or drop it (None)."""
    rng = np.random.default_rng(0)
    with BagWriter(path, storage) as writer:
        for index, stamp in enumerate(stamps or range(PERIOD, 11 * PERIOD, PERIOD)):
            log = (index + 1) * PERIOD
            picture = image(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8), 'rgb8', stamp)
            picture = spoil(index, picture)
            writer.write('/cam/camera_info', CAMERA_INFO, log, info(stamp))
            if picture is not None:
                writer.write('/cam/image', IMAGE, log, picture)
    return path


# The same numbers


@pytest.fixture(scope='module')
def walk(data_dir, tmp_path_factory):
    """Some frames of a real indoor walk as a folder and as a recording, and their evaluation."""
    from train.__main__ import main as train

    source, folder = data_dir / 'indoor_handheld', tmp_path_factory.mktemp('walk')
    names = sorted(p.stem for p in (source / 'images').iterdir())[:FRAMES]
    for kind, suffix in (('images', '.jpg'), ('depth', '.png')):
        (folder / 'walk' / kind).mkdir(parents=True)
        for name in names:
            shutil.copy(source / kind / f'{name}{suffix}', folder / 'walk' / kind)
    shutil.copy(source / 'K.txt', folder / 'walk')
    poses = (source / 'poses.txt').read_text().splitlines()
    (folder / 'walk/poses.txt').write_text('\n'.join(poses[:FRAMES]) + '\n')
    assert not train(['make_bag', str(folder / 'walk'), str(folder / 'bag')])
    evaluate(folder / 'bag', '--out', folder / 'out')
    return folder


def test_the_same_as_train_evaluate(walk, shipped):
    from train.__main__ import main as train

    models = [str(path) for path in shipped.values()]
    assert not train(
        [
            'evaluate',
            str(walk / 'walk'),
            '--model',
            str(Path(models[0]).parent),
            '--json',
            str(walk / 'train.json'),
        ]
    )
    ours, theirs = read(walk / 'out'), json.loads((walk / 'train.json').read_text())
    rows = theirs['depth']
    compared = [name for name in ours['depth']['rows'] if name in rows]
    assert {'median_scaled', 'as_published', 'median_scaled_50m', '0_to_10m'} <= set(compared)
    for name in compared:
        assert ours['depth']['rows'][name] == pytest.approx(rows[name], rel=1e-6, abs=1e-6)
    for name in ('scale_median', 'scale_spread'):
        assert ours['depth'][name] == pytest.approx(rows[name], abs=1e-6)
    (trajectory,) = theirs['trajectories'].values()
    for name in (
        'length',
        'scale',
        'ate_se3',
        'ate_sim3',
        'ate_scale',
        'rpe_se3',
        'rpe_sim3',
        'rpe_rotation_deg',
    ):
        assert ours['trajectory'][name] == pytest.approx(trajectory[name], abs=1e-6)


def test_the_same_as_a_few_lines_of_numpy(walk, shipped):
    model = shipped['perception_node']
    engine, contract = load_engine(model), read_contract(model)
    k = np.loadtxt(walk / 'walk/K.txt')
    errors = []
    for path in sorted((walk / 'walk/images').iterdir()):
        rgb = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        height, width = rgb.shape[:2]
        fit = ImageFit.create(
            Intrinsics(k[0, 0], k[1, 1], k[0, 2], k[1, 2], width, height),
            Intrinsics(*contract.intrinsics, contract.input_width, contract.input_height),
            'auto',
        )
        assert fit.height < height  # 3:2 is cropped, and truth with it
        small = np.empty((1, contract.input_height, contract.input_width, 3), np.uint8)
        fit.to_network(rgb, small[0])
        disparity = cv2.resize(1 / engine.infer({'image': small})['depth'], (fit.width, fit.height))
        g = cv2.imread(str(walk / 'walk/depth' / f'{path.stem}.png'), cv2.IMREAD_UNCHANGED) / 1e3
        g = g[fit.y : fit.y + fit.height, fit.x : fit.x + fit.width]
        known = (g > 1e-3) & (g < 80)
        d, g = 1 / disparity[known], g[known]
        d = np.clip(d * np.median(g) / np.median(d), 1e-3, 80)
        errors.append(
            (
                np.mean(abs(d - g) / g),
                np.sqrt(np.mean((d - g) ** 2)),
                np.mean(np.maximum(d / g, g / d) < 1.25),
            )
        )
    abs_rel, rmse, a1 = np.mean(errors, axis=0)
    row = read(walk / 'out')['depth']['rows']['median_scaled']
    assert (row['abs_rel'], row['rmse'], row['a1']) == pytest.approx((abs_rel, rmse, a1), abs=1e-6)


def test_protocols_of_papers(walk, tmp_path):
    """--cap and --crop are those of train evaluate."""
    from train.__main__ import main as train

    options = ['--cap', '3', '2', '--crop', 'garg']
    json_file = str(tmp_path / 'train.json')
    assert not train(['evaluate', str(walk / 'walk'), '--json', json_file, *options])
    evaluate(walk / 'bag', '--out', tmp_path / 'out', '--no-recording', *options)
    ours, theirs = read(tmp_path / 'out'), json.loads(Path(json_file).read_text())['depth']
    for name in ('median_scaled', 'median_scaled_2m'):
        assert ours['depth']['rows'][name] == pytest.approx(theirs[name], rel=1e-5)
    whole = read(walk / 'out')['depth']['rows']['median_scaled']
    assert ours['depth']['rows']['median_scaled'] != pytest.approx(whole, rel=1e-3)
    assert ours['settings']['caps'] == [3, 2] and ours['settings']['crop'] == 'garg'


@pytest.mark.parametrize('option, number', [('-a', 'ate_se3'), ('-as', 'ate_sim3')])
def test_the_same_as_evos_own_command(walk, option, number):
    evo = Path(sys.executable).with_name('evo_ape')
    command = [evo, 'tum', 'truth.tum', 'estimate.tum', option]
    done = subprocess.run(command, cwd=walk / 'out/trajectory', capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rmse = next(
        line.split()[1] for line in done.stdout.splitlines() if line.strip().startswith('rmse')
    )
    assert read(walk / 'out')['trajectory'][number] == pytest.approx(float(rmse), abs=2e-6)


def test_the_same_semantics_as_train_evaluate(data_dir, shipped, tmp_path):
    from train.__main__ import main as train

    source, folder = data_dir / 'camvid/val', tmp_path / 'camvid'
    for kind, target in (('images', 'images'), ('labels', 'semantics')):
        (folder / target).mkdir(parents=True)
        for path in sorted((source / kind).iterdir())[:10]:
            shutil.copy(path, folder / target)
    np.savetxt(folder / 'intrinsics.txt', [[400, 0, 240], [0, 400, 180], [0, 0, 1]])
    assert not train(['make_bag', str(folder), str(tmp_path / 'bag')])
    evaluate(
        tmp_path / 'bag',
        '--out',
        tmp_path / 'out',
        '--classes',
        'camvid',
        '--model',
        shipped['perception_node'],
        '--no-recording',
    )
    assert not train(
        [
            'evaluate',
            str(folder),
            '--model',
            str(shipped['perception_node']),
            '--classes',
            'camvid',
            '--json',
            str(tmp_path / 'train.json'),
        ]
    )
    ours = read(tmp_path / 'out')['semantics']
    theirs = json.loads((tmp_path / 'train.json').read_text())['semantics']
    assert ours['frames'] == theirs['images'] == 10
    assert ours['iou'] == pytest.approx(theirs['iou'], abs=1e-6)
    assert ours['mean_iou'] == pytest.approx(theirs['mean_iou'], abs=1e-6)


def test_the_same_every_time(walk, tmp_path):
    evaluate(walk / 'bag', '--out', tmp_path / 'out')
    first, second = read(walk / 'out'), read(tmp_path / 'out')
    for part in ('frames', 'depth', 'semantics', 'trajectory', 'consistency', 'timing', 'notes'):
        assert first[part] == second[part]


# What is left behind


def test_the_recording_holds_everything_side_by_side(walk):
    with Bag(walk / 'out/recording') as bag:
        counts = {name: topic.count for name, topic in bag.topics.items()}
        depth = decode_depth(bag.first('/depth/image_rect'))
    for name in (
        '/camera/image_rect/compressed',
        '/camera/camera_info',
        '/depth/image_rect',
        '/depth/camera_info',
        '/depth/color/compressed',
        '/depth/error/compressed',
        '/semantics/labels',
        '/semantics/color/compressed',
        '/odom',
        '/tf',
        '/ground_truth/odom',
    ):
        assert counts[name] == FRAMES, name
    assert counts['/tf_static'] == 1 and np.isfinite(depth).mean() > 0.5


def test_the_table_has_a_row_for_each_frame(walk):
    with (walk / 'out/frames.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == FRAMES and float(rows[0]['abs_rel']) > 0
    assert rows[0]['photometric'] == '' and float(rows[1]['photometric']) > 0  # a pair, from two on
    found = read(walk / 'out')
    mean = np.mean([float(row['abs_rel']) for row in rows])
    assert found['depth']['rows']['median_scaled']['abs_rel'] == pytest.approx(mean)
    assert (walk / 'out/report.html').stat().st_size > 10_000
    estimate = np.loadtxt(walk / 'out/trajectory/estimate.kitti')
    assert estimate.shape == (FRAMES, 12)


# What goes wrong


def test_damaged_images_are_counted_and_the_rest_is_judged(tiny, tmp_path, capsys):
    def spoil(index, message):
        if index == 2:
            message.data = message.data[:0]
        if index == 5:
            message.encoding = 'what8'
        if index == 7:  # another view: its camera_info does not fit
            message.height, message.data = HEIGHT // 2, message.data[: HEIGHT // 2 * 3 * WIDTH]
        return message

    evaluate(street(tmp_path / 'bag', spoil=spoil), '--model', tiny, '--out', tmp_path / 'out')
    frames = read(tmp_path / 'out')['frames']
    assert (frames['recorded'], frames['judged']) == (10, 7)
    assert sum(frames['skipped'].values()) == 3
    said = ' '.join(frames['skipped'])
    assert 'truncated' in said and "'what8'" in said and 'not the same view' in said
    assert capsys.readouterr().out.count('Skipped') == 3


def test_clocks_that_jump_and_gaps_are_reported(tiny, tmp_path):
    stamps = [PERIOD * n for n in (10, 11, 12, 12, 20, 21, 22, 5, 6, 7)]
    evaluate(
        street(tmp_path / 'bag', stamps=stamps),
        '--model',
        tiny,
        '--out',
        tmp_path / 'out',
        '--max-gap',
        '0.5',
    )
    found = read(tmp_path / 'out')
    timing = found['timing']
    assert timing['clock_jumps'] == 1 and timing['duplicate_stamps'] == 1
    assert timing['gaps'] == [[pytest.approx(0.2), pytest.approx(0.8)]]
    assert found['odometry']['missed'] == {
        'an image has the stamp of the one before': 1,
        'a gap is over max_gap': 1,
        'the clock went back': 1,
    }


def test_what_a_crash_left_is_judged_and_said(tiny, tmp_path):
    whole = street(tmp_path / 'whole') / 'whole.mcap'
    cut = tmp_path / 'cut.mcap'
    cut.write_bytes(whole.read_bytes()[: -whole.stat().st_size // 3])
    evaluate(cut, '--model', tiny, '--out', tmp_path / 'out')
    found = read(tmp_path / 'out')
    assert 0 < found['frames']['judged'] < 10 and 'mcap' in ' '.join(found['notes'])


@pytest.mark.parametrize(
    'options, message',
    [
        (['nothing'], 'nothing does not exist'),
        (['empty.mcap'], 'empty.mcap'),
        (['bag', '--image', '/cam/imag'], 'did you mean /cam/image?'),
        (['bag', '--model', 'no.onnx'], 'no.onnx'),
        (['bag', '--classes', 'no.yaml'], 'no.yaml'),
        (['bag', '--odom-gt', 'tf:odom>base'], 'no transforms'),
        (['bag', '--out', 'bag'], 'lies in the output folder'),
        (['bag', '--out', 'empty.mcap/out'], 'Not a directory: '),
        (['--compare', 'bag'], 'bag'),
    ],
)
def test_bad_input_ends_with_one_line(tiny, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    street(tmp_path / 'bag')
    (tmp_path / 'empty.mcap').touch()
    model = [] if '--model' in options or '--compare' in options else ['--model', str(tiny)]
    assert evaluate_bag.main([*options, *model]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1 and 'Traceback' not in error
    assert not list(tmp_path.rglob('metrics.json'))


def test_no_usable_image_is_an_error_with_the_reasons(tiny, tmp_path, capsys):
    def spoil(index, message):
        message.encoding = 'what8'
        return message

    bag = street(tmp_path / 'bag', spoil=spoil)
    assert evaluate_bag.main([str(bag), '--model', str(tiny), '--out', str(tmp_path / 'o')]) == 1
    assert "'what8'" in capsys.readouterr().err
    assert not (tmp_path / 'o/recording').exists() and not (tmp_path / 'o/metrics.json').exists()


@pytest.mark.slow
def test_an_interrupt_keeps_what_has_been_judged(tiny, tmp_path):
    bag = street(tmp_path / 'bag', stamps=range(PERIOD, 2001 * PERIOD, PERIOD))
    out = tmp_path / 'out'
    process = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'depth_ros.commands.evaluate_bag',
            str(bag),
            '--model',
            str(tiny),
            '--out',
            str(out),
        ],
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores interrupts, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        while not any(out.glob('.recording*/recording/*')):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and 'interrupted' in errors and 'Traceback' not in errors
    found = read(out)
    judged = found['frames']['judged']
    assert 0 < judged < 2000 and f'only {judged} of 2000' in ' '.join(found['notes'])
    with Bag(out / 'recording') as written:
        # It may come between counting a frame and writing it.
        assert abs(written.topics['/depth/image_rect'].count - judged) <= 1
    assert (out / 'report.html').is_file()


# Several recordings


def check_several(out: Path, error: str) -> None:
    assert read(out / 'one')['frames']['judged'] == read(out / 'two')['frames']['judged'] == 10
    assert 'does not exist' in json.loads((out / 'failed.json').read_text())[error]
    assert 'one' in (out / 'comparison.html').read_text()
    assert (out / 'comparison.json').is_file()


@pytest.mark.slow
def test_several_recordings_in_processes_and_one_that_fails(tiny, tmp_path, capsys):
    bags = [
        street(tmp_path / 'one'),
        tmp_path / 'missing',
        street(tmp_path / 'two', storage='sqlite3'),
    ]
    out = tmp_path / 'out'
    assert (
        evaluate_bag.main([*map(str, bags), '--model', str(tiny), '--out', str(out), '--jobs', '2'])
        == 1
    )
    printed = capsys.readouterr()
    assert '2 of 3 recordings evaluated' in printed.err
    check_several(out, str(bags[1]))
    evaluate('--compare', out / 'one', out / 'two', '--out', tmp_path / 'both')
    assert (tmp_path / 'both/comparison.html').is_file()


@pytest.mark.slow
def test_of_two_recordings_one_is_bad(tiny, tmp_path, capsys):
    bags = [street(tmp_path / 'one'), tmp_path / 'dangling']
    bags[1].mkdir()
    (bags[1] / 'x_0.mcap').symlink_to(tmp_path / 'nowhere.mcap')
    out = tmp_path / 'out'
    assert evaluate_bag.main([*map(str, bags), '--model', str(tiny), '--out', str(out)]) == 1
    printed = capsys.readouterr()
    assert '10 in, 10 out' in printed.out and str(out / 'one/report.html') in printed.out
    assert printed.err.splitlines()[-1] == '1 of 2 recordings evaluated'
    assert 'it/s' not in printed.err and 'recording/s' not in printed.err  # no bar in a pipe
    assert 'Traceback' not in printed.err
    assert 'x_0.mcap' in json.loads((out / 'failed.json').read_text())[str(bags[1])]


def test_nothing_stops_the_other_recordings(monkeypatch):
    errors = iter([OSError(28, 'No space left on device', 'out/x'), KeyError('x')])

    def fail(*_, **__):
        raise next(errors)

    monkeypatch.setattr(batch, 'evaluate_recording', fail)
    assert batch._attempt(None) == 'No space left on device: out/x'
    assert batch._attempt(None) == "internal error: KeyError: 'x'"


@pytest.mark.slow
def test_several_recordings_on_a_cluster(tiny, tmp_path):
    distributed = pytest.importorskip('distributed', reason='Dask is not installed')
    bags = [street(tmp_path / 'one'), tmp_path / 'missing', street(tmp_path / 'two')]
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        status = evaluate_bag.main(
            [
                *map(str, bags),
                '--model',
                str(tiny),
                '--out',
                str(tmp_path / 'out'),
                '--cluster',
                cluster.scheduler_address,
            ]
        )
    assert status == 1
    check_several(tmp_path / 'out', str(bags[1]))


def test_compressed_images_are_read_too(tiny, tmp_path):
    with BagWriter(tmp_path / 'bag') as writer:
        for index in range(3):
            stamp = (index + 1) * PERIOD
            picture = compressed(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), '.jpg', 'jpeg')
            picture.header.stamp = header(stamp).stamp
            writer.write('/cam/image/compressed', picture.__msgtype__, stamp, picture)
            writer.write('/cam/camera_info', CAMERA_INFO, stamp, info(stamp))
    evaluate(tmp_path / 'bag', '--model', tiny / 'perception.onnx', '--out', tmp_path / 'out')
    assert read(tmp_path / 'out')['frames']['judged'] == 3


# The camera


def test_images_are_rectified_as_for_a_training(tiny, tmp_path):
    """Raw images with D give the numbers of images that were rectified before."""
    distortion = np.array([-0.3, 0.1, 0, 0, 0])

    def recorded(name, rectify, d):
        rng = np.random.default_rng(0)
        with BagWriter(tmp_path / name) as writer:
            for i in range(6):
                stamp = (i + 1) * PERIOD
                calibration = info(stamp)
                matrix = calibration.p.reshape(3, 4)[:, :3].copy()
                calibration.k, calibration.d = matrix.ravel(), d
                blocks = rng.integers(0, 255, (6, 8, 3), np.uint8)
                pixels = cv2.resize(blocks, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
                if rectify:
                    pixels = cv2.undistort(pixels, matrix, distortion, None, matrix)
                writer.write('/cam/camera_info', CAMERA_INFO, stamp, calibration)
                writer.write('/cam/image', IMAGE, stamp, image(pixels, 'rgb8', stamp))
        return tmp_path / name

    def judged(bag, *options):
        out = tmp_path / f'out{len(list(tmp_path.iterdir()))}'
        evaluate(bag, '--model', tiny, '--out', out, *options)
        found = read(out)
        numbers = found['consistency']['photometric'], found['consistency']['inconsistency']
        return pytest.approx(numbers, rel=1e-3), numbers, found['notes']

    raw, before = recorded('raw', False, distortion), recorded('flat', True, np.zeros(5))
    wanted, _, notes = judged(before)
    assert not any('rectified' in note for note in notes)
    _, found, notes = judged(raw, '--rectified', 'no')
    assert found == wanted
    assert any('not rectified (as told): they are rectified here' in note for note in notes)
    _, found, notes = judged(raw, '--rectified', 'yes')
    assert found != wanted and not any('rectified' in note for note in notes)


def test_calibrations_of_zeros_at_first(tiny, tmp_path):
    with BagWriter(tmp_path / 'bag') as writer:
        for i in range(12):
            stamp, calibration = (i + 1) * PERIOD, info((i + 1) * PERIOD)
            if i < 3:
                calibration.k, calibration.p = np.zeros(9), np.zeros(12)
            pixels = np.full((HEIGHT, WIDTH, 3), 9 * i, np.uint8)
            writer.write('/cam/camera_info', CAMERA_INFO, stamp, calibration)
            writer.write('/cam/image', IMAGE, stamp, image(pixels, 'rgb8', stamp))
    evaluate(tmp_path / 'bag', '--model', tiny, '--out', tmp_path / 'out', '--no-recording')
    assert read(tmp_path / 'out')['frames'] == {'recorded': 12, 'judged': 12, 'skipped': {}}
