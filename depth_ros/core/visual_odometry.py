"""Visual odometry: from one image to the next with a pose network, and what to do when that fails.

The odometry node and the offline evaluation both run this class, so that a recording evaluated
offline gives the trajectory that the robot would have had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from depth_ros.core.camera import Intrinsics
from depth_ros.core.se3 import pose, rotation_from_vector
from depth_ros.core.tracked_motion import Tracked, TrackedMotion
from depth_ros.core.trajectory import Motion, NoiseModel, Trajectory

REFINEMENTS = ('none', 'pnp')
"""What motion is made of: the pose network's word alone, or corners that are followed from image to
image, with the network as a first guess."""

PoseNetwork = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Takes the previous and the current image, uint8 (H, W, 3), and returns six numbers: rotation
vector (radians) and translation (the model's unit) of T_previous_current in the optical frame. It
may raise RuntimeError."""

NO_STAMP = 'has no stamp (0): let the camera driver fill in header.stamp'

PATIENCE = 2
"""How often the network may fail with the same previous image before that image is given up, and
how many images may come late in a row before the clock is taken to have gone back."""

STRANGERS = 5
"""Images of another camera in a row, after which it is the one to follow."""


class Reason(Enum):
    """Why an image gave no motion; the values are words for a report."""

    FIRST = 'it is the first image'
    NO_STAMP = 'images have no stamp'
    DOUBLED = 'an image has the stamp of the one before'
    LATE = 'an image is older than the one before'
    CLOCK = 'the clock went back'
    GAP = 'a gap is over max_gap'
    RESTART = 'a gap is over restart_gap'
    CAMERA = 'the size of the images changed'
    OTHER_CAMERA = 'an image is of another camera'
    NETWORK = 'the pose network failed'
    NOT_FINITE = 'the pose network returned no motion'


@dataclass(frozen=True)
class Missed:
    """An image that gave no motion.

    Attributes:
        reason: why.
        text: the same as a sentence with numbers and the remedy.
        starts: whether the next motion starts at this image. Otherwise it starts at the image
            before, so that nothing is missing from the trajectory.
    """

    reason: Reason
    text: str
    starts: bool


class NotFiniteError(RuntimeError):
    """The pose network returned NaN or infinity."""


@dataclass
class _Previous:
    """The image that the next motion starts at.

    Attributes:
        image: uint8 (H, W, 3), of the network's size; ``None`` without a network.
        stamp: nanoseconds.
        camera: the camera at the size of its own images, where that is known.
        failures: how many images the network failed to compare with it.
        frame_id: name of the camera's frame.
        late: how many older images have come after it.
        strangers: how many images of another camera have.
    """

    image: np.ndarray | None
    stamp: int
    camera: Intrinsics | None
    frame_id: str = ''
    failures: int = 0
    late: int = 0
    strangers: int = 0


