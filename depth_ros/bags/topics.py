"""Find out which topic of a recording is what: camera, calibration and ground truth."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

from depth_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    ODOMETRY,
    POINT_CLOUD,
    POSE,
    POSE_WITH_COVARIANCE,
    TWIST,
    BagError,
    header_frame,
)
from depth_ros.bags.reader import Bag
from depth_ros.core.images import DEPTH_ENCODINGS, LABEL_ENCODINGS, encoding_of, has_color


@dataclass(frozen=True)
class Streams:
    """The topics of a recording that matter, by what they carry; None where there is none.

    Attributes:
        image: The camera's pictures, Image or CompressedImage.
        camera_info: Its CameraInfo.
        depth: True depth: Image 32FC1 (m) or 16UC1 (mm), CompressedImage compressedDepth, or a
            lidar's PointCloud2, which is only taken when it is named.
        labels: True class ids (Cityscapes trainIds): Image mono8, or CompressedImage png.
        odom: True poses: Odometry, PoseStamped or PoseWithCovarianceStamped, see `decode_pose`.
        wheels: Distances for the scale of depth: Odometry or TwistStamped, which is only taken
            when it is named.
    """

    image: str
    camera_info: str
    depth: str | None = None
    labels: str | None = None
    odom: str | None = None
    wheels: str | None = None


_NO_PICTURE = re.compile(
    r'depth|dispar|label|semant|segment|mask|instance|infra|thermal|confidence|flow|ground_?truth'
)
_TRUTH = re.compile(r'ground_?truth|(^|[/_])gt([/_]|$)')
_TRUTH_TYPES = {
    'depth-gt': (IMAGE, COMPRESSED_IMAGE, POINT_CLOUD),
    'semantics-gt': (IMAGE, COMPRESSED_IMAGE),
    'odom-gt': (ODOMETRY, POSE, POSE_WITH_COVARIANCE),
}
_PLANNED = ('/camera/image_rect', '/camera/image_rect/compressed')


def is_ground_truth(topic: str) -> bool:
    """Tell whether a topic calls itself ground truth."""
    return _TRUTH.search(topic) is not None


def find_streams(
    bag: Bag,
    image: str | None = None,
    camera_info: str | None = None,
    depth: str | None = None,
    labels: str | None = None,
    odom: str | None = None,
    wheels: str | None = None,
) -> Streams:
    """Find the topics of a recording by type and name; a name given as argument wins.

    Pictures: colour wins over grey, and topics whose names speak of depth, labels and the like
    are left out. Ground truth is only what calls itself so (`ground_truth`, `gt`); of poses,
    Odometry wins over the other types.

    Raises:
        BagError: if no topic or more than one fits; the message lists what there is.
    """
    firsts = (
        (name, bag.first(name))
        for name, topic in bag.topics.items()
        if topic.msgtype in (IMAGE, COMPRESSED_IMAGE) and topic.count
    )
    encodings = {name: encoding_of(first) for name, first in firsts if first is not None}

    image = _given(bag, image, 'image', (IMAGE, COMPRESSED_IMAGE)) or _find_image(bag, encodings)
    camera_info = _given(bag, camera_info, 'camera_info', (CAMERA_INFO,)) or _find_info(bag, image)

    def truth(option: str, given: str | None, fits: Callable[[str], bool]) -> str | None:
        if given is not None:
            return _given(bag, given, option, _TRUTH_TYPES[option])
        found = sorted(n for n in bag.topics if is_ground_truth(n) and bag.topics[n].count)
        return _one(bag, [n for n in found if fits(n)], option, may_lack=True)

    def is_labels(name: str) -> bool:
        named = re.search('label|semant|segment', name) is not None
        return named and encodings.get(name) in (*LABEL_ENCODINGS, 'png')

    return Streams(
        image,
        camera_info,
        truth('depth-gt', depth, lambda n: encodings.get(n) in DEPTH_ENCODINGS),
        truth('semantics-gt', labels, is_labels),
        truth('odom-gt', odom, lambda n: bag.topics[n].msgtype == ODOMETRY)
        or truth('odom-gt', None, lambda n: bag.topics[n].msgtype in _TRUTH_TYPES['odom-gt']),
        _given(bag, wheels, 'wheel-odom', (ODOMETRY, TWIST)),
    )


def _find_image(bag: Bag, encodings: dict[str, str]) -> str:
    pictures = [
        name
        for name, encoding in encodings.items()
        if not _NO_PICTURE.search(name.lower()) and encoding not in DEPTH_ENCODINGS
    ]
    # A topic and its compressed twin are one camera; the raw one needs no decoding.
    pictures = [
        n
        for n in pictures
        if not (n.endswith('/compressed') and n.removesuffix('/compressed') in pictures)
    ]
    for name in _PLANNED:
        if name in pictures:
            return name
    colored = [n for n in pictures if has_color(encodings[n])]
    return str(_one(bag, sorted(colored or pictures), 'image'))


def _find_info(bag: Bag, image: str) -> str:
    infos = {n for n, t in bag.topics.items() if t.msgtype == CAMERA_INFO and t.count}
    sibling = f'{image.removesuffix("/compressed").rpartition("/")[0]}/camera_info'
    if sibling in infos:
        return sibling
    pictures = sorted(n for n in infos if not _NO_PICTURE.search(n.lower()))
    frames = {name: _frame(bag, name) for name in pictures}
    frame = _frame(bag, image)
    if frame and len(own := [n for n in pictures if frames[n] == frame]) == 1:
        return own[0]
    foreign = [n for n in pictures if frame and frames[n] and frames[n] != frame]
    if pictures and foreign == pictures and not any(_share_namespace(image, n) for n in pictures):
        listed = ' and '.join(f"{n} (frame '{frames[n]}')" for n in pictures)
        raise BagError(
            f"recording {bag.path} has no camera_info of {image} (frame '{frame}'): by namespace "
            f'and frame, {listed} belongs to another camera; if it is right all the same, name it '
            'with --camera-info'
        )
    return str(_one(bag, pictures, 'camera-info'))


def _frame(bag: Bag, topic: str) -> str:
    """Return the frame_id of a topic's first message."""
    return next((header_frame(m.data) for m in bag.messages([topic])), '')


