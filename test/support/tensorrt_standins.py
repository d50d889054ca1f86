"""Stand-ins for the CUDA runtime and TensorRT, for machines without a GPU.

:class:`Cuda` keeps books on memory, streams and graphs, and works a stream off only when it is
synchronised, so that a missing or misplaced call gives wrong numbers. :class:`TensorRt` takes an
ONNX file for an engine file and computes with ONNX Runtime. Functions have the names and
parameters of ``cuda.bindings.runtime`` and ``tensorrt``, which test_tensorrt.py compares.
"""

from __future__ import annotations

import ctypes
import itertools
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
import onnxruntime

INPUT_TYPES = {'tensor(uint8)': np.uint8, 'tensor(float)': np.float32}


class Error(IntEnum):
    """cudaError_t."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorInsufficientDriver = 35
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureInvalidated = 901


class Cuda:
    """The functions of ``cuda.bindings.runtime`` that depth_ros uses.

    Attributes:
        devices: number of GPUs; ``None`` without a driver.
        lazy: whether the driver is opened by the first call, as by cuda-python 12.6.2, which raises
            where there is none.
        integrated: whether the GPU shares the host's memory.
        failing: name of the function that fails once, if any, and after how many calls.
        held: what is allocated and not yet released: the kind of each address or handle.
        calls: names of all functions called, in order.
    """

    cudaError_t = Error
    cudaHostAllocDefault, cudaHostAllocMapped, cudaStreamNonBlocking = 0, 2, 1
    cudaDeviceAttr = IntEnum('cudaDeviceAttr', {'cudaDevAttrIntegrated': 18})
    cudaMemcpyKind = IntEnum(
        'cudaMemcpyKind', {'cudaMemcpyHostToDevice': 1, 'cudaMemcpyDeviceToHost': 2}
    )
    cudaStreamCaptureMode = IntEnum(
        'cudaStreamCaptureMode', {'cudaStreamCaptureModeThreadLocal': 1}
    )

    def __init__(
        self, devices: int | None = 1, *, integrated: bool = False, gpu: bytes = b'Stand-in'
    ) -> None:
        self.devices, self.integrated, self._gpu = devices, integrated, gpu
        self.lazy = False
        self.failing: tuple[str, int] | None = None
        self.held: dict[int, str] = {}
        self.calls: list[str] = []
        self._memory: dict[int, ctypes.Array] = {}
        self._aliases: dict[int, int] = {}  # device addresses of mapped host memory
        self._queues: dict[int, list] = {}
        self._capturing: list | None = None
        self._broken = False
        self._graphs: dict[int, list] = {}
        self._handles = itertools.count(1)

    def cudaGetDeviceCount(self):
        self.calls.append('cudaGetDeviceCount')
        if self.devices is None and self.lazy:
            raise RuntimeError(
                'Failed to dlopen libcuda.so.1'
                if len(self.calls) == 1
                else 'Function "cuInit" not found'
            )
        if self.devices is None:
            return Error.cudaErrorInsufficientDriver, None
        return Error.cudaSuccess, self.devices

    def cudaGetDeviceProperties(self, device):
        return self._answer(
            'cudaGetDeviceProperties',
            lambda: SimpleNamespace(name=self._gpu, major=8, minor=7, multiProcessorCount=16),
        )

    def cudaDeviceGetAttribute(self, attr, device):
        return self._answer('cudaDeviceGetAttribute', lambda: int(self.integrated))

    def cudaRuntimeGetVersion(self):
        return self._answer('cudaRuntimeGetVersion', lambda: 12060)

    def cudaGetErrorString(self, error):
        return Error.cudaSuccess, b'as the stand-in was told'

    def cudaGetLastError(self):
        self.calls.append('cudaGetLastError')
        return (Error.cudaSuccess,)

    def cudaMalloc(self, size):
        return self._answer('cudaMalloc', lambda: self._allocate('device', size))

    def cudaFree(self, devPtr):
        return self._release('cudaFree', devPtr, 'device')

    def cudaMemGetInfo(self):
        used = sum(len(self._memory[a]) for a, kind in self.held.items() if kind == 'device')
        return Error.cudaSuccess, 2**30 - used, 2**30

    def cudaHostAlloc(self, size, flags):
        kind = 'mapped' if flags == self.cudaHostAllocMapped else 'host'
        return self._answer('cudaHostAlloc', lambda: self._allocate(kind, size))

    def cudaFreeHost(self, ptr):
        return self._release('cudaFreeHost', ptr, 'host', 'mapped')

    def cudaHostGetDevicePointer(self, pHost, flags):
        def device() -> int:
            assert self.held[pHost] == 'mapped'
            # Another address than the host's, as it may be on a real machine.
            self._aliases[pHost + (1 << 60)] = pHost
            return pHost + (1 << 60)

        return self._answer('cudaHostGetDevicePointer', device)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        ends = ('device', 'host')[
            :: 1 if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else -1
        ]
        for pointer, expected in zip((dst, src), ends, strict=True):
            assert self.held[pointer] == expected and len(self._memory[pointer]) == count
        return self._enqueue('cudaMemcpyAsync', stream, lambda: ctypes.memmove(dst, src, count))

    def cudaStreamCreateWithFlags(self, flags):
        def create() -> int:
            stream = self._hold('stream')
            self._queues[stream] = []
            return stream

        return self._answer('cudaStreamCreateWithFlags', create)

    def cudaStreamDestroy(self, stream):
        return self._release('cudaStreamDestroy', stream, 'stream')

    def cudaStreamSynchronize(self, stream):
        assert self._capturing is None, 'synchronising ends a capture'
        queue, self._queues[stream] = self._queues[stream], []

        def work_off() -> None:
            for job in queue:
                job()

        return self._answer('cudaStreamSynchronize', work_off)

    def cudaStreamBeginCapture(self, stream, mode):
        def begin() -> None:
            assert self._capturing is None and not self._queues[stream]
            self._capturing = []

        return self._answer('cudaStreamBeginCapture', begin)

    def cudaStreamEndCapture(self, stream):
        jobs, self._capturing = self._capturing, None
        if self._broken:
            self._broken = False
            self.calls.append('cudaStreamEndCapture')
            return Error.cudaErrorStreamCaptureInvalidated, None

        def end() -> int:
            graph = self._hold('graph')
            self._graphs[graph] = jobs
            return graph

        return self._answer('cudaStreamEndCapture', end)

    def cudaGraphInstantiate(self, graph, flags):
        def instantiate() -> int:
            executable = self._hold('executable graph')
            self._graphs[executable] = self._graphs[graph]
            return executable

        return self._answer('cudaGraphInstantiate', instantiate)

    def cudaGraphLaunch(self, graphExec, stream):
        assert self.held[graphExec] == 'executable graph'
        jobs = self._graphs[graphExec]
        return self._enqueue('cudaGraphLaunch', stream, lambda: [job() for job in jobs])

    def cudaGraphExecDestroy(self, graphExec):
        return self._release('cudaGraphExecDestroy', graphExec, 'executable graph')

    def cudaGraphDestroy(self, graph):
        return self._release('cudaGraphDestroy', graph, 'graph')

    # What TensorRt needs of it.

    def array(self, address: int, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        """The GPU's view of its memory."""
        address = self._aliases.get(address, address)
        assert self.held[address] in ('device', 'mapped'), 'the GPU sees only memory of its own'
        memory = self._memory[address]
        assert len(memory) == np.prod(shape, dtype=int) * np.dtype(dtype).itemsize
        return np.frombuffer(memory, dtype).reshape(shape)

    def kernels(self, stream: int, job) -> bool:
        """Enqueue what TensorRT computes."""
        return self._enqueue('execute_async_v3', stream, job)[0] == Error.cudaSuccess

    def fails(self, name: str) -> bool:
        """Count a call; tell whether it is the one that fails."""
        self.calls.append(name)
        if self.failing is None or self.failing[0] != name:
            return False
        self.failing = (name, self.failing[1] - 1)
        return self.failing[1] == -1

    def _answer(self, name: str, make):
        if self.fails(name):
            return Error.cudaErrorIllegalAddress, None
        value = make()
        return (Error.cudaSuccess,) if value is None else (Error.cudaSuccess, value)

    def _enqueue(self, name: str, stream: int, job):
        if self.fails(name):
            self._broken = self._capturing is not None
            return (Error.cudaErrorIllegalAddress,)
        (self._queues[stream] if self._capturing is None else self._capturing).append(job)
        return (Error.cudaSuccess,)

    def _hold(self, kind: str) -> int:
        handle = next(self._handles)
        self.held[handle] = kind
        return handle

    def _allocate(self, kind: str, size: int) -> int:
        memory = (ctypes.c_uint8 * size)(*itertools.repeat(0xAA, size))
        address = ctypes.addressof(memory)
        self.held[address], self._memory[address] = kind, memory
        return address

    def _release(self, name: str, handle: int, *kinds: str):
        self.calls.append(name)
        if self.held.get(handle) not in kinds:
            return (Error.cudaErrorInvalidValue,)
        del self.held[handle]
        for kept in (self._memory, self._queues, self._graphs):
            kept.pop(handle, None)
        return (Error.cudaSuccess,)


