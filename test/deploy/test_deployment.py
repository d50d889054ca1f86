"""Models that take the camera's images whole and resize them in their graph."""

import json
import threading
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from onnx import compose
from onnx.utils import Extractor
from sensor_msgs.msg import Image
from support.ros_process import NodeProcess, Peer, image_message, info_message
from support.scene import Scene, pixels
from support.tensorrt_builds import check_built, export_networks, read_settings

from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import find_streams
from depth_ros.commands import build_engine
from depth_ros.core.camera import ImageFit, Intrinsics
from depth_ros.deploy import build as engine_build
from depth_ros.evaluation.runner import RecordedImage, Runner, Settings
from depth_ros.inference.contract import read_contract, write_contract
from depth_ros.inference.engine_file import PRECISIONS
from depth_ros.inference.loader import load_engine
from depth_ros.inference.runtimes.onnxruntime import OnnxRuntimeEngine

torch = pytest.importorskip('torch', reason='torch is not installed')

from train.__main__ import main  # noqa: E402
from train.export import deployed, model_file  # noqa: E402
from train.training.system import System  # noqa: E402

pytestmark = pytest.mark.slow


SHIPPED = 'models/synthetic'  # both networks are of one size and one camera
WIDTH, HEIGHT, FOCAL = 1280, 720, 742.4  # a camera like theirs, twice the size
MODELS = ('perception.onnx', 'pose.onnx')
SIZES = ((WIDTH, HEIGHT), (1242, 375), (480, 160))
"""Halved and resized, resized, enlarged."""


class Front(torch.nn.Module):
    """What an exported graph does with its images before the network."""

    def forward(self, *images):
        return tuple(deployed._normalised(image, (192, 640)) for image in images)


def resizing(source, target, size):
    """Make of a shipped model, whose checkpoint does not ship, one that resizes its images.

    The front of its graph, up to the division by 255, is replaced by what would be exported.
    """
    model, contract = onnx.load(source), read_contract(source)
    changed = replace(contract, image_size=size)
    images = tuple(torch.zeros(1, *changed.image_shape, dtype=torch.uint8) for _ in contract.inputs)
    front = torch.onnx.export(
        Front(),
        images,
        dynamo=True,
        opset_version=model_file.OPSET,
        verbose=False,
        input_names=list(contract.inputs),
        output_names=[f'{n}_fit' for n in contract.inputs],
        external_data=False,
    ).model_proto
    front = compose.add_prefix(front, 'front_', rename_inputs=False, rename_outputs=False)
    first = [node.output[0] for node in model.graph.node if node.op_type == 'Div']
    whole = onnx.shape_inference.infer_shapes(model)
    rest = Extractor(whole).extract_model(first[: len(images)], list(contract.outputs))
    model = compose.merge_models(
        front, rest, list(zip((o.name for o in front.graph.output), first, strict=False))
    )
    onnx.checker.check_model(model, full_check=True)
    write_contract(model, changed)
    onnx.save(model, target)
    return target


@pytest.fixture(scope='module')
def make(repository, tmp_path_factory):
    """Makes, once, a shipped model that resizes images of a size itself."""
    folder = tmp_path_factory.mktemp('models')

    def made(name, size):
        path = folder / f'{size[0]}x{size[1]}' / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            resizing(repository / SHIPPED / name, path, size)
        return path

    return made


@pytest.fixture(scope='module')
def street(repository):
    """Some images (192, 640, 3) of the shipped street, in pairs."""
    with Bag(repository / 'demo' / 'street') as bag:
        topic = find_streams(bag).image
        messages = [m for m in bag.messages() if m.topic == topic]
        return [
            cv2.imdecode(np.asarray(bag.decode(messages[i]).data), cv2.IMREAD_COLOR)[..., ::-1]
            for i in (10, 11, 80, 81)
        ]


@pytest.fixture(scope='module')
def real_street(data_dir):
    """Some images (375, 1242, 3) of a real street, in pairs."""
    paths = sorted((data_dir / 'kitti_street' / 'images').glob('*'))
    return [cv2.imread(str(paths[i]))[..., ::-1] for i in (0, 1, 20, 21)]


def fitted(image, width, height):
    """An image as the nodes bring it to a size."""
    fit = ImageFit.create(
        Intrinsics(1, 1, 0, 0, image.shape[1], image.shape[0]),
        Intrinsics(1, 1, 0, 0, width, height),
    )
    out = np.empty((height, width, 3), np.uint8)
    fit.to_network(np.ascontiguousarray(image), out)
    return out


