"""Recordings and networks that are made up for benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from depth_ros.bags.messages import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE
from depth_ros.bags.writer import BagWriter
from depth_ros.core.camera import Intrinsics
from depth_ros.inference.contract import ModelContract, read_contract, write_contract

RATE_HZ = 10
"""Images a second of a recording."""

LOOP = 60
"""Number of different images of a recording in JPEG."""


def write_recording(
    path: Path, size: tuple[int, int], frames: int, contract: ModelContract, jpeg: bool = False
) -> Path:
    """Write a recording of a texture that moves, at `RATE_HZ`, as raw rgb8 images or as JPEG.

    Args:
        path: Folder to write.
        size: Width and height.
        frames: How many images.
        contract: Contract of a network; the recording gets its camera.
        jpeg: Whether to compress; the images then repeat after `LOOP` of them.
    """
    width, height = size
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (height, width + 4 * LOOP, 3), np.uint8)
    if jpeg:  # no camera sees mere noise
        coarse = cv2.resize(texture[::8, ::8], texture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        texture = cv2.add(coarse, texture // 10)
    matrix = contract.camera.resized(width, height).matrix
    pictures = {}
    with BagWriter(path) as bag:
        types = bag.types.types
        region = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        for index in range(frames):
            stamp_ns = 10**9 + index * 10**9 // RATE_HZ
            header = types['std_msgs/msg/Header'](
                types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 10**9)), 'camera'
            )
            step = index % LOOP
            pixels = np.ascontiguousarray(texture[:, 4 * step : 4 * step + width])
            if jpeg:
                if step not in pictures:
                    pictures[step] = cv2.imencode('.jpg', pixels)[1].reshape(-1)
                bag.write(
                    '/camera/image_rect/compressed',
                    COMPRESSED_IMAGE,
                    stamp_ns,
                    types[COMPRESSED_IMAGE](header, 'jpeg', pictures[step]),
                )
            else:
                bag.write(
                    '/camera/image_rect',
                    IMAGE,
                    stamp_ns,
                    types[IMAGE](header, height, width, 'rgb8', 0, 3 * width, pixels.reshape(-1)),
                )
            bag.write(
                '/camera/camera_info',
                CAMERA_INFO,
                stamp_ns,
                types[CAMERA_INFO](
                    header,
                    height,
                    width,
                    'plumb_bob',
                    np.zeros(5),
                    matrix.ravel(),
                    np.eye(3).ravel(),
                    np.insert(matrix, 3, 0, axis=1).ravel(),
                    0,
                    0,
                    region,
                ),
            )
    return path


def write_idle_model(source: Path, path: Path) -> Path:
    """Write a model with the contract of another one whose outputs are constants, at no cost."""
    import onnx

    contract = read_contract(source)
    tensors = []
    rng = np.random.default_rng(0)
    for name, (kind, shape) in contract.tensor_shapes().items():
        if name in contract.inputs:
            continue
        if name == 'depth':
            rows = np.linspace(60, 4, shape[-2])[:, None] + rng.uniform(0, 1, shape)
            values = rows.astype(kind)
        elif name == 'labels':
            values = np.broadcast_to(np.arange(shape[-1]) // 64 % len(contract.classes), shape)
        else:
            values = np.array([0, 0.001, 0, 0, 0, 0.8]).reshape(shape)
        tensors.append(onnx.numpy_helper.from_array(values.astype(kind), f'{name}_value'))
    shapes = contract.tensor_shapes()
    types = {'uint8': onnx.TensorProto.UINT8, 'float32': onnx.TensorProto.FLOAT}

    def describe(names: Iterable[str]) -> list:
        return [
            onnx.helper.make_tensor_value_info(n, types[shapes[n][0]], shapes[n][1]) for n in names
        ]

    graph = onnx.helper.make_graph(
        [onnx.helper.make_node('Identity', [f'{n}_value'], [n]) for n in contract.outputs],
        'idle',
        describe(contract.inputs),
        describe(contract.outputs),
        tensors,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 17)])
    model.ir_version = 8
    write_contract(model, contract)
    onnx.save(model, path)
    return path


def corridor_views(count: int, camera: Intrinsics, step: float = 0.5) -> Iterator[np.ndarray]:
    """What a camera sees that drives ahead between two walls: uint8 (H, W, 3), random texture.

    Args:
        count: how many images.
        camera: the camera, 1.65 m over the ground and 4 m from each wall.
        step: metres from one image to the next.
    """
    random = np.random.default_rng(0)
    texture = cv2.resize(random.integers(0, 256, (512, 512), np.uint8), (2048, 2048))
    x, y = (np.arange(n) for n in (camera.width, camera.height))
    across, down = np.meshgrid((x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy)
    with np.errstate(divide='ignore'):
        ground = np.where(down > 0, 1.65 / down, np.inf)
        wall = 4.0 / np.abs(across)
    depth = np.minimum(np.minimum(ground, wall), 60.0)
    side = np.where(ground < wall, across, down) * depth
    for index in range(count):
        u, v = (depth + index * step) * 40, side * 40
        grey = cv2.remap(
            texture, (u % 2047).astype(np.float32), (v % 2047).astype(np.float32), cv2.INTER_LINEAR
        )
        yield np.repeat(grey[..., None], 3, axis=2)
