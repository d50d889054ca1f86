"""Int8: the shipped networks within bounds for every runtime, refusals, and what TensorRT takes."""

import shutil
import subprocess
import sys
import threading
from dataclasses import fields

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.bag_messages import camera_info, image
from support.onnx_models import save_perception
from support.quantizable import HEIGHT, WIDTH, save_network, write_pictures
from support.tensorrt_builds import RTX_WARNINGS, build_here

from depth_ros.bags.messages import header_stamp
from depth_ros.bags.writer import BagWriter
from depth_ros.commands import build_engine
from depth_ros.commands import quantize as quantize_command
from depth_ros.commands.quantize import RUNTIMES
from depth_ros.deploy import build as engine_build
from depth_ros.deploy import quantize as quantizing
from depth_ros.deploy.onnx_graph import check_operators, is_quantized
from depth_ros.deploy.quantization_plan import QuantizationPlan
from depth_ros.deploy.quantize import quantize
from depth_ros.evaluation import runner
from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.engine_file import read_record
from depth_ros.inference.loader import installed_backends, load_engine
from depth_ros.inference.parity_measures import Bounds
from depth_ros.inference.runtimes.onnxruntime import OnnxRuntimeEngine

LOOSE = Bounds(depth_error=1, label_agreement=0.01, translation_error=10, rotation_error=90)


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp('network') / 'net.onnx')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp('pictures') / 'some', 12, 0)


def constants(model):
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def inputs_of(model, kind):
    """For each node of a kind, the makers of its inputs."""
    makers = {name: node for node in model.graph.node for name in node.output}
    return [
        [makers.get(name) for name in node.input]
        for node in model.graph.node
        if node.op_type == kind
    ]


@pytest.mark.parametrize('runtime', RUNTIMES)
def test_a_small_network_for_each_runtime(network, pictures, capsys, runtime):
    model = quantize(network, pictures, runtime=runtime, scope='all')
    assert 'held-out images' in capsys.readouterr().out
    values = constants(model)
    for node in model.graph.node:
        if node.op_type == 'QuantizeLinear':
            zero = values[node.input[2]]
            assert zero.dtype == (np.int8 if runtime == 'tensorrt' else np.uint8)
            assert runtime != 'tensorrt' or zero == 0
    assert len(inputs_of(model, 'Conv')) == 6
    for makers in inputs_of(model, 'Conv'):
        assert makers[1].op_type == 'DequantizeLinear'
        steps, scales = (values[name] for name in makers[1].input[:2])
        assert steps.dtype == np.int8 and scales.shape == steps.shape[:1]
        assert np.abs(steps.astype(int)).max() == 127
        # ONNX Runtime has int8 kernels for quantised biases only, TensorRT takes none.
        assert (makers[2] is not None) == (runtime == 'onnxruntime')
    # What is joined has one scale.
    scales = {
        node.output[0]: float(values[node.input[1]])
        for node in model.graph.node
        if node.op_type == 'DequantizeLinear'
        and node.output[0] in ('features/dequantized', 'skip/dequantized')
    }
    assert len(scales) == 2 and len(set(scales.values())) == 1


@pytest.mark.parametrize('runtime', RUNTIMES)
def test_numbers_are_close_to_the_original(tmp_path, network, pictures, runtime):
    path = tmp_path / 'net.onnx'
    onnx.save(quantize(network, pictures, runtime=runtime, scope='all'), path)
    assert read_contract(path) == read_contract(network)
    picture = cv2.cvtColor(cv2.imread(str(pictures / '000.png')), cv2.COLOR_BGR2RGB)[None]
    # OpenVINO has no exact kernels for signed activations.
    for backend in ('onnxruntime',) if runtime == 'tensorrt' else installed_backends():
        expected, found = (
            {
                name: value.copy()
                for name, value in load_engine(p, backend).infer({'image': picture}).items()
            }
            for p in (network, path)
        )
        np.testing.assert_allclose(found['depth'], expected['depth'], rtol=0.05)
        assert not np.array_equal(found['depth'], expected['depth'])
        assert (found['labels'] == expected['labels']).mean() > 0.95


