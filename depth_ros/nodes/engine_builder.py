"""Builds a model's TensorRT engine beside a running node, in a process of its own.

TensorRT can crash or run out of memory while it builds; that must not cost the node. One build at
a time on a machine: each measures which kernels are fastest, and two would spoil that.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from depth_ros.files import discard_parts
from depth_ros.inference.engine import EngineError, UnfitEngineError
from depth_ros.inference.engine_file import engine_output, record_path, timing_path
from depth_ros.inference.loader import load_built_engine

GRACE = 2.0
"""Seconds that a build has to end by itself before it is killed."""

NICENESS = 10
"""The build gets the processor that the node leaves."""


class EngineBuild:
    """A build under way.

    Args:
        source: the model's ONNX file.
        precision: ``fp32`` or ``fp16``.
        say: called with each line of progress.
        end: called when the engine is there, with an empty text, or has failed, with the reason;
            not after :meth:`stop`.

    Both are called in the build's own thread.
    """

    def __init__(
        self, source: Path, precision: str, say: Callable[[str], None], end: Callable[[str], None]
    ) -> None:
        self._source, self._precision, self._say, self._end = source, precision, say, end
        self._output = engine_output(source)
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # for _process, so that no build starts after the stop
        self._process: subprocess.Popen | None = None
        self._thread = threading.Thread(target=self._run, name='build', daemon=True)
        self._thread.start()

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Stop the build; on return no process and no half-written file is left."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is not None:
            _signal(process, signal.SIGINT)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:  # a step of TensorRT can take minutes
                _signal(process, signal.SIGKILL)
        self._thread.join()

    def _run(self) -> None:
        # On Linux niceness belongs to a thread, and the process that it starts inherits it. The
        # node may be nicer already, which must not be undone.
        thread = os.PRIO_PROCESS, threading.get_native_id()
        os.setpriority(*thread, max(NICENESS, os.getpriority(*thread)))
        try:
            with self._turn() as lock:
                if not self.stopping and not self._is_built():
                    self._build(lock)
            problem = ''
        except (EngineError, OSError) as error:
            problem = str(error)
        if not self.stopping:
            self._end(problem)

    @contextmanager
    def _turn(self) -> Iterator[int]:
        """Hold the lock that allows one build on this machine; yields its file descriptor."""
        path = Path(tempfile.gettempdir(), f'depth_ros_build_{os.getuid()}.lock')
        waited = False
        with path.open('w') as lock:
            while not self.stopping:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waited:
                        self._say('waiting for another build on this machine')
                    waited = True
                    self._stopping.wait(0.5)
            yield lock.fileno()

    def _is_built(self) -> bool:
        """Whether somebody else has built the engine in the meantime."""
        try:  # a damaged engine shows only when it is loaded
            load_built_engine(self._source, 1).close()
        except UnfitEngineError:
            return False
        except EngineError:  # building would not help; the node will say what is wrong
            pass
        return True

    def _build(self, lock: int) -> None:
        """Build in another process.

        Raises:
            EngineError: if that fails; the message says why.
        """
        command = [
            sys.executable,
            '-m',
            'depth_ros.deploy.build',
            str(self._source),
            self._precision,
            str(self._output),
        ]
        package = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join(filter(None, [package, os.environ.get('PYTHONPATH')]))
        with self._lock:
            if self.stopping:
                return
            # A session of its own: Ctrl-C must reach only the node, which then ends the build. The
            # build inherits the lock, so that the lock outlives a node that is killed.
            self._process = process = subprocess.Popen(
                command,
                env={**os.environ, 'PYTHONPATH': search},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors='replace',
                start_new_session=True,
                pass_fds=(lock,),
            )
        last = ''
        assert process.stdout is not None
        with process.stdout as output:
            for line in map(str.strip, output):
                if line and not self.stopping:
                    self._say(line)
                    last = line
        status = process.wait()
        if status == 0:
            return
        for file in (self._output, record_path(self._output), timing_path(self._output)):
            discard_parts(file)
        how = f'exit status {status}' if status > 0 else signal.Signals(-status).name
        raise EngineError(
            f'build_engine ended with {how}'
            + (f': {last.removeprefix("build_engine: ")}' if last else '')
        )


def _signal(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a build and to all processes that it has started."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:  # it has just ended
            pass
