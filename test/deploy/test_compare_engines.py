"""Agreement of two engines: known differences give known numbers, and the right verdict."""

import json
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support import drive_recording, onnx_models
from support.tensorrt_builds import engine_file

from depth_ros.bags.writer import BagWriter
from depth_ros.commands import evaluate_bag
from depth_ros.core.se3 import rotation_from_vector, vector_from_rotation
from depth_ros.deploy import compare as compare_engines
from depth_ros.deploy.fp16 import to_fp16
from depth_ros.files import write_file
from depth_ros.inference.contract import read_contract, write_contract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.loader import installed_backends, load_engine
from depth_ros.inference.parity import (
    Agreement,
    Bounds,
    Comparison,
    DepthAgreement,
    LabelAgreement,
    PoseAgreement,
    accuracy_problems,
    check_contracts,
)
from depth_ros.inference.runtimes.tensorrt import find_gpu
from depth_ros.share import share_path

HEIGHT, WIDTH = onnx_models.HEIGHT, onnx_models.WIDTH


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    onnx_models.save_perception(folder / 'perception.onnx')
    onnx_models.save_pose(folder / 'pose.onnx')
    return folder


@pytest.fixture(scope='module')
def perception(models):
    return read_contract(models / 'perception.onnx')


@pytest.fixture(scope='module')
def pose(models):
    return read_contract(models / 'pose.onnx')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Folder of five pictures of noise, brighter from one to the next."""
    folder = tmp_path_factory.mktemp('pictures')
    rng = np.random.default_rng(0)
    for index in range(5):
        noise = rng.integers(0, 40, (90, 120, 3)) + 40 * index
        cv2.imwrite(str(folder / f'{index}.png'), noise.astype(np.uint8))
    (folder / 'notes.txt').write_text('no picture')
    return folder


@pytest.fixture(scope='module')
def recording(tmp_path_factory):
    """What the tiny networks see, with the truth 10 % farther than the depth that they say."""
    return drive_recording.write(tmp_path_factory.mktemp('recording') / 'bag', truth=True)


def changed(source, path, **factors):
    """A model with some of its constants multiplied."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(
                numpy_helper.from_array(
                    (values * factors[tensor.name]).astype(values.dtype), tensor.name
                )
            )
    onnx.save(model, path)
    return path


def outputs(depth=2.0, labels=1):
    return {
        'depth': np.full((HEIGHT, WIDTH), depth, np.float32),
        'labels': np.full((HEIGHT, WIDTH), labels, np.uint8),
    }


def run(*arguments):
    return compare_engines.main([str(a) for a in arguments])


# Numbers ------------------------------------------------------------------------------------------


def test_equal_outputs_agree(perception, pose):
    comparison = Comparison(perception)
    comparison.add(outputs(), outputs())
    found = comparison.result()
    assert found.depth == DepthAgreement(
        mean=0,
        median=pytest.approx(0, abs=1e-8),
        p95=pytest.approx(0, abs=1e-8),
        max=0,
        worst_mean=0,
        scale_jump=0,
        worst_invalid=0,
    )
    assert found.labels == LabelAgreement(share=1, worst_share=1, mean_iou=1, iou={'car': 1})
    assert found.pose is None and found.frames == 1
    assert found.problems() == []
    still = {'pose': np.zeros(6, np.float32)}
    comparison = Comparison(pose)
    comparison.add(still, still)
    assert comparison.result().pose == PoseAgreement(
        translation=0,
        worst_translation=0,
        relative=0,
        worst_relative=0,
        rotation=0,
        worst_rotation=0,
    )


