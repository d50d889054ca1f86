"""What stands where: the street in chunks along the road, and what moves on it.

Everything follows from the seed. A chunk is 40 m of road; it can be built in any order and does
not depend on the camera.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from train.synthetic import meshes as m
from train.synthetic.path import Drive, RoadPath

CHUNK = 40.0
VIEW = 260.0  # metres of road drawn ahead
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


@dataclass(frozen=True)
class Chunk:
    """Meshes of one place.

    Attributes:
        origin: world xyz that the meshes are relative to, metres.
        center, radius: a sphere around all of it, world xyz, metres.
        opaque: mesh of what is solid, in the format of ``train.synthetic.meshes``.
        cutout: mesh of what ends where its texture's alpha does.
    """

    origin: np.ndarray
    center: np.ndarray
    radius: float
    opaque: np.ndarray
    cutout: np.ndarray


@dataclass(frozen=True)
class Actor:
    """Something that moves: its mesh and its object-to-world pose (4, 4)."""

    mesh: np.ndarray
    pose: np.ndarray


class Style:
    """What a seed decides for a whole street: lengths in metres, colours RGB in 0..1."""

    def __init__(self, seed):
        rng = np.random.default_rng([seed, 4])
        self.lane = rng.uniform(2.9, 3.6)
        self.parking = [rng.uniform(2.0, 2.3) if rng.uniform() < 0.55 else 0.0 for _ in range(2)]
        self.sidewalk = rng.uniform(1.5, 3.5, 2)
        self.kerb = rng.uniform(0.08, 0.16)
        self.asphalt = f'asphalt{rng.integers(3)}'
        self.pavers = str(rng.choice(['pavers0', 'pavers1', 'pavers2', 'concrete', 'asphalt2']))
        self.grass = f'grass{rng.integers(2)}'
        self.road_tint = rng.uniform(0.75, 1.2) * rng.uniform(0.95, 1.05, 3)
        self.walk_tint = rng.uniform(0.8, 1.15) * rng.uniform(0.95, 1.05, 3)
        self.ground_tint = rng.uniform(0.75, 1.2) * rng.uniform(0.9, 1.1, 3)
        self.leaf_tint = rng.uniform(0.7, 1.25) * rng.uniform([0.85, 0.9, 0.8], [1.25, 1.1, 1.1])
        self.center_line = rng.uniform() < 0.8
        self.center_dashed = rng.uniform() < 0.7
        self.edge_line = rng.uniform() < 0.5
        self.urban = rng.uniform(0.0, 1.0)
        self.trees = rng.uniform(0.1, 1.0)
        self.parked = rng.uniform(0.2, 0.85)
        self.lamp_gap = rng.uniform(22, 40)
        self.wooden_poles = rng.uniform() < 0.3
        self.pole_tint = rng.uniform(0.4, 1.1) * np.ones(3)
        self.oncoming_gap = rng.uniform(30, 110)
        self.oncoming_speed = rng.uniform(6, 12)
        self.leader = rng.uniform(2.0, 3.2) if rng.uniform() < 0.25 else None
        self.people_gap = rng.uniform(12, 60)
        azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 1.1)
        self.sun = np.array(
            [np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)]
        )
        warm = rng.uniform(0, 1)
        overcast = rng.uniform(0, 1)
        self.sun_color = (0.95 - 0.55 * overcast) * np.array(
            [1.0, 0.97 - 0.1 * warm, 0.92 - 0.25 * warm]
        )
        self.ambient = (0.48 + 0.32 * overcast) * np.array([0.95, 0.98, 1.05])
        blue, grey = np.array([0.25, 0.45, 0.8]), np.array([0.68, 0.72, 0.78])
        self.sky_top = (1 - overcast) * blue + overcast * grey
        self.sky_low = np.array([0.78, 0.83, 0.88]) * rng.uniform(0.9, 1.1)
        self.clouds = rng.uniform(0.2, 0.9)
        self.sky_shift = rng.uniform(0, 1, 2)

    def edge(self, side):
        """Metres from the centreline to the kerb on ``side`` (+1 left, -1 right)."""
        return self.lane + 0.3 + self.parking[side < 0]

    def corridor(self, side):
        """Metres from the centreline to the far edge of the sidewalk."""
        return self.edge(side) + self.sidewalk[int(side < 0)]


class World:
    """A street without end; ``drive`` is the camera's way through it.

    Args:
        seed: decides everything but the camera.
        camera_height, pitch: of the camera, as of :class:`~train.synthetic.path.Drive`.
    """

    def __init__(self, seed, camera_height=1.65, pitch=0.0):
        self.seed = seed
        self.style = Style(seed)
        self.path = RoadPath(seed)
        self.drive = Drive(
            seed, self.path, -self.style.lane / 2, camera_height=camera_height, pitch=pitch
        )

    # -- what moves -----------------------------------------------------------------------------

    def actors(self, t):
        """List of each ``Actor`` near the camera at time ``t`` (seconds)."""
        style, s_camera = self.style, self.drive.arc_length(t)
        near, far = s_camera - 15, s_camera + 160
        out = []
        travelled = style.oncoming_speed * t
        gap = style.oncoming_gap
        for i in range(int((near + travelled) / gap), int((far + travelled) / gap) + 1):
            rng = np.random.default_rng([self.seed, 5, i])
            s = (i + rng.uniform(0.0, 0.75)) * gap - travelled
            out.append(self._actor(self._vehicle(rng), s, style.lane / 2, True))
        if style.leader is not None:
            rng = np.random.default_rng([self.seed, 6])
            s = self.drive.arc_length(t + style.leader) + 5.0
            out.append(self._actor(self._vehicle(rng), s, -style.lane / 2, False))
        for side in (1, -1):
            way = side if self.seed % 2 else -side
            walked = way * 1.3 * t
            gap = style.people_gap
            for i in range(int((near - walked) // gap), int((far - walked) // gap) + 1):
                rng = np.random.default_rng([self.seed, 7, side + 1, i + 100000])
                s = (i + rng.uniform(0, 0.9)) * gap + walked
                d = side * (
                    style.edge(side)
                    + rng.uniform(0.7, max(0.8, style.corridor(side) - style.edge(side) - 0.4))
                )
                mesh = m.place(
                    m.person(int(rng.integers(8))), [0, 0, style.kerb], scale=rng.uniform(0.9, 1.08)
                )
                out.append(self._actor(mesh, s, d, way < 0))
        return out

    def _vehicle(self, rng, trucks=0.08):
        color = CAR_COLORS[rng.integers(len(CAR_COLORS))] * rng.uniform(0.85, 1.15)
        if rng.uniform() < trucks:
            return m.place(m.truck(), [0, 0, 0], color=0.6 + 0.4 * color)
        shape = str(rng.choice(['hatch', 'sedan', 'suv', 'van'], p=[0.35, 0.3, 0.25, 0.1]))
        return m.place(m.car(shape), [0, 0, 0], color=color)

    def _actor(self, mesh, s, d, reverse):
        ends = self.path.offset(np.array([s - 1.3, s, s + 1.3]), np.full(3, d))
        z = self.path.elevation(ends)
        forward = np.array([*(ends[2] - ends[0]), z[2] - z[0]]) * (-1 if reverse else 1)
        forward /= np.linalg.norm(forward)
        left = np.cross([0, 0, 1], forward)
        left /= np.linalg.norm(left)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([forward, left, np.cross(forward, left)], 1)
        pose[:3, 3] = [*ends[1], z[1]]
        return Actor(mesh, pose)

    # -- what stands ----------------------------------------------------------------------------

    def chunk(self, index):
        """The ``Chunk`` of road from arc length ``index * CHUNK`` on, with all beside it."""
        rng = np.random.default_rng([self.seed, 8, index])
        s0 = index * CHUNK
        xy, heading, _ = self.path.at(np.array([s0 + CHUNK / 2]))
        origin = np.array([*np.round(xy[0]), 0.0])
        build = _Builder(self, rng, s0, origin)
        build.ground()
        for side in (1, -1):
            build.roadside(side)
        opaque, cutout = m.join(build.opaque), m.join(build.cutout)
        center = np.array([*xy[0], self.path.elevation(xy)[0]])
        reach = np.linalg.norm(opaque[:, :3] + origin - center, axis=-1).max()
        return Chunk(origin, center, reach, opaque, cutout)

    def terrain(self, i, j, size=64.0):
        """The open ground of a square of the world's grid, as a ``Chunk``.

        Args:
            i, j: number of the square along world x and y.
            size: its sides, metres.
        """
        origin = np.array([i * size, j * size, 0.0])
        grid = np.linspace(0, size, 9)
        xy = np.stack(np.meshgrid(grid, grid, indexing='ij'), -1)
        world = (xy + origin[:2]).reshape(-1, 2)
        center = origin[:2] + size / 2
        away = self._distance(world, center)
        z = self.path.elevation(world) - np.interp(away, [20, 30], [0.7, 0.0])
        z = z + np.interp(away, [60, 200], [0, 6]) * (
            0.5 + 0.5 * np.sin(world[:, 0] / 37 + self.seed) * np.sin(world[:, 1] / 53)
        )
        p = np.concatenate([xy, z.reshape(9, 9, 1)], -1)

        def take(a):
            return np.stack([a[:-1, :-1], a[1:, :-1], a[1:, 1:], a[:-1, 1:]], 2).reshape(
                -1, 4, a.shape[-1]
            )

        uv = _wrap((xy + np.mod(origin[:2], 4.0 * UV_PERIOD)) / 4.0)
        mesh = m.quads(take(p), take(uv), self.style.grass, self.style.ground_tint, m.TERRAIN)
        return Chunk(origin, np.array([*center, z.mean()]), size * 0.75, mesh, m.join([]))

    def _distance(self, xy, near):
        """Distance (n,) of points to the centreline, exact where it is under 100 m."""
        window = self._window(near)
        return window.query(xy)[0]

    def _window(self, near):
        """Search tree of the centreline points around ``near`` (world x, y)."""
        # Points within 250 m along x hold all that is nearer than 100 m.
        return cKDTree(self.path.near(near[0], 250.0))


def _wrap(uv):
    return uv - np.floor(uv.reshape(-1, 2).min(0) / UV_PERIOD) * UV_PERIOD


class _Builder:
    """Builds one chunk."""

    def __init__(self, world, rng, s0, origin):
        self.world, self.style, self.path, self.rng = world, world.style, world.path, rng
        self.s0, self.origin = s0, origin
        self.opaque, self.cutout = [], []
        xy, _, _ = self.path.at(np.array([s0 + CHUNK / 2]))
        self.road = world._window(xy[0])

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

        self.opaque.append(m.quads(take(p), _wrap(take(uv)), texture, color, label))

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
        """Whether points (n, 2), relative to the origin, all keep ``reach`` from the road."""
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
            self.put(m.traffic_light(), s - 1.0, -right - 0.5)
            self.put(m.traffic_light(), s + 4.0, left + 0.5, np.pi)

    def roadside(self, side):
        """All that stands on one side."""
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
                    self.put(m.utility_pole(), k * gap, side * (edge + 0.5))
            elif (k % 2 == 0) == (side > 0):
                self.put(
                    m.lamp_post(),
                    k * gap,
                    side * (edge + 0.4),
                    -side * np.pi / 2,
                    color=style.pole_tint,
                )
        for _ in range(rng.poisson(0.8)):
            turn = 0.0 if side < 0 else np.pi
            self.put(
                m.traffic_sign(int(rng.integers(5))),
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
            m.tree(int(self.rng.integers(8))),
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
            cards = m.leaf_cards(rng, p, normal + [0, 0, 0.3], 0.3, f'leaves{rng.integers(3)}')
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
            mesh = m.building(rng, width, depth, floors, shop, gable)
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
                    m.bush(int(rng.integers(6))),
                    at,
                    d,
                    rng.uniform(0, 6.28),
                    scale=rng.uniform(0.6, 1.4),
                    color=tint,
                )
