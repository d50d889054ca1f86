"""A folder of images becomes a recording that the demo understands; so did the one that ships."""

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import find_streams
from depth_ros.core.images import decode_depth, decode_labels
from depth_ros.core.se3 import pose, rotation_from_quaternion
from train.__main__ import main

WIDTH, HEIGHT, FRAMES = 64, 48, 4
INTRINSICS = np.array([[50.0, 0, 31], [0, 52, 24], [0, 0, 1]])
IMAGE, INFO = '/camera/image_rect/compressed', '/camera/camera_info'
DEPTH = '/ground_truth/depth/image_rect/compressedDepth'
LABELS, ODOM = '/ground_truth/semantics/labels/compressed', '/ground_truth/odom'


def picture(seed, channels=3):
    """A smooth picture: noise would not survive JPEG."""
    small = np.random.default_rng(seed).integers(0, 255, (4, 5, channels), np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def drive():
    """Camera-to-world poses (N, 4, 4): 1 m forward a frame, turning right by 0.1 rad a frame."""

    def step(angle):
        c, s = np.cos(angle), np.sin(angle)  # about the optical y axis, which points down
        return pose(np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]), [0, 0, 1])

    start = pose(np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), [7, 8, 9])
    return np.array([start @ np.linalg.matrix_power(step(0.1), i) for i in range(FRAMES)])


@pytest.fixture
def folder(tmp_path):
    """A sequence with everything; depth of every second frame."""
    folder = tmp_path / 'drive'
    rng = np.random.default_rng(0)
    for name in ('images', 'depth', 'semantics'):
        (folder / name).mkdir(parents=True)
    for i in range(FRAMES):
        cv2.imwrite(str(folder / f'images/{i:04d}.jpg'), picture(i))
        labels = rng.integers(0, 19, (HEIGHT, WIDTH), np.uint8)
        labels[0] = 255
        cv2.imwrite(str(folder / f'semantics/{i:04d}.png'), labels)
        if i % 2 == 0:
            depth = rng.integers(0, 65536, (HEIGHT, WIDTH), np.uint16)
            cv2.imwrite(str(folder / f'depth/{i:04d}.png'), depth)
    np.savetxt(folder / 'intrinsics.txt', INTRINSICS)
    np.savetxt(folder / 'times.txt', [0.0, 0.1, 0.2, 0.4])
    np.savetxt(folder / 'poses.txt', drive()[:, :3].reshape(FRAMES, 12))
    return folder


def make(folder, out, *options):
    """Run the command; 0 means success."""
    return main(['make_bag', str(folder), str(out), *map(str, options)])


def read(path):
    """All messages of a recording, decoded, in lists by topic."""
    found = {}
    with Bag(path) as bag:
        for message in bag.messages():
            found.setdefault(message.topic, []).append(bag.decode(message))
    return found


def stamps(messages):
    return [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in messages]


def body_pose(message):
    p, q = message.pose.pose.position, message.pose.pose.orientation
    return pose(rotation_from_quaternion([q.x, q.y, q.z, q.w]), [p.x, p.y, p.z])


