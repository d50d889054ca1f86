"""A street, in chunks along its road, and the things that move on it.

The seed decides everything. A chunk is 40 m of road; it can be built in any order and does
not depend on the camera.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from train.synthetic import mesh as m
from train.synthetic import objects
from train.synthetic.chunk import CAR_COLORS, CHUNK, UV_PERIOD, ChunkBuilder, wrap
from train.synthetic.path import Drive, RoadPath

VIEW = 260.0  # metres of road drawn ahead


@dataclass(frozen=True)
class Chunk:
    """Meshes of one place.

    Attributes:
        origin: world xyz that the meshes are relative to, metres.
        center, radius: a sphere around all of it, world xyz, metres.
        opaque: mesh of what is solid, in the format of ``train.synthetic.mesh``.
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
                    objects.person(int(rng.integers(8))),
                    [0, 0, style.kerb],
                    scale=rng.uniform(0.9, 1.08),
                )
                out.append(self._actor(mesh, s, d, way < 0))
        return out

    def _vehicle(self, rng, trucks=0.08):
        color = CAR_COLORS[rng.integers(len(CAR_COLORS))] * rng.uniform(0.85, 1.15)
        if rng.uniform() < trucks:
            return m.place(objects.truck(), [0, 0, 0], color=0.6 + 0.4 * color)
        shape = str(rng.choice(['hatch', 'sedan', 'suv', 'van'], p=[0.35, 0.3, 0.25, 0.1]))
        return m.place(objects.car(shape), [0, 0, 0], color=color)

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
        build = ChunkBuilder(self, rng, s0, origin)
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

        uv = wrap((xy + np.mod(origin[:2], 4.0 * UV_PERIOD)) / 4.0)
        mesh = m.quads(take(p), take(uv), self.style.grass, self.style.ground_tint, m.TERRAIN)
        return Chunk(origin, np.array([*center, z.mean()]), size * 0.75, mesh, m.join([]))

    def _distance(self, xy, near):
        """Distance (n,) of points to the centreline, exact where it is under 100 m."""
        window = self.window(near)
        return window.query(xy)[0]

    def window(self, near):
        """Search tree of the centreline points around ``near`` (world x, y)."""
        # Points within 250 m along x hold all that is nearer than 100 m.
        return KDTree(self.path.near(near[0], 250.0))
