"""Settings, and the networks and losses that they make."""

import argparse
import re

import pytest
import torch
from support.training import (
    CONFIGS,
    FSRE,
    HEIGHT,
    LIGHT,
    SFM,
    WIDTH,
    batch_of,
    config,
)

from train.training.config import add_config_arguments, read_config
from train.training.pictures import draw, tile
from train.training.system import System

# Settings


@pytest.mark.parametrize(
    'path',
    sorted(set(CONFIGS.glob('*.yaml')) - set(CONFIGS.glob('*_sets.yaml'))),
    ids=lambda p: p.stem,
)
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
