"""Known depth and motion as supervision, windows of images, mixtures of data sets."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import train
from train.__main__ import main
from train.data import looks
from train.data.augment import Augmentation
from train.data.mixture import MixedDataset, make_dataset, read_mixture
from train.data.sequences import DataError
from train.data.window import Window
from train.data.windows import Structure, WindowDataset
from train.geometry import transform_from_pose
from train.losses.depth_edges import depth_edges_loss
from train.losses.motion import motion_loss
from train.losses.points import in_units_of, judged_points
from train.losses.sky import sky_loss
from train.losses.true_depth import depth_loss
from train.networks.focal import focal_factor, pose_for_camera
from train.networks.perception import DepthRange, make_perception
from train.networks.pose import PoseNet, make_pose
from train.training.config import Config

WIDTH, HEIGHT, FOCAL, FRAMES = 96, 64, 50.0, 6
MATRIX = np.array([[FOCAL, 0, 47.5], [0, FOCAL, 31.5], [0, 0, 1]])
CONFIGS = Path(train.__file__).parent / 'configs'


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def write_structure(folder, poses, points, held_out, metric=True):
    """A structure.npz as the reconstruction writes it; the same points (n, 3) in each frame."""
    count, n = len(poses), len(points)
    np.savez(
        folder / 'structure.npz',
        part=np.zeros(count, np.int32),
        poses=poses,
        metric_spread=np.array([0.02 if metric else np.nan], np.float32),
        starts=np.arange(count + 1) * n,
        xy=np.tile(points[:, :2], (count, 1)).astype(np.float32),
        depth=np.tile(points[:, 2], count).astype(np.float32),
        sigma=np.full(count * n, 0.05, np.float32),
        held_out=np.tile(held_out, count),
    )


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    """Two data sets of a wall 10 m ahead that slides by 0.4 m a frame: 'real' with points and
    motion of a reconstruction, 'synthetic' with true depth and poses."""
    root = tmp_path_factory.mktemp('sets')
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (HEIGHT // 4, WIDTH, 3), np.uint8)
    wall = cv2.resize(noise, (4 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    poses = np.tile(np.eye(4), (FRAMES, 1, 1))
    poses[:, 0, 3] = 0.4 * np.arange(FRAMES)
    for name in ('real', 'synthetic'):
        folder = root / name
        for kind in ('images', 'semantics', 'depth'):
            if kind != 'depth' or name == 'synthetic':
                (folder / kind).mkdir(parents=True)
        for i in range(FRAMES):
            cv2.imwrite(str(folder / f'images/{i}.png'), wall[:, 2 * i : 2 * i + WIDTH])
            labels = np.full((HEIGHT, WIDTH), 2, np.uint8)
            labels[: HEIGHT // 4] = 10
            cv2.imwrite(str(folder / f'semantics/{i}.png'), labels)
            if name == 'synthetic':
                depth = np.full((HEIGHT, WIDTH), 10000, np.uint16)
                cv2.imwrite(str(folder / f'depth/{i}.png'), depth)
        np.savetxt(folder / 'intrinsics.txt', MATRIX)
    np.savetxt(root / 'synthetic/poses.txt', poses[:, :3].reshape(FRAMES, 12))
    grid = np.stack(np.meshgrid(np.arange(2, WIDTH, 4), np.arange(2, HEIGHT, 4)), -1)
    points = np.column_stack([grid.reshape(-1, 2), np.full(grid[..., 0].size, 10.0)])
    held_out = np.arange(len(points)) % 10 == 0
    write_structure(root / 'real', poses, points, held_out)
    return root


# Losses


def test_depth_loss_is_zero_for_the_truth_and_without_any():
    depth = torch.rand(2, 8, 12) * 50 + 1
    assert depth_loss(1 / depth[:, None], depth) < 1e-6
    disparity = torch.full((2, 1, 8, 12), 0.1, requires_grad=True)
    loss = depth_loss(disparity, torch.zeros(2, 8, 12))
    loss.backward()
    assert loss == 0 and (disparity.grad == 0).all()


def test_an_outlier_pulls_less_than_a_good_point():
    disparity = torch.full((1, 1, 1, 2), 0.1, requires_grad=True)
    depth_loss(disparity, torch.tensor([[[11.0, 400.0]]])).backward()
    good, bad = disparity.grad.abs().flatten()
    assert 0 < bad < 0.15 * good


def test_points_of_many_outliers_still_find_the_median():
    torch.manual_seed(0)
    truth = torch.full((1, 1, 1000), 10.0)
    truth[..., :300] = 10 * torch.rand(300) ** 2 * 20 + 0.5  # three in ten say anything
    log_depth = torch.zeros(1, 1, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([log_depth], 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        depth_loss((-log_depth).exp().expand(1, 1, 1, 1000), truth).backward()
        optimizer.step()
    assert log_depth.exp().item() == pytest.approx(10, rel=0.05)


def test_edges_do_not_see_the_scale_but_blur():
    depth = torch.full((1, 16, 16), 20.0)
    depth[..., :8] = 5
    assert depth_edges_loss(1 / (3 * depth[:, None]), depth) < 1e-5
    blurred = torch.nn.functional.avg_pool2d(1 / depth[:, None], 5, 1, 2, count_include_pad=False)
    assert depth_edges_loss(blurred, depth) > 0.05
    assert depth_edges_loss(1 / depth[:, None], torch.zeros(1, 16, 16)) == 0


def test_the_sky_may_be_anywhere_far():
    sky = torch.ones(1, 4, 4, dtype=torch.bool)
    assert sky_loss(torch.full((1, 1, 4, 4), 1 / 100), sky, 80) == 0
    assert sky_loss(torch.full((1, 1, 4, 4), 1 / 8), sky, 80) == pytest.approx(np.log(10), 1e-4)
    assert sky_loss(torch.full((1, 1, 4, 4), 1 / 8), ~sky, 80) == 0


def test_motion_loss_counts_known_motion_only():
    truth = transform_from_pose(torch.tensor([[0, 0.02, 0, 0, 0, 1.0], [0, 0, 0, 0, 0, 0.5]]))
    found = transform_from_pose(torch.tensor([[0, 0.03, 0, 0, 0, 1.1], [1, 0, 0, 9, 9, 9]]))
    truth[1] = torch.nan
    found.requires_grad_()
    loss = motion_loss([found], truth[:, None])
    assert loss.item() == pytest.approx(0.1 + 20 * 0.01, rel=1e-2)
    loss.backward()
    assert found.grad.isfinite().all() and (found.grad[1] == 0).all()


def test_still_pairs_have_a_finite_gradient():
    found = torch.eye(4)[None].requires_grad_()
    motion_loss([found], torch.eye(4)[None, None]).backward()
    assert found.grad.isfinite().all()


def test_depth_and_motion_follow_the_focal_length():
    cameras = torch.tensor(np.stack([MATRIX, 2 * MATRIX, np.full((3, 3), np.nan)])).float()
    torch.testing.assert_close(focal_factor(cameras, FOCAL), torch.tensor([1.0, 2.0, 1.0]))
    pose = torch.tensor([[0.01, 0.02, 0.03, 1.0, 2.0, 3.0]]).repeat(3, 1)
    real = pose_for_camera(pose, cameras, FOCAL)
    torch.testing.assert_close(real[[0, 2]], pose[[0, 2]])
    torch.testing.assert_close(real[1], torch.tensor([0.005, 0.01, 0.03, 1.0, 2.0, 6.0]))


@pytest.mark.parametrize('motion', [[0, 0.002, 0, 0.3, 0, 0], [0.001, 0, 0.001, 0, 0.1, 0.4]])
def test_a_camera_of_another_focal_length_moves_the_same_pixels(motion):
    """Flow of the network's own camera, past depth as it sees it, is the real camera's flow."""
    own = torch.tensor([[FOCAL, 0, 0], [0, FOCAL, 0], [0, 0, 1]]).float()
    real = torch.tensor([[1.5 * FOCAL, 0, 0], [0, 2 * FOCAL, 0], [0, 0, 1]]).float()
    seen = torch.tensor([motion]).float()
    moved = transform_from_pose(pose_for_camera(seen, real[None], FOCAL))[0]
    pixel, depth = torch.tensor([12.0, 7.0, 1.0]), 20.0
    flows = []
    for camera, transform, far in (
        (own, transform_from_pose(seen)[0], depth),
        (real, moved, depth * focal_factor(real[None], FOCAL).item()),
    ):
        point = transform[:3, :3] @ (torch.linalg.inv(camera) @ pixel * far) + transform[:3, 3]
        flows.append((camera @ point / point[2] - pixel)[:2])
    torch.testing.assert_close(flows[0], flows[1], rtol=0.05, atol=0.02)


def test_points_of_unknown_unit_take_the_predictions():
    points = torch.zeros(2, 4, 4)
    points[:, 1:3, 1:3] = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    disparity = torch.full((2, 1, 4, 4), 0.1)
    scaled = in_units_of(disparity, {'points': points, 'relative': torch.tensor([True, False])})
    torch.testing.assert_close(scaled[1], points[1])
    assert scaled[0].max() in (10, 20) and (scaled[0] > 0).sum() == 4


def test_judged_points_are_scaled_by_the_median():
    points = torch.rand(1, 8, 8) * 10 + 1
    judged = judged_points(1 / (4 * points[:, None]), points)
    assert judged['points_abs_rel'][0] < 1e-5 and judged['points_delta1'][0] == 1
    assert judged_points(1 / points[:, None], torch.zeros(1, 8, 8)) == {}


# Networks


@pytest.mark.parametrize('logarithmic', [False, True])
def test_depth_range(logarithmic):
    known = DepthRange(0.3, 150.0, logarithmic)
    depth = 1 / known.disparity(torch.tensor([-100.0, 0.0, 100.0]))
    assert depth[0] == pytest.approx(150, rel=1e-4) and depth[2] == pytest.approx(0.3, rel=1e-4)
    if logarithmic:
        assert depth[1] == pytest.approx((0.3 * 150) ** 0.5, rel=1e-4)


def test_a_network_says_what_its_range_allows():
    net = make_perception('light', 'efficientnet_lite0', depth_range=DepthRange(1, 4, True)).eval()
    with torch.no_grad():
        depth = 1 / net(torch.rand(1, 3, 64, 96)).disparities[0]
    assert depth.min() >= 1 and depth.max() <= 4


def test_a_symmetric_pose_network_stands_still_and_goes_back():
    torch.manual_seed(0)
    net = make_pose('light', symmetric=True).eval()
    a, b = torch.rand(2, 2, 3, 64, 96)
    with torch.no_grad():
        assert (net(a, a) == 0).all()
        torch.testing.assert_close(net(a, b), -net(b, a))
        assert net(a, b).abs().max() > 0
    assert isinstance(net.net, PoseNet)


def test_bfloat16_on_a_processor_keeps_large_depthwise_convolutions_single():
    torch.manual_seed(0)
    net = make_perception('light', 'efficientnet_lite0').eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        exact = net(image).disparities[0]
        with torch.autocast('cpu', torch.bfloat16):
            half = net(image).disparities[0]
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.1)


# Windows


@pytest.mark.parametrize('seed', range(8))
def test_everything_in_a_window_fits_together(seed):
    """A point of the scene is where intrinsics, points, map and image say that it is."""
    rng = np.random.default_rng(seed)
    image = np.zeros((120, 300, 3), np.uint8)
    u, v = rng.integers(60, 240), rng.integers(40, 80)
    image[v - 3 : v + 4, u - 3 : u + 4] = 255
    window = Window.draw((300, 120), (160, 64), seeded(seed), least=0.6, flip=0.5, filters=1.0)
    seen = window.points(np.array([[u, v, 7.0]]))
    if not seen.any():
        return
    assert seen.sum() == 7
    row, column = np.argwhere(seen)[0]
    bright = np.argwhere(window.image(image)[..., 0] > 100).mean(0)
    assert np.abs(bright - [row, column]).max() < 2
    mapped = np.argwhere(window.map(image[..., 0]) > 0).mean(0)
    assert np.abs(mapped - [row, column]).max() < 1.5
    matrix = np.array([[200.0, 0, 150], [0, 200, 60], [0, 0, 1]])
    point = np.linalg.inv(matrix) @ [u, v, 1] * 7
    point[0] *= -1 if window.mirror else 1
    x, y, z = window.intrinsics(matrix) @ point
    assert abs(x / z - column) < 1 and abs(y / z - row) < 1


def test_the_whole_image_is_resized_as_the_nodes_do(sets):
    image = cv2.imread(str(sets / 'real/images/0.png'))
    whole = Window.whole((WIDTH, HEIGHT), (WIDTH, HEIGHT))
    np.testing.assert_array_equal(whole.image(image), image)
    np.testing.assert_allclose(whole.intrinsics(MATRIX), MATRIX)


def test_a_mirrored_motion_goes_the_other_way():
    window = replace(Window.whole((WIDTH, HEIGHT), (WIDTH, HEIGHT)), mirror=True)
    motion = transform_from_pose(torch.tensor([[0, 0.1, 0, 1.0, 2.0, 3.0]]).double())[0].numpy()
    mirrored = window.motion(motion)
    np.testing.assert_allclose(mirrored[:3, 3], [-1, 2, 3])
    np.testing.assert_allclose(mirrored[:3, :3], motion[:3, :3].T, atol=1e-12)


@pytest.mark.parametrize('look', [looks.grey, looks.sharpen, looks.degrade, looks.fog])
def test_looks_change_the_image_and_not_its_shape(look):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (8, 12, 3), np.uint8), (96, 64))
    before = image.copy()
    a, b = look([image, image], seeded())
    assert a.dtype == np.uint8 and a.shape == image.shape and (a != image).any()
    np.testing.assert_array_equal(image, before)
    again = look([image, image], seeded())
    np.testing.assert_array_equal(a, again[0])
    np.testing.assert_array_equal(b, again[1])


# Samples


def test_a_sample_has_points_and_motion(sets):
    data = WindowDataset(sets / 'real', WIDTH, HEIGHT)
    item = data[1]
    assert (item['points'] > 0).sum() == 345 and not item['relative'] and item['watched']
    np.testing.assert_allclose(item['motion'][0, :3, 3], [0.4, 0, 0], atol=1e-6)
    judge = WindowDataset(sets / 'real', WIDTH, HEIGHT, judge=True)[1]
    assert (judge['points'] > 0).sum() == 39
    assert not ((judge['points'] > 0) & (item['points'] > 0)).any()
    true = WindowDataset(sets / 'synthetic', WIDTH, HEIGHT)[1]
    assert (true['depth'] == 10).all() and not true['points'].any()
    np.testing.assert_allclose(true['motion'], item['motion'])


def test_still_backward_and_unused(sets):
    still = WindowDataset(sets / 'real', WIDTH, HEIGHT, still=1.0, augment=Augmentation())[(1, 3)]
    np.testing.assert_array_equal(still['images'][0], still['images'][1])
    assert (still['motion'][0] == torch.eye(4)).all() and not still['watched']
    augment = Augmentation(flip=0, jitter=0)
    back = WindowDataset(sets / 'real', WIDTH, HEIGHT, backward=1.0, augment=augment)[(1, 3)]
    np.testing.assert_allclose(back['motion'][0, :3, 3], [-0.4, 0, 0], atol=1e-6)
    bare = WindowDataset(sets / 'synthetic', WIDTH, HEIGHT, use=['semantics'])[1]
    assert not bare['depth'].any() and bare['motion'].isnan().all() and not bare['watched']
    assert (bare['labels'] == 10).any()


def test_pictures_that_are_no_video(sets):
    data = WindowDataset(sets / 'real', WIDTH, HEIGHT, singles=True, span=(0, 0.5))
    assert len(data) == 3
    assert (data[0]['motion'][0] == torch.eye(4)).all()


def test_a_sample_depends_on_its_key_only(sets):
    data = WindowDataset(
        *(sets / 'real', WIDTH, HEIGHT),
        augment=Augmentation(grey=0.5, degrade=0.5, fog=0.5),
        crop=0.5,
        filters=1.0,
        still=0.3,
    )
    for a, b in zip(data[(2, 7)].values(), data[(2, 7)].values(), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_a_relative_reconstruction_has_no_motion_in_metres(sets, tmp_path):
    folder = tmp_path / 'relative'
    folder.mkdir()
    for name in ('images', 'intrinsics.txt'):
        (folder / name).symlink_to(sets / 'real' / name)
    points = np.array([[5, 5, 1.0]])
    write_structure(folder, np.tile(np.eye(4), (FRAMES, 1, 1)), points, np.zeros(1, bool), False)
    item = WindowDataset(folder, WIDTH, HEIGHT)[1]
    assert item['relative'] and item['motion'].isnan().all() and item['points'].sum() == 1


def test_a_damaged_structure_is_named(sets, tmp_path):
    (tmp_path / 'images').symlink_to(sets / 'real/images')
    (tmp_path / 'intrinsics.txt').symlink_to(sets / 'real/intrinsics.txt')
    (tmp_path / 'structure.npz').write_bytes(b'PK\3\4')
    with pytest.raises(DataError, match=r'structure.npz.*make it again'):
        WindowDataset(tmp_path, WIDTH, HEIGHT)
    points = np.array([[5, 5, 1.0]])
    write_structure(tmp_path, np.tile(np.eye(4), (3, 1, 1)), points, np.zeros(1, bool))
    with pytest.raises(DataError, match='is of 3 images, its folder has 6'):
        WindowDataset(tmp_path, WIDTH, HEIGHT)


# Mixtures


def write_mixture(path, *entries):
    path.write_text(yaml.safe_dump({'sets': list(entries)}))
    return str(path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('sets: [{weight: 1}]', "with 'data' among them"),
        ('sets: [{data: x, wieght: 1}]', "'wieght' is unknown"),
        ('sets: [{data: x, weight: 0}]', 'must be positive'),
        ('sets: [{data: x, use: [dept]}]', "'use' must be some of"),
        ('sets: [{data: x, span: [1, 0]}]', 'two shares'),
        ('sets: [{data: x, singles: 1}]', "'singles' is 1, must be bool"),
        ('sets: []', 'is no mixture'),
        ('- a', 'is no mixture'),
    ],
)
def test_a_wrong_mixture_is_explained(tmp_path, text, message):
    path = tmp_path / 'sets.yaml'
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_mixture(path)


def test_a_mixture_draws_by_weight(sets):
    parts = [WindowDataset(sets / name, WIDTH, HEIGHT) for name in ('real', 'synthetic')]
    data = MixedDataset(parts, [3.0, 1.0])
    assert len(data) == 2 * (FRAMES - 1) and data.has('depth') and data.has('semantics')
    real = [bool(data[(0, seed)]['points'].any()) for seed in range(400)]
    assert 0.68 < np.mean(real) < 0.82
    assert [bool(data[i]['points'].any()) for i in range(len(data))] == [True] * 5 + [False] * 5


def test_all_committed_mixtures_can_be_read():
    found = sorted(CONFIGS.glob('*_sets.yaml'))
    assert found
    for path in found:
        assert read_mixture(path)


# The whole way

SETTINGS = {
    'out': '',
    'width': WIDTH,
    'height': HEIGHT,
    'views': 2,
    'network': 'light',
    'encoder': 'efficientnet_lite0',
    'pose_network': 'light',
    'symmetric': True,
    'min_depth': 0.3,
    'max_depth': 150.0,
    'log_depth': True,
    'focal': FOCAL,
    'crop': 0.7,
    'filters': 0.5,
    'still': 0.2,
    'backward': 0.3,
    'full_resolution': False,
    'photometric': 0.0,
    'semantic': 0.2,
    'true_depth': 1.0,
    'depth_edges': 0.1,
    'points': 1.0,
    'sky': 0.05,
    'motion': 0.1,
    'batch_size': 4,
    'steps': 6,
    'learning_rate': 1e-3,
    'schedule': 'constant',
    'gradient_clip': 5.0,
    'precision': 'bf16-mixed',
    'accelerator': 'cpu',
    'val_every': 6,
    'workers': 0,
}


@pytest.mark.parametrize('photometric', [0.0, 1.0])
def test_fit_learns_from_a_mixture_and_exports(sets, tmp_path, photometric):
    mixture = write_mixture(
        tmp_path / 'sets.yaml',
        {'data': str(sets / 'real'), 'weight': 2},
        {'data': str(sets / 'synthetic'), 'use': ['depth', 'motion', 'semantics']},
    )
    settings = {
        **SETTINGS,
        'photometric': photometric,
        'known_motion': photometric > 0,
        'data': mixture,
        'val': str(sets / 'real'),
        'out': str(tmp_path / 'run'),
    }
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(settings))
    assert main(['fit', '--config', str(tmp_path / 'config.yaml')]) == 0
    log = (tmp_path / 'run/logs/version_0/metrics.csv').read_text()
    assert 'val/points_abs_rel' in log and (tmp_path / 'run/best.ckpt').exists()
    assert main(['export', str(tmp_path / 'run/best.ckpt'), '--out', str(tmp_path / 'model')]) == 0
    from depth_ros.inference.contract import read_contract

    contract = read_contract(str(tmp_path / 'model/perception.onnx'))
    assert contract.metric and contract.depth_range == (0.3, 150.0)
    assert contract.intrinsics == (FOCAL, FOCAL, 47.5, 31.5)
    out = tmp_path / 'found.json'
    arguments = ['--tasks', 'depth', '--json', str(out)]
    for model in ('run/best.ckpt', 'model'):
        main(['evaluate', str(sets / 'synthetic'), '--model', str(tmp_path / model), *arguments])
        assert 'as_published' in json.loads(out.read_text())['depth']


def test_known_depth_is_learnt(sets, tmp_path):
    """A few steps bring the wall to its 10 m, whatever window it is seen through."""
    config = Config(**{**SETTINGS, 'data': str(sets / 'real'), 'val': 'x', 'precision': '32-true'})
    from torch.utils.data import default_collate

    from train.training.system import System

    torch.manual_seed(0)
    system = System(config)
    data = make_dataset(config.data, config, Augmentation(jitter=0))
    optimizer = torch.optim.AdamW(system.parameters(), 3e-3)
    seen = []
    for step in range(12):
        batch = default_collate([data[(i, 100 * step + i)] for i in range(4)])
        terms = system.losses(batch).terms
        optimizer.zero_grad()
        terms['loss'].backward()
        optimizer.step()
        seen.append(terms['points'].item())
    assert np.mean(seen[-3:]) < 0.6 * np.mean(seen[:2])


def test_the_pose_network_alone_learns_from_known_motion(sets, tmp_path):
    """Depth is not computed then, and comes through unchanged."""
    settings = {
        **SETTINGS,
        **dict.fromkeys(('semantic', 'true_depth', 'depth_edges', 'points', 'sky'), 0.0),
        **{'smoothness': 0.0, 'motion': 1.0, 'train_perception': False, 'steps': 2},
        **{'data': str(sets / 'real'), 'val': str(sets / 'real'), 'val_every': 2},
    }
    from train.training.system import System

    first = System(Config(**{**settings, 'init': 'x'}))
    start = {'state_dict': first.state_dict()}
    torch.save(start, tmp_path / 'start.ckpt')
    settings.update(out=str(tmp_path / 'run'), init=str(tmp_path / 'start.ckpt'))
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(settings))
    assert main(['fit', '--config', str(tmp_path / 'config.yaml')]) == 0
    found = torch.load(tmp_path / 'run/best.ckpt', weights_only=True)['state_dict']
    for name, value in start['state_dict'].items():
        same = torch.equal(found[name], value)
        assert same or name.startswith('pose.'), name
    assert not torch.equal(
        found['pose.net.head.weight'], start['state_dict']['pose.net.head.weight']
    )


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'crop': 0.0}, 'needs crop'),
        ({'crop': 1.5}, 'must be 0 to 1'),
        ({'min_depth': 200.0}, 'must be more than min_depth'),
        ({'pose_network': 'sfm'}, 'needs pose_network'),
        ({'network': 'dispnet', 'semantic': 0.0}, 'not for this network'),
    ],
)
def test_contradictions_are_told(changed, message):
    with pytest.raises(ValueError, match=message):
        Config(**{**SETTINGS, 'data': 'x', 'val': 'x', **changed})


def test_a_structure_is_read(sets):
    from train.data.sequences import read_sequence

    structure = Structure.read(read_sequence(sets / 'real'))
    assert len(structure.seen(0, True)) + len(structure.seen(0, False)) == 384
