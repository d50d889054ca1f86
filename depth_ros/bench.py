"""How long everything takes on this machine: `python -m depth_ros.bench`.

Prints medians: of inference alone, for each installed runtime; and of the running nodes, for two
image sizes at 10 Hz, inference, everything else in the node, and the way from publishing an image
to receiving its output.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from depth_ros.bag import CAMERA_INFO, IMAGE, Bag, BagError, BagWriter, find_streams
from depth_ros.contract import ContractError, ModelContract, read_contract
from depth_ros.domain import claim_domain
from depth_ros.engine import EngineError, installed_backends, load_engine
from depth_ros.live import LiveError, Plan, run_nodes
from depth_ros.models import add_model_option, chosen_models

SIZES = ((1280, 720), (640, 192))
RATE_HZ = 10
OUTPUTS = ('depth/image_rect', 'depth/camera_info', 'semantics/labels', 'odom')


def inference_ms(path: Path, backend: str, threads: int, runs: int) -> float:
    """Return the median time of one inference, milliseconds.

    Raises:
        EngineError: The runtime cannot load or run the model.
    """
    engine = load_engine(path, backend, threads)
    rng = np.random.default_rng(0)
    shapes = engine.contract.tensor_shapes()
    inputs = {name: rng.integers(0, 255, shapes[name][1], np.uint8)
              for name in engine.contract.inputs}
    times = []
    for _ in range(runs + 5):
        start = time.perf_counter()
        engine.infer(inputs)
        times.append(1e3 * (time.perf_counter() - start))
    engine.close()
    return float(np.median(times[5:]))  # the first ones set things up


def write_recording(path: Path, width: int, height: int, frames: int,
                    contract: ModelContract) -> Path:
    """Write a recording of raw rgb8 images at RATE_HZ, of a texture that moves."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (height, width + 4 * frames, 3), np.uint8)
    scale = np.array([width / contract.input_width, height / contract.input_height] * 2)
    fx, fy, cx, cy = scale * contract.intrinsics
    with BagWriter(path) as bag:
        types = bag.types.types
        region = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        for index in range(frames):
            stamp_ns = 10**9 + index * 10**9 // RATE_HZ
            header = types['std_msgs/msg/Header'](
                types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 10**9)), 'camera')
            pixels = np.ascontiguousarray(texture[:, 4 * index : 4 * index + width])
            bag.write('/camera/image_rect', IMAGE, stamp_ns, types[IMAGE](
                header, height, width, 'rgb8', 0, 3 * width, pixels.reshape(-1)))
            bag.write('/camera/camera_info', CAMERA_INFO, stamp_ns, types[CAMERA_INFO](
                header, height, width, 'plumb_bob', np.zeros(5),
                np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1]), np.eye(3).ravel(),
                np.array([fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0]), 0, 0, region))
    return path


def bench_inference(models: Mapping[str, Path], threads: int, runs: int) -> None:
    """Print the median inference time of each model with each installed runtime."""
    backends = installed_backends()
    print(f'Inference, median of {runs} runs with {threads} threads, ms')
    print(f'{"":34}' + ''.join(f'{name:>14}' for name in backends))
    for path in models.values():
        contract = read_contract(path)
        name = f'{contract.name} {contract.input_width}x{contract.input_height}'
        times = (inference_ms(path, backend, threads, runs) for backend in backends)
        print(f'{name:34}' + ''.join(f'{ms:14.2f}' for ms in times), flush=True)


def bench_nodes(models: Mapping[str, Path], threads: int, frames: int) -> None:
    """Print the median times of the running nodes for each image size."""
    print(f'\nNodes, medians of {frames} raw rgb8 images at {RATE_HZ} Hz, depth and masks '
          'published, both nodes at once, ms')
    print(f'{"image":12}{"node":18}{"inference":>10}{"other":>8}{"other/inference":>17}'
          f'{"end to end":>12}{"dropped":>9}')
    contract = read_contract(models['perception_node'])
    domain = claim_domain()
    for width, height in SIZES:
        with tempfile.TemporaryDirectory(prefix='depth_ros_bench_') as folder:
            bag = write_recording(Path(folder) / 'images', width, height, frames, contract)
            with Bag(bag) as opened:
                streams = find_streams(opened)
            plan = Plan(bag=bag, streams=streams, compressed=False, out=Path(folder) / 'out',
                        models=dict(models), domain=domain,
                        parameters={'threads': str(threads)}, outputs=OUTPUTS, timing=True)
            run = run_nodes(plan, say=lambda text: None)
        for node, topic in (('perception_node', OUTPUTS[0]), ('odometry_node', 'odom')):
            topic = plan.output(topic)
            if node not in run.stages_ms or not run.frames_out(topic):
                raise LiveError(f'{node} sent no {topic} or no /diagnostics: try more --frames')
            times = run.stages_ms[node]
            # The odometry has nothing to say about the first image.
            expected = run.frames_in - (node == 'odometry_node')
            print(f'{f"{width}x{height}":12}{node:18}{times["inference"]:10.2f}'
                  f'{times["overhead"]:8.2f}{times["overhead"] / times["inference"]:17.2f}'
                  f'{np.median(run.latencies_ms(topic)):12.2f}'
                  f'{max(0, expected - run.frames_out(topic)):9}', flush=True)


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m depth_ros.bench',
        description='Measure inference, node overhead and end-to-end latency.')
    add_model_option(parser)
    parser.add_argument('--threads', type=_count, default=2, help='threads of each inference')
    parser.add_argument('--runs', type=_count, default=50, help='runs of each inference')
    parser.add_argument('--frames', type=_count, default=60, help='images for the nodes')
    arguments = parser.parse_args(argv)
    try:
        models = chosen_models(arguments.model)
        bench_inference(models, arguments.threads, arguments.runs)
        bench_nodes(models, arguments.threads, arguments.frames)
    except (LiveError, BagError, ContractError, EngineError) as error:
        print(f'depth_ros.bench: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