def _share_namespace(a: str, b: str) -> bool:
    """Tell whether two topics may be of one camera: the same first name, or one has none."""
    first, second = (topic.strip('/').split('/')[:-1][:1] for topic in (a, b))
    return not first or not second or first == second


def _given(bag: Bag, name: str | None, option: str, types: tuple[str, ...]) -> str | None:
    if name is None:
        return None
    if name not in bag.topics:
        fitting = [n for n, topic in bag.topics.items() if topic.msgtype in types and topic.count]
        likely = difflib.get_close_matches(name, fitting, n=1, cutoff=0)
        hint = f'did you mean {likely[0]}? ' if likely else ''
        raise BagError(f'recording {bag.path} has no topic {name}; {hint}{_listing(bag)}')
    if bag.topics[name].msgtype not in types:
        raise BagError(
            f'recording {bag.path}: {name} is a {bag.topics[name].msgtype}, but the {option} topic '
            f'must be a {" or ".join(types)}; {_listing(bag)}'
        )
    if not bag.topics[name].count:
        raise BagError(f'recording {bag.path}: {name} has no messages; {_listing(bag)}')
    return name


def _one(bag: Bag, found: list[str], option: str, may_lack: bool = False) -> str | None:
    if len(found) == 1:
        return found[0]
    if not found and may_lack:
        return None
    what = {'image': 'camera image', 'camera-info': 'camera_info'}.get(option, option)
    if found:
        raise BagError(
            f'recording {bag.path} has several {what} topics: {", ".join(found)}: choose one '
            f'with --{option}'
        )
    raise BagError(
        f'recording {bag.path} has no {what} topic; {_listing(bag)}: name one with '
        f'--{option}, or record it too'
    )


def _listing(bag: Bag) -> str:
    rows = (f'{n} ({t.msgtype}, {t.count})' for n, t in sorted(bag.topics.items()))
    return f'it has {", ".join(rows)}'
