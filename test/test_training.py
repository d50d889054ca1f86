"""Training from data to model files, on a tiny budget."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from depth_ros.contract import POSE_CONVENTION, read_contract
from depth_ros.engine import installed_backends, load_engine
from train.__main__ import main
from train.classes import CITYSCAPES
from train.config import Config
from train.data import TripletDataset
from train.export import DeployedPerception, DeployedPose, write_model
from train.fit import fit
from train.networks.perception import MAX_DEPTH, MIN_DEPTH, PerceptionNet, disparity
from train.networks.pose import PoseNet
from train.scale import camera_height
from train.sequences import IGNORE
from train.system import StreetSystem

WIDTH, HEIGHT = 96, 64
FOCAL = 50.0


@pytest.fixture(scope='module')
def street(tmp_path_factory):
    """A data set of two sequences: a textured wall 10 m ahead, slid sideways 0.4 m a frame."""
    root = tmp_path_factory.mktemp('street')
    rng = np.random.default_rng(0)
    for number in range(2):
        folder = root / f'{number:04}'
        for name in ('images', 'depth', 'semantics'):
            (folder / name).mkdir(parents=True)
        noise = rng.integers(0, 256, (HEIGHT // 4, WIDTH, 3), np.uint8)
        wall = cv2.resize(noise, (4 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        frames = 6
        for i in range(frames):
            left = 2 * i  # 0.4 m at 10 m and focal length 50: 2 pixels
            cv2.imwrite(str(folder / f'images/{i:06}.png'), wall[:, left:left + WIDTH])
            cv2.imwrite(str(folder / f'depth/{i:06}.png'),
                        np.full((HEIGHT, WIDTH), 10000, np.uint16))
            labels = np.full((HEIGHT, WIDTH), 2, np.uint8)
            labels[HEIGHT // 2:] = 0
            cv2.imwrite(str(folder / f'semantics/{i:06}.png'), labels)
        np.savetxt(folder / 'intrinsics.txt',
                   [[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
        poses = np.tile(np.eye(4)[:3].ravel(), (frames, 1))
        poses[:, 3] = 0.4 * np.arange(frames)
        np.savetxt(folder / 'poses.txt', poses)
        np.savetxt(folder / 'times.txt', 0.1 * np.arange(frames))
    return root


def config(street, out, **changes):
    values = {
        'data': str(street), 'val': str(street), 'out': str(out), 'init': '', 'width': WIDTH,
        'height': HEIGHT, 'max_gap': 1, 'train_perception': True, 'pretrained': False,
        'batch_size': 2, 'steps': 4, 'learning_rate': 1e-3, 'smoothness': 1e-3,
        'semantic': 0.3, 'precision': '32-true', 'val_every': 2, 'workers': 0, 'seed': 1}
    return Config(**{**values, **changes})


def arguments(street, out, **changes):
    """The same on the command line."""
    values = vars(config(street, out, **changes))
    return [word for name, value in values.items()
            for word in (f'--{name.replace("_", "-")}', str(value))]


@pytest.fixture(scope='module')
def trained(street, tmp_path_factory):
    out = tmp_path_factory.mktemp('run')
    fit(config(street, out))
    return out


@pytest.fixture(scope='module')
def exported(street, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp('models')
    assert main(['export', str(trained / 'last.ckpt'), '--out', str(out)]) == 0
    return out


# Data

def test_triplets(street):
    data = TripletDataset(street, WIDTH, HEIGHT, augment=False)
    assert len(data) == 2 * 4
    item = data[0]
    assert item['images'].shape == (3, 3, HEIGHT, WIDTH) and item['images'].dtype == torch.uint8
    # The next frame is the target slid by two pixels.
    assert torch.equal(item['images'][2][..., :-2], item['images'][1][..., 2:])
    assert (item['depth'] == 10).all()
    assert item['labels'].unique().tolist() == [0, 2]
    np.testing.assert_allclose(item['intrinsics'][0, 2], WIDTH / 2)


def test_smaller_networks_see_scaled_intrinsics(street):
    matrix = TripletDataset(street, WIDTH // 2, HEIGHT // 2, augment=False)[0]['intrinsics']
    np.testing.assert_allclose(matrix[0, 0], FOCAL / 2)
    np.testing.assert_allclose(matrix[0, 2], (WIDTH / 2 + 0.5) / 2 - 0.5)


def test_augmentation_flips_everything_and_jitters_only_what_networks_see(street):
    data = TripletDataset(street, WIDTH, HEIGHT, augment=True)
    plain = TripletDataset(street, WIDTH, HEIGHT, augment=False)[0]
    torch.manual_seed(0)
    flipped = jittered = 0
    for _ in range(20):
        item = data[0]
        mirror = item['intrinsics'][0, 2] != plain['intrinsics'][0, 2]
        expected = plain['images'].flip(-1) if mirror else plain['images']
        assert torch.equal(item['images'], expected)
        if mirror:
            assert item['intrinsics'][0, 2] == WIDTH - 1 - plain['intrinsics'][0, 2]
        flipped += bool(mirror)
        jittered += not torch.equal(item['inputs'], item['images'])
    assert 0 < flipped < 20 and 0 < jittered < 20


# Networks

def test_shapes_and_range():
    net = PerceptionNet(classes=19, pretrained=False).eval()
    disparities, logits = net(torch.rand(2, 3, HEIGHT, WIDTH))
    assert [d.shape[2:] for d in disparities] == [(HEIGHT >> s, WIDTH >> s) for s in (1, 2, 3)]
    assert logits.shape == (2, 19, HEIGHT // 2, WIDTH // 2)
    limits = 1 / disparity(torch.tensor([-100.0, 100.0]))
    torch.testing.assert_close(limits, torch.tensor([MAX_DEPTH, MIN_DEPTH]))


def test_imagenet_weights_fit_and_first_stages_stay_frozen():
    net = PerceptionNet(classes=3, pretrained=True).train()
    stem = net.encoder.stem[1]
    assert stem.running_mean.abs().max() > 0 and not stem.training
    before = stem.running_mean.clone()
    sum(d.sum() for d in net(torch.rand(2, 3, HEIGHT, WIDTH))[0]).backward()
    assert torch.equal(stem.running_mean, before)
    assert all(p.grad is None for p in net.encoder.stem.parameters())
    assert net.encoder.stages[4].parameters().__next__().grad is not None


def test_pose_starts_near_no_motion():
    pose = PoseNet().eval()(*torch.rand(2, 1, 3, HEIGHT, WIDTH))
    assert pose.shape == (1, 6) and pose.abs().max() < 0.1


def test_both_transforms_lead_from_the_target(street):
    """The first pair's pose leads from target to previous; the second's must be inverted."""
    system = StreetSystem(config(street, 'unused')).eval()
    frames = torch.rand(1, 3, 3, HEIGHT, WIDTH)
    repeated = torch.stack([frames[:, 0], frames[:, 1], frames[:, 0]], 1)
    with torch.no_grad():
        to_previous, to_next = system.transforms(repeated)
        swapped, _ = system.transforms(torch.stack([frames[:, 1], frames[:, 0]] * 2, 1)[:, :3])
    assert not torch.allclose(to_previous, torch.eye(4))
    torch.testing.assert_close(to_next @ swapped, torch.eye(4)[None], atol=1e-6, rtol=0)


def test_the_true_motion_has_a_lower_loss_than_a_wrong_one(street):
    item = TripletDataset(street, WIDTH, HEIGHT, augment=False)[0]
    images, intrinsics = item['images'][None].float() / 255, item['intrinsics'][None]
    disparity = torch.full((1, 1, HEIGHT // 2, WIDTH // 2), 0.1)

    def loss(metres):
        to_previous, to_next = torch.eye(4)[None].clone(), torch.eye(4)[None].clone()
        to_previous[:, 0, 3], to_next[:, 0, 3] = metres, -metres
        return StreetSystem.view_synthesis(
            disparity, images, (to_previous, to_next), intrinsics)

    true, mask = loss(0.4)
    wrong, _ = loss(-0.4)
    assert true < 0.02 < wrong
    assert mask.float().mean() > 0.9


def test_unlabelled_data_has_no_semantic_loss():
    logits = torch.rand(1, 19, 4, 4, requires_grad=True)
    loss = StreetSystem.cross_entropy(logits, torch.full((1, 8, 8), IGNORE))
    assert loss.item() == 0
    labels = torch.full((1, 8, 8), IGNORE)
    labels[:, :4] = 3
    expected = torch.nn.functional.cross_entropy(
        logits[:, :, :2], torch.full((1, 2, 4), 3))
    torch.testing.assert_close(StreetSystem.cross_entropy(logits, labels), expected)


# Scale

def test_camera_height_over_a_tilted_road():
    intrinsics = np.array([[100.0, 0, 80], [0, 100, 40], [0, 0, 1]])
    pitch = np.radians(3)
    normal = np.array([0, np.cos(pitch), np.sin(pitch)])
    v, u = np.mgrid[:80, :160]
    slope = np.linalg.inv(intrinsics) @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    with np.errstate(divide='ignore'):
        depth = (1.4 / (normal @ slope)).reshape(80, 160)
    road = (depth > 0) & (depth < 40)
    road[60:, 100:] = True
    depth[70:75, 100:110] *= 0.7  # something that is no road
    assert camera_height(depth, road, intrinsics) == pytest.approx(1.4, rel=0.01)
    assert camera_height(depth, np.zeros_like(road), intrinsics) is None
    wall = np.full_like(depth, 5.0)
    assert camera_height(wall, np.ones_like(road), intrinsics) is None


# Fit

def test_training_lowers_the_loss(street, tmp_path):
    system = fit(config(street, tmp_path, steps=40, val_every=40, batch_size=4))
    assert system.global_step == 40
    text = (tmp_path / 'logs/version_0/metrics.csv').read_text()
    assert 'val/abs_rel' in text and (tmp_path / 'best.ckpt').exists()
    data = TripletDataset(street, WIDTH, HEIGHT, augment=False)
    batch = torch.utils.data.default_collate([data[i] for i in range(4)])
    torch.manual_seed(0)
    fresh = StreetSystem(config(street, 'unused'))
    with torch.no_grad():  # in training mode: statistics of this batch in both
        before, after = (s.train().losses(batch)['loss'] for s in (fresh, system))
    assert after < 0.8 * before


def test_the_seed_decides_the_weights(street, trained, tmp_path):
    again = fit(config(street, tmp_path))
    first = torch.load(trained / 'last.ckpt', weights_only=True)['state_dict']
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, first[name], msg=name)


def test_an_interrupted_training_goes_on(street, tmp_path):
    command = [sys.executable, '-m', 'train', 'fit',
               *arguments(street, tmp_path, steps=100000, val_every=100000)]
    # A process that a shell starts in the background ignores interrupts, and its children with it.
    process = subprocess.Popen(
        command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / 'last.ckpt').exists():  # after 100 steps
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        written = os.stat(tmp_path / 'last.ckpt').st_mtime_ns
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        process.kill()
    assert os.stat(tmp_path / 'last.ckpt').st_mtime_ns > written
    step = torch.load(tmp_path / 'last.ckpt', weights_only=True)['global_step']
    assert step >= 100
    system = fit(config(street, tmp_path, steps=step + 2, val_every=100000),
                 resume_from=tmp_path / 'last.ckpt')
    assert system.global_step == step + 2


def test_gaps_reach_farther_frames(street):
    data = TripletDataset(street, WIDTH, HEIGHT, augment=False, max_gap=2)
    torch.manual_seed(0)

    def slides(index):
        """Pixels from target to next frame, in several draws."""
        found = set()
        for _ in range(12):
            target, following = data[index]['images'][1:]
            found |= {s for s in (2, 4) if torch.equal(following[..., :-s], target[..., s:])}
        return found
    assert slides(1) == {2, 4}
    assert slides(0) == {2}  # the second frame has one before it only


def test_a_phase_for_the_pose_network_alone(street, trained, tmp_path):
    system = fit(config(street, tmp_path, init=str(trained / 'last.ckpt'), max_gap=2,
                        train_perception=False))
    before = torch.load(trained / 'last.ckpt', weights_only=True)['state_dict']
    same = {n: torch.equal(v, before[n]) for n, v in system.state_dict().items()}
    assert all(v for n, v in same.items() if n.startswith('perception.'))
    assert not any(v for n, v in same.items() if n.startswith('pose.') and n.endswith('weight'))
    assert (tmp_path / 'best.ckpt').exists()


def test_bad_requests_are_named(street, tmp_path, capsys):
    for change, message in (
            ({'data': str(tmp_path)}, 'no sequences'), ({'width': 100}, 'multiples of 32'),
            ({'init': str(tmp_path / 'no.ckpt')}, 'no.ckpt')):
        assert main(['fit', *arguments(street, tmp_path / 'out', **change)]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / 'bad.yaml').write_text('stepz: 3\n')
    assert main(['fit', '--config', str(tmp_path / 'bad.yaml')]) == 2
    assert 'bad.yaml' in capsys.readouterr().err
    assert main(['export', str(tmp_path / 'no.ckpt')]) == 2
    assert 'no.ckpt' in capsys.readouterr().err


# Export

def test_exported_models_describe_themselves(exported):
    contract = read_contract(exported / 'perception.onnx')
    assert contract.outputs == ('depth', 'labels') and contract.classes == CITYSCAPES
    assert contract.intrinsics == (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
    assert not contract.metric and contract.depth_range == (MIN_DEPTH, MAX_DEPTH)
    assert contract.provenance['steps'] == 4
    assert read_contract(exported / 'pose.onnx').pose_convention == POSE_CONVENTION
    for name in ('perception', 'pose'):  # and tell nothing of the machine that exported them
        assert b'site-packages' not in (exported / f'{name}.onnx').read_bytes()


@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_exported_models_compute_what_was_trained(street, trained, exported, backend):
    if backend not in installed_backends():
        pytest.skip(f'{backend} is not installed')
    system = StreetSystem(config(street, 'unused'))
    system.load_state_dict(torch.load(trained / 'last.ckpt', weights_only=True)['state_dict'])
    system.eval()
    rng = np.random.default_rng(0)
    previous, current = rng.integers(0, 256, (2, 1, HEIGHT, WIDTH, 3), np.uint8)
    with torch.inference_mode():
        depth, labels = DeployedPerception(system.perception, 1.0)(torch.from_numpy(current))
        pose = DeployedPose(system.pose, 1.0)(*map(torch.from_numpy, (previous, current)))
    found = load_engine(exported / 'perception.onnx', backend).infer({'image': current})
    np.testing.assert_allclose(found['depth'], depth, rtol=1e-4)
    assert (found['labels'] == labels.numpy()).mean() > 0.999  # ties may fall either way
    found = load_engine(exported / 'pose.onnx', backend).infer(
        {'previous': previous, 'current': current})
    np.testing.assert_allclose(found['pose'], pose, rtol=1e-4, atol=1e-7)


def test_a_metric_scale_multiplies_depth_and_translation(tmp_path):
    net, image = PoseNet(), torch.randint(0, 256, (1, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    other = image.flip(2)
    plain, scaled = (DeployedPose(net, s).eval()(image, other) for s in (1.0, 3.0))
    torch.testing.assert_close(scaled, plain * torch.tensor([1, 1, 1, 3, 3, 3]))
    net = PerceptionNet(3, pretrained=False)
    plain, scaled = (DeployedPerception(net, s).eval()(image)[0] for s in (1.0, 3.0))
    torch.testing.assert_close(scaled, 3 * plain)


def test_a_failed_export_leaves_the_old_file(tmp_path):
    from depth_ros.contract import ContractError, ModelContract
    path = tmp_path / 'pose.onnx'
    path.write_text('old')
    wrong = ModelContract(task='pose', name='x', input_width=WIDTH + 32, input_height=HEIGHT,
                          intrinsics=(1.0, 1.0, 0.0, 0.0), outputs=('pose',),
                          pose_convention=POSE_CONVENTION)
    image = torch.zeros(1, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    with pytest.raises(ContractError, match="'previous'"):
        write_model(DeployedPose(PoseNet(), 1.0),
                    {'previous': image, 'current': image.clone()}, wrong, path)
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


# Evaluate

def test_evaluation_measures_the_exported_files(street, exported, tmp_path, capsys):
    out = tmp_path / 'metrics.json'
    assert main(['evaluate', str(street), '--models', str(exported), '--json', str(out)]) == 0
    printed = capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report['depth']['images'] == 12 and set(report['trajectories']) == {'0000', '0001'}
    assert report['trajectories']['0000']['length'] == pytest.approx(2.0)
    assert set(report['semantics']['iou']) == {'road', 'building'}
    assert 'median_scaled' in printed and 'road' in printed
    # The same number, worked out from the engine's own output.
    engine = load_engine(exported / 'perception.onnx')
    errors = []
    for path in sorted(street.glob('*/images/*.png')):
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        depth = engine.infer({'image': image[None]})['depth']
        errors.append(np.mean(np.abs(depth / np.median(depth) - 1)))
    assert report['depth']['median_scaled']['abs_rel'] == pytest.approx(np.mean(errors), rel=1e-3)


def test_evaluation_without_ground_truth_says_so(street, exported, tmp_path, capsys):
    folder = tmp_path / 'plain'
    (folder / 'images').mkdir(parents=True)
    for name in ('images/000000.png', 'intrinsics.txt'):
        (folder / name).write_bytes((street / '0000' / name).read_bytes())
    assert main(['evaluate', str(folder), '--models', str(exported)]) == 2
    assert 'depth/' in capsys.readouterr().err
