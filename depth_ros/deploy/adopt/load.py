"""Loading a foreign network, made ready for operators to be added."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import helper, inliner, version_converter

from depth_ros.deploy.adopt.options import AdoptionError
from depth_ros.deploy.onnx_graph import opset
from depth_ros.inference.contract import METADATA_KEY

_OWN_OPSET = range(11, 21)
"""Opsets in which the operators that we add have the same meaning."""


def load_network(path: Path) -> onnx.ModelProto:
    """Read a foreign network, in an opset in which operators can be added.

    Raises:
        AdoptionError: if the file cannot be read or converted, or is a depth_ros model already.
    """
    if not path.is_file():
        what = 'is a folder' if path.is_dir() else 'does not exist'
        raise AdoptionError(f"model '{path}' {what}; give an ONNX file")
    try:
        model = onnx.load(path)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise AdoptionError(
            f"model '{path}' cannot be read as ONNX ({error}); if it has external "
            'data, that must lie beside it under its own name'
        ) from error
    if not model.graph.node:
        raise AdoptionError(
            f"model '{path}' holds no graph; the file is damaged or of another kind"
        )
    if any(p.key == METADATA_KEY for p in model.metadata_props):
        raise AdoptionError(f"model '{path}' is a depth_ros model already; use it as it is")
    if model.functions:
        model = inliner.inline_local_functions(model)
    if opset(model) not in _OWN_OPSET:
        try:
            model = version_converter.convert_version(model, 18)
        except Exception as error:  # the converter, C++, has no types of its own
            raise AdoptionError(
                f"model '{path}' has opset {opset(model)}, which cannot be converted to "
                f'18 ({error}); export it with opset 18'
            ) from error
    weights = {i.name for i in model.graph.initializer}
    images = [v for v in model.graph.input if v.name not in weights]
    match_grids(model.graph)
    in_order(model.graph)
    del model.graph.input[:]
    model.graph.input.extend(images)
    return model


def match_grids(graph: onnx.GraphProto) -> None:
    """Give the coordinates of each GridSample the type of its image.

    ONNX Runtime has no kernel for two types. Torch's older exporter leaves the coordinates of
    deformable attention in double precision.
    """
    for index, node in enumerate([n for n in graph.node if n.op_type == 'GridSample']):
        image, grid = node.input
        node.input[1] = f'adopted_grid{index}'
        graph.node.append(helper.make_node('CastLike', [grid, image], [node.input[1]]))


def in_order(graph: onnx.GraphProto) -> None:
    """Put each node of a graph behind those whose outputs it reads.

    The format asks for it, but converters to half precision add casts at the end, which ONNX
    Runtime takes.
    """
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    done: dict[int, None] = {}
    for first in range(len(graph.node)):
        waiting = [first]
        while waiting:
            index = waiting[-1]
            needed = {makers[n] for n in read_names(graph.node[index]) if n in makers}
            if index in done or not (missing := needed - done.keys() - {index}):
                done[waiting.pop()] = None
            elif not missing.isdisjoint(waiting):  # a circle, which is refused when it is run
                return
            else:
                waiting += sorted(missing)
    nodes = [graph.node[index] for index in done]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def read_names(node: onnx.NodeProto) -> set[str]:
    """Names of all tensors that a node reads, also within its branches."""
    bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    inner = [name for body in bodies for n in body.node for name in read_names(n)]
    return {*node.input, *inner, *(o.name for body in bodies for o in body.output)}
