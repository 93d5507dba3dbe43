"""Worlds of flat shapes: comets on orbits, woven shapes that bounce behind bars, and plain shapes that bounce.

The unit of length is the shorter side of the frame ("sides"); x runs right, y runs down.
"""

import functools
from dataclasses import dataclass

import numpy as np

BRIGHT = {  # colours of shapes
    "red": (0.95, 0.15, 0.15),
    "yellow": (1.0, 0.88, 0.15),
    "green": (0.2, 0.85, 0.25),
    "cyan": (0.2, 0.9, 0.95),
    "blue": (0.25, 0.45, 1.0),
    "pink": (1.0, 0.4, 0.8),
}
MUTED = {  # colours of the ground
    "blue": (0.16, 0.2, 0.42),
    "green": (0.12, 0.32, 0.2),
    "purple": (0.33, 0.17, 0.4),
    "brown": (0.36, 0.24, 0.14),
    "grey": (0.3, 0.3, 0.33),
}
SHAPES = ("disc", "square", "triangle")


def _grid(height: int, width: int):
    """Returns pixel centres x (w,), y (h,) and the extent (width, height) of the frame, in sides."""
    side = min(height, width)
    return (np.arange(width) + 0.5) / side, (np.arange(height) + 0.5) / side, np.array([width, height]) / side


def _distance(shape, ahead, across, radius):
    """Returns the signed distance to a shape inscribed in a circle, negative inside; a triangle points ahead."""
    if shape == "disc":
        return np.sqrt(ahead * ahead + across * across) - np.float32(radius)
    if shape == "square":
        return np.maximum(np.abs(ahead), np.abs(across)) - np.float32(radius * np.sqrt(0.5))
    if shape == "triangle":
        sides = np.float32(0.5) * ahead + np.float32(np.sqrt(0.75)) * np.abs(across)
        return np.maximum(sides, -ahead) - np.float32(radius / 2)
    raise ValueError(f"unknown shape {shape!r}: use one of {', '.join(SHAPES)}")


def _coverage(distance, height, width):
    """Returns how much of a pixel lies inside: from 1 to 0 over 1.5 pixels around the edge."""
    return np.clip(0.5 - distance * np.float32(min(height, width) / 1.5), 0, 1)


def _over(image, alpha, colour):
    """Paints a colour over `image` (f, 3, h, w) in place; each channel of the colour is a number or (f, h, w)."""
    for channel in range(3):
        image[:, channel] += alpha * (colour[channel] - image[:, channel])


def triangle_wave(x):
    """Returns a triangle wave of period 1: -1 at the integers, 1 half-way."""
    return 4 * np.abs(x - np.rint(x)) - 1


def rgb(colour) -> np.ndarray:
    return np.asarray(colour, np.float32)


def _listed(parts) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


# ----------------------------------------------------------------------------------------- comets


@dataclass(frozen=True, eq=False)
class Comets:
    """Shapes that circle around the middle of the frame, over stripes that drift to the left.

    One frame determines every velocity: all comets are equally fast and fly away from their tails, and stripes drift
    away from the steep edge of their brightness. The frame also shows everything that stays constant: a tail ends where
    the other comet is, which gives their distance, and a colour belongs to one shape.

    Attributes:
      angle: the place of each comet on the orbit at t = 0 (n,), in radians, clockwise from the right.
      phase: the phase of the stripes at t = 0, in periods.
      dark, bright: the extreme colours of the stripes.
    """

    caption: str
    shapes: tuple[str, ...]
    colours: tuple[tuple, ...]
    angle: np.ndarray
    phase: float
    dark: np.ndarray
    bright: np.ndarray

    ORBIT = 0.3
    RATE = 1.2  # radians per second
    TAIL = 0.94  # half the orbit
    RADIUS = {"disc": 0.15, "square": 0.19, "triangle": 0.2}
    DRIFT_SPEED = 0.3125  # 1.25 periods in 16 frames at 8 fps, so successive windows see other phases
    PERIOD = 0.5

    def draw(self, seconds, height, width):
        x, y, extent = _grid(height, width)
        image = self._stripes(seconds, x, height)
        x, y = np.float32(x - extent[0] / 2)[None, None], np.float32(y - extent[1] / 2)[None, :, None]
        distance, bearing = np.sqrt(x * x + y * y), np.arctan2(y, x)
        orbit = np.float32(self.ORBIT)
        for shape, colour, angle in zip(self.shapes, self.colours, self.angle):
            at = (angle + self.RATE * seconds)[:, None, None]
            cos, sin = np.float32(np.cos(at)), np.float32(np.sin(at))
            dx, dy = x - orbit * cos, y - orbit * sin
            ahead, across = dy * cos - dx * sin, dx * cos + dy * sin
            body = _coverage(_distance(shape, ahead, across, self.RADIUS[shape]), height, width)
            # the tail follows the orbit and tapers with the angle behind the comet
            behind = (bearing - np.float32(at)) % np.float32(2 * np.pi) - np.float32(2 * np.pi)
            taper = np.maximum(1 + behind * np.float32(self.ORBIT / self.TAIL), 0)
            tail = (
                np.float32(0.85) * taper * _coverage(np.abs(distance - orbit) - np.float32(0.1) * taper, height, width)
            )
            _over(image, np.maximum(body, tail), colour)
        return image

    def _stripes(self, seconds, x, height):
        turns = self.phase + seconds * self.DRIFT_SPEED / self.PERIOD
        phase = np.float32((x / self.PERIOD)[None] + (turns % 1)[:, None])
        phase -= np.floor(phase)
        wave = np.minimum(phase * np.float32(1 / 0.78), (1 - phase) * np.float32(1 / 0.22))[:, None, None]
        image = self.dark[:, None, None] + wave * (self.bright - self.dark)[:, None, None]
        return np.repeat(image, height, axis=2)


