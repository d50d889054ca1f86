"""Draws a world with OpenGL: picture, exact depth, class ids.

One off-screen context through EGL, so a software rasterizer will do. One pass draws all three.
With supersampling the drawn grid is twice as fine and shifted so that every second sample lies on
a pixel's centre: depth and ids are those samples, exact; the picture is smoothed over all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from train.synthetic import mesh as m
from train.synthetic.textures import make_noise
from train.synthetic.world import CHUNK, VIEW, Chunk

NEAR, FAR = 0.3, 900.0
TERRAIN = 64.0
MAX_QUADS = 40000
TENT = np.array([0.25, 0.5, 0.25])

VERTEX = """
#version 330
uniform mat4 model; uniform mat4 world_to_clip; uniform vec4 world_to_depth;
in vec3 in_position; in vec3 in_normal; in vec3 in_uv; in vec4 in_tint;
out vec3 normal; out vec3 uv; out vec3 tint; out float depth; flat out int label;
void main() {
    vec4 world = model * vec4(in_position, 1.0);
    normal = mat3(model) * in_normal;
    uv = in_uv; tint = in_tint.rgb; label = int(in_tint.a + 0.5);
    depth = dot(world_to_depth, world);
    gl_Position = world_to_clip * world;
}
"""

SURFACE = """
#version 330
uniform sampler2DArray bank; uniform sampler2D variation;
uniform vec3 sun; uniform vec3 sun_color; uniform vec3 ambient;
in vec3 normal; in vec3 uv; in vec3 tint; in float depth; flat in int label;
layout(location = 0) out vec4 color; layout(location = 1) out float depth_out;
layout(location = 2) out uint label_out;
void main() {
    vec4 texel = texture(bank, uv);
    %s
    float fine = texture(variation, uv.xy * 0.19).r;
    vec4 coarse = texture(variation, uv.xy * 0.031 + vec2(uv.z * 0.13, 0.0));
    vec3 n = normalize(normal);
    vec3 light = ambient * (0.8 + 0.2 * n.z) + sun_color * max(dot(n, sun), 0.0);
    float shade = (0.72 + 0.56 * fine) * (0.7 + 0.6 * coarse.b);
    vec3 hue = vec3(1.0) + 0.08 * (coarse.rga - 0.5);
    color = vec4(texel.rgb * tint * light * (1.25 * shade) * hue, 1.0);
    depth_out = depth; label_out = uint(label);
}
"""
CUT = 'if (texel.a < 0.4) discard;'

SKY_VERTEX = """
#version 330
uniform mat4 clip_to_ray;
in vec2 in_position; out vec3 ray;
void main() {
    gl_Position = vec4(in_position, 0.999999, 1.0);
    ray = (clip_to_ray * vec4(in_position, 1.0, 1.0)).xyz;
}
"""

SKY = """
#version 330
uniform sampler2D variation; uniform vec3 sky_top; uniform vec3 sky_low; uniform vec3 hills;
uniform float clouds; uniform vec2 shift;
in vec3 ray;
layout(location = 0) out vec4 color; layout(location = 1) out float depth_out;
layout(location = 2) out uint label_out;
void main() {
    vec3 r = normalize(ray);
    float around = atan(r.y, r.x) / 6.2831853;
    float ridge = 0.015 + 0.05 * texture(variation, vec2(around * 2.0, shift.x)).b
                        + 0.012 * texture(variation, vec2(around * 11.0, shift.y)).r;
    bool hill = r.z < ridge;
    depth_out = 0.0; label_out = hill ? 8u : 10u;
    if (hill) {
        float n = texture(variation, vec2(around * 24.0, r.z * 9.0)).r;
        color = vec4(mix(hills, sky_low, 0.35) * (0.65 + 0.7 * n), 1.0);
        return;
    }
    vec3 base = mix(sky_low, sky_top, clamp(pow(max(r.z, 0.0), 0.6) * 1.3, 0.0, 1.0));
    vec2 p = r.xy / (r.z + 0.12) * 0.06 + shift;
    float c = texture(variation, p).b * 0.55 + texture(variation, p * 2.7).r * 0.45;
    float cover = smoothstep(0.75 - 0.4 * clouds, 1.0 - 0.3 * clouds, c);
    float body = 0.82 + 0.25 * texture(variation, p * 4.3 + 0.2).g;
    color = vec4(mix(base, vec3(1.0, 0.99, 0.97) * body, cover * 0.85), 1.0);
}
"""


class RendererError(OSError):
    """OpenGL cannot be used here; the message names the remedy."""


@dataclass(frozen=True)
class Frame:
    """One rendered frame.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        depth: float32 (H, W) metres along the optical axis; 0 = sky and beyond.
        labels: uint8 (H, W) Cityscapes trainIds.
        pose: float64 (4, 4) camera-to-world, optical axes.
    """

    image: np.ndarray
    depth: np.ndarray
    labels: np.ndarray
    pose: np.ndarray


def default_intrinsics(width, height):
    """Pinhole matrix (3, 3) of the default camera: KITTI's field of view at any size."""
    f = 0.58 * width
    return np.array([[f, 0.0, 0.5 * width], [0.0, f, 0.47 * height], [0.0, 0.0, 1.0]])


