"""Networks as their own packages export them, with random weights; skipped without the packages."""

import pytest
from support.foreign_models import adopt

from depth_ros.inference.contract import read_contract

pytestmark = pytest.mark.slow


@pytest.fixture
def torch():
    return pytest.importorskip('torch')


def export(torch, network, path, size, opset=17, **options):
    """With torch's older exporter, which takes dynamic axes by name."""
    width, height = size
    images = torch.rand(1, 3, height, width)
    torch.onnx.export(
        network.eval(),
        (images,),
        path,
        input_names=['pixel_values'],
        output_names=['out'],
        opset_version=opset,
        dynamo=False,
        **options,
    )
    return path


def picked(torch, network, name):
    """A network of transformers that gives one of its outputs."""

    class Picked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return getattr(self.network(pixel_values=images), name)

    return Picked()


@pytest.mark.parametrize('metric', [False, True])
def test_depth_anything_v2(tmp_path, torch, metric, picture_file):
    transformers = pytest.importorskip('transformers')
    backbone = transformers.Dinov2Config(
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=56,
        patch_size=14,
        out_features=['stage1', 'stage2', 'stage3', 'stage4'],
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=48,
        neck_hidden_sizes=[12, 24, 48, 48],
        fusion_hidden_size=16,
        head_hidden_size=8,
        depth_estimation_type='metric' if metric else 'relative',
        max_depth=80 if metric else 1,
    )
    network = picked(torch, transformers.DepthAnythingForDepthEstimation(config), 'predicted_depth')
    source = export(torch, network, tmp_path / 'net.onnx', (140, 98))
    options = ['--preset', 'depth-anything-v2']
    if metric:
        options = ['--preset', 'depth-anything-v2-metric', '--intrinsics', 100, 100, 70, 49]
    contract = read_contract(adopt(source, *options, image=picture_file))
    assert contract.metric == metric and contract.affine_invariant != metric


def test_segformer_of_any_size(tmp_path, torch, picture_file):
    transformers = pytest.importorskip('transformers')
    config = transformers.SegformerConfig(
        num_labels=19, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], decoder_hidden_size=32
    )
    network = picked(torch, transformers.SegformerForSemanticSegmentation(config), 'logits')
    axes = {'pixel_values': {0: 'batch', 2: 'height', 3: 'width'}}
    source = export(torch, network, tmp_path / 'net.onnx', (128, 64), dynamic_axes=axes)
    path = adopt(
        source,
        *('--preset', 'segformer', '--classes', 'cityscapes', '--size', '128x64'),
        image=picture_file,
    )
    assert read_contract(path).outputs == ('labels',)


@pytest.mark.parametrize(
    'settings', [{}, {'dynamic': True}, {'half': True}, {'opset': 17, 'simplify': False}]
)
def test_yolo26_depth(tmp_path, monkeypatch, settings, picture_file):
    ultralytics = pytest.importorskip('ultralytics')
    monkeypatch.chdir(tmp_path)
    network = ultralytics.YOLO('yolo26n-depth.yaml')
    made = network.export(format='onnx', imgsz=(96, 160), device='cpu', **settings)
    options = ['--preset', 'yolo26-depth', '--intrinsics', 120, 120, 80, 48]
    if 'dynamic' in settings:
        options += ['--size', '160x96']
    contract = read_contract(adopt(tmp_path / made, *options, image=picture_file))
    assert contract.metric and contract.outputs == ('depth',)


def test_yolo26_of_instances_is_refused(tmp_path, monkeypatch, capsys):
    ultralytics = pytest.importorskip('ultralytics')
    monkeypatch.chdir(tmp_path)
    made = ultralytics.YOLO('yolo26n-seg.yaml').export(format='onnx', imgsz=(96, 160), device='cpu')
    options = ['--normalization', 'unit', '--classes', 'cityscapes']
    adopt(tmp_path / made, *options, ok=False)
    assert 'tells instances' in capsys.readouterr().err
