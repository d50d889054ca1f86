"""Half precision, and, with pytest -m gpu, engines of the shipped models on a GPU."""

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from support.onnx_models import HEIGHT, WIDTH, row_depth, save_perception
from support.precisions import SHIPPED, check_fp16, check_on_the_gpu
from support.tensorrt_builds import (
    check_built,
)

from depth_ros.deploy.build import build
from depth_ros.deploy.fp16 import to_fp16
from depth_ros.deploy.quantize import quantize
from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine_file import PRECISIONS
from depth_ros.inference.runtimes import tensorrt as tensorrt_engine
from depth_ros.inference.runtimes.tensorrt import TensorRtEngine

pytestmark = pytest.mark.slow  # the shipped models, converted and built


@pytest.fixture
def images():
    """Two different images."""
    return np.random.default_rng(0).integers(0, 256, (2, 1, HEIGHT, WIDTH, 3), np.uint8)


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


@pytest.mark.parametrize('name', SHIPPED)
def test_fp16_agrees_with_fp32(repository, name):
    """On a street for the networks that ship, on soft blobs, unlike a street, for the others."""
    check_fp16(repository / 'models/synthetic' / name)
    source = repository / 'models' / name
    street = cv2.imread(str(repository / 'models/frames/street_0.jpg'))[:, :, ::-1]
    contract = read_contract(source)
    size = contract.input_width, contract.input_height
    check_fp16(source, dict.fromkeys(contract.inputs, cv2.resize(street, size)[None]))
    sizes = [model.ByteSize() for model in (onnx.load(source), to_fp16(onnx.load(source)))]
    assert sizes[1] < 0.55 * sizes[0]


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_models_are_built(repository, name, precision):
    check_built(repository / 'models' / name, precision)


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
