"""Training from known depth and motion, from a mixture to model files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from support.known_sets import (
    FOCAL,
    HEIGHT,
    MATRIX,
    WIDTH,
    make_sets,
    write_mixture,
)

from train.__main__ import main
from train.data.augment import Augmentation
from train.data.mixture import make_dataset
from train.data.windows import sure_points
from train.training.config import Config


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    """Data sets 'real' and 'synthetic', see :func:`make_sets`."""
    root = tmp_path_factory.mktemp('sets')
    make_sets(root)
    return root


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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

    structure = read_sequence(sets / 'real').structure()
    points = sure_points(structure, 0)
    assert len(points.depth) == 384 and 0 < points.held_out.sum() < 384


@pytest.mark.slow
def test_a_start_is_small_and_takes_another_pose_network(tmp_path):
    from train.export.start import write_start
    from train.training.system import System, load_system

    config = Config(**{**SETTINGS, 'data': 'x', 'val': 'x'})
    system, other = System(config), System(config)
    write_start(system, tmp_path / 'start.ckpt', other)
    assert (tmp_path / 'start.ckpt').stat().st_size < 10e6
    found = load_system(tmp_path / 'start.ckpt').state_dict()
    for name, value in system.state_dict().items():
        wanted = other.state_dict()[name] if name.startswith('pose.') else value
        torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_a_start_has_one_focal_length(tmp_path):
    """A pose network for another focal length says what one for the start's would say."""
    from train.export.start import write_start
    from train.training.system import System, load_system

    config = Config(**{**SETTINGS, 'data': 'x', 'val': 'x'})
    system, other = System(config), System(replace(config, focal=2 * FOCAL)).eval()
    write_start(system, tmp_path / 'start.ckpt', other)
    found = load_system(tmp_path / 'start.ckpt')
    frames, camera = torch.rand(1, 2, 3, HEIGHT, WIDTH), torch.tensor(MATRIX).float()[None]
    with torch.no_grad():
        a, b = (s.motion(frames, camera).transforms[0] for s in (found, other))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
