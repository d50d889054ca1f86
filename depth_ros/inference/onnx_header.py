"""What an ONNX file says about itself, read without the package onnx.

A robot has ONNX Runtime, but no package of its distribution holds ``onnx``. An ONNX file is a
Protocol Buffers message (`onnx.proto`), of which a node needs metadata, inputs and outputs: this is
a walk over its fields that copies nothing else. Nothing in a file is trusted: lengths, counts and
depth are limited, and weights outside the model's folder are refused.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

MAX_BYTES = 2**31 - 1
"""Protocol Buffers' own limit of a message; larger weights lie in files beside the model."""

MAX_FIELDS = 5_000_000
"""Fields that are looked at; networks of many thousand nodes have some hundred thousand."""

MAX_DEPTH = 16
"""Levels of graphs within graphs (branches of If, bodies of Loop)."""

MAX_TEXT = 4 * 2**20
"""Bytes of a name or of a metadata entry."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_TYPES = {
    1: 'float32',
    2: 'uint8',
    3: 'int8',
    4: 'uint16',
    5: 'int16',
    6: 'int32',
    7: 'int64',
    8: 'string',
    9: 'bool',
    10: 'float16',
    11: 'float64',
    12: 'uint32',
    13: 'uint64',
    16: 'bfloat16',
}
"""TensorProto.DataType, as numpy calls the types."""


class OnnxFileError(ValueError):
    """A file is no ONNX model, is damaged, or is beyond the limits; the message says which."""


Shape = tuple[int | str, ...]


@dataclass
class OnnxHeader:
    """What an ONNX file says about itself.

    Attributes:
        metadata: custom metadata, by key.
        inputs, outputs: element type and shape of the graph's tensors, by name; a dimension
            without a fixed size is '?'. Initializers are no inputs.
        nodes: number of nodes of the main graph.
        external: files beside the model that hold weights, relative to its folder.
    """

    metadata: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, tuple[str, Shape]] = field(default_factory=dict)
    outputs: dict[str, tuple[str, Shape]] = field(default_factory=dict)
    nodes: int = 0
    external: set[str] = field(default_factory=set)


def read_header(path: Path) -> OnnxHeader:
    """Read the header of an ONNX file.

    Raises:
        OnnxFileError: if the file is no ONNX model, is damaged, or is beyond the limits.
        OSError: if it cannot be read.
    """
    size = path.stat().st_size
    if not size:
        raise OnnxFileError('the file is empty')
    if size > MAX_BYTES:
        raise OnnxFileError(f'{size} bytes are more than a model may have ({MAX_BYTES})')
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return parse_header(data)


def parse_header(data: bytes | mmap.mmap) -> OnnxHeader:
    """Read the header of a serialised ONNX model.

    Raises:
        OnnxFileError: if it is no ONNX model, is damaged, or is beyond the limits.
    """
    return _Reader(data).model()


class _Reader:
    """Walks over a message; positions are bytes of `data`."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self._fields = 0
        self.header = OnnxHeader()

    def model(self) -> OnnxHeader:
        """ModelProto."""
        header = self.header
        for number, kind, start, end in self._message(0, len(self._data)):
            if number == 7 and kind == _BYTES:
                self._graph(start, end, 0)
            elif number == 14 and kind == _BYTES:
                entry = self._texts(start, end, (1, 2))
                header.metadata[entry[1]] = entry[2]
        return header

    def _graph(self, start: int, end: int, depth: int) -> None:
        """GraphProto: nodes 1, initializers 5 and 15, inputs 11, outputs 12."""
        if depth > MAX_DEPTH:
            raise OnnxFileError(f'graphs lie within graphs at more than {MAX_DEPTH} levels')
        initializers, inputs, outputs = set(), {}, {}
        for number, kind, first, last in self._message(start, end):
            if kind != _BYTES:
                continue
            if number == 1:
                self.header.nodes += depth == 0
                self._node(first, last, depth)
            elif number == 5:
                initializers.add(self._tensor(first, last))
            elif number == 15:  # SparseTensorProto: values 1, indices 2
                for inner, inner_kind, a, b in self._message(first, last):
                    if inner in (1, 2) and inner_kind == _BYTES:
                        initializers.add(self._tensor(a, b))
            elif number in (11, 12) and depth == 0:
                name, value = self._value(first, last)
                (inputs if number == 11 else outputs)[name] = value
        if depth == 0:
            self.header.inputs = {n: v for n, v in inputs.items() if n not in initializers}
            self.header.outputs = outputs

    def _node(self, start: int, end: int, depth: int) -> None:
        """NodeProto: attributes 5; AttributeProto: tensors 5 and 10, graphs 6 and 11."""
        for number, kind, first, last in self._message(start, end):
            if number != 5 or kind != _BYTES:
                continue
            for inner, inner_kind, a, b in self._message(first, last):
                if inner_kind != _BYTES:
                    continue
                if inner in (5, 10):
                    self._tensor(a, b)
                elif inner in (6, 11):
                    self._graph(a, b, depth + 1)

    def _tensor(self, start: int, end: int) -> str:
        """TensorProto: name 8, external data 13; returns the name."""
        name = ''
        for number, kind, first, last in self._message(start, end):
            if number == 8 and kind == _BYTES:
                name = self._text(first, last)
            elif number == 13 and kind == _BYTES:
                entry = self._texts(first, last, (1, 2))
                if entry[1] == 'location':
                    self._external(entry[2])
        return name

    def _external(self, location: str) -> None:
        if (
            not location
            or '..' in PurePosixPath(location).parts + PureWindowsPath(location).parts
            or PurePosixPath(location).is_absolute()
            or PureWindowsPath(location).is_absolute()
        ):
            raise OnnxFileError(f"weights are in '{location}', outside of the model's folder")
        self.header.external.add(location)

    def _value(self, start: int, end: int) -> tuple[str, tuple[str, Shape]]:
        """ValueInfoProto: name 1, type 2, of which tensors (1) have element type and shape."""
        name, element, shape = '', 'none', []
        for number, kind, first, last in self._message(start, end):
            if number == 1 and kind == _BYTES:
                name = self._text(first, last)
            elif number == 2 and kind == _BYTES:
                for inner, inner_kind, a, b in self._message(first, last):
                    if inner == 1 and inner_kind == _BYTES:
                        element, shape = self._tensor_type(a, b)
        return name, (element, tuple(shape))

    def _tensor_type(self, start: int, end: int) -> tuple[str, list[int | str]]:
        """TypeProto.Tensor: element type 1, shape 2 of dimensions 1 with their size in 1."""
        element, shape = 'undefined', []
        for number, kind, first, last in self._message(start, end):
            if number == 1 and kind == _VARINT:
                element = _TYPES.get(first, f'type {first}')
            elif number == 2 and kind == _BYTES:
                for inner, inner_kind, a, b in self._message(first, last):
                    if inner == 1 and inner_kind == _BYTES:
                        sizes = [
                            size for n, k, size, _ in self._message(a, b) if n == 1 and k == _VARINT
                        ]
                        shape.append(sizes[-1] if sizes else '?')
        return element, shape

    def _texts(self, start: int, end: int, wanted: tuple[int, ...]) -> dict[int, str]:
        """Texts of a message by field; those that are missing are empty."""
        found = dict.fromkeys(wanted, '')
        for number, kind, first, last in self._message(start, end):
            if number in found and kind == _BYTES:
                found[number] = self._text(first, last)
        return found

    def _text(self, start: int, end: int) -> str:
        if end - start > MAX_TEXT:
            raise OnnxFileError(f'a text has {end - start} bytes, more than {MAX_TEXT}')
        try:
            return self._data[start:end].decode()
        except UnicodeDecodeError as error:
            raise OnnxFileError(f'the text at byte {start} is not UTF-8') from error

    def _message(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Fields of a message.

        Yields:
            Number, wire type, and, for what has a length, first and last byte + 1 of the value;
            for numbers their value twice.
        """
        position = start
        while position < end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise OnnxFileError(f'there are more than {MAX_FIELDS} fields')
            key, position = self._varint(position, end)
            number, kind = key >> 3, key & 7
            if not number:
                raise OnnxFileError(f'no field has number 0 (byte {position})')
            if kind == _VARINT:
                value, position = self._varint(position, end)
                yield number, kind, value, value
                continue
            if kind == _BYTES:
                length, position = self._varint(position, end)
            elif kind in (_FIXED32, _FIXED64):
                length = 4 if kind == _FIXED32 else 8
            else:
                raise OnnxFileError(f'wire type {kind} is unknown (byte {position})')
            if length > end - position:
                raise OnnxFileError(f'a field reaches beyond its end (byte {position})')
            yield number, kind, position, position + length
            position += length

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """The number at `position`, and the position behind it."""
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                break
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
        raise OnnxFileError(f'a number is cut off or too long (byte {position})')
