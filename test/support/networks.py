"""Images and weights to try networks with."""

import torch
from torch import nn

WIDTH, HEIGHT = 96, 64


def image(batch=1, height=HEIGHT, width=WIDTH, **kwargs):
    return torch.rand(batch, 3, height, width, **kwargs)


def count(net):
    return sum(p.numel() for p in net.parameters())


def trained(net):
    """``net`` in eval mode, with batch-norm statistics and scales that are not the first ones."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()
