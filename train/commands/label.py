"""``python -m train label``: make pseudo-labels by any segmentation network, for training.

One pass over a data set writes ``semantics/`` beside ``images/``: 8-bit png of Cityscapes
trainIds at the images' size, 255 where the network is not sure.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from depth_ros.inference.classes import CITYSCAPES
from train.cluster import add_cluster_option, spread_command
from train.data.label_page import look_at, warnings, write_page
from train.data.labelling import label_sequences
from train.data.labels import IMAGENET_MEAN, IMAGENET_STD, NO_CLASS, Labeller, model_hash
from train.data.sequences import DataError, Sequence, find_sequences


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"""\
The model takes float images [N, 3, H, W], normalised by --mean and --std, or uint8 images
[N, H, W, 3] as they are. It returns scores (logits or probabilities) [N, classes, h, w], or class
ids [N, h, w]. Classes are Cityscapes' 19 trainIds in order; --classes tells what others are, one
for each class of the model: the name or trainId of the nearest of Cityscapes', or {NO_CLASS}.
Cityscapes: {', '.join(c.name for c in CITYSCAPES)}.
"""
    parser.add_argument('data', type=Path, help='a sequence folder, or a folder of them')
    parser.add_argument('--model', type=Path, required=True, help='segmentation network, .onnx')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('WIDTH', 'HEIGHT'),
        help="input size (default: the model's; where it takes any, the images', "
        'to the nearest 32)',
    )
    parser.add_argument(
        '--mean',
        type=float,
        nargs=3,
        default=IMAGENET_MEAN,
        help="of RGB in 0..1, in the order of --order (default: ImageNet's)",
    )
    parser.add_argument('--std', type=float, nargs=3, default=IMAGENET_STD, help='likewise')
    parser.add_argument(
        '--order',
        choices=('rgb', 'bgr'),
        default='rgb',
        help='of the channels that the model takes (%(default)s)',
    )
    parser.add_argument('--output', help='name of the output (default: labels, or else the first)')
    parser.add_argument(
        '--classes',
        metavar='FILE|A,B,...',
        help='what the classes of the model are: a file of lines, or a list',
    )
    parser.add_argument(
        '--confidence',
        type=float,
        default=0.0,
        help='pixels with a smaller probability become 255 (%(default)s)',
    )
    parser.add_argument('--flip', action='store_true', help='average over the mirror image, too')
    parser.add_argument('--threads', type=int, default=0, help='of the inference (default: all)')
    add_cluster_option(parser, 'sequences')
    parser.set_defaults(alone=True)


def run(args: argparse.Namespace) -> None:
    """Label every image that has no labels yet, or has changed since.

    Raises:
        DataError: if the data, the model or an option cannot be used, or images are damaged.
        HeldError: if another process labels the data.
    """
    if not 0 <= args.confidence < 1:
        raise DataError(f'--confidence must be at least 0 and below 1, is {args.confidence:g}')
    sequences = find_sequences(args.data, calibrated=False)
    if args.cluster:  # the workers have labelled; here only the counts are printed
        spread_command('label', {s.folder.name: _one(args, s) for s in sequences}, args.cluster)
    labeller = Labeller(
        args.model,
        size=args.size,
        mean=args.mean,
        std=args.std,
        order=args.order,
        output=args.output,
        classes=args.classes,
        confidence=args.confidence,
        flip=args.flip,
        threads=args.threads,
    )
    source = {'model': model_hash(args.model)} | {
        k: v
        for k, v in vars(args).items()
        if k in ('size', 'mean', 'std', 'order', 'output', 'classes', 'confidence', 'flip')
    }
    source = json.loads(json.dumps(source))
    damaged = label_sequences(sequences, labeller, source, str(args.data))
    if args.alone:
        _show(args.data, sequences)
    if damaged:
        raise DataError(
            f'{len(damaged)} images are damaged and have no labels: mend or remove them, and give '
            'the same command again'
        )


def _show(data: Path, sequences: list[Sequence]) -> None:
    """Say what is odd about the labels, and write the page that shows them."""
    looked = [one for sequence in sequences if (one := look_at(sequence))]
    if not looked:
        return
    for name, text in warnings(looked):
        print(f'warning: {name}: {text}')
    print(f'look at {write_page(data, sequences, looked)}')


def _one(args: argparse.Namespace, sequence: Sequence) -> argparse.Namespace:
    """Return the options for one sequence alone."""
    return argparse.Namespace(**{**vars(args), 'data': sequence.folder, 'alone': False})