def projection(intrinsics, width, height):
    """Clip matrix (4, 4) for points in optical coordinates, metres.

    Args:
        intrinsics: (3, 3) pixels; the first pixel's centre is (0, 0).
        width, height: pixels. Row 0 of the picture is row 0 of the framebuffer.
    """
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    return np.array(
        [
            [2 * fx / width, 0, 2 * (cx + 0.5) / width - 1, 0],
            [0, 2 * fy / height, 2 * (cy + 0.5) / height - 1, 0],
            [0, 0, (FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)],
            [0, 0, 1, 0],
        ]
    )


def _uniform(program, name) -> Any:
    """A uniform of a program, by name; moderngl's types also allow for its other members."""
    return program[name]


class Renderer:
    """An off-screen renderer for pictures of one size; worlds are drawn one after another.

    Args:
        intrinsics: (3, 3) pixels.
        width, height: of the pictures, pixels.
        supersample: 1 for speed, or 2 for smooth pictures.

    Raises:
        RendererError: if OpenGL cannot be used here.
    """

    def __init__(self, intrinsics, width, height, supersample=1):
        try:
            import moderngl

            self._gl = gl = moderngl.create_standalone_context(
                backend='egl'  # pyright: ignore[reportArgumentType]  the stub says dict
            )
        except Exception as error:  # what EGL raises depends on what is missing
            raise RendererError(
                f'cannot make an off-screen OpenGL context ({error}): install the Python package '
                "moderngl and, on Debian or Ubuntu, 'apt install libegl1 libgl1-mesa-dri'"
            ) from error
        self._moderngl = moderngl
        self.width, self.height = width, height
        self._supersample = k = supersample
        # k - 1 more samples on every side: the first pixel's centre is sample k - 1.
        self._size = size = (k * width + k - 1, k * height + k - 1)
        self.look_through(intrinsics)
        # Not multisampled, and no anisotropic filter below: Mesa's llvmpipe 22.3 hung at both
        # together. Supersampling replaces them, and keeps depth and ids exact.
        self._target = gl.framebuffer(
            [
                gl.renderbuffer(size, 4),
                gl.renderbuffer(size, 1, dtype='f4'),
                gl.renderbuffer(size, 1, dtype='u1'),
            ],
            gl.depth_renderbuffer(size),
        )
        _, images = m.bank()
        layers, rows, columns, _ = images.shape
        self._bank = gl.texture_array((columns, rows, layers), 4, images.tobytes())
        self._variation = gl.texture((512, 512), 4, make_noise().tobytes())
        for texture in (self._bank, self._variation):
            texture.build_mipmaps()
            texture.filter = (gl.LINEAR_MIPMAP_LINEAR, gl.LINEAR)
        self._bank.use(0)
        self._variation.use(1)
        self._programs = {
            cut: gl.program(VERTEX, SURFACE % (CUT if cut else '')) for cut in (False, True)
        }
        # Every mesh is made of quads: one index buffer serves all.
        quad = 4 * np.arange(MAX_QUADS, dtype=np.int32)[:, None]
        corner = np.array([0, 1, 2, 0, 2, 3], np.int32) + quad
        self._indices = gl.buffer(corner.tobytes())
        self._sky = gl.program(SKY_VERTEX, SKY)
        corners = np.array([-1, -1, 3, -1, -1, 3], np.float32)
        self._sky_corners = gl.simple_vertex_array(self._sky, gl.buffer(corners), 'in_position')
        self._world = None
        self._meshes = {}

    def look_through(self, intrinsics):
        """Take another camera (3, 3), pixels, for the pictures to come."""
        self.intrinsics = np.asarray(intrinsics, float)
        fine = self.intrinsics.copy()
        fine[:2] *= self._supersample
        fine[:2, 2] += self._supersample - 1
        self._projection = projection(fine, *self._size)

    def _use(self, world):
        for drawables in self._meshes.values():
            self._release(drawables[1])
        self._meshes = {}
        self._world = world
        style = world.style
        values = {
            'bank': 0,
            'variation': 1,
            'sun': style.sun,
            'sun_color': style.sun_color,
            'ambient': style.ambient,
            'sky_top': style.sky_top,
            'sky_low': style.sky_low,
            'clouds': style.clouds,
            'shift': style.sky_shift,
            'hills': style.ambient * style.leaf_tint * [0.26, 0.36, 0.2],
        }
        for program in (*self._programs.values(), self._sky):
            for name, value in values.items():
                if name in program:
                    _uniform(program, name).value = tuple(value) if np.ndim(value) else value

    def _upload(self, mesh, cut):
        if not len(mesh):
            return []
        gl = self._gl
        buffer = gl.buffer(np.ascontiguousarray(mesh, np.float32).tobytes())
        array = gl.vertex_array(
            self._programs[cut],
            [(buffer, '3f 3f 3f 4f', 'in_position', 'in_normal', 'in_uv', 'in_tint')],
            index_buffer=self._indices,
        )
        return [(cut, len(mesh) // 4 * 6, array, buffer)]

    @staticmethod
    def _release(drawables):
        for drawable in drawables:
            drawable[2].release()
            drawable[3].release()

    def _static(self, key, make):
        if key not in self._meshes:
            chunk = make()
            self._meshes[key] = (
                chunk,
                self._upload(chunk.opaque, False) + self._upload(chunk.cutout, True),
            )
        return self._meshes[key]

    def _scene(self, world, pose, s):
        """Drawables around the camera: (object-to-world (4, 4), drawables), nearest first."""
        eye = pose[:3, 3]
        first, last = int((s - 40) // CHUNK), int((s + VIEW) // CHUNK)
        wanted: list[tuple[tuple, Callable[[], Chunk]]] = [
            (('road', i), lambda i=i: world.chunk(i)) for i in range(max(first, 0), last + 1)
        ]
        ci, cj = (np.floor(eye[:2] / TERRAIN)).astype(int)
        reach = int(np.ceil(VIEW / TERRAIN))
        for i in range(ci - reach, ci + reach + 1):
            for j in range(cj - reach, cj + reach + 1):
                center = (np.array([i, j]) + 0.5) * TERRAIN - eye[:2]
                if center @ pose[:2, 2] > -70 and np.hypot(*center) < VIEW + 40:
                    wanted.append((('ground', i, j), lambda i=i, j=j: world.terrain(i, j, TERRAIN)))
        for key in [k for k in self._meshes if k not in {w[0] for w in wanted}]:
            self._release(self._meshes.pop(key)[1])
        half = np.array([self.intrinsics[0, 2] + 1, self.width - self.intrinsics[0, 2]])
        slope = half.max() / self.intrinsics[0, 0]
        out = []
        for key, make in wanted:
            chunk, drawables = self._static(key, make)
            x, _, z = (chunk.center - eye) @ pose[:3, :3]
            margin = chunk.radius * np.hypot(1, slope)
            if z > -chunk.radius and abs(x) < slope * max(z, 0) + margin:
                place = np.eye(4)
                place[:3, 3] = chunk.origin
                out.append((np.hypot(x, z) + 1000 * (key[0] == 'ground'), place, drawables))
        out.sort(key=lambda item: item[0])
        return [item[1:] for item in out]

    def render(self, world, t):
        """Draw a world as its camera sees it.

        Args:
            world: a ``train.synthetic.world.World``.
            t: seconds since the drive's start.

        Returns:
            A ``Frame``.
        """
        if world is not self._world:
            self._use(world)
        gl, pose = self._gl, world.drive.camera(t)
        s = world.drive.arc_length(t)
        scene = self._scene(world, pose, s)
        passing = []
        for actor in world.actors(t):
            if np.linalg.norm(actor.pose[:3, 3] - pose[:3, 3]) < VIEW:
                passing.append((actor.pose, self._upload(actor.mesh, False)))
        scene = passing + scene
        # Relative to the camera's position: float32 stays exact far from the origin.
        turn = np.eye(4)
        turn[:3, :3] = pose[:3, :3].T
        clip = self._projection @ turn
        for program in self._programs.values():
            _uniform(program, 'world_to_clip').write(clip.T.astype(np.float32).tobytes())
            _uniform(program, 'world_to_depth').value = tuple(turn[2])
        rays = np.linalg.inv(self._projection)
        to_ray = np.eye(4)
        to_ray[:3] = pose[:3, :3] @ rays[:3]
        _uniform(self._sky, 'clip_to_ray').write(to_ray.T.astype(np.float32).tobytes())

        gl.enable(self._moderngl.DEPTH_TEST)
        self._target.use()
        self._target.clear()
        for cut in (False, True):
            model = _uniform(self._programs[cut], 'model')
            for place, drawables in scene:
                local = place.copy()
                local[:3, 3] -= pose[:3, 3]
                for drawable in drawables:
                    if drawable[0] == cut:
                        model.write(local.T.astype(np.float32).tobytes())
                        drawable[2].render(vertices=drawable[1])
        self._sky_corners.render()
        image, depth, labels = (
            np.frombuffer(
                self._target.read(components=c, attachment=i, alignment=1, dtype=dtype), kind
            ).reshape(self._target.height, self._target.width, c)
            for i, (c, dtype, kind) in enumerate(
                ((3, 'f1', np.uint8), (1, 'f4', np.float32), (1, 'u1', np.uint8))
            )
        )
        k = self._supersample
        if k > 1:
            image = cv2.sepFilter2D(image, -1, TENT, TENT)[k - 1 :: k, k - 1 :: k]
        depth, labels = depth[k - 1 :: k, k - 1 :: k, 0], labels[k - 1 :: k, k - 1 :: k, 0]
        for _, drawables in passing:
            self._release(drawables)
        return Frame(image, depth, labels, pose)
