"""The photometric loss and view synthesis, against their equations worked out by hand."""

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from support.views import INTRINSICS, moved, random

from train.geometry import transform_from_pose
from train.losses import view_synthesis
from train.losses.photometric import SSIM_C1, SSIM_C2, PhotometricLoss, window_mean
from train.losses.view_synthesis import ViewSynthesis

# Photometric error


def test_equal_images_have_no_error():
    image = random(2, 3, 5, 6)
    torch.testing.assert_close(PhotometricLoss(image)(image), torch.zeros(2, 1, 5, 6).double())


def test_ssim_of_constant_images():
    # No variance: only the term of the means is left.
    x, y = (torch.full((1, 1, 4, 4), v, dtype=torch.float64) for v in (0.2, 0.6))
    ssim = (2 * 0.2 * 0.6 + SSIM_C1) / (0.2**2 + 0.6**2 + SSIM_C1)
    torch.testing.assert_close(PhotometricLoss(y).ssim_error(x), torch.full_like(x, (1 - ssim) / 2))


def test_ssim_of_one_window():
    x, y = random(2, 3, 3, seed=1)
    mean_x, mean_y = x.mean(), y.mean()
    var_x, var_y = x.var(correction=0), y.var(correction=0)
    covariance = ((x - mean_x) * (y - mean_y)).mean()
    ssim = (
        (2 * mean_x * mean_y + SSIM_C1)
        * (2 * covariance + SSIM_C2)
        / ((mean_x**2 + mean_y**2 + SSIM_C1) * (var_x + var_y + SSIM_C2))
    )
    found = PhotometricLoss(y[None, None]).ssim_error(x[None, None])[0, 0, 1, 1]
    torch.testing.assert_close(found, ((1 - ssim) / 2).clamp(0, 1))


def test_windows_are_reflected_at_the_borders():
    image = random(2, 3, 5, 4)
    expected = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode='reflect'), 3, 1)
    torch.testing.assert_close(window_mean(image), expected)
    assert torch.autograd.gradcheck(window_mean, image.requires_grad_())


def test_weights_of_ssim_and_l1():
    x, y = torch.full((1, 3, 4, 4), 0.2), torch.full((1, 3, 4, 4), 0.6)
    structural = PhotometricLoss(y).ssim_error(x)[:, :1]
    torch.testing.assert_close(PhotometricLoss(y)(x), 0.85 * structural + 0.15 * 0.4)
    torch.testing.assert_close(PhotometricLoss(y, 0)(x), torch.full((1, 1, 4, 4), 0.4))


def test_photometric_error_has_the_right_gradient():
    x, y = random(2, 1, 3, 4, 4, seed=2)
    assert torch.autograd.gradcheck(PhotometricLoss(y), x.requires_grad_())


# View synthesis. Focal length 8: at disparity 1/8, a camera a metre to the side sees everything
# one pixel further.


def constant(value, height=6, width=8):
    return torch.full((1, 3, height, width), value, dtype=torch.float64)


def synthesize(target, sources, transforms, disparity=None, weights=None, **options):
    disparity = (
        torch.full((1, 1, 6, 8), 1 / 8, dtype=torch.float64) if disparity is None else disparity
    )
    return ViewSynthesis(target, sources, transforms, INTRINSICS, **options)(disparity, weights)


def error_between(x, y, ssim_weight=0.85):
    """Photometric error of constant images."""
    return PhotometricLoss(constant(y), ssim_weight)(constant(x))[0, 0, 0, 0]


def test_a_ramp_seen_from_the_side():
    ramp = torch.arange(8, dtype=torch.float64).expand(1, 3, 6, 8) / 10
    found = synthesize(ramp, [ramp], [moved(x=2.0)], ssim_weight=0, automask=False)
    torch.testing.assert_close(found.warped[0][..., :6], ramp[..., 2:])
    assert found.valid[0][..., :6].all() and not found.valid[0][..., 6:].any()
    # Two pixels of 0.1 each; what is out of view does not count.
    torch.testing.assert_close(found.loss, torch.tensor(0.2).double())
    assert (found.error[..., 6:] == 0).all() and (found.moving == found.valid[0]).all()