def test_for_openvino_nothing_is_between_convolution_activation_and_quantisation(network, pictures):
    model = quantize(network, pictures, runtime='openvino')
    for name in ('Elu', 'Relu'):
        assert all(makers[0].op_type in ('Conv', 'Add') for makers in inputs_of(model, name))
    # Values are quantised where they arise: the padding moves bytes.
    assert [makers[0].op_type for makers in inputs_of(model, 'Pad')] == ['Concat']


def test_encoder_is_what_comes_before_the_first_enlargement(network, pictures):
    model = quantize(network, pictures, runtime='tensorrt')
    quantized = [
        node.output[0]
        for node, makers in zip(
            (n for n in model.graph.node if n.op_type == 'Conv'),
            inputs_of(model, 'Conv'),
            strict=True,
        )
        if makers[1] is not None
    ]
    assert quantized == ['first', 'strided', 'grouped']


def test_the_rounding_of_weights_leaves_the_mean_alone(tmp_path, network, pictures):
    """The mean of the first convolution's output, by channel, is that of the original."""
    means = []
    picture = cv2.cvtColor(cv2.imread(str(pictures / '011.png')), cv2.COLOR_BGR2RGB)[None]
    model = quantize(network, pictures, calibration_images=1, runtime='openvino', bounds=LOOSE)
    without = onnx.ModelProto()
    without.CopyFrom(model)
    original = onnx.load(network)
    bias = constants(original)['first_bias']
    for item in without.graph.initializer:
        if item.name == 'first/bias':
            item.CopyFrom(numpy_helper.from_array(bias, item.name))
    import onnxruntime

    for each in (original, model, without):
        each.graph.output.append(helper.make_tensor_value_info('first', TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(each.SerializeToString())
        means.append(session.run(['first'], {'image': picture})[0][:, :, 1:-1, 1:-1].mean((2, 3)))
    assert np.abs(means[1] - means[0]).mean() < 0.7 * np.abs(means[2] - means[0]).mean()


def test_what_is_worse_is_refused_and_nothing_is_written(tmp_path, network, pictures, capsys):
    command = [str(network), '--calibration', str(pictures), '--output', str(tmp_path / 'a.onnx')]
    assert quantize_command.main([*command, '--depth-error', '1e-6']) == 1
    assert 'is refused: mean relative error of depth up to' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert quantize_command.main(command) == 0
    assert f'wrote {tmp_path / "a.onnx"}' in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ['a.onnx']
    assert is_quantized(onnx.load(tmp_path / 'a.onnx'))


def test_every_bound_can_be_raised(monkeypatch, tmp_path):
    """Also that of pixels with a depth in one of both only, for which a file can be refused."""
    asked = []
    monkeypatch.setattr(
        quantizing,
        'quantize',
        lambda *_, bounds, **__: (asked.append(bounds), onnx.ModelProto())[1],
    )
    names = [item.name for item in fields(Bounds)]
    network = tmp_path / 'net.onnx'
    network.touch()
    assert (
        quantize_command.main(
            [
                str(network),
                '--calibration',
                'bag',
                *(f'--{name.replace("_", "-")}=0.{i}' for i, name in enumerate(names, 1)),
            ]
        )
        == 0
    )
    assert asked == [Bounds(**{name: float(f'0.{i}') for i, name in enumerate(names, 1)})]


def test_constants_of_branches_stay():
    value = helper.make_tensor_value_info
    branches = {
        f'{name}_branch': helper.make_graph(
            [helper.make_node('Mul', ['convolved', 'two'], [name])],
            name,
            [],
            [value(name, TensorProto.FLOAT, [1, 2, 6, 6])],
        )
        for name in ('then', 'else')
    }
    constants = {
        'weights': np.ones((2, 1, 3, 3), np.float32),
        'two': np.float32(2),
        'condition': np.array(True),
    }
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node('Conv', ['image', 'weights'], ['convolved']),
                helper.make_node('If', ['condition'], ['result'], **branches),
            ],
            'branching',
            [value('image', TensorProto.FLOAT, [1, 1, 8, 8])],
            [value('result', TensorProto.FLOAT, [1, 2, 6, 6])],
            [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid('', 18)],
        ir_version=8,
    )
    plan = QuantizationPlan.create(model, 'openvino', 'all')
    plan.insert({'image': (-1.0, 1.0)}, {'image': np.zeros(1)})
    onnx.checker.check_model(model, full_check=True)
    assert 'weights' not in {i.name for i in model.graph.initializer}


