"""What both nodes share: life cycle, and the worker that runs the network on the newest frame.

A single-threaded executor takes messages and answers services; one worker thread runs the
network. A frame that comes while the worker is busy replaces the one that waits, so latency cannot
grow. The parts are :mod:`~depth_ros.nodes.camera_input`, :mod:`~depth_ros.nodes.engine_slot` and
:mod:`~depth_ros.nodes.monitor`.
"""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, JumpThreshold, TimeJump
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos_overriding_options import QoSOverridingOptions
from std_srvs.srv import SetBool, Trigger

from depth_ros.inference.contract import ContractError
from depth_ros.inference.engine import Engine, EngineError
from depth_ros.nodes.camera_input import CameraInput, Frame
from depth_ros.nodes.diagnosis import LEVELS, Machine, exceeded
from depth_ros.nodes.engine_slot import EngineSlot
from depth_ros.nodes.monitor import (
    REPORT_PERIOD,
    ConfigurationError,
    Monitor,
    Reporter,
    StageTimes,
    slow_readers,
)
from depth_ros.nodes.parameters import GPU_MEMORY
from depth_ros.ros import parameters
from depth_ros.ros.transport import OUTPUT_QOS
from depth_ros.share import share_path

STALE_AFTER = 30.0
"""Seconds without an image after which a node is stale: its camera is gone."""

HUNG = 3
"""Exit status after the watchdog."""