def enlarged(images, size):
    return [cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) for image in images]


@pytest.mark.parametrize('size', SIZES)
def test_graphs_resize_as_the_nodes_do(street, size):
    for image in enlarged(street, size):
        (found,) = Front()(torch.from_numpy(image)[None])
        difference = 255 * found[0].numpy().transpose(1, 2, 0) - fitted(image, 640, 192)
        # OpenCV rounds the halved image, too.
        assert np.abs(difference).max() < 1.01 and np.mean(np.abs(difference) > 0.5) < 0.25


@pytest.mark.parametrize('size', SIZES)
def test_outputs_are_those_of_images_that_the_nodes_resized(repository, make, street, size):
    check_outputs(repository, make, enlarged(street, size), size)


def test_outputs_on_a_real_street(repository, make, real_street):
    check_outputs(repository, make, real_street, (1242, 375))


def check_outputs(repository, make, images, size):
    plain, whole = (
        {name: load_engine(file(name), 'onnxruntime') for name in MODELS}
        for file in (lambda name: repository / SHIPPED / name, lambda name: make(name, size))
    )
    for image in images:
        expected = plain['perception.onnx'].infer({'image': fitted(image, 640, 192)[None]})
        found = whole['perception.onnx'].infer({'image': image[None]})
        # A grey level more or less in every pixel moves the depth by 2 % to 14 %.
        assert np.mean(np.abs(found['depth'] / expected['depth'] - 1)) < 0.01
        assert np.mean(found['labels'] == expected['labels']) > 0.99
    for pair in (images[:2], images[2:]):
        small = (fitted(image, 640, 192) for image in pair)
        expected, found = (
            engine['pose.onnx'].infer(
                {
                    name: image[None]
                    for name, image in zip(('previous', 'current'), given, strict=True)
                }
            )['pose']
            for engine, given in ((plain, small), (whole, pair))
        )
        np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', MODELS)
def test_they_are_built_by_nvidias_builder(make, name, size, precision):
    trt = pytest.importorskip('tensorrt_rtx', reason='tensorrt-rtx-cu13 is not installed')
    model = engine_build.load_model(make(name, size), precision)
    pools = sum(node.op_type == 'AveragePool' for node in model.graph.node)
    assert pools == (len(read_contract(make(name, size)).inputs) if size == (WIDTH, HEIGHT) else 0)
    plan, _ = engine_build.serialize(model, trt, None, threading.Event())
    assert len(plan) > 0.5 * model.ByteSize()


@pytest.fixture(scope='module', params=['street', 'fsre_cma'])
def depth_alone(request, repository, tmp_path_factory):
    """What ``--outputs depth`` makes of an untrained network with semantics."""
    config = replace(read_settings(repository / f'train/configs/{request.param}.yaml'), views=2)
    assert config.semantics
    folder = tmp_path_factory.mktemp(request.param)
    export_networks(System(config, fresh=False).eval(), folder, labels=False)
    return folder / 'perception.onnx'


@pytest.mark.parametrize('precision', PRECISIONS)
def test_depth_alone_is_built_by_nvidias_builder(depth_alone, precision):
    assert read_contract(depth_alone).outputs == ('depth',)
    check_built(depth_alone, precision)


@pytest.mark.gpu
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', MODELS)
def test_on_the_gpu(gpu, make, street, name, size):
    """An engine gives what ONNX Runtime does."""
    source = make(name, size)
    assert build_engine.main([str(source)]) == 0
    engine, contract = load_engine(source), read_contract(source)
    assert engine.backend == 'tensorrt'
    inputs = {
        n: image[None] for n, image in zip(contract.inputs, enlarged(street, size), strict=False)
    }
    found, expected = (e.infer(inputs) for e in (engine, OnnxRuntimeEngine(source, contract, 2)))
    for output in contract.outputs:
        if output == 'labels':
            assert np.mean(found[output] == expected[output]) > 0.99
        else:  # a pixel that is rounded the other way moves the depth around it
            error = np.abs(found[output] - expected[output])
            assert error.mean() < 0.01 * np.abs(expected[output]).mean()
    source.with_suffix('.engine').unlink()
    engine.close()


# Who feeds them


