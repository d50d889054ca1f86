"""Meshes of everything that stands or moves in the street."""

from functools import cache

import numpy as np

from train.synthetic.mesh import (
    ANY,
    BUILDING,
    CAR,
    LIGHT,
    PERSON,
    POLE,
    SIGN,
    TRUCK,
    VEGETATION,
    blob,
    box,
    join,
    quads,
    tube,
)

# Cars: stations along x (rear to front) as fractions of the length: x, shoulder z, roof z, half
# width at shoulder, half width at roof.
CAR_SHAPES = {
    'hatch': (
        4.0,
        1.76,
        [
            (0, 0.55, 0.6, 0.8, 0.75),
            (0.02, 0.9, 0.95, 0.9, 0.8),
            (0.1, 0.95, 1.3, 0.95, 0.78),
            (0.2, 0.95, 1.48, 1, 0.74),
            (0.5, 0.93, 1.5, 1, 0.74),
            (0.74, 0.9, 0.96, 1, 0.82),
            (0.95, 0.74, 0.78, 0.93, 0.8),
            (1, 0.5, 0.55, 0.85, 0.75),
        ],
    ),
    'sedan': (
        4.6,
        1.8,
        [
            (0, 0.55, 0.6, 0.8, 0.75),
            (0.02, 0.92, 0.97, 0.9, 0.8),
            (0.14, 0.95, 1.0, 0.97, 0.8),
            (0.28, 0.94, 1.42, 1, 0.72),
            (0.55, 0.93, 1.44, 1, 0.72),
            (0.75, 0.9, 0.96, 1, 0.82),
            (0.96, 0.72, 0.76, 0.93, 0.8),
            (1, 0.5, 0.55, 0.85, 0.75),
        ],
    ),
    'suv': (
        4.6,
        1.9,
        [
            (0, 0.6, 0.66, 0.85, 0.8),
            (0.02, 1.0, 1.05, 0.95, 0.85),
            (0.06, 1.08, 1.55, 0.97, 0.8),
            (0.14, 1.08, 1.7, 1, 0.78),
            (0.55, 1.06, 1.72, 1, 0.78),
            (0.74, 1.02, 1.1, 1, 0.85),
            (0.96, 0.9, 0.95, 0.95, 0.82),
            (1, 0.6, 0.66, 0.88, 0.8),
        ],
    ),
    'van': (
        5.2,
        1.98,
        [
            (0, 0.7, 0.76, 0.95, 0.92),
            (0.01, 1.2, 2.2, 0.98, 0.92),
            (0.02, 1.2, 2.35, 1, 0.9),
            (0.3, 1.2, 2.38, 1, 0.9),
            (0.72, 1.18, 2.36, 1, 0.88),
            (0.88, 1.14, 1.25, 1, 0.85),
            (0.98, 0.95, 1.0, 0.95, 0.85),
            (1, 0.6, 0.66, 0.9, 0.85),
        ],
    ),
}


