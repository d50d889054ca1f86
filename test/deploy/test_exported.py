"""Exported networks in half precision, as engines, and, with pytest -m gpu, on a GPU."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import helper, numpy_helper
from support.onnx_models import HEIGHT, WIDTH, row_depth, save_perception, unneeded
from support.tensorrt_builds import (
    check_built,
    check_plan,
    export_networks,
)

from depth_ros.commands import build_engine
from depth_ros.deploy.build import build
from depth_ros.deploy.fp16 import to_fp16
from depth_ros.deploy.quantize import quantize
from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine_file import PRECISIONS, read_record
from depth_ros.inference.loader import load_engine
from depth_ros.inference.parity_measures import Bounds
from depth_ros.inference.runtimes import tensorrt as tensorrt_engine
from depth_ros.inference.runtimes.onnxruntime import OnnxRuntimeEngine
from depth_ros.inference.runtimes.tensorrt import TensorRtEngine


@pytest.fixture
def images():
    """Two different images."""
    return np.random.default_rng(0).integers(0, 256, (2, 1, HEIGHT, WIDTH, 3), np.uint8)


def agree(source, inputs):
    """Compare a model in fp16 with fp32, both by ONNX Runtime; returns the outputs by name."""
    model = onnx.load(source)
    values = [
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, inputs)
        for m in (model, to_fp16(model))
    ]
    return {o.name: pair for o, *pair in zip(model.graph.output, *values, strict=True)}


def smooth_images(contract, seed=0):
    """Images of soft blobs at network size, by input name."""
    random = np.random.default_rng(seed)
    return {
        name: cv2.resize(
            random.integers(0, 256, (6, 20, 3), np.uint8),
            (contract.input_width, contract.input_height),
            interpolation=cv2.INTER_CUBIC,
        )[None]
        for name in contract.inputs
    }


def check_fp16(source):
    for name, (full, half) in agree(source, smooth_images(read_contract(source))).items():
        assert half.dtype == full.dtype and half.shape == full.shape
        if name == 'depth':
            assert np.mean(np.abs(half - full) / full) < 1e-3
        elif name == 'labels':
            assert np.mean(half == full) > 0.97
        else:
            np.testing.assert_allclose(half, full, atol=0.01 * np.abs(full).max())


def test_what_is_around_the_network_stays_in_fp32():
    """Factors that fp16 has not, 1e-10 and its inverse, before and after a convolution."""
    names = ['image', 'small', 'whole', 'convolved', 'tiny', 'result']
    factors = {'down': 1e-10, 'up': 1e10}
    steps = zip(names, names[1:], ['down', 'up', 'kernel', 'down', 'up'], strict=False)
    nodes = [
        helper.make_node('Conv' if factor == 'kernel' else 'Mul', [source, factor], [target])
        for source, target, factor in steps
    ]
    tensors = [numpy_helper.from_array(np.float32(v), n) for n, v in factors.items()]
    tensors.append(numpy_helper.from_array(np.full((1, 1, 1, 1), 0.5, np.float32), 'kernel'))
    ends = [
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, (1, 1, 2, 2))]
        for n in ('image', 'result')
    ]
    model = helper.make_model(
        helper.make_graph(nodes, 'net', *ends, tensors),
        ir_version=8,
        opset_imports=[helper.make_opsetid('', 18)],
    )
    half = to_fp16(model)
    assert {i.name: i.data_type for i in half.graph.initializer} == {
        'down': onnx.TensorProto.FLOAT,
        'up': onnx.TensorProto.FLOAT,
        'kernel_fp16': onnx.TensorProto.FLOAT16,
    }
    image = np.full((1, 1, 2, 2), 3, np.float32)
    (found,) = onnxruntime.InferenceSession(half.SerializeToString()).run(None, {'image': image})
    np.testing.assert_allclose(found, image / 2, rtol=1e-3)


def test_a_network_that_ends_with_its_weights_gives_fp32():
    nodes = [helper.make_node('Conv', ['image', 'kernel'], ['result'])]
    kernel = numpy_helper.from_array(np.full((1, 1, 1, 1), 0.5, np.float32), 'kernel')
    ends = [
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, (1, 1, 2, 2))]
        for n in ('image', 'result')
    ]
    half = to_fp16(
        helper.make_model(
            helper.make_graph(nodes, 'net', *ends, [kernel]),
            ir_version=8,
            opset_imports=[helper.make_opsetid('', 18)],
        )
    )
    (found,) = onnxruntime.InferenceSession(half.SerializeToString()).run(
        None, {'image': np.full((1, 1, 2, 2), 3, np.float32)}
    )
    assert found.dtype == np.float32 and (found == 1.5).all()


SHIPPED = ('perception.onnx', 'pose.onnx')


@pytest.mark.parametrize('name', SHIPPED)
def test_fp16_agrees_with_fp32(repository, name):
    source = repository / 'models' / name
    check_fp16(source)
    sizes = [model.ByteSize() for model in (onnx.load(source), to_fp16(onnx.load(source)))]
    assert sizes[1] < 0.55 * sizes[0]


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_models_are_built(repository, name, precision):
    check_built(repository / 'models' / name, precision)


def configurations():
    """The training configurations by name; those with equal graphs together, as the first."""
    decisive = ('width', 'height', 'network', 'encoder', 'semantics', 'attention', 'pose_network')
    equal = {}
    for path in sorted((Path(__file__).parents[2] / 'train/configs').glob('*.yaml')):
        settings = yaml.safe_load(path.read_text())
        equal.setdefault(tuple(settings.get(name) for name in decisive), []).append(path)
    return [
        pytest.param(paths[0], id=' and '.join(path.stem for path in paths))
        for paths in equal.values()
    ]


@pytest.fixture(scope='session', params=configurations())
def exported(request, tmp_path_factory):
    """The untrained networks of a training configuration: in torch, and the folder of their ONNX
    files."""
    torch = pytest.importorskip('torch', reason='torch is not installed')
    from train.training.config import Config
    from train.training.system import System

    torch.manual_seed(0)
    # The odometry node has two images.
    config = Config(**{**yaml.safe_load(request.param.read_text()), 'views': 2})
    system = System(config, fresh=False).eval()
    for module in system.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # a ResNet's last ones begin as zeros
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    folder = tmp_path_factory.mktemp('exported')
    export_networks(system, folder, config.semantics and config.network != 'dispnet')
    return system, folder


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('name', SHIPPED)
def test_every_configuration_is_built(exported, name, precision):
    check_built(exported[1] / name, precision)


@pytest.fixture(scope='session')
def photos(tmp_path_factory):
    """A folder of soft images to calibrate int8 with."""
    folder = tmp_path_factory.mktemp('photos')
    for number in range(6):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 20, 3), np.uint8)
        cv2.imwrite(
            str(folder / f'{number}.png'),
            cv2.resize(coarse, (640, 192), interpolation=cv2.INTER_CUBIC),
        )
    return folder


@pytest.mark.parametrize('name', SHIPPED)
def test_every_configuration_is_built_in_int8(exported, photos, name):
    """Whatever it says: what int8 costs untrained networks means nothing."""
    anything = Bounds(
        depth_error=np.inf,
        invalid=1,
        label_agreement=0,
        translation_error=np.inf,
        rotation_error=np.inf,
    )
    model = quantize(
        exported[1] / name,
        photos,
        runtime='tensorrt',
        bounds=anything,
        calibration_images=2,
        held_out_images=2,
    )
    check_plan(model)


def test_every_configuration_computes_what_torch_does(exported):
    import torch

    from train.commands.export import DeployedPerception, DeployedPose

    system, folder = exported
    for name, net in (
        ('perception.onnx', DeployedPerception(system.perception, 1.0)),
        ('pose.onnx', DeployedPose(system.pose, 1.0)),
    ):
        contract = read_contract(folder / name)
        inputs = smooth_images(contract)
        with torch.inference_mode():
            expected = net.eval()(*(torch.from_numpy(inputs[n]) for n in contract.inputs))
        if name == 'pose.onnx':
            expected = (expected,)
        found = OnnxRuntimeEngine(folder / name, contract, 2).infer(inputs)
        for output, value in zip(contract.outputs, expected, strict=True):
            if output == 'labels':  # ties may fall either way
                assert np.mean(found[output] == value.numpy()) > 0.999
            else:
                np.testing.assert_allclose(found[output], value, rtol=1e-4, atol=1e-7)
                assert np.ptp(found[output]) > 1e-3 * np.abs(found[output]).max()


def test_every_configuration_agrees_in_fp16(exported):
    for name in SHIPPED:
        check_fp16(exported[1] / name)


def test_nothing_is_exported_that_the_outputs_do_not_need(exported):
    for name in SHIPPED:
        assert unneeded(onnx.load(exported[1] / name)) == []


@pytest.mark.gpu
@pytest.mark.parametrize('precision', [*PRECISIONS, 'int8'])
@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_models_on_the_gpu(gpu, repository, tmp_path, name, precision):
    source = tmp_path / name
    source.write_bytes((repository / 'models' / name).read_bytes())
    if precision == 'int8':  # compared with the same graph on the CPU
        onnx.save(quantize(source, repository / 'demo/street', runtime='tensorrt'), source)
    check_on_the_gpu(source, precision, gpu)


@pytest.mark.gpu
@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('name', SHIPPED)
def test_every_configuration_on_the_gpu(gpu, exported, name, precision):
    check_on_the_gpu(exported[1] / name, precision, gpu)


def check_on_the_gpu(source, precision, gpu):
    """Build, run, and compare with ONNX Runtime."""
    assert build_engine.main([str(source), '--precision', precision]) == 0
    engine, contract = load_engine(source), read_contract(source)
    assert engine.backend == 'tensorrt'
    assert read_record(source.with_suffix('.engine')).gpu == gpu
    assert engine._graph is not None, 'no CUDA graph'
    reference = OnnxRuntimeEngine(source, contract, 2)
    # Where int8 rounds the other way, it differs by a whole step.
    tolerance, same = {'fp32': (1e-4, 0.98), 'fp16': (2e-3, 0.98), 'int8': (0.02, 0.95)}[precision]
    for seed in range(5):  # other images each time: no output may be an earlier one's
        inputs = smooth_images(contract, seed)
        expected, found = reference.infer(inputs), engine.infer(inputs)
        for output in contract.outputs:
            if output == 'labels':
                assert np.mean(found[output] == expected[output]) > same
            else:
                error = np.abs(found[output] - expected[output])
                assert error.mean() < tolerance * np.abs(expected[output]).mean()
    engine.close()


@pytest.mark.gpu
@pytest.mark.parametrize('mapped', [False, True])
def test_memory_is_given_back_on_the_gpu(gpu, tmp_path, images, mapped):
    cudart = tensorrt_engine.cuda_module()
    source = save_perception(tmp_path / 'net.onnx')
    path = source.with_suffix('.engine')
    build(source, path)

    def free() -> int:
        return cudart.cudaMemGetInfo()[1]

    TensorRtEngine(path, mapped=mapped).close()  # libraries stay loaded
    before = free()
    for _ in range(20):
        engine = TensorRtEngine(path, mapped=mapped)
        np.testing.assert_allclose(
            engine.infer({'image': images[0]})['depth'], row_depth(), rtol=1e-6
        )
        engine.close()
    assert before - free() < 20 * 2**20
