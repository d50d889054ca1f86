"""The model contract: what it accepts, and how it names what it refuses."""

import dataclasses
import json

import onnx
import pytest
from onnx import TensorProto, helper
from support.onnx_models import CLASSES, save_perception, save_pose

from depth_ros.inference.contract import (
    METADATA_KEY,
    POSE_CONVENTION,
    VERSION,
    ContractError,
    ModelContract,
    SemanticClass,
    read_contract,
    write_contract,
)

PERCEPTION = ModelContract(
    task='perception',
    name='net',
    input_width=64,
    input_height=48,
    intrinsics=(32.0, 32.0, 31.5, 23.5),
    outputs=('depth', 'labels'),
    depth_range=(0.1, 100.0),
    classes=CLASSES,
    provenance={'data': 'none', 'steps': 3},
)
LARGE = dataclasses.replace(PERCEPTION, image_size=(128, 96))
POSE = ModelContract(
    task='pose',
    name='net',
    input_width=64,
    input_height=48,
    intrinsics=(32.0, 32.0, 31.5, 23.5),
    outputs=('pose',),
    pose_convention=POSE_CONVENTION,
)


@pytest.mark.parametrize('contract', [PERCEPTION, LARGE, POSE], ids=['perception', 'large', 'pose'])
def test_json_gives_back_the_same_contract(contract):
    assert ModelContract.from_json(contract.to_json()) == contract


def test_what_is_written_is_read(tmp_path):
    contract = read_contract(save_perception(tmp_path / 'net.onnx'))
    assert contract.task == 'perception' and contract.classes == CLASSES
    assert contract.class_id('sky') == 3 and contract.class_id('boat') is None
    assert contract.tensor_shapes()['image'] == ('uint8', (1, 48, 64, 3))
    assert contract.tensor_shapes()['depth'] == ('float32', (48, 64))
    assert read_contract(save_pose(tmp_path / 'pose.onnx')).inputs == ('previous', 'current')


@pytest.mark.parametrize(
    ('contract', 'field', 'value'),
    [
        (PERCEPTION, 'version', VERSION + 1),
        (PERCEPTION, 'task', 'segmentation'),
        (PERCEPTION, 'name', ''),
        (PERCEPTION, 'input_width', 0),
        (PERCEPTION, 'input_height', 48.5),
        (PERCEPTION, 'intrinsics', (0.0, 32.0, 31.5, 23.5)),
        (PERCEPTION, 'intrinsics', (32.0, 32.0, float('nan'), 23.5)),
        (PERCEPTION, 'outputs', ()),
        (PERCEPTION, 'outputs', ('depth', 'pose')),
        (PERCEPTION, 'depth_range', None),
        (PERCEPTION, 'depth_range', (10.0, 0.1)),
        (PERCEPTION, 'metric', 1),
        (PERCEPTION, 'affine_invariant', 'yes'),
        (dataclasses.replace(PERCEPTION, metric=True), 'affine_invariant', True),
        (POSE, 'affine_invariant', True),
        (PERCEPTION, 'classes', ()),
        (PERCEPTION, 'classes', (SemanticClass(1, 'road', (0, 0, 0)),)),
        (PERCEPTION, 'classes', (SemanticClass(0, 'road', (0, 0, 256)),)),
        (PERCEPTION, 'pose_convention', POSE_CONVENTION),
        (PERCEPTION, 'image_size', (640, 0)),
        (PERCEPTION, 'image_size', (640, 480, 3)),
        (POSE, 'pose_convention', ''),
        (POSE, 'pose_convention', 'euler'),
        (POSE, 'depth_range', (0.1, 100.0)),
        (POSE, 'classes', CLASSES),
    ],
)
def test_a_wrong_field_is_named(contract, field, value):
    with pytest.raises(ContractError, match=f"'{field}'"):
        dataclasses.replace(contract, **{field: value})
    data = json.loads(contract.to_json())
    data[field] = [dataclasses.asdict(c) for c in value] if field == 'classes' else value
    with pytest.raises(ContractError, match=f"'{field}'"):
        ModelContract.from_json(json.dumps(data))


