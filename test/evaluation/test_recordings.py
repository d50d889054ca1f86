"""Real recordings go the whole way: bag, training data, offline and live evaluation."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from depth_ros.bags.reader import Bag
from depth_ros.commands import evaluate_bag

FRAMES = 16
RECORDINGS = {  # folder: images, what else there is, intrinsics if none are known
    'kitti_street': ('kitti_street', 'images', {}, None),
    'kitti_odometry_00': ('kitti_odometry_00', 'image_0', {'poses.txt': 1}, None),
    'indoor_handheld': ('indoor_handheld', 'images', {'depth': 'depth', 'poses.txt': 1}, None),
    'camvid': (
        'camvid/val',
        'images',
        {'labels': 'semantics'},
        [[400, 0, 240], [0, 400, 180], [0, 0, 1]],
    ),
}


def take(source: Path, images: str, others: dict, target: Path, count: int) -> None:
    """Copy the first frames of a recording's folder."""
    names = sorted(p.name for p in (source / images).iterdir())[:count]
    (target / 'images').mkdir(parents=True)
    for name in names:
        shutil.copy(source / images / name, target / 'images')
    for name in ('intrinsics.txt', 'K.txt', 'calib.txt'):
        if (source / name).exists():
            shutil.copy(source / name, target)
    for name, folder in others.items():
        if name == 'poses.txt':
            rows = (source / name).read_text().splitlines()[:count]
            (target / name).write_text('\n'.join(rows) + '\n')
            continue
        (target / folder).mkdir()
        for image in names:
            path = source / name / f'{Path(image).stem}.png'
            if path.exists():
                shutil.copy(path, target / folder)


@pytest.mark.parametrize('name', RECORDINGS)
def test_from_bag_to_data_and_to_judgement(data_dir, tmp_path, name):
    from train.__main__ import main as train

    folder, images, others, intrinsics = RECORDINGS[name]
    take(data_dir / folder, images, others, tmp_path / 'frames', FRAMES)
    if intrinsics is not None:
        np.savetxt(tmp_path / 'frames/intrinsics.txt', intrinsics)
    bag = tmp_path / 'bag'
    assert not train(['make_bag', str(tmp_path / 'frames'), str(bag)])
    assert not train(['prepare', str(bag), '--out', str(tmp_path / 'data')])
    assert list((tmp_path / 'data').rglob('intrinsics.txt'))
    assert (tmp_path / 'data/summary.html').is_file()

    options = ['--classes', 'camvid'] if name == 'camvid' else []
    found = {}
    for mode in ('offline', 'live'):
        out = tmp_path / mode
        more = ['--domain', os.environ['ROS_DOMAIN_ID']] if mode == 'live' else []
        assert (
            evaluate_bag.main(
                [str(bag), '--mode', mode, '--out', str(out), '--threads', '1', *options, *more]
            )
            == 0
        )
        found[mode] = json.loads((out / 'metrics.json').read_text())
        assert (out / 'report.html').is_file()
        with Bag(out / 'recording') as recording:
            judged = found[mode]['frames']['judged']
            assert recording.topics['/depth/image_rect'].count == judged
            assert '/camera/image_rect/compressed' in recording.topics
    offline, live = found['offline'], found['live']
    assert offline['frames']['judged'] == FRAMES and live['frames']['judged'] > FRAMES / 3
    for part, known in (
        ('depth', 'depth' in others),
        ('semantics', 'labels' in others),
        ('trajectory', 'poses.txt' in others),
    ):
        assert (offline[part] is not None) == (live[part] is not None) == known, part
    assert offline['consistency']['photometric'] > 0
