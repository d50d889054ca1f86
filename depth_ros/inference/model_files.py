"""Finding the model files that a command runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from depth_ros.inference.contract import ContractError, read_contract
from depth_ros.share import share_path

NODES = {'perception': 'perception_node', 'pose': 'odometry_node'}
"""The node that runs a model, by the model's task."""

_SHIPPED = ('models/perception.onnx', 'models/pose.onnx')


def chosen_models(given: Sequence[Path] | None) -> dict[str, Path]:
    """Find the model file of each node, by node name, and check their contracts.

    Args:
        given: Model files, or folders of .onnx files; None for the shipped ones.

    Raises:
        ContractError: if a model is missing, cannot be used, or two are for the same node.
    """
    if given is None:
        try:
            given = [share_path(name) for name in _SHIPPED]
        except FileNotFoundError as error:
            raise ContractError(
                f'the shipped models are not installed ({error}): give others with --model'
            ) from error
    files = []
    for path in given:
        found = sorted(path.glob('*.onnx')) if path.is_dir() else [path]
        if not found:
            raise ContractError(f"folder '{path}' has no .onnx file: give a model with --model")
        files += found
    models: dict[str, Path] = {}
    for path in files:
        node = NODES[read_contract(path).task]
        if node in models:
            raise ContractError(
                f"'{models[node]}' and '{path}' are both for the {node}: give one of them"
            )
        models[node] = path
    return dict(sorted(models.items(), reverse=True))  # perception first
