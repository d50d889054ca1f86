"""A node's network: loading it, falling back to the CPU, and swapping in a TensorRT engine.

The worker uses :attr:`EngineSlot.engine`. An engine that was built while the node runs waits until
the worker takes it between two frames.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from rclpy.impl.rcutils_logger import RcutilsLogger

from depth_ros.files import file_hash
from depth_ros.inference.contract import ContractError
from depth_ros.inference.engine import Engine, EngineError
from depth_ros.inference.engine_file import ENGINE_SUFFIX, engine_output
from depth_ros.inference.runtimes.tensorrt import check_machine
from depth_ros.inference.self_test import LoadedEngine, load_checked
from depth_ros.nodes.engine_builder import EngineBuild


class EngineSlot:
    """The network of a node.

    Attributes:
        engine: the loaded network; ``None`` while the node is not configured.
        model_name, model_hash: name of the model, and the start of its file's SHA-256.
        tensorrt: what there is to say about TensorRT; empty if it was not asked for.
        without_tensorrt: whether TensorRT was asked for and is not used.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        """Start empty; what happens is told to ``logger``."""
        self.engine: Engine | None = None
        self.model_name = self.model_hash = ''
        self.tensorrt, self.without_tensorrt = '', False
        self._logger = logger
        self._path = Path()
        self._threads = 1
        self._mapped: bool | None = None
        self._auto_build = 'never'
        self._loaded, self._idle_build = '', False
        self._buildable = False
        self._build: EngineBuild | None = None
        self._next: Engine | None = None  # for the worker, between two frames

    def load(
        self,
        path: Path,
        task: str,
        backend: str,
        threads: int,
        mapped: bool | None,
        auto_build: str,
    ) -> None:
        """Load a model.

        Args:
            path: the model's file, ONNX or a TensorRT engine.
            task: what the network must do: ``perception`` or ``pose``.
            backend: one of :data:`depth_ros.inference.loader.BACKENDS`.
            threads: threads of one inference.
            mapped: how TensorRT uses memory, see :func:`depth_ros.inference.loader.load_engine`.
            auto_build: precision of the engine to build, or ``never``.

        Raises:
            ContractError, EngineError: if it cannot be loaded or is for another task.
        """
        self._path, self._threads, self._mapped = path, threads, mapped
        self._auto_build = auto_build
        self.tensorrt, self.without_tensorrt = '', False
        loaded = self._load(backend)
        engine, self._buildable = loaded.engine, loaded.buildable
        if engine.contract.task != task:
            engine.close()
            raise EngineError(
                f"model '{path}': field 'task' is '{engine.contract.task}', this node needs "
                f"'{task}'; set the parameter model to a {task} model"
            )
        self.engine = engine
        self.model_hash = file_hash(path)[:12]
        self.model_name = engine.contract.name
        self._loaded = (
            f"model '{self.model_name}' ({path}, sha256 {self.model_hash}) on "
            f'{engine.backend} with {engine.threads} threads'
        )
        self._idle_build = auto_build != 'never' and (
            path.suffix == ENGINE_SUFFIX or backend != 'auto'
        )

    def announce(self) -> None:
        """Log what was loaded."""
        self._logger.info(self._loaded)
        if self._idle_build:
            self._logger.warning(
                'auto_build has no effect: it needs backend auto and an .onnx file as model'
            )

    def release(self) -> None:
        """Release the network; a build must have been stopped before."""
        for engine in (self.engine, self._next):
            if engine is not None:
                engine.close()
        self.engine = self._next = None

    def start_build(self) -> None:
        """Build a TensorRT engine in the background, if one is wanted and missing."""
        if self._auto_build == 'never' or not self._buildable or self.engine is None:
            return
        try:
            check_machine()
        except EngineError as error:
            self._buildable = False
            self._tell(f'no engine is built: {error}', wanting=True)
            return
        self._tell(
            f'building {engine_output(self._path)} '
            f'({self._auto_build}); until then on {self.engine.backend}'
        )
        self._build = EngineBuild(
            self._path,
            self._auto_build,
            lambda line: self._tell(f'building: {line}'),
            self._on_build_end,
        )

    def stop_build(self) -> None:
        """Stop a build that is under way; on return nothing of it is left."""
        if self._build is None:
            return
        self._build.stop()
        self._build = None
        if self._buildable:  # it did not come to its end
            self.tensorrt = 'the build was stopped'

    def take_next(self) -> None:
        """Go on with the engine that was built meanwhile, if any; called between two frames."""
        if self._next is None:
            return
        old, self.engine, self._next = self.engine, self._next, None
        if old is not None:
            old.close()
        self._logger.info(f"model '{self.model_name}' now on {self.engine.backend}")

    def _load(self, backend: str) -> LoadedEngine:
        loaded = load_checked(self._path, backend, self._threads, self._mapped)
        if loaded.tensorrt:
            self._tell(loaded.tensorrt, loaded.engine.backend != 'tensorrt', loaded.unchecked)
        return loaded

    def _tell(self, text: str, wanting: bool = False, warn: bool = False) -> None:
        """Log what TensorRT is at and keep it for /diagnostics; ``wanting``: it is not used."""
        self.tensorrt, self.without_tensorrt = text, wanting
        if wanting or warn:
            self._logger.warning(f'TensorRT: {text}')
        else:
            self._logger.info(f'TensorRT: {text}')

    def _on_build_end(self, problem: str) -> None:
        """Load the new engine for the worker; called in the build's thread."""
        self._buildable = False  # what failed once is not tried again until the next start
        current = self.engine.backend if self.engine is not None else ''
        try:
            if problem:
                raise EngineError(f'the build failed: {problem}')
            loaded = self._load('auto')
            if loaded.engine.backend != 'tensorrt':
                loaded.engine.close()
            elif not loaded.engine.source_hash.startswith(self.model_hash):
                loaded.engine.close()  # whose outputs may mean something else
                raise EngineError(
                    f"'{self._path}' has changed since it was loaded; clean up "
                    'and configure the node to use it'
                )
            else:
                self._next = loaded.engine
        except (ContractError, EngineError, OSError) as error:
            self._tell(f'{error}; going on with {current}', wanting=True)
        except Exception:  # a thread that dies silently would leave the node building for ever
            self._tell(f'internal error: {traceback.format_exc()}', wanting=True)
