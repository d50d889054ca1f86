"""Running a network: one interface, whichever runtime the machine has.

    engine = load_engine('models/perception.onnx')
    outputs = engine.infer({'image': rgb[None]})

The nodes know only :class:`Engine`. A runtime is one subclass that loads a file and runs it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
import shlex
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depth_ros.inference.contract import ModelContract, read_contract

if TYPE_CHECKING:
    import onnxruntime


class EngineError(RuntimeError):
    """A network cannot be loaded or run; the message says why and what to do."""


class UnfitEngineError(EngineError):
    """An engine file is missing, damaged, or of another model or machine: building it helps."""


def shell_command(*words: str | os.PathLike[str]) -> str:
    """One of this package's commands as a shell of this machine takes it.

    A ROS 2 workspace keeps them where only ``ros2 run`` finds them.
    """
    prefix = () if shutil.which(words[0]) else ('ros2', 'run', 'depth_ros')
    return shlex.join(map(str, (*prefix, *words)))


class Engine(ABC):
    """A loaded network.

    Attributes:
        contract: what the network needs and what its outputs mean.
        backend: name of the runtime.
        threads: number of threads that one inference may use.
    """

    backend = ''

    def __init__(self, contract: ModelContract, threads: int) -> None:
        self.contract = contract
        self.threads = threads
        self._shapes = contract.tensor_shapes()

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the network once.

        Args:
            inputs: the contract's input tensors by name, uint8 [1, H, W, 3].

        Returns:
            The contract's output tensors by name. They may be overwritten by the next call:
            copy what is kept.

        Raises:
            EngineError: if an input is missing or of another type or shape, or the runtime fails.
        """
        for name in self.contract.inputs:
            if name not in inputs:
                raise EngineError(f"input '{name}' is missing; got {sorted(inputs)}")
            dtype, shape = self._shapes[name]
            array = inputs[name]
            if array.shape != shape or array.dtype != dtype:
                raise EngineError(
                    f"input '{name}' is {array.dtype} {list(array.shape)}, "
                    f'must be {dtype} {list(shape)}'
                )
        try:
            return self._run({n: np.ascontiguousarray(inputs[n]) for n in self.contract.inputs})
        except EngineError:
            raise
        except Exception as error:  # each runtime has its own exception types
            raise EngineError(f'{self.backend} failed on {self.contract.name}: {error}') from error

    def warm_up(self) -> None:
        """Run once on grey images, so that the first real frame does not pay for set-up."""
        self.infer({n: np.full(self._shapes[n][1], 128, np.uint8) for n in self.contract.inputs})

    @abstractmethod
    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run on checked, contiguous inputs."""

    @abstractmethod
    def close(self) -> None:
        """Release the runtime's memory; the engine cannot be used afterwards."""


class OnnxRuntimeEngine(Engine):
    """CPU inference with ONNX Runtime."""

    backend = 'onnxruntime'

    def __init__(self, path: Path, contract: ModelContract, threads: int) -> None:
        super().__init__(contract, threads)
        import onnxruntime

        self._session = onnxruntime.InferenceSession(
            str(path), self._options(), providers=['CPUExecutionProvider']
        )

    def _options(self) -> onnxruntime.SessionOptions:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Spinning threads win a millisecond on an idle machine and take the processor from
        # everything else on a busy one; a robot is busy.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        options.log_severity_level = 3
        return options

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._session is None:
            raise EngineError('the engine is closed; load it again')
        values = self._session.run(list(self.contract.outputs), dict(inputs))
        return dict(zip(self.contract.outputs, values, strict=True))

    def close(self) -> None:
        self._session = None