@cache
def car(shape):
    """A car of one of ``CAR_SHAPES``, facing +x, centred; paint takes the placed colour."""
    length, width, stations = CAR_SHAPES[shape]
    st = np.array(stations)
    x, half = (st[:, 0] - 0.5) * length, width / 2
    sill = np.where((st[:, 0] == 0) | (st[:, 0] == 1), 0.4, 0.24)
    ws, wr = st[:, 3] * half, st[:, 4] * half
    parts = []
    for side in (1, -1):
        low = np.stack([x, side * ws * 0.97, sill], -1)
        shoulder = np.stack([x, side * ws, st[:, 1]], -1)
        roof = np.stack([x, side * wr, st[:, 2]], -1)
        for bottom, top in ((low, shoulder), (shoulder, roof)):
            c = np.stack([bottom[:-1], bottom[1:], top[1:], top[:-1]], 1)
            if side < 0:
                c = c[:, [1, 0, 3, 2]]
            uv = np.stack([c[..., 0] / length + 0.5, 1 - c[..., 2] / 1.1], -1)
            cabin = (top is roof) & (st[:-1, 2] - st[:-1, 1] + st[1:, 2] - st[1:, 1] > 0.35)
            if shape == 'van':
                cabin = cabin & (st[:-1, 0] > 0.5)
            parts.append(quads(c[~cabin], uv[~cabin], 'paint', ANY, CAR))
            if cabin.any():
                parts.append(quads(c[cabin], uv[cabin] * [1, 2], 'glass', (1, 1, 1), CAR))
    left = np.stack([x, wr, st[:, 2]], -1)
    right = left * [1, -1, 1]
    c = np.stack([right[:-1], right[1:], left[1:], left[:-1]], 1)
    uv = np.stack([c[..., 0] / length + 0.5, 0.25 + 0.2 * c[..., 1]], -1)
    glass = (np.abs(np.diff(st[:, 2])) > 0.25) & (st[:-1, 0] > 0.015)
    parts += [
        quads(c[~glass], uv[~glass], 'paint', ANY, CAR),
        quads(c[glass], uv[glass], 'glass', (1, 1, 1), CAR),
    ]
    for end, sign in ((0, -1), (-1, 1)):
        face = np.array(
            [
                [
                    [x[end], -ws[end], 0.4],
                    [x[end], ws[end], 0.4],
                    [x[end], wr[end], st[end, 2]],
                    [x[end], -wr[end], st[end, 2]],
                ]
            ]
        )
        parts.append(quads(face, [[[0, 1], [1, 1], [1, 0.5], [0, 0.5]]], 'paint', ANY, CAR))
        lamp = (1.5, 1.45, 1.3) if sign > 0 else (1.6, 0.15, 0.12)
        px = x[end] + sign * 0.01
        z = st[1 if end == 0 else -2, 1]
        for y in (-0.68, 0.68):
            parts.append(
                box(
                    [px - 0.12, (y - 0.16) * half, z - 0.26],
                    [px + 0.02, (y + 0.16) * half, z - 0.08],
                    'metal',
                    lamp,
                    CAR,
                    0.5,
                )
            )
        parts.append(
            box(
                [px - 0.03, -0.27, 0.5],
                [px + 0.03, 0.27, 0.62],
                'poster0',
                (1.4, 1.4, 1.3),
                CAR,
                0.6,
            )
        )
    parts.append(
        box([x[0] + 0.1, -half * 0.9, 0.2], [x[-1] - 0.1, half * 0.9, 0.42], 'tyre', (1, 1, 1), CAR)
    )
    t = np.linspace(0, 2 * np.pi, 13)
    for wx in (-0.31 * length, 0.31 * length):
        for side in (1, -1):
            y = side * (half + 0.01)
            parts.append(
                tube(
                    [wx, y - side * 0.2, 0.32],
                    [wx, y, 0.32],
                    0.32,
                    0.32,
                    'tyre',
                    (1, 1, 1),
                    CAR,
                    12,
                )
            )
            rim = np.stack([wx + 0.32 * np.cos(t), 0 * t + y, 0.32 + 0.32 * np.sin(t)], -1)
            tex = np.stack([0.5 + 0.5 * np.cos(t), 0.5 + 0.5 * np.sin(t)], -1)
            hub = np.broadcast_to([wx, y, 0.32], rim[1:].shape)
            half_uv = np.full_like(tex[1:], 0.5)
            parts.append(
                quads(
                    np.stack([hub, rim[:-1], rim[1:], hub], 1),
                    np.stack([half_uv, tex[:-1], tex[1:], half_uv], 1),
                    'wheel',
                    (1, 1, 1),
                    CAR,
                    np.array([[[0, side, 0]]]),
                )
            )
    return join(parts)


@cache
def truck():
    """A box lorry, facing +x."""
    parts = [
        box([-3.6, -1.2, 0.9], [1.7, 1.2, 3.4], 'poster1', ANY, TRUCK, 2.6),
        box([1.85, -1.1, 0.5], [3.4, 1.1, 2.7], 'paint', ANY, TRUCK, stretch=True),
        box([3.3, -1.0, 1.6], [3.42, 1.0, 2.5], 'glass', (1, 1, 1), TRUCK),
        box([2.2, -1.12, 1.6], [3.1, 1.12, 2.4], 'glass', (1, 1, 1), TRUCK),
        box([-3.5, -1.0, 0.5], [3.2, 1.0, 0.95], 'tyre', (1.5, 1.5, 1.5), TRUCK),
    ]
    for x in (-2.4, 2.4):
        for y in (-1.15, 0.85):
            parts.append(
                tube([x, y, 0.45], [x, y + 0.3, 0.45], 0.45, 0.45, 'tyre', (1, 1, 1), TRUCK, 12)
            )
            parts.append(
                box(
                    [x - 0.3, y - 0.01, 0.15],
                    [x + 0.3, y + 0.31, 0.75],
                    'wheel',
                    (1, 1, 1),
                    TRUCK,
                    stretch=True,
                )
            )
    return join(parts)