def test_border_padding_counts_what_is_out_of_view():
    ramp = torch.arange(8, dtype=torch.float64).expand(1, 3, 6, 8) / 10
    found = synthesize(ramp, [ramp], [moved(x=2.0)], ssim_weight=0, automask=False, validity=False)
    # The border's colour 0.7 explains the last two columns, 0.6 and 0.7.
    torch.testing.assert_close(found.loss, torch.tensor((6 * 0.2 + 0.1) / 8).double())


def test_the_better_source_counts_where_it_sees_the_pixel():
    sources, still = [constant(0.5), constant(0.1)], moved()
    worse, better = error_between(0.5, 0.0), error_between(0.1, 0.0)
    found = synthesize(constant(0.0), sources, [still, still], automask=False)
    torch.testing.assert_close(found.loss, better)
    # The better one sees the left six columns of eight.
    found = synthesize(constant(0.0), sources, [still, moved(x=2.0)], automask=False)
    torch.testing.assert_close(found.loss, (6 * better + 2 * worse) / 8)


def test_mean_over_what_sources_see():
    sources, transforms = [constant(0.5), constant(0.1)], [moved(), moved(x=4.0)]
    found = synthesize(
        constant(0.0), sources, transforms, automask=False, ssim_weight=0, reduction='mean'
    )
    torch.testing.assert_close(found.loss, torch.tensor((8 * 0.5 + 4 * 0.1) / 12).double())
    torch.testing.assert_close(found.error[0, 0, 0, ::7], torch.tensor([0.3, 0.5]).double())


