"""``python -m train make_bag``: turn a folder of images into a rosbag2 recording.

The recording has the topics that the nodes and the demo know: the camera's pictures and
camera_info and, where the folder has depth, semantics or poses, ground truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from train.data.bag import GROUND_TRUTH, image_stamps, write_bag
from train.data.sequences import DataError, read_sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
The folder holds images/ (jpg or png; or image_0/ and the like) and intrinsics.txt, K.txt (3x3,
pixels) or KITTI's calib.txt. Also recorded where they are there, as ground truth: poses.txt
(camera-to-world, 3x4 or 4x4 a row, metres), depth/ (16-bit png, millimetres along the optical
axis, 0 = unknown) and semantics/ (8-bit png, Cityscapes trainIds, 255 = unlabelled), named like
the images. Images must be rectified. Not every frame needs depth and semantics.
"""
    parser.add_argument('folder', type=Path, help='folder of images and intrinsics')
    parser.add_argument('out', type=Path, metavar='OUT_BAG', help='recording (folder) to write')
    parser.add_argument(
        '--rate',
        type=float,
        help='images a second, instead of times.txt (default 10 where there is no times.txt)',
    )
    parser.add_argument(
        '--storage',
        choices=('mcap', 'sqlite3'),
        default='mcap',
        help='file format of the recording (default mcap)',
    )
    parser.add_argument(
        '--raw', action='store_true', help='record uncompressed images (default: JPEG)'
    )
    parser.add_argument(
        '--jpeg-quality',
        type=int,
        default=95,
        help='of images that are not JPEG '
        'files already, which are recorded as they are; 1 to 100 (default 95)',
    )
    parser.add_argument(
        '--image-dir',
        help='folder of the images in FOLDER (default: images, or '
        'the only one that is called image...)',
    )
    parser.add_argument(
        '--without',
        nargs='+',
        choices=GROUND_TRUTH,
        default=(),
        metavar='WHAT',
        help=f'leave out some of {", ".join(GROUND_TRUTH)}: what an estimate made, '
        'such as the labels of another network, is no ground truth',
    )
    parser.add_argument('--force', action='store_true', help='replace a recording at OUT_BAG')


def run(args: argparse.Namespace) -> None:
    """Write the recording that ``args`` asks for, and say what is in it.

    Raises:
        DataError: if something in the folder or among the options cannot be used.
    """
    if args.rate is not None and not 0 < args.rate < 1e4:
        raise DataError(f'--rate must be positive images a second, is {args.rate:g}')
    if not 1 <= args.jpeg_quality <= 100:
        raise DataError(f'--jpeg-quality must be 1 to 100, is {args.jpeg_quality}')
    if args.out.exists():
        if not args.force:
            raise DataError(
                f"'{args.out}' exists already: choose another path, or --force replaces it"
            )
        if not (args.out / 'metadata.yaml').is_file():
            raise DataError(
                f"'{args.out}' is no recording, so --force will not replace it: choose another path"
            )
    sequence = read_sequence(args.folder, args.image_dir)
    stamps = image_stamps(sequence, args.rate)
    counts = write_bag(
        sequence, stamps, args.out, args.storage, args.raw, args.jpeg_quality, args.without
    )
    size = sum(p.stat().st_size for p in args.out.iterdir())
    print(f'{args.out}: {(stamps[-1] - stamps[0]) / 1e9:.1f} s, {size / 1e6:.1f} MB')
    for topic, count in counts.items():
        print(f'  {count:6d}  {topic}')
