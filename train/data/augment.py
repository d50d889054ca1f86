"""Random changes of training samples: of the view, and of what the networks see of it.

Geometric changes (mirror image, scale and crop) apply to everything in a sample. Photometric ones
(colour, night, rain, blur) apply to the networks' inputs only: the losses compare the clean images,
so the networks learn to see through the change. The given generator makes every random choice. As
in both papers, the change of colour is the same for all frames of a sample: otherwise networks
could take it for motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch

from depth_ros.core.camera import scale_intrinsics
from train.data import looks

# RGB to luma and two axes of chroma (YIQ), in which a hue is an angle.
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
BRIGHTNESS = CONTRAST = SATURATION = 0.2  # largest relative change
HUE = 0.1  # largest turn, of a whole circle
HAZE = 200  # grey level of rain and haze
STREAKS = 1 / 250  # share of the pixels at which a streak of rain is drawn


@dataclass(frozen=True)
class Augmentation:
    """What to change, and how often.

    Attributes:
        flip: probability of the mirror image.
        jitter: probability of a change of brightness, contrast and saturation of up to 20 % and
            of hue of up to a tenth of a circle.
        scale: largest factor by which either axis is enlarged, before a crop back to the size at
            a random place; 1.15 is SfMLearner's (section 3.6), 1 switches it off.
        night, rain, blur: probabilities of darkness with noise, of streaks with haze, and of
            blur from motion or defocus.
        grey, sharpen, degrade, fog: probabilities of the changes of :mod:`train.data.looks`.
    """

    flip: float = 0.5
    jitter: float = 0.5
    scale: float = 1.0
    night: float = 0.0
    rain: float = 0.0
    blur: float = 0.0
    grey: float = 0.0
    sharpen: float = 0.0
    degrade: float = 0.0
    fog: float = 0.0

    def __post_init__(self) -> None:
        for name in (item.name for item in fields(self) if item.name != 'scale'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f'augmentation {name} is a probability, '
                    f'must be 0 to 1, is {getattr(self, name):g}'
                )
        if not 1 <= self.scale <= 4:
            raise ValueError(f'augmentation scale must be 1 to 4, is {self.scale:g}')

    def view(
        self,
        images: list[np.ndarray],
        maps: list[np.ndarray],
        intrinsics: np.ndarray,
        generator: torch.Generator,
    ) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        """Mirror, scale and crop.

        Args:
            images: each (H, W, 3) uint8.
            maps: of the target, each (H, W); each pixel takes the value nearest to its centre.
            intrinsics: (3, 3) pixels.
            generator: makes all random choices.

        Returns:
            The same in the changed view, at the same size.
        """
        height, width = images[0].shape[:2]
        # Always draw the same number of values, so that no option changes another's choices.
        mirror = _chance(self.flip, generator)
        x, y, left, top = torch.rand(4, generator=generator).tolist()
        if mirror:
            images, maps = (
                [np.ascontiguousarray(a[:, ::-1]) for a in group] for group in (images, maps)
            )
            intrinsics = intrinsics.copy()
            intrinsics[0, 2] = width - 1 - intrinsics[0, 2]
        wide, high = (int(n * (1 + (self.scale - 1) * u)) for n, u in ((width, x), (height, y)))
        left, top = int(left * (wide - width + 1)), int(top * (high - height + 1))
        if (wide, high) != (width, height):
            images, maps = (
                [
                    np.ascontiguousarray(
                        cv2.resize(a, (wide, high), interpolation=how)[
                            top : top + height, left : left + width
                        ]
                    )
                    for a in group
                ]
                for group, how in ((images, cv2.INTER_LINEAR), (maps, cv2.INTER_NEAREST_EXACT))
            )
            intrinsics = scale_intrinsics(intrinsics, wide / width, high / height)
            intrinsics[:2, 2] -= left, top
        return images, maps, intrinsics

    def look(self, images: list[np.ndarray], generator: torch.Generator) -> list[np.ndarray]:
        """Other colours, night, rain, blur.

        Args:
            images: each RGB (H, W, 3) uint8; not changed.
            generator: makes all random choices.

        Returns:
            What the networks see instead; the same objects where nothing changes.
        """
        for chance, change in (
            (self.jitter, jitter),
            (self.rain, rain),
            (self.blur, blur),
            (self.night, night),
            (self.grey, looks.grey),
            (self.fog, looks.fog),
            (self.sharpen, looks.sharpen),
            (self.degrade, looks.degrade),
        ):
            if _chance(chance, generator):
                images = change(images, generator)
        return images


def _chance(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def jitter(images: list[np.ndarray], generator: torch.Generator) -> list[np.ndarray]:
    """One random change of brightness, contrast, saturation and hue for all ``images``."""
    brightness, contrast, saturation = (
        _uniform(1 - most, 1 + most, generator) for most in (BRIGHTNESS, CONTRAST, SATURATION)
    )
    return change_colors(images, brightness, contrast, saturation, _uniform(-HUE, HUE, generator))


def change_colors(
    images: list[np.ndarray], brightness: float, contrast: float, saturation: float, hue: float
) -> list[np.ndarray]:
    """Change colours as torchvision's ColorJitter does, but all at once.

    If hue is turned in YIQ instead of HSV, all four changes are affine in RGB and become one 3x4
    matrix, which takes a twentieth of the time. Contrast is changed around the mean luma of all
    images.

    Args:
        images: each RGB (H, W, 3) uint8.
        brightness, contrast, saturation: factors; 1 changes nothing.
        hue: turn, in full circles.
    """
    c, s = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue)
    chroma = saturation * np.array([[c, -s], [s, c]])
    turn = np.eye(3)
    turn[1:, 1:] = chroma
    matrix = brightness * contrast * np.linalg.inv(YIQ) @ turn @ YIQ
    mean = np.mean([cv2.mean(image)[:3] for image in images], 0) @ YIQ[0]
    offset = np.full((3, 1), brightness * (1 - contrast) * mean)
    return [cv2.transform(image, np.hstack([matrix, offset])) for image in images]


def night(images: list[np.ndarray], generator: torch.Generator) -> list[np.ndarray]:
    """Night: a dark image with dark shadows and the noise of an amplified sensor."""
    gain, gamma = _uniform(0.25, 0.6, generator), _uniform(1.0, 1.8, generator)
    deviation = _uniform(2, 10, generator)
    dark = (255 * gain * np.linspace(0, 1, 256) ** gamma).astype(np.float32)
    noise = torch.randn((len(images), *images[0].shape), generator=generator).numpy()
    return [
        _bytes(cv2.LUT(image, dark) + deviation * n) for image, n in zip(images, noise, strict=True)
    ]


def rain(images: list[np.ndarray], generator: torch.Generator) -> list[np.ndarray]:
    """Grey haze, and bright streaks at different places in each frame."""
    haze, strength = _uniform(0.1, 0.4, generator), _uniform(0.2, 0.7, generator)
    height, width = images[0].shape[:2]
    streak = _line(int(_uniform(height / 20, height / 8, generator)), _uniform(-20, 20, generator))
    out = []
    for image in images:
        drops = torch.rand((height, width), generator=generator).numpy() < STREAKS
        # The weights of a streak sum to 1: scale them, so that it is as bright as its drop.
        veil = cv2.filter2D(drops.astype(np.float32), -1, streak / streak.max())
        veil = haze + (1 - haze) * strength * np.minimum(veil, 1)[..., None]
        out.append(_bytes(image + veil * (HAZE - image.astype(np.float32))))
    return out


def blur(images: list[np.ndarray], generator: torch.Generator) -> list[np.ndarray]:
    """Blur along a line, as by motion, or in all directions, as by defocus."""
    size = _uniform(1 / 200, 1 / 50, generator) * images[0].shape[1]
    moved, angle = _chance(0.5, generator), _uniform(0, 180, generator)
    if moved:
        line = _line(max(3, round(size)), angle)
        return [cv2.filter2D(image, -1, line, borderType=cv2.BORDER_REPLICATE) for image in images]
    return [
        cv2.GaussianBlur(image, (0, 0), size / 4, borderType=cv2.BORDER_REPLICATE)
        for image in images
    ]


def _line(length: int, degrees: float) -> np.ndarray:
    """Filter that averages over a line of ``length`` pixels at an angle from the vertical."""
    size = length | 1  # odd, so that it has a centre
    kernel = np.zeros((size, size), np.float32)
    x, y = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    for t in np.linspace(-(length - 1) / 2, (length - 1) / 2, 2 * length):
        kernel[round(size // 2 + t * y), round(size // 2 + t * x)] += 1
    return kernel / kernel.sum()


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)
