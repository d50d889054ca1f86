"""Random numbers and cameras of the tests of losses."""

import torch

from train.geometry import transform_from_pose

INTRINSICS = torch.tensor([[[8.0, 0, 3.5], [0, 8.0, 2.5], [0, 0, 1]]], dtype=torch.float64)


def random(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moved(x=0.0, y=0.0, z=0.0):
    """T_source_target of a source camera that has not turned."""
    return transform_from_pose(torch.tensor([[0, 0, 0, x, y, z]], dtype=torch.float64))
