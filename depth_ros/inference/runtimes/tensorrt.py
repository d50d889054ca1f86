"""Inference with NVIDIA TensorRT, on Jetson and desktop GPUs: TensorRT 10.3 and newer.

An engine file fits one TensorRT version and one GPU. `build_engine` (depth_ros/deploy/build.py)
writes it, and beside it a record of what it was built from, with and for; an engine whose record
does not fit is refused with the command that builds it again.

The modules ``tensorrt`` and ``cuda.bindings.runtime`` are arguments everywhere, called ``trt`` and
``cudart``, so that other modules with the same functions can take their place.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depth_ros.files import file_hash
from depth_ros.inference.contract import ModelContract
from depth_ros.inference.engine import Engine, EngineError, UnfitEngineError, shell_command

OLDEST = (10, 3)  # JetPack 6.1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineRecord:
    """What an engine file was built from, with and for; kept as JSON beside it.

    Attributes:
        contract: the model's contract.
        source: name of the ONNX file.
        source_sha256: its SHA-256, hexadecimal.
        precision: ``fp32``, ``fp16`` or ``int8``.
        tensorrt: version of TensorRT.
        cuda: version of the CUDA runtime, as in 12060 for 12.6.
        gpu: the GPU, as :func:`find_gpu` calls it.
        command: shell command that builds the engine again, ``build_engine SOURCE ... ENGINE``.
    """

    contract: ModelContract
    source: str
    source_sha256: str
    precision: str
    tensorrt: str
    cuda: int
    gpu: str
    command: str

    def to_json(self) -> str:
        """The record as JSON text."""
        data = {**asdict(self), 'contract': json.loads(self.contract.to_json())}
        return json.dumps(data, indent=2, sort_keys=True) + '\n'

    @classmethod
    def from_json(cls, text: str) -> EngineRecord:
        """Read a record from the text that :meth:`to_json` wrote.

        Raises:
            ValueError: if the text is not JSON, or a field is missing, unknown or wrong.
        """
        data = json.loads(text)
        try:
            contract = ModelContract.from_json(json.dumps(data['contract']))
            return cls(**{**data, 'contract': contract})
        except (TypeError, KeyError) as error:
            raise ValueError(f'a field is missing or unknown: {error}') from error


def record_path(engine: Path) -> Path:
    """The file with the record of an engine file."""
    return engine.with_name(f'{engine.name}.json')


def timing_path(engine: Path) -> Path:
    """The file with measurements of an engine's build, which make the next one faster."""
    return engine.with_name(f'{engine.name}.timing')


def read_record(engine: Path, source: Path | None = None) -> EngineRecord:
    """Read the record of an engine file.

    Args:
        engine: the engine file.
        source: the ONNX file to name in the remedy; ``None``: the one beside the engine.

    Raises:
        UnfitEngineError: if the engine or its record is missing or damaged.
    """
    source = source or engine.with_suffix('.onnx')
    remedy = f'build it: {shell_command("build_engine", source, "--output", engine)}'
    for path in (engine, record_path(engine)):
        if not path.is_file():
            raise UnfitEngineError(f"'{path}' does not exist; {remedy}")
    try:
        return EngineRecord.from_json(record_path(engine).read_text())
    except (ValueError, OSError) as error:  # a ContractError is a ValueError
        raise UnfitEngineError(f"'{record_path(engine)}' is damaged ({error}); {remedy}") from error


def rebuild_remedy(engine: Path, record: EngineRecord, source: Path) -> str:
    """What to do about an engine that is of no use: the command that builds it again."""
    # The files may have come from another machine, where their paths were others.
    words = shlex.split(record.command)
    words[1], words[-1] = str(source.resolve()), str(engine.resolve())
    return f'build it again: {shell_command(*words)}'