class CameraNode(LifecycleNode):
    """A lifecycle node that runs one network on a camera's newest image.

    A subclass sets ``task`` and ``default_model`` and implements the abstract methods.
    """

    task = ''
    default_model = ''

    def __init__(self, name: str, table: Sequence[parameters.Parameter]) -> None:
        """Declare the parameters of ``table`` and, with autostart, come up by itself.

        Raises:
            ValueError: if an initial value is wrong; the message names the parameter.
        """
        super().__init__(name)
        self._monitor = Monitor(self)
        self._slot = EngineSlot(self.get_logger())
        self._table = table
        parameters.declare(self, table, lambda: self._slot.engine is not None)
        self.settings = parameters.read(self, table)
        # Of this thread, and so of all that it starts: the worker's and the runtime's.
        thread = os.PRIO_PROCESS, threading.get_native_id()
        os.setpriority(*thread, max(self.settings.niceness, os.getpriority(*thread)))
        names = parameters.unknown(self)
        if names:
            known = ', '.join(p.name for p in table)
            self.get_logger().warning(
                f'unknown parameters are ignored: {", ".join(names)}; known ones: {known}'
            )
        self._camera: CameraInput | None = None
        self._enabled = True
        self._machine = Machine()
        self._status_now: dict[str, object] = {}
        self.create_service(SetBool, '~/enable', self._on_enable)
        self.create_service(Trigger, '~/status', self._on_status)
        self._worker: threading.Thread | None = None
        self._problem = ''

        # Without simulated time there are no jumps. Forward ones are gaps between images.
        self._jumps = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(seconds=-0.1), on_clock_change=False
            ),
            post_callback=self._on_jump,
        )
        # Steady time, so that the node also speaks while a simulated clock stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(0.25, self._watch_input, clock=steady)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        if self.settings.autostart:
            self._start_timer = self.create_timer(0.0, self._autostart, clock=steady)

    # What a subclass uses.

    @property
    def engine(self) -> Engine:
        """The loaded network, once the node is configured."""
        assert self._slot.engine is not None, 'the node is not configured'
        return self._slot.engine

    @property
    def report(self) -> Reporter:
        """Warns of causes."""
        return self._monitor.report

    @property
    def times(self) -> StageTimes:
        """How long the stages of a frame take."""
        return self._monitor.times

    # What a subclass adds.

    @abstractmethod
    def set_up(self) -> None:
        """Create publishers and services; ``settings`` and ``engine`` are there.

        Raises:
            ConfigurationError: if the parameters ask for what cannot be had.
        """

    @abstractmethod
    def tear_down(self) -> None:
        """Undo :meth:`set_up`, also one that failed half-way."""

    @abstractmethod
    def wanted(self) -> bool:
        """Whether anybody listens to what the next frame would give."""

    @abstractmethod
    def process(self, frame: Frame) -> str:
        """Run the network on a frame and publish; called in the worker thread.

        Returns:
            Why the frame gave no output; empty if it gave one.
        """

    def start(self) -> None:
        """Get ready for the first frame after activation."""

    def values(self) -> dict[str, str]:
        """What diagnostics list of this node besides what they list of every one."""
        return {}

    def concern(self) -> str:
        """What diagnostics warn of, although frames are processed; empty if nothing."""
        return ''

    def clock_went_back(self) -> None:
        """Simulated time has jumped back; the next frame is of another time."""

    def create_output(self, kind: type, topic: str):
        """A publisher that is silent while the node is inactive.

        Its quality of service is `OUTPUT_QOS`, but for the parameters
        ``qos_overrides.TOPIC.publisher.reliability``, ``history`` and ``depth``.
        """
        return self.create_lifecycle_publisher(
            kind,
            topic,
            copy(OUTPUT_QOS),  # rclpy writes the parameters into it
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def event(self, name: str, reason: str) -> None:
        """Tell on the topic ``events`` what happened once, and log it."""
        self._monitor.event(name, reason)

    # Lifecycle.

    def _autostart(self) -> None:
        self._start_timer.cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and create the publishers."""
        self.settings = parameters.read(self, self._table)
        return self._transition('configure', self._configure, self._release)

    def _configure(self) -> None:
        settings = self.settings
        self._slot.load(
            Path(settings.model or share_path(self.default_model)),
            self.task,
            settings.backend,
            settings.threads,
            GPU_MEMORY[settings.gpu_memory],
            settings.auto_build,
        )
        self.set_up()
        self._slot.announce()

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Warm the network up and take images."""
        result = self._transition('activate', lambda: self._activate(state), self._stop)
        if result == TransitionCallbackReturn.SUCCESS and self._camera is not None:
            self.get_logger().info(
                f'active: waiting for {self._camera.image_topic} and {self._camera.info_topic}'
            )
        return result

    def _activate(self, state: LifecycleState) -> None:
        self.engine.warm_up()
        super().on_activate(state)
        self._monitor.restart()
        self.start()
        self._slot.start_build()  # first, since importing TensorRT would hold up images
        self._camera = CameraInput(
            self, self.report, self.settings.image_transport, self.settings.reliability
        )
        self._worker = threading.Thread(
            target=self._work, args=(self._camera,), name='inference', daemon=True
        )
        self._worker.start()

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take no more images; the frame in work is finished first."""
        self._stop()
        self._slot.take_next()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model and the publishers."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and release everything."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop the worker and release the model."""
        self._stop()
        self._release()

    def _transition(
        self, name: str, action: Callable[[], None], undo: Callable[[], None]
    ) -> TransitionCallbackReturn:
        """Run ``action``; if it fails say why, once and clearly, and ``undo``."""
        try:
            action()
        except (
            ConfigurationError,
            ContractError,
            EngineError,
            FileNotFoundError,
        ) as error:
            self._problem = f'cannot {name}: {error}'
        except Exception:  # whatever it is, the node stays and can be asked again
            if not self.context.ok():  # Ctrl-C closed the publishers under us
                undo()
                return TransitionCallbackReturn.FAILURE
            self._problem = f'cannot {name}, internal error: {traceback.format_exc()}'
        else:
            self._problem = ''
            return TransitionCallbackReturn.SUCCESS
        undo()
        self.get_logger().error(
            f'{self._problem} [the node stays up; try again with: ros2 lifecycle set '
            f'{self.get_fully_qualified_name()} {name}]'
        )
        return TransitionCallbackReturn.FAILURE

    def _release(self) -> None:
        self.tear_down()
        self._slot.release()

    def _stop(self) -> None:
        if self._camera is not None:
            self._camera.close()
        self._slot.stop_build()
        if self._worker is not None:
            self._worker.join()
            self._worker = None

    # Frames, in the worker's thread.

    def _work(self, camera: CameraInput) -> None:
        while (item := camera.take()) is not None:
            message, arrived = item
            self._monitor.health.begin()
            try:
                self._slot.take_next()
                self.settings = parameters.read(self, self._table)
                if not (self._enabled and self.wanted()):
                    self._monitor.skip()
                    continue
                info = camera.info_for(message)
                started = time.perf_counter()
                why_nothing = self.process(
                    camera.frame(
                        message,
                        info,
                        self.engine.contract.camera,
                        self.settings.fit,
                        self.times,
                        self.settings.rectify,
                    )
                )
            except Exception as error:  # a frame must never take the node down
                if not self.context.ok():  # Ctrl-C closed the publishers under us
                    return
                self._monitor.fail(error)
            else:
                ended = time.perf_counter()
                self._monitor.finish(ended - started, ended - arrived, why_nothing)

    def fail(self, error: Exception) -> None:
        """Take note of a callback that raised ``error``, as of a frame that failed."""
        self._monitor.fail(error)

    # Diagnostics.

    def _active_input(self) -> CameraInput | None:
        return self._camera if self._camera is not None and self._camera.active else None

    def _on_jump(self, jump: TimeJump | dict[str, int]) -> None:
        # Before Jazzy, rclpy gives an object.
        delta = jump['delta'] if isinstance(jump, dict) else jump.delta.nanoseconds
        self.event('clock went back', f'simulated time by {-delta / 1e9:.3f} s')
        self.clock_went_back()

    def _watch_input(self) -> None:
        if (camera := self._active_input()) is not None:
            camera.listen(self._enabled and self.wanted())
            if not camera.listening:
                self._monitor.health.good()
            camera.watch()

    def _publish_diagnostics(self) -> None:
        camera = self._active_input()
        frames = self._camera.frames if self._camera is not None else None
        received, dropped = (frames.received, frames.dropped) if frames is not None else (0, 0)
        age = self._camera.age if self._camera is not None else None
        values = {
            'state': self._state_machine.current_state[1],
            'model': self._slot.model_name,
            'model_sha256': self._slot.model_hash,
            'backend': self._slot.engine.backend if self._slot.engine is not None else '',
            'threads': str(self.settings.threads),
            'tensorrt': self._slot.tensorrt,
            'image_topic': camera.image_topic if camera else '',
            'reliability': ('reliable' if camera.reliable else 'best_effort') if camera else '',
            'input_silence_s': f'{camera.silence:.2f}' if camera else '',
            'input_age_ms': f'{1e3 * age:.1f}' if age is not None else '',
            **self._monitor.values(received, dropped),
            **self._machine.values(),
            **self.values(),
        }
        level, text = self._status(camera, values)
        self._status_now = {'level': LEVELS[level], 'message': text, 'values': values}
        self._monitor.publish(level, text, self._slot.model_name, values, received, dropped)
        self._watch_worker()

    def _watch_worker(self) -> None:
        """End the process if a runtime hangs: a thread cannot be ended."""
        limit, busy = self.get_parameter('watchdog').value, self._monitor.health.busy
        if limit and busy > limit:
            self.get_logger().fatal(
                f'watchdog: one frame has been in work for {busy:.1f} s; the process ends with '
                f'status {HUNG}'
            )
            os._exit(HUNG)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self._enabled != request.data:
            self._enabled = request.data
            self.event('enabled' if request.data else 'disabled', 'by the service enable')
            self._watch_input()
        response.success = True
        response.message = 'enabled' if self._enabled else 'disabled: no image is taken'
        return response

    def _on_status(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._status_now.get('level') == 'OK'
        response.message = json.dumps(self._status_now)
        return response

    def _status(self, camera: CameraInput | None, values: dict[str, str]) -> tuple[bytes, str]:
        """Level and message of the diagnostics."""
        rate = f'{values["rate_hz"]} Hz'
        if self._problem:
            return DiagnosticStatus.ERROR, self._problem
        if camera is None:
            return DiagnosticStatus.OK, values['state']
        if not self._enabled:
            return DiagnosticStatus.OK, 'disabled by the service enable'
        if camera.silence > STALE_AFTER:
            return DiagnosticStatus.STALE, f'no image for {camera.silence:.0f} s'
        if camera.silence > REPORT_PERIOD:
            return DiagnosticStatus.WARN, 'no image'
        if not camera.listening:
            return DiagnosticStatus.OK, 'nobody listens; images are not subscribed'
        if problem := self._monitor.health.problem():
            return DiagnosticStatus.ERROR, problem
        if not camera.has_info:
            return DiagnosticStatus.WARN, 'no camera_info'
        if concern := self.concern():
            return DiagnosticStatus.WARN, f'{rate}; {concern}'
        if self._slot.without_tensorrt:
            return DiagnosticStatus.WARN, f'{rate} on {values["backend"]}, without TensorRT'
        if over := exceeded(values, parameters.read(self, self._table)):
            return DiagnosticStatus.WARN, over
        if slow := slow_readers(self.times.medians()):
            return DiagnosticStatus.WARN, f'{rate}; {slow}'
        return DiagnosticStatus.OK, rate
