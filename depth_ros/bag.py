"""rosbag2 recordings without ROS: write, read, find the topics, decode depth and labels.

Built on the `rosbags` library; neither rclpy nor a ROS 2 installation is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
from rosbags.interfaces import (
    MessageDefinitionFormat,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
ODOMETRY = 'nav_msgs/msg/Odometry'
TF = 'tf2_msgs/msg/TFMessage'


class BagError(RuntimeError):
    """A recording cannot be used; the message names it, the cause and the remedy."""


def message_types() -> Any:
    """Return a fresh `rosbags` typestore with the message types of ROS 2 Jazzy.

    Kilted has the same definitions of every type that this package reads or writes.
    """
    return get_typestore(Stores.ROS2_JAZZY)


class BagWriter:
    """Writes a rosbag2 recording that appears at its path only when it is complete.

    Use as a context manager. Everything goes to a hidden folder beside `path`, which is moved
    into place on a clean exit and removed when the block raises.

        with BagWriter(path) as bag:
            Clock = bag.types.types['rosgraph_msgs/msg/Clock']
            bag.write('/clock', 'rosgraph_msgs/msg/Clock', stamp_ns, Clock(...))

    Args:
        path: Folder to create; its name also names the storage file, `<name>/<name>.mcap`.
        storage: 'mcap' or 'sqlite3'.
        compress: Compress the chunks of an mcap file with zstd.
        overwrite: Replace a recording that is already there, at the end and not before.

    Raises:
        BagError: `path` exists and `overwrite` is false.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        storage: str = 'mcap',
        *,
        compress: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise BagError(f'{self.path} exists already: remove it or choose another path')
        self.types = message_types()
        self._connections: dict[str, Any] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f'.{self.path.name}.', dir=self.path.parent))
        self._writer = Writer(
            self._folder / self.path.name, version=9, storage_plugin=StoragePlugin[storage.upper()]
        )
        if compress:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()

    def write(
        self, topic: str, msgtype: str, stamp_ns: int, message: Any, *, latched: bool = False
    ) -> None:
        """Append one message.

        Args:
            topic: Absolute topic name.
            msgtype: Type name such as 'sensor_msgs/msg/Image'.
            stamp_ns: Log time of the recording, nanoseconds.
            message: The message as serialised CDR bytes, or a `rosbags` message object.
            latched: Late subscribers of the topic are to get its last message (transient local);
                always so for /tf_static. The topic's first message decides.
        """
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._writer.add_connection(
                topic,
                msgtype,
                typestore=self.types,
                offered_qos_profiles=[_qos(latched or topic == '/tf_static')],
            )
            self._connections[topic] = connection
        if not isinstance(message, (bytes, bytearray, memoryview)):
            message = self.types.serialize_cdr(message, msgtype)
        self._writer.write(connection, stamp_ns, message)

    def close(self) -> None:
        """Finish the recording and move it to its path."""
        self._writer.close()
        if self.path.exists():
            os.replace(self.path, self._folder / 'replaced')
        os.replace(self._folder / self.path.name, self.path)
        shutil.rmtree(self._folder)

    def abort(self) -> None:
        """Give the recording up and leave nothing behind."""
        self._writer.abort()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _qos(latched: bool) -> Qos:
    unspecified = QosTime(0, 0)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=unspecified,
        lifespan=unspecified,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=unspecified,
        avoid_ros_namespace_conventions=False,
    )


class Topic(NamedTuple):
    """One topic of a recording: type name, number of messages, whether it is latched."""

    msgtype: str
    count: int
    latched: bool


class Message(NamedTuple):
    """One recorded message: topic, type name, log time in nanoseconds, serialised CDR bytes."""

    topic: str
    msgtype: str
    log_ns: int
    data: bytes


