"""The contract of a foreign network."""

from __future__ import annotations

from pathlib import Path

from depth_ros.core.camera import CameraError, Intrinsics, check_intrinsics
from depth_ros.core.labels import UNLABELED
from depth_ros.deploy.adopt.inspect import NetworkInputs, NetworkOutputs
from depth_ros.deploy.adopt.options import DEPTH_KINDS, DEPTH_RANGES, AdoptionError, Options
from depth_ros.files import file_hash
from depth_ros.inference.contract import POSE_CONVENTION, ModelContract, SemanticClass


def describe(
    path: Path, inputs: NetworkInputs, outputs: NetworkOutputs, options: Options, notes: list[str]
) -> ModelContract:
    """Make the contract of a foreign network.

    Args:
        path: its file, for the record.
        inputs, outputs: what was found out about the network.
        options: what its file does not say.
        notes: gets what was guessed.

    Raises:
        AdoptionError: if something must be known that cannot be guessed.
        ContractError: if what is given is contradictory.
    """
    width, height = inputs.size
    kind = options.kind(DEPTH_KINDS)
    if outputs.depth and not kind:
        raise AdoptionError(
            'nothing in the file tells what its depth means: give --output-kind (or --preset): '
            'metric, metres; relative, metres times an unknown factor; inverse, an unknown factor '
            'over metres; affine-inverse, the same plus an unknown shift (MiDaS, Depth Anything); '
            'sigmoid, between the inverses of --depth-range (monodepth2)'
        )
    if outputs.pose and kind not in ('', 'metric', 'relative'):
        raise AdoptionError(f'--output-kind {kind} is of depth; a pose is metric or relative')
    camera = _camera(inputs, outputs, options, notes).resized(width, height)
    given = [
        n
        for n, o in (('depth', outputs.depth), ('labels', outputs.labels), ('pose', outputs.pose))
        if o
    ]
    provenance = {
        'adopted_from': path.name,
        'sha256': file_hash(path),
        'license': options.license or 'not stated',
    }
    if options.preset:
        provenance['preset'] = options.preset
    if kind:
        provenance['output_kind'] = kind
    return ModelContract(
        task='pose' if outputs.pose else 'perception',
        name=options.name or path.stem,
        input_width=width,
        input_height=height,
        intrinsics=(camera.fx, camera.fy, camera.cx, camera.cy),
        outputs=tuple(given),
        depth_range=(options.depth_range or DEPTH_RANGES[kind]) if outputs.depth else None,
        metric=kind == 'metric',
        classes=_classes(outputs, options),
        provenance=provenance,
        pose_convention=POSE_CONVENTION if outputs.pose else '',
        affine_invariant=bool(outputs.depth) and kind == 'affine-inverse',
    )


def _checked(camera: Intrinsics, notes: list[str]) -> Intrinsics:
    """The camera, if it can be that of the network's images, which may be stretched."""
    try:
        notes += check_intrinsics(camera, square=False)
    except CameraError as error:
        raise AdoptionError(f'--intrinsics: {error}') from error
    return camera


def _camera(
    inputs: NetworkInputs, outputs: NetworkOutputs, options: Options, notes: list[str]
) -> Intrinsics:
    """The camera of the training: what is known of it, else a guess."""
    width, height = inputs.size
    center = (width - 1) / 2, (height - 1) / 2
    kind = options.kind(DEPTH_KINDS)
    if options.intrinsics:
        return _checked(Intrinsics(*options.intrinsics, width, height), notes)
    if options.camera is not None:
        return options.camera
    if options.focal:
        return Intrinsics(options.focal, options.focal, *center, width, height)
    if outputs.depth and kind == 'metric':
        raise AdoptionError(
            'depth in metres belongs to the camera that the network was trained for, which the '
            'file does not name: give its --intrinsics or --camera-info. Where the network sees '
            "the camera's field of view as it is, give your own camera's: depth is then taken as "
            'it comes'
        )
    if outputs.pose or (outputs.depth and kind != 'affine-inverse'):
        notes.append(
            f'guessed: a training camera with a focal length of {width} pixels (53 '
            'degrees wide); give --intrinsics or --camera-info if you know it'
        )
    return Intrinsics(width, width, *center, width, height)


def _classes(outputs: NetworkOutputs, options: Options) -> tuple[SemanticClass, ...]:
    """The classes of the labels; empty without labels."""
    if not outputs.labels:
        return ()
    if not options.classes:
        raise AdoptionError(
            'nothing in the file tells what its classes are: give --classes, '
            'cityscapes or a file with their names'
        )
    if outputs.label_kind == 'logits':
        shape = outputs.shapes[outputs.labels]
        count = shape[-1] if outputs.channels_last else shape[-3]
        if count > UNLABELED:
            raise AdoptionError(
                f'the network knows {count} classes; the contract has ids for {UNLABELED}'
            )
        if count != len(options.classes):
            raise AdoptionError(
                f'the network has {count} classes, --classes names {len(options.classes)}'
            )
    return options.classes