PLACES = ("right", "bottom right", "bottom", "bottom left", "left", "top left", "top", "top right")  # by angle


def comets(rng) -> Comets:
    names, shapes = ("red", "green"), ("square", "triangle")
    # The comets are equally fast and stay opposite one another. If their angle, or the shape of a colour, changed from
    # clip to clip, a stream would have to remember it, because noisy frames do not show it.
    angle = rng.uniform(0, 2 * np.pi) + np.array([0.0, np.pi])
    place = PLACES[round(angle[0] * len(PLACES) / (2 * np.pi)) % len(PLACES)]
    flights = [f"a {name} {shape}" for name, shape in zip(names, shapes)]
    return Comets(
        caption=(
            f"{_listed(flights)} circle clockwise, the {shapes[0]} at the {place} at first, "
            "over blue stripes that drift left"
        ),
        shapes=shapes,
        colours=tuple(BRIGHT[name] for name in names),
        angle=angle,
        phase=float(rng.uniform()),
        dark=0.25 * rgb(MUTED["blue"]),
        bright=1.7 * rgb(MUTED["blue"]),
    )


# --------------------------------------------------------------------------------------- bouncing


@dataclass(frozen=True, eq=False)
class Bouncing:
    """Equal discs that bounce off the frame and off one another, drawn as shapes, behind bars if there are any.

    Attributes:
      weave: the pattern of each disc, "striped", "checked" or "plain".
      place: the position of each disc at t = 0 (n, 2), in units of the frame's (width, height).
      nudge: added to the place (n, 2), in sides.
      velocity: velocity of each disc at t = 0 (n, 2), in sides per second.
      bars: (axis, sway, phase) of each bar: across x (0) or y (1), amplitude in units of the frame, radians.
      ground: the colour behind the discs.
    """

    caption: str
    shapes: tuple[str, ...]
    colours: tuple[tuple, ...]
    weave: tuple[str, ...]
    place: np.ndarray
    nudge: np.ndarray
    velocity: np.ndarray
    bars: tuple[tuple[int, float, float], ...]
    ground: np.ndarray

    RADIUS = 0.15
    BAR = 0.11
    RATE = 1.1  # radians per second of a bar that sways

    def motion(self, seconds, extent):
        """Returns positions and velocities (f, n, 2) in a frame of extent (width, height) in sides."""
        longest = max(8.0, float(np.max(seconds, initial=0)))
        begins, position, velocity = _events(self, *map(float, extent), 2.0 ** np.ceil(np.log2(longest)))
        last = np.searchsorted(begins, seconds, side="right") - 1
        return position[last] + velocity[last] * (seconds - begins[last])[:, None, None], velocity[last]

    def draw(self, seconds, height, width):
        x, y, extent = _grid(height, width)
        position = self.motion(seconds, extent)[0]
        image = np.empty((len(seconds), 3, height, width), np.float32)
        image[:] = self.ground[:, None, None] * np.float32(1.25 - 0.75 * y / extent[1])[:, None]
        for i, (shape, colour, weave) in enumerate(zip(self.shapes, self.colours, self.weave)):
            dx = np.float32(x - position[:, i, :1])[:, None, :]
            dy = np.float32(y - position[:, i, 1:])[:, :, None]
            alpha = _coverage(_distance(shape, -dy, dx, self.RADIUS), height, width)
            white = 0.7 * _weave(weave, dx, dy)
            _over(image, alpha, [c + white * np.float32(1 - c) for c in colour])
        for axis, sway, phase in self.bars:
            middle = extent[axis] * (0.5 + sway * np.sin(phase + self.RATE * seconds))
            across = np.float32(np.abs((x, y)[axis] - middle[:, None]))
            shade = np.float32(0.55) - np.float32(2.5) * across
            alpha = _coverage(across - np.float32(self.BAR / 2), height, width)
            alpha, shade = ((a[:, None, :] if axis == 0 else a[:, :, None]) for a in (alpha, shade))
            _over(image, alpha, [shade] * 3)
        return image