@cache
def tree(variant):
    """A broad-leaved tree about 7 m high: (opaque mesh, leaf cards)."""
    rng = np.random.default_rng([31, variant])
    height = rng.uniform(2.0, 2.8)
    lean = rng.uniform(-0.15, 0.15, 2)
    top = np.array([*lean, height])
    trunk = [tube([0, 0, -0.3], top, 0.2, 0.13, 'bark', (1, 1, 1), VEGETATION)]
    cards = []
    leaves = f'leaves{variant % 3}'
    foliage = f'foliage{variant % 2}'
    for k in range(5):
        a = 2 * np.pi * k / 5 + rng.uniform(-0.4, 0.4)
        reach = rng.uniform(0.6, 1.3) if k else 0.2
        c = top + [reach * np.cos(a), reach * np.sin(a), rng.uniform(0.7, 3.0)]
        r = rng.uniform([0.9, 0.9, 0.8], [1.5, 1.5, 1.4])
        trunk.append(tube(top - [0, 0, 0.2], c, 0.09, 0.04, 'bark', (1, 1, 1), VEGETATION, 5))
        trunk.append(blob(c, r * 0.78, foliage, ANY, VEGETATION, rng, 0.16, 1.6, 4, 7))
        n = rng.standard_normal((11, 3))
        n /= np.linalg.norm(n, axis=-1, keepdims=True)
        cards.append(leaf_cards(rng, c + n * r * 0.85, n, 0.85, leaves))
    return join(trunk), join(cards)


def leaf_cards(rng, centers, normals, size, leaves):
    """Leafy cards around ``centers`` (n, 3), lit as if they lay on the crown's surface."""
    n = len(centers)
    facing = normals + 0.9 * rng.standard_normal((n, 3))
    a = np.cross(facing, rng.standard_normal((n, 3)))
    a /= np.linalg.norm(a, axis=-1, keepdims=True)
    b = np.cross(facing, a)
    b /= np.linalg.norm(b, axis=-1, keepdims=True)
    sign = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    scale = size * rng.uniform(0.7, 1.3, (n, 1, 1))
    corners = centers[:, None] + scale * (
        sign[None, :, :1] * a[:, None] + sign[None, :, 1:] * b[:, None]
    )
    uv = np.broadcast_to(sign * 0.5 + 0.5, (n, 4, 2))
    return quads(corners, uv, leaves, ANY, VEGETATION, normals[:, None])


@cache
def bush(variant):
    """A bush about 1.2 m high: (opaque mesh, leaf cards)."""
    rng = np.random.default_rng([32, variant])
    body = blob(
        [0, 0, 0.5], [0.75, 0.75, 0.6], f'foliage{variant % 2}', ANY, VEGETATION, rng, 0.2, 1.2
    )
    n = rng.standard_normal((22, 3))
    n[:, 2] = np.abs(n[:, 2])
    n /= np.linalg.norm(n, axis=-1, keepdims=True)
    return body, leaf_cards(
        rng, [0, 0, 0.5] + n * [0.75, 0.75, 0.6], n, 0.35, f'leaves{variant % 3}'
    )


@cache
def person(variant):
    """A person about 1.75 m high, facing +x, in mid-step."""
    rng = np.random.default_rng([33, variant])
    coat, legs = rng.uniform(0.15, 1.0, 3), rng.uniform(0.1, 0.5, 3)
    step = rng.uniform(0.1, 0.28)
    cloth = 'cloth' if variant % 2 else 'poster2'
    parts = [
        tube([s * step, s * 0.1, 0.0], [0, s * 0.08, 0.88], 0.07, 0.1, 'cloth', legs, PERSON)
        for s in (1, -1)
    ]
    parts += [
        tube([-s * step, s * 0.28, 0.75], [0, s * 0.2, 1.42], 0.045, 0.065, cloth, coat, PERSON)
        for s in (1, -1)
    ]
    parts += [
        blob([0, 0, 1.14], [0.16, 0.23, 0.38], cloth, coat, PERSON, tile=0.8),
        tube([0, 0, 1.4], [0, 0, 1.56], 0.06, 0.06, 'skin', (1, 1, 1), PERSON),
        blob([0, 0, 1.64], [0.11, 0.09, 0.13], 'skin', (1, 1, 1), PERSON),
        blob([-0.02, 0, 1.69], [0.11, 0.1, 0.11], 'bark', rng.uniform(0.2, 1.5, 3), PERSON),
    ]
    return join(parts)