class OpenVinoEngine(Engine):
    """CPU inference with OpenVINO."""

    backend = 'openvino'

    def __init__(self, path: Path, contract: ModelContract, threads: int) -> None:
        super().__init__(contract, threads)
        core = _openvino_core()
        self._request = core.compile_model(
            core.read_model(path), 'CPU', self._settings()
        ).create_infer_request()

    def _settings(self) -> dict[str, Any]:
        return {
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_NUM_THREADS': self.threads,
            'NUM_STREAMS': 1,
            # bf16 would be chosen silently where the processor has it and shifts the depths.
            'INFERENCE_PRECISION_HINT': 'f32',
        }

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._request is None:
            raise EngineError('the engine is closed; load it again')
        self._request.infer(dict(inputs), share_inputs=True)
        return {n: self._request.get_tensor(n).data for n in self.contract.outputs}

    def close(self) -> None:
        self._request = None


@functools.cache
def _openvino_core():
    # One for the life of the process. Each core makes its own stack for signal handlers the
    # thread's current one and frees it when it goes; with several, in any order, a handler is
    # left with a stack that is no longer there, and the next signal kills the process.
    import openvino

    return openvino.Core()


_RUNTIMES: dict[str, type[OnnxRuntimeEngine] | type[OpenVinoEngine]] = {
    'openvino': OpenVinoEngine,
    'onnxruntime': OnnxRuntimeEngine,
}
BACKENDS = ('auto', *_RUNTIMES)
ENGINE_SUFFIX = '.engine'


def installed_backends() -> tuple[str, ...]:
    """Runtimes that this machine has, the preferred one first."""
    return tuple(name for name in _RUNTIMES if importlib.util.find_spec(name) is not None)


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
            ONNX file with an engine of it, see :func:`engine_files`, that fits this machine; else
            the first installed one, fastest first.
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
        return _RUNTIMES[backend](path, contract, threads)
    except Exception as error:  # each runtime has its own exception types
        raise EngineError(f"{backend} cannot load '{path}': {error}") from error


def engine_output(source: Path) -> Path:
    """Where to build the engine of an ONNX file.

    That is beside it; or, where its folder cannot be written, as in an installation, the folder
    ``depth_ros`` in ``$ROS_HOME``, ``~/.ros`` by default, under a name that tells its folder too.
    """
    if os.access(source.parent, os.W_OK):
        return source.with_suffix(ENGINE_SUFFIX)
    home = os.environ.get('ROS_HOME') or Path.home() / '.ros'
    folder = hashlib.sha256(str(source.parent.resolve()).encode()).hexdigest()[:8]
    return Path(home, 'depth_ros', f'{source.stem}-{folder}{ENGINE_SUFFIX}')


def engine_files(source: Path) -> list[Path]:
    """The engine files of an ONNX file that there are, the one to try first first."""
    places = (engine_output(source), source.with_suffix(ENGINE_SUFFIX))
    return [path for path in dict.fromkeys(places) if path.is_file()]


def load_built_engine(source: Path, threads: int, mapped: bool | None = None) -> Engine:
    """Load the TensorRT engine of an ONNX file.

    Raises:
        UnfitEngineError: if there is none, or it is of another version of the model or for another
            machine.
        EngineError: if there is no GPU, or a call fails.
    """
    from depth_ros.inference.runtimes.tensorrt import read_record

    problem: EngineError | None = None
    for path in engine_files(source):
        try:
            name = read_record(path, source).source
            if name != source.name:
                raise EngineError(
                    f"'{path}' was built from '{name}', not '{source.name}'; give "
                    'the engine itself to run it, or replace it: '
                    f'{shell_command("build_engine", source)}'
                )
            return _load_tensorrt(path, source, threads, mapped)
        except EngineError as error:
            problem = problem or error
    raise problem or UnfitEngineError(f"'{source}' has no engine yet")


def _load_tensorrt(path: Path, source: Path | None, threads: int, mapped: bool | None) -> Engine:
    from depth_ros.inference.runtimes.tensorrt import TensorRtEngine

    try:
        return TensorRtEngine(path, threads, source=source, mapped=mapped)
    except EngineError:
        raise
    except Exception as error:  # TensorRT and the CUDA bindings have their own
        raise EngineError(f"tensorrt cannot load '{path}': {error}") from error
