"""The interface of a loaded network, whichever runtime computes it.

Nodes and evaluation know only :class:`Engine`. Each runtime is one subclass in
``depth_ros/inference/runtimes``; ``depth_ros/inference/loader.py`` chooses among them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from depth_ros.files import file_hash
from depth_ros.inference.contract import ModelContract


class EngineError(RuntimeError):
    """A network cannot be loaded or run; the message says why and what to do."""


class UnfitEngineError(EngineError):
    """An engine file is missing, damaged, or of another model or machine: building it helps."""


class Engine(ABC):
    """A loaded network.

    Attributes:
        backend: name of the runtime, which is also the Python module that it needs.
        path: the file that the runtime loaded.
        contract: what the network needs and what its outputs mean.
        threads: number of threads that one inference may use.
        source: the ONNX file that the engine computes: ``path`` itself unless the runtime has files
            of its own.
        precision: ``fp32``, ``fp16`` or ``int8``, if the runtime's file was built for one.
    """

    backend: ClassVar[str] = ''
    precision: str = 'fp32'

    def __init__(self, path: Path, contract: ModelContract, threads: int) -> None:
        """Load a file.

        Args:
            path: file that the runtime can read.
            contract: the contract of the model in it.
            threads: threads of one inference, at least 1.
        """
        self.path = self.source = path
        self.contract = contract
        self.threads = threads
        self._shapes = contract.tensor_shapes()

    @property
    def source_hash(self) -> str:
        """SHA-256, hexadecimal, of the ONNX file that the engine computes."""
        return file_hash(self.source)

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the network once.

        Args:
            inputs: the contract's input tensors by name, uint8 [1, H, W, 3].

        Returns:
            The contract's output tensors by name. The next call may overwrite them: copy what you
            keep.

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
        """Run on inputs that were checked and are contiguous."""

    @abstractmethod
    def close(self) -> None:
        """Release the runtime's memory; the engine cannot be used afterwards."""
