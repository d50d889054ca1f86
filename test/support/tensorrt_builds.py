"""Engines that are built here: by stand-ins, or by the parser and builder of TensorRT-RTX."""

import re
import threading
from argparse import Namespace
from dataclasses import fields, replace

import pytest

from depth_ros.deploy import build as engine_build
from depth_ros.deploy.build import build
from depth_ros.deploy.onnx_graph import check_operators
from depth_ros.files import file_hash
from depth_ros.inference.contract import POSE_CONVENTION, ModelContract, read_contract
from depth_ros.inference.engine_file import EngineRecord, record_path
from support import tensorrt_standins as standins

GPU = 'Stand-in, compute capability 8.7, 16 multiprocessors'


def engine_file(onnx_file, **changed):
    """Turn an ONNX file into an engine file for the stand-ins."""
    path = onnx_file.with_suffix('.engine')
    path.write_bytes(onnx_file.read_bytes())
    record = EngineRecord(
        contract=read_contract(onnx_file),
        source=onnx_file.name,
        source_sha256=file_hash(onnx_file),
        precision='fp32',
        tensorrt=standins.TensorRt.__version__,
        cuda=12060,
        gpu=GPU,
        command=f'build_engine {onnx_file} --output {path}',
    )
    record_path(path).write_text(replace(record, **changed).to_json())
    return path


def real_tensorrt():
    return pytest.importorskip('tensorrt_rtx', reason='tensorrt-rtx-cu13 is not installed')


def real_parameters(method):
    """Names of the parameters of a pybind11 method, of its first overload."""
    text = re.search(r'\(self: [\w.]+(.*?)\) ->', method.__doc__)[1]
    return re.findall(r', (\w+):', text)


RTX_WARNINGS = pytest.mark.filterwarnings('ignore:.*Timing cache operations are no-ops')


def build_here(source, output, **options):
    """Build with NVIDIA's builder on the CPU, and believe that there is a GPU."""
    build(source, output, trt=real_tensorrt(), cudart=standins.Cuda(), **options)


def export_networks(system, folder, labels, **contract):
    """Export as ``python -m train export`` does, with changes of the contract."""
    from depth_ros.inference.classes import CITYSCAPES
    from train.export.deployed import DeployedPerception, DeployedPose
    from train.export.model_file import write_model
    from train.networks.perception import fuse_for_inference

    width, height = system.config.width, system.config.height
    common = {
        'name': 'net',
        'input_width': width,
        'input_height': height,
        'intrinsics': (width / 2, width / 2, width / 2, height / 2),
        **contract,
    }
    write_model(
        DeployedPerception(fuse_for_inference(system.perception, labels), 1.0, (height, width)),
        ModelContract(
            task='perception',
            depth_range=(0.1, 100.0),
            outputs=('depth', 'labels') if labels else ('depth',),
            classes=CITYSCAPES if labels else (),
            **common,
        ),
        folder / 'perception.onnx',
    )
    write_model(
        DeployedPose(system.pose, 1.0, (height, width)),
        ModelContract(task='pose', outputs=('pose',), pose_convention=POSE_CONVENTION, **common),
        folder / 'pose.onnx',
    )


def check_built(source, precision='fp32'):
    """NVIDIA's parser and builder take it, and the list for TensorRT 10.3."""
    check_plan(engine_build.load_model(source, precision))


def check_plan(model):
    check_operators(model)
    plan, _ = engine_build.serialize(model, real_tensorrt(), None, threading.Event())
    assert len(plan) > 0.5 * model.ByteSize()


def read_settings(path):
    """A training configuration."""
    from train.training.config import Config, read_config  # needs torch

    return read_config(Namespace(config=path, **dict.fromkeys(f.name for f in fields(Config))))
