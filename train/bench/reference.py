"""The parts of the paper's own code to time."""

from __future__ import annotations

import importlib.util
import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from train.bench.turns import Work
from train.bench.works import (
    ATTENTION,
    HEIGHT,
    WIDTH,
    attend,
    attention_inputs,
    inference,
    make_scene,
)
from train.geometry import transform_from_pose


class Reference:
    """The paper's own code.

    Args:
        folder: clone of FSRE-Depth.
    """

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(folder))
        self.options = SimpleNamespace(
            num_layers=18,
            pretrained=False,
            no_cma=False,
            scales=[0, 1, 2, 3],
            batch_size=1,
            height=HEIGHT,
            width=WIDTH,
            min_depth=0.1,
            max_depth=100.0,
            frame_ids=[0, -1, 1],
            cma_layers=[3, 2, 1],
            num_head=4,
            head_ratio=2,
            reprojection=1.0,
            disparity_smoothness=1e-3,
            semantic_distil=0.3,
            sgt=0.1,
            sgt_layers=[3, 2, 1],
            sgt_kernel_size=[5, 5, 5],
            sgt_margin=0.3,
        )
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            trainer = importlib.import_module('trainer_parallel').TrainerParallel
            self.trainer = trainer(self.options)

    def photometric(self) -> Work:
        """The photometric term, projection included, and its gradient."""
        scene = make_scene()
        camera, inverse = _cameras(scene)
        leaves = [*scene.disparities, *scene.poses]

        def work() -> None:
            inputs, outputs = _colours(scene), {}
            for s, disparity in enumerate(scene.disparities):
                if s:
                    disparity = F.interpolate(disparity, (HEIGHT, WIDTH), mode='bilinear')
                for frame, pose in zip((-1, 1), scene.poses, strict=True):
                    points = self.trainer.backproject_depth(1 / disparity, inverse)
                    outputs['sample', frame, s], _ = self.trainer.project_3d(
                        points, camera, transform_from_pose(pose)
                    )
            with _on_the_processor():
                loss = self.trainer.compute_reprojection(inputs, outputs)
            torch.autograd.grad(loss, leaves)

        return work

    def triplet(self) -> Work:
        """The semantics-guided triplet loss and its gradient."""
        scene = make_scene()
        labels = {('seg', 0, 0): scene.labels[:, None].float()}
        features = {('d_feature', s + 1): f for s, f in enumerate(scene.features)}
        return lambda: torch.autograd.grad(
            self.trainer.compute_sgt_loss(labels, features), scene.features
        )

    def attention(self) -> Work:
        """Inference of all attention modules."""
        module = importlib.import_module('networks.multi_embedding').MultiEmbedding
        modules = [
            module(channels, self.options.num_head, self.options.head_ratio).eval()
            for channels, _ in ATTENTION
        ]
        return inference(partial(attend, modules, attention_inputs()))

    def network(self) -> Work:
        """Inference of the whole network, with depth and semantics."""
        models, image = self.trainer.models.eval(), make_scene().target
        return inference(lambda: models['decoder'](models['encoder'](image)))

    def decoders(self) -> Work:
        """Inference of both decoders with attention."""
        models = self.trainer.models.eval()
        with torch.no_grad():
            features = models['encoder'](make_scene().target)
        return inference(lambda: models['decoder'](features))

    def training_step(self) -> Work:
        """One optimiser step."""
        scene = make_scene()
        camera, inverse = _cameras(scene)
        inputs = {
            **_colours(scene),
            'K': camera,
            'inv_K': inverse,
            ('seg', 0, 0): scene.labels[:, None].float(),
        }
        inputs.update({('color_aug', f, 0): inputs['color', f, 0] for f in (-1, 0, 1)})
        for s in range(1, 4):
            inputs['color', 0, s] = F.interpolate(
                scene.target, (HEIGHT >> s, WIDTH >> s), mode='area'
            )
        optimizer = torch.optim.Adam(self.trainer.parameters_to_train, 1.5e-4)

        def step() -> None:
            self.trainer.train()
            optimizer.zero_grad()
            with _on_the_processor():
                losses, _ = self.trainer(inputs)
            losses['loss'].backward()
            optimizer.step()

        return step


def reference_work(folder: Path, name: str) -> Work:
    """Make a work of the paper's own code.

    Args:
        folder: clone of FSRE-Depth.
        name: method of :class:`Reference`.
    """
    return getattr(Reference(folder), name)()


def _cameras(scene: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Intrinsics (1, 4, 4) of a scene, in pixels, and their inverse."""
    camera = torch.eye(4)[None]
    camera[:, :3, :3] = scene.intrinsics
    return camera, torch.linalg.inv(camera)


def _colours(scene: SimpleNamespace) -> dict:
    """Full-size images of a scene, by the keys that the paper's code uses."""
    images = (scene.sources[0], scene.target, scene.sources[1])
    return {('color', frame, 0): image for frame, image in zip((-1, 0, 1), images, strict=True)}


@contextmanager
def _on_the_processor() -> Iterator[None]:
    """Make ``Tensor.cuda`` do nothing: with it the paper's code moves its noise to a GPU."""
    with mock.patch.object(Tensor, 'cuda', lambda tensor, *_, **__: tensor):
        yield