@cache
def lamp_post():
    """A street lamp, 6.5 m high, its arm towards +x."""
    return join(
        [
            tube([0, 0, -0.2], [0, 0, 1.0], 0.11, 0.09, 'metal', ANY, POLE),
            tube([0, 0, 1.0], [0, 0, 6.5], 0.075, 0.05, 'metal', ANY, POLE),
            tube([0, 0, 6.4], [1.6, 0, 6.7], 0.04, 0.035, 'metal', ANY, POLE, 5),
            box([1.3, -0.14, 6.6], [2.0, 0.14, 6.75], 'metal', ANY, POLE, 1.0),
        ]
    )


@cache
def utility_pole():
    """A wooden pole with a cross-arm, 8 m high."""
    return join(
        [
            tube([0, 0, -0.3], [0, 0, 8.0], 0.15, 0.1, 'bark', (1.1, 1.05, 1.0), POLE),
            box([-0.07, -0.9, 7.3], [0.07, 0.9, 7.45], 'wood', (1, 1, 1), POLE),
        ]
    )


@cache
def traffic_sign(kind):
    """A sign on its post, facing -x: (opaque mesh, cut-out sign plate)."""
    w, h, z = (1.3, 1.3, 2.6) if kind == 3 else (0.64, 0.64, 2.4)
    y = np.array([1, -1, -1, 1]) * w / 2
    zz = np.array([0, 0, 1, 1]) * h + z
    plate = np.stack([np.full(4, -0.06), y, zz], -1)[None]
    uv = np.array([[[0, 1], [1, 1], [1, 0], [0, 0]]])
    front = quads(plate, uv, f'sign{kind}', (1, 1, 1), SIGN, np.array([[[-1.0, 0, 0]]]))
    post = tube([0, 0, -0.2], [0, 0, z + h], 0.045, 0.045, 'metal', (1, 1, 1), POLE, 6)
    return post, front


@cache
def traffic_light():
    """A traffic light on its post, facing -x."""
    parts = [
        tube([0, 0, -0.2], [0, 0, 3.5], 0.08, 0.07, 'metal', (0.6, 0.6, 0.6), POLE),
        box([-0.2, -0.17, 2.5], [0.08, 0.17, 3.5], 'tyre', (1.6, 1.7, 1.6), LIGHT, 1.0),
        box([-0.14, -0.3, 2.4], [-0.12, 0.3, 3.6], 'tyre', (1.2, 1.2, 1.2), LIGHT, 1.0),
    ]
    for z, color in ((3.28, (2.0, 0.2, 0.15)), (3.0, (0.5, 0.4, 0.1)), (2.72, (0.1, 0.45, 0.2))):
        parts.append(
            blob(
                [-0.2, 0, z], [0.05, 0.11, 0.11], 'metal', color, LIGHT, tile=0.3, rings=4, sides=8
            )
        )
    return join(parts)


