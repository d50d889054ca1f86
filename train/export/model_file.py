"""Writing a network as an ONNX file with its contract."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import nn

from depth_ros.files import write_file
from depth_ros.inference.contract import ModelContract, write_contract

OPSET = 18  # read by TensorRT 10.3 and by ONNX Runtime 1.14 and newer


def write_model(net: nn.Module, contract: ModelContract, path: Path) -> None:
    """Export a network with its contract; the file is written whole or not at all.

    Args:
        net: the deployed network (:mod:`train.export.deployed`).
        contract: describes its inputs and outputs.
        path: file to write; missing parent folders are made.

    Raises:
        RuntimeError: if the exporter writes another opset than :data:`OPSET`.
        ContractError: if the graph's inputs or outputs contradict the contract.
    """
    # Each input needs its own tensor: the exporter would merge two inputs with the same one.
    images = tuple(
        torch.zeros(1, *contract.image_shape, dtype=torch.uint8) for _ in contract.inputs
    )
    program = torch.onnx.export(
        net.eval(),
        images,
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        input_names=list(contract.inputs),
        output_names=list(contract.outputs),
        external_data=False,
    )
    assert program is not None  # always with dynamo=True
    model = program.model_proto
    found = {o.domain: o.version for o in model.opset_import}['']
    if found != OPSET:
        raise RuntimeError(f'the exporter wrote opset {found}, asked for {OPSET}')
    onnx.checker.check_model(model, full_check=True)
    _strip(model)
    write_contract(model, contract)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, model.SerializeToString())
    print(f'wrote {path} ({path.stat().st_size / 1e6:.1f} MB)')


def _strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's debugging notes, in place.

    Each node carries its Python stack, with paths of the machine that exported it.
    """
    graph = model.graph
    for item in (
        model,
        graph,
        *graph.node,
        *graph.initializer,
        *graph.value_info,
        *graph.input,
        *graph.output,
    ):
        del item.metadata_props[:]
        item.doc_string = ''
