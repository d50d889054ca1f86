"""The synthetic street: geometry is exact, the seed decides everything, nothing is half written."""

import argparse
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from depth_ros.files import HeldError, locked
from train.commands import synthesize

pytest.importorskip('moderngl')

from train.synthetic.path import MAX_HEADING, MIN_RADIUS, Drive, RoadPath  # noqa: E402
from train.synthetic.renderer import (  # noqa: E402
    Renderer,
    RendererError,
    default_intrinsics,
    projection,
)
from train.synthetic.world import World  # noqa: E402

WIDTH, HEIGHT = 320, 96


@pytest.fixture(scope='module')
def renderer():
    try:
        return Renderer(default_intrinsics(WIDTH, HEIGHT), WIDTH, HEIGHT, 2)
    except RendererError as error:
        pytest.skip(str(error))


def unproject(depth, k):
    v, u = np.mgrid[0 : depth.shape[0], 0 : depth.shape[1]]
    return np.stack([(u - k[0, 2]) * depth / k[0, 0], (v - k[1, 2]) * depth / k[1, 1], depth], -1)


def test_projection_puts_pixel_centres_where_the_intrinsics_say():
    k = np.array([[300.0, 0, 150], [0, 280, 40], [0, 0, 1]])
    x, y, z, w = projection(k, 320, 96) @ [1.0, -0.5, 4.0, 1.0]
    # u = 300 / 4 + 150 = 225, v = -140 / 4 + 40 = 5; OpenGL counts pixel edges.
    assert (x / w + 1) / 2 * 320 == pytest.approx(225.5)
    assert (y / w + 1) / 2 * 96 == pytest.approx(5.5)


def test_road_is_smooth_and_never_turns_back():
    for seed in range(5):
        path = RoadPath(seed)
        s = np.arange(0, 3000, 0.5)
        xy, heading, curvature = path.at(s)
        assert np.abs(heading).max() <= MAX_HEADING + 1e-6
        assert np.abs(curvature).max() <= 1.4 / MIN_RADIUS
        assert np.linalg.norm(np.diff(xy, axis=0), axis=1) == pytest.approx(0.5, rel=0.02)


def test_camera_drives_like_a_car():
    path = RoadPath(3)
    drive = Drive(3, path, -1.6)
    poses = np.array([drive.camera(t) for t in np.arange(0, 20, 0.1)])
    speed = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1) / 0.1
    assert 4.0 < speed.min() and speed.max() < 13.0
    step = np.linalg.inv(poses[:-1]) @ poses[1:]
    assert (step[:, 2, 3] > 0.4).all(), 'forward along the optical axis'
    assert np.abs(step[:, 0, 3]).max() < 0.1
    ground = path.elevation(poses[:, :2, 3])
    assert poses[:, 2, 3] - ground == pytest.approx(1.65, abs=0.03)


def test_depth_and_pose_explain_the_next_frame(renderer):
    world = World(11)
    a, b = renderer.render(world, 0.5), renderer.render(world, 0.6)
    static = ~np.isin(a.labels, (10, 11, 13, 14)) & (a.depth > 0) & (a.depth < 60)
    points = unproject(a.depth.astype(float), renderer.intrinsics)
    motion = np.linalg.inv(b.pose) @ a.pose
    moved = points @ motion[:3, :3].T + motion[:3, 3]
    pixel = moved @ renderer.intrinsics.T
    u, v = (pixel[..., i] / np.maximum(pixel[..., 2], 1e-3) for i in (0, 1))
    inside = static & (moved[..., 2] > 0.5) & (u > 1) & (u < WIDTH - 2) & (v > 1) & (v < HEIGHT - 2)
    warp = [m.astype(np.float32) for m in (u, v)]
    seen = cv2.remap(b.depth, *warp, cv2.INTER_NEAREST)
    relative = np.abs(seen - moved[..., 2])[inside] / moved[..., 2][inside]
    assert np.median(relative) < 0.01
    picture = cv2.remap(np.ascontiguousarray(b.image), *warp, cv2.INTER_LINEAR).astype(float)
    error = np.abs(picture - a.image).mean(-1)
    still = np.abs(b.image.astype(float) - a.image).mean(-1)
    assert np.median(error[inside]) < 0.35 * np.median(still[inside])


def test_ground_is_where_the_camera_height_says(renderer):
    world = World(5)
    frame = renderer.render(world, 1.0)
    points = unproject(frame.depth.astype(float), renderer.intrinsics)
    road = (frame.labels == 0) & (frame.depth < 15)
    assert road.sum() > 500
    ground = points[road] @ frame.pose[:3, :3].T + frame.pose[:3, 3]
    assert ground[:, 2] == pytest.approx(world.path.elevation(ground[:, :2]), abs=0.03)


def test_sky_has_no_depth_and_labels_are_train_ids(renderer):
    frame = renderer.render(World(7), 2.0)
    assert (frame.depth[frame.labels == 10] == 0).all()
    assert set(np.unique(frame.labels)) <= set(range(19))
    assert {0, 10} <= set(np.unique(frame.labels))
    assert np.isfinite(frame.depth).all()