@pytest.mark.parametrize('mode', ['stretch', 'crop'])
@pytest.mark.parametrize('camera', [(WIDTH, HEIGHT), (960, 600)])
def test_offline(repository, make, street, mode, camera):
    """Of a camera of the size that the graph takes, and of another."""
    plain, whole = (
        {name: load_engine(file(name), 'onnxruntime') for name in MODELS}
        for file in (
            lambda name: repository / SHIPPED / name,
            lambda name: make(name, (WIDTH, HEIGHT)),
        )
    )
    info, images = info_message(*camera, FOCAL), []
    runners = [
        Runner(*models.values(), Settings(fit=mode, refinement='none')) for models in (plain, whole)
    ]
    for number, image in enumerate(enlarged(street[:2], camera)):
        expected, found = (
            run(RecordedImage(number * 10**8, 'camera', image), info) for run in runners
        )
        assert found.view == expected.view
        np.testing.assert_array_equal(found.rgb, expected.rgb)
        model = Intrinsics(*whole['pose.onnx'].contract.intrinsics, 640, 192)
        images.append(np.empty((1, HEIGHT, WIDTH, 3), np.uint8))
        ImageFit.create(found.camera, model, mode).to_network(image, images[-1][0])
        depth = whole['perception.onnx'].infer({'image': images[-1]})['depth']
        np.testing.assert_allclose(found.depth / depth, found.depth[0, 0] / depth[0, 0], rtol=1e-5)
    step = whole['pose.onnx'].infer({'previous': images[0], 'current': images[1]})['pose']
    np.testing.assert_allclose(found.step[:3, 3], step[3:], rtol=1e-6)


def test_the_nodes(make, street):
    """The perception node publishes what is computed offline, from raw images of camera size."""
    model = make('perception.onnx', (WIDTH, HEIGHT))
    image = enlarged(street[:1], (WIDTH, HEIGHT))[0]
    info = info_message(WIDTH, HEIGHT, FOCAL)
    engine = OnnxRuntimeEngine(model, read_contract(model), 1)
    expected = Runner(engine, None, Settings())(RecordedImage(0, 'camera', image), info).published
    with (
        NodeProcess(
            'perception_node', {'model': model, 'backend': 'onnxruntime', 'output_size': 'network'}
        ) as process,
        Peer() as peer,
    ):
        scene = Scene(peer, process)
        listener = peer.listen(Image, '/depth/image_rect')
        peer.wait_state('perception_node', 'active')
        scene.camera.wait_matched()
        peer.spin_until(listener.get_publisher_count, what='publisher')
        found = scene.answer(['/depth/image_rect'], image=image_message(image, 0), info=info)
        np.testing.assert_allclose(pixels(found['/depth/image_rect']), expected, rtol=1e-4)


@pytest.fixture
def sequence(tmp_path, street):
    """The images as a sequence of ``python -m train``, large, with a made-up truth."""
    folder = tmp_path / 'sequence'
    for name in ('images', 'depth', 'semantics'):
        (folder / name).mkdir(parents=True)
    for number, image in enumerate(enlarged(street, (WIDTH, HEIGHT))):
        cv2.imwrite(str(folder / f'images/{number}.png'), image[..., ::-1])
        truth = np.full((HEIGHT, WIDTH), 5000, np.uint16)
        cv2.imwrite(str(folder / f'depth/{number}.png'), truth)
        cv2.imwrite(str(folder / f'semantics/{number}.png'), np.zeros((HEIGHT, WIDTH), np.uint8))
    np.savetxt(
        folder / 'intrinsics.txt', [[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]
    )
    poses = np.tile(np.eye(4)[:3].ravel(), (len(street), 1))
    poses[:, 11] = np.arange(len(street))
    np.savetxt(folder / 'poses.txt', poses)
    return folder


def test_the_evaluation_of_training(repository, make, sequence, tmp_path):
    make('pose.onnx', (WIDTH, HEIGHT))
    models = (repository / SHIPPED, make('perception.onnx', (WIDTH, HEIGHT)).parent)
    reports = []
    for number, model in enumerate(models):
        out = tmp_path / str(number)
        assert (
            main(
                [
                    'evaluate',
                    str(sequence),
                    '--model',
                    str(model),
                    '--out',
                    str(out),
                    '--json',
                    str(out / 'report.json'),
                ]
            )
            == 0
        )
        reports.append(json.loads((out / 'report.json').read_text()))
    expected, found = reports
    for name in ('abs_rel', 'rmse'):
        assert found['depth']['as_published'][name] == pytest.approx(
            expected['depth']['as_published'][name], rel=0.02
        )
    assert found['semantics']['iou']['road'] == pytest.approx(
        expected['semantics']['iou']['road'], abs=0.01
    )
