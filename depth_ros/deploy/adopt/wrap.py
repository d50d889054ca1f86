"""Adding to the graph of a foreign network what the contract needs before and after it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from depth_ros.core.labels import UNLABELED
from depth_ros.deploy.adopt.inspect import (
    NetworkInputs,
    NetworkOutputs,
    is_coarse,
    map_size,
)
from depth_ros.deploy.adopt.load import read_names
from depth_ros.deploy.adopt.options import DEPTH_KINDS, AdoptionError, Options
from depth_ros.deploy.adopt.run import normalization, open_session
from depth_ros.inference.contract import ModelContract, write_contract


class GraphBuilder:
    """Nodes and constants to be added to a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def __call__(
        self, kind: str, *inputs: str | np.ndarray, output: str = '', **attributes: Any
    ) -> str:
        """Add a node with one output.

        Args:
            kind: operator.
            inputs: names of tensors, or arrays, which become constants.
            output: name of the output; empty for a new one.
            attributes: attributes of the node.

        Returns:
            The name of the output.
        """
        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                self.tensors.append(
                    numpy_helper.from_array(
                        np.ascontiguousarray(value), f'adopted/constant{len(self.tensors)}'
                    )
                )
                value = self.tensors[-1].name
            names.append(value)
        output = output or f'adopted/{kind.lower()}{len(self.nodes)}'
        self.nodes.append(
            helper.make_node(
                kind, names, [output], name=f'adopted/node{len(self.nodes)}', **attributes
            )
        )
        return output

    def resize(self, image: str, shape: Sequence[int], size: tuple[int, int], mode: str) -> str:
        """Resize an image [1, C, H, W] of known ``shape`` to (width, height)."""
        if tuple(shape[-2:]) == size[::-1]:
            return image
        return self(
            'Resize',
            image,
            '',
            '',
            _indices(*shape[:2], *size[::-1]),
            mode=mode,
            coordinate_transformation_mode='half_pixel',
            nearest_mode='round_prefer_ceil',
        )


