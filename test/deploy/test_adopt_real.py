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


@pytest.mark.parametrize('views', [False, True])
def test_depth_anything_3_metric(tmp_path, torch, views, picture_file):
    """What its forward pass does with the sky cannot be exported: its network and head are."""
    da3 = pytest.importorskip('depth_anything_3.model.da3')
    dpt = pytest.importorskip('depth_anything_3.model.dpt')
    dino = pytest.importorskip('depth_anything_3.model.dinov2.dinov2')
    head = dpt.DPT(384, output_dim=1, features=32, out_channels=[16, 16, 32, 32])
    network = da3.DepthAnything3Net(dino.DinoV2('vits', [2, 5, 8, 11], cat_token=False), head)

    class Heads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            images = images if views else images[:, None]
            features, _ = self.network.backbone(images)
            found = self.network.head(features, *images.shape[-2:], patch_start_idx=0)
            return found['depth'], found['sky']

    images = torch.rand(1, 1, 3, 98, 140) if views else torch.rand(1, 3, 98, 140)
    torch.onnx.export(
        Heads().eval(),
        (images,),
        tmp_path / 'net.onnx',
        output_names=['depth', 'sky'],
        opset_version=17,
        dynamo=False,
    )
    path = adopt(tmp_path / 'net.onnx', '--preset', 'depth-anything-v3-metric', image=picture_file)
    assert read_contract(path).metric and read_contract(path).intrinsics[0] == 300


@pytest.mark.parametrize('fixed', [True, False])
def test_moge_is_refused(tmp_path, torch, monkeypatch, capsys, fixed, picture_file):
    """As its authors export it: points, normals, a mask and a scale."""
    monkeypatch.setenv('XFORMERS_DISABLED', '1')
    moge = pytest.importorskip('moge.model.v2')
    stack = {
        'dim_res_blocks': [32] * 5,
        'resamplers': ['bilinear'] * 4,
        'res_block_in_norm': 'none',
        'res_block_hidden_norm': 'none',
    }
    heads = {
        f'{name}_head': {**stack, 'dim_in': [32] * 5, 'dim_out': [None] * 4 + [channels]}
        for name, channels in (('points', 3), ('normal', 3), ('mask', 1))
    }
    network = moge.MoGeModel(
        encoder={'backbone': 'dinov2_vits14', 'intermediate_layers': 4, 'dim_out': 32},
        neck={**stack, 'dim_in': [34, 2, 2, 2, 2], 'dim_out': [32] * 5},
        scale_head={'dims': [384, 32, 1]},
        remap_output='exp',
        **heads,
    )
    network.onnx_compatible_mode = True

    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, image):
            return tuple(self.network(image, 40).values())

    image = torch.rand(1, 3, 98, 140)
    torch.onnx.export(
        (Fixed() if fixed else network).eval(),
        (image,) if fixed else (image, torch.tensor(40)),
        tmp_path / 'net.onnx',
        input_names=['image'] if fixed else ['image', 'num_tokens'],
        output_names=['points', 'normal', 'mask', 'metric_scale'],
        opset_version=14,
        dynamo=False,
        dynamic_axes=None if fixed else {'image': {0: 'batch_size', 2: 'height', 3: 'width'}},
    )
    options = ['--normalization', 'unit', '--output-kind', 'metric', '--intrinsics', 90, 90, 70, 49]
    adopt(tmp_path / 'net.onnx', *options, image=picture_file, ok=False)
    message = capsys.readouterr().err
    assert ('known up to a shift' if fixed else "no ['num_tokens']") in message, message


@pytest.mark.parametrize('semantic', [True, False])
@pytest.mark.parametrize('kind', ['Mask2Former', 'OneFormer'])
def test_queries(tmp_path, torch, capsys, kind, semantic, picture_file):
    """Refused as they are; adopted with their queries summed to classes, and the task fixed."""
    transformers = pytest.importorskip('transformers')
    backbone = transformers.SwinConfig(
        image_size=64,
        embed_dim=12,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 2],
        window_size=4,
        out_features=['stage1', 'stage2', 'stage3', 'stage4'],
    )
    sizes = {
        'num_queries': 12,
        'hidden_dim': 32,
        'encoder_feedforward_dim': 32,
        'dim_feedforward': 32,
        'encoder_layers': 1,
        'decoder_layers': 2,
        'num_attention_heads': 2,
        'num_labels': 19,
    }
    if kind == 'OneFormer':
        sizes |= {'conv_dim': 32, 'mask_dim': 32, 'query_dec_layers': 1, 'text_encoder_n_ctx': 2}
    else:
        sizes |= {'feature_size': 32, 'mask_feature_size': 32}
    config = getattr(transformers, f'{kind}Config')(backbone_config=backbone, **sizes)
    network = getattr(transformers, f'{kind}ForUniversalSegmentation')(config)

    class Universal(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network
            self.task = {'task_inputs': torch.zeros(1, 77)} if kind == 'OneFormer' else {}

        def forward(self, images):
            found = self.network(pixel_values=images, **self.task)
            classes, masks = found.class_queries_logits, found.masks_queries_logits
            if not semantic:
                return classes, masks
            classes = classes.softmax(-1)[..., :-1]
            return torch.einsum('bqc,bqhw->bchw', classes, masks.sigmoid())

    torch.onnx.export(
        Universal().eval(),
        (torch.rand(1, 3, 64, 128),),
        tmp_path / 'net.onnx',
        output_names=['logits'] if semantic else ['class_queries_logits', 'masks_queries_logits'],
        opset_version=17,
        dynamo=False,
    )
    options = ['--normalization', 'imagenet', '--classes', 'cityscapes']
    path = adopt(tmp_path / 'net.onnx', *options, image=picture_file, ok=semantic)
    if semantic:
        assert read_contract(path).outputs == ('labels',)
    else:
        assert 'tells instances' in capsys.readouterr().err
