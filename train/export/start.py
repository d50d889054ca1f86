"""Writing a small checkpoint from which other trainings can start (``fit --init``)."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from depth_ros.files import write_file
from train.training.system import System


def write_start(system: System, path: Path, pose: System | None = None) -> None:
    """Write the networks of a checkpoint in half precision, without the optimiser's state.

    The file can be evaluated and exported like any checkpoint. Half precision rounds each weight
    by up to a thousandth of it.

    Args:
        system: the networks.
        path: file to write, whole or not at all.
        pose: networks of another checkpoint from which to take the pose network.

    Raises:
        ValueError: if the two pose networks are of different kinds.
    """
    state = dict(system.state_dict())
    if pose is not None:
        other = {k: v for k, v in pose.state_dict().items() if k.startswith('pose.')}
        mine = {k: v.shape for k, v in state.items() if k.startswith('pose.')}
        if mine != {k: v.shape for k, v in other.items()}:
            raise ValueError('the two checkpoints have different pose networks')
        state.update(_for_focal(other, pose.config.focal, system.config.focal))
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    content = {
        'state_dict': half,
        'hyper_parameters': dict(system.hparams),
        'global_step': system.trained_steps,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, buffer.getvalue())
    print(f'wrote {path} ({path.stat().st_size / 1e6:.1f} MB)')


def _for_focal(state: dict[str, Tensor], old: float, new: float) -> dict[str, Tensor]:
    """Convert the state of a pose network of pairs to another focal length of its own camera.

    The last layer is scaled so that the network's poses change as
    :func:`train.networks.focal.pose_for_camera` says: pitch and yaw by old / new, forward steps by
    new / old.

    Args:
        state: state of the pose network.
        old, new: focal lengths, pixels at network size; 0: none, then nothing changes.
    """
    if not old or not new or old == new:
        return state
    # Weights and biases of convolutions with six outputs; the last two are those of the last layer.
    ends = [k for k, v in state.items() if k.endswith(('.weight', '.bias')) and len(v) == 6]
    factors = torch.tensor([old / new, old / new, 1, 1, 1, new / old])
    return {
        k: v * factors.view(-1, *[1] * (v.dim() - 1)) if k in ends[-2:] else v
        for k, v in state.items()
    }
