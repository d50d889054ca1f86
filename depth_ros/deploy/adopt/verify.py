"""Checking that an adopted network gives what the foreign one gives."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from depth_ros.core.labels import UNLABELED
from depth_ros.core.se3 import pose, rotation_from_vector, vector_from_rotation
from depth_ros.deploy.adopt.inspect import NetworkInputs, NetworkOutputs, map_size
from depth_ros.deploy.adopt.options import DEPTH_KINDS, AdoptionError, Options
from depth_ros.inference.contract import ModelContract

BOUNDS, COARSE_BOUNDS = (1e-4, 0.999), (1e-2, 0.98)
"""Largest relative difference of depth and motion from the foreign network's, and least share of
pixels with the same class. Networks that compute in half precision or integers have the coarse
bounds: they magnify the differences between the rounding of the added operators and numpy's."""


def expected_outputs(
    found: Mapping[str, np.ndarray],
    inputs: NetworkInputs,
    outputs: NetworkOutputs,
    options: Options,
    contract: ModelContract,
) -> dict[str, np.ndarray]:
    """What an adopted network must give, computed with numpy from the foreign one's outputs.

    Args:
        found: outputs of the foreign network, by name.
        inputs, outputs: what was found out about it.
        options: what its file does not say.
        contract: the contract of the adopted network.

    Returns:
        Values of the contract's outputs, by name.
    """
    size = inputs.size
    result: dict[str, np.ndarray] = {}
    if outputs.depth:
        raw = found[outputs.depth].astype(np.float64)
        raw = cv2.resize(raw.reshape(map_size(raw.shape)), size, interpolation=cv2.INTER_LINEAR)
        near, far = contract.depth_limits
        kind = options.kind(DEPTH_KINDS)
        if kind == 'affine-inverse':
            raw = 1 / np.maximum(raw + options.offset, 1 / far)
        elif kind == 'inverse':
            raw = 1 / np.maximum(raw, 0.5 / far)
        elif kind == 'sigmoid':
            raw = 1 / (1 / far + (1 / near - 1 / far) * raw)
        result['depth'] = raw
    if outputs.labels:
        raw = found[outputs.labels]
        if outputs.label_kind == 'ids':
            ids = raw.reshape(map_size(raw.shape)).astype(np.float64)
            ids = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST_EXACT)
            known = (ids > -0.5) & (ids < len(contract.classes) - 0.5)
            result['labels'] = np.where(known, ids, UNLABELED).astype(np.uint8)
        else:
            scores = raw.reshape(raw.shape[-3:]).astype(np.float32)
            scores = scores if outputs.channels_last else scores.transpose(1, 2, 0)
            # One channel at a time: OpenCV resizes at most four channels of floats.
            best = np.stack(
                [
                    cv2.resize(scores[..., i], size, interpolation=cv2.INTER_LINEAR)
                    for i in range(np.size(scores, -1))
                ]
            )
            result['labels'] = best.argmax(axis=0).astype(np.uint8)
    if outputs.pose:
        parts = [found[n].astype(np.float64).reshape(-1) for n in outputs.pose]
        vector = parts[0][:6] if len(parts) == 1 else np.concatenate([p[:3] for p in parts])
        if len(parts) == 1 and options.pose_order == 'translation-rotation':
            vector = np.roll(vector, 3)
        if options.rotation == 'euler-xyz':
            turns = [rotation_from_vector(v * np.eye(3)[i]) for i, v in enumerate(vector[:3])]
            vector = np.concatenate(
                (vector_from_rotation(turns[0] @ turns[1] @ turns[2]), vector[3:])
            )
        if options.pose_inverse:
            step = np.linalg.inv(pose(rotation_from_vector(vector[:3]), vector[3:]))
            vector = np.concatenate((-vector[:3], step[:3, 3]))
        result['pose'] = vector
    return result


def compare_outputs(
    actual: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    contract: ModelContract,
    bounds: tuple[float, float],
) -> dict[str, float]:
    """How far outputs are from what they must be.

    Args:
        actual, expected: outputs by name.
        contract: the contract of the adopted network.
        bounds: :data:`BOUNDS` or :data:`COARSE_BOUNDS`.

    Returns:
        By output, the largest relative difference; for labels, the share of equal pixels.

    Raises:
        AdoptionError: if an output is out of bounds.
    """
    difference = {}
    for name, value in actual.items():
        wanted = expected[name]
        if name == 'labels':
            difference[name] = float((value == wanted).mean())
            bad = difference[name] < bounds[1]
        else:
            # Inverse depth may be near 0, where a relative error means nothing.
            inverse = name == 'depth' and contract.provenance['output_kind'] in (
                'inverse',
                'affine-inverse',
            )
            a, b = (
                1 / v.astype(np.float64) if inverse else v.astype(np.float64)
                for v in (value, wanted)
            )
            size = np.maximum(np.abs(b), max(np.abs(b).mean(), 1e-12))
            difference[name] = float((np.abs(a - b) / size).max())
            bad = not difference[name] <= bounds[0]
        if bad:
            raise AdoptionError(
                f"{name} of the adopted network differs from the foreign one's "
                f'({difference[name]:.3g}); nothing was written'
            )
    return difference


def remarks(found: Mapping[str, np.ndarray], contract: ModelContract) -> list[str]:
    """Warnings about outputs that look wrong.

    Raises:
        AdoptionError: if no depth is in its range.
    """
    remarks = []
    if 'depth' in found:
        depth, (near, far) = found['depth'], contract.depth_limits
        valid = (depth >= near) & (depth <= far)
        if not valid.any():
            raise AdoptionError(
                f'no depth is within {near:g} to {far:g} ({depth.min():.3g} to '
                f'{depth.max():.3g} on the picture): give another --depth-range, '
                '--output-kind or normalisation'
            )
        if not valid.all():
            remarks.append(
                f'warning: {1 - valid.mean():.1%} of the depth is outside of {near:g} '
                f'to {far:g}, and so invalid'
            )
        if contract.affine_invariant and (share := (depth >= far * 0.999).mean()) > 0.5:
            remarks.append(
                f'warning: {share:.0%} of the inverse depth is 0 or less; if it may be '
                'negative, add something with --offset'
            )
        if depth.max() < depth.min() * (1 + 1e-4):
            remarks.append('warning: depth is the same everywhere; is the normalisation right?')
    if 'labels' in found and len(np.unique(found['labels'])) == 1:
        remarks.append('warning: the whole picture is one class; is the normalisation right?')
    return remarks
