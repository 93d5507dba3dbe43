"""A maze with brick walls, seen by a walker inside it. Rays are cast for each column of pixels.

The unit of length is a cell of the maze. On its map x runs right and y runs down, so angles grow when the walker turns
right.
"""

from dataclasses import dataclass

import numpy as np

from jvflow.data.scenes_shapes import rgb, triangle_wave


@dataclass(frozen=True, eq=False)
class Maze:
    """A walk through a closed maze of unit cells, with a right hand on the wall, in an endless loop.

    Attributes:
      walls: bool (2, n + 1, n): whether there is a wall on the line x = k at cell y = j (`[0, k, j]`), and on the
        line y = k at cell x = i (`[1, k, i]`).
      tone: brightness of each wall, with the shape of `walls`.
      accent: which walls have the second colour, with the shape of `walls`.
      entry: where the walk enters each cell of the loop (m, 2), the middle of an edge.
      heading: angle at that entry (m,), in radians.
      turn: 1 right, 0 straight on, -1 left (m,), in that cell.
      colours: main colour of walls, second colour, floor, ceiling (4, 3).
    """

    caption: str
    walls: np.ndarray
    tone: np.ndarray
    accent: np.ndarray
    entry: np.ndarray
    heading: np.ndarray
    turn: np.ndarray
    colours: np.ndarray

    SPEED = 0.5
    EYE = 0.4  # height of the camera and half the height of the walls
    RAYS = 4  # columns of samples in each column of pixels

    def camera(self, seconds):
        """Returns position (f, 2) and heading (f,) modulo a turn, on lines and quarter circles of radius 1/2."""
        ends = np.cumsum(np.where(self.turn == 0, 1, np.pi / 4))
        walked = seconds * self.SPEED % ends[-1]
        cell = np.minimum(np.searchsorted(ends, walked, side="right"), len(ends) - 1)
        walked = walked - np.concatenate([[0], ends])[cell]
        heading, turn = self.heading[cell], self.turn[cell]
        angle = 2 * walked * turn
        forward = np.where(turn == 0, walked, np.sin(np.abs(angle)) / 2)
        aside = turn * (1 - np.cos(angle)) / 2
        ahead = np.stack([np.cos(heading), np.sin(heading)], -1)
        right = np.stack([-ahead[:, 1], ahead[:, 0]], -1)
        return self.entry[cell] + forward[:, None] * ahead + aside[:, None] * right, heading + angle

    def draw(self, seconds, height, width):
        focal = min(height, width) / 2  # pixels: 90 degrees across the shorter side
        position, heading = self.camera(seconds)
        ahead = np.stack([np.cos(heading), np.sin(heading)], -1)
        right = np.stack([-ahead[:, 1], ahead[:, 0]], -1)
        row = np.arange(height) + 0.5 - height / 2
        columns = np.arange(width * self.RAYS).reshape(width, self.RAYS).T / self.RAYS + 0.5 / self.RAYS
        image = self._ground(position, ahead, right, row, np.arange(width) + 0.5 - width / 2, focal)
        rays = ahead[:, None, None] + ((columns - width / 2) / focal)[:, :, None] * right[:, None, None]
        depth, place, tone, accent = self.cast(position, rays)
        covered, main, other = (np.zeros((len(seconds), height, width), np.float32) for _ in range(3))
        for ray in range(self.RAYS):
            scale = np.float32(focal / depth[:, ray])[:, None]  # pixels per cell (f, 1, w)
            inside = np.clip(np.float32(self.EYE) * scale + (0.5 - np.abs(np.float32(row)))[:, None], 0, 1)
            light = np.float32(tone[:, ray] * _haze(depth[:, ray]) / self.RAYS)[:, None]
            lit = inside * light * _bricks(np.float32(row)[:, None] / scale, np.float32(place[:, ray])[:, None], scale)
            second = lit * np.float32(accent[:, ray])[:, None]
            covered += inside * np.float32(1 / self.RAYS)
            main += lit - second
            other += second
        image *= 1 - covered[:, None]
        image += main[:, None] * self.colours[0][:, None, None] + other[:, None] * self.colours[1][:, None, None]
        return image

    def cast(self, position, rays):
        """Returns depth, place along the wall, tone and accent of the first wall that each ray (f, ..., 2) meets."""
        found = []
        lines = np.arange(self.walls.shape[1])
        rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)[..., None]
        position = position[:, None, None, :, None]
        for axis in (0, 1):
            depth = (lines - position[..., axis, :]) / rays[..., axis, :]
            place = position[..., 1 - axis, :] + depth * rays[..., 1 - axis, :]
            cell = np.clip(np.floor(place), 0, len(lines) - 2).astype(int)
            depth = np.where((depth > 0) & self.walls[axis, lines, cell], depth, np.inf)
            line = np.argmin(depth, -1, keepdims=True)
            depth, place, cell = (np.take_along_axis(a, line, -1)[..., 0] for a in (depth, place, cell))
            line = line[..., 0]
            found.append((depth, place, self.tone[axis, line, cell], self.accent[axis, line, cell]))
        nearer = found[0][0] < found[1][0]
        return tuple(np.where(nearer, a, b) for a, b in zip(*found))

    def _ground(self, position, ahead, right, row, column, focal):
        """Draws a checkered floor below the horizon and a plain ceiling above."""
        reach = self.EYE * focal / np.maximum(np.abs(row), 0.5)
        image = np.empty((len(position), 3, len(row), len(column)), np.float32)
        image[:] = (self.colours[3][:, None] * np.float32(_haze(reach)))[:, :, None]
        below = row > 0
        reach, check = reach[below], 2 * reach[below] / row[below]  # `check`: how many checks a pixel spans in depth
        checks = np.float32(np.clip(1.6 - 1.6 * check, 0, 1))[:, None]
        sharp = np.float32(np.clip(0.7 / check, 1, 4))[:, None]
        for axis in (0, 1):
            start = np.float32(position[:, axis, None] + reach * ahead[:, axis, None])
            slope = np.float32(reach / focal * right[:, axis, None])
            wave = triangle_wave(start[:, :, None] + slope[:, :, None] * np.float32(column))
            checks = checks * np.clip(sharp * wave, -1, 1)
        shade = (1 + np.float32(0.45) * checks) * np.float32(_haze(reach))[:, None]
        image[:, :, below] = shade[:, None] * self.colours[2][:, None, None]
        return image