def test_errors_of_depth(perception):
    """Against numpy, on errors over many orders of magnitude."""
    rng = np.random.default_rng(0)
    comparison = Comparison(perception)
    errors, scales = [], []
    for _ in range(3):
        a, b = outputs(), outputs()
        a['depth'] = rng.uniform(1, 50, (HEIGHT, WIDTH)).astype(np.float32)
        ratio = 1 + 10.0 ** rng.uniform(-4, -1, (HEIGHT, WIDTH))
        b['depth'] = (a['depth'] * ratio).astype(np.float32)
        b['depth'][:4] = rng.choice([np.nan, np.inf, 0, -1], (4, WIDTH))
        a['depth'][:2] = np.nan
        errors.append(np.abs(b['depth'] / a['depth'].astype(float) - 1)[4:])
        scales.append(np.median(1 + errors[-1]))
        comparison.add(a, b)
    found, every = comparison.result().depth, np.array(errors)
    assert found.mean == pytest.approx(every.mean())
    assert found.max == pytest.approx(every.max())
    assert found.worst_mean == pytest.approx(max(e.mean() for e in errors))
    assert found.median == pytest.approx(np.median(every), rel=0.01)
    assert found.p95 == pytest.approx(np.percentile(every, 95), rel=0.01)
    assert found.scale_jump == pytest.approx(max(scales) / min(scales) - 1)
    assert found.worst_invalid == pytest.approx(2 / HEIGHT)


def test_a_jump_of_scale_in_one_frame_is_refused(perception):
    comparison = Comparison(perception)
    for scale in (0.97, 0.97, 1.03):
        comparison.add(outputs(10), outputs(10 * scale))
    (problem,) = comparison.result().problems(Bounds(depth_error=0.05))
    assert problem == ('change of scale from frame to frame up to 6.19 %, at most 5 % is allowed')