def test_images_may_be_larger_than_the_network():
    shapes = LARGE.tensor_shapes()
    assert shapes['image'] == ('uint8', (1, 96, 128, 3))
    assert shapes['depth'] == PERCEPTION.tensor_shapes()['depth']


# The fields of the first files, all of which version 1 has to find.
FIELDS = {
    'task',
    'name',
    'input_width',
    'input_height',
    'intrinsics',
    'outputs',
    'depth_range',
    'metric',
    'classes',
    'pose_convention',
    'provenance',
    'version',
}


def test_later_fields_are_written_only_where_older_software_must_refuse_the_file():
    # Older software wants FIELDS, all of them, and refuses a field that it does not know.
    assert json.loads(PERCEPTION.to_json()).keys() == FIELDS
    affine = dataclasses.replace(PERCEPTION, affine_invariant=True)
    assert json.loads(affine.to_json()).keys() == FIELDS | {'affine_invariant'}
    assert ModelContract.from_json(affine.to_json()) == affine
    assert not ModelContract.from_json(PERCEPTION.to_json()).affine_invariant


@pytest.mark.parametrize('field', sorted(FIELDS))
def test_a_missing_field_is_named(field):
    data = json.loads(PERCEPTION.to_json())
    del data[field]
    with pytest.raises(ContractError, match=f"'{field}'"):
        ModelContract.from_json(json.dumps(data))


def test_an_unknown_field_is_named():
    data = {**json.loads(PERCEPTION.to_json()), 'colour': 1}
    with pytest.raises(ContractError, match="'colour' is unknown"):
        ModelContract.from_json(json.dumps(data))


def identity_model(kind=TensorProto.UINT8, shape=(1, 48, 64, 3), name='image', out='image_out'):
    graph = helper.make_graph(
        [helper.make_node('Identity', [name], [out])],
        'g',
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info(out, kind, shape)],
    )
    return helper.make_model(graph)


def test_a_graph_that_contradicts_the_contract_is_refused():
    with pytest.raises(ContractError, match="'outputs'.*depth.*image_out"):
        write_contract(identity_model(), PERCEPTION)
    with pytest.raises(ContractError, match="'inputs'.*current"):
        write_contract(identity_model(), POSE)
    depth_only = dataclasses.replace(PERCEPTION, outputs=('depth',), classes=())
    with pytest.raises(ContractError, match=r"'image' is float32 \[1, 48, 64, 3\].*uint8"):
        write_contract(identity_model(TensorProto.FLOAT, out='depth'), depth_only)
    with pytest.raises(ContractError, match=r"'image' is uint8 \['\?', 48, 64, 3\]"):
        write_contract(identity_model(shape=('n', 48, 64, 3), out='depth'), depth_only)


def test_a_file_whose_metadata_and_graph_disagree_is_refused(tmp_path):
    path = save_perception(tmp_path / 'net.onnx')
    model = onnx.load(path)
    entry = next(p for p in model.metadata_props if p.key == METADATA_KEY)
    entry.value = entry.value.replace('"input_width": 64', '"input_width": 96')
    onnx.save(model, path)
    with pytest.raises(ContractError, match=f"{path}.*'image'"):
        read_contract(path)


def test_files_that_are_no_models_are_refused_by_name(tmp_path):
    for name, data in {'text.onnx': b'not a model at all', 'empty.onnx': b''}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ContractError, match=name):
            read_contract(tmp_path / name)
    whole = save_perception(tmp_path / 'whole.onnx').read_bytes()
    (tmp_path / 'cut.onnx').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ContractError, match='cut.onnx'):
        read_contract(tmp_path / 'cut.onnx')
    onnx.save(identity_model(), tmp_path / 'foreign.onnx')
    with pytest.raises(ContractError, match=f"foreign.onnx' has no .*'{METADATA_KEY}'"):
        read_contract(tmp_path / 'foreign.onnx')
    with pytest.raises(ContractError, match='does not exist'):
        read_contract(tmp_path / 'nowhere.onnx')
    with pytest.raises(ContractError, match='is a folder'):
        read_contract(tmp_path)