def _haze(depth):
    """Returns the brightness that is left at a distance in cells."""
    return np.exp(-0.22 * depth)


def _bricks(up, along, scale):
    """Returns the brightness of a brick wall at a height and a place along it, in cells, at `scale` pixels per cell.

    The joints fade where a course has fewer than 4 pixels, and vanish at 1.5.
    """
    course = np.float32(0.2)
    visible = np.float32(0.5) * np.clip((course * scale - np.float32(1.5)) / np.float32(2.5), 0, 1)
    up = up * (1 / course)
    joint = np.abs(up - np.rint(up))
    shifted = 2 * along + np.float32(0.25) * triangle_wave(np.float32(0.5) * np.floor(up))
    upright = np.float32(2.5) * np.abs(shifted - np.rint(shifted))
    return 1 - visible * np.clip(np.float32(1.5) - np.minimum(joint, upright) * np.float32(10), 0, 1)


STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])  # each is a right turn from the last


def _is_open(walls, cell, way) -> bool:
    """Returns whether one can leave a cell along STEPS[way]."""
    axis = way % 2
    return not walls[axis, cell[axis] + (way < 2), cell[1 - axis]]


def _carve(rng, cells) -> np.ndarray:
    """Returns the walls of a random maze: a depth-first spanning tree, whose dead ends are opened."""
    walls = np.ones((2, cells + 1, cells), bool)

    def remove(cell, way):
        walls[way % 2, cell[way % 2] + (way < 2), cell[1 - way % 2]] = False

    def inside(cell):
        return min(cell) >= 0 and max(cell) < cells

    neighbour = lambda cell, way: (cell[0] + int(STEPS[way, 0]), cell[1] + int(STEPS[way, 1]))
    stack, seen = [(0, 0)], {(0, 0)}
    while stack:
        new = [w for w in range(4) if inside(neighbour(stack[-1], w)) and neighbour(stack[-1], w) not in seen]
        if not new:
            stack.pop()
            continue
        way = new[rng.integers(len(new))]
        remove(stack[-1], way)
        stack.append(neighbour(stack[-1], way))
        seen.add(stack[-1])
    for cell in sorted(seen):
        shut = [w for w in range(4) if not _is_open(walls, cell, w)]
        if len(shut) == 3:
            inner = [w for w in shut if inside(neighbour(cell, w))]
            remove(cell, inner[rng.integers(len(inner))])
    return walls


def _longest_loop(walls) -> list[tuple]:
    """Returns the longest walk along the right-hand wall: (cell, way in, turn) for each of its cells.

    The rule permutes the pairs of cell and way, so every walk is a loop.
    """
    cells = walls.shape[2]
    best, seen = [], set()
    for start in np.ndindex(cells, cells, 4):
        loop, state = [], start
        if not _is_open(walls, start[:2], (start[2] + 2) % 4):
            continue
        while state not in seen:
            seen.add(state)
            cell, way = state[:2], state[2]
            turn = next(turn for turn in (1, 0, -1) if _is_open(walls, cell, (way + turn) % 4))
            loop.append((cell, way, turn))
            out = (way + turn) % 4
            state = (cell[0] + int(STEPS[out, 0]), cell[1] + int(STEPS[out, 1]), out)
        best = max(best, loop, key=len)
    return best


def maze(rng) -> Maze:
    names = {
        "red": (0.85, 0.25, 0.18),
        "yellow": (0.95, 0.8, 0.25),
        "green": (0.3, 0.75, 0.3),
        "blue": (0.3, 0.45, 0.95),
        "purple": (0.68, 0.35, 0.85),
        "white": (0.92, 0.92, 0.88),
    }
    grounds = {"grey": (0.55, 0.55, 0.55), "brown": (0.55, 0.4, 0.25), "teal": (0.2, 0.52, 0.5)}
    main, other = (list(names)[i] for i in rng.choice(len(names), 2, replace=False))
    floor = list(grounds)[rng.integers(len(grounds))]
    walls = _carve(rng, 8)
    cells, ways, turns = (np.array(column) for column in zip(*_longest_loop(walls)))
    first = rng.integers(len(turns))
    cells, ways, turns = (np.roll(column, -first, axis=0) for column in (cells, ways, turns))
    return Maze(
        caption=f"a walk through a maze with {main} brick walls, some of them {other}, and a {floor} checkered floor",
        walls=walls,
        tone=np.array([1.0, 0.72])[:, None, None] * rng.uniform(0.85, 1.05, walls.shape),
        accent=rng.uniform(size=walls.shape) < 0.25,
        entry=cells + 0.5 - STEPS[ways] / 2,
        heading=np.pi / 2 * ways,
        turn=turns,
        colours=rgb([names[main], names[other], grounds[floor], (0.5, 0.68, 0.85)]),
    )
