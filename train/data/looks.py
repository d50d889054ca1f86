"""More random changes of look: what other cameras, lenses and encoders make of a scene.

Each takes and returns images (H, W, 3) uint8 of one sample, as those of
:mod:`train.data.augment` do.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def grey(images: list[np.ndarray], generator: torch.Generator) -> list[np.ndarray]:
    """No colour, as from a grey camera."""
    return [
        cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        for image in images
    ]


def sharpen(images: list[np.ndarray], generator: torch.Generator) -> list[np.ndarray]:
    """Unsharp masking, as many cameras do it."""
    amount, size = _uniform(0.3, 1.5, generator), _uniform(0.6, 1.5, generator)
    return [
        cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (0, 0), size), -amount, 0)
        for image in images
    ]


def degrade(images: list[np.ndarray], generator: torch.Generator) -> list[np.ndarray]:
    """A poor sensor and encoder: another gamma, different noise in each frame, JPEG artefacts."""
    gamma = _uniform(0.6, 1.6, generator)
    table = (255 * np.linspace(0, 1, 256) ** gamma).astype(np.float32)
    deviation = _uniform(0, 12, generator)
    quality = int(_uniform(15, 90, generator))
    out = []
    for image in images:
        noise = torch.randn(image.shape, generator=generator).numpy()
        noisy = np.clip(cv2.LUT(image, table) + deviation * noise + 0.5, 0, 255).astype(np.uint8)
        _, data = cv2.imencode('.jpg', noisy, [cv2.IMWRITE_JPEG_QUALITY, quality])
        out.append(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return out


def fog(images: list[np.ndarray], generator: torch.Generator) -> list[np.ndarray]:
    """Fog that thickens towards the horizon, assumed near the middle of the image."""
    height, width = images[0].shape[:2]
    thick = _uniform(0.2, 0.85, generator)
    rows = np.abs(np.linspace(-1, 1, height) - _uniform(-0.3, 0.2, generator))
    veil = (thick * np.exp(-_uniform(0.3, 2.5, generator) * rows)).astype(np.float32)[:, None, None]
    air = _uniform(150, 235, generator)
    return [
        np.clip(image + veil * (air - image.astype(np.float32)) + 0.5, 0, 255).astype(np.uint8)
        for image in images
    ]
