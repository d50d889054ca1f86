"""Predictors: depth, classes and motion of networks, whatever file they are in."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from support.oracle import HEIGHT, WIDTH, Oracle, run, write_street

from depth_ros.core.se3 import pose, rotation_from_vector
from depth_ros.inference.classes import CITYSCAPES
from depth_ros.inference.loader import load_engine
from train.data.sequences import DataError
from train.evaluation.predict import blend, chain, load_predictor
from train.geometry import transform_from_pose
from train.training.config import Config
from train.training.system import System


@pytest.fixture
def street(tmp_path):
    return write_street(tmp_path / 'street')


# Predictors


@pytest.mark.parametrize('views', [2, 3, 5])
def test_windows_chain_to_the_whole_path(views):
    rng = np.random.default_rng(1)
    images = [np.full((HEIGHT, WIDTH, 3), v, np.uint8) for v in rng.integers(0, 255, 9)]
    poses = Oracle(views=views).snippet(images)
    along = [float(i[0, 0, 2]) / 10 - float(images[0][0, 0, 2]) / 10 for i in images]
    assert poses[:, 2, 3] == pytest.approx(along)
    with pytest.raises(DataError, match=f'sees {views} frames at once, given are 1'):
        Oracle(views=views).snippet(images[:1])


def test_the_chain_takes_the_step_to_the_middle():
    """Each window of three knows only the step to its middle frame, except at the ends."""

    def window(*steps):
        return np.stack([pose(np.eye(3), [x, 0, 0]) for x in (0, *np.cumsum(steps))])

    poses = chain([window(1, 99), window(2, 99), window(4, 8)])
    assert poses[:, 0, 3].tolist() == [0, 1, 3, 7, 15]


def test_snippets_of_a_network_that_sees_five_are_its_own(monkeypatch, tmp_path, street):
    class Drifting(Oracle):
        def _window(self, frames):
            poses = super()._window(frames)
            poses[4, 0, 3] += 1.0  # at the end of a window, which the chain takes only once
            return poses

    native = run(monkeypatch, tmp_path, Drifting(views=5), street, '--tasks', 'odometry')
    assert native['trajectories']['street']['snippet_ate'] > 0.1
    chained = run(monkeypatch, tmp_path, Drifting(views=6), street, '--tasks', 'odometry')
    assert chained['trajectories']['street']['snippet_ate'] < 0.1


def test_blending_of_mirrored_depth():
    found = blend(np.full((2, 201), 1.0), np.full((2, 201), 3.0))
    assert found[0, :11] == pytest.approx(3)  # up to 5 % from the left: the mirrored image's
    assert found[0, -11:] == pytest.approx(1)
    assert found[0, 20:-20] == pytest.approx(1.5)  # the mean of the disparities 1 and 1/3
    assert (np.diff(found[0]) <= 1e-6).all()


def test_flip_averaging_mirrors_twice():
    image = np.random.default_rng(2).integers(1, 255, (HEIGHT, WIDTH, 3), np.uint8)
    assert Oracle().depth(image, flip=True) == pytest.approx(Oracle().depth(image), rel=1e-5)


def test_shipped_models_are_read_from_folder_or_file(repository):
    models = repository / 'models'
    both = load_predictor(models)
    assert both.perception_size == (640, 192) and both.pose_size == (416, 128)
    assert both.views == 2
    assert both.classes == CITYSCAPES and both.camera.fx == pytest.approx(371.2)
    images = np.random.default_rng(3).integers(0, 255, (2, 192, 640, 3), np.uint8)
    outputs = load_engine(models / 'perception.onnx').infer({'image': images[:1]})
    alone = load_predictor(models / 'perception.onnx')
    assert np.array_equal(alone.depth(images[0]), outputs['depth'])
    assert np.array_equal(alone.labels(images[0]), outputs['labels'])
    with pytest.raises(DataError, match='no pose network'):
        alone.motion(*images)
    images = np.ascontiguousarray(images[:, :128, :416])
    pair = {'previous': images[:1], 'current': images[1:]}
    step = load_engine(models / 'pose.onnx').infer(pair)['pose']
    pair = load_predictor(models / 'pose.onnx')
    assert pair.motion(*images) == pytest.approx(pose(rotation_from_vector(step[:3]), step[3:]))
    with pytest.raises(DataError, match='no perception network'):
        pair.depth(images[0])


def test_no_model_is_said(tmp_path):
    with pytest.raises(DataError, match='neither perception.onnx nor pose.onnx'):
        load_predictor(tmp_path)
    with pytest.raises(ValueError, match='does not exist'):
        load_predictor(tmp_path / 'no.ckpt')


@pytest.fixture
def checkpoint(tmp_path):
    """Writes a checkpoint of an untrained system and returns it with the system."""

    def write(**settings):
        config = Config(
            data='',
            val='',
            out='',
            width=64,
            height=32,
            batch_size=1,
            steps=1,
            learning_rate=1e-3,
            **settings,
        )
        torch.manual_seed(0)
        system = System(config).eval()
        path = tmp_path / 'last.ckpt'
        torch.save(
            {
                'hyper_parameters': asdict(config),
                'state_dict': system.state_dict(),
                'global_step': 0,
            },
            path,
        )
        return path, system

    return write


def test_a_checkpoint_predicts_what_its_networks_say(checkpoint):
    path, system = checkpoint(network='light', encoder='efficientnet_lite0', pose_network='light')
    predictor = load_predictor(path)
    assert predictor.views == 2 and predictor.classes == CITYSCAPES
    images = np.random.default_rng(4).integers(0, 255, (2, 32, 64, 3), np.uint8)
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        prediction = system.perception(tensors[:1])
        size = {'size': (32, 64), 'mode': 'bilinear', 'align_corners': False}
        disparity = torch.nn.functional.interpolate(prediction.disparities[0], **size)[0, 0]
        labels = torch.nn.functional.interpolate(prediction.logits, **size)[0].argmax(0)
        motion = transform_from_pose(system.pose(tensors[:1], tensors[1:]))[0]
    assert predictor.depth(images[0]) == pytest.approx((1 / disparity).numpy(), rel=1e-4)
    assert (predictor.labels(images[0]) == labels.numpy()).mean() > 0.99  # ties
    assert predictor.motion(*images) == pytest.approx(motion.numpy(), abs=1e-6)


@pytest.mark.parametrize('views', [3, 5])
def test_a_checkpoint_that_sees_several_frames(checkpoint, views):
    path, system = checkpoint(network='dispnet', semantics=False, pose_network='sfm', views=views)
    predictor = load_predictor(path)
    assert predictor.views == views and not predictor.classes
    images = np.random.default_rng(5).integers(0, 255, (views, 32, 64, 3), np.uint8)
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        to_sources = system.transforms(tensors[None])[0].double().numpy()
    poses = predictor.snippet(images)
    target = views // 2
    assert poses[0] == pytest.approx(np.eye(4), abs=1e-6)
    for k, source in enumerate([i for i in range(views) if i != target]):
        found = np.linalg.inv(poses[source]) @ poses[target]  # T_source_target
        assert found == pytest.approx(to_sources[k], abs=1e-5)
    with pytest.raises(DataError, match='no semantic output'):
        predictor.labels(images[0])
