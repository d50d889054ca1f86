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
from support.drive_recording import HEIGHT, WIDTH
from support.evaluating import PERIOD, evaluate, read, street

from depth_ros.bags.reader import Bag
from depth_ros.commands import evaluate_bag
from depth_ros.core.camera import ImageFit, Intrinsics
from depth_ros.core.images import decode_depth
from depth_ros.inference.contract import read_contract
from depth_ros.inference.loader import load_engine
from depth_ros.inference.model_files import chosen_models

pytestmark = pytest.mark.slow  # whole evaluations

FRAMES = 24


@pytest.fixture(scope='module')
def shipped():
    return chosen_models(None)


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
    evaluate(folder / 'bag', '--out', folder / 'out', '--refinement', 'none')
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
    for name in ('one', 'two'):  # with the corners of the odometry, too
        evaluate(walk / 'bag', '--out', tmp_path / name, '--no-recording')
    first, second = read(tmp_path / 'one'), read(tmp_path / 'two')
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
        'nothing was seen; the last velocity was kept': 2,
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