def check_fits(engine: Path, record: EngineRecord, source: Path, tensorrt: str, gpu: str) -> None:
    """Compare an engine's record with this machine and with its ONNX file, if that is there.

    Raises:
        UnfitEngineError: saying what differs, and the command that builds the engine again.
    """
    if source.is_file() and file_hash(source) != record.source_sha256:
        problem = f"was built from another version of '{source}'"
    elif record.tensorrt != tensorrt:
        problem = f'was built with TensorRT {record.tensorrt}, this machine has {tensorrt}'
    elif record.gpu != gpu:
        problem = f'was built for {record.gpu}; this machine has {gpu}'
    else:
        return
    raise UnfitEngineError(f"'{engine}' {problem}; {rebuild_remedy(engine, record, source)}")


def cuda_module() -> Any:
    """The module ``cuda.bindings.runtime``.

    Raises:
        EngineError: if it is not installed.
    """
    try:
        return importlib.import_module('cuda.bindings.runtime')
    except ImportError as error:
        raise EngineError(
            f'the CUDA bindings are not installed ({error}); pip install cuda-bindings, or, for '
            'JetPack 6, cuda-python==12.6.2.post1'
        ) from error


def tensorrt_module() -> Any:
    """The module ``tensorrt``.

    Raises:
        EngineError: if it is not installed or too old.
    """
    try:
        trt = importlib.import_module('tensorrt')
    except (ImportError, OSError) as error:  # its libraries are missing or of another system
        raise EngineError(
            f'TensorRT is not installed ({error}); JetPack brings it as python3-libnvinfer, a '
            'desktop gets it with: pip install tensorrt'
        ) from error
    if tuple(int(part) for part in trt.__version__.split('.')[:2]) < OLDEST:
        raise EngineError(
            f'TensorRT {trt.__version__} is too old; install 10.3 or newer (JetPack 6.1 or newer)'
        )
    return trt


