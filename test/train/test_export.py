"""From a checkpoint to model files."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from support.onnx_models import unneeded
from support.training import (
    FOCAL,
    FSRE,
    HEIGHT,
    LIGHT,
    SFM,
    WIDTH,
    config,
)
from torch import Tensor, nn

from depth_ros.inference.classes import CITYSCAPES
from depth_ros.inference.contract import POSE_CONVENTION, read_contract
from depth_ros.inference.loader import installed_backends, load_engine
from train.__main__ import main
from train.data.sequences import find_sequences, resize_image
from train.export.deployed import DeployedPerception, DeployedPose, vector_from_rotation
from train.export.model_file import write_model
from train.export.scale import camera_matrix, metric_scale
from train.geometry import rotation_from_vector, transform_from_euler_pose
from train.networks.perception import MAX_DEPTH, MIN_DEPTH, make_perception
from train.networks.pose import PoseNet, SfmPoseNet
from train.networks.prediction import Prediction
from train.training.system import System, load_system
from train.training.trainer import fit


@pytest.fixture(scope='module')
def exported(street, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp('models')
    assert main(['export', str(trained / 'last.ckpt'), '--out', str(out)]) == 0
    return out


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_weights_to_start_from_must_be_a_checkpoint(street, tmp_path):
    (tmp_path / 'x.ckpt').write_bytes(b'no')
    with pytest.raises(ValueError, match=r"x\.ckpt' is no checkpoint of the same networks"):
        fit(config(street, tmp_path / 'run', init=str(tmp_path / 'x.ckpt')))


@pytest.mark.slow
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
