"""``python -m train export``: from a checkpoint to the two files that depth_ros runs."""

from __future__ import annotations

import argparse
import re
from datetime import date
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from tqdm import tqdm

import depth_ros
from depth_ros.files import write_file
from depth_ros.inference.classes import CITYSCAPES, ROAD
from depth_ros.inference.contract import POSE_CONVENTION, ModelContract, write_contract
from train.data.mixture import find_training_sequences
from train.data.sequences import Sequence, read_image, scaled_intrinsics
from train.geometry import rotation_from_euler
from train.losses.camera_height import camera_height
from train.losses.table import TERMS
from train.networks.perception import fuse_for_inference, resize
from train.training.system import System, load_system

OUTPUTS = ('depth', 'labels', 'pose')
OPSET = 18  # what TensorRT 10.3 and every ONNX Runtime since 1.14 read


class DeployedPerception(nn.Module):
    """uint8 image in, depth and, if the network has them, class ids at network size out.

    Args:
        net: of :func:`train.networks.perception.make_perception`.
        scale: metres, or whatever depth shall be in, per model unit.
        size: (height, width) of the network; ``None``: of the images.
    """

    def __init__(self, net: nn.Module, scale: float, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.net, self.scale, self.size = net, scale, size

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Image uint8 (1, H, W, 3) -> depth float32, labels uint8, (H, W) of the network."""
        image = _normalised(image, self.size)
        size = image.shape[2:]
        prediction = self.net(image)
        # Disparity, not depth, is what the training interpolates.
        depth = self.scale / resize(prediction.disparities[0], *size)[0, 0]
        if prediction.logits is None:
            return (depth,)
        # Over the last dimension: that is how runtimes hold them, and what they search fastest.
        logits = resize(prediction.logits, *size).permute(0, 2, 3, 1)
        return depth, logits.argmax(3)[0].to(torch.uint8)


class DeployedPose(nn.Module):
    """Two uint8 images in, relative pose out.

    Args:
        net: of :func:`train.networks.pose.make_pose`.
        scale, size: as of :class:`DeployedPerception`.
    """

    def __init__(self, net: nn.Module, scale: float, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.net, self.scale, self.size = net, scale, size

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        """Images uint8 (1, H, W, 3) -> pose float32 (6,)."""
        frames = _normalised(previous, self.size), _normalised(current, self.size)
        if self.net.pairs:
            rotation, translation = self.net(*frames)[0].split(3)
        else:
            poses, _ = self.net(torch.stack(frames, 1))
            translation, angles = poses[0, 0, :3], poses[0, :, 3:]
            rotation = vector_from_rotation(rotation_from_euler(angles))[0]
        return torch.cat([rotation, self.scale * translation])


def vector_from_rotation(rotation: Tensor) -> Tensor:
    """Rotation vectors (B, 3), radians, of matrices (B, 3, 3) that turn less than 120 degrees.

    Through the quaternion, 2 atan(|v| / w) v / |v|, with operators that every runtime has.
    """
    trace = rotation[:, 0, 0] + rotation[:, 1, 1] + rotation[:, 2, 2]
    w = (1 + trace).sqrt() / 2
    v = torch.stack(
        [
            rotation[:, 2, 1] - rotation[:, 1, 2],
            rotation[:, 0, 2] - rotation[:, 2, 0],
            rotation[:, 1, 0] - rotation[:, 0, 1],
        ],
        1,
    ) / (4 * w[:, None])
    length = ((v * v).sum(1, keepdim=True) + 1e-20).sqrt()
    return 2 * torch.atan(length / w[:, None]) / length * v


def _normalised(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """uint8 (1, h, w, 3) -> float32 0..1 (1, 3, H, W), resized as ``ImageFit.to_network`` does."""
    # TensorRT transposes floats but not bytes: cast first.
    image = image.float().permute(0, 3, 1, 2)
    height, width = image.shape[2:]
    if size not in (None, (height, width)):
        factor = 1
        while (
            min(height // size[0], width // size[1]) >= 2 * factor
            and height % (2 * factor) == width % (2 * factor) == 0
        ):
            factor *= 2
        if factor > 1:
            image = avg_pool2d(image, factor)
        # Whole numbers are what the network was trained on; fractions move its depth by a percent.
        image = resize(image, *size).round()
    return image / 255


def _image_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; give width and height, as 1280x720")
    return int(match[1]), int(match[2])


def _outputs(text: str) -> tuple[str, ...]:
    names = text.split(',')
    if not set(names) <= set(OUTPUTS) or 'labels' in names and 'depth' not in names:
        raise argparse.ArgumentTypeError(
            f"'{text}' must be some of {', '.join(OUTPUTS)}, with commas; labels come with depth"
        )
    return tuple(name for name in OUTPUTS if name in names)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument('checkpoint', type=Path, help='best.ckpt or last.ckpt of a run')
    parser.add_argument('--out', type=Path, default=Path('models'), help='folder (%(default)s)')
    parser.add_argument(
        '--data',
        type=Path,
        help='sequences of the camera, for its intrinsics and the metric scale '
        "(default: the run's training data)",
    )
    parser.add_argument(
        '--camera-height',
        type=float,
        metavar='METRES',
        help='height of the camera over the road; makes the models metric',
    )
    parser.add_argument(
        '--outputs',
        type=_outputs,
        metavar='NAME,...',
        help='what is wanted of depth, labels and pose; the rest is left out of '
        'the graphs (default: all that the checkpoint has)',
    )
    parser.add_argument(
        '--image-size',
        type=_image_size,
        metavar='WxH',
        help="size of the camera's images, which the graphs then take whole and "
        'resize themselves, for a GPU (default: the nodes resize them)',
    )
    parser.add_argument('--name', default='street', help='name of the networks (%(default)s)')
    parser.add_argument('--license', default='unknown', help='licence of the weights')


def run(args: argparse.Namespace) -> None:
    """Export a checkpoint."""
    if args.camera_height is not None and not args.camera_height > 0:
        raise ValueError(f'--camera-height {args.camera_height}: must be positive, in metres')
    system = load_system(args.checkpoint)
    config = system.config
    outputs = _wanted(system, args.outputs)
    sequences = find_training_sequences(args.data or config.data)
    matrix = camera_matrix(system, sequences[0])
    scale, metric = 1.0, any(t.metric and t.weight_in(config) for t in TERMS)
    if args.camera_height is not None:
        scale, frames = metric_scale(
            system, fuse_for_inference(system.perception), sequences, args.camera_height
        )
        print(f'metric scale {scale:.3f} from the road in {frames} frames')
        metric = True
    provenance = {
        'data': str(args.data or config.data),
        'images': sum(len(s.images) for s in sequences),
        'steps': system.trained_steps,
        'date': date.today().isoformat(),
        'software': f'depth_ros {depth_ros.__version__}, torch {torch.__version__}',
        'license': args.license,
        'metric_scale': scale,
        'camera_height': args.camera_height,
    }
    common = {
        'input_width': config.width,
        'input_height': config.height,
        'intrinsics': tuple(float(matrix[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2))),
        'metric': metric,
        'provenance': provenance,
    }
    size = config.height, config.width
    if args.image_size not in (None, size[::-1]):
        common['image_size'] = args.image_size
    if 'depth' in outputs:
        labels = 'labels' in outputs
        write_model(
            DeployedPerception(fuse_for_inference(system.perception, labels), scale, size),
            ModelContract(
                task='perception',
                name=f'{args.name}_perception',
                outputs=('depth', 'labels') if labels else ('depth',),
                classes=CITYSCAPES if labels else (),
                depth_range=(config.min_depth * scale, config.max_depth * scale),
                **common,
            ),
            args.out / 'perception.onnx',
        )
    if 'pose' in outputs:
        write_model(
            DeployedPose(system.pose, scale, size),
            ModelContract(
                task='pose',
                name=f'{args.name}_pose',
                outputs=('pose',),
                pose_convention=POSE_CONVENTION,
                **common,
            ),
            args.out / 'pose.onnx',
        )


def _wanted(system: System, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """The outputs to export: those asked for, or all that there are.

    Raises:
        ValueError: if one is asked for that the networks do not have.
    """
    missing = {}
    if not (system.config.semantics and 'logits' in system.perception.outputs):
        missing['labels'] = 'the network has no semantics; train it with --semantics true'
    if not system.pose.pairs and system.config.views > 2:
        missing['pose'] = (
            f'this pose network sees {system.config.views} frames at once, the odometry node has '
            'two. Train it with --views 2, or with --pose-network light or resnet'
        )
    for name in asked or ():
        if name in missing:
            raise ValueError(f'--outputs {name}: {missing[name]}')
    if asked is None and 'pose' in missing:
        print(f'no pose model: {missing["pose"]}')
    return asked or tuple(name for name in OUTPUTS if name not in missing)


@torch.inference_mode()
def camera_matrix(system: System, sequence: Sequence, samples: int = 20) -> np.ndarray:
    """Intrinsics (3, 3) of a sequence at network size: as calibrated, or as the network learnt them
    (the median over samples)."""
    config = system.config
    if config.focal:  # the network's own camera, whatever the data's
        center = (config.width - 1) / 2, (config.height - 1) / 2
        return np.array([[config.focal, 0, center[0]], [0, config.focal, center[1]], [0, 0, 1]])
    if system.camera is None:
        return scaled_intrinsics(sequence, config.width, config.height).astype(float)
    last = len(sequence.images) - config.views
    found = []
    for start in np.linspace(0, last, min(samples, last + 1), dtype=int):
        frames = np.stack(
            [
                read_image(path, config.width, config.height)
                for path in sequence.images[start : start + config.views]
            ]
        )
        frames = torch.from_numpy(frames).permute(0, 3, 1, 2)[None] / 255
        found.append(system.motion(frames).intrinsics[0].double().numpy())
    return np.median(found, 0)


@torch.inference_mode()
def metric_scale(
    system: System, net: nn.Module, sequences: list[Sequence], height: float, frames: int = 200
) -> tuple[float, int]:
    """Metres per model unit: the median, over frames, of true by estimated camera height.

    The road is where the network says so; without a semantic decoder, the ground ahead.

    Raises:
        ValueError: if hardly any frame shows a road.
    """
    images = [(s, path) for s in sequences for path in s.images]
    chosen = np.linspace(0, len(images) - 1, min(frames, len(images)), dtype=int)
    images = [images[i] for i in chosen]
    config, deployed = system.config, DeployedPerception(net, 1.0)
    cameras: dict[Path, np.ndarray] = {}
    ratios = []
    for sequence, path in tqdm(images, desc='scale', unit='frame', disable=None):
        image = torch.from_numpy(read_image(path, config.width, config.height))[None]
        if sequence.folder not in cameras:
            cameras[sequence.folder] = camera_matrix(system, sequence)
        depth, *labels = deployed(image)
        road = labels[0] == ROAD if labels else torch.ones_like(depth, dtype=torch.bool)
        estimate = camera_height(
            1 / depth[None, None], road[None], torch.from_numpy(cameras[sequence.folder])[None]
        ).item()
        if np.isfinite(estimate):
            ratios.append(height / estimate)
    if len(ratios) < max(3, len(images) // 10):
        raise ValueError(
            f'the road is seen in {len(ratios)} of {len(images)} frames only: give '
            '--data with road in front of the camera, or leave out --camera-height'
        )
    return float(np.median(ratios)), len(ratios)


def write_model(net: nn.Module, contract: ModelContract, path: Path) -> None:
    """Export ``net`` to ``path`` with its contract; the file appears whole or not at all."""
    # Of one tensor given twice the exporter would use one input only.
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
    """Remove the exporter's debugging notes: each node carries its Python stack, with the paths of
    the machine that exported it."""
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