def cuda_call(cudart: Any, name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime and return its value, if it has one.

    Raises:
        EngineError: naming the function and CUDA's error.
    """
    status, *values = getattr(cudart, name)(*arguments)
    if status != cudart.cudaError_t.cudaSuccess:
        raise EngineError(f'{name} failed: {_error_text(cudart, status)}')
    return values[0] if values else None


def _error_text(cudart: Any, status: Any) -> str:
    return f'{status.name} ({cudart.cudaGetErrorString(status)[1].decode()})'


def find_gpu(cudart: Any) -> str:
    """Name the first GPU, so that two GPUs with one name can run each other's engines.

    To be called before anything of TensorRT, which can end the process where there is no driver.

    Raises:
        EngineError: if there is no GPU or no driver for it.
    """
    if reason := _why_no_gpu(cudart):
        raise EngineError(
            f'TensorRT needs an NVIDIA GPU and its driver, but cudaGetDeviceCount '
            f"says: {reason}; check 'nvidia-smi', or run the .onnx file on the CPU"
        )
    found = cuda_call(cudart, 'cudaGetDeviceProperties', 0)
    # Every Jetson Orin is called Orin and has 8.7: only the count tells their sizes apart.
    return (
        f'{found.name.decode()}, compute capability {found.major}.{found.minor}, '
        f'{found.multiProcessorCount} multiprocessors'
    )


def _why_no_gpu(cudart: Any) -> str:
    try:
        status, count = cudart.cudaGetDeviceCount()
    except RuntimeError as error:  # the bindings of JetPack 6, where there is no libcuda
        return str(error)
    if status != cudart.cudaError_t.cudaSuccess:
        return _error_text(cudart, status)
    return '' if count else 'no device'


def check_machine() -> tuple[str, str]:
    """The version of TensorRT and the GPU of this machine, as :func:`check_fits` takes them.

    Raises:
        EngineError: if there is no GPU, driver, TensorRT, or CUDA bindings.
    """
    gpu = find_gpu(cuda_module())
    return tensorrt_module().__version__, gpu


def error_log(trt: Any) -> Any:
    """A logger for TensorRT: its list ``errors`` gets the errors, Python's logging the warnings."""

    class ErrorLog(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                _log.warning('TensorRT: %s', message)

    return ErrorLog()


def reasons(log: Any) -> str:
    """What TensorRT said to an :func:`error_log`."""
    return '; '.join(log.errors) or 'no reason given'


def construct(make: Any, log: Any) -> Any:
    """An object of a class of TensorRT that takes a logger; ``None`` where there can be none."""
    try:
        return make(log)
    except TypeError as error:  # as pybind11 says so, without a word of why
        if 'nullptr' in str(error):
            return None
        raise


@dataclass(frozen=True)
class _Buffer:
    """A tensor's page-locked memory and the address where the GPU finds the tensor.

    Without a copy of its own on the GPU (``mapped``), both are the same memory.
    """

    host: np.ndarray
    device: int
    mapped: bool


class TensorRtEngine(Engine):
    """GPU inference with TensorRT: one context on one stream, all memory allocated once.

    Copies and kernels of an inference are recorded as a CUDA graph, which takes one launch; where
    the driver cannot record them they are enqueued one by one.

    Attributes:
        path: its file.
        record: what the engine was built from, with and for.
    """

    backend = 'tensorrt'

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        *,
        source: Path | None = None,
        trt: Any = None,
        cudart: Any = None,
        mapped: bool | None = None,
    ) -> None:
        """Load an engine file.

        Args:
            path: file that ``build_engine`` wrote.
            threads: told as it is given; the GPU does the work.
            source: the ONNX file that it must have been built from; ``None``: the one beside it
                with the name in its record, if there is one.
            trt, cudart: modules; ``None`` for the installed ones.
            mapped: whether the GPU reads and writes the host's memory instead of copying to and
                from its own; ``None``: where it shares the host's memory, as on Jetson.

        Raises:
            UnfitEngineError: if the engine does not fit this machine or the model.
            EngineError: if there is no GPU, or a call fails.
        """
        self.path = path = Path(path)
        self.record = record = read_record(path, source)
        super().__init__(record.contract, threads)
        self._cudart = cudart if cudart is not None else cuda_module()
        gpu = find_gpu(self._cudart)
        self._trt = trt if trt is not None else tensorrt_module()
        source = source or path.with_name(record.source)
        check_fits(path, record, source, self._trt.__version__, gpu)
        if mapped is None:
            attribute = self._cudart.cudaDeviceAttr.cudaDevAttrIntegrated
            mapped = bool(self._cuda('cudaDeviceGetAttribute', attribute, 0))
        with ExitStack() as resources:
            self._load(path, source, resources)
            self._stream = self._acquire(
                resources,
                'cudaStreamDestroy',
                'cudaStreamCreateWithFlags',
                self._cudart.cudaStreamNonBlocking,
            )
            self._buffers = {name: self._allocate(resources, name, mapped) for name in self._shapes}
            self._enqueue()  # the first run loads kernels, which cannot be recorded
            self._cuda('cudaStreamSynchronize', self._stream)
            self._graph = self._record(resources)
            self._resources = resources.pop_all()

    def close(self) -> None:
        self._resources.close()

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._context is None:
            raise EngineError('the engine is closed; load it again')
        for name, array in inputs.items():
            np.copyto(self._buffers[name].host, array)
        if self._graph is None:
            self._enqueue()
        else:
            self._cuda('cudaGraphLaunch', self._graph, self._stream)
        self._cuda('cudaStreamSynchronize', self._stream)
        # Copies: a view would point to freed memory once the engine is closed.
        return {name: self._buffers[name].host.copy() for name in self.contract.outputs}

    def _cuda(self, name: str, *arguments: Any) -> Any:
        return cuda_call(self._cudart, name, *arguments)

    def _acquire(self, resources: ExitStack, release: str, name: str, *arguments: Any) -> Any:
        """Call a CUDA function whose result is released by another."""
        value = self._cuda(name, *arguments)
        # A release only fails with the error of an earlier call, which was raised there.
        resources.callback(getattr(self._cudart, release), value)
        return value

    def _load(self, path: Path, source: Path, resources: ExitStack) -> None:
        """Make runtime, engine and context, which are released in the opposite order."""
        remedy = rebuild_remedy(path, self.record, source)
        self._logger = error_log(self._trt)
        for name, make in (
            ('_runtime', lambda: construct(self._trt.Runtime, self._logger)),
            ('_engine', lambda: self._runtime.deserialize_cuda_engine(path.read_bytes())),
            ('_context', lambda: self._engine.create_execution_context()),
        ):
            value = make()
            if value is None:
                problem = f"TensorRT made no {name[1:]} of '{path}': {self._errors()}"
                if name == '_engine':  # another file can be what this one is not
                    raise UnfitEngineError(f'{problem}; {remedy}')
                raise EngineError(problem)
            setattr(self, name, value)
            resources.callback(setattr, self, name, None)
            del value
        found = {
            name: (
                np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name))).name,
                tuple(self._engine.get_tensor_shape(name)),
            )
            for name in map(self._engine.get_tensor_name, range(self._engine.num_io_tensors))
        }
        if found != self._shapes:
            raise UnfitEngineError(
                f"'{path}' has the tensors {found}, but its contract says {self._shapes}; {remedy}"
            )

    def _allocate(self, resources: ExitStack, name: str, mapped: bool) -> _Buffer:
        dtype, shape = self._shapes[name]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        flags = self._cudart.cudaHostAllocMapped if mapped else self._cudart.cudaHostAllocDefault
        pointer = self._acquire(resources, 'cudaFreeHost', 'cudaHostAlloc', size, flags)
        memory = (ctypes.c_uint8 * size).from_address(int(pointer))
        host = np.frombuffer(memory, dtype).reshape(shape)
        host[...] = 0
        if mapped:
            device = self._cuda('cudaHostGetDevicePointer', pointer, 0)
        else:
            device = self._acquire(resources, 'cudaFree', 'cudaMalloc', size)
        if not self._context.set_tensor_address(name, int(device)):
            raise EngineError(f"set_tensor_address('{name}') failed: {self._errors()}")
        return _Buffer(host, int(device), mapped)

    def _enqueue(self) -> None:
        """Put one inference on the stream: copies to the GPU, kernels, copies back."""
        kinds = self._cudart.cudaMemcpyKind
        for name in self.contract.inputs:
            buffer = self._buffers[name]
            if not buffer.mapped:
                self._cuda(
                    'cudaMemcpyAsync',
                    buffer.device,
                    buffer.host.ctypes.data,
                    buffer.host.nbytes,
                    kinds.cudaMemcpyHostToDevice,
                    self._stream,
                )
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError(f'execute_async_v3 failed: {self._errors()}')
        for name in self.contract.outputs:
            buffer = self._buffers[name]
            if not buffer.mapped:
                self._cuda(
                    'cudaMemcpyAsync',
                    buffer.host.ctypes.data,
                    buffer.device,
                    buffer.host.nbytes,
                    kinds.cudaMemcpyDeviceToHost,
                    self._stream,
                )

    def _record(self, resources: ExitStack) -> Any:
        """Record one inference as a CUDA graph; ``None`` where that fails."""
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        try:
            self._cuda('cudaStreamBeginCapture', self._stream, mode)
            try:
                self._enqueue()
            finally:  # else the stream would stay in capture
                graph = self._acquire(
                    resources, 'cudaGraphDestroy', 'cudaStreamEndCapture', self._stream
                )
            return self._acquire(
                resources, 'cudaGraphExecDestroy', 'cudaGraphInstantiate', graph, 0
            )
        except EngineError as error:
            self._cudart.cudaGetLastError()  # or a later call would report it as its own
            # Where a call failed under way, that tells more than the end of the capture.
            _log.warning(
                '%s runs without a CUDA graph, a little slower: %s',
                self.contract.name,
                error.__context__ or error,
            )
            return None

    def _errors(self) -> str:
        """What TensorRT said about the failure."""
        text = reasons(self._logger)
        self._logger.errors.clear()
        return text