class Bag:
    """A rosbag2 recording, opened for reading. Use as a context manager.

    Args:
        path: A rosbag2 folder, a folder with one storage file but no metadata.yaml, or a bare
            `.mcap` or `.db3` file.

    Attributes:
        path: As given.
        topics: The topics by name.
        start_ns, end_ns: Log times of the first and last message, nanoseconds.

    Raises:
        BagError: The path is missing, is no recording, or the recording is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._reader = Reader(_storage(self.path))
        try:
            self._reader.open()
        except Exception as error:  # rosbags, sqlite and yaml each have their own kinds
            raise BagError(_damaged(self.path, error)) from error
        self._types = message_types()
        self.topics: dict[str, Topic] = {}
        for connection in self._reader.connections:
            count, latched = 0, False
            if connection.topic in self.topics:
                _, count, latched = self.topics[connection.topic]
            latched |= any(
                qos.durability is QosDurability.TRANSIENT_LOCAL
                for qos in connection.ext.offered_qos_profiles
            )
            self.topics[connection.topic] = Topic(
                connection.msgtype, count + connection.msgcount, latched
            )
        if not self._reader.message_count:
            self.close()
            raise BagError(f'recording {self.path} holds no messages: record it again')
        self.start_ns = self._reader.start_time
        self.end_ns = self._reader.end_time - 1

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Message]:
        """Yield the messages of some topics (None: of all) in the order of their log times.

        Raises:
            BagError: The recording is damaged.
        """
        wanted = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not wanted:
            return
        stream = self._reader.messages(connections=wanted)
        while True:
            try:
                connection, log_ns, data = next(stream)
            except StopIteration:
                return
            except Exception as error:
                raise BagError(_damaged(self.path, error)) from error
            yield Message(connection.topic, connection.msgtype, log_ns, bytes(data))

    def first(self, topic: str) -> Any | None:
        """Return the first message of a topic, deserialised; None if it has none."""
        for message in self.messages([topic]):
            return self.decode(message)
        return None

    def decode(self, message: Message) -> Any:
        """Deserialise a message.

        Raises:
            BagError: Its type is unknown or its bytes are no such message.
        """
        try:
            if message.msgtype not in self._types.fielddefs:
                self._register(message.msgtype)
            return self._types.deserialize_cdr(message.data, message.msgtype)
        except Exception as error:
            raise BagError(
                f'recording {self.path}: a message of {message.topic} at {message.log_ns} ns is '
                f'no valid {message.msgtype} ({error}): leave the topic out or record it again'
            ) from error

    def has_header(self, msgtype: str) -> bool:
        """Tell whether messages of this type begin with a std_msgs/Header."""
        fields = self._types.fielddefs.get(msgtype, ((), ()))[1]
        return bool(fields) and fields[0][1][1] == 'std_msgs/msg/Header'

    def _register(self, msgtype: str) -> None:
        connection = next(c for c in self._reader.connections if c.msgtype == msgtype)
        text = connection.msgdef.data
        if connection.msgdef.format is MessageDefinitionFormat.IDL:
            types = get_types_from_idl(text)
        else:
            types = get_types_from_msg(text, msgtype)
        known = self._types.fielddefs
        self._types.register({k: v for k, v in types.items() if k not in known})

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _storage(path: Path) -> Path:
    """Return what `rosbags` is to open for a path: the folder or its only storage file."""
    if not path.exists():
        raise BagError(f'recording {path} does not exist: check the path')
    if path.suffix == '.bag':
        raise BagError(
            f'recording {path} is a ROS 1 bag: convert it with '
            f'`rosbags-convert --src {path} --dst {path.with_suffix("")}`'
        )
    if path.is_file():
        if path.suffix not in ('.mcap', '.db3'):
            raise BagError(
                f'{path} is no rosbag2 recording: give a rosbag2 folder, an .mcap or a .db3 file'
            )
        return path
    if (path / 'metadata.yaml').is_file():
        return path
    files = sorted([*path.glob('*.mcap'), *path.glob('*.db3')])
    if len(files) == 1:
        return files[0]
    if files:
        raise BagError(
            f'{path} has {len(files)} storage files but no metadata.yaml: rebuild it with '
            f'`ros2 bag reindex {path}`, or give one of the files'
        )
    raise BagError(
        f'{path} has no metadata.yaml, .mcap or .db3 file: give the folder of a rosbag2 recording'
    )


def _damaged(path: Path, error: Exception) -> str:
    return (
        f'recording {path} is damaged or was cut short ({error}): mend an .mcap file with '
        '`mcap recover FILE -o NEW`, a .db3 file with `sqlite3 FILE .recover | sqlite3 NEW`, '
        'then `ros2 bag reindex` its folder'
    )


def header_stamp(data: bytes) -> int:
    """Return the stamp, in nanoseconds, of a serialised message that begins with a header."""
    order = '<' if data[1] & 1 else '>'
    seconds, nanoseconds = struct.unpack_from(f'{order}iI', data, 4)
    return seconds * 10**9 + nanoseconds


# Which topic is what ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Streams:
    """The topics of a recording that matter, by what they carry; None where there is none.

    Attributes:
        image: The camera's pictures, Image or CompressedImage.
        camera_info: Its CameraInfo.
        depth: True depth: Image 32FC1 (m) or 16UC1 (mm), or CompressedImage compressedDepth.
        labels: True class ids (Cityscapes trainIds): Image mono8, or CompressedImage png.
        odom: True poses, nav_msgs/Odometry.
    """

    image: str
    camera_info: str
    depth: str | None = None
    labels: str | None = None
    odom: str | None = None


_NO_PICTURE = re.compile(
    r'depth|dispar|label|semant|segment|mask|instance|infra|thermal|confidence|flow|ground_?truth'
)
_TRUTH = re.compile(r'ground_?truth|(^|[/_])gt([/_]|$)')
_PLANNED = ('/camera/image_rect', '/camera/image_rect/compressed')
_COLOR = ('rgb', 'bgr', 'bayer', 'yuv', 'uyvy', 'yuyv', 'nv', '8UC3', '8UC4', 'jpeg', 'jpg', 'png')


def find_streams(
    bag: Bag,
    image: str | None = None,
    camera_info: str | None = None,
    depth: str | None = None,
    labels: str | None = None,
    odom: str | None = None,
) -> Streams:
    """Find the topics of a recording by type and name; a name given as argument wins.

    Pictures: colour wins over grey, and topics whose names speak of depth, labels and the like
    are left out. Ground truth is only what calls itself so (`ground_truth`, `gt`).

    Raises:
        BagError: No topic or more than one fits; the message lists what there is.
    """
    encodings = {
        name: _encoding(bag.first(name))
        for name, topic in bag.topics.items()
        if topic.msgtype in (IMAGE, COMPRESSED_IMAGE) and topic.count
    }

    image = _given(bag, image, 'image', (IMAGE, COMPRESSED_IMAGE)) or _find_image(bag, encodings)
    camera_info = _given(bag, camera_info, 'camera_info', (CAMERA_INFO,)) or _find_info(bag, image)

    def truth(option: str, given: str | None, fits: Callable[[str], bool]) -> str | None:
        if given is not None:
            kinds = (ODOMETRY,) if option == 'odom-gt' else (IMAGE, COMPRESSED_IMAGE)
            return _given(bag, given, option, kinds)
        found = sorted(n for n in bag.topics if _TRUTH.search(n) and bag.topics[n].count)
        return _one(bag, [n for n in found if fits(n)], option, may_lack=True)

    def is_labels(name: str) -> bool:
        named = re.search('label|semant|segment', name) is not None
        return named and encodings.get(name) in ('mono8', '8UC1', 'png')

    return Streams(
        image,
        camera_info,
        truth('depth-gt', depth, lambda n: encodings.get(n) in ('32FC1', '16UC1')),
        truth('labels-gt', labels, is_labels),
        truth('odom-gt', odom, lambda n: bag.topics[n].msgtype == ODOMETRY),
    )


def _encoding(message: Any) -> str:
    """Return an Image's encoding; for a CompressedImage that of its depth, or jpeg or png."""
    if hasattr(message, 'encoding'):
        return str(message.encoding)
    if 'compressedDepth' in message.format:
        return str(message.format.partition(';')[0].strip())
    return 'png' if bytes(message.data[:4]) == b'\x89PNG' else 'jpeg'