def test_recording_has_all_that_the_folder_has(folder, tmp_path):
    assert make(folder, tmp_path / 'bag') == 0
    with Bag(tmp_path / 'bag') as bag:
        streams = find_streams(bag)
    assert (streams.image, streams.camera_info) == (IMAGE, INFO)
    assert (streams.depth, streams.labels, streams.odom) == (DEPTH, LABELS, ODOM)
    found = read(tmp_path / 'bag')
    assert {k: len(v) for k, v in found.items()} == {
        IMAGE: 4,
        INFO: 4,
        LABELS: 4,
        ODOM: 4,
        DEPTH: 2,
        '/ground_truth/depth/camera_info': 2,
    }
    expected = [1_000_000_000_000_000_000 + t * 10**8 for t in (0, 1, 2, 4)]
    for topic in (IMAGE, INFO, LABELS, ODOM):
        assert stamps(found[topic]) == expected
    assert stamps(found[DEPTH]) == expected[::2]
    for i in range(FRAMES):
        image = found[IMAGE][i]
        assert bytes(image.data) == (folder / f'images/{i:04d}.jpg').read_bytes()
        assert image.format == 'bgr8; jpeg compressed bgr8'
        assert image.header.frame_id == 'camera_optical_frame'
        labels = cv2.imread(str(folder / f'semantics/{i:04d}.png'), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(decode_labels(found[LABELS][i]), labels)
    for i, message in enumerate(found[DEPTH]):
        depth = cv2.imread(str(folder / f'depth/{2 * i:04d}.png'), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(np.isnan(decode_depth(message)), depth == 0)
        assert np.nan_to_num(decode_depth(message)) == pytest.approx(depth * 1e-3)


METRES = DEPTH.removesuffix('/compressedDepth')


@pytest.mark.parametrize(
    ('scale', 'most', 'metres'),
    [
        (1 / 256, 65535, True),  # KITTI's: to 256 m
        (1 / 256, 60 * 256, False),
        (1e-3, 65535, False),
        (1e-4, 65535, True),  # a tenth of a millimetre, from 0.1 mm on
        (2e-3, 65535, True),
    ],
)
def test_true_depth_is_whole_in_any_unit(folder, tmp_path, scale, most, metres):
    """Millimetres of 16 bits end at 65.535 m; what they cannot hold is recorded as metres."""
    (folder / 'depth_scale.txt').write_text(f'{scale}\n')
    wanted = []
    for file in sorted(folder.glob('depth/*.png')):
        stored = np.minimum(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), most)
        cv2.imwrite(str(file), stored)
        wanted.append(stored * scale)
    assert make(folder, tmp_path / 'bag') == 0
    recorded = read(tmp_path / 'bag')
    assert (METRES in recorded) == metres and (DEPTH in recorded) != metres
    for message, depth in zip(recorded[METRES if metres else DEPTH], wanted, strict=True):
        found = decode_depth(message)
        assert np.array_equal(np.isnan(found), depth == 0)
        tolerance = {'rel': 1e-6} if metres else {'abs': 5.1e-4}
        assert np.nan_to_num(found) == pytest.approx(depth, **tolerance)
    with Bag(tmp_path / 'bag') as bag:
        assert find_streams(bag).depth == (METRES if metres else DEPTH)


def test_camera_info_is_that_of_a_rectified_camera(folder, tmp_path):
    assert make(folder, tmp_path / 'bag') == 0
    info = read(tmp_path / 'bag')[INFO][0]
    assert (info.width, info.height) == (WIDTH, HEIGHT)
    assert info.k.tolist() == INTRINSICS.ravel().tolist()
    assert info.p.tolist() == [50, 0, 31, 0, 0, 52, 24, 0, 0, 0, 1, 0]
    assert info.r.tolist() == np.eye(3).ravel().tolist() and not info.d.any()


def test_odometry_has_the_axes_of_the_body(folder, tmp_path):
    """1 m ahead and 0.1 rad to the right a frame, whatever the axes of the folder's world."""
    assert make(folder, tmp_path / 'bag') == 0
    odom = read(tmp_path / 'bag')[ODOM]
    assert {(m.header.frame_id, m.child_frame_id) for m in odom} == {('odom', 'base_link')}
    assert body_pose(odom[0]) == pytest.approx(np.eye(4), abs=1e-9)
    # Second frame: straight ahead, then turned. Third: another metre along the new heading.
    assert body_pose(odom[1])[:3, 3] == pytest.approx([1, 0, 0], abs=1e-9)
    assert body_pose(odom[2])[:3, 3] == pytest.approx([1 + np.cos(0.1), -np.sin(0.1), 0], abs=1e-9)
    assert body_pose(odom[2])[:2, 0] == pytest.approx([np.cos(0.2), -np.sin(0.2)])
    # The last interval is twice as long.
    for message, seconds in zip(odom, (0.1, 0.1, 0.1, 0.2), strict=True):
        speed = message.twist.twist
        turn = [speed.angular.x, speed.angular.y, speed.angular.z]
        assert turn == pytest.approx([0, 0, -0.1 / seconds], abs=1e-6)
        step = np.array([speed.linear.x, speed.linear.y, speed.linear.z])
        assert np.linalg.norm(step) == pytest.approx(1 / seconds)
        assert (np.diag(message.pose.covariance.reshape(6, 6)) > 0).all()


def test_uncompressed_images_have_the_files_pixels(folder, tmp_path):
    for i in range(FRAMES):
        (folder / f'images/{i:04d}.jpg').unlink()
        cv2.imwrite(str(folder / f'images/{i:04d}.png'), picture(i))
    assert make(folder, tmp_path / 'bag', '--raw') == 0
    image = read(tmp_path / 'bag')['/camera/image_rect'][1]
    assert (image.encoding, image.width, image.height, image.step) == ('rgb8', 64, 48, 192)
    assert np.array_equal(image.data.reshape(HEIGHT, WIDTH, 3), picture(1)[..., ::-1])


def test_images_that_are_no_jpeg_are_encoded(folder, tmp_path):
    """Colour and with an alpha channel; grey stays grey."""
    shutil.rmtree(folder / 'images')
    (folder / 'images').mkdir()
    for i in range(FRAMES):
        image = picture(i, (3, 4, 1, 1)[i])
        cv2.imwrite(str(folder / f'images/{i:04d}.png'), image)
    assert make(folder, tmp_path / 'fine') == 0
    assert make(folder, tmp_path / 'coarse', '--jpeg-quality', 40) == 0
    fine, coarse = (read(tmp_path / name)[IMAGE] for name in ('fine', 'coarse'))
    assert [m.format.split(';')[0] for m in fine] == ['bgr8', 'bgr8', 'mono8', 'mono8']
    for i in (0, 2):
        decoded = cv2.imdecode(fine[i].data, cv2.IMREAD_UNCHANGED).reshape(HEIGHT, WIDTH, -1)
        wanted = picture(i, (3, 4, 1, 1)[i]).reshape(HEIGHT, WIDTH, -1)
        assert np.abs(decoded.astype(float) - wanted).mean() < 3
    assert len(coarse[0].data) < len(fine[0].data)


def test_sqlite_storage(folder, tmp_path):
    assert make(folder, tmp_path / 'bag', '--storage', 'sqlite3') == 0
    with sqlite3.connect(tmp_path / 'bag' / 'bag.db3') as database:
        assert database.execute('SELECT count(*) FROM messages').fetchone() == (20,)
    assert len(read(tmp_path / 'bag')[IMAGE]) == FRAMES


def test_what_is_no_ground_truth_can_be_left_out(folder, tmp_path):
    assert make(folder, tmp_path / 'bag', '--without', 'semantics', 'poses') == 0
    with Bag(tmp_path / 'bag') as bag:
        streams = find_streams(bag)
    assert (streams.depth, streams.labels, streams.odom) == (DEPTH, None, None)


def test_times(folder, tmp_path):
    """Of the clock: kept. None: 10 a second. --rate wins over all."""
    (folder / 'times.txt').write_text('1700000000.1\n1700000000.2\n1700000000.3\n1700000000.4\n')
    assert make(folder, tmp_path / 'clock') == 0
    first = stamps(read(tmp_path / 'clock')[IMAGE])[0]
    assert abs(first - 1_700_000_000_100_000_000) < 1000
    assert make(folder, tmp_path / 'rate', '--rate', 4) == 0
    assert np.diff(stamps(read(tmp_path / 'rate')[IMAGE])).tolist() == [250_000_000] * 3
    (folder / 'times.txt').unlink()
    assert make(folder, tmp_path / 'none') == 0
    assert np.diff(stamps(read(tmp_path / 'none')[IMAGE])).tolist() == [100_000_000] * 3


def test_other_layouts(folder, tmp_path):
    """KITTI's names: image_0 and calib.txt. 4x4 poses, K.txt."""
    (folder / 'images').rename(folder / 'image_2')
    (folder / 'intrinsics.txt').unlink()
    rows = [' '.join(map(str, [50 + i, 0, 31, -9, 0, 52, 24, 0, 0, 0, 1, 0])) for i in range(3)]
    (folder / 'calib.txt').write_text(''.join(f'P{i}: {row}\n' for i, row in enumerate(rows)))
    assert make(folder, tmp_path / 'kitti') == 0
    assert read(tmp_path / 'kitti')[INFO][0].k[0] == 52, 'P2 belongs to image_2'
    (folder / 'calib.txt').unlink()
    np.savetxt(folder / 'K.txt', INTRINSICS)
    np.savetxt(folder / 'poses.txt', drive().reshape(FRAMES, 16))
    shutil.copytree(folder / 'image_2', folder / 'image_3')
    assert make(folder, tmp_path / 'handheld', '--image-dir', 'image_3') == 0
    kitti, handheld = (read(tmp_path / n) for n in ('kitti', 'handheld'))
    assert handheld[INFO][0].k[0] == 50
    assert body_pose(handheld[ODOM][3]) == pytest.approx(body_pose(kitti[ODOM][3]))


def cut(path):
    path.write_bytes(path.read_bytes()[:-300])


def rewrite(path, values):
    cv2.imwrite(str(path), values)


def second_folder(folder):
    (folder / 'images').rename(folder / 'image_2')
    (folder / 'image_3').mkdir()


def as_png(folder):
    for path in sorted((folder / 'images').iterdir()):
        rewrite(path.with_suffix('.png'), cv2.imread(str(path)))
        path.unlink()
    cut(folder / 'images/0001.png')


def edit(name, text):
    return lambda folder: (folder / name).write_text(text)


DAMAGE = {
    'no folder': (shutil.rmtree, "no folder '.*drive'"),
    'no image folder': (lambda f: shutil.rmtree(f / 'images'), 'has no folder of images'),
    'many image folders': (second_folder, 'several folders of images: .*image_2, image_3'),
    'no images': (lambda f: [p.unlink() for p in (f / 'images').iterdir()], 'no jpg or png'),
    'no intrinsics': (lambda f: (f / 'intrinsics.txt').unlink(), 'no intrinsics: write fx'),
    'zero intrinsics': (edit('intrinsics.txt', '0 0 0\n0 0 0\n0 0 1\n'), 'no camera matrix'),
    'other intrinsics': (
        edit('intrinsics.txt', '50 0 300\n0 50 20\n0 0 1\n'),
        'outside of the image',
    ),
    'mixed sizes': (
        lambda f: rewrite(f / 'images/0002.jpg', picture(2)[:40]),
        '0002.jpg.* 64x40 .* 64x48',
    ),
    'truncated jpeg': (lambda f: cut(f / 'images/0001.jpg'), '0001.jpg.* cut short'),
    'truncated png': (as_png, '0001.png.* cut short'),
    'no image': (lambda f: (f / 'images/0003.jpg').write_text('hello'), '0003.jpg.* damaged'),
    'empty image': (lambda f: (f / 'images/0000.jpg').write_bytes(b''), '0000.jpg.* damaged'),
    'times too few': (edit('times.txt', '0\n1\n2\n'), '4 images.*times.txt.* 3 rows'),
    'times back': (edit('times.txt', '0\n1\n0.5\n2\n'), 'times.txt.*row 3: times must grow'),
    'poses too few': (
        edit('poses.txt', '1 0 0 0 0 1 0 0 0 0 1 0\n'),
        '4 images.*poses.txt.* 1 rows',
    ),
    'poses of zeros': (edit('poses.txt', '0 0 0 0 0 0 0 0 0 0 0 0\n' * 4), 'poses.txt.*row 1'),
    'poses not finite': (edit('poses.txt', '1 0 0 nan 0 1 0 0 0 0 1 0\n' * 4), 'finite'),
    'depth of 8 bits': (lambda f: rewrite(f / 'depth/0002.png', picture(0, 1)), '0002.png.*16 bit'),
    'depth size': (lambda f: rewrite(f / 'depth/0000.png', np.ones((9, 9), np.uint16)), '9x9'),
    'depth truncated': (lambda f: cut(f / 'depth/0000.png'), 'depth/0000.png.* cut short'),
    'class ids': (
        lambda f: rewrite(f / 'semantics/0001.png', np.full((HEIGHT, WIDTH), 33, np.uint8)),
        'class id 33',
    ),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_bad_folders_are_refused(folder, tmp_path, capsys, damage):
    """One line that names the file, status 2, and nothing is left behind."""
    harm, message = DAMAGE[damage]
    harm(folder)
    assert make(folder, tmp_path / 'bags' / 'bag') == 2
    text = capsys.readouterr().err.strip()
    assert '\n' not in text
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(text)
    assert not (tmp_path / 'bags').exists() or not list((tmp_path / 'bags').iterdir())


@pytest.mark.parametrize('option', [('--rate', 0), ('--rate', 'nan'), ('--jpeg-quality', 101)])
def test_bad_options_are_refused(folder, tmp_path, capsys, option):
    assert make(folder, tmp_path / 'bag', *option) == 2
    assert option[0] in capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()


def test_a_recording_is_replaced_only_by_force(folder, tmp_path, capsys):
    bag = tmp_path / 'bag'
    assert make(folder, bag) == 0
    before = (bag / 'bag.mcap').read_bytes()
    assert make(folder, bag) == 2
    assert '--force' in capsys.readouterr().err
    damaged = tmp_path / 'damaged'
    shutil.copytree(folder, damaged)
    cut(damaged / 'images/0003.jpg')
    assert make(damaged, bag, '--force') == 2
    assert (bag / 'bag.mcap').read_bytes() == before
    assert make(folder, bag, '--force', '--rate', 5) == 0
    assert np.diff(stamps(read(bag)[IMAGE])).tolist() == [200_000_000] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ['bag', 'damaged', 'drive']


def test_force_spares_what_is_no_recording(folder, tmp_path, capsys):
    assert make(folder, folder, '--force') == 2
    assert 'no recording' in capsys.readouterr().err
    assert len(list((folder / 'images').iterdir())) == FRAMES


@pytest.mark.parametrize(
    ('name', 'images', 'truth'),
    [
        ('kitti_street', 91, {LABELS}),
        ('kitti_odometry_00', 200, {LABELS, ODOM}),
        ('indoor_handheld', 200, {DEPTH, ODOM, '/ground_truth/depth/camera_info'}),
    ],
)
def test_real_folders(data_dir, tmp_path, name, images, truth):
    """The first frames of real recordings, in the layouts in which they were published."""
    if not (data_dir / name).is_dir():
        pytest.skip(f'{data_dir} has no {name}')
    from train.data.bag import image_stamps, write_bag
    from train.data.sequences import read_sequence

    sequence = read_sequence(data_dir / name)
    assert len(sequence.images) == images
    start = replace(
        sequence,
        images=sequence.images[:5],
        times=None if sequence.times is None else sequence.times[:5],
        poses=None if sequence.poses is None else sequence.poses[:5],
    )
    counts = write_bag(start, image_stamps(start), tmp_path / 'bag')
    assert counts == dict.fromkeys({IMAGE, INFO} | truth, 5)
    with Bag(tmp_path / 'bag') as bag:
        assert find_streams(bag).image == IMAGE
        message = bag.first(IMAGE)
        assert bytes(message.data) == sequence.images[0].read_bytes()
        info = bag.first(INFO)
        assert cv2.imdecode(message.data, 0).shape == (info.height, info.width)
        if ODOM in truth:
            odom = [body_pose(bag.decode(m)) for m in bag.messages([ODOM])]
    if name == 'kitti_odometry_00':
        assert odom[4][:3, 3] == pytest.approx([3.4, 0.2, 0], abs=0.25), 'a car drives ahead'
        assert message.format.startswith('mono8')


# The recording that ships ------------------------------------------------------------------------


@pytest.fixture(scope='module')
def shipped():
    return read(Path(__file__).parents[2] / 'demo' / 'street')


def test_shipped_recording_is_complete_and_small(repository, shipped):
    assert {topic: len(messages) for topic, messages in shipped.items()} == {
        INFO: 100,
        IMAGE: 100,
        LABELS: 100,
        ODOM: 100,
        DEPTH: 50,
        '/ground_truth/depth/camera_info': 50,
    }
    files = sorted((repository / 'demo' / 'street').iterdir())
    assert [p.name for p in files] == ['metadata.yaml', 'street.mcap']
    assert sum(p.stat().st_size for p in files) <= 8_000_000
    assert set(np.diff(stamps(shipped[IMAGE]))) == {100_000_000}
    assert stamps(shipped[DEPTH]) == stamps(shipped[IMAGE])[::2]


def test_shipped_ground_truth_is_consistent(shipped):
    """Depth moved along the odometry is the depth that is seen two frames later."""
    (fx, _, cx), (_, fy, cy), _ = shipped[INFO][0].k.reshape(3, 3)
    base_camera = pose(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), [0, 0, 0])
    cameras = [body_pose(m) @ base_camera for m in shipped[ODOM]]
    for i in (0, 30, 60, 96):
        depth, later = (decode_depth(shipped[DEPTH][k // 2]) for k in (i, i + 2))
        still = ~np.isin(decode_labels(shipped[LABELS][i]), (11, 13, 14))  # people and cars
        v, u = np.nonzero(still & (depth < 50))
        z = depth[v, u]
        points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z, np.ones_like(z)])
        x, y, z, _ = np.linalg.inv(cameras[i + 2]) @ cameras[i] @ points
        ahead = z > 1
        u, v, z = (a[ahead] for a in (x / z * fx + cx, y / z * fy + cy, z))
        inside = (u > 0) & (u < 639) & (v > 0) & (v < 191)
        seen = later[np.rint(v[inside]).astype(int), np.rint(u[inside]).astype(int)]
        error = np.abs(seen - z[inside]) / z[inside]
        assert inside.sum() > 20000
        assert np.nanmedian(error) < 0.01, i


@pytest.mark.slow
def test_shipped_recording_comes_from_its_seed(repository, shipped):
    """The commands in demo/README.md make it: one frame is rendered again."""
    pytest.importorskip('moderngl')
    from train.synthetic.renderer import Renderer, RendererError, default_intrinsics
    from train.synthetic.world import World

    readme = (repository / 'demo' / 'README.md').read_text()
    seed = int(readme.split('--seed ')[1].split()[0])
    try:
        renderer = Renderer(default_intrinsics(640, 192), 640, 192, 2)
    except RendererError as error:
        pytest.skip(str(error))
    frame = renderer.render(World(seed), 5.0)
    depth = np.nan_to_num(decode_depth(shipped[DEPTH][25]))
    near = frame.depth < 65
    # Drivers round differently where two surfaces meet.
    assert (np.abs(depth - frame.depth)[near] < 1e-3).mean() > 0.995
    assert (decode_labels(shipped[LABELS][50]) == frame.labels).mean() > 0.995
    stored = cv2.imdecode(shipped[IMAGE][50].data, cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(stored.astype(float) - frame.image).mean() < 6