@pytest.mark.parametrize('reduction', ['minimum', 'mean'])
def test_bands_of_rows_give_what_the_whole_image_gives(monkeypatch, reduction):
    target, *sources = random(3, 2, 3, 11, 8, seed=5)
    keep = random(2, 1, 11, 8, seed=6) > 0.2
    disparity = (0.05 + 0.1 * random(2, 1, 6, 4, seed=7)).requires_grad_()
    poses = (0.1 * random(2, 2, 6, seed=8)).requires_grad_()
    weights = random(2, 2, 1, 11, 8, seed=9).requires_grad_()
    intrinsics = INTRINSICS.expand(2, 3, 3)

    def outcome(rows):
        monkeypatch.setattr(view_synthesis, 'BAND_ROWS', rows)
        monkeypatch.setattr(view_synthesis, 'BAND_PIXELS', 1)
        found = ViewSynthesis(
            target,
            sources,
            list(transform_from_pose(poses.flatten(0, 1)).split(2)),
            intrinsics,
            reduction=reduction,
            keep=keep,
            noise=torch.Generator().manual_seed(0),
        )(disparity, list(weights))
        assert found.moving.any() and not found.moving.all()
        return (
            *torch.autograd.grad(found.loss, (disparity, poses, weights)),
            found.loss,
            found.error,
            *found.warped,
            *found.valid,
            found.moving,
        )

    whole = outcome(11)
    for rows in (1, 4, 5):  # ending with one row, with three, with one again
        for a, b in zip(outcome(rows), whole, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize('reduction', ['minimum', 'mean'])
def test_pixels_that_standing_still_explains_teach_nothing(reduction):
    # The target's left half equals the unmoved source, its right half the source moved by a pixel.
    source = random(1, 3, 6, 8, seed=3)
    target = torch.cat([source[..., :4], source[..., 5:], source[..., -1:]], -1)
    transform = moved(x=1.0).requires_grad_()
    found = synthesize(
        target,
        [source],
        [transform],
        reduction=reduction,
        ssim_weight=0,
        noise=torch.Generator().manual_seed(0),
    )
    assert not found.moving[..., :4].any() and found.moving[..., 4:7].all()
    assert found.loss < 1e-4
    assert (
        found.valid[0] == synthesize(target, [source], [transform], automask=False).valid[0]
    ).all()


def test_noise_is_drawn_from_the_generator():
    image = random(1, 3, 6, 8)
    first, again, other = (
        synthesize(image, [image], [moved()], noise=torch.Generator().manual_seed(s)).moving
        for s in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).any()
    assert first.any() and not first.all()  # no bias where both explain equally well


def test_weights_multiply_the_error_but_do_not_choose_the_source():
    sources, still = [constant(0.5), constant(0.1)], moved()
    weights = [
        torch.full((1, 1, 3, 4), w, dtype=torch.float64, requires_grad=True) for w in (0.01, 0.5)
    ]
    found = synthesize(constant(0.0), sources, [still, still], weights=weights, automask=False)
    torch.testing.assert_close(found.loss, 0.5 * error_between(0.1, 0.0))
    found.loss.backward()
    torch.testing.assert_close(weights[1].grad.sum(), error_between(0.1, 0.0))
    assert (weights[0].grad == 0).all()
    found = synthesize(
        constant(0.0),
        sources,
        [still, still],
        weights=weights,
        automask=False,
        reduction='mean',
        ssim_weight=0,
    )
    torch.testing.assert_close(found.loss, torch.tensor((0.01 * 0.5 + 0.5 * 0.1) / 2).double())


def test_pixels_that_are_not_kept_do_not_count():
    target = constant(0.0)
    target[..., 4:] = 0.7
    keep = torch.zeros(1, 1, 6, 8, dtype=torch.bool)
    keep[..., :4] = True
    found = synthesize(target, [constant(0.1)], [moved()], keep=keep, ssim_weight=0, automask=False)
    torch.testing.assert_close(found.loss, torch.tensor(0.1).double())


@pytest.mark.parametrize('transform', [moved(z=-20.0), moved(x=100.0)], ids=['behind', 'aside'])
def test_seeing_nothing_is_an_error_not_zero(transform):
    with pytest.raises(ValueError, match='no valid pixel'):
        synthesize(constant(0.0), [constant(0.5)], [transform])


def test_points_behind_the_camera_never_count():
    with pytest.raises(ValueError, match='no valid pixel'):
        synthesize(constant(0.0), [constant(0.5)], [moved(z=-20.0)], validity=False)


def test_smaller_disparities_are_upsampled():
    target, source = random(2, 1, 3, 6, 8, seed=4)
    coarse = 0.1 + 0.05 * random(1, 1, 3, 4, seed=5)
    fine = F.interpolate(coarse, (6, 8), mode='bilinear')
    one, other = (
        synthesize(target, [source], [moved(x=1.0)], d, automask=False).loss for d in (coarse, fine)
    )
    assert one == other


def test_scale_of_depth_and_translation_does_not_show():
    target, source = random(2, 1, 3, 6, 8, seed=6)
    disparity = 0.1 + 0.05 * random(1, 1, 6, 8, seed=7)
    one, other = (
        synthesize(target, [source], [moved(s, 0, 0.5 * s)], disparity / s, automask=False).loss
        for s in (1.0, 7.0)
    )
    torch.testing.assert_close(one, other)


def test_samples_of_a_batch_have_their_own_cameras():
    target, source = random(2, 2, 3, 6, 8, seed=8)
    disparity = 0.1 + 0.05 * random(2, 1, 6, 8, seed=9)
    transform = torch.cat([moved(x=1.0), moved(y=0.5)])
    intrinsics = torch.cat([INTRINSICS, INTRINSICS * torch.tensor([[1.2], [1.1], [1]])])
    errors = [
        ViewSynthesis(target[k], [source[k]], [transform[k]], intrinsics[k], automask=False)(
            disparity[k]
        ).error
        for k in (slice(0, 2), slice(0, 1), slice(1, 2))
    ]
    torch.testing.assert_close(errors[0], torch.cat(errors[1:]))


@pytest.mark.parametrize('reduction', ['minimum', 'mean'])
def test_view_synthesis_has_the_right_gradient(reduction):
    target, *sources = random(3, 1, 3, 6, 8, seed=10)
    disparity = 0.1 + 0.03 * random(1, 1, 6, 8, seed=11)
    poses = 0.05 * random(2, 6, seed=12) + torch.tensor([0.003])
    weights = 0.5 + random(1, 2, 6, 8, seed=13) / 2

    def loss(disparity, poses, weights, focal):
        intrinsics = INTRINSICS * torch.stack([focal, focal, torch.ones_like(focal)])[:, None]
        views = ViewSynthesis(
            target,
            sources,
            transform_from_pose(poses).split(1),
            intrinsics,
            reduction=reduction,
            noise=torch.Generator().manual_seed(0),
        )
        return views(disparity, weights.split(1, 1)).loss

    inputs = (disparity, poses, weights, torch.tensor(1.01).double())
    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in inputs))


def test_unknown_reductions_are_refused():
    with pytest.raises(ValueError, match="'median'"):
        synthesize(constant(0.0), [constant(0.5)], [moved()], reduction='median')