def _real(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def _indices(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def wrap(
    model: onnx.ModelProto,
    inputs: NetworkInputs,
    outputs: NetworkOutputs,
    options: Options,
    contract: ModelContract,
) -> onnx.ModelProto:
    """Make a model of a foreign network: its graph between added operators, and the contract.

    Args:
        model: the foreign network.
        inputs, outputs: what was found out about it.
        options: what its file does not say.
        contract: the contract of the model.
    """
    net = compose.add_prefix(model, 'net/')
    add = GraphBuilder()
    _add_inputs(add, inputs, options, contract)
    before = len(add.nodes)
    if outputs.depth:
        _add_depth(add, outputs, options, contract)
    if outputs.labels:
        _add_labels(add, outputs, contract)
    if outputs.pose:
        _add_pose(add, outputs, options)
    types = {'uint8': TensorProto.UINT8, 'float32': TensorProto.FLOAT}
    shapes = contract.tensor_shapes()
    ends = tuple(
        [helper.make_tensor_value_info(n, types[shapes[n][0]], shapes[n][1]) for n in names]
        for names in (contract.inputs, contract.outputs)
    )
    nodes, used = _needed(
        [*add.nodes[:before], *net.graph.node, *add.nodes[before:]], contract.outputs
    )
    weights = [i for i in (*net.graph.initializer, *add.tensors) if i.name in used]
    graph = helper.make_graph(nodes, 'adopted', ends[0], ends[1], weights)
    graph.sparse_initializer.extend(net.graph.sparse_initializer)
    result = helper.make_model(
        graph, opset_imports=net.opset_import, ir_version=max(net.ir_version, 4)
    )
    result = _simplified(result)
    write_contract(result, contract)
    return result


def _needed(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes on which outputs depend, in order, and the names of all tensors that they read."""

    used, kept = set(outputs), []
    for node in reversed(nodes):
        if not used.isdisjoint(node.output):
            used |= read_names(node)
            kept.append(node)
    return kept[::-1], used


def _add_inputs(
    add: GraphBuilder, inputs: NetworkInputs, options: Options, contract: ModelContract
) -> None:
    factor, offset = (v.astype(np.float32) for v in normalization(inputs, options))
    order = list(contract.inputs)
    if options.input_order == 'current-previous':
        order.reverse()
    tensors = []
    for name in order:
        bytes_taken = inputs.kind == TensorProto.UINT8
        tensor = name if bytes_taken else add('Cast', name, to=TensorProto.FLOAT)
        if options.color == 'bgr':
            tensor = add('Gather', tensor, _indices(2, 1, 0), axis=3)
        if (factor != 1).any():
            tensor = add('Mul', tensor, factor)
        if offset.any():
            tensor = add('Add', tensor, offset)
        if inputs.nchw:
            tensor = add('Transpose', tensor, perm=[0, 3, 1, 2])
        tensors.append(tensor)
    if inputs.paired:
        tensors = [add('Concat', *tensors, axis=1 if inputs.nchw else 3)]
    for name, tensor in zip(inputs.names, tensors, strict=True):
        if len(inputs.shape) > 4:
            tensor = add('Reshape', tensor, _indices(*inputs.shape))
        last = {} if inputs.kind == TensorProto.UINT8 else {'to': inputs.kind}
        add('Cast' if last else 'Identity', tensor, output=f'net/{name}', **last)


def _add_depth(
    add: GraphBuilder, outputs: NetworkOutputs, options: Options, contract: ModelContract
) -> None:
    size = contract.input_width, contract.input_height
    height, width = map_size(outputs.shapes[outputs.depth])
    raw = add('Cast', f'net/{outputs.depth}', to=TensorProto.FLOAT)
    raw = add('Reshape', raw, _indices(1, 1, height, width))
    # What the network gives is interpolated, such as inverse depth.
    raw = add.resize(raw, (1, 1, height, width), size, 'linear')
    near, far = contract.depth_limits
    kind = options.kind(DEPTH_KINDS)
    if kind == 'affine-inverse':
        if options.offset:
            raw = add('Add', raw, _real(options.offset))
        raw = add('Reciprocal', add('Max', raw, _real(1 / far)))
    elif kind == 'inverse':
        # Inverse depth of 0 or less is made farther than the farthest depth, so it is invalid.
        raw = add('Reciprocal', add('Max', raw, _real(0.5 / far)))
    elif kind == 'sigmoid':
        raw = add('Mul', raw, _real(1 / near - 1 / far))
        raw = add('Reciprocal', add('Add', raw, _real(1 / far)))
    add('Reshape', raw, _indices(*size[::-1]), output='depth')


def _add_labels(add: GraphBuilder, outputs: NetworkOutputs, contract: ModelContract) -> None:
    size = contract.input_width, contract.input_height
    raw = add('Cast', f'net/{outputs.labels}', to=TensorProto.FLOAT)
    shape = outputs.shapes[outputs.labels]
    if outputs.label_kind == 'ids':
        shape = (1, 1, *map_size(shape))
        ids = add('Reshape', raw, _indices(*shape))
        ids = add.resize(ids, shape, size, 'nearest')
        known = add(
            'And',
            add('Greater', ids, _real(-0.5)),
            add('Less', ids, _real(len(contract.classes) - 0.5)),
        )
        ids = add('Where', known, ids, _real(UNLABELED))
    else:
        shape = (1, *shape[-3:])
        raw = add('Reshape', raw, _indices(*shape))
        if outputs.channels_last:
            raw = add('Transpose', raw, perm=[0, 3, 1, 2])
            shape = (1, shape[3], *shape[1:3])
        ids = add('ArgMax', add.resize(raw, shape, size, 'linear'), axis=1, keepdims=0)
    ids = add('Reshape', ids, _indices(*size[::-1]))
    add('Cast', ids, output='labels', to=TensorProto.UINT8)


def _add_pose(add: GraphBuilder, outputs: NetworkOutputs, options: Options) -> None:
    flat = [
        add('Reshape', add('Cast', f'net/{n}', to=TensorProto.FLOAT), _indices(-1))
        for n in outputs.pose
    ]
    first, second = (
        (flat[0], _indices(0, 1, 2)),
        (flat[-1], _indices(*((3, 4, 5) if len(flat) == 1 else (0, 1, 2)))),
    )
    if len(flat) == 1 and options.pose_order == 'translation-rotation':
        first, second = second, first
    rotation, translation = add('Gather', *first, axis=0), add('Gather', *second, axis=0)
    if options.rotation == 'euler-xyz':
        rotation = _add_euler(add, rotation)
    if options.pose_inverse:
        # The inverse of x -> R(r) x + t is rotation -r, translation -R(-r) t (Rodrigues' formula).
        rotation = add('Neg', rotation)
        squared = add('ReduceSum', add('Mul', rotation, rotation), keepdims=1)
        angle = add('Sqrt', add('Add', squared, _real(1e-20)))
        axis = add('Div', rotation, angle)
        y, z = _indices(1, 2, 0), _indices(2, 0, 1)
        cross = add(
            'Sub',
            *(
                add('Mul', add('Gather', axis, a, axis=0), add('Gather', translation, b, axis=0))
                for a, b in ((y, z), (z, y))
            ),
        )
        along = add('ReduceSum', add('Mul', axis, translation), keepdims=1)
        cosine = add('Cos', angle)
        turned = add('Add', add('Mul', translation, cosine), add('Mul', cross, add('Sin', angle)))
        rest = add('Mul', add('Mul', axis, along), add('Sub', _real(1), cosine))
        translation = add('Neg', add('Add', turned, rest))
    add('Concat', rotation, translation, output='pose', axis=0)


def _add_euler(add: GraphBuilder, angles: str) -> str:
    """Add the rotation vector of Rx Ry Rz, computed as a product of three quaternions."""
    half = add('Mul', angles, _real(0.5))
    parts = [
        [add('Gather', value, _indices(i), axis=0) for i in range(3)]
        for value in (add('Cos', half), add('Sin', half))
    ]

    def product(*sines: int) -> str:
        x, y, z = (parts[i in sines][i] for i in range(3))
        return add('Mul', add('Mul', x, y), z)

    real = add('Sub', product(), product(0, 1, 2))
    imaginary = add(
        'Concat',
        add('Add', product(0), product(1, 2)),
        add('Sub', product(1), product(0, 2)),
        add('Add', product(2), product(0, 1)),
        axis=0,
    )
    squared = add('ReduceSum', add('Mul', imaginary, imaginary), keepdims=1)
    length = add('Sqrt', add('Add', squared, _real(1e-20)))
    # The angle is 2 atan(length / real): between two images it is far below 180 degrees.
    angle = add('Mul', add('Atan', add('Div', length, real)), _real(2))
    return add('Mul', imaginary, add('Div', angle, length))


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with everything computed in advance that follows from the fixed sizes.

    Networks that were exported for any size compute with shapes, which TensorRT does not always
    read. Networks in half precision or integers stay as they are: ONNX Runtime would insert
    conversions to float.
    """
    if is_coarse(model):
        return model
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/simplified.onnx'
        try:
            open_session(model, folder, path)
            result = onnx.load(path)
        except AdoptionError:
            raise
        except Exception as error:  # the runtime has exception types of its own
            raise AdoptionError(f'ONNX Runtime cannot load the adopted network: {error}') from error
    used = {node.domain for node in result.graph.node} | {''}
    opsets = [o for o in result.opset_import if o.domain in used]
    del result.opset_import[:]
    result.opset_import.extend(opsets)
    return result
