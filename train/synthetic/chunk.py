"""Builds one chunk of the street: the road and everything beside it."""

import numpy as np

from train.synthetic import mesh as m
from train.synthetic import objects

CHUNK = 40.0
CAR_COLORS = np.array(
    [
        [0.95, 0.95, 0.95],
        [0.15, 0.15, 0.16],
        [0.5, 0.52, 0.54],
        [0.7, 0.72, 0.74],
        [0.6, 0.1, 0.1],
        [0.12, 0.2, 0.45],
        [0.2, 0.3, 0.25],
        [0.75, 0.65, 0.4],
        [0.35, 0.22, 0.16],
    ]
)
UV_PERIOD = 1000.0


def wrap(uv):
    """Texture coordinates (..., 2) moved by whole periods towards 0, so that float32 is exact."""
    return uv - np.floor(uv.reshape(-1, 2).min(0) / UV_PERIOD) * UV_PERIOD


class ChunkBuilder:
    """Builds one chunk."""

    def __init__(self, world, rng, s0, origin):
        self.world, self.style, self.path, self.rng = world, world.style, world.path, rng
        self.s0, self.origin = s0, origin
        self.opaque, self.cutout = [], []
        xy, _, _ = self.path.at(np.array([s0 + CHUNK / 2]))
        self.road = world.window(xy[0])

    def points(self, s, d, h):
        """Points (..., 3) relative to the chunk's origin, on the ground plus ``h``."""
        s, d, h = np.broadcast_arrays(np.asarray(s, float), d, h)
        xy = self.path.offset(s.ravel(), d.ravel())
        z = self.path.elevation(xy) + h.ravel()
        return (np.concatenate([xy, z[:, None]], -1) - self.origin).reshape(*s.shape, 3)

    def strip(self, s, profile, texture, color, label, tile=4.0):
        """A band along the road: ``s`` (n,), cross-section ``profile`` of (d, h), left to right."""
        d, h = np.array(profile, float).T
        across = np.concatenate([[0], np.cumsum(np.hypot(np.diff(d), np.diff(h)))]) - d[0]
        p = self.points(s[:, None], d[None], h[None])
        uv = np.stack(np.broadcast_arrays(s[:, None], across[None]), -1) / tile

        def take(a):
            return np.stack([a[:-1, :-1], a[:-1, 1:], a[1:, 1:], a[1:, :-1]], 2).reshape(
                -1, 4, a.shape[-1]
            )

        self.opaque.append(m.quads(take(p), wrap(take(uv)), texture, color, label))

    def put(self, mesh, s, d, turn=0.0, h=None, **how):
        """Stand an object at (s, d), turned ``turn`` from the road's direction."""
        cutout = None
        if isinstance(mesh, tuple):
            mesh, cutout = mesh
        _, heading, _ = self.path.at(np.array([s]))
        at = self.points(np.array([s]), np.array([d]), 0.0)[0]
        at[2] += self.style.kerb if h is None else h
        self.opaque.append(m.place(mesh, at, heading[0] + turn, **how))
        if cutout is not None:
            self.cutout.append(m.place(cutout, at, heading[0] + turn, **how))

    def clear(self, xy, reach):
        """Whether all points (n, 2), relative to the origin, are over ``reach`` m from the road."""
        return self.road.query(np.asarray(xy) + self.origin[:2])[0].min() > reach

    def ground(self):
        """Road with markings, kerbs, sidewalks, verges."""
        style, rng = self.style, self.rng
        s = self.s0 + np.arange(0, CHUNK + 1e-6, 1.25)
        left, right = style.edge(1), -style.edge(-1)
        columns = [left]
        if style.parking[0]:
            columns += [style.lane + 0.36, style.lane + 0.24]
        elif style.edge_line:
            columns += [left - 0.2, left - 0.34]
        columns += [0.07, -0.07]
        if style.parking[1]:
            columns += [-style.lane - 0.24, -style.lane - 0.36]
        elif style.edge_line:
            columns += [right + 0.34, right + 0.2]
        columns.append(right)
        for a, b in zip(columns[:-1], columns[1:], strict=True):
            marked = abs(a - b) < 0.2
            if not marked:
                self.strip(s, [(a, 0), (b, 0)], style.asphalt, style.road_tint, m.ROAD)
                continue
            center = abs(a) < 0.1
            on = np.ones(len(s) - 1, bool)
            if center:
                dashed = style.center_dashed
                on = np.floor(s[:-1] / 3.75) % 2 == 0 if dashed else on
                on &= style.center_line
            for flag, texture, tint in (
                (True, 'marking', np.ones(3)),
                (False, style.asphalt, style.road_tint),
            ):
                for i in np.flatnonzero(on == flag):
                    self.strip(s[i : i + 2], [(a, 0), (b, 0)], texture, tint, m.ROAD)
        if rng.uniform() < 0.12:
            self.crossing()
        for side in (1, -1):
            e, c, k = style.edge(side) * side, style.corridor(side) * side, style.kerb
            far = side * 15.0
            order = slice(None, None, -side)
            stone = [(e, 0), (e, k), (e + 0.16 * side, k)]
            self.strip(s, stone[order], 'concrete', np.ones(3) * 0.95, m.SIDEWALK, 2.0)
            walk = [(e + 0.16 * side, k), (c, k)]
            self.strip(s, walk[order], style.pavers, style.walk_tint, m.SIDEWALK, 2.5)
            verge = [(c, k), (far, 0.05), (far, -0.6)]
            self.strip(s, verge[order], style.grass, style.ground_tint, m.TERRAIN)

    def crossing(self):
        """A zebra crossing, sometimes with traffic lights."""
        style = self.style
        s = self.s0 + self.rng.uniform(6, CHUNK - 10)
        left, right = style.edge(1), style.edge(-1)
        for d in np.arange(-right + 0.4, left - 0.8, 1.0):
            self.strip(
                np.array([s, s + 1.5, s + 3.0]),
                [(d + 0.5, 0.006), (d, 0.006)],
                'marking',
                np.ones(3),
                m.ROAD,
            )
        if self.rng.uniform() < 0.6:
            self.put(objects.traffic_light(), s - 1.0, -right - 0.5)
            self.put(objects.traffic_light(), s + 4.0, left + 0.5, np.pi)

    def roadside(self, side):
        """Everything on one side of the road."""
        style, rng, s0 = self.style, self.rng, self.s0
        edge, corridor = style.edge(side), style.corridor(side)
        if style.parking[side < 0]:
            s = s0 + rng.uniform(0.2, 4)
            while s < s0 + CHUNK - 4.5:
                if rng.uniform() < style.parked:
                    flip = np.pi * ((side > 0) ^ (rng.uniform() < 0.15))
                    self.put(
                        self.world._vehicle(rng, 0.02),
                        s + 2.3,
                        side * (edge - style.parking[side < 0] / 2 + rng.uniform(-0.1, 0.1)),
                        flip + rng.normal(0, 0.02),
                        0.0,
                    )
                s += rng.uniform(5.3, 7.0)
        gap = style.lamp_gap
        for k in range(int(np.ceil(s0 / gap)), int(np.ceil((s0 + CHUNK) / gap))):
            if style.wooden_poles:
                if side > 0:
                    self.put(objects.utility_pole(), k * gap, side * (edge + 0.5))
            elif (k % 2 == 0) == (side > 0):
                self.put(
                    objects.lamp_post(),
                    k * gap,
                    side * (edge + 0.4),
                    -side * np.pi / 2,
                    color=style.pole_tint,
                )
        for _ in range(rng.poisson(0.8)):
            turn = 0.0 if side < 0 else np.pi
            self.put(
                objects.traffic_sign(int(rng.integers(5))),
                s0 + rng.uniform(0, CHUNK),
                side * (edge + rng.uniform(0.35, 0.7)),
                turn + rng.normal(0, 0.1),
            )
        if style.trees > 0.4 and style.sidewalk[int(side < 0)] > 2.2:
            for s in np.arange(s0 + 3, s0 + CHUNK - 2, 9.0):
                if rng.uniform() < style.trees:
                    self.tree(s + rng.uniform(-1, 1), side * (edge + 0.8), rng.uniform(0.6, 0.95))
        self.border(side, corridor + 0.25)
        self.lots(side, corridor)

    def tree(self, s, d, scale):
        tint = self.style.leaf_tint * self.rng.uniform(0.8, 1.2) * self.rng.uniform(0.92, 1.08, 3)
        size = scale * self.rng.uniform([0.9, 0.9, 0.9], [1.15, 1.15, 1.25])
        self.put(
            objects.tree(int(self.rng.integers(8))),
            s,
            d,
            self.rng.uniform(0, 6.28),
            scale=size,
            color=tint,
        )

    def border(self, side, d):
        """Fence, wall, hedge or nothing between sidewalk and lots."""
        rng, style = self.rng, self.style
        kind = rng.choice(
            ['none', 'wall', 'wood', 'railing', 'hedge'],
            p=[
                0.25 + 0.35 * style.urban,
                0.2 - 0.08 * style.urban,
                0.2 - 0.12 * style.urban,
                0.15 - 0.05 * style.urban,
                0.2 - 0.1 * style.urban,
            ],
        )
        self.setback = 0.0 if kind == 'none' else 1.5
        if kind == 'none':
            return
        a, b = rng.uniform(0, 6), CHUNK - rng.uniform(0, 6)
        s = self.s0 + np.linspace(a, b, int((b - a) / 2.5))
        k = style.kerb - 0.05
        tint = rng.uniform(0.7, 1.2) * rng.uniform(0.9, 1.1, 3)
        x0, x1 = side * d, side * (d + 0.25)
        order = slice(None, None, -side)
        if kind == 'wall':
            texture = str(rng.choice(['stone', 'wall4', 'wall5', 'wall0']))
            h = rng.uniform(0.8, 2.0)
            profile = [(x0, k - 0.3), (x0, k + h), (x1, k + h), (x1, k - 0.3)]
            self.strip(s, profile[order], texture, tint, m.WALL, 3.0)
        elif kind == 'wood':
            h = rng.uniform(1.0, 1.8)
            self.strip(s, [(x0, k - 0.2), (x0, k + h)][order], 'wood', tint, m.FENCE, 3.0)
            for at in s:
                self.put(
                    m.box([-0.06, -0.06, -0.3], [0.06, 0.06, h + 0.1], 'wood', tint, m.FENCE),
                    at,
                    side * (d + 0.08),
                )
        elif kind == 'railing':
            h = rng.uniform(1.0, 1.6)
            before = len(self.opaque)
            self.strip(s, [(x0, k), (x0, k + h)][order], 'railing', tint, m.FENCE, h)
            self.cutout.append(self.opaque.pop(before))
            self.strip(
                s,
                [(x0, k - 0.3), (x0, k + 0.2), (x1, k + 0.2), (x1, -0.3)][order],
                'stone',
                tint,
                m.WALL,
                3.0,
            )
        else:
            h = rng.uniform(0.9, 1.8)
            tint = style.leaf_tint * rng.uniform(0.8, 1.15)
            x1 = side * (d + 0.9)
            profile = [
                (x0, k - 0.2),
                (x0 - 0.05 * side, k + 0.7 * h),
                (x0 + 0.15 * side, k + h),
                (x1, k + h),
                (x1, k - 0.2),
            ]
            self.strip(s, profile[order], f'foliage{rng.integers(2)}', tint, m.VEGETATION, 2.0)
            n = 60
            along, up = rng.uniform(a, b, n) + self.s0, rng.uniform(0.1, 1, n) * h
            p = self.points(along, np.full(n, x0 + 0.05 * side), up + k)
            normal = self.points(along, np.full(n, x0 - side), up + k) - p
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            cards = objects.leaf_cards(
                rng, p, normal + [0, 0, 0.3], 0.3, f'leaves{rng.integers(3)}'
            )
            self.cutout.append(m.place(cards, [0, 0, 0], color=tint))

    def lots(self, side, corridor):
        """Buildings, garden trees, bushes."""
        style, rng, s0 = self.style, self.rng, self.s0
        base = corridor + 0.5 + self.setback
        s = s0 + rng.uniform(0, 2)
        while s < s0 + CHUNK - 6:
            room = s0 + CHUNK - s
            urban = rng.uniform() < style.urban
            width = 3.0 * rng.integers(3, 8 if urban else 5)
            if width > room:
                width = 3.0 * (room // 3)
            if width < 6 or rng.uniform() > 0.55 + 0.45 * style.urban:
                self.garden(side, base, s, min(10.0, room))
                s += 10.0
                continue
            back = 0.0 if urban and not self.setback else rng.uniform(0.5, 7)
            floors = int(rng.integers(2, 6)) if urban else int(rng.integers(0, 3))
            depth = rng.uniform(8, 14)
            gable = rng.uniform() < (0.35 if urban else 0.8)
            shop = urban and rng.uniform() < 0.6
            mesh = objects.building(rng, width, depth, floors, shop, gable)
            _, heading, _ = self.path.at(np.array([s + width / 2]))
            middle = self.points(np.array([s + width / 2]), side * (base + back), 0.0)[0]
            yaw = heading[0] + (0 if side > 0 else np.pi)
            c, sn = np.cos(yaw), np.sin(yaw)
            along, out = np.array([c, sn]), np.array([-sn, c])
            u, v = np.meshgrid(np.linspace(-0.5, 0.5, 7) * width, np.linspace(-1.0, depth, 5))
            foot = middle[:2] + u.reshape(-1, 1) * along + v.reshape(-1, 1) * out
            if self.clear(foot, corridor - 0.4):
                corner = middle.copy()
                corner[:2] -= along * width / 2
                corner[2] += 0.05
                self.opaque.append(m.place(mesh, corner, yaw))
                if back > 3:
                    self.garden(side, base, s, width, back - 1.5, 0.5)
            else:
                self.garden(side, base, s, width)
            s += width + (0.0 if urban and rng.uniform() < 0.7 else rng.uniform(1.5, 7))

    def garden(self, side, base, s, length, depth=14.0, share=1.0):
        """Trees and bushes from ``base`` outwards."""
        rng, style = self.rng, self.style
        for _ in range(rng.poisson((1.0 + 2.5 * style.trees) * share)):
            d = side * (base + rng.uniform(1.0, max(1.2, depth)))
            at = s + rng.uniform(0, length)
            p = self.points(np.array([at]), np.array([d]), 0.0)[:, :2]
            if self.clear(p, base):
                self.tree(at, d, rng.uniform(0.7, 1.5))
        for _ in range(rng.poisson(2.0 * share)):
            d = side * (base + rng.uniform(0.6, max(0.8, min(depth, 5.0))))
            at = s + rng.uniform(0, length)
            p = self.points(np.array([at]), np.array([d]), 0.0)[:, :2]
            if self.clear(p, base - 0.2):
                tint = style.leaf_tint * rng.uniform(0.75, 1.2)
                self.put(
                    objects.bush(int(rng.integers(6))),
                    at,
                    d,
                    rng.uniform(0, 6.28),
                    scale=rng.uniform(0.6, 1.4),
                    color=tint,
                )
