"""Meshes in plain numpy, and the shapes that all others are made of.

A mesh is float32 (4 n, 13) with four rows per quad; the columns are x y z, normal x y z, u v,
texture layer, r g b, class id. Objects stand on z = 0 and face +x; lengths are metres. A red of -1
marks surfaces that take the colour given when the object is placed.
"""

from functools import cache

import numpy as np

from depth_ros.inference.classes import CITYSCAPES
from train.synthetic.textures import make_bank

COLUMNS = 13
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN = (c.id for c in CITYSCAPES[:8])
VEGETATION, TERRAIN, SKY, PERSON, _, CAR, TRUCK = (c.id for c in CITYSCAPES[8:15])
ANY = (-1.0, 1.0, 1.0)  # replaced by the colour given when the object is placed


@cache
def bank():
    """The texture bank, made once: ({name: layer}, uint8 (layers, 512, 512, 4))."""
    names, images = make_bank()
    return {name: i for i, name in enumerate(names)}, images


def layer(name):
    """The layer number of a texture by name."""
    return bank()[0][name]


def quads(corners, uv, texture, color, label, normals=None):
    """Mesh of quads: ``corners`` (n, 4, 3) in order around, ``uv`` (n, 4, 2) in tiles."""
    corners, uv = np.asarray(corners, float), np.asarray(uv, float)
    n = len(corners)
    mesh = np.empty((n, 4, COLUMNS), np.float32)
    mesh[..., :3] = corners
    if normals is None:
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])
        normals = normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
        normals = normals[:, None]
    mesh[..., 3:6] = normals
    mesh[..., 6:8] = uv
    mesh[..., 8] = layer(texture) if isinstance(texture, str) else texture
    mesh[..., 9:12] = np.reshape(color, (-1, 1, 3))
    mesh[..., 12] = label
    return mesh.reshape(-1, COLUMNS)


def box(low, high, texture, color, label, tile=2.0, sides=6, stretch=False):
    """Axis-aligned box between two corners; ``tile`` metres per texture tile; 4 sides: no lids."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    faces = np.array(
        [
            [[x1, y0, z0], [x1, y1, z0], [x1, y1, z1], [x1, y0, z1]],
            [[x0, y1, z0], [x0, y0, z0], [x0, y0, z1], [x0, y1, z1]],
            [[x1, y1, z0], [x0, y1, z0], [x0, y1, z1], [x1, y1, z1]],
            [[x0, y0, z0], [x1, y0, z0], [x1, y0, z1], [x0, y0, z1]],
            [[x0, y0, z1], [x1, y0, z1], [x1, y1, z1], [x0, y1, z1]],
            [[x0, y1, z0], [x1, y1, z0], [x1, y0, z0], [x0, y0, z0]],
        ]
    )[:sides]
    unit = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], float)
    edges = np.stack(
        [
            np.linalg.norm(faces[:, 1] - faces[:, 0], axis=-1),
            np.linalg.norm(faces[:, 3] - faces[:, 0], axis=-1),
        ],
        -1,
    )
    uv = unit[None] * (1.0 if stretch else edges[:, None] / tile)
    return quads(faces, uv, texture, color, label)


def tube(base, top, r0, r1, texture, color, label, sides=7, tile=1.0):
    """A round post from ``base`` to ``top`` with radii ``r0``, ``r1``; smooth normals."""
    base, top = np.asarray(base, float), np.asarray(top, float)
    axis = (top - base) / np.linalg.norm(top - base)
    a = np.cross(axis, [1, 0, 0] if abs(axis[0]) < 0.8 else [0, 1, 0])
    a /= np.linalg.norm(a)
    b = np.cross(axis, a)
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.cos(angle)[:, None] * a + np.sin(angle)[:, None] * b
    low, high = base + r0 * ring, top + r1 * ring
    corners = np.stack([low[:-1], low[1:], high[1:], high[:-1]], 1)
    normals = np.stack([ring[:-1], ring[1:], ring[1:], ring[:-1]], 1)
    u = np.linspace(0, max(1, round(2 * np.pi * max(r0, r1) / tile)), sides + 1)
    v = np.linalg.norm(top - base) / tile
    uv = np.stack(
        [
            np.stack([u[:-1], 0 * u[1:] + v], -1),
            np.stack([u[1:], 0 * u[1:] + v], -1),
            np.stack([u[1:], 0 * u[1:]], -1),
            np.stack([u[:-1], 0 * u[1:]], -1),
        ],
        1,
    )
    return quads(corners, uv, texture, color, label, normals)


def blob(center, radii, texture, color, label, rng=None, rough=0.0, tile=2.0, rings=5, sides=8):
    """An ellipsoid whose surface is moved in and out by up to ``rough`` times its radius."""
    theta = np.linspace(0, np.pi, rings + 1)
    phi = np.linspace(0, 2 * np.pi, sides + 1)
    n = np.stack(
        [
            np.outer(np.sin(theta), np.cos(phi)),
            np.outer(np.sin(theta), np.sin(phi)),
            np.outer(np.cos(theta), np.ones_like(phi)),
        ],
        -1,
    )
    swell = np.ones((rings + 1, sides + 1, 1))
    if rng is not None:
        swell = 1 + rough * rng.uniform(-1, 1, swell.shape)
        swell[:, -1] = swell[:, 0]
        swell[0], swell[-1] = swell[0, 0], swell[-1, 0]
    p = np.asarray(center) + n * radii * swell
    scale = np.mean(radii) / tile
    u = np.stack(np.meshgrid(phi * scale, theta * scale), -1)

    def take(a):
        return np.stack([a[1:, :-1], a[1:, 1:], a[:-1, 1:], a[:-1, :-1]], 2).reshape(
            -1, 4, a.shape[-1]
        )

    return quads(take(p), take(u), texture, color, label, take(n))


def place(mesh, xyz, yaw=0.0, scale=1.0, color=(1.0, 1.0, 1.0)):
    """A copy of ``mesh`` turned by ``yaw``, scaled (number or 3), moved to ``xyz``, coloured."""
    out = mesh.copy()
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    out[:, :3] = (mesh[:, :3] * scale) @ turn.T + xyz
    out[:, 3:6] = mesh[:, 3:6] @ turn.T
    own = mesh[:, 9] < 0
    out[own, 9:12] = color
    return out


def join(parts):
    """Join meshes to one; an empty list gives an empty mesh."""
    return np.concatenate(parts) if len(parts) else np.empty((0, COLUMNS), np.float32)
