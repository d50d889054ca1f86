"""Networks in other precisions, compared with fp32 and with the CPU."""

import cv2
import numpy as np
import onnx
import onnxruntime

from depth_ros.commands import build_engine
from depth_ros.deploy.fp16 import to_fp16
from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine_file import read_record
from depth_ros.inference.loader import load_engine
from depth_ros.inference.runtimes.onnxruntime import OnnxRuntimeEngine

SHIPPED = ('perception.onnx', 'pose.onnx')


def agree(source, inputs):
    """Compare a model in fp16 with fp32, both by ONNX Runtime; returns the outputs by name."""
    model = onnx.load(source)
    values = [
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, inputs)
        for m in (model, to_fp16(model))
    ]
    return {o.name: pair for o, *pair in zip(model.graph.output, *values, strict=True)}


def smooth_images(contract, seed=0):
    """Images of soft blobs at network size, by input name."""
    random = np.random.default_rng(seed)
    return {
        name: cv2.resize(
            random.integers(0, 256, (6, 20, 3), np.uint8),
            (contract.input_width, contract.input_height),
            interpolation=cv2.INTER_CUBIC,
        )[None]
        for name in contract.inputs
    }


def check_fp16(source, images=None):
    """Compare a model in fp16 with fp32 on images by input name, or on soft blobs."""
    inputs = images or smooth_images(read_contract(source))
    for name, (full, half) in agree(source, inputs).items():
        assert half.dtype == full.dtype and half.shape == full.shape
        if name == 'depth':
            assert np.mean(np.abs(half - full) / full) < 1e-3
        elif name == 'labels':
            assert np.mean(half == full) > 0.97
        else:
            np.testing.assert_allclose(half, full, atol=0.01 * np.abs(full).max())


def check_on_the_gpu(source, precision, gpu):
    """Build, run, and compare with ONNX Runtime."""
    assert build_engine.main([str(source), '--precision', precision]) == 0
    engine, contract = load_engine(source), read_contract(source)
    assert engine.backend == 'tensorrt'
    assert read_record(source.with_suffix('.engine')).gpu == gpu
    assert engine._graph is not None, 'no CUDA graph'
    reference = OnnxRuntimeEngine(source, contract, 2)
    # Where int8 rounds the other way, it differs by a whole step.
    tolerance, same = {'fp32': (1e-4, 0.98), 'fp16': (2e-3, 0.98), 'int8': (0.02, 0.95)}[precision]
    for seed in range(5):  # other images each time: no output may be an earlier one's
        inputs = smooth_images(contract, seed)
        expected, found = reference.infer(inputs), engine.infer(inputs)
        for output in contract.outputs:
            if output == 'labels':
                assert np.mean(found[output] == expected[output]) > same
            else:
                error = np.abs(found[output] - expected[output])
                assert error.mean() < tolerance * np.abs(expected[output]).mean()
    engine.close()
