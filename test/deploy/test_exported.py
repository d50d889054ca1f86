"""What every training configuration exports: as engines, in fp16 and int8, against torch."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import yaml
from support.onnx_models import unneeded
from support.precisions import SHIPPED, check_fp16, check_on_the_gpu, smooth_images
from support.tensorrt_builds import (
    check_built,
    check_plan,
    export_networks,
    read_settings,
)

from depth_ros.deploy.quantize import quantize
from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine_file import PRECISIONS
from depth_ros.inference.parity_measures import Bounds
from depth_ros.inference.runtimes.onnxruntime import OnnxRuntimeEngine

torch = pytest.importorskip('torch', reason='torch is not installed')

from train.export.deployed import DeployedPerception, DeployedPose  # noqa: E402
from train.training.system import System  # noqa: E402

pytestmark = pytest.mark.slow


def configurations():
    """The training configurations by name; those with equal graphs together, as the first."""
    decisive = ('width', 'height', 'network', 'encoder', 'semantics', 'attention', 'pose_network')
    equal = {}
    for path in sorted((Path(__file__).parents[2] / 'train/configs').glob('*.yaml')):
        if 'sets' in yaml.safe_load(path.read_text()):  # data sets, no training
            continue
        settings = read_settings(path)
        equal.setdefault(tuple(getattr(settings, name) for name in decisive), []).append(path)
    return [
        pytest.param(paths[0], id=' and '.join(path.stem for path in paths))
        for paths in equal.values()
    ]


@pytest.fixture(scope='session', params=configurations())
def exported(request, tmp_path_factory):
    """The untrained networks of a training configuration: in torch, and the folder of their ONNX
    files."""

    torch.manual_seed(0)
    # The odometry node has two images.
    config = replace(read_settings(request.param), views=2)
    system = System(config, fresh=False).eval()
    for module in system.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # a ResNet's last ones begin as zeros
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    folder = tmp_path_factory.mktemp('exported')
    export_networks(system, folder, config.semantics and config.network != 'dispnet')
    return system, folder


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('name', SHIPPED)
def test_every_configuration_is_built(exported, name, precision):
    check_built(exported[1] / name, precision)


@pytest.fixture(scope='session')
def photos(tmp_path_factory):
    """A folder of soft images to calibrate int8 with."""
    folder = tmp_path_factory.mktemp('photos')
    for number in range(6):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 20, 3), np.uint8)
        cv2.imwrite(
            str(folder / f'{number}.png'),
            cv2.resize(coarse, (640, 192), interpolation=cv2.INTER_CUBIC),
        )
    return folder


@pytest.mark.parametrize('name', SHIPPED)
def test_every_configuration_is_built_in_int8(exported, photos, name):
    """Whatever it says: what int8 costs untrained networks means nothing."""
    anything = Bounds(
        depth_error=np.inf,
        invalid=1,
        label_agreement=0,
        translation_error=np.inf,
        rotation_error=np.inf,
    )
    model = quantize(
        exported[1] / name,
        photos,
        runtime='tensorrt',
        bounds=anything,
        calibration_images=2,
        held_out_images=2,
    )
    check_plan(model)


def test_every_configuration_computes_what_torch_does(exported):

    system, folder = exported
    for name, net in (
        ('perception.onnx', DeployedPerception(system.perception, 1.0)),
        ('pose.onnx', DeployedPose(system.pose, 1.0)),
    ):
        contract = read_contract(folder / name)
        inputs = smooth_images(contract)
        with torch.inference_mode():
            expected = net.eval()(*(torch.from_numpy(inputs[n]) for n in contract.inputs))
        if name == 'pose.onnx':
            expected = (expected,)
        found = OnnxRuntimeEngine(folder / name, contract, 2).infer(inputs)
        for output, value in zip(contract.outputs, expected, strict=True):
            if output == 'labels':  # ties may fall either way
                assert np.mean(found[output] == value.numpy()) > 0.999
            else:
                np.testing.assert_allclose(found[output], value, rtol=1e-4, atol=1e-7)
                assert np.ptp(found[output]) > 1e-3 * np.abs(found[output]).max()


def test_every_configuration_agrees_in_fp16(exported):
    for name in SHIPPED:
        check_fp16(exported[1] / name)


def test_nothing_is_exported_that_the_outputs_do_not_need(exported):
    for name in SHIPPED:
        assert unneeded(onnx.load(exported[1] / name)) == []


@pytest.mark.gpu
@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('name', SHIPPED)
def test_every_configuration_on_the_gpu(gpu, exported, name, precision):
    check_on_the_gpu(exported[1] / name, precision, gpu)
