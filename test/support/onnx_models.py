"""Tiny networks with a contract, whose outputs a test can compute by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from depth_ros.inference.contract import (
    POSE_CONVENTION,
    ModelContract,
    SemanticClass,
    write_contract,
)

CLASSES = (
    SemanticClass(0, 'road', (128, 64, 128)),
    SemanticClass(1, 'car', (0, 0, 142)),
    SemanticClass(2, 'building', (70, 70, 70)),
    SemanticClass(3, 'sky', (70, 130, 180)),
)

WIDTH, HEIGHT = 64, 48
INTRINSICS = (32.0, 32.0, 31.5, 23.5)


def row_depth(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Depth of :func:`save_perception`: 2 in the top row, 0.25 more in each row below."""
    return np.repeat(2 + 0.25 * np.arange(height, dtype=np.float32)[:, None], width, axis=1)


def save_perception(
    path: Path,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    intrinsics: tuple[float, float, float, float] = INTRINSICS,
    outputs: tuple[str, ...] = ('depth', 'labels'),
    metric: bool = True,
    depth_range: tuple[float, float] = (0.1, 1000.0),
    depth: np.ndarray | None = None,
) -> Path:
    """Write a network with ``depth``, or that of :func:`row_depth`, and labels brightness // 64.

    Label 3 is the sky.
    """
    rows = row_depth(height, width) if depth is None else depth.astype(np.float32)
    nodes = [
        helper.make_node('Cast', ['image'], ['real'], to=TensorProto.FLOAT),
        helper.make_node('ReduceMean', ['real', 'channels'], ['brightness'], keepdims=0),
    ]
    tensors = [numpy_helper.from_array(np.array([0, 3], np.int64), 'channels')]
    if 'depth' in outputs:
        tensors += [
            numpy_helper.from_array(rows, 'rows'),
            numpy_helper.from_array(np.float32(0), 'zero'),
        ]
        nodes += [
            helper.make_node('Mul', ['brightness', 'zero'], ['nothing']),
            helper.make_node('Add', ['rows', 'nothing'], ['depth']),
        ]
    if 'labels' in outputs:
        tensors += [numpy_helper.from_array(np.float32(64), 'band')]
        nodes += [
            helper.make_node('Div', ['brightness', 'band'], ['bands']),
            helper.make_node('Floor', ['bands'], ['floor']),
            helper.make_node('Cast', ['floor'], ['labels'], to=TensorProto.UINT8),
        ]
    contract = ModelContract(
        task='perception',
        name='tiny_perception',
        input_width=width,
        input_height=height,
        intrinsics=intrinsics,
        outputs=outputs,
        metric=metric,
        depth_range=depth_range if 'depth' in outputs else None,
        classes=CLASSES if 'labels' in outputs else (),
    )
    return _save(path, nodes, tensors, contract)


def save_pose(
    path: Path,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    motion: tuple[float, ...] = (0, 0, 0, 0, 0, 0.5),
    metric: bool = True,
    intrinsics: tuple[float, float, float, float] = INTRINSICS,
    fails_on_black: bool = False,
) -> Path:
    """Write a network that returns ``motion``, with t_z + 0.01 (mean current - mean previous).

    With ``fails_on_black`` it returns NaN where one of the two images is black.
    """
    nodes, names = [], []
    for name in ('previous', 'current'):
        nodes += [
            helper.make_node('Cast', [name], [f'{name}_real'], to=TensorProto.FLOAT),
            helper.make_node('ReduceMean', [f'{name}_real'], [f'{name}_mean'], keepdims=0),
        ]
        names.append(f'{name}_mean')
    nodes += [
        helper.make_node('Sub', names[::-1], ['change']),
        helper.make_node('Mul', ['change', 'weights'], ['weighted']),
        helper.make_node('Add', ['weighted', 'motion'], ['sound' if fails_on_black else 'pose']),
    ]
    tensors = [
        numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0.01], np.float32), 'weights'),
        numpy_helper.from_array(np.array(motion, np.float32), 'motion'),
    ]
    if fails_on_black:
        nodes += [
            helper.make_node('Mul', names, ['brightness']),
            helper.make_node('Div', ['brightness', 'brightness'], ['one']),  # 0 / 0 is NaN
            helper.make_node('Mul', ['sound', 'one'], ['pose']),
        ]
    contract = ModelContract(
        task='pose',
        name='tiny_pose',
        input_width=width,
        input_height=height,
        intrinsics=intrinsics,
        outputs=('pose',),
        metric=metric,
        pose_convention=POSE_CONVENTION,
    )
    return _save(path, nodes, tensors, contract)


def unneeded(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes and weights from which no output of a model comes."""
    needed, idle = {output.name for output in model.graph.output}, []
    for node in reversed(model.graph.node):
        if needed.isdisjoint(node.output):
            idle.append(node.name)
        else:
            needed.update(node.input)
    return idle + [i.name for i in model.graph.initializer if i.name not in needed]


def _save(path: Path, nodes: list, tensors: list, contract: ModelContract) -> Path:
    types = {'uint8': TensorProto.UINT8, 'float32': TensorProto.FLOAT}
    shapes = contract.tensor_shapes()

    def values(names: tuple[str, ...]) -> list:
        return [helper.make_tensor_value_info(n, types[shapes[n][0]], shapes[n][1]) for n in names]

    graph = helper.make_graph(
        nodes, 'tiny', values(contract.inputs), values(contract.outputs), tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=8)
    onnx.checker.check_model(model)
    write_contract(model, contract)
    onnx.save(model, path)
    return path
