"""The texture bank: every surface of the street as one layer of a texture array.

All layers are tileable, 512 x 512 RGBA, made of multi-octave noise so that there is something to
track at every distance. Cut-out layers (leaves, signs, mesh) have an alpha channel.
Images in the making are float (512, 512, 3 or 4), RGB in 0..1.
"""

from functools import cache

import cv2
import numpy as np
from scipy import fft
from scipy.spatial import KDTree

SIZE = 512


@cache
def _gain(slope, low, size):
    """Spectrum (size, size // 2 + 1) of ``noise``."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * size
    return np.where(f >= low, np.maximum(f, 1.0) ** -slope, 0.0).astype(np.float32)


def noise(rng, slope=1.0, low=1, size=SIZE):
    """Tileable noise: spectrum 1/f**slope above ``low`` cycles a tile.

    Returns:
        float32 (size, size) in [-1, 1].
    """
    # scipy's transforms keep single precision, which makes the bank twice as fast.
    spectrum = np.asarray(fft.rfft2(rng.standard_normal((size, size)).astype(np.float32)))
    field = np.asarray(fft.irfft2(spectrum * _gain(slope, low, size), (size, size)))
    field *= 1 / (2.2 * field.std())
    return np.clip(field, -1, 1, out=field)


def _color(rgb, shade, strength):
    """Colour (H, W, 3) in 0..1: ``rgb`` times 1 + strength * shade."""
    return np.asarray(rgb, float) * (1 + strength * shade[..., None])


def _grainy(rng, rgb, coarse=0.15, fine=0.15):
    hue = np.stack([noise(rng, 1.2) for _ in range(3)], -1) * 0.025
    shade = noise(rng, 1.3) * coarse + noise(rng, 0.4, 24) * fine
    return _color(rgb, shade, 1.0) + hue * np.mean(rgb)


def _asphalt(rng, level):
    image = _grainy(rng, [level, level, level * 1.03], 0.22, 0.2)
    speck = noise(rng, 0.2, 60) > 0.75
    image[speck] *= 1.35
    cracks = np.abs(noise(rng, 1.5, 2)) < 0.012
    image[cracks] *= 0.6
    for _ in range(5):
        x, y = rng.integers(30, 380, 2)
        w, h = rng.integers(30, 110, 2)
        image[y : y + h, x : x + w] *= rng.uniform(0.78, 1.15)
    return image


def _cells(rng, rows, columns, stagger, joint, face, mortar, spread):
    """Bricks, pavers, roof tiles: ``rows`` x ``columns`` cells with per-cell tint."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    row = np.floor(y * rows).astype(int)
    u = x * columns + (row % 2) * stagger
    column = np.floor(u).astype(int) % columns
    tint = (
        1
        + spread * rng.uniform(-1, 1, (rows, columns, 1))
        + 0.06 * rng.uniform(-1, 1, (rows, columns, 3))
    )
    image = _grainy(rng, face, 0.2, 0.15) * tint[row, column]
    jx, jy = joint * columns, joint * rows
    gap = (u % 1 < jx) | (y * rows % 1 < jy)
    image[gap] = _grainy(rng, mortar, 0.15, 0.15)[gap]
    return image


def _planks(rng, face):
    return _cells(rng, 1, 24, 0, 0.005, face, np.multiply(face, 0.35), 0.3)