def _find_image(bag: Bag, encodings: dict[str, str]) -> str:
    pictures = [
        name
        for name, encoding in encodings.items()
        if not _NO_PICTURE.search(name.lower()) and encoding not in ('32FC1', '16UC1')
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
    colored = [n for n in pictures if encodings[n].startswith(_COLOR)]
    return str(_one(bag, sorted(colored or pictures), 'image-topic'))


def _find_info(bag: Bag, image: str) -> str:
    infos = {n for n, t in bag.topics.items() if t.msgtype == CAMERA_INFO and t.count}
    sibling = f'{image.removesuffix("/compressed").rpartition("/")[0]}/camera_info'
    if sibling in infos:
        return sibling
    pictures = sorted(n for n in infos if not _NO_PICTURE.search(n.lower()))
    return str(_one(bag, pictures, 'camera-info-topic'))


def _given(bag: Bag, name: str | None, option: str, types: tuple[str, ...]) -> str | None:
    if name is None:
        return None
    if name not in bag.topics:
        raise BagError(f'recording {bag.path} has no topic {name}; {_listing(bag)}')
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
    what = {'image-topic': 'camera image', 'camera-info-topic': 'camera_info'}.get(option, option)
    if found:
        raise BagError(
            f'recording {bag.path} has several {what} topics: {", ".join(found)}: choose one '
            f'with --{option}'
        )
    raise BagError(f'recording {bag.path} has no {what} topic; {_listing(bag)}: name one with '
                   f'--{option}, or record it too')


def _listing(bag: Bag) -> str:
    rows = (f'{n} ({t.msgtype}, {t.count})' for n, t in sorted(bag.topics.items()))
    return f'it has {", ".join(rows)}'


# Depth and labels -------------------------------------------------------------------------------


def decode_depth(message: Any) -> np.ndarray:
    """Return a depth Image or compressedDepth CompressedImage as float32 (H, W).

    Metres along the optical axis, NaN = invalid (REP 118).

    Raises:
        ValueError: The encoding is not supported or the data is damaged.
    """
    encoding = _encoding(message)
    if encoding not in ('32FC1', '16UC1'):
        raise ValueError(f'depth encoding {encoding!r} is not supported: use 32FC1 or 16UC1')
    if not hasattr(message, 'format'):
        depth = _pixels(message, np.float32 if encoding == '32FC1' else np.uint16)
    else:
        # 12 bytes: format enumeration, then the two quantisation parameters; then the png.
        scale, offset = struct.unpack_from('<ff', message.data, 4)
        depth = _imdecode(message.data[12:])
        if encoding == '32FC1':
            coded = depth.astype(np.float32)
            with np.errstate(divide='ignore'):
                return np.where(coded > 0, scale / (coded - offset), np.nan).astype(np.float32)
    if encoding == '16UC1':
        return np.where(depth > 0, depth * np.float32(1e-3), np.float32(np.nan))
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float32)


