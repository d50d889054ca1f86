"""compare_engines: two engines on the same images, compared with each other and with the truth."""

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
from depth_ros.commands import compare_engines, evaluate_bag
from depth_ros.deploy.compare import compare
from depth_ros.deploy.fp16 import to_fp16
from depth_ros.deploy.image_source import Images
from depth_ros.files import write_file
from depth_ros.inference.contract import read_contract, write_contract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.loader import installed_backends, load_engine
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


def run(*arguments):
    return compare_engines.main([str(a) for a in arguments])


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


# The command --------------------------------------------------------------------------------------


def test_a_folder_of_pictures(models, pictures, tmp_path, capsys):
    for name, frames in (('perception.onnx', 5), ('pose.onnx', 4)):
        found = tmp_path / f'{name}.json'
        assert run(models / name, models / name, '--images', pictures, '--json', found) == 0
        found = json.loads(found.read_text())
        assert found['parity']['frames'] == frames
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


@pytest.mark.slow
def test_accuracy_against_truth(models, recording, tmp_path, capsys):
    """The numbers of evaluate_bag; and a B that differs little but changes Abs Rel is refused."""
    a, b, found = models / 'perception.onnx', tmp_path / 'b.onnx', tmp_path / 'found.json'
    changed(a, b, rows=1.02)
    assert run(a, b, '--images', recording, '--json', found) == 1
    found = json.loads(found.read_text())
    assert found['parity']['depth']['mean'] == pytest.approx(0.02, abs=1e-5)
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
        # The model's range, of which a comparison of two engines has nothing to say.
        assert expected['depth'].pop('out_of_range_percent') >= 0
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
    assert found['parity']['depth']['mean'] == pytest.approx(1 - 1 / 1.04, abs=1e-5)
    assert found['parity']['depth']['scale_jump'] == pytest.approx(0, abs=1e-6)
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
        images = Images(path=share_path('demo/street'), only=only)
        found = compare(engine, engine, images)
        assert found.parity.frames == pairs
        assert bool(found.accuracy[0]['trajectory']) == judged
        assert any('no trajectory of scattered pairs' in note for note in found.notes) != judged


@pytest.mark.slow
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


def test_an_engine_beside_the_model_is_not_taken_for_the_model(models, pictures, tmp_path, machine):
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
    assert json.loads(found.read_text())['parity']['depth']['mean'] == pytest.approx(1)
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


@pytest.mark.slow
def test_what_reads_recordings_is_asked_for(models, pictures, recording):
    """In one line, and not for a folder of images."""
    model = str(models / 'perception.onnx')
    for images, missing in (recording, 'lz4'), (recording, 'rosbags'), (pictures, 'rosbags'):
        code = (
            f'import sys; sys.modules[{missing!r}] = None; '
            'from depth_ros.commands import compare_engines; sys.exit(compare_engines.main())'
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
