"""``python -m train <command>``: everything that happens before a model reaches the robot."""

from __future__ import annotations

import argparse
import importlib
import sys

COMMANDS = {
    'synthesize': 'render drives through a synthetic street, with exact ground truth',
    'prepare': 'turn KITTI, a folder of images, a video or a recording into training data',
    'label': 'make semantic pseudo-labels with a segmentation network',
    'structure': 'find depth and motion of recorded drives with structure from motion',
    'fit': 'train the networks',
    'export': 'write models that depth_ros runs',
    'evaluate': 'judge models against ground truth',
    'measure': 'a model on recordings that it never learnt from, in one table',
    'bench': 'time the losses, the networks and a training step',
    'make_bag': 'turn a folder of images into a rosbag2 recording',
}


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, 2 after an error that the user can mend, or 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog='python -m train', description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    argv = sys.argv[1:] if argv is None else argv
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        # Only the command that is asked for is imported: torch alone takes seconds.
        if name in argv[:1]:
            module = importlib.import_module(f'train.commands.{name}')
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        print(f'python -m train {args.command}: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'python -m train {args.command}: stopped; the same command goes on', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