def test_a_network_in_half_precision_is_named(tmp_path):
    for kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        weights = helper.make_tensor('w', kind, [1, 3, 1, 1], [1.0, 1.0, 1.0])
        node = helper.make_node('Conv', ['x', 'w'], ['y'])
        ends = [helper.make_tensor_value_info(n, kind, None) for n in 'xy']
        graph = helper.make_graph([node], 'half', ends[:1], ends[1:], [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)])
        with pytest.raises(EngineError, match='half precision: quantise its fp32 export'):
            QuantizationPlan.create(model, 'openvino', 'all')
    del graph.initializer[:]
    with pytest.raises(EngineError, match='no convolution or matrix product'):
        QuantizationPlan.create(
            helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)]), 'openvino', 'all'
        )


def test_images_to_judge_are_others(tmp_path, network, pictures, monkeypatch):
    used = []
    monkeypatch.setattr(
        quantizing,
        'network_image',
        lambda picture, info, contract: (used.append(picture.rgb), picture.rgb)[1],
    )
    judged = []
    infer = OnnxRuntimeEngine.infer
    monkeypatch.setattr(
        OnnxRuntimeEngine,
        'infer',
        lambda self, inputs: (judged.append(inputs['image'][0]), infer(self, inputs))[1],
    )
    monkeypatch.setattr(quantizing, 'installed_backends', lambda: ('onnxruntime',))
    quantize(network, pictures, runtime='onnxruntime')
    assert len(used) == 8 and len(judged) == 2 * 4
    assert not {i.tobytes() for i in used} & {i.tobytes() for i in judged}


def write_recording(path, number, seed):
    """Images of noise at the network's size, whose stamps are 10, 11, 12, ... ms."""
    rng = np.random.default_rng(seed)
    with BagWriter(path) as writer:
        for stamp in range(10 * 10**6, (10 + number) * 10**6, 10**6):
            noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            for topic, message in (
                ('/cam/camera_info', camera_info(stamp)),
                ('/cam/image', image(noise, 'rgb8', stamp)),
            ):
                if topic == '/cam/camera_info':
                    message.width, message.height = WIDTH, HEIGHT
                writer.write(topic, message.__msgtype__, stamp, message)
    return path


