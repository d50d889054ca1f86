"""A training on a tiny budget: its settings and batches."""

from pathlib import Path

import torch

import train
from train.data.dataset import FrameDataset
from train.training.config import Config

WIDTH, HEIGHT = 96, 64
FOCAL = 50.0
CONFIGS = Path(train.__file__).parent / 'configs'


LIGHT = {
    'network': 'light',
    'encoder': 'efficientnet_lite0',
    'pose_network': 'light',
    'full_resolution': False,
    'semantic': 0.3,
}
FSRE = {
    'network': 'fsre',
    'encoder': 'efficientnet_lite0',
    'pose_network': 'light',
    'attention': True,
    'semantic': 0.3,
    'triplet': 0.1,
}
SFM = {
    'network': 'dispnet',
    'semantics': False,
    'pose_network': 'sfm',
    'explainability': 0.2,
    'ssim': 0.0,
    'reduction': 'mean',
    'automask': False,
    'full_resolution': False,
    'scale_decay': 1.0,
    'smoothness': 0.5,
    'smoothness_order': 2,
}


def config(street, out, **changes):
    values = {
        'data': str(street),
        'val': str(street),
        'out': str(out),
        'width': WIDTH,
        'height': HEIGHT,
        'batch_size': 2,
        'steps': 4,
        'learning_rate': 1e-3,
        'schedule': 'cosine',
        'val_every': 2,
        'workers': 0,
        **LIGHT,
    }
    return Config(**{**values, **changes})


def arguments(street, out, **changes):
    """The same on the command line."""
    values = vars(config(street, out, **changes))
    return [
        word
        for name, value in values.items()
        for word in (f'--{name.replace("_", "-")}', str(value))
    ]


def batch_of(street, count=2, **options):
    data = FrameDataset(street, WIDTH, HEIGHT, **options)
    return torch.utils.data.default_collate([data[i] for i in range(count)])
