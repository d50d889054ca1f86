"""How long losses, networks and a training step of FSRE-Depth take on this machine's processor.

At 192x640, batch 1, on made-up images. With a clone of the paper's own code beside it, both take
turns, so that what else runs on the machine disturbs both alike. Each part of each code has a
process of its own: what ran before in a process moves its allocator's thresholds, and the time of
what comes after by a fifth.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
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
from train.geometry import transform_from_pose
from train.losses.triplet import semantic_triplet_loss
from train.losses.view_synthesis import ViewSynthesis
from train.networks.attention import CrossTaskAttention, FusedAttention
from train.networks.perception import (
    MAX_DEPTH,
    MIN_DEPTH,
    fuse_for_inference,
    make_perception,
)
from train.training.config import Config
from train.training.system import System

HEIGHT, WIDTH = 192, 640
CLASSES = 19
ATTENTION = ((256, 16), (128, 8), (64, 4))
"""Channels and shrinking factor of the features that attend to each other."""

NAME_WIDTH = 62

Work = Callable[[], Any]
Code = Callable[[], Work]
"""Makes what is to be timed, in the process in which it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        '--threads',
        type=int,
        default=1,
        help='1: processor time is measured; more: time on the clock (%(default)s)',
    )
    parser.add_argument(
        '--runs', type=int, default=10, help='of which the median is taken (%(default)s)'
    )
    parser.add_argument(
        '--reference',
        type=Path,
        metavar='FOLDER',
        help='clone of https://github.com/hyBlue/FSRE-Depth to compare with',
    )