def decode_labels(message: Any) -> np.ndarray:
    """Return a mono8 Image or png CompressedImage of class ids as uint8 (H, W).

    Raises:
        ValueError: The encoding is not supported or the data is damaged.
    """
    if hasattr(message, 'format'):
        labels = _imdecode(message.data)
        if labels.dtype != np.uint8 or labels.ndim != 2:
            raise ValueError(f'labels are {labels.dtype} {labels.shape} pixels: publish mono8')
        return labels
    if message.encoding not in ('mono8', '8UC1'):
        raise ValueError(f'labels encoding {message.encoding!r} is not supported: publish mono8')
    return _pixels(message, np.uint8)


def _imdecode(data: np.ndarray) -> np.ndarray:
    data = np.asarray(data, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise ValueError(f'compressed image of {data.size} bytes cannot be decoded as png')
    return image


def _pixels(message: Any, dtype: type[np.generic]) -> np.ndarray:
    """Return the pixels (H, W) of a one-channel Image, whatever its step and byte order."""
    kind = np.dtype(dtype).newbyteorder('>' if message.is_bigendian else '<')
    height, width, step = message.height, message.width, message.step
    if not height or not width or step < width * kind.itemsize or len(message.data) < step * height:
        raise ValueError(
            f'image of {width}x{height} {message.encoding} with step {step} has '
            f'{len(message.data)} bytes: check what publishes it'
        )
    return np.ndarray((height, width), kind, message.data, strides=(step, kind.itemsize))
