"""What TensorRT and quantisation must know of an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx

from depth_ros.inference.engine import EngineError

OPSETS = range(9, 21)
OPERATORS = frozenset(
    """
    Abs Add And ArgMax ArgMin Atan AveragePool BatchNormalization Cast Ceil Clip Concat Constant
    ConstantOfShape Conv ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal
    Erf Exp Expand
    Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater
    GreaterOrEqual GridSample HardSigmoid HardSwish Identity InstanceNormalization IsNaN
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mul
    Neg Not Or Pad Pow PRelu QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceMax
    ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu
    Shape Sigmoid Sign Sin Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum
    Tan Tanh Tile TopK Transpose Trilu Unsqueeze Where
""".split()
)
"""Operators that networks for images use and that the parser of TensorRT 10.3, which comes with
JetPack 6, reads."""
RESIZE = {
    'antialias': {0},
    'keep_aspect_ratio_policy': {b'stretch'},
    'coordinate_transformation_mode': {
        b'align_corners',
        b'asymmetric',
        b'half_pixel',
        b'pytorch_half_pixel',
        b'tf_half_pixel_for_nn',
    },
}
"""Attributes of Resize of which it supports only some values, and these values."""


def opset(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators that a model uses; 0 if it says none."""
    return next((o.version for o in model.opset_import if o.domain in ('', 'ai.onnx')), 0)


def check_operators(model: onnx.ModelProto) -> None:
    """Check that TensorRT 10.3 can read a model.

    Raises:
        EngineError: if it cannot read an operator, the opset or a kind of tensor; the message names
            all of them.
    """
    foreign = sorted(
        {
            f'{node.domain}.{node.op_type}'.lstrip('.')
            for node in model.graph.node
            if node.domain not in ('', 'ai.onnx') or node.op_type not in OPERATORS
        }
    )
    if foreign:
        raise EngineError(
            f'TensorRT 10.3 has no operator {", ".join(foreign)}; export the model without it'
        )
    if opset(model) not in OPSETS:
        raise EngineError(
            f'TensorRT 10.3 reads opset {OPSETS[0]} to {OPSETS[-1]}, the model has '
            f'{opset(model)}; export it with opset 18'
        )
    images = {
        value.name
        for value in model.graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    unsigned = {i.name for i in model.graph.initializer if i.data_type == onnx.TensorProto.UINT8}
    for node in model.graph.node:
        if node.op_type == 'QuantizeLinear' and not unsigned.isdisjoint(node.input[2:]):
            raise EngineError(
                'TensorRT takes no values quantised to 0..255, as CPU runtimes want '
                "them; quantise the original with 'quantize --runtime tensorrt'"
            )
        for attribute in node.attribute if node.op_type == 'Resize' else ():
            value = onnx.helper.get_attribute_value(attribute)
            if attribute.name in RESIZE and value not in RESIZE[attribute.name]:
                raise EngineError(
                    f'TensorRT 10.3 has no Resize with {attribute.name} '
                    f"{value!r} ('{node.name}'); export the model without it"
                )
        if node.op_type != 'Cast' and not images.isdisjoint(node.input):
            raise EngineError(
                f'TensorRT 10.3 takes bytes into Cast only, but {node.op_type} '
                f"'{node.name}' reads an image; cast it first"
            )


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether a graph has quantised values."""
    return any(node.op_type == 'DequantizeLinear' for node in model.graph.node)


def quantized_for(model: onnx.ModelProto) -> str | None:
    """The runtime that :mod:`depth_ros.deploy.quantize` quantised a graph for, or ``None``."""
    if not is_quantized(model):
        return None
    unsigned = {i.name for i in model.graph.initializer if i.data_type == onnx.TensorProto.UINT8}
    if not any(
        node.op_type == 'QuantizeLinear' and not unsigned.isdisjoint(node.input[2:])
        for node in model.graph.node
    ):
        return 'tensorrt'
    steps = {node.output[0] for node in model.graph.node if node.op_type == 'DequantizeLinear'}
    biases = any(
        node.op_type == 'Conv' and not steps.isdisjoint(node.input[2:]) for node in model.graph.node
    )
    return 'onnxruntime' if biases else 'openvino'


def replace_items(field: Any, items: Iterable[Any]) -> None:
    """Replace what is in a repeated field of a protobuf message, such as a graph's nodes.

    Args:
        field: the field.
        items: its new items, which may be some of the old ones.
    """
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)
