"""Our parts to time: losses, networks and a training step of FSRE-Depth, on random images."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depth_ros.allocator import keep_memory
from depth_ros.inference.classes import CITYSCAPES
from train.bench.turns import Code, Work
from train.geometry import transform_from_pose
from train.losses.triplet import semantic_triplet_loss
from train.losses.view_synthesis import ViewSynthesis
from train.networks.attention import CrossTaskAttention, FusedAttention
from train.networks.perception import (
    MAX_DEPTH,
    MIN_DEPTH,
    DepthNet,
    FsreNet,
    fuse_for_inference,
    make_perception,
)
from train.training.config import Config
from train.training.system import System

HEIGHT, WIDTH = 192, 640
CLASSES = 19
ATTENTION = ((256, 16), (128, 8), (64, 4))
"""Channels of the features that attend to each other, and their scale: 16 means 1/16."""


def works(folder: Path) -> Iterator[tuple[str, Code, str]]:
    """Yield everything to time, the training step last.

    Args:
        folder: folder for temporary files.

    Yields:
        Name, our code, and the method of :class:`train.bench.reference.Reference` to compare with.
    """
    yield 'photometric term, 4 scales, 2 sources', photometric, 'photometric'
    yield 'triplet loss, 3 levels', triplet, 'triplet'
    yield 'inference: attention, 3 levels, both ways', attention, 'attention'
    for outputs, semantics in (('depth', False), ('depth and semantics', True)):
        yield f'inference: network, {outputs}', partial(network, semantics), 'network'
        yield (
            f'inference: decoders with attention, {outputs}',
            partial(decoders, semantics),
            'decoders',
        )
    for file, precision, backend in exported(folder):
        yield (
            f'inference: exported, {precision}, {backend}',
            partial(engine, file, backend),
            'network',
        )
    yield 'training step', training_step, 'training_step'


def photometric() -> Work:
    """The photometric term and its gradient."""
    scene = make_scene()
    leaves = [*scene.disparities, *scene.poses]

    def work() -> None:
        # Without validity, as in the paper's code, pixels out of view take the border's colour.
        views = ViewSynthesis(
            scene.target,
            scene.sources,
            list(map(transform_from_pose, scene.poses)),
            scene.intrinsics,
            validity=False,
        )
        losses = [views(d).loss / 2**s for s, d in enumerate(scene.disparities)]
        loss = torch.stack(losses).sum()
        torch.autograd.grad(loss, leaves)

    return work


def triplet() -> Work:
    """The semantics-guided triplet loss and its gradient."""
    scene = make_scene()

    def work() -> None:
        loss, _ = semantic_triplet_loss(scene.features, scene.labels)
        torch.autograd.grad(loss, scene.features)

    return work


def attention() -> Work:
    """Inference of all attention modules."""
    # Channels last, as in the whole network: convolutions run faster on processors.
    pairs = [
        [x.contiguous(memory_format=torch.channels_last) for x in pair]
        for pair in attention_inputs()
    ]
    with torch.no_grad():
        modules = nn.ModuleList(FusedAttention(CrossTaskAttention(c).eval()) for c, _ in ATTENTION)
    return inference(partial(attend, modules.to(memory_format=torch.channels_last), pairs))


def attention_inputs() -> list[Tensor]:
    """Features of both tasks, (2, 1, C, h, w), for each level."""
    return [torch.rand(2, 1, c, HEIGHT // k, WIDTH // k) for c, k in ATTENTION]


def attend(modules: Iterable[nn.Module], pairs: Sequence[Sequence[Tensor] | Tensor]) -> None:
    """Let the features of both tasks attend to each other, at each level by its module."""
    for module, (own, other) in zip(modules, pairs, strict=True):
        module(own, other)
        module(other, own)


def network(semantics: bool) -> Work:
    """Inference of the whole network in torch."""
    return inference(partial(*_network(semantics)))


def decoders(semantics: bool) -> Work:
    """Inference of decoders and attention, in torch."""
    net, image = _network(semantics)
    assert isinstance(net, FsreNet)
    with torch.no_grad():
        net.encoder = Stored(net.encoder(image))
    return inference(partial(net, image))


def _network(semantics: bool) -> tuple[DepthNet, Tensor]:
    net = make_perception('fsre', 'resnet18', '', CLASSES, True, True)
    image = make_scene().target.contiguous(memory_format=torch.channels_last)
    return fuse_for_inference(net, semantics), image


def exported(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield file, precision and runtime of the exported network, for each installed runtime."""
    # Imported here, so that the training step's process does not load them.
    from depth_ros.inference.contract import ModelContract
    from depth_ros.inference.loader import installed_backends
    from train.export.deployed import DeployedPerception
    from train.export.model_file import write_model

    contract = ModelContract(
        task='perception',
        name='bench',
        input_width=WIDTH,
        input_height=HEIGHT,
        intrinsics=(0.58 * WIDTH, 1.92 * HEIGHT, 0.5 * WIDTH, 0.5 * HEIGHT),
        outputs=('depth', 'labels'),
        depth_range=(MIN_DEPTH, MAX_DEPTH),
        classes=CITYSCAPES,
    )
    net = make_perception('fsre', 'resnet18', '', CLASSES, True, True)
    file = folder / 'fsre.onnx'
    with redirect_stdout(io.StringIO()):
        write_model(DeployedPerception(fuse_for_inference(net), 1.0), contract, file)
    quantizes = importlib.util.find_spec('rclpy') is not None
    if not quantizes:
        print("int8 is left out, as rclpy is missing: pip install '.[ros]'")
    for backend in installed_backends():
        yield file, 'fp32', backend
        if quantizes:
            yield quantized(file, _picture()[0], backend), 'int8', backend