class TensorRt:
    """The part of ``tensorrt`` that runs engines.

    Args:
        cuda: where the memory and the streams are.
    """

    __version__ = '10.3.0'

    class ILogger:
        Severity = IntEnum('Severity', {'INTERNAL_ERROR': 0, 'ERROR': 1, 'WARNING': 2})

        def log(self, severity, msg):
            raise NotImplementedError

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    @staticmethod
    def nptype(trt_type):
        return trt_type

    def Runtime(self, logger):
        if self.cuda.fails('Runtime'):
            logger.log(self.ILogger.Severity.ERROR, 'no memory for a start')
            raise TypeError('pybind11::init(): factory function returned nullptr')
        return Runtime(self.cuda, logger)


class _Made:
    """An object whose release is in the books."""

    def __init__(self, cuda: Cuda, parent: object) -> None:
        self._cuda, self._parent = cuda, parent
        self._handle = cuda._hold(type(self).__name__)

    def __del__(self) -> None:
        self._cuda.calls.append(f'~{type(self).__name__}')
        del self._cuda.held[self._handle]


class Runtime(_Made):
    def deserialize_cuda_engine(self, serialized_engine):
        if self._cuda.fails('deserialize_cuda_engine'):
            self._parent.log(TensorRt.ILogger.Severity.ERROR, 'the plan is damaged')
            return None
        try:
            return ICudaEngine(self._cuda, self, serialized_engine)
        except Exception:  # of ONNX Runtime's own kinds
            self._parent.log(TensorRt.ILogger.Severity.ERROR, 'the plan is damaged')
            return None


