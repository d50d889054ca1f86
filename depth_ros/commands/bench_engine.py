"""How fast models run on this machine: `bench_engine MODEL...`.

Each model is measured with every runtime installed, each time in a process of its own, on images of
noise: latency, throughput, processor time, time to load, and memory. TensorRT runs the engine of a
model that `build_engine` has made.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from depth_ros.commands.options import command_parser, count
from depth_ros.deploy.layers import Effort
from depth_ros.files import check_writable, write_file
from depth_ros.inference.contract import ContractError
from depth_ros.inference.engine import EngineError
from depth_ros.packages import MissingPackageError, require_packages


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        measured = _run(arguments)
    except (ContractError, EngineError, MissingPackageError, OSError) as error:
        print(f'bench_engine: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('bench_engine: interrupted', file=sys.stderr)
        return 130
    if not measured:
        print('bench_engine: nothing could be measured', file=sys.stderr)
    return 0 if measured else 1


def _parser() -> argparse.ArgumentParser:
    parser = command_parser('bench_engine', __doc__)
    parser.add_argument(
        'models', nargs='+', type=Path, metavar='MODEL', help='.onnx or .engine files'
    )
    parser.add_argument(
        '--threads',
        type=count,
        default=Effort.threads,
        help='of an inference on the CPU (%(default)s)',
    )
    parser.add_argument(
        '--runs', type=count, default=Effort.runs, help='inferences to measure (%(default)s)'
    )
    parser.add_argument(
        '--warmup', type=count, default=Effort.warmup, help='inferences before them (%(default)s)'
    )
    parser.add_argument(
        '--profile',
        type=count,
        nargs='?',
        const=15,
        metavar='N',
        help='list the N slowest layers, too (%(const)s)',
    )
    parser.add_argument(
        '--json',
        type=Path,
        metavar='FILE',
        help='write the numbers, too, with those of all layers if --profile is given',
    )
    return parser


def _run(arguments: argparse.Namespace) -> bool:
    """Measure and print; returns whether anything could be measured."""
    require_packages('bench_engine', 'onnx', 'tqdm')
    from depth_ros.deploy.bench import bench, layer_table, table

    effort = Effort(threads=arguments.threads, runs=arguments.runs, warmup=arguments.warmup)
    if arguments.json:
        check_writable(arguments.json)
    measured, missing = bench(arguments.models, effort, bool(arguments.profile))
    print(table(measured, missing, effort))
    for item in measured:
        if item.layers:
            print(f'\n{layer_table(item, arguments.profile)}')
    if arguments.json:
        found = {
            **asdict(effort),
            'measured': [asdict(m) for m in measured],
            'not_measured': missing,
        }
        write_file(arguments.json, json.dumps(found, indent=2, allow_nan=False) + '\n')
    return bool(measured)


if __name__ == '__main__':
    sys.exit(main())