@pytest.fixture
def decodes(monkeypatch):
    """Milliseconds of the images that are decoded, as it goes."""
    decodes, decode = [], runner.decode
    monkeypatch.setattr(
        runner,
        'decode',
        lambda message: (decodes.append(header_stamp(message.data) // 10**6 - 10), decode(message))[
            1
        ],
    )
    return decodes


def test_images_are_from_all_over_the_recording(tmp_path, network, decodes):
    """A robot that stands still in the beginning decides nothing; no other image is decoded."""
    quantize(
        network,
        write_recording(tmp_path / 'bag', 80, 0),
        calibration_images=6,
        held_out_images=10,
        bounds=LOOSE,
    )
    used = sorted(decodes)
    assert len(used) == 16 and np.diff([-1, *used, 80]).min() >= 3
    for some in (decodes[:6], decodes[6:]):  # to calibrate, to judge
        assert np.diff([0, *sorted(some), 80]).max() <= 20


def test_pairs_of_images_are_from_all_over_the_recording(repository, tmp_path, decodes, capsys):
    quantize(
        repository / 'models/pose.onnx',
        write_recording(tmp_path / 'bag', 80, 0),
        calibration_images=3,
        held_out_images=5,
        bounds=LOOSE,
    )
    assert '5 held-out pairs of images' in capsys.readouterr().out
    assert len(decodes) == 16
    for some in (sorted(decodes[:6]), sorted(decodes[6:])):
        assert set(np.diff(some)[::2]) == {1}
        assert 4 < np.diff([0, *some, 80]).max() <= 32


def test_images_to_judge_are_decoded_once(tmp_path, network, decodes):
    quantize(
        network,
        write_recording(tmp_path / 'bag', 20, 0),
        write_recording(tmp_path / 'others', 20, 1),
        calibration_images=4,
        held_out_images=5,
        bounds=LOOSE,
    )
    assert sorted(decodes[:4]) == [2, 7, 12, 17] and sorted(decodes[4:]) == [2, 6, 10, 14, 18]


def test_common_images_are_refused(tmp_path, network, pictures):
    # Also where none of those that are chosen are the same.
    for calibration, validation, number in (
        (pictures, pictures, 1),
        (pictures, pictures, 60),
        (pictures, shutil.copytree(pictures, tmp_path / 'same'), 60),
    ):
        with pytest.raises(EngineError, match='has images that calibrate the network'):
            quantize(network, calibration, validation, calibration_images=2, held_out_images=number)
    quantize(network, pictures, write_pictures(tmp_path / 'others', 3, 1))


def test_bad_inputs_are_named(tmp_path, network, pictures, capsys):
    few = write_pictures(tmp_path / 'few', 2, 0)
    empty = tmp_path / 'empty'
    empty.mkdir()
    damaged = tmp_path / 'damaged'
    damaged.mkdir()
    for index in range(4):
        (damaged / f'{index}.png').write_bytes(b'no picture')
    done = tmp_path / 'done.onnx'
    onnx.save(quantize(network, pictures), done)
    weightless = save_perception(tmp_path / 'weightless.onnx')
    capsys.readouterr()
    for model, images, message in (
        (tmp_path / 'none.onnx', pictures, 'does not exist'),
        (network, tmp_path / 'nowhere', 'nowhere'),
        (network, few, 'has 2 images, too few'),
        (network, empty, 'has no image'),
        (network, damaged, 'has no image to calibrate with'),
        (done, pictures, 'is quantised already'),
        (weightless, pictures, 'int8 gains nothing'),
    ):
        assert quantize_command.main([str(model), '--calibration', str(images)]) == 1
        assert message in capsys.readouterr().err
    for output in (tmp_path / 'net.engine', tmp_path / 'no' / 'net.onnx', network):
        assert (
            quantize_command.main(
                [str(network), '--calibration', str(pictures), '--output', str(output)]
            )
            == 1
        )
        assert f"'{output}'" in capsys.readouterr().err
    assert not is_quantized(onnx.load(network))


@pytest.mark.slow
def test_what_reads_recordings_is_asked_for(repository, network):
    code = (
        'import sys; sys.modules["rosbags"] = None; '
        'from depth_ros.commands import quantize; sys.exit(quantize.main())'
    )
    found = subprocess.run(
        [
            sys.executable,
            '-c',
            code,
            str(network),
            '--calibration',
            str(repository / 'demo/street'),
        ],
        text=True,
        capture_output=True,
    )
    (line,) = found.stderr.strip().splitlines()
    assert found.returncode == 1 and line.startswith('quantize: recordings need')
    assert line.endswith(': pip install rosbags lz4')


@pytest.mark.parametrize('option', ['--image', '--camera-info'])
def test_topics_can_be_chosen(repository, network, capsys, option):
    assert (
        quantize_command.main(
            [str(network), '--calibration', str(repository / 'demo/street'), option, '/left']
        )
        == 1
    )
    assert 'has no topic /left' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize('runtime', RUNTIMES)
@pytest.mark.parametrize('name', ['perception.onnx', 'pose.onnx'])
def test_shipped_models_on_the_shipped_recording(repository, runtime, name):
    """Within the default bounds, with ground truth; calibrated on a recording's images."""
    source = repository / 'models/synthetic' / name
    model = quantize(source, repository / 'demo/street', runtime=runtime)
    assert is_quantized(model) and model.ByteSize() < 0.5 * source.stat().st_size


@pytest.mark.slow
@RTX_WARNINGS
def test_tensorrt_reads_and_builds_it(tmp_path, network, pictures, capsys):
    pytest.importorskip('tensorrt_rtx', reason='tensorrt-rtx-cu13 is not installed')
    command = [str(network), '--precision', 'int8', '--check']
    assert build_engine.main(command) == 1
    assert 'give --calibration RECORDING' in capsys.readouterr().err
    assert build_engine.main([*command, '--calibration', str(pictures)]) == 0
    assert 'net.onnx (int8): read and built' in capsys.readouterr().out
    # So is a file that is quantised already, as it is, and only as int8.
    done = tmp_path / 'done.onnx'
    onnx.save(quantize(network, pictures, runtime='tensorrt', scope='all'), done)
    assert build_engine.main([str(done), '--precision', 'int8', '--check']) == 0
    assert (
        build_engine.main(
            [str(done), '--precision', 'int8', '--calibration', str(pictures), '--check']
        )
        == 1
    )
    assert 'is quantised already; leave --calibration out' in capsys.readouterr().err
    assert build_engine.main([str(done), '--check']) == 1
    assert f'build_engine {done} --precision int8' in capsys.readouterr().err
    assert build_engine.main([str(network), '--calibration', str(pictures), '--check']) == 1
    assert '--calibration is for --precision int8' in capsys.readouterr().err


@pytest.mark.parametrize('runtime', ['openvino', 'onnxruntime'])
def test_a_file_for_the_cpu_is_no_engine(tmp_path, network, pictures, capsys, runtime):
    done = tmp_path / 'done.onnx'
    onnx.save(quantize(network, pictures, runtime=runtime), done)
    for precision in ('fp32', 'fp16', 'int8'):
        assert build_engine.main([str(done), '--precision', precision]) == 1
        error = capsys.readouterr().err
        assert f"'{done}' is quantised for {runtime}" in error
        assert f'set its parameter backend to {runtime}, or model to the original' in error


def test_a_file_that_changes_while_it_is_calibrated_is_refused(
    tmp_path, network, pictures, monkeypatch
):
    """Else the engine's record would be of another model."""
    source = tmp_path / 'net.onnx'
    source.write_bytes(network.read_bytes())

    def change(path, calibration, runtime):
        model = onnx.load(path)
        path.write_bytes(path.read_bytes() + model.SerializeToString())
        return model

    monkeypatch.setattr(quantizing, 'quantize', change)
    with pytest.raises(EngineError, match="net.onnx' has changed while it was read"):
        engine_build.load_model(source, 'int8', pictures)


@pytest.mark.slow
@RTX_WARNINGS
@pytest.mark.parametrize('name', ['perception.onnx', 'pose.onnx'])
def test_a_shipped_model_is_built_in_int8(repository, name):
    trt = pytest.importorskip('tensorrt_rtx', reason='tensorrt-rtx-cu13 is not installed')
    model = quantize(
        repository / 'models/synthetic' / name,
        repository / 'demo/street',
        runtime='tensorrt',
        calibration_images=4,
        held_out_images=8,
    )
    check_operators(model)
    assert engine_build.serialize(model, trt, None, threading.Event())[0]


@pytest.mark.slow
@RTX_WARNINGS
def test_the_record_says_int8_and_how_to_build_it_again(tmp_path, network, pictures):
    build_here(network, tmp_path / 'net.engine', precision='int8', calibration=pictures)
    assert (record := read_record(tmp_path / 'net.engine')).precision == 'int8'
    assert f'--precision int8 --calibration {pictures}' in record.command
