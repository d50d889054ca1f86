"""GPU inference with NVIDIA TensorRT 10.3 and newer, on Jetson and desktop GPUs.

An engine file fits one TensorRT version and one GPU; one whose record
(depth_ros/inference/engine_file.py) does not fit is refused with the command that builds it again.

Functions take the modules ``tensorrt`` and ``cuda.bindings.runtime`` as arguments ``trt`` and
``cudart``, so that modules with the same functions can stand in for them.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depth_ros.inference.engine import Engine, EngineError, UnfitEngineError
from depth_ros.inference.engine_file import check_fits, read_record, rebuild_remedy

OLDEST = (10, 3)  # JetPack 6.1
_log = logging.getLogger(__name__)


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
        EngineError: if the call fails; the message names it and CUDA's error.
    """
    status, *values = getattr(cudart, name)(*arguments)
    if status != cudart.cudaError_t.cudaSuccess:
        raise EngineError(f'{name} failed: {_error_text(cudart, status)}')
    return values[0] if values else None


def _error_text(cudart: Any, status: Any) -> str:
    return f'{status.name} ({cudart.cudaGetErrorString(status)[1].decode()})'


def find_gpu(cudart: Any) -> str:
    """Name the first GPU. Two GPUs of the same name can run each other's engines.

    Call this before any function of TensorRT, which can end the process if there is no driver.

    Args:
        cudart: the module ``cuda.bindings.runtime``.

    Raises:
        EngineError: if there is no GPU or no driver for it.
    """
    if reason := _why_no_gpu(cudart):
        raise EngineError(
            f'TensorRT needs an NVIDIA GPU and its driver, but cudaGetDeviceCount '
            f"says: {reason}; check 'nvidia-smi', or run the .onnx file on the CPU"
        )
    found = cuda_call(cudart, 'cudaGetDeviceProperties', 0)
    # All Jetson Orins have the name Orin and capability 8.7: only the count tells them apart.
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
    """The version of TensorRT and the name of this machine's GPU.

    Raises:
        EngineError: if there is no GPU, driver, TensorRT, or CUDA bindings.
    """
    gpu = find_gpu(cuda_module())
    return tensorrt_module().__version__, gpu


def error_log(trt: Any) -> Any:
    """A logger for TensorRT that collects errors in its list ``errors`` and logs warnings."""

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
    """The errors that TensorRT reported to an :func:`error_log`, as text."""
    return '; '.join(log.errors) or 'no reason given'


def construct(make: Any, log: Any) -> Any:
    """Create an object of a TensorRT class that takes a logger; ``None`` if that fails."""
    try:
        return make(log)
    except TypeError as error:  # how pybind11 reports that a factory gave nothing
        if 'nullptr' in str(error):
            return None
        raise


@dataclass(frozen=True)
class _Buffer:
    """A tensor in page-locked host memory, and its address on the GPU.

    If ``mapped``, the GPU has no copy of its own: both are the same memory.
    """

    host: np.ndarray
    device: int
    mapped: bool


class TensorRtEngine(Engine):
    """GPU inference with TensorRT: one context on one stream, all memory allocated once.

    The copies and kernels of an inference are recorded as a CUDA graph, which takes one launch. If
    the driver cannot record them, they are enqueued one by one.

    Attributes:
        record: what the engine was built from, with and for.
    """

    backend = 'tensorrt'
    _runtime: Any = None
    _engine: Any = None
    _context: Any = None

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
            threads: reported only; TensorRT ignores it.
            source: the ONNX file that it must have been built from; ``None``: the one beside it
                with the name in its record, if that exists.
            trt, cudart: modules; ``None`` for the installed ones.
            mapped: whether the GPU reads and writes the host's memory instead of copying to and
                from its own; ``None``: if it shares the host's memory, as on Jetson.

        Raises:
            UnfitEngineError: if the engine does not fit this machine or the model.
            EngineError: if there is no GPU, or a call fails.
        """
        path = Path(path)
        self.record = record = read_record(path, source)
        super().__init__(path, record.contract, threads)
        self.precision = record.precision
        self._cudart = cudart if cudart is not None else cuda_module()
        gpu = find_gpu(self._cudart)
        self._trt = trt if trt is not None else tensorrt_module()
        self.source = source = source or path.with_name(record.source)
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

    @property
    def source_hash(self) -> str:
        """SHA-256, hexadecimal, of the ONNX file that the engine was built from."""
        return self.record.source_sha256

    def close(self) -> None:
        """Release all memory of the GPU and the host."""
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
        """Call the CUDA function ``name``; ``resources`` will ``release`` its result."""
        value = self._cuda(name, *arguments)
        # A release can only report the error of an earlier call, which was raised then.
        resources.callback(getattr(self._cudart, release), value)
        return value

    def _load(self, path: Path, source: Path, resources: ExitStack) -> None:
        """Create runtime, engine and context; they are released in the opposite order."""
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
                if name == '_engine':  # a newly built file may load
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
        host = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
        host[...] = 0
        if mapped:
            device = self._cuda('cudaHostGetDevicePointer', pointer, 0)
        else:
            device = self._acquire(resources, 'cudaFree', 'cudaMalloc', size)
        if not self._context.set_tensor_address(name, int(device)):
            raise EngineError(f"set_tensor_address('{name}') failed: {self._errors()}")
        return _Buffer(host, int(device), mapped)

    def _enqueue(self) -> None:
        """Enqueue one inference on the stream: copies to the GPU, kernels, copies back."""
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
        """Record one inference as a CUDA graph; ``None`` if that fails."""
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        try:
            self._cuda('cudaStreamBeginCapture', self._stream, mode)
            try:
                self._enqueue()
            finally:  # otherwise the stream would stay in capture
                graph = self._acquire(
                    resources, 'cudaGraphDestroy', 'cudaStreamEndCapture', self._stream
                )
            return self._acquire(
                resources, 'cudaGraphExecDestroy', 'cudaGraphInstantiate', graph, 0
            )
        except EngineError as error:
            self._cudart.cudaGetLastError()  # otherwise a later call would report this error
            # If a call failed during the capture, its error says more than that of its end.
            _log.warning(
                '%s runs without a CUDA graph, a little slower: %s',
                self.contract.name,
                error.__context__ or error,
            )
            return None

    def _errors(self) -> str:
        """The errors that TensorRT reported since the last call, as text."""
        text = reasons(self._logger)
        self._logger.errors.clear()
        return text
