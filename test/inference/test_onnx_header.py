"""An ONNX file's header, read without the package onnx; what is in a file is not trusted."""

import random
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.onnx_models import save_perception

from depth_ros.inference import onnx_header
from depth_ros.inference.onnx_header import OnnxFileError, parse_header, read_header
from depth_ros.share import share_path


@pytest.mark.parametrize('name', ['perception', 'pose'])
def test_it_finds_what_onnx_finds(name):
    path = share_path(f'models/{name}.onnx')
    model, header = onnx.load(path), read_header(path)
    assert header.metadata == {p.key: p.value for p in model.metadata_props}
    assert header.nodes == len(model.graph.node)
    weights = {i.name for i in model.graph.initializer}
    for found, values in (
        (header.inputs, model.graph.input),
        (header.outputs, model.graph.output),
    ):
        assert found == {
            v.name: (
                np.dtype(helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)).name,
                tuple(d.dim_value for d in v.type.tensor_type.shape.dim),
            )
            for v in values
            if v.name not in weights
        }


def graph_of(nodes, tensors=(), name='g'):
    value = helper.make_tensor_value_info
    return helper.make_graph(
        nodes,
        name,
        [value('x', TensorProto.FLOAT, ('n', 3)), value('w', TensorProto.FLOAT, (1,))],
        [value('y', TensorProto.FLOAT16, None)],
        list(tensors),
    )


def test_initializers_are_no_inputs_and_open_dimensions_are_marked():
    weight = numpy_helper.from_array(np.ones(1, np.float32), 'w')
    model = helper.make_model(graph_of([helper.make_node('Mul', ['x', 'w'], ['y'])], [weight]))
    header = parse_header(model.SerializeToString())
    assert header.inputs == {'x': ('float32', ('?', 3))}
    assert header.outputs == {'y': ('float16', ())}


def external(location):
    weight = TensorProto(name='w', data_type=TensorProto.FLOAT, dims=[1])
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = 'location', location
    return weight


@pytest.mark.parametrize('place', ['initializer', 'constant', 'branch'])
@pytest.mark.parametrize('location', ['../secret', '/etc/passwd', 'a/../../b', 'C:\\x', ''])
def test_weights_outside_of_the_folder_are_refused(place, location):
    constant = helper.make_node('Constant', [], ['c'])
    constant.attribute.append(helper.make_attribute('value', external(location)))
    nodes, tensors = [helper.make_node('Identity', ['x'], ['y'])], []
    if place == 'initializer':
        tensors = [external(location)]
    elif place == 'constant':
        nodes.append(constant)
    else:
        branch = helper.make_graph([constant], 'b', [], [])
        nodes.append(helper.make_node('If', ['x'], ['y'], then_branch=branch, else_branch=branch))
    data = helper.make_model(graph_of(nodes, tensors)).SerializeToString()
    with pytest.raises(OnnxFileError, match="outside of the model's folder"):
        parse_header(data)


def test_weights_beside_the_model_are_listed():
    data = helper.make_model(graph_of([], [external('net.data')])).SerializeToString()
    assert parse_header(data).external == {'net.data'}


def test_graphs_in_graphs_have_a_limit():
    graph = helper.make_graph([], 'leaf', [], [])
    for _ in range(onnx_header.MAX_DEPTH + 1):
        node = helper.make_node('Loop', ['x'], ['y'], body=graph)
        graph = helper.make_graph([node], 'g', [], [])
    with pytest.raises(OnnxFileError, match='levels'):
        parse_header(helper.make_model(graph).SerializeToString())


def test_fields_and_texts_have_a_limit(monkeypatch):
    data = share_path('models/pose.onnx').read_bytes()
    monkeypatch.setattr(onnx_header, 'MAX_FIELDS', 100)
    with pytest.raises(OnnxFileError, match='more than 100 fields'):
        parse_header(data)
    monkeypatch.setattr(onnx_header, 'MAX_FIELDS', 10**6)
    monkeypatch.setattr(onnx_header, 'MAX_TEXT', 10)
    with pytest.raises(OnnxFileError, match='more than 10'):
        parse_header(data)


def test_random_damage_is_an_error_or_a_header(tmp_path):
    """2000 damaged files: no other exception, and no endless walk."""
    whole = save_perception(tmp_path / 'net.onnx').read_bytes()
    dice = random.Random(0)
    refused = 0
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 20)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            parse_header(bytes(data[: dice.randint(1, len(data))]))
        except OnnxFileError:
            refused += 1
    assert refused > 1000


@pytest.mark.slow
def test_a_model_loads_without_the_package_onnx():
    code = (
        'import sys; sys.modules["onnx"] = sys.modules["google.protobuf"] = None\n'
        'from depth_ros.inference.loader import load_engine\n'
        'from depth_ros.share import share_path\n'
        'engine = load_engine(share_path("models/pose.onnx"), "onnxruntime", 1)\n'
        'engine.warm_up(); print(engine.contract.task)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == 'pose'