def run(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        ValueError: if the reference is no clone of FSRE-Depth, or a number is not positive.
    """
    if args.threads < 1 or args.runs < 1:
        raise ValueError('--threads and --runs must be at least 1')
    if args.reference and not (args.reference / 'trainer_parallel.py').is_file():
        raise ValueError(
            f"'{args.reference}' is no clone of https://github.com/hyBlue/FSRE-Depth:"
            ' trainer_parallel.py is missing'
        )
    print(f'{WIDTH}x{HEIGHT}, batch 1, {args.threads} threads, median of {args.runs} runs, ms')
    header = f'{"paper code":>12}{"ratio":>8}' if args.reference else ''
    print(f'{"":{NAME_WIDTH}}{"ours":>12}{header}')
    with tempfile.TemporaryDirectory() as folder:
        for name, ours, theirs in works(Path(folder)):
            codes: list[Code] = [partial(_our_work, ours)]
            if args.reference:
                codes.append(partial(_reference_work, args.reference, theirs))
            times, peaks, libraries = in_turns(codes, args.threads, args.runs)
            print_row(name, times)
    own = [peak - loaded for peak, loaded in zip(peaks, libraries, strict=True)]
    print_row(f'{name}, peak memory, MB, all', peaks)
    print_row(f'{name}, peak memory, MB, without the loaded libraries', own)


def process_clock(threads: int) -> Callable[[], float]:
    """Of the processor for one thread, which others do not disturb; of the wall for more."""
    return time.process_time if threads == 1 else time.perf_counter


def print_row(name: str, values: Sequence[float]) -> None:
    """Ours, and the paper's code's if there is one, with the ratio."""
    ratio = f'{values[1] / values[0]:8.2f}' if len(values) > 1 else ''
    line = ''.join(f'{x:12.1f}' for x in values)
    print(f'{name:{NAME_WIDTH}}{line}{ratio}', flush=True)


def in_turns(codes: Sequence[Code], threads: int, runs: int) -> list[list[float]]:
    """Time works in turns, each in a process of its own.

    Args:
        codes: make the works, in their processes.
        threads: of each process.
        runs: of which the median is taken.

    Returns:
        Of each: time, ms; the most memory of its process, MB; its libraries' memory, MB.
    """
    spawn = multiprocessing.get_context('spawn')
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, spawn)) for _ in codes]
        libraries = [
            pool.submit(_prepare, code, threads).result()
            for pool, code in zip(pools, codes, strict=True)
        ]
        times = medians([lambda pool=pool: pool.submit(_take).result() for pool in pools], runs)
        peaks = [pool.submit(_memory, 'VmHWM').result() for pool in pools]
    return [times, peaks, libraries]


def medians(timed: Sequence[Callable[[], float]], runs: int) -> list[float]:
    """The median time of each, one after the other in turns."""
    times = [[work() for work in timed] for _ in range(runs + 2)][2:]  # the first two warm up
    return [statistics.median(found) for found in zip(*times, strict=True)]


def _prepare(code: Code, threads: int) -> float:
    """Make this process ready to work; returns the memory of its libraries, MB."""
    global _work
    torch.set_num_threads(threads)
    libraries = _memory('VmRSS')
    _work = partial(_timed, code(), process_clock(threads))
    return libraries


def _take() -> float:
    """Time of this process's work, ms."""
    return _work()


def _timed(work: Work, clock: Callable[[], float]) -> float:
    """Time that it takes, ms."""
    start = clock()
    work()
    return 1e3 * (clock() - start)


def works(folder: Path) -> Iterator[tuple[str, Code, str]]:
    """Name, our code and the paper's code's method of everything that is timed, the training step
    last.

    Args:
        folder: for files that are needed meanwhile.
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
        # The paper's code counts what lies outside the view with the border's colour.
        views = ViewSynthesis(
            scene.target,
            scene.sources,
            list(map(transform_from_pose, scene.poses)),
            scene.intrinsics,
            validity=False,
        )
        loss = sum(views(d).loss / 2**s for s, d in enumerate(scene.disparities))
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
    # As in the whole network: on processors, convolutions of channels-last features run faster.
    pairs = [
        [x.contiguous(memory_format=torch.channels_last) for x in pair]
        for pair in attention_inputs()
    ]
    with torch.no_grad():
        modules = nn.ModuleList(FusedAttention(CrossTaskAttention(c).eval()) for c, _ in ATTENTION)
    return inference(partial(attend, modules.to(memory_format=torch.channels_last), pairs))


def attention_inputs() -> list[Tensor]:
    """Features (2, 1, C, h, w) of both tasks at every level."""
    return [torch.rand(2, 1, c, HEIGHT // k, WIDTH // k) for c, k in ATTENTION]


def attend(modules: Sequence[nn.Module], pairs: Sequence[Sequence[Tensor]]) -> None:
    """Let both tasks' features attend to each other, each pair by its module."""
    for module, (own, other) in zip(modules, pairs, strict=True):
        module(own, other)
        module(other, own)


def network(semantics: bool) -> Work:
    """Inference of the whole network in torch."""
    return inference(partial(*_network(semantics)))


def decoders(semantics: bool) -> Work:
    """Inference of decoders and attention, in torch."""
    net, image = _network(semantics)
    with torch.no_grad():
        net.encoder = Stored(net.encoder(image))
    return inference(partial(net, image))


def _network(semantics: bool) -> tuple[nn.Module, Tensor]:
    net = make_perception('fsre', 'resnet18', '', CLASSES, True, True)
    image = make_scene().target.contiguous(memory_format=torch.channels_last)
    return fuse_for_inference(net, semantics), image


def exported(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """File, precision and runtime of the exported network, with every runtime for the processor."""
    # Not needed to train, so not to be in the memory of the training step.
    from depth_ros.inference.contract import ModelContract
    from depth_ros.inference.loader import installed_backends
    from train.commands.export import DeployedPerception, write_model

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
    if not quantizes:  # to quantise reads recordings
        print("int8 is left out, as rclpy is missing: pip install '.[ros]'")
    for backend in installed_backends():
        yield file, 'fp32', backend
        if quantizes:
            yield quantized(file, _picture()[0], backend), 'int8', backend


def engine(file: Path, backend: str) -> Work:
    """Inference of an exported file, from bytes to depth and labels."""
    from depth_ros.inference.loader import load_engine

    found = load_engine(file, backend, torch.get_num_threads())
    return partial(found.infer, {'image': _picture()})


def _picture() -> np.ndarray:
    """The target (1, H, W, 3), uint8."""
    return (255 * make_scene().target.permute(0, 2, 3, 1)).byte().numpy()


def quantized(path: Path, picture: np.ndarray, runtime: str) -> Path:
    """The file in int8, whatever that does to the results of random weights."""
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
    """Without a graph for gradients."""
    return torch.no_grad()(work)


class Stored(nn.Module):
    """An encoder whose features are known already."""

    def __init__(self, features: list[Tensor]) -> None:
        super().__init__()
        self.features = features

    def forward(self, _: Tensor) -> list[Tensor]:
        """Whatever the image."""
        return self.features


def make_scene() -> SimpleNamespace:
    """Images that move, labels in patches, random disparities, poses and features."""
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
    system = System(
        Config(
            data='',
            val='',
            out='',
            width=WIDTH,
            height=HEIGHT,
            attention=True,
            semantic=0.3,
            triplet=0.1,
            batch_size=1,
            steps=1,
            learning_rate=1.5e-4,
        )
    )
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


def _memory(name: str) -> float:
    """Memory of this process, MB: 'VmRSS' now, 'VmHWM' at most so far."""
    # Not getrusage, whose maximum begins with the parent's memory.
    status = Path('/proc/self/status').read_text()
    return int(status.split(f'{name}:')[1].split()[0]) / 1024


class Reference:
    """The paper's own code.

    Args:
        folder: clone of FSRE-Depth.
    """

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(folder))
        self.options = SimpleNamespace(
            num_layers=18,
            pretrained=False,
            no_cma=False,
            scales=[0, 1, 2, 3],
            batch_size=1,
            height=HEIGHT,
            width=WIDTH,
            min_depth=0.1,
            max_depth=100.0,
            frame_ids=[0, -1, 1],
            cma_layers=[3, 2, 1],
            num_head=4,
            head_ratio=2,
            reprojection=1.0,
            disparity_smoothness=1e-3,
            semantic_distil=0.3,
            sgt=0.1,
            sgt_layers=[3, 2, 1],
            sgt_kernel_size=[5, 5, 5],
            sgt_margin=0.3,
        )
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            trainer = importlib.import_module('trainer_parallel').TrainerParallel
            self.trainer = trainer(self.options)

    def photometric(self) -> Work:
        """The photometric term, projection included, and its gradient."""
        scene = make_scene()
        camera, inverse = _cameras(scene)
        leaves = [*scene.disparities, *scene.poses]

        def work() -> None:
            inputs, outputs = _colours(scene), {}
            for s, disparity in enumerate(scene.disparities):
                if s:
                    disparity = F.interpolate(disparity, (HEIGHT, WIDTH), mode='bilinear')
                for frame, pose in zip((-1, 1), scene.poses, strict=True):
                    points = self.trainer.backproject_depth(1 / disparity, inverse)
                    outputs['sample', frame, s], _ = self.trainer.project_3d(
                        points, camera, transform_from_pose(pose)
                    )
            with _on_the_processor():
                loss = self.trainer.compute_reprojection(inputs, outputs)
            torch.autograd.grad(loss, leaves)

        return work

    def triplet(self) -> Work:
        """The semantics-guided triplet loss and its gradient."""
        scene = make_scene()
        labels = {('seg', 0, 0): scene.labels[:, None].float()}
        features = {('d_feature', s + 1): f for s, f in enumerate(scene.features)}
        return lambda: torch.autograd.grad(
            self.trainer.compute_sgt_loss(labels, features), scene.features
        )

    def attention(self) -> Work:
        """Inference of all attention modules."""
        module = importlib.import_module('networks.multi_embedding').MultiEmbedding
        modules = [
            module(channels, self.options.num_head, self.options.head_ratio).eval()
            for channels, _ in ATTENTION
        ]
        return inference(partial(attend, modules, attention_inputs()))

    def network(self) -> Work:
        """Inference of the whole network, depth and semantics."""
        models, image = self.trainer.models.eval(), make_scene().target
        return inference(lambda: models['decoder'](models['encoder'](image)))

    def decoders(self) -> Work:
        """Inference of both decoders with attention."""
        models = self.trainer.models.eval()
        with torch.no_grad():
            features = models['encoder'](make_scene().target)
        return inference(lambda: models['decoder'](features))

    def training_step(self) -> Work:
        """One optimiser step."""
        scene = make_scene()
        camera, inverse = _cameras(scene)
        inputs = {
            **_colours(scene),
            'K': camera,
            'inv_K': inverse,
            ('seg', 0, 0): scene.labels[:, None].float(),
        }
        inputs.update({('color_aug', f, 0): inputs['color', f, 0] for f in (-1, 0, 1)})
        for s in range(1, 4):
            inputs['color', 0, s] = F.interpolate(
                scene.target, (HEIGHT >> s, WIDTH >> s), mode='area'
            )
        optimizer = torch.optim.Adam(self.trainer.parameters_to_train, 1.5e-4)

        def step() -> None:
            self.trainer.train()
            optimizer.zero_grad()
            with _on_the_processor():
                losses, _ = self.trainer(inputs)
            losses['loss'].backward()
            optimizer.step()

        return step


def _our_work(code: Code) -> Work:
    """A work of ours, in a process set up as training and the nodes set up theirs."""
    keep_memory()
    return code()


def _reference_work(folder: Path, name: str) -> Work:
    """A work of the paper's own code."""
    return getattr(Reference(folder), name)()


def _cameras(scene: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Intrinsics (1, 4, 4) and their inverse."""
    camera = torch.eye(4)[None]
    camera[:, :3, :3] = scene.intrinsics
    return camera, torch.linalg.inv(camera)


def _colours(scene: SimpleNamespace) -> dict:
    """Full-size images by the paper's code's keys."""
    images = (scene.sources[0], scene.target, scene.sources[1])
    return {('color', frame, 0): image for frame, image in zip((-1, 0, 1), images, strict=True)}


@contextmanager
def _on_the_processor() -> Iterator[None]:
    """The paper's code moves its noise to a GPU by name: let it stay."""
    cuda = Tensor.cuda
    Tensor.cuda = lambda tensor, *_, **__: tensor
    try:
        yield
    finally:
        Tensor.cuda = cuda