@pytest.mark.slow
def test_nothing_meets_the_camera():
    for seed in range(12):
        world = World(seed)
        for t in np.arange(0, 20, 0.5):
            camera = world.drive.camera(t)
            for actor in world.actors(t):
                x, y, _ = actor.pose[:3, :3].T @ (camera[:3, 3] - actor.pose[:3, 3])
                low, high = actor.mesh[:, :2].min(0), actor.mesh[:, :2].max(0)
                outside = np.maximum([low[0] - x, low[1] - y], [x - high[0], y - high[1]])
                assert outside.max() > 0.3, (seed, t)


def test_supersampling_keeps_the_geometry(renderer):
    world = World(9)
    fine = renderer.render(world, 1.0)
    fast = Renderer(renderer.intrinsics, WIDTH, HEIGHT, 1).render(world, 1.0)
    same = fine.labels == fast.labels
    assert same.mean() > 0.985
    assert np.median(np.abs(fine.depth - fast.depth)[same]) < 0.005


def arguments(*words):
    parser = argparse.ArgumentParser()
    synthesize.add_arguments(parser)
    return parser.parse_args([str(w) for w in words])


def test_synthesize_writes_and_keeps_sequences(tmp_path, renderer):
    args = arguments(
        '--out',
        tmp_path / 'a',
        '--sequences',
        1,
        '--frames',
        3,
        '--width',
        WIDTH,
        '--height',
        HEIGHT,
        '--seed',
        4,
    )
    synthesize.run(args)
    folder = tmp_path / 'a' / '0000'
    assert [p.name for p in sorted((tmp_path / 'a').iterdir())] == ['0000', 'synthesized.json']
    stems = ['000000', '000001', '000002']
    for kind in ('images', 'depth', 'semantics'):
        assert sorted(p.stem for p in (folder / kind).iterdir()) == stems
    depth = cv2.imread(str(folder / 'depth' / '000001.png'), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16 and depth.shape == (HEIGHT, WIDTH)
    poses = np.loadtxt(folder / 'poses.txt').reshape(-1, 3, 4)
    assert poses[0] == pytest.approx(np.eye(4)[:3], abs=1e-9)
    assert (np.diff(poses[:, 2, 3]) > 0.3).all()
    assert np.loadtxt(folder / 'intrinsics.txt') == pytest.approx(default_intrinsics(WIDTH, HEIGHT))
    again = arguments(
        '--out', tmp_path / 'b', '--frames', 3, '--width', WIDTH, '--height', HEIGHT, '--seed', 4
    )
    synthesize.run(again)
    for path in sorted(p for p in folder.rglob('*') if p.is_file()):
        other = tmp_path / 'b' / '0000' / path.relative_to(folder)
        assert path.read_bytes() == other.read_bytes(), path.name
    before = (folder / 'times.txt').stat().st_mtime_ns
    synthesize.run(args)
    assert (folder / 'times.txt').stat().st_mtime_ns == before


def test_an_interrupted_sequence_is_rendered_again(tmp_path, renderer):
    """What a killed run left behind is neither kept nor mixed in."""
    left = tmp_path / '.0000.part' / 'images'
    left.mkdir(parents=True)
    (left / '000007.jpg').write_bytes(b'half')
    synthesize.run(
        arguments(
            '--out',
            tmp_path,
            '--frames',
            1,
            '--width',
            WIDTH,
            '--height',
            HEIGHT,
            '--fast',
            '--png',
        )
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ['0000', 'synthesized.json']
    assert [p.name for p in (tmp_path / '0000' / 'images').iterdir()] == ['000000.png']


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('--width', 0),
        ('--frames', -1),
        ('--rate', 'nan'),
        ('--seed', -1),
        ('--fy', -3),
        ('--cx', 'inf'),
        ('--jpeg-quality', 0),
    ],
)
def test_bad_options_are_refused(tmp_path, option, value):
    with pytest.raises(ValueError, match=option):
        synthesize.run(arguments('--out', tmp_path / 'out', f'{option}={value}'))
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_without_opengl_the_remedy_is_named(tmp_path, repository):
    """EGL with no driver to load, as on a machine without Mesa."""
    result = subprocess.run(
        [sys.executable, '-m', 'train', 'synthesize', '--out', str(tmp_path / 'out')],
        cwd=repository,
        text=True,
        capture_output=True,
        env={**os.environ, '__EGL_VENDOR_LIBRARY_FILENAMES': str(tmp_path / 'none.json')},
    )
    assert result.returncode == 2
    assert 'apt install libegl1 libgl1-mesa-dri' in result.stderr
    assert 'Traceback' not in result.stderr
    assert not (tmp_path / 'out').exists()


def test_sequences_of_other_options_are_not_mixed(tmp_path, renderer):
    options = ('--out', tmp_path, '--frames', 1, '--width', WIDTH, '--height', HEIGHT, '--fast')
    synthesize.run(arguments(*options))
    for other in (('--seed', 2), ('--frames', 2), ('--vary',)):
        with pytest.raises(ValueError, match=f'was made with {other[0][2:]} '):
            synthesize.run(arguments(*options, '--sequences', 2, *other))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['0000', 'synthesized.json']


def test_two_at_once(tmp_path, renderer):
    with (
        locked(tmp_path / '.lock', 'synthesize'),
        pytest.raises(HeldError, match='is in use by process'),
    ):
        synthesize.run(arguments('--out', tmp_path))
