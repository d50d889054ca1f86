"""Networks of others in small, and the command that adopts them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from depth_ros.commands import adopt_model
from depth_ros.deploy.onnx_graph import check_operators
from depth_ros.inference.loader import load_engine

WIDTH, HEIGHT = 64, 48
WEIGHTS = np.array([[0.2, 0.3, 0.5]], np.float32)
CLASSES = ['road', 'car', 'sky', 'tree', 'pole']
UNIT = ['--normalization', 'unit']
METRIC = [*UNIT, '--output-kind', 'metric', '--intrinsics', '60', '62', '31', '23']
LABELS = [*UNIT, '--classes']


NORMALIZED = {
    'imagenet': lambda p: (p / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    'half': lambda p: p / 127.5 - 1,
    'unit': lambda p: p / 255,
    'bytes': lambda p: p * 1.0,
}

CLASS_WEIGHTS = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)


def value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def save(path, nodes, inputs, outputs, tensors=(), opset=17, **options):
    graph = helper.make_graph(nodes, 'foreign', inputs, outputs, list(tensors))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)], ir_version=8)
    onnx.save(model, path, **options)
    return path


def foreign(
    path,
    weights=WEIGHTS,
    *,
    bias=0.1,
    stride=1,
    shape=(1, 3, HEIGHT, WIDTH),
    opset=17,
    kind=TensorProto.FLOAT,
    out_shape=None,
    after=(),
    out_kind=None,
    rank=4,
    **options,
):
    """A convolution over patches: weights (N, 3) of the patch's mean colour. `after` are nodes
    from 'y' to 'out'."""
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    kernel = np.repeat(np.repeat(weights[:, :, None, None], stride, 2), stride, 3) / stride**2
    tensors = [
        numpy_helper.from_array(kernel.astype(dtype), 'w'),
        numpy_helper.from_array(np.full(len(weights), bias, dtype), 'b'),
    ]
    nodes = [
        helper.make_node(
            'Conv', ['x', 'w', 'b'], ['y'], strides=[stride, stride], kernel_shape=[stride, stride]
        )
    ]
    if shape[1] != 3 and shape[-1] == 3:
        nodes = [helper.make_node('Transpose', ['x'], ['t'], perm=[0, 3, 1, 2])] + nodes
        nodes[1].input[0] = 't'
    nodes += after or [helper.make_node('Identity', ['y'], ['out'])]
    return save(
        path,
        nodes,
        [value('x', kind, shape)],
        [value('out', out_kind or kind, out_shape)],
        tensors,
        opset,
        **options,
    )


def adopt(source, *options, image=None, ok=True):
    """Run the command; returns the file."""
    output = source.with_name(f'{source.stem}_adopted.onnx')
    arguments = [str(source), '--output', str(output), *map(str, options)]
    if image is not None:
        arguments += ['--image', *([str(image)] if not isinstance(image, list) else image)]
    assert adopt_model.main(arguments) == (0 if ok else 1)
    assert output.exists() == ok
    return output


def run(path, *images, backend='onnxruntime'):
    engine = load_engine(path, backend)
    names = engine.contract.inputs
    found = engine.infer({n: i[None] for n, i in zip(names, images, strict=True)})
    found = {n: v.copy() for n, v in found.items()}
    engine.close()
    check_operators(onnx.load(path))  # TensorRT
    return found


def raw(picture, weights=WEIGHTS[0], bias=0.1):
    return (picture / 255.0) @ weights + bias


def enlarged(image):
    """Linear, pixel centres kept, to WIDTH x HEIGHT: one axis after the other."""
    for axis, size in enumerate((HEIGHT, WIDTH)):
        n = image.shape[axis]
        at = (np.arange(size) + 0.5) * n / size - 0.5
        low = np.clip(np.floor(at).astype(int), 0, n - 2)
        part = np.expand_dims(np.clip(at - low, 0, 1), 1 - axis)
        image = (1 - part) * image.take(low, axis) + part * image.take(low + 1, axis)
    return image


def motion_network(path, *, inputs='paired', outputs='six', shape=None):
    """Six numbers from the mean brightness of the two images, weighted: no two are alike."""
    weights = np.random.default_rng(3).normal(0, 0.4, (2, 6)).astype(np.float32)
    names = ['x'] if inputs == 'paired' else ['first', 'second']
    nodes = [
        helper.make_node('ReduceMean', [n], [f'{n}_mean'], axes=[2, 3], keepdims=0) for n in names
    ]
    if inputs == 'paired':
        nodes += [
            helper.make_node('Reshape', ['x_mean', 'two'], ['six']),
            helper.make_node('ReduceMean', ['six'], ['means'], axes=[2], keepdims=0),
        ]
    else:
        nodes += [
            helper.make_node('ReduceMean', [f'{n}_mean'], [f'{n}_one'], axes=[1], keepdims=1)
            for n in names
        ]
        nodes += [helper.make_node('Concat', [f'{n}_one' for n in names], ['means'], axis=1)]
    nodes += [helper.make_node('MatMul', ['means', 'w'], ['all'])]
    found = ['all']
    if outputs == 'two':
        found = ['axisangle', 'translation']
        nodes += [
            helper.make_node('Split', ['all'], ['r', 't'], axis=1),
            helper.make_node('Reshape', ['r', 'three'], ['axisangle']),
            helper.make_node('Reshape', ['t', 'three'], ['translation']),
        ]
    tensors = [
        numpy_helper.from_array(v, n)
        for n, v in (
            ('w', weights),
            ('two', np.array([1, 2, 3])),
            ('three', np.array([1, 1, 1, 3])),
        )
    ]
    channels = 6 if inputs == 'paired' else 3
    save(
        path,
        nodes,
        [value(n, TensorProto.FLOAT, shape or (1, channels, HEIGHT, WIDTH)) for n in names],
        [value(n, TensorProto.FLOAT, None) for n in found],
        tensors,
        opset=12,
    )
    return lambda a, b: np.array([a.mean() / 255, b.mean() / 255]) @ weights
