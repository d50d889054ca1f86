"""How long everything takes on this machine: `depth_ros_bench`.

Prints inference alone, as `bench_engine` does; medians of the running nodes, for two image sizes at
10 Hz: inference, everything else in the node, and the way from publishing an image to receiving its
output; and how fast a recording is evaluated, inference left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
import onnx

from depth_ros.bags.messages import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, BagError
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import find_streams
from depth_ros.bags.writer import BagWriter
from depth_ros.commands.options import add_model_option, count
from depth_ros.evaluation.live_run import LiveSetup, run_nodes
from depth_ros.evaluation.processes import LiveError
from depth_ros.inference.contract import ContractError, ModelContract, read_contract, write_contract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.model_files import chosen_models
from depth_ros.ros.domain import claim_domain

SIZES = ((1280, 720), (640, 192))
KITTI_SIZE = 1242, 375
RATE_HZ = 10
LOOP = 60
OUTPUTS = ('depth/image_rect', 'depth/camera_info', 'semantics/labels', 'odom')


def write_recording(
    path: Path, size: tuple[int, int], frames: int, contract: ModelContract, jpeg: bool = False
) -> Path:
    """Write a recording at RATE_HZ of a texture that moves, as raw rgb8 images or as JPEG.

    Args:
        path: Folder to write.
        size: Width and height.
        frames: How many images.
        contract: Of the network whose camera it is to be.
        jpeg: Compress; after LOOP images they repeat.
    """
    width, height = size
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (height, width + 4 * LOOP, 3), np.uint8)
    if jpeg:  # noise alone is nothing that a camera sees
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


def bench_inference(models: Mapping[str, Path], threads: int, runs: int) -> None:
    """Print how long an inference of each model takes with each installed runtime."""
    command = [
        sys.executable,
        '-m',
        'depth_ros.commands.bench_engine',
        *map(str, models.values()),
        '--threads',
        str(threads),
        '--runs',
        str(runs),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EngineError(done.stderr.strip())
    print(f'Inference\n{done.stdout}', end='', flush=True)


def bench_nodes(models: Mapping[str, Path], threads: int, frames: int) -> None:
    """Print the median times of the running nodes for each image size."""
    print(
        f'\nNodes, medians of {frames} raw rgb8 images at {RATE_HZ} Hz, depth and masks '
        'published, both nodes at once, ms'
    )
    print(
        f'{"image":12}{"node":18}{"inference":>10}{"other":>8}{"other/inference":>17}'
        f'{"end to end":>12}{"dropped":>9}'
    )
    contract = read_contract(models['perception_node'])
    domain = claim_domain()
    for width, height in SIZES:
        with tempfile.TemporaryDirectory(prefix='depth_ros_bench_') as folder:
            bag = write_recording(Path(folder) / 'images', (width, height), frames, contract)
            with Bag(bag) as opened:
                streams = find_streams(opened)
            setup = LiveSetup(
                bag=bag,
                streams=streams,
                compressed=False,
                out=Path(folder) / 'out',
                models=dict(models),
                domain=domain,
                parameters={'threads': str(threads)},
                outputs=OUTPUTS,
                timing=True,
            )
            outcome = run_nodes(setup, say=lambda text: None)
        for node, topic in (('perception_node', OUTPUTS[0]), ('odometry_node', 'odom')):
            topic = setup.output(topic)
            if node not in outcome.stages_ms or not outcome.frames_out(topic):
                raise LiveError(f'{node} sent no {topic} or no /diagnostics: try more --frames')
            times = outcome.stages_ms[node]
            # The odometry has nothing to say about the first image.
            expected = outcome.frames_in - (node == 'odometry_node')
            print(
                f'{f"{width}x{height}":12}{node:18}{times["inference"]:10.2f}'
                f'{times["overhead"]:8.2f}{times["overhead"] / times["inference"]:17.2f}'
                f'{np.median(outcome.latencies_ms(topic)):12.2f}'
                f'{max(0, expected - outcome.frames_out(topic)):9}',
                flush=True,
            )


def write_idle_model(source: Path, path: Path) -> Path:
    """Write a model with the contract of another one that always says the same, at no cost."""
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


def bench_evaluation(models: Mapping[str, Path], frames: int) -> None:
    """Print how fast a recording is read, decoded, judged and written, inference left out."""
    width, height = KITTI_SIZE
    print(
        f'\nEvaluation of JPEG images of {width}x{height} by networks that do nothing, with all '
        'results'
    )
    print(f'{"":34}{"frames/s":>10}{"without inference":>21}{"memory, MB":>12}')
    with tempfile.TemporaryDirectory(prefix='depth_ros_bench_') as folder:
        idle = {
            node: write_idle_model(path, Path(folder) / path.name) for node, path in models.items()
        }
        contract = read_contract(models['perception_node'])
        # The first one loads what is needed; memory must not grow with the recording.
        for count in sorted({min(100, frames), frames}):
            bag = write_recording(
                Path(folder) / f'images{count}', KITTI_SIZE, count, contract, jpeg=True
            )
            command = [
                sys.executable,
                '-m',
                'depth_ros.commands.evaluate_bag',
                str(bag),
                '--backend',
                'onnxruntime',
                '--threads',
                '1',
                '--out',
                f'{folder}/out',
                '--model',
                *map(str, idle.values()),
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise EngineError(done.stderr.strip())
            found = json.loads((Path(folder) / 'out' / 'metrics.json').read_text())
            speed = found['speed']
            print(
                f'{f"{count} frames":34}{speed["frames_per_s"]:10.0f}'
                f'{speed["frames_per_s_without_inference"]:21.0f}{speed["memory_mb"]:12.0f}',
                flush=True,
            )


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='depth_ros_bench',
        description='Measure inference, node overhead and end-to-end latency.',
    )
    add_model_option(parser)
    parser.add_argument('--threads', type=count, default=2, help='threads of each inference')
    parser.add_argument('--runs', type=count, default=50, help='runs of each inference')
    parser.add_argument('--frames', type=count, default=60, help='images for the nodes')
    parser.add_argument('--evaluated', type=count, default=1000, help='images to evaluate')
    arguments = parser.parse_args(argv)
    try:
        models = chosen_models(arguments.model)
        bench_inference(models, arguments.threads, arguments.runs)
        bench_nodes(models, arguments.threads, arguments.frames)
        bench_evaluation(models, arguments.evaluated)
    except (LiveError, BagError, ContractError, EngineError) as error:
        print(f'depth_ros_bench: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