def building(rng, width, depth, floors, shop, gable):
    """A building with its front (width along x) on the plane y = 0 facing -y, body at y > 0."""
    facade = f'facade{rng.integers(16)}'
    wall = f'wall{int(facade[6:]) % 8}'
    tint = rng.uniform(0.72, 1.18) * rng.uniform(0.88, 1.1, 3)
    ground = 3.5
    top = ground + 3.0 * floors
    axes = width / 3
    parts = []
    shift, rise = rng.integers(4) / 4, rng.integers(3) / 3

    def walls(z0, z1, texture, u_tile, v_tile, face):
        a, b = face
        u = np.hypot(*(np.subtract(b, a))) / u_tile
        c = [[[*a, z0], [*b, z0], [*b, z1], [*a, z1]]]
        v = (z1 - z0) / v_tile
        uv = np.array([[[0, v], [u, v], [u, 0], [0, 0]]]) + [shift, rise]
        parts.append(quads(c, uv, texture, tint, BUILDING))

    front = ((0, 0), (width, 0))
    flanks = (((width, 0), (width, depth)), ((0, depth), (0, 0)), ((width, depth), (0, depth)))
    blind = rng.uniform() < 0.4
    for face in (front, *flanks):
        plain = face is not front and blind
        walls(
            ground,
            top,
            wall if plain else facade,
            3.0 if plain else 12.0,
            3.0 if plain else 9.0,
            face,
        )
        texture = f'shop{rng.integers(5)}' if shop else facade
        a, b = face
        z = [-1.5, 0.0, ground]
        walls(z[0], z[1], 'stone', 3.0, 3.0, face)
        if shop:
            shift, rise = rng.integers(8) / 8, 0.0
            walls(z[1], z[2], texture, 12.0, ground, face)
        else:
            rise = 0.0
            walls(z[1], 0.5, 'stone', 3.0, 3.0, face)
            walls(0.5, z[2], texture, 12.0, 9.0, face)
    trim = tint * rng.uniform(0.7, 1.25)
    out = rng.uniform(0.15, 0.45)
    if shop or rng.uniform() < 0.5:
        parts.append(
            box(
                [0, -out * 0.6, ground - 0.15],
                [width, 0, ground + 0.12],
                'concrete',
                trim,
                BUILDING,
                3.0,
            )
        )
    if shop and rng.uniform() < 0.6:
        x = rng.uniform(0, width / 2)
        c = [[[x, -1.3, 2.6], [x + width / 2, -1.3, 2.6], [x + width / 2, 0, 3.2], [x, 0, 3.2]]]
        parts.append(
            quads(
                c,
                np.array([[[0, 1], [3, 1], [3, 0], [0, 0]]]),
                'cloth',
                rng.uniform(0.2, 1.1, 3),
                BUILDING,
            )
        )
    if rng.uniform() < 0.35:
        for floor in range(1, floors):
            for k in range(int(axes)):
                if rng.uniform() < 0.6:
                    x, z = 3 * k + 0.5, ground + 3 * floor
                    parts.append(
                        box(
                            [x, -0.95, z - 0.1],
                            [x + 2.0, 0, z + 0.95],
                            'concrete',
                            trim,
                            BUILDING,
                            2.0,
                        )
                    )
    if gable:
        ridge = top + rng.uniform(0.3, 0.5) * depth
        over = 0.4
        roof = f'roof{rng.integers(2)}'
        mid = depth / 2
        for y0, sign in ((-over, 1), (depth + over, -1)):
            c = [
                [
                    [-over, y0, top - 0.2],
                    [width + over, y0, top - 0.2],
                    [width + over, mid, ridge],
                    [-over, mid, ridge],
                ]
            ]
            slope = np.hypot(mid + over, ridge - top)
            uv = np.array([[[0, slope], [width, slope], [width, 0], [0, 0]]]) / 5.0
            n = np.array([[[0, -sign * (ridge - top), mid]]]) / np.hypot(mid, ridge - top)
            parts.append(quads(c, uv, roof, rng.uniform(0.85, 1.15) * np.ones(3), BUILDING, n))
        for x, sign in ((0, -1), (width, 1)):
            c = [[[x, 0, top], [x, depth, top], [x, mid, ridge], [x, mid, ridge]]]
            uv = np.array([[[0, 1], [depth / 3, 1], [depth / 6, 0], [depth / 6, 0]]])
            parts.append(quads(c, uv, wall, tint, BUILDING, np.array([[[sign, 0.0, 0.0]]])))
        x = rng.uniform(0.2, 0.8) * width
        parts.append(
            box(
                [x, mid - 1.5, top],
                [x + 0.7, mid - 0.8, ridge + 0.8],
                'wall4',
                (1, 1, 1),
                BUILDING,
                3.0,
            )
        )
    else:
        parts.append(
            box(
                [-out, -out, top],
                [width + out, depth + out, top + 0.5],
                'concrete',
                trim,
                BUILDING,
                3.0,
            )
        )
        for _ in range(rng.integers(0, 3)):
            x, y = rng.uniform(0.1, 0.7) * width, rng.uniform(0.1, 0.6) * depth
            parts.append(
                box(
                    [x, y, top + 0.5],
                    [x + 2.5, y + 2, top + rng.uniform(1.2, 3)],
                    wall,
                    tint,
                    BUILDING,
                    3.0,
                )
            )
    return join(parts)
