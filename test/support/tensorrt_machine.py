"""A machine with a GPU and TensorRT for a process of its own: the stand-ins, and a builder.

:func:`environment` makes a process find them under the names of the real modules. An engine is the
model's ONNX file, which the runtime's stand-in computes with ONNX Runtime. Files in a folder say
what happens, so that a test needs no clock:

* ``hold``: a build goes on while it is there, and stops when it is told to.
* ``stubborn``: a build cannot be stopped, as while TensorRT is within one step.
* ``fail``, ``crash``: a build ends with an error, or takes its process along.
* ``wrong``: a build makes an engine with other numbers.
* ``nodriver``: there is no driver, and CUDA raises.
* ``nograph``: no CUDA graph can be recorded.
* ``builds`` gets a line with the process id for each build, ``mapped`` for memory that is mapped.
"""

from __future__ import annotations

import os
import time
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from onnx import numpy_helper

from support import tensorrt_standins as standins

FOLDER = 'TENSORRT_MACHINE'
GPUS = 'TENSORRT_MACHINE_GPUS'


def environment(folder: Path, gpus: int = 1) -> dict[str, str]:
    """Variables for a process that is to find the stand-ins; ``folder`` holds what says how."""
    modules = folder / 'modules'
    for name, member in (('tensorrt', 'TENSORRT'), ('cuda/bindings/runtime', 'CUDA')):
        file = modules / f'{name}.py'
        file.parent.mkdir(parents=True, exist_ok=True)
        for parent in file.parents[: len(Path(name).parts) - 1]:
            (parent / '__init__.py').touch()
        file.write_text(
            'import sys\n'
            f'sys.path.append({str(Path(__file__).parents[1])!r})\n'
            'from support import tensorrt_machine\n'
            f'sys.modules[__name__] = tensorrt_machine.{member}\n'
        )
    search = [str(modules), str(Path(__file__).parents[2]), os.environ.get('PYTHONPATH')]
    return {
        'PYTHONPATH': os.pathsep.join(filter(None, search)),
        FOLDER: str(folder),
        GPUS: str(gpus),
    }


def _told(name: str) -> bool:
    return FOLDER in os.environ and Path(os.environ[FOLDER], name).exists()


def _note(name: str, text: object) -> None:
    with Path(os.environ[FOLDER], name).open('a') as file:
        file.write(f'{text}\n')


class Cuda(standins.Cuda):
    """Does as it is told."""

    def cudaGetDeviceCount(self):
        if _told('nodriver'):
            self.devices, self.lazy = None, True
        return super().cudaGetDeviceCount()

    def cudaHostAlloc(self, size, flags):
        if flags == self.cudaHostAllocMapped:
            _note('mapped', size)
        return super().cudaHostAlloc(size, flags)

    def cudaStreamBeginCapture(self, stream, mode):
        if _told('nograph'):
            return (standins.Error.cudaErrorInvalidValue,)
        return super().cudaStreamBeginCapture(stream, mode)


class IProgressMonitor:
    pass


class INetworkDefinition:
    model = b''


class OnnxParser:
    num_errors = 0

    def __init__(self, network, logger):
        self._network = network

    def parse(self, model):
        self._network.model = model
        return True


class IBuilderConfig:
    progress_monitor: IProgressMonitor

    def clear_flag(self, flag):
        assert flag == TensorRt.BuilderFlag.TF32

    def create_timing_cache(self, serialized_timing_cache):
        return SimpleNamespace(serialize=lambda: b'timings')

    def set_timing_cache(self, cache, ignore_mismatch):
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class Builder:
    def __init__(self, logger):
        self._logger = logger

    def create_network(self, flags):
        assert flags == 1 << TensorRt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig()

    def build_serialized_network(self, network, config):
        _note('builds', os.getpid())
        config.progress_monitor.phase_start('Building', None, 2)
        while _told('hold'):
            time.sleep(0.02)
            if not config.progress_monitor.step_complete('Building', 0) and not _told('stubborn'):
                return None
        if _told('crash'):
            os.abort()
        if _told('fail'):
            self._logger.log(TensorRt.ILogger.Severity.ERROR, 'out of memory')
            return None
        config.progress_monitor.phase_finish('Building')
        model = onnx.load_from_string(network.model)
        if _told('wrong'):
            for tensor in model.graph.initializer:
                if tensor.name in ('rows', 'motion'):  # those of onnx_models.py
                    wrong = 1.25 * numpy_helper.to_array(tensor)
                    tensor.CopyFrom(numpy_helper.from_array(wrong.astype(np.float32), tensor.name))
        return model.SerializeToString()


class TensorRt(standins.TensorRt):
    """With a builder."""

    BuilderFlag = IntEnum('BuilderFlag', {'TF32': 7})
    NetworkDefinitionCreationFlag = IntEnum('NetworkDefinitionCreationFlag', {'STRONGLY_TYPED': 1})
    Builder, OnnxParser, IProgressMonitor = Builder, OnnxParser, IProgressMonitor


CUDA = Cuda(int(os.environ.get(GPUS, 1)))
TENSORRT = TensorRt(CUDA)