def _stones(rng):
    points = rng.uniform(0, SIZE, (90, 2))
    tiled = np.concatenate([points + [i * SIZE, j * SIZE] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    y, x = np.mgrid[0:SIZE:2, 0:SIZE:2]
    warp = 14 * noise(rng, 1.5, 4, SIZE // 2)
    near, order = KDTree(tiled).query(np.stack([x + warp, y], -1), 2)
    nearest = np.asarray(order)[..., 0] % len(points)
    up = lambda a: cv2.resize(a.astype(np.float32), (SIZE, SIZE))  # noqa: E731
    tint = rng.uniform(0.7, 1.25, (len(points), 1)) * rng.uniform(0.93, 1.07, (len(points), 3))
    image = _grainy(rng, [0.5, 0.48, 0.44], 0.25, 0.2) * up(tint[nearest])
    return image * np.clip(up(near[..., 1] - near[..., 0]) / 8, 0.35, 1)[..., None]


def _window(rng, image, x, y, w, h, frame):
    """Paint one window: surround, frame, panes that mirror a blurred outside, curtains."""
    pad = max(3, w // 12)
    image[y - pad : y + h + pad, x - pad : x + w + pad] *= rng.uniform(0.75, 1.2)
    image[y - 2 : y + h + 2, x - 2 : x + w + 2] = frame
    glass = np.linspace(0.42, 0.14, h)[:, None] * np.array([0.85, 0.95, 1.05])
    pane = np.broadcast_to(glass[:, None], (h, w, 3)).copy() * rng.uniform(0.6, 1.3)
    blob = cv2.resize(rng.uniform(0.5, 1.5, (5, 5)), (w, h), interpolation=cv2.INTER_LINEAR)
    pane *= blob[..., None]
    if rng.uniform() < 0.6:
        width = int(w * rng.uniform(0.15, 0.5))
        curtain = rng.uniform(0.35, 0.8, 3) * 0.5 + 0.25
        folds = 1 + 0.18 * np.sin(np.arange(width) * rng.uniform(0.5, 1.2))[None, :, None]
        pane[:, :width] = curtain * folds
        if rng.uniform() < 0.7:
            pane[:, w - width :] = curtain * folds[:, ::-1]
    if rng.uniform() < 0.25:
        blind = int(h * rng.uniform(0.2, 0.9))
        pane[:blind] = rng.uniform(0.4, 0.8) * (1 - 0.3 * (np.arange(blind) % 5 < 1))[:, None, None]
    image[y : y + h, x : x + w] = pane
    bar = max(2, w // 20)
    image[y : y + h, x + w // 2 - bar // 2 : x + w // 2 + bar // 2 + 1] = frame
    if rng.uniform() < 0.6:
        image[y + h // 3 : y + h // 3 + bar, x : x + w] = frame
    image[y + h : y + h + 7, x - 6 : x + w + 6] = np.multiply(frame, 0.8)
    image[y + h + 7 : y + h + 12, x - 4 : x + w + 4] *= 0.6


def _facade(rng, wall):
    """Three floors of four window axes: 12 m x 9 m."""
    image = wall.copy()
    cell_w, cell_h = SIZE // 4, SIZE // 3
    w, h = int(rng.uniform(44, 84)), int(rng.uniform(80, 118))
    frame = rng.uniform(0.55, 0.95) * np.array([1, 1, rng.uniform(0.85, 1)])
    if rng.uniform() < 0.3:
        frame = rng.uniform(0.1, 0.35, 3)
    for row in range(3):
        for column in range(4):
            x = column * cell_w + (cell_w - w) // 2
            _window(rng, image, x, row * cell_h + (cell_h - h) // 2, w, h, frame)
        if rng.uniform() < 0.7:
            image[(row + 1) * cell_h - 7 : (row + 1) * cell_h - 1] *= rng.uniform(0.6, 1.3)
    streaks = rng.uniform(0.82, 1.08, (3, 128))
    return image * cv2.resize(streaks, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)[..., None]


def _shop(rng, wall):
    """A ground floor: 12 m x 3.5 m of doors, shop windows, boards."""
    image = wall * 0.85
    x = 10
    while x < SIZE - 60:
        w = int(rng.uniform(50, 150))
        w = min(w, SIZE - 10 - x)
        door = w < 80
        top = 150
        if door:
            color = rng.uniform(0.1, 0.6, 3)
            image[top : SIZE - 4, x : x + w] = _color(
                color, noise(rng, 1)[top : SIZE - 4, x : x + w], 0.3
            )
            image[top + 30 : top + 180, x + 12 : x + w - 12] *= 0.5
            image[top + 220 : SIZE - 40, x + 12 : x + w - 12] *= 0.75
        else:
            _window(rng, image, x, top, w, SIZE - top - 90, rng.uniform(0.1, 0.8) * np.ones(3))
            goods = image[top + 120 : SIZE - 100, x + 4 : x + w - 4]
            small = rng.uniform(0.05, 0.9, (7, 1 + w // 14, 3))
            goods[:] = 0.4 * goods + 0.6 * cv2.resize(
                small, goods.shape[1::-1], interpolation=cv2.INTER_NEAREST
            )
        if rng.uniform() < 0.6:
            _text(rng, image, x, 60, w, 60)
        x += w + int(rng.uniform(14, 50))
    return image


def _text(rng, image, x, y, w, h):
    """A board with letters."""
    board = rng.uniform(0.05, 0.9, 3)
    ink = np.where(board.mean() > 0.45, rng.uniform(0, 0.25, 3), rng.uniform(0.7, 1, 3))
    word = ''.join(rng.choice(list('ABCDEFGHIKLMNOPRSTUVXYZ'), max(2, w // 26)))
    patch = np.empty((h, w, 3), np.float32)
    patch[:] = board
    cv2.putText(patch, word, (6, int(h * 0.75)), cv2.FONT_HERSHEY_DUPLEX, h / 50, ink.tolist(), 3)
    image[y : y + h, x : x + w] = patch


def _leaves(rng, rgb, cover):
    """Leaves with holes between them, RGBA; the border is clear so that cards have no edge."""
    image = np.zeros((SIZE, SIZE, 4))
    image[..., :3] = np.multiply(rgb, 0.6)
    r = np.linspace(-1, 1, SIZE)
    for _ in range(cover):
        angle, radius = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform()) * 0.92
        center = (256 + 240 * radius * np.array([np.cos(angle), np.sin(angle)])).astype(int)
        axes = (int(rng.uniform(12, 26)), int(rng.uniform(6, 13)))
        shade = rng.uniform(0.45, 1.5) * np.array(rgb) * rng.uniform(0.85, 1.15, 3)
        cv2.ellipse(image, center.tolist(), axes, rng.uniform(0, 180), 0, 360, [*shade, 1.0], -1)
    image[..., :3] *= 1 + 0.25 * noise(rng, 0.8)[..., None]
    image[np.hypot(r[:, None], r[None]) > 0.985] = [*np.multiply(rgb, 0.6), 0]
    return image


def _foliage(rng, rgb):
    """Opaque leaves."""
    image = np.empty((SIZE, SIZE, 3))
    image[:] = np.multiply(rgb, 0.35)
    for _ in range(1700):
        center = rng.integers(0, SIZE, 2)
        shade = rng.uniform(0.4, 1.4) * np.array(rgb) * rng.uniform(0.85, 1.15, 3)
        axes, angle = (int(rng.uniform(8, 20)), int(rng.uniform(4, 9))), rng.uniform(0, 180)
        for dx in (-SIZE, 0, SIZE):
            for dy in (-SIZE, 0, SIZE):
                at = center + [dx, dy]
                if (at > -20).all() and (at < SIZE + 20).all():
                    cv2.ellipse(image, at.tolist(), axes, angle, 0, 360, shade.tolist(), -1)
    return image * (1 + 0.3 * noise(rng, 1.2)[..., None])


def _grass(rng, rgb):
    stretched = cv2.resize(noise(rng, 0.5, 20), (SIZE, 2 * SIZE))[:SIZE]
    patches = noise(rng, 1.6)
    image = _color(rgb, stretched * 0.3 + noise(rng, 0.6, 10) * 0.25 + patches * 0.2, 1.0)
    dry = np.clip(patches * 1.5, 0, 0.6)[..., None]
    return image * (1 - dry) + dry * _grainy(rng, [0.42, 0.38, 0.22], 0.2, 0.25)


def _sign(rng, shape):
    """A traffic sign, RGBA."""
    image = np.zeros((SIZE, SIZE, 4))
    c, white, red, blue = 256, (0.9, 0.9, 0.9, 1), (0.75, 0.08, 0.08, 1), (0.1, 0.25, 0.65, 1)
    ink = (0.08, 0.08, 0.08, 1)
    if shape == 'limit':
        cv2.circle(image, (c, c), 250, red, -1)
        cv2.circle(image, (c, c), 190, white, -1)
        cv2.putText(image, str(rng.choice([30, 50, 60])), (110, 330), 2, 6.5, ink, 24)
    elif shape == 'warning':
        for scale, color in ((1.0, red), (0.7, white)):
            k = np.array([[0, -250], [240, 200], [-240, 200]]) * scale + [c, c + 30]
            cv2.fillPoly(image, [k.astype(np.int32)], color)
        cv2.rectangle(image, (240, 200), (272, 330), ink, -1)
        cv2.circle(image, (256, 370), 18, ink, -1)
    elif shape == 'parking':
        cv2.rectangle(image, (6, 6), (506, 506), blue, -1)
        cv2.putText(image, 'P', (130, 400), 2, 11, white, 40)
    elif shape == 'board':
        cv2.rectangle(image, (2, 60), (510, 450), blue, -1)
        for y in (180, 290, 400):
            word = ''.join(rng.choice(list('abcdefghiklmnorstu'), 9))
            cv2.putText(image, word, (20, y), 2, 2.8, white, 8)
    else:
        cv2.circle(image, (c, c), 250, blue, -1)
        cv2.arrowedLine(image, (c, 420), (c, 100), white, 50, tipLength=0.5)
    image[..., :3] *= 1 + 0.1 * noise(rng, 1.0)[..., None]
    return image


def _mesh_fence(rng):
    """Iron railings, RGBA."""
    image = np.zeros((SIZE, SIZE, 4))
    image[..., :3] = 0.13
    for x in range(0, SIZE, 64):
        image[:, x : x + 14, 3] = 1
    image[30:60, :, 3] = image[430:460, :, 3] = 1
    return image * (1 + 0.3 * noise(rng, 0.8)[..., None] * [1, 1, 1, 0])


def _paint(rng):
    """Car paint, white: panel gaps, dirt at the bottom, mild mirrored surroundings."""
    image = 0.86 * np.ones((SIZE, SIZE, 3)) * (1 + 0.1 * noise(rng, 1.3)[..., None])
    image *= np.linspace(1.05, 0.72, SIZE)[:, None, None] ** 1.0
    image *= (1 + 0.06 * noise(rng, 0.5, 20))[..., None]
    for x in (40, 150, 262, 375, 470):
        image[:, x : x + 4] *= 0.35
    image[250:255] *= 0.6
    for x in (225, 340):
        image[200:210, x : x + 26] *= 0.4
    return image


def _glass(rng):
    image = np.linspace(0.33, 0.1, SIZE)[:, None, None] * np.array([0.85, 0.95, 1.05])
    image = np.broadcast_to(image, (SIZE, SIZE, 3)) * (1 + 0.6 * noise(rng, 1.8)[..., None])
    return image * (1 + 0.15 * noise(rng, 0.6, 10)[..., None])


def _wheel(rng):
    image = 0.06 * np.ones((SIZE, SIZE, 3)) * (1 + 0.5 * noise(rng, 0.8)[..., None])
    cv2.circle(image, (256, 256), 165, (0.5, 0.5, 0.52), -1)
    for k in range(7):
        a = 2 * np.pi * k / 7
        spot = (256 + 105 * np.array([np.cos(a), np.sin(a)])).astype(int)
        cv2.circle(image, spot.tolist(), 34, (0.09, 0.09, 0.09), -1)
    cv2.circle(image, (256, 256), 30, (0.3, 0.3, 0.3), -1)
    return image


def _poster(rng):
    """Random shapes and letters: cloth, posters, containers."""
    image = np.ones((SIZE, SIZE, 3)) * rng.uniform(0.2, 0.8, 3)
    for _ in range(26):
        a, b = rng.integers(0, SIZE, (2, 2))
        color = rng.uniform(0.05, 0.95, 3).tolist()
        if rng.uniform() < 0.5:
            cv2.rectangle(image, a.tolist(), b.tolist(), color, int(rng.choice([-1, 8])))
        else:
            cv2.circle(image, a.tolist(), int(rng.uniform(10, 80)), color, -1)
    for y in (120, 300, 450):
        _text(rng, image, 20, y - 50, 460, 60)
    return image * (1 + 0.15 * noise(rng, 0.8)[..., None])


def make_bank():
    """Make all layers: (names, array uint8 (layers, 512, 512, 4)); the same at every call."""
    rng = np.random.default_rng(20)
    plaster = [
        _grainy(rng, c, 0.14, 0.1)
        for c in ([0.8, 0.74, 0.62], [0.75, 0.72, 0.7], [0.72, 0.55, 0.42], [0.62, 0.66, 0.68])
    ]
    brick = [
        _cells(rng, 64, 24, 0.5, 0.0035, c, [0.6, 0.58, 0.54], 0.25)
        for c in ([0.55, 0.28, 0.2], [0.62, 0.45, 0.33], [0.42, 0.25, 0.22])
    ]
    panel = _cells(rng, 6, 8, 0, 0.004, [0.6, 0.6, 0.6], [0.3, 0.3, 0.3], 0.12)
    walls = [*plaster, *brick, panel]
    layers = {f'wall{i}': w for i, w in enumerate(walls)}
    layers |= {f'facade{i}': _facade(rng, walls[i % len(walls)]) for i in range(16)}
    layers |= {f'shop{i}': _shop(rng, walls[(3 * i) % len(walls)]) for i in range(5)}
    layers |= {f'asphalt{i}': _asphalt(rng, level) for i, level in enumerate((0.3, 0.38, 0.46))}
    layers['pavers0'] = _cells(rng, 16, 12, 0.5, 0.004, [0.58, 0.56, 0.53], [0.3, 0.3, 0.28], 0.14)
    layers['pavers1'] = _cells(rng, 10, 10, 0, 0.005, [0.62, 0.6, 0.58], [0.38, 0.37, 0.35], 0.12)
    layers['pavers2'] = _cells(rng, 20, 20, 0.5, 0.006, [0.56, 0.44, 0.4], [0.3, 0.28, 0.26], 0.2)
    layers['concrete'] = _grainy(rng, [0.62, 0.61, 0.58], 0.25, 0.18)
    layers['marking'] = _grainy(rng, [0.85, 0.85, 0.82], 0.2, 0.2)
    worn = noise(rng, 0.9, 4) > 0.55
    layers['marking'][worn] = _asphalt(rng, 0.42)[worn]
    layers['grass0'] = _grass(rng, [0.3, 0.4, 0.16])
    layers['grass1'] = _grass(rng, [0.38, 0.42, 0.2])
    layers['dirt'] = _grainy(rng, [0.45, 0.38, 0.28], 0.3, 0.3)
    layers['roof0'] = _cells(rng, 22, 22, 0.5, 0.006, [0.52, 0.26, 0.18], [0.2, 0.1, 0.08], 0.25)
    layers['roof1'] = _cells(rng, 18, 14, 0.5, 0.005, [0.33, 0.33, 0.36], [0.14, 0.14, 0.15], 0.2)
    layers['wood'] = _planks(rng, [0.48, 0.34, 0.22])
    layers['stone'] = _stones(rng)
    bark = cv2.resize(noise(rng, 0.8, 6), (SIZE, 4 * SIZE))[:SIZE]
    layers['bark'] = _color([0.36, 0.29, 0.22], bark, 0.6)
    layers['metal'] = _grainy(rng, [0.55, 0.56, 0.57], 0.3, 0.12)
    layers['foliage0'] = _foliage(rng, [0.3, 0.42, 0.15])
    layers['foliage1'] = _foliage(rng, [0.38, 0.45, 0.18])
    layers['paint'] = _paint(rng)
    layers['glass'] = _glass(rng)
    layers['tyre'] = _grainy(rng, [0.07, 0.07, 0.07], 0.3, 0.3)
    layers['wheel'] = _wheel(rng)
    layers['skin'] = _grainy(rng, [0.75, 0.55, 0.44], 0.15, 0.05)
    layers['cloth'] = _cells(rng, 14, 14, 0.5, 0.012, [0.8, 0.8, 0.8], [0.5, 0.5, 0.5], 0.25)
    layers |= {f'poster{i}': _poster(rng) for i in range(3)}
    layers['leaves0'] = _leaves(rng, [0.3, 0.44, 0.15], 330)
    layers['leaves1'] = _leaves(rng, [0.4, 0.47, 0.18], 260)
    layers['leaves2'] = _leaves(rng, [0.24, 0.36, 0.18], 400)
    layers['railing'] = _mesh_fence(rng)
    for i, shape in enumerate(('limit', 'warning', 'parking', 'board', 'arrow')):
        layers[f'sign{i}'] = _sign(rng, shape)
    stack = np.full((len(layers), SIZE, SIZE, 4), 255, np.uint8)
    for target, layer in zip(stack, layers.values(), strict=True):
        target[..., : layer.shape[-1]] = np.clip(layer, 0, 1) * 255
    return list(layers), stack


def make_noise():
    """Large-scale variation: uint8 (512, 512, 4), four independent tileable noises."""
    rng = np.random.default_rng(21)
    field = np.stack(
        [noise(rng, slope, low) for slope, low in ((1.1, 2), (1.1, 2), (1.5, 1), (1.7, 2))], -1
    )
    return (np.clip(field * 0.5 + 0.5, 0, 1) * 255).astype(np.uint8)
