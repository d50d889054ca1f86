"""A network and pictures to quantise it with."""

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from depth_ros.inference.contract import ModelContract, write_contract
from support.onnx_models import CLASSES, INTRINSICS

HEIGHT, WIDTH = 32, 64


def save_network(path, seed=0):
    """A small U-Net: strided, grouped and plain convolutions, skip, ELU, reflection padding."""
    rng = np.random.default_rng(seed)
    nodes, tensors = [], []

    def constant(value, name):
        tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def convolution(source, name, inputs, outputs, *, group=1, pads=(1, 1, 1, 1), bias=True, **kw):
        weights = rng.normal(0, (9 * inputs / group) ** -0.5, (outputs, inputs // group, 3, 3))
        names = [source, constant(weights.astype(np.float32), f'{name}_weights')]
        if bias:
            names.append(constant(rng.normal(0, 0.1, outputs).astype(np.float32), f'{name}_bias'))
        nodes.append(
            helper.make_node('Conv', names, [name], name=name, pads=pads, group=group, **kw)
        )

    def node(kind, inputs, output, **kw):
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **kw))

    pads = constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]), 'pads')
    node('Cast', ['image'], 'real', to=TensorProto.FLOAT)
    node('Transpose', ['real'], 'channels', perm=[0, 3, 1, 2])
    node('Div', ['channels', constant(np.float32(255), 'most')], 'scaled')
    convolution('scaled', 'first', 3, 8)
    node('Relu', ['first'], 'skip')
    convolution('skip', 'strided', 8, 16, strides=[2, 2])
    node('Relu', ['strided'], 'half')
    convolution('half', 'grouped', 16, 16, group=4, bias=False)
    node('Add', ['grouped', 'half'], 'residual')
    node('Elu', ['residual'], 'features')
    node(
        'Resize',
        ['features', '', constant(np.array([1, 1, 2, 2], np.float32), 'twice')],
        'up',
        mode='nearest',
        coordinate_transformation_mode='asymmetric',
        nearest_mode='floor',
    )
    node('Concat', ['up', 'skip'], 'joined', axis=1)
    node('Pad', ['joined', pads], 'padded', mode='reflect')
    convolution('padded', 'decoded', 24, 8, pads=(0, 0, 0, 0))
    node('Elu', ['decoded'], 'active')
    convolution('active', 'depths', 8, 1)
    node('Sigmoid', ['depths'], 'share')
    node('Add', ['share', constant(np.float32(1), 'least')], 'raised')
    node('Squeeze', ['raised', constant(np.array([0, 1]), 'unused')], 'depth')
    convolution('active', 'logits', 8, len(CLASSES))
    node('ArgMax', ['logits'], 'best', axis=1, keepdims=0)
    node('Squeeze', ['best', constant(np.array([0]), 'batch')], 'class')
    node('Cast', ['class'], 'labels', to=TensorProto.UINT8)
    contract = ModelContract(
        task='perception',
        name='small',
        input_width=WIDTH,
        input_height=HEIGHT,
        intrinsics=INTRINSICS,
        outputs=('depth', 'labels'),
        depth_range=(0.5, 3.0),
        classes=CLASSES,
    )
    shapes = contract.tensor_shapes()
    kinds = {'uint8': TensorProto.UINT8, 'float32': TensorProto.FLOAT}
    values = {
        name: helper.make_tensor_value_info(name, kinds[kind], shape)
        for name, (kind, shape) in shapes.items()
    }
    graph = helper.make_graph(
        nodes, 'small', [values['image']], [values['depth'], values['labels']], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    write_contract(model, contract)
    onnx.save(model, path)
    return path


def write_pictures(folder, number, seed):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for index in range(number):
        small = rng.integers(0, 256, (4, 8, 3), np.uint8)
        cv2.imwrite(
            str(folder / f'{index:03}.png'),
            cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC),
        )
    return folder
