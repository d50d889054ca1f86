"""Runs `python -m train prepare` on pictures of a sliding texture, and reads what it wrote."""

import argparse
import json

import cv2
import numpy as np

from train.commands.prepare import add_arguments, run
from train.data.readers import READERS
from train.data.sequences import find_sequences

WIDTH, HEIGHT = 128, 80


P2 = np.array([[100.0, 0, 60, 5], [0, 100, 40, 0.5], [0, 0, 1, 0.01]])


def picture(shift, seed=0):
    """A texture that slides by ``shift`` pixels."""
    small = np.random.default_rng(seed).integers(0, 255, (20, 100, 3), np.uint8)
    wide = cv2.resize(small, (800, 160), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(wide[40 : 40 + HEIGHT, 50 + shift : 50 + shift + WIDTH])


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def command(*options):
    """Run ``python -m train prepare`` in this process, errors and all; everything to one folder,
    if not told otherwise."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parser.set_defaults(part='all')
    args = parser.parse_args([str(o) for o in options])
    run(args)


def prepare(*arguments):
    """Arguments as of the command up to the output folder, then options; {name: sequence}."""
    words = 3 if arguments[0] in READERS else 2
    *paths, out = arguments[:words]
    options = arguments[words:]
    command(*paths, '--out', out, '--width', 64, '--height', 40, '--png', *options)
    return {s.folder.name: s for s in find_sequences(out)}


def make_video(path, count=30):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 30, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for i in range(count):
        writer.write(picture(4 * i))
    writer.release()


def read_json(out, name):
    return json.loads((out / f'.prepared/{name}.json').read_text())


def snapshot(root):
    return {
        str(p.relative_to(root)): p.read_bytes().replace(b'whole', b'out')
        for p in sorted(root.rglob('*'))
        if p.is_file()
    }
