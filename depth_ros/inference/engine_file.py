"""TensorRT engine files: where they are, what they were built from, and whether they fit.

``build_engine`` writes an engine and, beside it, a record of what it was built from, with and for.
No TensorRT is needed to read the record.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from depth_ros.files import file_hash
from depth_ros.inference.contract import ModelContract
from depth_ros.inference.engine import EngineError, UnfitEngineError

ENGINE_SUFFIX = '.engine'

PRECISIONS = ('fp32', 'fp16')
"""What the engine of any model can be built in; int8 needs images to calibrate with."""


def shell_command(*words: str | os.PathLike[str]) -> str:
    """One of this package's commands, quoted for a shell of this machine.

    In a ROS 2 workspace commands are not on the path: there ``ros2 run`` comes first.
    """
    prefix = () if shutil.which(words[0]) else ('ros2', 'run', 'depth_ros')
    return shlex.join(map(str, (*prefix, *words)))


@dataclass(frozen=True)
class EngineRecord:
    """What an engine file was built from, with and for; kept as JSON beside it.

    Attributes:
        contract: the model's contract.
        source: name of the ONNX file.
        source_sha256: its SHA-256, hexadecimal.
        precision: ``fp32``, ``fp16`` or ``int8``.
        tensorrt: version of TensorRT.
        cuda: version of the CUDA runtime, such as 12060 for 12.6.
        gpu: the GPU, as :func:`depth_ros.inference.runtimes.tensorrt.find_gpu` names it.
        command: shell command that builds the engine again, ``build_engine SOURCE ... ENGINE``.
    """

    contract: ModelContract
    source: str
    source_sha256: str
    precision: str
    tensorrt: str
    cuda: int
    gpu: str
    command: str

    def to_json(self) -> str:
        """The record as JSON text."""
        data = {**asdict(self), 'contract': json.loads(self.contract.to_json())}
        return json.dumps(data, indent=2, sort_keys=True) + '\n'

    @classmethod
    def from_json(cls, text: str) -> EngineRecord:
        """Read a record from the text that :meth:`to_json` wrote.

        Raises:
            ValueError: if the text is not JSON, or a field is missing, unknown or wrong.
        """
        data = json.loads(text)
        try:
            contract = ModelContract.from_json(json.dumps(data['contract']))
            return cls(**{**data, 'contract': contract})
        except (TypeError, KeyError) as error:
            raise ValueError(f'a field is missing or unknown: {error}') from error


def record_path(engine: Path) -> Path:
    """The file with the record of an engine file."""
    return engine.with_name(f'{engine.name}.json')


def timing_path(engine: Path) -> Path:
    """The file with measurements of an engine's build, which make the next one faster."""
    return engine.with_name(f'{engine.name}.timing')


def engine_output(source: Path) -> Path:
    """Where to build the engine of an ONNX file.

    That is beside the ONNX file if its folder can be written. Else, as in an installation, it is
    the folder ``depth_ros`` in ``$ROS_HOME`` (default ``~/.ros``), with a hash of the ONNX file's
    folder in the name.
    """
    if os.access(source.parent, os.W_OK):
        return source.with_suffix(ENGINE_SUFFIX)
    home = os.environ.get('ROS_HOME') or Path.home() / '.ros'
    folder = hashlib.sha256(str(source.parent.resolve()).encode()).hexdigest()[:8]
    return Path(home, 'depth_ros', f'{source.stem}-{folder}{ENGINE_SUFFIX}')


def engine_files(source: Path) -> list[Path]:
    """Existing engine files of an ONNX file, in the order to try."""
    places = (engine_output(source), source.with_suffix(ENGINE_SUFFIX))
    return [path for path in dict.fromkeys(places) if path.is_file()]


def read_record(engine: Path, source: Path | None = None) -> EngineRecord:
    """Read the record of an engine file.

    Args:
        engine: the engine file.
        source: the ONNX file to name in the remedy; ``None``: the one beside the engine.

    Raises:
        UnfitEngineError: if the engine or its record is missing or damaged.
    """
    source = source or engine.with_suffix('.onnx')
    remedy = f'build it: {shell_command("build_engine", source, "--output", engine)}'
    for path in (engine, record_path(engine)):
        if not path.is_file():
            raise UnfitEngineError(f"'{path}' does not exist; {remedy}")
    try:
        return EngineRecord.from_json(record_path(engine).read_text())
    except (ValueError, OSError) as error:  # a ContractError is a ValueError
        raise UnfitEngineError(f"'{record_path(engine)}' is damaged ({error}); {remedy}") from error


def check_source(engine: Path, source: Path) -> None:
    """Check that an engine file was built from an ONNX file of a given name.

    Raises:
        UnfitEngineError: if the engine or its record is missing or damaged.
        EngineError: if it was built from a file of another name.
    """
    name = read_record(engine, source).source
    if name != source.name:
        raise EngineError(
            f"'{engine}' was built from '{name}', not '{source.name}'; give the engine itself to "
            f'run it, or replace it: {shell_command("build_engine", source)}'
        )


def rebuild_remedy(engine: Path, record: EngineRecord, source: Path) -> str:
    """What to do about an engine that cannot be used: the command that builds it again."""
    # The record may come from another machine, where the files had other paths.
    words = shlex.split(record.command)
    words[1], words[-1] = str(source.resolve()), str(engine.resolve())
    return f'build it again: {shell_command(*words)}'


def check_fits(engine: Path, record: EngineRecord, source: Path, tensorrt: str, gpu: str) -> None:
    """Compare an engine's record with this machine and with its ONNX file, if that exists.

    Args:
        engine: the engine file.
        record: its record.
        source: its ONNX file.
        tensorrt: this machine's version of TensorRT.
        gpu: this machine's GPU, as ``find_gpu`` names it.

    Raises:
        UnfitEngineError: if they differ; the message has the command that builds it again.
    """
    if source.is_file() and file_hash(source) != record.source_sha256:
        problem = f"was built from another version of '{source}'"
    elif record.tensorrt != tensorrt:
        problem = f'was built with TensorRT {record.tensorrt}, this machine has {tensorrt}'
    elif record.gpu != gpu:
        problem = f'was built for {record.gpu}; this machine has {gpu}'
    else:
        return
    raise UnfitEngineError(f"'{engine}' {problem}; {rebuild_remedy(engine, record, source)}")
