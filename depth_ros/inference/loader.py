"""Choosing a runtime and loading a model file with it.

engine = load_engine('models/perception.onnx')
outputs = engine.infer({'image': rgb[None]})
"""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path

from depth_ros.inference.contract import read_contract
from depth_ros.inference.engine import Engine, EngineError, UnfitEngineError
from depth_ros.inference.engine_file import ENGINE_SUFFIX, check_source, engine_files
from depth_ros.inference.runtimes import ONNX_RUNTIMES
from depth_ros.inference.runtimes.tensorrt import TensorRtEngine

BACKENDS = ('auto', *ONNX_RUNTIMES)
"""What :func:`load_engine` can be asked for."""


def installed_backends() -> tuple[str, ...]:
    """Runtimes for ONNX files that this machine has, the preferred one first."""
    return tuple(name for name in ONNX_RUNTIMES if importlib.util.find_spec(name) is not None)


def load_engine(
    path: str | os.PathLike[str],
    backend: str = 'auto',
    threads: int = 2,
    mapped: bool | None = None,
) -> Engine:
    """Load a model file with the runtime that fits the file and the machine.

    Args:
        path: an ONNX file with a contract, or an engine file of ``build_engine``.
        backend: one of :data:`BACKENDS`; ``auto`` takes TensorRT for an engine file, and for an
            ONNX file with an engine of it (:func:`depth_ros.inference.engine_file.engine_files`)
            that fits this machine; else the first of :func:`installed_backends`.
        threads: threads of one inference, at least 1.
        mapped: whether TensorRT works in the host's memory, see
            :class:`depth_ros.inference.runtimes.tensorrt.TensorRtEngine`.

    Raises:
        ContractError: if the ONNX file is missing, damaged, or lacks or contradicts the contract.
        EngineError: if the runtime is missing or cannot load the file.
    """
    if backend not in BACKENDS:
        raise EngineError(f"backend '{backend}' is unknown; choose one of {', '.join(BACKENDS)}")
    if threads < 1:
        raise EngineError(f'threads is {threads}; give at least 1')
    path = Path(path)
    if path.suffix == ENGINE_SUFFIX:
        if backend != 'auto':
            raise EngineError(
                f"backend '{backend}' cannot run '{path}'; leave backend at auto, or "
                'give the .onnx file'
            )
        return _load_tensorrt(path, None, threads, mapped)
    contract = read_contract(path)
    installed = installed_backends()
    if backend == 'auto':
        try:
            return load_built_engine(path, threads, mapped)
        except EngineError as error:
            # The robot goes on, slower, and says why, unless nobody has built an engine.
            for file in engine_files(path)[:1]:
                logging.getLogger(__name__).warning("'%s' is not used: %s", file, error)
        if not installed:
            raise EngineError('no inference runtime is installed; pip install onnxruntime')
        backend = installed[0]
    elif backend not in installed:
        raise EngineError(f"backend '{backend}' is not installed; pip install {backend}")
    try:
        return ONNX_RUNTIMES[backend](path, contract, threads)
    except Exception as error:  # each runtime has its own exception types
        raise EngineError(f"{backend} cannot load '{path}': {error}") from error


def load_built_engine(source: Path, threads: int, mapped: bool | None = None) -> Engine:
    """Load the TensorRT engine of an ONNX file.

    Args:
        source: the ONNX file.
        threads, mapped: see :func:`load_engine`.

    Raises:
        UnfitEngineError: if there is none, or it is of another version of the model or for another
            machine.
        EngineError: if there is no GPU, or a call fails.
    """
    problem: EngineError | None = None
    for path in engine_files(source):
        try:
            check_source(path, source)
            return _load_tensorrt(path, source, threads, mapped)
        except EngineError as error:
            problem = problem or error
    raise problem or UnfitEngineError(f"'{source}' has no engine yet")


def _load_tensorrt(path: Path, source: Path | None, threads: int, mapped: bool | None) -> Engine:
    try:
        return TensorRtEngine(path, threads, source=source, mapped=mapped)
    except EngineError:
        raise
    except Exception as error:  # TensorRT and the CUDA bindings have their own
        raise EngineError(f"tensorrt cannot load '{path}': {error}") from error