def engine(file: Path, backend: str) -> Work:
    """Inference of an exported file, from a uint8 image to depth and labels."""
    from depth_ros.inference.loader import load_engine

    found = load_engine(file, backend, torch.get_num_threads())
    return partial(found.infer, {'image': _picture()})


def _picture() -> np.ndarray:
    """The scene's target image, uint8 (1, H, W, 3)."""
    return (255 * make_scene().target.permute(0, 2, 3, 1)).byte().numpy()


def quantized(path: Path, picture: np.ndarray, runtime: str) -> Path:
    """Quantise a file to int8, without bounds for what that changes, as weights are random."""
    import cv2
    import onnx

    from depth_ros.deploy.quantize import quantize
    from depth_ros.inference.parity_measures import Bounds

    images = path.parent / 'images'
    images.mkdir(exist_ok=True)
    for i in range(3):
        cv2.imwrite(str(images / f'{i}.png'), np.roll(picture, 5 * i, 1))
    anything = Bounds(**{f.name: math.inf for f in fields(Bounds)} | {'label_agreement': 0.0})
    result = path.with_name(f'{runtime}.onnx')
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        onnx.save(quantize(path, images, runtime=runtime, bounds=anything), result)
    return result


def inference(work: Work) -> Work:
    """Make a work run without gradients."""
    return torch.no_grad()(work)


class Stored(nn.Module):
    """Stands in for an encoder: returns stored features."""

    def __init__(self, features: list[Tensor]) -> None:
        super().__init__()
        self.features = features

    def forward(self, _: Tensor) -> list[Tensor]:
        """Return the features, whatever the image."""
        return self.features


def make_scene() -> SimpleNamespace:
    """Make random inputs of all parts: a target, two shifted sources, labels in patches,
    disparities (four scales), poses and features."""
    torch.manual_seed(0)
    texture = F.interpolate(
        torch.rand(1, 3, HEIGHT // 8, WIDTH // 8), (HEIGHT, WIDTH + 16), mode='bicubic'
    )
    texture = (texture + 0.1 * torch.rand_like(texture)).clamp(0, 1)
    centres = torch.rand(40, 2) * torch.tensor([HEIGHT, WIDTH])
    pixels = torch.cartesian_prod(torch.arange(HEIGHT), torch.arange(WIDTH)).float()
    nearest = torch.cdist(pixels, centres).argmin(1)
    labels = torch.randint(CLASSES, (40,))[nearest].view(1, HEIGHT, WIDTH)
    return SimpleNamespace(
        target=texture[..., 8:-8].contiguous(),
        sources=[texture[..., k : k + WIDTH].contiguous() for k in (5, 11)],
        labels=labels,
        intrinsics=torch.tensor(
            [[[0.58 * WIDTH, 0, 0.5 * WIDTH], [0, 1.92 * HEIGHT, 0.5 * HEIGHT], [0, 0, 1]]]
        ),
        disparities=[
            (0.05 + 0.1 * torch.rand(1, 1, HEIGHT >> s, WIDTH >> s)).requires_grad_()
            for s in range(4)
        ],
        poses=[
            torch.tensor([[0.01, -0.01, 0.005, 0.1 * sign, 0.02, 0.3 * sign]]).requires_grad_()
            for sign in (1, -1)
        ],
        features=[
            torch.randn(1, c, HEIGHT >> s, WIDTH >> s).requires_grad_()
            for s, c in ((1, 32), (2, 64), (3, 128))
        ],
    )


def training_step() -> Work:
    """One optimiser step of the whole system, as :mod:`train.commands.fit` trains it."""
    scene = make_scene()
    # Not keyword arguments, as a type checker does not see the fields for the losses' weights.
    settings: dict[str, Any] = {
        'data': '',
        'val': '',
        'out': '',
        'width': WIDTH,
        'height': HEIGHT,
        'attention': True,
        'semantic': 0.3,
        'triplet': 0.1,
        'batch_size': 1,
        'steps': 1,
        'learning_rate': 1.5e-4,
    }
    system = System(Config(**settings))
    system.to(memory_format=torch.channels_last)
    optimizer = system.configure_optimizers()['optimizer']
    images = (torch.stack([scene.sources[0], scene.target, scene.sources[1]], 1) * 255).byte()
    batch = {
        'images': images,
        'inputs': images,
        'intrinsics': scene.intrinsics,
        'labels': scene.labels,
    }

    def step() -> None:
        optimizer.zero_grad()
        system.losses(batch).terms['loss'].backward()
        optimizer.step()

    return step


def our_work(code: Code) -> Work:
    """Make a work of our code, in a process set up as those of training and the nodes are."""
    keep_memory()
    return code()
