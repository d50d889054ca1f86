"""How long everything takes on this machine: `depth_ros_bench`.

Prints inference alone, as `bench_engine` does; medians of the running nodes, for two image sizes at
10 Hz: inference, everything else in the node, and the way from publishing an image to receiving its
output; what the odometry's refinement costs; and how fast a recording is evaluated, inference left
out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from depth_ros.bags.messages import BagError
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import find_streams
from depth_ros.commands.options import add_model_option, count
from depth_ros.core.camera import Intrinsics
from depth_ros.core.trajectory import NoiseModel
from depth_ros.core.visual_odometry import VisualOdometry
from depth_ros.evaluation.bench_inputs import (
    RATE_HZ,
    corridor_views,
    write_idle_model,
    write_recording,
)
from depth_ros.evaluation.processes import LiveError
from depth_ros.inference.contract import ContractError, read_contract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.model_files import chosen_models
from depth_ros.packages import MissingPackageError, require_packages

PACKAGES = ('rclpy', 'yaml', 'rosbags', 'lz4', 'jinja2', 'matplotlib', 'tqdm')
"""Packages that the nodes and an evaluation need, checked before the first measurement."""

SIZES = ((1280, 720), (640, 192))
KITTI_SIZE = 1242, 375
OUTPUTS = ('depth/image_rect', 'depth/camera_info', 'semantics/labels', 'odom')


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
    from depth_ros.evaluation.live_run import LiveSetup, run_nodes
    from depth_ros.ros.domain import claim_domain

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


def bench_evaluation(models: Mapping[str, Path], frames: int) -> None:
    """Print how fast a recording is evaluated: read, decoded, scored and written."""
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
        for number in sorted({min(100, frames), frames}):
            bag = write_recording(
                Path(folder) / f'images{number}', KITTI_SIZE, number, contract, jpeg=True
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
                f'{f"{number} frames":34}{speed["frames_per_s"]:10.0f}'
                f'{speed["frames_per_s_without_inference"]:21.0f}{speed["memory_mb"]:12.0f}',
                flush=True,
            )


def bench_refinement(runs: int) -> None:
    """Print what the odometry's refinement adds to a frame, on one thread."""
    cv2.setNumThreads(1)
    camera = Intrinsics(371.2, 371.2, 319.5, 95.5, 640, 192)
    odometry = VisualOdometry(
        None, np.eye(4), NoiseModel(0.02, 0.1, 0.002, 0.05), refinement='pnp', camera_height=1.65
    )
    spent = []
    for index, view in enumerate(corridor_views(runs + 10, camera)):
        start = time.thread_time()
        odometry.step(None, (index + 1) * 10**8, camera, view)
        spent.append(1e3 * (time.thread_time() - start))
    spent = np.array(spent[10:])  # the first ones make the map
    print('\nRefinement of the odometry, 640x192, one thread: processor time a frame')
    print(f'{"mean":>10}{"p95":>10}{"most":>10}  ms')
    print(f'{spent.mean():10.1f}{np.percentile(spent, 95):10.1f}{spent.max():10.1f}', flush=True)


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
        require_packages('the benchmark', *PACKAGES)
        models = chosen_models(arguments.model)
        bench_inference(models, arguments.threads, arguments.runs)
        bench_refinement(arguments.runs)
        bench_nodes(models, arguments.threads, arguments.frames)
        bench_evaluation(models, arguments.evaluated)
    except (LiveError, BagError, ContractError, EngineError, MissingPackageError, OSError) as error:
        print(f'depth_ros_bench: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
