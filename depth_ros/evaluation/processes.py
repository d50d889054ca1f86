"""Child processes of a live evaluation, and an observer of the ROS graph that they form."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

_PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process gets when its parent dies."""


class LiveError(RuntimeError):
    """The nodes cannot be run; the message says why and what to do."""


class Processes:
    """Child processes that end with a `with` block, whatever happens in it.

    Each child writes to `<logs>/<name>.log`. It runs in a session of its own, so that Ctrl-C
    reaches only this process. If this process is killed, the kernel ends the child.

    Args:
        logs: Folder for the log files; it is made if it is missing.
        environment: Environment variables of the children.
    """

    def __init__(self, logs: Path, environment: dict[str, str]) -> None:
        self._logs = logs
        self._environment = environment
        self._children: dict[str, subprocess.Popen] = {}
        self._asked: set[str] = set()
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, *command: str) -> subprocess.Popen:
        """Start a module of this package.

        Args:
            name: What to call the child.
            command: Module within `depth_ros`, such as 'nodes.odometry_node', and its arguments.

        Returns:
            The child, whose standard input is a pipe.
        """
        libc = ctypes.CDLL(None)  # loaded before the fork: the child must not allocate
        with self.log(name).open('w') as log:
            child = subprocess.Popen(
                [sys.executable, '-m', f'depth_ros.{command[0]}', *command[1:]],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )
        self._children[name] = child
        return child

    def log(self, name: str) -> Path:
        """Return the log file of a child."""
        return self._logs / f'{name}.log'

    def tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines that a child wrote."""
        text = self.log(name).read_text(errors='replace').splitlines()[-lines:]
        return '\n'.join(f'  | {line}' for line in text) or '  | (it wrote nothing)'

    def check(self) -> None:
        """Check that no child has ended that should still run.

        Raises:
            LiveError: if one has; the message has its last lines.
        """
        for name, child in self._children.items():
            status = child.poll()
            # Only the player ends by itself, at the end of the recording.
            if status is not None and (status or name != 'player'):
                how = f'signal {-status}' if status < 0 else f'status {status}'
                raise LiveError(f'{name} ended with {how}; its last lines:\n{self.tail(name)}')

    def ask_to_stop(self, name: str) -> None:
        """Send SIGINT to a child, once: a second one would disturb its clean-up."""
        child = self._children[name]
        if name not in self._asked and child.poll() is None:
            self._asked.add(name)
            child.send_signal(signal.SIGINT)

    def stop(self, name: str, patience_s: float) -> int:
        """End a child by SIGINT, then SIGTERM, then SIGKILL.

        Args:
            name: Name of the child.
            patience_s: Seconds to wait after each of the first two signals.

        Returns:
            Its exit status.
        """
        self.ask_to_stop(name)
        child = self._children.pop(name)
        for force in (child.terminate, child.kill):
            try:
                return child.wait(patience_s)
            except subprocess.TimeoutExpired:
                force()
        return child.wait()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in self._children:
            self.ask_to_stop(name)
        for name in list(self._children):
            self.stop(name, 5.0)


class GraphObserver:
    """Watches the ROS graph from this process. Use as a context manager."""

    def __enter__(self) -> GraphObserver:
        import rclpy
        from rclpy.signals import SignalHandlerOptions

        from depth_ros.ros.transport import prepare_process

        prepare_process()
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('evaluation')
        return self

    def __exit__(self, *_: object) -> None:
        import rclpy

        self._node.destroy_node()
        rclpy.shutdown()

    def wait_until_active(self, name: str, processes: Processes, timeout_s: float = 90.0) -> None:
        """Wait until a lifecycle node is active.

        Args:
            name: Full name of the node.
            processes: Children to watch meanwhile.
            timeout_s: Longest time to wait, seconds.

        Raises:
            LiveError: if a child ends, or the node is not active in time.
        """
        import rclpy
        from lifecycle_msgs.msg import State
        from lifecycle_msgs.srv import GetState

        client = self._node.create_client(GetState, f'{name}/get_state')
        end = time.monotonic() + timeout_s
        state = 'not there'
        while state != 'active':
            processes.check()
            if time.monotonic() > end:
                child = name.rpartition('/')[2]
                raise LiveError(
                    f'{name} is {state} after {timeout_s:g} s; its last lines:\n'
                    f'{processes.tail(child)}'
                )
            if not client.wait_for_service(0.2):
                continue
            future = client.call_async(GetState.Request())
            rclpy.spin_until_future_complete(self._node, future, timeout_sec=1.0)
            answer = future.result() if future.done() else None
            if answer is not None:
                state = answer.current_state.label
                if answer.current_state.id == State.PRIMARY_STATE_UNCONFIGURED:
                    time.sleep(0.2)

    def wait_until_recorded(
        self, topics: Sequence[str], processes: Processes, timeout_s: float = 30.0
    ) -> None:
        """Wait until every topic has a publisher and a subscriber.

        Args:
            topics: Names of the topics.
            processes: Children to watch meanwhile.
            timeout_s: Longest time to wait, seconds.

        Raises:
            LiveError: if a child ends, or a topic lacks one of them in time.
        """
        end = time.monotonic() + timeout_s
        while missing := [
            t
            for t in topics
            if not self._node.count_subscribers(t) or not self._node.count_publishers(t)
        ]:
            processes.check()
            if time.monotonic() > end:
                raise LiveError(f'{", ".join(missing)}: nobody publishes or records this')
            time.sleep(0.1)
        # The other processes may discover each other slightly later than this one does.
        time.sleep(0.5)