def test_agreement_of_classes(perception):
    a, b = outputs(), outputs()
    a['labels'][: HEIGHT // 2] = 0
    a['labels'][0] = 255  # counts as a class of its own, but has no IoU
    b['labels'][: HEIGHT // 4] = 0
    b['labels'][-1] = 77  # no class
    comparison = Comparison(perception)
    comparison.add(a, b)
    comparison.add(a, a)
    found = comparison.result().labels
    wrong = 1 + HEIGHT // 4 + 1  # rows
    assert found.worst_share == pytest.approx(1 - wrong / HEIGHT)
    assert found.share == pytest.approx(1 - wrong / HEIGHT / 2)
    road = (HEIGHT // 2 - 1 + HEIGHT // 4 - 1) / (HEIGHT - 2)
    car = (HEIGHT // 2 + HEIGHT // 2 - 1) / (HEIGHT + HEIGHT // 4)
    assert found.iou == {'road': pytest.approx(road), 'car': pytest.approx(car)}
    assert found.mean_iou == pytest.approx((road + car) / 2)


def test_errors_of_motion(pose):
    rng = np.random.default_rng(0)
    comparison = Comparison(pose)
    for error, angle in ((0.01, 0.2), (0.03, 0.1)):
        turn, axis = rng.normal(size=(2, 3))
        axis *= np.radians(angle) / np.linalg.norm(axis)
        turned = vector_from_rotation(rotation_from_vector(turn) @ rotation_from_vector(axis))
        comparison.add(
            {'pose': np.array([*turn, 0, 0, 2.0])}, {'pose': np.array([*turned, 0, error, 2.0])}
        )
    found = comparison.result().pose
    assert found.translation == pytest.approx(0.02)
    assert found.worst_translation == pytest.approx(0.03)
    assert (found.relative, found.worst_relative) == pytest.approx((0.01, 0.015))
    assert (found.rotation, found.worst_rotation) == pytest.approx((0.15, 0.2))


@pytest.mark.parametrize('farthest', [6.0, 1.0])
def test_depth_beyond_the_models_range_does_not_count(tmp_path, farthest):
    """The range is in the network's unit, which is another one for a camera of another focal
    length; also images without any depth in it are fine."""
    a, b = tmp_path / 'a.onnx', tmp_path / 'b.onnx'
    onnx_models.save_perception(a, depth_range=(0.1, farthest), intrinsics=(64, 64, 31.5, 23.5))
    model = onnx.load(a)
    rows = next(tensor for tensor in model.graph.initializer if tensor.name == 'rows')
    values = numpy_helper.to_array(rows).copy()
    values[values > farthest] *= 3
    values[-1] = np.inf
    rows.CopyFrom(numpy_helper.from_array(values, 'rows'))
    onnx.save(model, b)
    recording = drive_recording.write(tmp_path / 'bag', truth=False, frames=3)
    assert run(a, b, '--images', recording) == 0
    assert run(a, changed(a, b, rows=0.9), '--images', recording) == (1 if farthest == 6 else 0)


@pytest.mark.parametrize(
    ('output', 'value', 'problem'),
    [
        ('depth', np.nan, 'no pixel has a depth in both engines'),
        ('depth', 0, 'no pixel has a depth in both engines'),
        ('labels', 255, 'engine A gives no pixel a class'),
    ],
)
def test_nothing_to_compare(perception, output, value, problem):
    a = outputs()
    a[output][:] = value
    comparison = Comparison(perception)
    with pytest.raises(EngineError, match=problem):
        comparison.add(a, outputs())
        comparison.result()
    with pytest.raises(EngineError, match='there is no image'):
        Comparison(perception).result()


def test_a_pose_that_is_no_number(pose):
    good, bad = np.zeros(6, np.float32), np.full(6, np.nan, np.float32)
    with pytest.raises(EngineError, match='engine B gives the pose .*nan'):
        Comparison(pose).add({'pose': good}, {'pose': bad})


# Bounds -------------------------------------------------------------------------------------------

DEPTH = DepthAgreement(
    mean=0.01, median=0.01, p95=0.02, max=0.1, worst_mean=0.02, scale_jump=0.01, worst_invalid=0.001
)
LABELS = LabelAgreement(share=0.99, worst_share=0.96, mean_iou=0.9, iou={})
POSE = PoseAgreement(
    translation=0.01,
    worst_translation=0.02,
    relative=0.01,
    worst_relative=0.02,
    rotation=0.01,
    worst_rotation=0.05,
)


@pytest.mark.parametrize(
    ('bound', 'allowed', 'refused', 'text'),
    [
        ('depth_error', 0.02, 0.019, 'mean relative error of depth up to 2 %'),
        ('invalid', 0.001, 0.0009, 'depth in one engine only up to 0.1 %'),
        ('label_agreement', 0.96, 0.97, 'pixels of another class up to 4 %'),
        ('translation_error', 0.02, 0.019, 'error of translation up to 2 %'),
        ('rotation_error', 0.05, 0.04, 'error of rotation up to 0.05 deg, at most 0.04 deg'),
    ],
)
def test_each_bound_is_kept(bound, allowed, refused, text):
    found = Agreement(frames=2, depth=DEPTH, labels=LABELS, pose=POSE)
    assert found.problems(replace(Bounds(), **{bound: allowed})) == []
    (problem,) = found.problems(replace(Bounds(), **{bound: refused}))
    assert text in problem


def accuracy(abs_rel=0.1, mean_iou=0.5):
    return {
        'depth': {'rows': {'median_scaled': {'abs_rel': abs_rel}}},
        'semantics': {'mean_iou': mean_iou},
    }


def test_accuracy_may_change_by_less_than_one_percent_and_one_point():
    for near in (accuracy(0.1009), accuracy(0.0991), accuracy(mean_iou=0.491)):
        assert accuracy_problems(accuracy(), near) == []
    for far, name in (
        (accuracy(0.102), 'Abs Rel'),
        (accuracy(0.098), 'Abs Rel'),
        (accuracy(np.nan), 'Abs Rel'),
        (accuracy(mean_iou=0.489), 'mean IoU'),
    ):
        (problem,) = accuracy_problems(accuracy(), far)
        assert name in problem
    nothing = {'depth': None, 'semantics': None}
    assert accuracy_problems(nothing, nothing) == []


def test_contracts_of_one_model(perception, pose):
    check_contracts(
        perception,
        replace(perception, name='other', provenance={'int8': True}, image_size=(640, 480)),
    )
    for other, what in (
        (pose, 'task'),
        (replace(perception, metric=False), 'metric'),
        (replace(perception, input_width=128), 'input_width'),
        (replace(perception, outputs=('depth',), classes=()), 'outputs'),
        (replace(perception, classes=perception.classes[:2]), 'classes'),
    ):
        with pytest.raises(EngineError, match=f"not engines of one model: '{what}'"):
            check_contracts(perception, other)


# The command --------------------------------------------------------------------------------------


def test_a_folder_of_pictures(models, pictures, tmp_path, capsys):
    for name, frames in (('perception.onnx', 5), ('pose.onnx', 4)):
        found = tmp_path / f'{name}.json'
        assert run(models / name, models / name, '--images', pictures, '--json', found) == 0
        found = json.loads(found.read_text())
        assert found['agreement']['frames'] == frames
        assert found['accepted'] and found['problems'] == []
        assert found['a']['backend'] == installed_backends()[0]
        assert 'B is accepted' in capsys.readouterr().out


def test_a_wrong_engine_is_refused(models, pictures, tmp_path, capsys):
    wrong = changed(models / 'perception.onnx', tmp_path / 'wrong.onnx', rows=1.06)
    assert run(models / 'perception.onnx', wrong, '--images', pictures) == 1
    out = capsys.readouterr().out
    assert 'B is refused: mean relative error of depth up to 6 %, at most 5 % is allowed' in out
    assert (
        run(models / 'perception.onnx', wrong, '--images', pictures, '--max-depth-error', '0.07')
        == 0
    )
    wrong = changed(models / 'pose.onnx', tmp_path / 'wrong_pose.onnx', motion=1.1)
    assert run(models / 'pose.onnx', wrong, '--images', pictures, '--frames', '2') == 1
    assert '1 pairs of images' in capsys.readouterr().out


def test_accuracy_against_truth(models, recording, tmp_path, capsys):
    """The numbers of evaluate_bag; and a B that differs little but changes Abs Rel is refused."""
    a, b, found = models / 'perception.onnx', tmp_path / 'b.onnx', tmp_path / 'found.json'
    changed(a, b, rows=1.02)
    assert run(a, b, '--images', recording, '--json', found) == 1
    found = json.loads(found.read_text())
    assert found['agreement']['depth']['mean'] == pytest.approx(0.02, abs=1e-5)
    assert [p.split(' changes')[0] for p in found['problems']] == ['Abs Rel as published']
    for name, model in (('a', a), ('b', b)):
        assert (
            evaluate_bag.main(
                [
                    str(recording),
                    '--model',
                    str(model),
                    '--no-recording',
                    '--out',
                    str(tmp_path / name),
                ]
            )
            == 0
        )
        expected = json.loads((tmp_path / name / 'metrics.json').read_text())
        for part in ('depth', 'semantics'):
            assert expected[part] and found['accuracy'][name][part] == expected[part]
    published = found['accuracy']['a']['depth']['rows']['as_published']['abs_rel']
    assert published == pytest.approx(1 - 1 / 1.1, abs=1e-3)
    assert 'Abs Rel as published' in capsys.readouterr().out


def test_depth_of_unknown_scale_and_shift(models, recording, tmp_path):
    """It is judged after both are fitted, so that another scale of all frames changes nothing."""
    source = models / 'perception.onnx'
    model = onnx.load(source)
    write_contract(model, replace(read_contract(source), metric=False, affine_invariant=True))
    a, b, found = tmp_path / 'a.onnx', tmp_path / 'b.onnx', tmp_path / 'found.json'
    onnx.save(model, a)
    changed(a, b, rows=1.04)
    assert run(a, b, '--images', recording, '--json', found) == 0
    found = json.loads(found.read_text())
    # Of inverse depth, |1/b - 1/a| over the mean of 1/a.
    assert found['agreement']['depth']['mean'] == pytest.approx(1 - 1 / 1.04, abs=1e-5)
    assert found['agreement']['depth']['scale_jump'] == pytest.approx(0, abs=1e-6)
    first, second = (found['accuracy'][name]['depth']['rows'] for name in 'ab')
    assert 'as_published' not in first and 'median_scaled' not in first
    assert first['scaled_and_shifted']['abs_rel'] == pytest.approx(
        second['scaled_and_shifted']['abs_rel'], abs=1e-6
    )


def test_trajectory_against_truth(models, tmp_path, capsys):
    """On the shipped recording, whose camera moves."""
    found = tmp_path / 'found.json'
    assert (
        run(
            models / 'pose.onnx',
            models / 'pose.onnx',
            '--images',
            share_path('demo/street'),
            '--frames',
            20,
            '--json',
            found,
        )
        == 0
    )
    found = json.loads(found.read_text())['accuracy']
    assert found['a']['trajectory'] == found['b']['trajectory']
    assert found['a']['trajectory']['poses'] == 20
    assert 'Position error after Sim(3)' in capsys.readouterr().out


def test_pairs_far_from_each_other_make_no_trajectory(models):
    engine = load_engine(models / 'pose.onnx', 'onnxruntime')
    for only, pairs, judged in ([0, 1, 50, 51, 52], 3, False), (range(5), 4, True):
        images = compare_engines.Images(path=share_path('demo/street'), only=only)
        found = compare_engines.compare(engine, engine, images)
        assert found.agreement.frames == pairs
        assert bool(found.accuracy[0]['trajectory']) == judged
        assert any('no trajectory of scattered pairs' in note for note in found.notes) != judged


@pytest.mark.parametrize('name', ['perception', 'pose'])
def test_the_shipped_models_in_half_precision_and_on_each_runtime(name, tmp_path, capsys):
    model = share_path(f'models/{name}.onnx')
    half = tmp_path / 'half.onnx'
    onnx.save(to_fp16(onnx.load(model)), half)
    images = '--images', share_path('demo/street'), '--frames', 6
    assert run(model, half, '--backend', 'onnxruntime', 'onnxruntime', *images) == 0
    assert 'against each other' not in capsys.readouterr().out
    pytest.importorskip('openvino', reason='OpenVINO is not installed')
    strict = (
        '--max-depth-error',
        1e-4,
        '--min-label-agreement',
        0.999,
        '--max-translation-error',
        1e-4,
        '--max-rotation-error',
        1e-4,
    )
    assert run(model, model, '--backend', 'onnxruntime', 'openvino', *images, *strict) == 0
    # Half precision is told from full.
    assert (
        run(
            model,
            half,
            '--backend',
            'onnxruntime',
            'onnxruntime',
            *images,
            '--max-depth-error',
            1e-4,
            '--max-translation-error',
            1e-5,
        )
        == 1
    )


def test_an_engine_beside_the_model_is_not_taken_for_the_model(models, pictures, tmp_path, machine):  # noqa: F811
    """With stand-ins for TensorRT, whose engine is of another network."""
    source = tmp_path / 'net.onnx'
    source.write_bytes((models / 'perception.onnx').read_bytes())
    engine = engine_file(source)
    found = tmp_path / 'found.json'
    options = '--images', pictures, '--json', found
    assert run(source, engine, *options) == 0
    backends = [json.loads(found.read_text())[name]['backend'] for name in 'ab']
    assert backends == [installed_backends()[0], 'tensorrt']
    engine.write_bytes(changed(source, tmp_path / 'other.onnx', rows=2).read_bytes())
    assert run(source, engine, *options) == 1
    assert json.loads(found.read_text())['agreement']['depth']['mean'] == pytest.approx(1)
    assert machine.held == {}


@pytest.mark.gpu
@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'int8'])
@pytest.mark.parametrize('name', ['perception', 'pose'])
def test_tensorrt_agrees_with_the_cpu(name, precision, tmp_path):
    from depth_ros.deploy.build import build
    from depth_ros.inference.runtimes.tensorrt import cuda_module

    try:
        find_gpu(cuda_module())
    except EngineError as error:
        pytest.skip(str(error))
    pytest.importorskip('tensorrt', reason='TensorRT is not installed')
    model, engine = share_path(f'models/{name}.onnx'), tmp_path / 'net.engine'
    build(
        model,
        engine,
        precision,
        calibration=share_path('demo/street') if precision == 'int8' else None,
    )
    assert run(model, engine, '--images', share_path('demo/street'), '--frames', 20) == 0


# What cannot be compared --------------------------------------------------------------------------


def test_bad_input_is_told(models, pictures, tmp_path, capsys):
    perception, pose = models / 'perception.onnx', models / 'pose.onnx'
    empty = tmp_path / 'empty'
    empty.mkdir()
    for arguments, text in (
        ((perception, pose, '--images', pictures), 'not engines of one model'),
        ((perception, tmp_path / 'no.onnx', '--images', pictures), 'does not exist'),
        ((perception, tmp_path / 'no.engine', '--images', pictures), 'does not exist'),
        ((perception, perception, '--images', tmp_path / 'no'), 'does not exist'),
        ((perception, perception, '--images', empty), 'has no image'),
        ((pose, pose, '--images', pictures, '--frames', 1), 'no pair of consecutive images'),
        (
            (perception, perception, '--images', pictures, '--json', empty / 'no' / 'f.json'),
            "no' does not exist; make it",
        ),
        ((perception, perception, '--images', pictures, '--json', empty), 'is a folder'),
    ):
        assert run(*arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith('compare_engines: ') and text in error, error


def test_what_reads_recordings_is_asked_for(models, pictures, recording):
    """In one line, and not for a folder of images."""
    model = str(models / 'perception.onnx')
    for images, missing in (recording, 'lz4'), (recording, 'rosbags'), (pictures, 'rosbags'):
        code = (
            f'import sys; sys.modules[{missing!r}] = None; '
            'from depth_ros import compare_engines; sys.exit(compare_engines.main())'
        )
        found = subprocess.run(
            [sys.executable, '-c', code, model, model, '--images', str(images)],
            text=True,
            capture_output=True,
        )
        if images == pictures:
            assert found.returncode == 0, found.stderr
        else:
            (line,) = found.stderr.strip().splitlines()
            assert found.returncode == 2 and line.startswith('compare_engines: recordings need')
            assert missing in line and line.endswith(': pip install rosbags lz4')


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / 'folder').mkdir()
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path / 'folder', 'text')
    assert [path.name for path in tmp_path.iterdir()] == ['folder']


def test_images_that_cannot_be_read_are_left_out(models, pictures, tmp_path, capsys):
    for picture in pictures.glob('*.png'):
        (tmp_path / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / '2.png').write_bytes(b'no picture')
    model = models / 'perception.onnx'
    assert run(model, model, '--images', tmp_path) == 0
    out = capsys.readouterr().out
    assert '4 images of' in out and "2.png' cannot be read as an image (1 times)" in out
    for path in tmp_path.glob('*.png'):
        path.write_bytes(b'no picture')
    assert run(model, model, '--images', tmp_path) == 2
    assert 'cannot be read as an image' in capsys.readouterr().err


def test_a_recording_without_truth(models, tmp_path, capsys):
    recording = drive_recording.write(tmp_path / 'bag', truth=False, frames=3)
    model = models / 'perception.onnx'
    assert run(model, model, '--images', recording) == 0
    out = capsys.readouterr().out
    assert 'no ground truth' in out and 'Against ground truth' not in out


def test_a_recording_without_images(models, tmp_path, capsys):
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write('/cam/camera_info', 'sensor_msgs/msg/CameraInfo', 1, drive_recording.info(1))
    model = models / 'perception.onnx'
    assert run(model, model, '--images', tmp_path / 'bag') == 2
    assert 'image' in capsys.readouterr().err