class VisualOdometry:
    """Compares each image with the previous one and chains the motions into a trajectory.

        odometry = VisualOdometry(network, camera_in_base, noise)
        match odometry.step(image, stamp):
            case Motion() as motion: ...  # odometry.trajectory.pose has moved on
            case Missed() as missed: ...  # missed.text says why it has not

    The pose stays where it was when an image is missed, and the covariance grows by the time that
    is missing from the trajectory. With a refinement, images that show nothing give the last
    velocity as their motion, with a wide covariance, and a gap is bridged as far as the image
    after it shows what was there before.

    Attributes:
        trajectory: where the robot is.
        tracked: what the refinement knows; ``None`` without.
        network_problem: what the pose network said if it failed on the last image and the
            refinement went on without it; empty otherwise.
        max_gap: seconds; images farther apart are not compared.
        restart_gap: seconds; after longer without an image the trajectory starts again at the
            origin, as nothing useful is known of where the body is. A clock that was set forward
            (from 1970, by NTP) is such a gap, too.
        translation_scale: metres per unit of a network that is not metric; 0 where it is not
            known, and the trajectory is in the network's unit.
    """

    def __init__(
        self,
        network: PoseNetwork | None,
        camera_in_base: np.ndarray,
        noise: NoiseModel,
        *,
        refinement: str = 'none',
        camera_height: float = 0.0,
        max_gap: float = 1.0,
        restart_gap: float = 60.0,
        metric: bool = True,
        translation_scale: float = 0.0,
    ) -> None:
        """Start at the origin.

        Args:
            network: compares two images; ``None`` for a refinement that goes without.
            camera_in_base: T_base_camera 4x4, the pose of the optical frame in the body frame.
            noise: error of one step of the network.
            refinement: one of ``REFINEMENTS``.
            camera_height: of the camera over the ground, metres; 0: not known. It gives the
                refinement its scale.
            max_gap, restart_gap: see the attributes.
            metric: whether the network's translation is in metres; if so, translation_scale is
                ignored.
            translation_scale: see the attributes.

        Raises:
            ValueError: if the refinement is unknown, or neither it nor a network is there.
        """
        if refinement not in REFINEMENTS:
            raise ValueError(
                f"refinement '{refinement}' is unknown; choose one of {', '.join(REFINEMENTS)}"
            )
        if network is None and refinement == 'none':
            raise ValueError("without a pose network, refinement must not be 'none'")
        self._refinement, self._height = refinement, camera_height
        self.max_gap = max_gap
        self.restart_gap = restart_gap
        self.translation_scale = translation_scale
        self._network = network
        self._noise = noise
        self._metric = metric
        self.reset(camera_in_base)

    def reset(self, camera_in_base: np.ndarray) -> None:
        """Start again at the origin, with no previous image.

        Args:
            camera_in_base: T_base_camera 4x4.
        """
        self._camera_in_base = camera_in_base
        self.trajectory = Trajectory(camera_in_base, self._noise)
        self._previous: _Previous | None = None
        self.network_problem = ''
        self.tracked: TrackedMotion | None = None
        if self._refinement != 'none':
            self.tracked = TrackedMotion(self._height, camera_in_base[:3, :3].T @ (0.0, 0.0, -1.0))

    def pause(self, seconds: float) -> bool:
        """Take note that no image was taken for a while: the next motion starts at the next one.

        Returns:
            Whether the trajectory starts again, as after ``restart_gap``; else it goes on where
            it was, and its covariance has grown.
        """
        restarts = seconds > self.restart_gap
        if restarts:
            self.reset(self._camera_in_base)
        else:
            self.trajectory.miss(seconds)
            self._previous = None
        return restarts

    def step(
        self,
        image: np.ndarray | None,
        stamp: int,
        camera: Intrinsics | None = None,
        picture: np.ndarray | None = None,
        frame_id: str = '',
    ) -> Motion | Missed:
        """Add an image.

        Args:
            image: uint8 (H, W, 3), of the network's size; ``None`` without a network. It is kept
                until the next step, so the caller must not overwrite it.
            stamp: when it was taken, nanoseconds.
            camera: the camera at the size of its own images. Motion between images of different
                sizes is missed. A refinement needs it.
            picture: uint8 (H, W, 3), the same image at the camera's own size, which a refinement
                needs.
            frame_id: name of the camera's frame.

        Returns:
            The motion since the previous image, or why there is none.

        Raises:
            ValueError: if a refinement lacks the camera or the picture.
        """
        if self.tracked is not None and (camera is None or picture is None):
            raise ValueError("a refinement needs the camera and the image at the camera's size")
        previous = self._previous
        self._picture, self._frame_id = picture, frame_id
        if previous is None:
            return self._start(image, stamp, camera, Reason.FIRST, 'the trajectory starts here')
        if frame_id != previous.frame_id:
            previous.strangers += 1
            if previous.strangers < STRANGERS:
                return Missed(
                    Reason.OTHER_CAMERA,
                    f"an image of the frame '{frame_id}' among those of '{previous.frame_id}' is "
                    'ignored. Do two cameras publish on one topic?',
                    starts=False,
                )
            self.trajectory.miss(max((stamp - previous.stamp) / 1e9, 0.0))
            return self._start(
                image,
                stamp,
                camera,
                Reason.OTHER_CAMERA,
                f"the images are of the frame '{frame_id}' now, no longer of "
                f"'{previous.frame_id}'; the motion between the two is missing from the trajectory",
            )
        previous.strangers = 0
        seconds = (stamp - previous.stamp) / 1e9
        if seconds == 0 and stamp == 0:
            return Missed(Reason.NO_STAMP, f'no motion without time: the image {NO_STAMP}', False)
        if seconds == 0:
            return Missed(
                Reason.DOUBLED,
                f'two images have the same stamp {stamp / 1e9:.3f}; the second is ignored. Is the '
                'topic published twice?',
                starts=False,
            )
        if -self.max_gap <= seconds < 0 and previous.late < PATIENCE:
            previous.late += 1
            return Missed(
                Reason.LATE,
                f'an image came {-seconds:.3f} s behind a newer one and is ignored. Does something '
                'between the camera and this node change the order of the images?',
                starts=False,
            )
        if seconds < 0:  # how long it really was cannot be known
            self.trajectory.miss(self.max_gap)
            return self._start(
                image,
                stamp,
                camera,
                Reason.CLOCK,
                f'image stamps went back by {-seconds:.3f} s; the trajectory goes on from the new '
                'time without that motion. If a recording started again, call the service reset',
            )
        if seconds > self.restart_gap:
            self.reset(self._camera_in_base)
            return self._start(
                image,
                stamp,
                camera,
                Reason.RESTART,
                f'{seconds:.2f} s between two images is over restart_gap ({self.restart_gap:g} s): '
                'the trajectory starts again at the origin. Was the clock set, or the camera off?',
            )
        if seconds > self.max_gap:
            if (motion := self._bridge(image, stamp, camera, seconds)) is not None:
                return motion
            self.trajectory.miss(seconds)
            return self._start(
                image,
                stamp,
                camera,
                Reason.GAP,
                f'{seconds:.2f} s between two images is over max_gap ({self.max_gap:g} s); that '
                'motion is missing from the trajectory and its covariance grows. Check the '
                "camera's rate",
            )
        if _size(camera) != _size(previous.camera):
            self.trajectory.miss(seconds)
            return self._start(
                image,
                stamp,
                camera,
                Reason.CAMERA,
                f'image size changed from {_size(previous.camera)} to {_size(camera)}; the motion '
                'between the two is missing from the trajectory',
            )
        transform = None
        if self._network is not None and previous.image is not None and image is not None:
            self.network_problem = ''
            try:
                transform = self.compare(previous.image, image)
            except RuntimeError as error:
                if self.tracked is None:
                    return self._fail(image, stamp, camera, error)
                self.network_problem = str(error)
        if self.tracked is not None:
            assert camera is not None and picture is not None  # as checked above
            found = self.tracked.follow(picture, camera, stamp, seconds, transform)
            return self._advance(image, stamp, camera, seconds, found)
        self._previous = _Previous(image, stamp, camera, frame_id)
        assert transform is not None
        return self.trajectory.advance(transform, seconds)

    def _advance(
        self,
        image: np.ndarray | None,
        stamp: int,
        camera: Intrinsics | None,
        seconds: float,
        found: Tracked,
    ) -> Motion:
        """Add a step of the refinement to the trajectory."""
        self._previous = _Previous(image, stamp, camera, self._frame_id)
        return self.trajectory.advance(
            found.transform,
            seconds,
            found.covariance,
            found.scale_sigma,
            found.turn_sigma,
            found.confidence,
            found.covered,
        )

    def _bridge(
        self,
        image: np.ndarray | None,
        stamp: int,
        camera: Intrinsics | None,
        seconds: float,
    ) -> Motion | None:
        """The motion over a gap, where the image after it shows what the one before it did.

        Otherwise the last velocity is kept up for ``max_gap``, and the rest is missing.
        """
        previous = self._previous
        if self.tracked is None or camera is None or self._picture is None or previous is None:
            return None
        if _size(camera) != _size(previous.camera):
            return None
        ahead = self.tracked.predicted(self.max_gap)
        found = self.tracked.follow(self._picture, camera, stamp, seconds, None)
        if not found.covered:
            return self._advance(image, stamp, camera, seconds, found)
        if self.tracked.scale is not None:
            ahead[:3, 3] *= self.tracked.scale.value
        self.trajectory.advance(ahead, self.max_gap, found.covariance)
        return None

    def compare(self, previous: np.ndarray, current: np.ndarray) -> np.ndarray:
        """Motion between any two images as the network sees it; the trajectory stays as it is.

        Args:
            previous, current: uint8 (H, W, 3), of the network's size.

        Returns:
            T_previous_current 4x4 of the optical frame, in metres or the network's unit.

        Raises:
            NotFiniteError: if the network returned NaN or infinity.
            RuntimeError: if the network failed.
        """
        assert self._network is not None, 'there is no pose network'
        vector = np.asarray(self._network(previous, current), float)
        if not np.isfinite(vector).all():
            raise NotFiniteError(
                f'the pose network returned {vector.tolist()}; the model is damaged: export it '
                'again'
            )
        scale = 1.0 if self._metric else self.translation_scale or 1.0
        return pose(rotation_from_vector(vector[:3]), scale * vector[3:])

    def _start(
        self,
        image: np.ndarray | None,
        stamp: int,
        camera: Intrinsics | None,
        reason: Reason,
        text: str,
    ) -> Missed:
        """Let the next motion start at this image."""
        self._previous = _Previous(image, stamp, camera, self._frame_id)
        if self.tracked is not None and camera is not None and self._picture is not None:
            self.tracked.start(self._picture, camera, stamp)
        return Missed(reason, text, starts=True)

    def _fail(
        self,
        image: np.ndarray | None,
        stamp: int,
        camera: Intrinsics | None,
        error: RuntimeError,
    ) -> Missed:
        """The network failed on this image and the previous one.

        If this image is to blame, the next one can still be compared with the previous one. If
        the previous one is to blame, nothing can, so it is given up after a few images.
        """
        previous = self._previous
        assert previous is not None
        reason = Reason.NOT_FINITE if isinstance(error, NotFiniteError) else Reason.NETWORK
        previous.failures += 1
        if previous.failures < PATIENCE:
            return Missed(reason, str(error), starts=False)
        self.trajectory.miss((stamp - previous.stamp) / 1e9)
        return self._start(image, stamp, camera, reason, str(error))


def _size(camera: Intrinsics | None) -> str:
    """Size of a camera's images as text."""
    return f'{camera.width}x{camera.height}' if camera else 'unknown'
