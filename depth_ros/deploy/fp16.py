"""Half precision: the same network, most of it computed in fp16.

TensorRT takes the types of a graph as they are, so precision is a property of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from depth_ros.deploy.onnx_graph import replace_items

_WEIGHTED = {'Conv', 'ConvTranspose', 'Gemm', 'MatMul'}
"""Operators where the time goes."""

_KEPT = {
    'Cast',
    'Constant',
    'ConstantOfShape',
    'Range',
    'QuantizeLinear',
    'DequantizeLinear',
    'Div',
    'Exp',
    'GridSample',
    'InstanceNormalization',
    'LayerNormalization',
    'Log',
    'Pow',
    'Reciprocal',
    'ReduceL2',
    'ReduceMean',
    'ReduceSum',
    'ReduceSumSquare',
    'Softmax',
    'Sqrt',
}
"""Operators that choose their own type, or that lose too much in fp16: sums, quotients, powers."""


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with its network in fp16; inputs and outputs keep their types.

    In fp16 is what lies between the first and the last operators with weights. What comes before
    (normalisation) and after (disparity to depth, rotations, arg-max) costs little and stays fp32.

    Args:
        model: of valid types; not changed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    graph = result.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    real = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    weights = {i.name: i for i in graph.initializer if i.data_type == TensorProto.FLOAT}
    real |= weights.keys()
    nodes: list[NodeProto] = []
    computed: set[str] = set()  # tensors that fp16 nodes make
    converted: set[str] = set()  # tensors that are there in both types

    def cast(name: str, kind: int) -> None:
        if name not in converted:
            converted.add(name)
            ends = ([_half(name)], [name]) if kind == TensorProto.FLOAT else ([name], [_half(name)])
            nodes.append(helper.make_node('Cast', *ends, name=f'{name}_cast', to=kind))

    for node, in_fp16 in zip(graph.node, _in_fp16(graph.node), strict=True):
        for index, name in enumerate(node.input):
            if not in_fp16:
                if name in computed:
                    cast(name, TensorProto.FLOAT)
            # The scales of Resize are float32 in any case.
            elif name in real and not (node.op_type == 'Resize' and index > 0):
                if name in weights and name not in converted:
                    converted.add(name)
                    graph.initializer.append(_half_weights(weights[name]))
                elif name not in computed:
                    cast(name, TensorProto.FLOAT16)
                node.input[index] = _half(name)
        nodes.append(node)
        if in_fp16:
            for index, name in enumerate(node.output):
                if name in real:
                    computed.add(name)
                    node.output[index] = _half(name)
    for value in graph.output:
        if value.name in computed:
            cast(value.name, TensorProto.FLOAT)

    used = {name for node in nodes for name in node.input}
    kept = [i for i in graph.initializer if i.name in used]
    replace_items(graph.node, nodes)
    replace_items(graph.initializer, kept)
    replace_items(graph.value_info, [])
    onnx.checker.check_model(result, full_check=True)
    return result


def _half(name: str) -> str:
    return f'{name}_fp16'


def _half_weights(weights: TensorProto) -> TensorProto:
    limit = np.finfo(np.float16).max
    values = np.clip(numpy_helper.to_array(weights), -limit, limit)
    return numpy_helper.from_array(values.astype(np.float16), _half(weights.name))


def _in_fp16(nodes: Sequence[NodeProto]) -> list[bool]:
    """Which nodes, in their order, which is topological, are to be computed in fp16."""
    after, before = _reached(nodes), _reached(nodes, backwards=True)
    return [
        a and b and node.op_type not in _KEPT
        for node, a, b in zip(nodes, after, before, strict=True)
    ]


def _reached(nodes: Sequence[NodeProto], backwards: bool = False) -> list[bool]:
    """Which nodes are, or come after (``backwards``: before), a node with weights."""
    tensors: set[str] = set()
    reached = []
    for node in reversed(nodes) if backwards else nodes:
        sources, targets = node.input, node.output
        if backwards:
            sources, targets = targets, sources
        reached.append(node.op_type in _WEIGHTED or not tensors.isdisjoint(sources))
        if reached[-1]:
            tensors.update(name for name in targets if name)
    return reached[::-1] if backwards else reached
