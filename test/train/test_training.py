"""Training from data to model files, on a tiny budget."""

import argparse
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from support.onnx_models import unneeded
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import train
from depth_ros.inference.classes import CITYSCAPES
from depth_ros.inference.contract import POSE_CONVENTION, read_contract
from depth_ros.inference.loader import installed_backends, load_engine
from train.__main__ import main
from train.data.dataset import FrameDataset
from train.data.sequences import DataError, find_sequences, resize_image
from train.export.deployed import DeployedPerception, DeployedPose, vector_from_rotation
from train.export.model_file import write_model
from train.export.scale import camera_matrix, metric_scale
from train.geometry import rotation_from_vector, transform_from_euler_pose
from train.networks.perception import MAX_DEPTH, MIN_DEPTH, make_perception
from train.networks.pose import PoseNet, SfmPoseNet
from train.networks.prediction import Prediction
from train.training.callbacks import KeepBest, KeepLast
from train.training.config import Config, add_config_arguments, read_config
from train.training.pictures import draw, tile
from train.training.system import System, load_system
from train.training.trainer import fit

WIDTH, HEIGHT = 96, 64
FOCAL = 50.0
CONFIGS = Path(train.__file__).parent / 'configs'


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
            cv2.imwrite(str(folder / f'images/{i:06}.png'), wall[:, left : left + WIDTH])
            cv2.imwrite(
                str(folder / f'depth/{i:06}.png'), np.full((HEIGHT, WIDTH), 10000, np.uint16)
            )
            labels = np.full((HEIGHT, WIDTH), 2, np.uint8)
            labels[HEIGHT // 2 :] = 0
            cv2.imwrite(str(folder / f'semantics/{i:06}.png'), labels)
        np.savetxt(
            folder / 'intrinsics.txt', [[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]
        )
        poses = np.tile(np.eye(4)[:3].ravel(), (frames, 1))
        poses[:, 3] = 0.4 * np.arange(frames)
        np.savetxt(folder / 'poses.txt', poses)
        np.savetxt(folder / 'times.txt', 0.1 * np.arange(frames))
        np.savetxt(folder / 'speed.txt', np.full(frames, 4.0))
    return root


LIGHT = {
    'network': 'light',
    'encoder': 'efficientnet_lite0',
    'pose_network': 'light',
    'full_resolution': False,
    'semantic': 0.3,
}
FSRE = {
    'network': 'fsre',
    'encoder': 'efficientnet_lite0',
    'pose_network': 'light',
    'attention': True,
    'semantic': 0.3,
    'triplet': 0.1,
}
SFM = {
    'network': 'dispnet',
    'semantics': False,
    'pose_network': 'sfm',
    'explainability': 0.2,
    'ssim': 0.0,
    'reduction': 'mean',
    'automask': False,
    'full_resolution': False,
    'scale_decay': 1.0,
    'smoothness': 0.5,
    'smoothness_order': 2,
}


def config(street, out, **changes):
    values = {
        'data': str(street),
        'val': str(street),
        'out': str(out),
        'width': WIDTH,
        'height': HEIGHT,
        'batch_size': 2,
        'steps': 4,
        'learning_rate': 1e-3,
        'schedule': 'cosine',
        'val_every': 2,
        'workers': 0,
        **LIGHT,
    }
    return Config(**{**values, **changes})


def arguments(street, out, **changes):
    """The same on the command line."""
    values = vars(config(street, out, **changes))
    return [
        word
        for name, value in values.items()
        for word in (f'--{name.replace("_", "-")}', str(value))
    ]


def batch_of(street, count=2, **options):
    data = FrameDataset(street, WIDTH, HEIGHT, **options)
    return torch.utils.data.default_collate([data[i] for i in range(count)])


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


# Settings


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.yaml')), ids=lambda p: p.stem)
def test_every_shipped_config_is_valid(path):
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    assert read_config(parser.parse_args(['--config', str(path)]))


def test_a_prepared_data_set_may_be_given_as_a_whole(tmp_path):
    for part in ('train', 'val'):
        (tmp_path / part).mkdir()
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    whole = read_config(parser.parse_args(['--data', str(tmp_path)]))
    assert (whole.data, whole.val) == (str(tmp_path / 'train'), str(tmp_path / 'val'))
    other = read_config(parser.parse_args(['--data', str(tmp_path), '--val', 'elsewhere']))
    assert (other.data, other.val) == (str(tmp_path / 'train'), 'elsewhere')


def test_the_ablations_differ_in_their_lines_alone():
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    configs = {
        name: read_config(parser.parse_args(['--config', str(CONFIGS / f'{name}.yaml')]))
        for name in ('fsre', 'fsre_none', 'fsre_sgt', 'fsre_cma')
    }
    differing = {
        name
        for name in vars(configs['fsre'])
        if len({getattr(c, name) for c in configs.values()}) > 1
    }
    assert differing == {'out', 'semantics', 'attention', 'semantic', 'triplet'}
    switches = {
        name: (c.semantics, c.attention, c.semantic, c.triplet) for name, c in configs.items()
    }
    assert switches == {
        'fsre': (True, True, 0.3, 0.1),
        'fsre_none': (False, False, 0.0, 0.0),
        'fsre_sgt': (True, False, 1.0, 0.1),
        'fsre_cma': (True, True, 1.0, 0.0),
    }


def test_a_base_that_leads_back_is_refused(tmp_path):
    for name, base in (('a', 'b'), ('b', 'a')):
        (tmp_path / f'{name}.yaml').write_text(f'base: {base}.yaml\n')
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    with pytest.raises(ValueError, match=r"a\.yaml' is its own base"):
        read_config(parser.parse_args(['--config', str(tmp_path / 'a.yaml')]))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'width': 100}, 'multiples of 32'),
        ({'reduction': 'median'}, "'reduction'"),
        ({'network': 'fsre', 'height': 32}, 'at least 64x64'),
        ({'attention': True}, "'attention' needs network: fsre"),
        ({'explainability': 0.2}, "'explainability' needs pose_network: sfm"),
        (
            {**SFM, 'semantic': 0.0, 'reduction': 'minimum'},
            "'explainability' needs reduction: mean",
        ),
        (
            {**SFM, 'semantic': 0.0, 'full_resolution': True},
            "'explainability' needs full_resolution: false",
        ),
        ({'triplet': 0.1}, "'triplet' needs network: fsre"),
        ({'network': 'dispnet'}, "'semantic' needs network: light or fsre"),
        ({'semantics': False}, "'semantic' needs semantics: true"),
        ({'devices': 2, 'batch_size': 3}, 'batch_size 3 must be a multiple of the 2 processes'),
        ({'steps': 0}, "'steps' is 0"),
        ({'train_perception': False}, 'needs init'),
    ],
)
def test_contradictions_are_named(street, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        config(street, 'unused', **change)


# The system


def test_both_transforms_lead_from_the_target(street):
    """The first pair's pose leads from target to previous; the second's must be inverted."""
    system = System(config(street, 'unused')).eval()
    a, b = torch.rand(2, 1, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        to_previous, to_next = system.transforms(torch.stack([a, b, a], 1)).unbind(1)
        swapped, _ = system.transforms(torch.stack([b, a, b], 1)).unbind(1)
    assert not torch.allclose(to_previous, torch.eye(4))
    torch.testing.assert_close(to_next @ swapped, torch.eye(4)[None], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    'settings', [LIGHT, {**LIGHT, **SFM, 'semantic': 0.0}], ids=['pairs', 'sfm']
)
def test_half_precision_bends_no_rotation(street, settings):
    system = System(config(street, 'unused', **settings))
    torch.nn.init.normal_(system.pose.head.bias, std=6.0)
    with torch.autocast('cpu', torch.bfloat16):
        losses = system.losses(batch_of(street))
        transforms = system.transforms(torch.rand(2, 3, 3, HEIGHT, WIDTH)).flatten(0, 1)
    losses.terms['loss'].backward()
    assert all(p.grad.isfinite().all() for p in system.parameters() if p.grad is not None)
    rotation = transforms[:, :3, :3]
    assert (rotation - torch.eye(3)).abs().max() > 0.02
    torch.testing.assert_close(
        rotation @ rotation.mT, torch.eye(3).expand(4, 3, 3), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize('views', [2, 3, 5])
def test_terms_and_weights_make_the_loss(street, views):
    """Every optional term at once, for all numbers of views."""
    settings = config(
        street,
        'unused',
        views=views,
        triplet=0.1,
        consistency=0.2,
        velocity=0.3,
        camera_height=1.6,
        height_weight=0.4,
        moving='consistency',
        network='fsre',
        learn_intrinsics=True,
    )
    system = System(settings)
    terms = system.losses(batch_of(street, views=views)).terms
    weights = {
        'photometric': 1,
        'smoothness': 1e-3,
        'semantic': 0.3,
        'triplet': 0.1,
        'consistency': 0.2,
        'velocity': 0.3,
        'height': 0.4,
    }
    assert terms.keys() == weights.keys() | {'loss'}
    expected = sum(w * terms[n] for n, w in weights.items())
    torch.testing.assert_close(terms['loss'], expected)
    terms['loss'].backward()
    assert [n for n, p in system.named_parameters() if p.grad is None] == []


def test_sfmlearner_learns_with_all_its_parts(street):
    system = System(config(street, 'unused', **{**LIGHT, **SFM, 'semantic': 0.0}))
    losses = system.losses(batch_of(street))
    losses.terms['loss'].backward()
    assert losses.terms.keys() == {'loss', 'photometric', 'smoothness', 'explainability'}
    assert len(losses.weights) == 2 and len(losses.prediction.disparities) == 4
    assert [n for n, p in system.named_parameters() if p.grad is None] == []


def test_movable_classes_do_not_count(street):
    """Where every pixel is a car no pixel is left, which is an error and not a loss of zero."""
    system = System(config(street, 'unused', moving='semantic'))
    batch = batch_of(street)
    batch['labels'][:, HEIGHT // 2 :] = 13
    moving = system.losses(batch).synthesis.moving
    assert not moving[..., HEIGHT // 4 :, :].any()
    batch['labels'][:] = 13
    with pytest.raises(ValueError, match='no valid pixel'):
        system.losses(batch)


def test_unknown_intrinsics_must_be_learnt(street):
    batch = batch_of(street)
    batch['intrinsics'][:] = torch.nan
    with pytest.raises(ValueError, match='learn_intrinsics'):
        System(config(street, 'unused')).losses(batch)
    system = System(config(street, 'unused', learn_intrinsics=True))
    terms = system.losses(batch).terms
    terms['loss'].backward()
    assert terms['loss'].isfinite() and system.camera.layer.weight.grad.abs().max() > 0


def test_networks_see_jittered_images_and_losses_clean_ones(street):
    system = System(config(street, 'unused', train_perception=False, init='x')).eval()
    batch = batch_of(street)
    dark = {**batch, 'inputs': batch['inputs'] // 4}
    a, b = (system.losses(x, torch.Generator().manual_seed(0)) for x in (batch, dark))
    assert not torch.equal(a.prediction.disparities[0], b.prediction.disparities[0])
    assert torch.equal(
        system.losses(dark).synthesis.warped[0].amax().round(decimals=1),
        a.synthesis.warped[0].amax().round(decimals=1),
    )


def test_pictures_show_every_part(street):
    system = System(config(street, 'unused', **{**FSRE, 'full_resolution': True}))
    panels = draw(system, batch_of(street))
    assert len(panels) == 2 and set(panels[0]) == {
        'target',
        'warped',
        'error',
        'disparity',
        'moving',
        'classes',
        'classes given',
        'anchors',
    }
    assert (
        panels[0]['anchors'][HEIGHT // 2, WIDTH // 2].tolist()
        != panels[0]['anchors'][0, 0].tolist()
    )
    assert tile(panels[0]).shape == (4 * HEIGHT, 2 * WIDTH, 3)
    system = System(config(street, 'unused', **{**LIGHT, **SFM, 'semantic': 0.0}))
    assert 'trust' in draw(system, batch_of(street))[0]


# Scale


class Ground(nn.Module):
    """Sees a plane one unit under a camera that looks slightly down, and a car on it."""

    def __init__(self, intrinsics: np.ndarray, road: bool) -> None:
        super().__init__()
        v, u = np.mgrid[:HEIGHT, :WIDTH]
        slopes = np.linalg.inv(intrinsics)[1] @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
        disparity = np.cos(0.05) * slopes.reshape(HEIGHT, WIDTH) + np.sin(0.05)
        disparity[-6:, WIDTH // 2 - 3 : WIDTH // 2 + 3] *= 1.4
        self.disparity = torch.from_numpy(disparity.clip(0.01)).float()[None, None]
        self.logits = torch.zeros(1, 19, HEIGHT, WIDTH)
        self.logits[:, 0 if road else 1] = 1

    def forward(self, _: Tensor) -> Prediction:
        return Prediction([self.disparity], self.logits, [])


def test_the_height_of_the_camera_gives_metres(street):
    system = System(config(street, 'unused', **LIGHT))
    sequences = find_sequences(street)
    ground = Ground(camera_matrix(system, sequences[0]), road=True)
    scale, frames = metric_scale(system, ground, sequences, 1.5, frames=6)
    assert scale == pytest.approx(1.5, rel=0.02) and frames == 6
    with pytest.raises(ValueError, match='the road is seen in 0 of 6 frames'):
        metric_scale(
            system,
            Ground(camera_matrix(system, sequences[0]), road=False),
            sequences,
            1.5,
            frames=6,
        )


# Fit


def test_training_lowers_the_loss(street, tmp_path):
    system = fit(config(street, tmp_path, steps=40, val_every=40, batch_size=4))
    assert system.global_step == 40
    text = (tmp_path / 'logs/version_0/metrics.csv').read_text()
    assert 'val/abs_rel' in text and (tmp_path / 'best.ckpt').exists()
    batch = batch_of(street, 4)
    torch.manual_seed(1)
    fresh = System(config(street, 'unused'))
    with torch.no_grad():  # in training mode: statistics of this batch in both
        before, after = (s.train().losses(batch).terms['loss'] for s in (fresh, system))
    assert after < 0.8 * before


@pytest.mark.parametrize(
    ('settings', 'without', 'remedy'),
    [
        ({'semantic': 0.3}, 'semantics', "setting 'semantic' needs labels.*train label"),
        ({**FSRE, 'semantic': 0.0}, 'semantics', "setting 'triplet' needs labels"),
        ({'semantic': 0.0, 'moving': 'semantic'}, 'semantics', "setting 'moving' needs labels"),
        (
            {'semantic': 0.0, 'camera_height': 1.2},
            'semantics',
            "setting 'camera_height' needs labels.*export --camera-height",
        ),
        ({'velocity': 0.1}, 'speed.txt', "setting 'velocity' needs distances.*speed.txt"),
    ],
)
def test_a_loss_without_its_data_is_refused(street, tmp_path, settings, without, remedy):
    data = tmp_path / 'data'
    shutil.copytree(street, data, ignore=lambda *_: [without])
    with pytest.raises(DataError, match=remedy):
        fit(config(data, tmp_path / 'run', **settings))


@pytest.mark.parametrize(
    ('by_depth', 'known', 'best'), [(True, True, 2), (True, False, 1), (False, True, 1)]
)
def test_the_best_is_chosen_by_depth_where_it_is_known(
    street, trained, tmp_path, monkeypatch, by_depth, known, best
):
    """The photometric error is best at the first validation, that of depth at the second."""
    errors = iter([(0.1, 0.5), (0.2, 0.3), (0.3, 0.4)])
    validated = KeepBest.on_validation_end

    def with_errors(self, trainer, system):
        photometric, abs_rel = map(torch.tensor, next(errors))
        metrics = trainer.callback_metrics
        metrics.update({'val/photometric': photometric, 'val/abs_rel': abs_rel})
        monkeypatch.setattr(
            type(trainer),
            'callback_metrics',
            property(lambda _: {k: v for k, v in metrics.items() if known or k != 'val/abs_rel'}),
        )
        validated(self, trainer, system)

    monkeypatch.setattr(KeepBest, 'on_validation_end', with_errors)
    fit(
        config(
            street,
            tmp_path,
            steps=3,
            val_every=1,
            train_perception=by_depth,
            init='' if by_depth else str(trained / 'last.ckpt'),
        )
    )
    assert torch.load(tmp_path / 'best.ckpt', weights_only=True)['global_step'] == best


def test_tensorboard_shows_losses_and_pictures(trained):
    board = EventAccumulator(str(trained / 'logs/version_0'), {'images': 0, 'scalars': 0})
    board.Reload()
    assert 'val/abs_rel' in board.Tags()['scalars']
    assert len(board.Images('validation/0')) == 2  # after steps 2 and 4


def loss_curve(out):
    """Losses by step, of all starts of a training."""
    curve = {}
    for path in sorted(out.glob('logs/version_*/metrics.csv')):
        with path.open() as file:
            curve.update(
                {
                    int(row['step']): row['train/loss']
                    for row in csv.DictReader(file)
                    if row.get('train/loss')
                }
            )
    return curve


def test_a_resumed_training_has_the_same_loss_curve(street, tmp_path, monkeypatch):
    monkeypatch.setattr('train.training.trainer.LOG_EVERY', 1)
    augmented = {'max_gap': 2, 'scale': 1.15, 'night': 0.5}
    whole = fit(config(street, tmp_path / 'whole', steps=6, **augmented))
    # The schedule knows the whole length; the interruption comes after step 3.
    monkeypatch.setattr(
        KeepLast,
        'on_train_batch_end',
        lambda self, trainer, *_: setattr(trainer, 'should_stop', trainer.global_step == 3),
    )
    fit(config(street, tmp_path / 'parts', steps=6, **augmented))
    monkeypatch.undo()
    monkeypatch.setattr('train.training.trainer.LOG_EVERY', 1)
    parts = fit(
        config(street, tmp_path / 'parts', steps=6, **augmented),
        resume_from=tmp_path / 'parts/last.ckpt',
    )
    curve = loss_curve(tmp_path / 'whole')
    assert len(curve) == 6 and loss_curve(tmp_path / 'parts') == curve
    for name, value in parts.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], rtol=0, atol=0, msg=name)


def test_a_resumed_training_remembers_its_best(street, tmp_path):
    fit(config(street, tmp_path, steps=2))
    best = tmp_path / 'best.ckpt'
    state = torch.load(tmp_path / 'last.ckpt', weights_only=True)
    state['callbacks']['KeepBest']['best_model_score'] = torch.tensor(0.0)  # cannot be beaten
    state['callbacks']['KeepBest']['best_k_models'] = {str(best): torch.tensor(0.0)}
    state['callbacks']['KeepBest']['kth_value'] = torch.tensor(0.0)
    torch.save(state, tmp_path / 'last.ckpt')
    before = best.read_bytes()
    fit(config(street, tmp_path, steps=4), resume_from=tmp_path / 'last.ckpt')
    assert best.read_bytes() == before


def test_the_seed_decides_the_weights(street, trained, tmp_path):
    again = fit(config(street, tmp_path))
    first = torch.load(trained / 'last.ckpt', weights_only=True)['state_dict']
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, first[name], msg=name)


def test_two_processes_learn_what_one_does_with_the_whole_batch(street, tmp_path):
    """Networks without batch norm, whose statistics CPU processes cannot share."""
    settings = {
        **LIGHT,
        **SFM,
        'semantic': 0.0,
        'batch_size': 4,
        'steps': 2,
        'val_every': 2,
        'accelerator': 'cpu',
        'batch_norm': False,
    }
    one = fit(config(street, tmp_path / 'one', **settings))
    command = [
        sys.executable,
        '-m',
        'train',
        'fit',
        *arguments(street, tmp_path / 'two', **{**settings, 'devices': 2}),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    two = torch.load(tmp_path / 'two/last.ckpt', weights_only=True)
    assert two['global_step'] == 2
    start = System(config(street, 'unused', **settings)).state_dict()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two['state_dict'][name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert any(not torch.equal(v, start[n]) for n, v in one.state_dict().items())


def test_processes_judge_together_what_not_all_of_them_see(street, tmp_path):
    """Two frames are validated, one by each process: one has true depth, the other one labels."""
    val = tmp_path / 'val'
    shutil.copytree(
        street, val, ignore=lambda folder, _: ['semantics' if folder.endswith('0000') else 'depth']
    )
    for folder in val.iterdir():
        for name in ('images', 'depth', 'semantics'):
            for path in (folder / name).glob('*'):
                if path.stem > '000002':
                    path.unlink()
        for path in folder.glob('[pst]*.txt'):
            np.savetxt(path, np.loadtxt(path)[:3])
    found = {}
    for devices in (1, 2):
        out = tmp_path / str(devices)
        command = [
            sys.executable,
            '-m',
            'train',
            'fit',
            *arguments(
                street,
                out,
                val=str(val),
                steps=1,
                val_every=1,
                devices=devices,
                accelerator='cpu',
                learning_rate=1e-12,
            ),
        ]
        result = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert result.returncode == 0, result.stderr
        with (out / 'logs/version_0/metrics.csv').open() as file:
            rows = [row for row in csv.DictReader(file) if row['val/abs_rel']]
        found[devices] = [float(rows[-1][f'val/{n}']) for n in ('abs_rel', 'scale', 'road_iou')]
    np.testing.assert_allclose(found[2], found[1], rtol=0.02)


def test_an_interrupted_training_goes_on(street, tmp_path):
    command = [
        sys.executable,
        '-m',
        'train',
        'fit',
        *arguments(street, tmp_path, steps=100000, val_every=100000),
    ]
    # A process that a shell starts in the background ignores interrupts, and its children with it.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 600
        while not (tmp_path / 'last.ckpt').exists():  # after 100 steps
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        written = os.stat(tmp_path / 'last.ckpt').st_mtime_ns
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and 'the same command goes on' in output
    assert os.stat(tmp_path / 'last.ckpt').st_mtime_ns > written
    step = torch.load(tmp_path / 'last.ckpt', weights_only=True)['global_step']
    assert step >= 100
    system = fit(
        config(street, tmp_path, steps=step + 2, val_every=100000),
        resume_from=tmp_path / 'last.ckpt',
    )
    assert system.global_step == step + 2


def test_damaged_files_are_listed_and_left_out(street, tmp_path, capfd):
    root = tmp_path / 'damaged'
    shutil.copytree(street, root)
    (root / '0000/images/000002.png').write_bytes(b'')
    fit(config(root, tmp_path / 'run', steps=1))
    printed = capfd.readouterr().out
    assert '000002.png' in printed and 'training on 5 samples' in printed


def test_a_phase_for_the_pose_network_alone(street, trained, tmp_path):
    system = fit(
        config(street, tmp_path, init=str(trained / 'last.ckpt'), max_gap=2, train_perception=False)
    )
    before = torch.load(trained / 'last.ckpt', weights_only=True)['state_dict']
    same = {n: torch.equal(v, before[n]) for n, v in system.state_dict().items()}
    assert all(v for n, v in same.items() if n.startswith('perception.'))
    assert not any(v for n, v in same.items() if n.startswith('pose.') and n.endswith('weight'))
    assert (tmp_path / 'best.ckpt').exists()


def test_bad_requests_are_named(street, tmp_path, capsys):
    for change, message in (
        ({'data': str(tmp_path)}, 'no sequences'),
        ({'init': str(tmp_path / 'no.ckpt')}, 'no.ckpt'),
    ):
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
def test_exported_models_compute_what_was_trained(trained, exported, backend):
    if backend not in installed_backends():
        pytest.skip(f'{backend} is not installed')
    compare(load_system(trained / 'last.ckpt'), exported, backend)


def compare(system, models, backend='onnxruntime', pose=True):
    """The exported files against the networks in torch, relative 1e-4."""
    rng = np.random.default_rng(0)
    previous, current = rng.integers(0, 256, (2, 1, HEIGHT, WIDTH, 3), np.uint8)
    with torch.inference_mode():
        depth, *labels = DeployedPerception(system.perception, 1.0)(torch.from_numpy(current))
    found = load_engine(models / 'perception.onnx', backend).infer({'image': current})
    np.testing.assert_allclose(found['depth'], depth, rtol=1e-4)
    if 'labels' in found:
        assert (found['labels'] == labels[0].numpy()).mean() > 0.999  # ties may fall either way
    if pose:
        with torch.inference_mode():
            expected = DeployedPose(system.pose, 1.0)(*map(torch.from_numpy, (previous, current)))
        found = load_engine(models / 'pose.onnx', backend).infer(
            {'previous': previous, 'current': current}
        )
        np.testing.assert_allclose(found['pose'], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ('settings', 'outputs', 'pose'),
    [
        (FSRE, ('depth', 'labels'), True),
        (
            {
                **FSRE,
                'semantics': False,
                'attention': False,
                'semantic': 0.0,
                'triplet': 0.0,
                'pose_network': 'resnet',
            },
            ('depth',),
            True,
        ),
        ({**SFM, 'semantic': 0.0}, ('depth',), False),
        ({**SFM, 'semantic': 0.0, 'views': 2, 'explainability': 0.0}, ('depth',), True),
        ({'learn_intrinsics': True, 'velocity': 0.1}, ('depth', 'labels'), True),
    ],
    ids=['fsre', 'fsre_none', 'sfmlearner', 'sfmlearner pairs', 'learnt camera'],
)
def test_every_kind_of_network_can_be_deployed(street, tmp_path, capsys, settings, outputs, pose):
    fit(config(street, tmp_path, steps=1, **{**LIGHT, **settings}))
    checkpoint = tmp_path / 'last.ckpt'
    assert main(['export', str(checkpoint), '--out', str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    contract = read_contract(tmp_path / 'perception.onnx')
    assert contract.outputs == outputs and contract.metric == ('velocity' in settings)
    assert (tmp_path / 'pose.onnx').exists() == pose
    if not pose:
        assert '--views 2' in printed
    if 'learn_intrinsics' in settings:  # 0.69 of the size, where learning begins
        np.testing.assert_allclose(contract.intrinsics[0], 0.69 * WIDTH, rtol=0.05)
    compare(load_system(checkpoint), tmp_path, pose=pose)


def test_what_is_not_wanted_is_not_in_the_graphs(street, tmp_path, capsys):
    """Depth alone needs the semantic decoder only as far as its attention looks at it."""
    fit(config(street, tmp_path, steps=1, **{**LIGHT, **FSRE}))
    checkpoint, sizes = tmp_path / 'last.ckpt', {}
    for outputs, files in (
        ('depth,labels,pose', {'perception.onnx', 'pose.onnx'}),
        ('labels,depth', {'perception.onnx'}),
        ('depth', {'perception.onnx'}),
        ('pose', {'pose.onnx'}),
    ):
        out = tmp_path / outputs
        assert main(['export', str(checkpoint), '--out', str(out), '--outputs', outputs]) == 0
        assert {path.name for path in out.iterdir()} == files
        for path in out.iterdir():
            model = onnx.load(path)
            assert unneeded(model) == []
            sizes[outputs, path.name] = model.ByteSize()
    assert read_contract(tmp_path / 'depth' / 'perception.onnx').outputs == ('depth',)
    everything = sizes['depth,labels,pose', 'perception.onnx']
    assert sizes['labels,depth', 'perception.onnx'] == pytest.approx(everything, abs=100)
    assert sizes['depth', 'perception.onnx'] < everything - 500_000
    compare(load_system(checkpoint), tmp_path / 'depth', pose=False)
    for outputs, message in (('labels', 'labels come with depth'), ('odom', "'odom' must be some")):
        with pytest.raises(SystemExit):
            main(['export', str(checkpoint), '--outputs', outputs])
        assert message in capsys.readouterr().err


def test_outputs_that_the_networks_do_not_have_are_named(street, tmp_path, capsys):
    fit(config(street, tmp_path, steps=1, **{**LIGHT, **SFM, 'semantic': 0.0}))
    for name, message in (
        ('depth,labels', '--outputs labels: the network has no semantics'),
        ('pose', '--outputs pose: this pose network sees 3 frames'),
    ):
        assert main(['export', str(tmp_path / 'last.ckpt'), '--outputs', name]) == 2
        assert message in capsys.readouterr().err


def test_graphs_may_take_larger_images(trained, exported, tmp_path, capsys):
    size = 2 * WIDTH, 4 * HEIGHT
    assert (
        main(
            [
                'export',
                str(trained / 'last.ckpt'),
                '--out',
                str(tmp_path),
                '--image-size',
                f'{size[0]}x{size[1]}',
            ]
        )
        == 0
    )
    # Even numbers, so that no average needs rounding.
    halves = 2 * np.random.default_rng(0).integers(0, 128, (2, 2 * HEIGHT, WIDTH, 3), np.uint8)
    images = halves.repeat(2, 1).repeat(2, 2)
    small = np.stack([resize_image(image, WIDTH, HEIGHT) for image in halves])
    for name, inputs in (('perception', ('image',)), ('pose', ('previous', 'current'))):
        whole, plain = (
            load_engine(folder / f'{name}.onnx', 'onnxruntime') for folder in (tmp_path, exported)
        )
        assert whole.contract == replace(
            plain.contract, image_size=size, provenance=whole.contract.provenance
        )
        found, expected = (
            engine.infer({n: image[None] for n, image in zip(inputs, given, strict=False)})
            for engine, given in ((whole, images), (plain, small))
        )
        for output in plain.contract.outputs:
            if output == 'labels':
                assert (found[output] == expected[output]).mean() > 0.999
            else:
                np.testing.assert_allclose(found[output], expected[output], rtol=1e-4, atol=1e-7)
    # The network's own size is nothing to speak of.
    assert (
        main(
            [
                'export',
                str(trained / 'last.ckpt'),
                '--out',
                str(tmp_path),
                '--outputs',
                'pose',
                '--image-size',
                f'{WIDTH}x{HEIGHT}',
            ]
        )
        == 0
    )
    assert read_contract(tmp_path / 'pose.onnx').image_size is None
    for wrong in ('1280', '1280x', '2x2'):
        try:
            assert main(['export', str(trained / 'last.ckpt'), '--image-size', wrong]) == 2
        except SystemExit as error:
            assert error.code == 2
        assert 'image' in capsys.readouterr().err


def test_euler_angles_become_a_rotation_vector(tmp_path):
    vectors = torch.tensor(
        [[0.3, -0.2, 0.5], [0.0, 0.0, 0.0], [1e-4, 0.0, 0.0], [0.0, 1.5, 0.0]], dtype=torch.float64
    )
    torch.testing.assert_close(vector_from_rotation(rotation_from_vector(vectors)), vectors)
    net = SfmPoseNet(views=2)
    torch.nn.init.normal_(net.head.bias, std=20.0)
    frames = torch.randint(0, 256, (2, 1, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    pose = DeployedPose(net, 2.0)(*frames)
    expected = transform_from_euler_pose(net(frames.permute(1, 0, 4, 2, 3) / 255)[0][:, 0])[0]
    torch.testing.assert_close(rotation_from_vector(pose[None, :3])[0], expected[:3, :3])
    torch.testing.assert_close(pose[3:], 2 * expected[:3, 3])


def test_a_metric_scale_multiplies_depth_and_translation():
    net, image = PoseNet(), torch.randint(0, 256, (1, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    other = image.flip(2)
    plain, scaled = (DeployedPose(net, s).eval()(image, other) for s in (1.0, 3.0))
    torch.testing.assert_close(scaled, plain * torch.tensor([1, 1, 1, 3, 3, 3]))
    net = make_perception('light', 'efficientnet_lite0')
    plain, scaled = (DeployedPerception(net, s).eval()(image)[0] for s in (1.0, 3.0))
    torch.testing.assert_close(scaled, 3 * plain)


def test_files_that_are_no_checkpoint_are_named(tmp_path):
    (tmp_path / 'x.ckpt').write_bytes(b'no')
    with pytest.raises(ValueError, match=r"x\.ckpt' is no checkpoint"):
        load_system(tmp_path / 'x.ckpt')
    torch.save({'hyper_parameters': {'depth': 3}, 'state_dict': {}}, tmp_path / 'old.ckpt')
    with pytest.raises(ValueError, match=r"old\.ckpt' is of another version"):
        load_system(tmp_path / 'old.ckpt')


def test_weights_to_start_from_must_be_a_checkpoint(street, tmp_path):
    (tmp_path / 'x.ckpt').write_bytes(b'no')
    with pytest.raises(ValueError, match=r"x\.ckpt' is no checkpoint of the same networks"):
        fit(config(street, tmp_path / 'run', init=str(tmp_path / 'x.ckpt')))


def test_a_failed_export_leaves_the_old_file(tmp_path):
    from depth_ros.inference.contract import ContractError, ModelContract

    path = tmp_path / 'perception.onnx'
    path.write_text('old')
    wrong = ModelContract(
        task='perception',
        name='x',
        input_width=WIDTH + 32,
        input_height=HEIGHT,
        intrinsics=(1.0, 1.0, 0.0, 0.0),
        outputs=('depth',),
        depth_range=(0.1, 100.0),
        image_size=(WIDTH, HEIGHT),
    )
    net = make_perception('light', 'efficientnet_lite0', semantics=False)
    with pytest.raises(ContractError, match="'depth'"):
        write_model(DeployedPerception(net, 1.0), wrong, path)
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


# Real footage


def test_a_short_training_on_a_real_street_explains_it_better(data_dir, tmp_path, capsys):
    """From a folder of images to a trajectory that evaluates, with the config for own data."""
    recording, size = data_dir / 'kitti_odometry_00', ['--width', '192', '--height', '64']
    assert (
        main(
            [
                'prepare',
                'folder',
                str(recording),
                '--out',
                str(tmp_path / 'data'),
                '--without',
                'semantics',
                *size,
            ]
        )
        == 0
    )
    options = [
        '--config',
        str(CONFIGS / 'own.yaml'),
        '--data',
        str(tmp_path / 'data/train'),
        '--val',
        str(tmp_path / 'data/val'),
        '--out',
        str(tmp_path / 'run'),
        *size,
        '--workers',
        '0',
        '--steps',
        '150',
        '--val-every',
        '25',
        '--learning-rate',
        '1e-3',
    ]
    assert main(['fit', *options]) == 0
    with (tmp_path / 'run/logs/version_0/metrics.csv').open() as file:
        errors = [
            float(row['val/photometric']) for row in csv.DictReader(file) if row['val/photometric']
        ]
    assert len(errors) == 6 and errors[-1] < 0.9 * errors[0]
    capsys.readouterr()
    assert (
        main(
            [
                'evaluate',
                str(recording),
                '--model',
                str(tmp_path / 'run/best.ckpt'),
                '--tasks',
                'odometry',
                '--json',
                str(tmp_path / 'metrics.json'),
            ]
        )
        == 0
    )
    numbers = next(
        iter(json.loads((tmp_path / 'metrics.json').read_text())['trajectories'].values())
    )
    assert numbers['frames'] == 200 and 0 < numbers['ate_sim3'] < numbers['length']
