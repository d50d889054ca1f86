"""Choosing where a graph is quantised to int8, and inserting the quantisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from depth_ros.deploy.onnx_graph import is_quantized, opset, replace_items
from depth_ros.inference.engine import EngineError

_WEIGHTED = ('Conv', 'Gemm', 'MatMul')
_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_ENLARGING = ('Resize', 'Upsample', 'ConvTranspose', 'DepthToSpace')
_MOVING = ('Concat', 'DepthToSpace', 'Identity', 'MaxPool', 'Pad', 'Resize')
"""Operators that only move values, so that one scale fits their inputs and outputs."""


@dataclass
class QuantizationPlan:
    """Where values of a graph are quantised.

    Attributes:
        model: the graph.
        runtime: the runtime that it is quantised for.
        nodes: nodes that compute in int8.
        groups: for each tensor to quantise, the tensor whose scale it shares, which may be itself.
        sources: for the first output of each of ``nodes``, a quantised tensor with the scale of the
            node's input.
        readers: first outputs of the nodes that read quantised values.
    """

    model: onnx.ModelProto
    runtime: str
    nodes: list[NodeProto]
    groups: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)

    @classmethod
    def create(cls, model: onnx.ModelProto, runtime: str, scope: str) -> QuantizationPlan:
        """Choose what is worth quantising: convolutions and products with constant weights.

        Args:
            model: the graph; :meth:`insert` changes it.
            runtime: ``openvino``, ``onnxruntime`` or ``tensorrt``.
            scope: ``all``, or ``encoder`` for what comes before the first enlargement.

        Raises:
            EngineError: if there are none, or the graph is quantised already or too old.
        """
        if is_quantized(model):
            raise EngineError('the model is quantised already; give the original')
        if opset(model) < 13:
            raise EngineError(
                f'int8 needs opset 13, the model has {opset(model)}; export it with 18'
            )
        weights = {i.name for i in model.graph.initializer if i.data_type == TensorProto.FLOAT}
        nodes, weighted, enlarged = [], set(), set()
        for node in model.graph.node:
            after = not enlarged.isdisjoint(node.input)
            constant = node.op_type in _WEIGHTED and node.input[1] in weights
            if constant and not (scope == 'encoder' and after):
                nodes.append(node)
            if constant or not weighted.isdisjoint(node.input):
                weighted.update(node.output)
                if after or node.op_type in _ENLARGING:
                    enlarged.update(node.output)
        if not nodes:
            half = {i.name for i in model.graph.initializer if i.data_type in _HALF}
            if any(n.op_type in _WEIGHTED and n.input[1] in half for n in model.graph.node):
                raise EngineError('the model is in half precision: quantise its fp32 export')
            raise EngineError(
                'the model has no convolution or matrix product with constant '
                'weights, so int8 gains nothing'
            )
        plan = cls(model, runtime, nodes)
        plan._place()
        return plan

    def _place(self) -> None:
        """Choose the tensors to quantise.

        A tensor is quantised where it is computed, not where it is read. So runtimes can fuse
        convolution, activation and quantisation into one kernel, and operators that only move
        values move bytes.
        """
        graph = self.model.graph
        makers = {name: node for node in graph.node for name in node.output}
        users: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                users.setdefault(name, []).append(node)
        for node in self.nodes:
            self.readers.add(node.output[0])
            self.sources[node.output[0]] = self._join(node.input[0], makers)
        if self.runtime == 'onnxruntime':
            # It has int8 kernels only for nodes with quantised inputs and outputs. The last nodes
            # keep their outputs: in 8 bits, all far depths would be the same.
            leading: set[str] = set()
            for node in reversed(graph.node):
                if node.output[0] in self.readers or not leading.isdisjoint(node.output):
                    leading.update(node.input)
            for node in self.nodes:
                after = users.get(node.output[0], [])
                fused = len(after) == 1 and after[0].op_type in ('Clip', 'Relu')
                name = after[0].output[0] if fused else node.output[0]
                if name in leading:
                    self.groups.setdefault(name, name)
        self.readers.update(
            n.output[0] for n in graph.node if n.op_type == 'Add' or self.runtime == 'onnxruntime'
        )

    def _join(self, name: str, makers: Mapping[str, NodeProto]) -> str:
        """Quantise a tensor, or the tensors that it is moved from, with one scale for all of them.

        Returns:
            One of the tensors that are quantised.
        """
        sources, moved, waiting = [], [], [name]
        while waiting:
            at = waiting.pop()
            maker = makers.get(at)
            if maker is None or maker.op_type not in _MOVING or _interpolates(maker):
                sources.append(at)
                continue
            moved.append(at)
            self.readers.add(maker.output[0])
            waiting += maker.input if maker.op_type == 'Concat' else maker.input[:1]
        if self.runtime == 'onnxruntime':
            sources += moved
        for source in sources:
            self.groups.setdefault(source, source)
        roots = {self.root(source) for source in sources}
        for root in roots:
            self.groups[root] = min(roots)
        return sources[0]

    def root(self, name: str) -> str:
        """The tensor that represents all tensors with the same scale as ``name``."""
        while self.groups[name] != name:
            name = self.groups[name]
        return name

    def insert(
        self, ranges: Mapping[str, tuple[float, float]], means: Mapping[str, np.ndarray]
    ) -> None:
        """Insert the quantisation into the graph.

        Args:
            ranges: least and largest value of each tensor to quantise, by name.
            means: mean of each channel (C,) of each input of a convolution, by name.
        """
        scales = self._scales(ranges)
        graph = self.model.graph
        read = {name for node in graph.node for name in node.input}
        constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        computed = {node.output[0] for node in self.nodes}
        nodes = [pair for i in graph.input for pair in self._pair(i.name, scales)]
        for node in graph.node:
            mean = means.get(node.input[0]) if node.output[0] in computed else None
            if node.output[0] in self.readers:
                for index, name in enumerate(node.input):
                    if name in scales:
                        node.input[index] = f'{name}/dequantized'
            if node.output[0] in computed:
                scale = scales[self.sources[node.output[0]]][0]
                nodes += self._weights(node, constants, scale, mean)
            nodes.append(node)
            for name in node.output:
                nodes += self._pair(name, scales)
        used = {name for node in nodes for name in node.input}
        # A constant that no node reads may be read within a branch of a node.
        kept = [i for i in graph.initializer if i.name in used or i.name not in read]
        replace_items(graph.node, nodes)
        replace_items(graph.initializer, kept)
        replace_items(graph.value_info, [])

    def _scales(self, ranges: Mapping[str, tuple[float, float]]) -> dict[str, tuple]:
        """Scale and zero point of each tensor to quantise."""
        joined: dict[str, tuple[float, float]] = {}
        for name in self.groups:
            low, high = joined.get(self.root(name), (0.0, 0.0))
            joined[self.root(name)] = min(low, ranges[name][0]), max(high, ranges[name][1])
        scales = {}
        for name in self.groups:
            low, high = joined[self.root(name)]
            if self.runtime == 'tensorrt':
                scales[name] = np.float32(max(-low, high) / 127 or 1.0), np.int8(0)
            else:
                scale = (high - low) / 255 or 1.0
                scales[name] = np.float32(scale), np.uint8(round(-low / scale))
        return scales

    def _pair(self, name: str, scales: Mapping[str, tuple]) -> list[NodeProto]:
        """The nodes that quantise and dequantise a tensor; none if it is not to be quantised."""
        if name not in scales:
            return []
        scale = self._constant(scales[name][0], f'{name}/scale')
        zero = self._constant(scales[name][1], f'{name}/zero_point')
        return [
            helper.make_node(
                'QuantizeLinear',
                [name, scale, zero],
                [f'{name}/quantized'],
                name=f'{name}/quantize',
            ),
            helper.make_node(
                'DequantizeLinear',
                [f'{name}/quantized', scale, zero],
                [f'{name}/dequantized'],
                name=f'{name}/dequantize',
            ),
        ]

    def _weights(
        self,
        node: NodeProto,
        constants: Mapping[str, np.ndarray],
        scale: np.float32,
        mean: np.ndarray | None,
    ) -> list[NodeProto]:
        """Quantise a node's weights by output channel, and, for ONNX Runtime, its bias.

        Args:
            node: the node, which is changed.
            constants: constants of the graph, by name.
            scale: scale of the node's input.
            mean: mean of each channel of the input; ``None`` if the node is no convolution.
        """
        values = constants[node.input[1]]
        transposed = any(a.name == 'transB' and a.i for a in node.attribute)
        axis = 0 if node.op_type == 'Conv' or transposed else values.ndim - 1
        others = tuple(i for i in range(values.ndim) if i != axis)
        scales = (np.abs(values).max(others) / 127).astype(np.float32)
        scales[scales == 0] = 1.0
        steps = np.rint(values / np.expand_dims(scales, others)).astype(np.int8)
        bias = constants.get(node.input[2]) if len(node.input) > 2 else None
        if mean is not None and (bias is not None or len(node.input) == 2):
            # The bias makes up for what rounding the weights changes in the mean of the output.
            lost = values - steps * np.expand_dims(scales, others)
            lost = lost.reshape(*lost.shape[:2], -1).sum(2)
            groups = len(mean) // lost.shape[1]
            parts = np.repeat(mean.reshape(groups, -1), len(lost) // groups, 0)
            bias = (0 if bias is None else bias) + (lost * parts).sum(1).astype(np.float32)
            del node.input[2:]
            node.input.append(self._constant(bias, f'{node.output[0]}/bias'))
        nodes = [self._dequantize(node, 1, steps, scales, axis)]
        if self.runtime == 'onnxruntime' and bias is not None:
            scales = scales * scale
            limit = np.iinfo(np.int32)
            steps = np.clip(np.rint(bias / scales.astype(float)), limit.min, limit.max)
            nodes.append(self._dequantize(node, 2, steps.astype(np.int32), scales, 0))
        return nodes

    def _dequantize(
        self, node: NodeProto, index: int, steps: np.ndarray, scales: np.ndarray, axis: int
    ) -> NodeProto:
        """Replace an input of a node by dequantised constants; returns the node that makes them."""
        # Several nodes may share a constant, but not the scales of a bias.
        name = f'{node.output[0]}/{node.input[index]}'
        node.input[index] = f'{name}/dequantized'
        inputs = [
            self._constant(steps, f'{name}/quantized'),
            self._constant(scales, f'{name}/scale'),
            self._constant(np.zeros(len(scales), steps.dtype), f'{name}/zero_point'),
        ]
        return helper.make_node(
            'DequantizeLinear', inputs, [node.input[index]], name=f'{name}/dequantize', axis=axis
        )

    def _constant(self, value: np.ndarray, name: str) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _interpolates(node: NodeProto) -> bool:
    """Whether a node computes new values, as a linear Resize does."""
    modes = [a.s for a in node.attribute if a.name == 'mode']
    return node.op_type == 'Resize' and modes not in ([], [b'nearest'])
