"""Half precision: the same network, most of it computed in fp16.

TensorRT takes the types of a graph as they are, so precision is a property of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from depth_ros.deploy.onnx_graph import replace_items

_WEIGHTED = {'Conv', 'ConvTranspose', 'Gemm', 'MatMul'}
"""Operators that take most of the time."""

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
"""Operators that stay as they are: they choose their own type, or, as sums, quotients and powers,
lose too much in fp16."""


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with its network in fp16; inputs and outputs keep their types.

    Operators between the first and the last with weights become fp16. Those before them
    (normalisation) and after them (disparity to depth, rotations, arg-max) cost little and stay
    fp32.

    Args:
        model: the model, with valid types; not changed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    graph = result.graph
    conversion = _Conversion(graph)
    for node, in_fp16 in zip(graph.node, _in_fp16(graph.node), strict=True):
        conversion.add(node, in_fp16)
    for value in graph.output:
        conversion.keep(value.name)
    nodes = conversion.nodes
    used = {name for node in nodes for name in node.input}
    kept = [i for i in graph.initializer if i.name in used]
    replace_items(graph.node, nodes)
    replace_items(graph.initializer, kept)
    replace_items(graph.value_info, [])
    onnx.checker.check_model(result, full_check=True)
    return result


class _Conversion:
    """The nodes of a graph, one after the other, with casts where types change.

    Attributes:
        nodes: the nodes so far.
    """

    def __init__(self, graph: GraphProto) -> None:
        self.nodes: list[NodeProto] = []
        self._graph = graph
        values = (*graph.input, *graph.output, *graph.value_info)
        self._weights = {i.name: i for i in graph.initializer if i.data_type == TensorProto.FLOAT}
        self._real = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._real |= self._weights.keys()
        self._computed: set[str] = set()  # tensors that fp16 nodes make
        self._converted: set[str] = set()  # tensors that exist in both types

    def add(self, node: NodeProto, in_fp16: bool) -> None:
        """Add the next node, computed in fp16 or as it is."""
        if not in_fp16:
            for name in node.input:
                self.keep(name)
            self.nodes.append(node)
            return
        for index, name in enumerate(node.input):
            # The scales of Resize are float32 in any case.
            if name in self._real and not (node.op_type == 'Resize' and index > 0):
                self._to_half(name)
                node.input[index] = _half(name)
        self.nodes.append(node)
        for index, name in enumerate(node.output):
            if name in self._real:
                self._computed.add(name)
                node.output[index] = _half(name)

    def keep(self, name: str) -> None:
        """Make sure that a tensor exists in its own type."""
        if name in self._computed:
            self._cast(name, _half(name), name, TensorProto.FLOAT)

    def _to_half(self, name: str) -> None:
        if name in self._weights and name not in self._converted:
            self._converted.add(name)
            self._graph.initializer.append(_half_weights(self._weights[name]))
        elif name not in self._computed:
            self._cast(name, name, _half(name), TensorProto.FLOAT16)

    def _cast(self, name: str, source: str, target: str, kind: int) -> None:
        if name not in self._converted:
            self._converted.add(name)
            node = helper.make_node('Cast', [source], [target], name=f'{name}_cast', to=kind)
            self.nodes.append(node)


def _half(name: str) -> str:
    return f'{name}_fp16'


def _half_weights(weights: TensorProto) -> TensorProto:
    limit = np.finfo(np.float16).max
    values = np.clip(numpy_helper.to_array(weights), -limit, limit)
    return numpy_helper.from_array(values.astype(np.float16), _half(weights.name))


def _in_fp16(nodes: Sequence[NodeProto]) -> list[bool]:
    """For each node, in topological order, whether it is computed in fp16."""
    after, before = _reached(nodes), _reached(nodes, backwards=True)
    return [
        a and b and node.op_type not in _KEPT
        for node, a, b in zip(nodes, after, before, strict=True)
    ]


def _reached(nodes: Sequence[NodeProto], backwards: bool = False) -> list[bool]:
    """For each node, whether it has weights or depends on a node with weights.

    Args:
        nodes: in topological order.
        backwards: whether a node with weights must depend on it instead.
    """
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
