"""Encoders and their weights."""

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch
from support.networks import HEIGHT, WIDTH, image, trained

from train.networks.encoder import make_encoder
from train.networks.perception import (
    make_perception,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Encoders and their weights


def test_light_network_keeps_the_names_of_released_checkpoints():
    state = make_perception('light', 'efficientnet_lite0').state_dict()
    assert {name.split('.')[0] for name in state} == {'encoder', 'depth', 'semantics'}
    for name, shape in (
        ('encoder.stem.0.weight', (32, 3, 3, 3)),
        ('encoder.stages.4.3.conv_pwl.weight', (192, 1152, 1, 1)),
        ('depth.reduce.0.weight', (64, 192, 1, 1)),
        ('depth.heads.2.bias', (1,)),
        ('semantics.fuse.3.1.running_var', (64,)),
        ('semantics.heads.0.weight', (19, 24, 3, 3)),
    ):
        assert state[name].shape == shape
    assert len(state) == 386


def test_imagenet_weights_of_lite0_and_its_frozen_first_stages():
    net = make_perception('light', 'efficientnet_lite0', 'imagenet').train()
    stem = net.encoder.stem[1]
    assert stem.running_mean.abs().max() > 0 and not stem.training
    before = stem.running_mean.clone()
    sum(d.sum() for d in net(image(2)).disparities).backward()
    assert torch.equal(stem.running_mean, before)
    assert all(p.grad is None for p in net.encoder.stem.parameters())
    assert next(net.encoder.stages[4].parameters()).grad is not None


@pytest.mark.parametrize(
    'name', ['resnet18', 'resnet50', 'mobilenetv3_large_100', 'regnety_002', 'efficientnet_lite0']
)
def test_encoders(name):
    net = make_encoder(name).eval()
    features = net(image())
    assert [f.shape for f in features] == [
        (1, c, HEIGHT >> (i + 1), WIDTH >> (i + 1)) for i, c in enumerate(net.channels)
    ]


def test_colours_of_a_resnet_are_normalised_as_the_paper_does():
    net, plain = make_encoder('resnet18').eval(), timm.create_model('resnet18').eval()
    plain.load_state_dict(net.net.state_dict(), strict=False)
    x = image()
    scaled = (x - 0.45) / 0.225
    expected = plain.act1(plain.bn1(plain.conv1(scaled)))
    torch.testing.assert_close(net(x)[0], expected)
    torch.testing.assert_close(net(x)[-1], plain.forward_features(scaled))


@pytest.mark.parametrize('form', ['state_dict', 'wrapped', 'safetensors', 'no classifier'])
def test_weights_from_a_file(tmp_path, form):
    source = trained(timm.create_model('resnet18'))
    state, path = source.state_dict(), tmp_path / 'weights.bin'
    if form == 'safetensors':
        path = tmp_path / 'weights.safetensors'
        safetensors.torch.save_file(state, path)
    elif form == 'wrapped':
        torch.save({'state_dict': state, 'epoch': 3}, path)
    else:
        if form == 'no classifier':
            state = {k: v for k, v in state.items() if not k.startswith('fc.')}
        torch.save(state, path)
    net = make_encoder('resnet18', str(path)).eval()
    x = image()
    torch.testing.assert_close(net(x)[-1], source.forward_features((x - 0.45) / 0.225))
    # A pair: the weights of one image for either, halved.
    pairs = make_encoder('resnet18', str(path), in_channels=6).eval().double()
    x = x.double()
    torch.testing.assert_close(pairs(torch.cat([x, x], 1))[-1], net.double()(x)[-1])


def test_lite0_weights_from_a_file(tmp_path):
    source, path = trained(timm.create_model('efficientnet_lite0')), tmp_path / 'weights.bin'
    torch.save(source.state_dict(), path)
    net = make_encoder('efficientnet_lite0', str(path))
    torch.testing.assert_close(net.stem[0].weight, source.conv_stem.weight)
    assert not net.stem[0].weight.requires_grad


@pytest.mark.parametrize('name', ['resnet18', 'efficientnet_lite0'])
def test_weights_that_do_not_fit_are_named(tmp_path, name):
    path = tmp_path / 'weights.bin'
    state = timm.create_model(name).state_dict()
    first, second, *_ = [key for key in state if key.endswith('.weight')]
    state[first] = state[first][:5]
    state['extra.weight'] = state.pop(second)
    torch.save(state, path)
    with pytest.raises(ValueError, match=f'do not fit {name} in 3 tensors') as error:
        make_encoder(name, str(path))
    for problem in (f'{first} is (5,', f'{second} is missing', 'extra.weight is unknown'):
        assert problem in str(error.value)


def test_files_that_hold_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="'nowhere.pth' is no file: give 'imagenet'"):
        make_encoder('resnet18', 'nowhere.pth')
    for name in ('text.pth', 'text.safetensors'):
        (tmp_path / name).write_text('not weights')
        with pytest.raises(ValueError, match=f'{name}.*are no state_dict'):
            make_encoder('resnet18', str(tmp_path / name))
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='list.pth.*are no state_dict'):
        make_encoder('resnet18', str(tmp_path / 'list.pth'))


def test_weights_that_cannot_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(FileNotFoundError, match="'resnet18' cannot be downloaded.*local file"):
        make_encoder('resnet18', 'imagenet')


def test_unfit_encoders():
    with pytest.raises(ValueError, match="'resnet19' is no model of timm"):
        make_encoder('resnet19')
    with pytest.raises(ValueError, match="'convnext_atto' has features at"):
        make_encoder('convnext_atto')
    unpublished = next(
        n for n in timm.list_models('resnet*') if not timm.get_pretrained_cfg(n).has_weights
    )
    with pytest.raises(ValueError, match='timm has no weights'):
        make_encoder(unpublished, 'imagenet')