def _weave(name, dx, dy):
    """Returns a pattern in [0, 1] that moves with its shape."""
    if name == "striped":
        return np.clip(0.5 + 1.2 * triangle_wave(dx * np.float32(1 / 0.15)), 0, 1)
    if name == "checked":
        squares = triangle_wave(dx * np.float32(1 / 0.24)) * triangle_wave(dy * np.float32(1 / 0.24))
        return np.clip(0.5 + 2 * squares, 0, 1)
    if name == "plain":
        return np.zeros(np.broadcast_shapes(dx.shape, dy.shape), np.float32)
    raise ValueError(f"unknown weave {name!r}: use striped, checked or plain")


@functools.lru_cache(maxsize=1024)
def _events(world: Bouncing, width: float, height: float, horizon: float):
    """Returns the times (e,) of all collisions up to `horizon`, and positions and velocities (e, n, 2) after each.

    Exact, because between two events all velocities are constant. A longer horizon appends events.
    """
    extent = np.array([width, height])
    position, velocity = world.place * extent + world.nudge, world.velocity
    low, high = world.RADIUS, extent - world.RADIUS
    one, two = np.triu_indices(len(position), 1)
    time, log = 0.0, [(0.0, position, velocity)]
    while time <= horizon:
        with np.errstate(divide="ignore", invalid="ignore"):
            wall = np.where(velocity == 0, np.inf, (np.where(velocity > 0, high, low) - position) / velocity)
            offset, closing = position[one] - position[two], velocity[one] - velocity[two]
            toward, speed2 = np.sum(offset * closing, 1), np.sum(closing**2, 1)
            root = toward**2 - speed2 * (np.sum(offset**2, 1) - 4 * world.RADIUS**2)
            meet = np.where((toward < 0) & (root > 0), (-toward - np.sqrt(np.abs(root))) / speed2, np.inf)
        step = max(0.0, min(wall.min(), meet.min()))
        time, position, velocity = time + step, position + step * velocity, velocity.copy()
        if wall.min() <= meet.min():
            velocity[np.unravel_index(np.argmin(wall), wall.shape)] *= -1
        else:
            a, b = one[np.argmin(meet)], two[np.argmin(meet)]
            normal = (position[a] - position[b]) / np.linalg.norm(position[a] - position[b])
            exchange = np.dot(velocity[a] - velocity[b], normal) * normal
            velocity[a] -= exchange
            velocity[b] += exchange
        log.append((time, position, velocity))
    return tuple(np.array(column) for column in zip(*log))


def bouncing(rng) -> Bouncing:
    count = int(rng.integers(3, 5))
    names = [list(BRIGHT)[i] for i in rng.choice(len(BRIGHT), count, replace=False)]
    shapes = tuple(SHAPES[i] for i in rng.integers(len(SHAPES), size=count))
    weave = tuple(("striped", "checked")[i] for i in rng.integers(2, size=count))
    angle, speed = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.35, 0.6, count)
    ground = rng.choice([name for name in MUTED if name not in names])
    axes = rng.permutation(2)[: rng.integers(1, 3)]
    bars = tuple((int(axis), float(rng.choice([0.0, 0.22])), float(rng.uniform(0, 2 * np.pi))) for axis in axes)
    things = _listed([f"a {w} {name} {shape}" for w, name, shape in zip(weave, names, shapes)])
    fronts = _listed(
        [f"{('an upright', 'a level')[axis]} bar that {'sways' if sway else 'stands still'}" for axis, sway, _ in bars]
    )
    return Bouncing(
        caption=f"{things} bounce off the edges and off one another behind {fronts}, on a {ground} ground",
        shapes=shapes,
        colours=tuple(BRIGHT[name] for name in names),
        weave=weave,
        bars=bars,
        ground=rgb(MUTED[ground]),
        **_launched(rng, angle, speed),
    )


def shapes(rng) -> Bouncing:
    """Returns three plain shapes without bars, the same in every clip: only their motion and the ground differ."""
    names, kinds = ("red", "yellow", "cyan"), SHAPES
    angle, speed = rng.uniform(0, 2 * np.pi, len(names)), rng.uniform(0.35, 0.6, len(names))
    ground = rng.choice(list(MUTED))
    things = _listed([f"a {name} {kind}" for name, kind in zip(names, kinds)])
    return Bouncing(
        caption=f"{things} bounce off the edges and off one another, on a {ground} ground",
        shapes=kinds,
        colours=tuple(BRIGHT[name] for name in names),
        weave=("plain",) * len(names),
        bars=(),
        ground=rgb(MUTED[ground]),
        **_launched(rng, angle, speed),
    )


def _launched(rng, angle, speed) -> dict:
    """Returns drawn places of discs in the four quarters of the frame, and velocities of given angles and speeds."""
    return dict(
        place=rng.permutation([[0.27, 0.27], [0.73, 0.27], [0.27, 0.73], [0.73, 0.73]])[: len(angle)],
        nudge=rng.uniform(-0.07, 0.07, (len(angle), 2)),
        velocity=speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1),
    )