class ICudaEngine(_Made):
    def __init__(self, cuda: Cuda, parent: Runtime, serialized: bytes) -> None:
        super().__init__(cuda, parent)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(serialized, options)
        self.tensors = {
            t.name: t for t in (*self.session.get_inputs(), *self.session.get_outputs())
        }

    @property
    def num_io_tensors(self):
        return len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name):
        return INPUT_TYPES[self.tensors[name].type]

    def get_tensor_shape(self, name):
        return tuple(self.tensors[name].shape)

    def create_execution_context(self):
        if self._cuda.fails('create_execution_context'):
            return None
        return IExecutionContext(self._cuda, self)


class IExecutionContext(_Made):
    def __init__(self, cuda: Cuda, parent: ICudaEngine) -> None:
        super().__init__(cuda, parent)
        self._addresses: dict[str, int] = {}

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return not self._cuda.fails('set_tensor_address')

    def execute_async_v3(self, stream_handle):
        engine, addresses = self._parent, dict(self._addresses)

        def run() -> None:
            arrays = {
                name: self._cuda.array(
                    address, engine.get_tensor_dtype(name), engine.get_tensor_shape(name)
                )
                for name, address in addresses.items()
            }
            names = [output.name for output in engine.session.get_outputs()]
            inputs = {name: array for name, array in arrays.items() if name not in names}
            for name, value in zip(names, engine.session.run(names, inputs), strict=True):
                arrays[name][...] = value

        return self._cuda.kernels(stream_handle, run)
