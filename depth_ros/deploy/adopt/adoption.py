"""Making a model of a foreign ONNX network.

Operators are added to its graph that turn images into its inputs, and its outputs into depth,
labels or motion. The result is run and compared with the foreign network, around which numpy does
the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx

from depth_ros.core.labels import UNLABELED
from depth_ros.deploy.adopt.describe import describe
from depth_ros.deploy.adopt.inspect import (
    find_inputs,
    find_outputs,
    fix_sizes,
    is_coarse,
)
from depth_ros.deploy.adopt.load import load_network
from depth_ros.deploy.adopt.options import Options
from depth_ros.deploy.adopt.run import prepared, run_adopted, run_foreign
from depth_ros.deploy.adopt.verify import (
    BOUNDS,
    COARSE_BOUNDS,
    compare_outputs,
    expected_outputs,
    remarks,
)
from depth_ros.deploy.adopt.wrap import wrap
from depth_ros.deploy.onnx_graph import check_operators
from depth_ros.inference.contract import ModelContract
from depth_ros.inference.engine import EngineError


@dataclass(frozen=True)
class Adopted:
    """A foreign network that has become a model.

    Attributes:
        model: the graph, with the contract in it.
        contract: the same contract.
        outputs: its outputs for the pictures that it was tried on, by name.
        difference: by output, the largest relative difference from the foreign network's; for
            labels, the share of equal pixels.
        notes: what was guessed, and what may be wrong.
    """

    model: onnx.ModelProto
    contract: ModelContract
    outputs: dict[str, np.ndarray]
    difference: dict[str, float]
    notes: list[str]

    def text(self, stored: bool) -> str:
        """Notes and outputs for the terminal.

        Args:
            stored: whether the network was tried on the pictures that come with the package.
        """
        contract = self.contract
        lines = list(self.notes)
        if stored:
            lines.append('tried on a rendered street: give a photograph with --image to see more')
        for name, value in self.outputs.items():
            far = self.difference[name]
            if name == 'depth':
                unit = (
                    'm'
                    if contract.metric
                    else 'of unknown scale and shift'
                    if contract.affine_invariant
                    else 'model units'
                )
                text = (
                    f'{value.min():.3g} to {value.max():.3g}, median {np.median(value):.3g} '
                    f'{unit}; {far:.1e} from the foreign network'
                )
            elif name == 'labels':
                ids, counts = np.unique(value, return_counts=True)
                seen = sorted(zip(counts.tolist(), ids.tolist(), strict=True), reverse=True)[:6]
                names = dict.fromkeys([UNLABELED], 'unlabelled') | {
                    c.id: c.name for c in contract.classes
                }
                text = ', '.join(f'{names[i]} {100 * n / value.size:.0f} %' for n, i in seen)
                text += f'; {100 * far:.2f} % as the foreign network'
            else:
                text = f'{np.round(value, 5).tolist()}; {far:.1e} from the foreign network'
            lines.append(f'{name}: {text}')
        return '\n'.join(lines)


def adopt(path: Path, options: Options, pictures: Sequence[np.ndarray]) -> Adopted:
    """Make a model of a foreign network, and try it.

    Args:
        path: ONNX file; its external data, if any, lies beside it.
        options: what the file does not say.
        pictures: uint8 (H, W, 3) RGB to try it on, one or two. If there is one, a pose network gets
            it shifted a little as the second.

    Raises:
        AdoptionError: if the network, or an option, cannot be used.
        ContractError, EngineError: if the result does not run.
    """
    notes: list[str] = []
    model = load_network(path)
    inputs = find_inputs(model, options, notes)
    fix_sizes(model, inputs)
    images = [cv2.resize(p, inputs.size, interpolation=cv2.INTER_AREA) for p in pictures]
    if len(images) == 1:
        images.append(np.roll(images[0], max(1, inputs.size[0] // 64), axis=1))
    found = run_foreign(model, prepared(images, inputs, options), inputs)
    outputs = find_outputs(found, inputs, options, notes)
    contract = describe(path, inputs, outputs, options, notes)
    adopted = wrap(model, inputs, outputs, options, contract)
    expected = expected_outputs(found, inputs, outputs, options, contract)
    actual = run_adopted(adopted, contract, images)
    difference = compare_outputs(
        actual, expected, contract, COARSE_BOUNDS if is_coarse(model) else BOUNDS
    )
    notes += remarks(actual, contract)
    try:
        check_operators(adopted)
    except EngineError as error:
        notes.append(f'{error}. Other runtimes run it')
    return Adopted(adopted, contract, actual, difference, notes)
