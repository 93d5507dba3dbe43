"""Procedural scenes: functions of (seed, time, size), smooth in time, with the documented motion."""

import dataclasses

import numpy as np
import pytest

from jvflow.data import procedural

KINDS = pytest.mark.parametrize("kind", procedural.KINDS)
MINUTE = np.arange(0, 60, 1 / 64)


def difference(a, b):
    """Returns the mean absolute difference in grey levels, over all but the first axis."""
    return np.abs(a.astype(float) - b).reshape(len(a), -1).mean(1)


@KINDS
def test_a_seed_is_a_scene(kind):
    times = np.arange(4) / 16
    one, same, other = (procedural.scene(kind, seed) for seed in (3, 3, 4))
    assert one == same and one.caption == same.caption and one != other
    np.testing.assert_array_equal(one.render(times, 32), same.render(times, 32))
    assert difference(one.render(times, 32), other.render(times, 32)).min() > 5
    assert len({procedural.scene(kind, seed).caption for seed in range(20)}) > 4


@KINDS
def test_frames_do_not_depend_on_one_another(kind):
    scene = procedural.scene(kind, 0)
    times = np.concatenate([np.linspace(0, 40, 90), [3.21, 0.1]])  # out of order, more than one chunk
    together = scene.render(times, (24, 33))
    assert together.shape == (92, 24, 33, 3) and together.dtype == np.uint8
    separate = np.concatenate([procedural.scene(kind, 0).render([t], (24, 33)) for t in times])
    np.testing.assert_array_equal(together, separate)
    assert scene.render([], 32).shape == (0, 32, 32, 3)


@KINDS
@pytest.mark.parametrize("size", [32, (64, 48)])
def test_change_is_linear_in_a_small_time(kind, size):
    times = np.linspace(0.3, 20, 60)
    change = []
    for dt in (1 / 16, 1 / 32, 1 / 64):
        scenes = [procedural.scene(kind, seed) for seed in range(4)]
        change.append(np.mean([difference(s.render(times, size), s.render(times + dt, size)) for s in scenes]))
    ratios = np.divide(change[:-1], change[1:])
    assert np.all((ratios > 1.6) & (ratios < 2.2)), (change, ratios)


@KINDS
def test_a_frame_half_a_step_later_lies_between_its_neighbours(kind):
    times, dt = np.linspace(0, 20, 100), 1 / 16
    scene = procedural.scene(kind, 1)
    before, middle, after = (scene.render(times + k * dt, 32) for k in (0, 0.5, 1))
    whole = difference(before, after)
    nearer = (difference(before, middle) < whole) & (difference(middle, after) < whole)
    assert nearer.mean() > 0.95  # a bounce in between may look the same on both sides
    blend = (before.astype(float) + after) / 2
    assert difference(middle, blend).mean() < 0.4 * whole.mean()


@KINDS
def test_no_jumps(kind):
    """Checks over 20 s that no step of 1/64 s changes a frame by much more than the median step."""
    times = np.arange(0, 20, 1 / 64)
    for seed in range(3):
        frames = procedural.scene(kind, seed).render(times, 32)
        change = difference(frames[:-1], frames[1:])
        assert change.min() > 0 and change.max() < 6 * np.median(change)


@KINDS
def test_edges_are_soft(kind):
    """Checks that no pixel of a 32 x 32 frame changes by more than a quarter of the range in 1/256 s."""
    times = np.linspace(0, 20, 300)
    for seed in range(3):
        scene = procedural.scene(kind, seed)
        change = scene.render(times, 32).astype(int) - scene.render(times + 1 / 256, 32)
        assert np.abs(change).max() < 64


@KINDS
def test_larger_pictures_show_the_same(kind):
    scene, times = procedural.scene(kind, 2), np.arange(5) / 2
    large = scene.render(times, 128).reshape(5, 32, 4, 32, 4, 3).mean((2, 4))
    assert difference(scene.render(times, 32), large).max() < 8


def on_flat_ground(seed, **change):
    """Returns a comet scene without its stripes."""
    scene = procedural.scene("comets", seed)
    world = dataclasses.replace(scene.world, bright=scene.world.dark, **change)
    return dataclasses.replace(scene, world=world)


@pytest.mark.parametrize("shape", ["disc", "square", "triangle"])
def test_a_comet_shows_its_heading(shape):
    """Checks that a comet right of the middle flies down, and that its picture is not symmetric up and down."""
    red = on_flat_ground(0).world.colours[:1]
    scene = on_flat_ground(0, shapes=(shape,), colours=red, angle=np.array([0.0]))
    (frame,) = scene.render([0.0], 32).astype(int)
    change = np.abs(frame - frame[::-1]).max(-1)
    assert (change > 40).sum() > 15  # pixels
    later = scene.render([0.25], 32)[0].astype(int)
    rows = lambda image: (
        (np.abs(image - image[0, 0]).sum(-1) * np.arange(32)[:, None]).sum() / np.abs(image - image[0, 0]).sum()
    )
    assert rows(later) > rows(frame) + 1


def test_comets_turn_clockwise_at_their_rate():
    """Checks that a quarter of a turn rotates the picture by 90 degrees to the right."""
    for seed in range(4):
        scene = on_flat_ground(seed)
        quarter = np.pi / 2 / scene.world.RATE
        here, there, round_ = scene.render([1.0, 1.0 + quarter, 1.0 + 4 * quarter], 32).astype(int)
        assert np.abs(np.rot90(here, -1) - there).max() <= 1  # rounding
        assert np.abs(here - round_).max() <= 1
        assert np.abs(here - there).max() > 60


def test_comets_are_opposite_one_another():
    for seed in range(50):
        one, other = procedural.scene("comets", seed).world.angle
        assert other - one == pytest.approx(np.pi)


def test_stripes_show_their_drift():
    """Checks that brightness rises steeply and falls slowly along the drift, which goes left."""
    for seed in range(6):
        scene = procedural.scene("comets", seed)
        world = dataclasses.replace(scene.world, shapes=())
        brightness = dataclasses.replace(scene, world=world).render([0.0], 64)[0].astype(float).sum(-1)
        along = -np.gradient(brightness)[1]
        rising = (along > 0.5).sum() / (np.abs(along) > 0.5).sum()
        assert 0.05 < rising < 0.4
        later = dataclasses.replace(scene, world=world).render([1 / 16], 64)[0].astype(float).sum(-1)
        moved = world.DRIFT_SPEED / 16 * 64  # pixels; brightness is carried along
        inner = np.abs(along) < np.quantile(np.abs(along), 0.6)
        np.testing.assert_allclose((later - brightness)[inner].mean(), -moved * along[inner].mean(), rtol=0.35)


@pytest.mark.parametrize("extent", [(1.0, 1.0), (1.6, 1.0)])
def test_bouncing_is_elastic(extent):
    for seed in range(4):
        world = procedural.scene("bouncing", seed).world
        position, velocity = world.motion(MINUTE, np.array(extent))
        energy = np.sum(velocity**2, (1, 2))
        np.testing.assert_allclose(energy, energy[0], rtol=1e-9)
        assert np.all(position >= world.RADIUS - 1e-9) and np.all(position <= extent - np.float64(world.RADIUS) + 1e-9)
        np.testing.assert_allclose(position.min((0, 1)), world.RADIUS, atol=0.02)  # the discs reach the edges
        np.testing.assert_allclose(position.max((0, 1)), np.array(extent) - world.RADIUS, atol=0.02)
        apart = np.linalg.norm(position[:, :, None] - position[:, None], axis=-1)
        one, two = np.triu_indices(position.shape[1], 1)
        assert apart[:, one, two].min() >= 2 * world.RADIUS - 1e-9
        assert apart[:, one, two].min() < 2 * world.RADIUS + 0.01  # the discs touch
        moved = np.diff(position, axis=0) * 64
        assert np.sqrt(np.sum(moved**2, -1)).max() <= np.sqrt(energy[0]) + 1e-9  # no disc jumps


def test_bouncing_conserves_momentum_between_walls():
    """Checks that each change of velocity is a sign flip of one disc at an edge, or keeps the total momentum."""
    world = procedural.scene("bouncing", 1).world
    position, velocity = world.motion(np.arange(0, 60, 1 / 2048), np.ones(2))
    (when,) = np.nonzero(np.any(np.diff(velocity, axis=0), (1, 2)))
    pairs = 0
    for k in when:
        flipped = velocity[k + 1] == -velocity[k]
        if not np.any(flipped & (velocity[k] != 0)):
            pairs += 1
            np.testing.assert_allclose(velocity[k + 1].sum(0), velocity[k].sum(0), atol=1e-12)
    assert pairs > 10


def test_a_longer_simulation_begins_alike():
    times = np.linspace(0, 7, 50)
    fresh, long = (procedural.scene("bouncing", 5) for _ in range(2))
    long.render([100.0], 32)
    np.testing.assert_array_equal(fresh.render(times, 32), long.render(times, 32))


def test_walk_keeps_off_the_walls_and_turns_smoothly():
    for seed in range(4):
        world = procedural.scene("maze", seed).world
        position, heading = world.camera(MINUTE)
        steps = np.diff(position, axis=0)
        speed = np.linalg.norm(steps, axis=1) * 64
        assert np.all(np.abs(speed - world.SPEED) < 2e-4 * world.SPEED)
        turned = np.angle(np.exp(1j * np.diff(heading)))
        assert np.abs(turned).max() <= 2 * world.SPEED / 64 + 1e-9 and np.abs(turned).max() > 0
        middle = np.exp(1j * (heading[:-1] + turned / 2))  # the camera always moves forward
        np.testing.assert_allclose(steps, world.SPEED / 64 * np.stack([middle.real, middle.imag], 1), atol=1e-4)
        cells = world.walls.shape[2]
        for axis in (0, 1):
            line = np.rint(position[:, axis]).astype(int)
            beside = np.floor(position[:, 1 - axis]).astype(int)
            assert beside.min() >= 0 and beside.max() < cells
            near = np.abs(position[:, axis] - line) < 0.3
            assert not np.any(near & world.walls[axis, line, beside])


def test_walk_follows_the_right_hand_wall_in_a_loop():
    world = procedural.scene("maze", 0).world
    length = np.sum(np.where(world.turn == 0, 1, np.pi / 4))
    times = np.array([0.3, 7.7])
    for a, b in zip(world.camera(times), world.camera(times + 3 * length / world.SPEED)):
        np.testing.assert_allclose(a, b, atol=1e-9)
    assert len(world.turn) > 20
    direction = np.rint(np.stack([np.cos(world.heading), np.sin(world.heading)], 1)).astype(int)
    centre = world.entry + direction / 2
    for middle, ahead, turn in zip(centre, direction, world.turn):
        right = np.array([-ahead[1], ahead[0]])
        for way, allowed in ((right, turn == 1), (ahead, turn == 0)):
            axis = int(way[0] == 0)
            edge = middle + way / 2
            shut = world.walls[axis, int(np.rint(edge[axis])), int(np.floor(middle[1 - axis]))]
            assert shut != allowed
            if allowed:
                break


def test_maze_has_a_way_to_everywhere_and_no_dead_end():
    for seed in range(5):
        walls = procedural.scene("maze", seed).world.walls
        cells = walls.shape[2]
        assert walls[:, [0, -1]].all()
        doors = {(i, j): [] for i, j in np.ndindex(cells, cells)}
        for k, j in np.ndindex(cells - 1, cells):
            if not walls[0, k + 1, j]:
                doors[k, j].append((k + 1, j)), doors[k + 1, j].append((k, j))
            if not walls[1, k + 1, j]:
                doors[j, k].append((j, k + 1)), doors[j, k + 1].append((j, k))
        assert min(map(len, doors.values())) >= 2
        reached, front = {(0, 0)}, [(0, 0)]
        while front:
            front = [b for a in front for b in doors[a] if b not in reached]
            reached.update(front)
        assert len(reached) == cells**2


def test_rays_end_at_the_nearest_wall():
    """Compares with marching along each ray in steps of 0.002 cells."""
    world = procedural.scene("maze", 0).world
    position = world.camera(np.array([2.2]))[0]
    angle = np.linspace(0.01, 2 * np.pi, 40)
    rays = np.stack([np.cos(angle), np.sin(angle)], -1)[None, None]
    depth = world.cast(position, rays)[0][0, 0]
    for ray, reach in zip(rays[0, 0], depth):
        path = position[0] + np.arange(0, 12, 0.002)[:, None] * ray
        cell = np.clip(np.floor(path).astype(int), -1, 8)
        hit = len(path)
        for k in np.nonzero(np.any(np.diff(cell, axis=0), 1))[0]:
            axis = int(cell[k + 1, 0] == cell[k, 0])
            if world.walls[axis, max(cell[k, axis], cell[k + 1, axis]), cell[k, 1 - axis]]:
                hit = k + 1
                break
        assert abs(hit * 0.002 - reach) < 0.01


def where_red(frame):
    """Returns the sine and cosine of the red body's angle around the middle, with y pointing down."""
    red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
    y, x = np.nonzero((red > 215) & (green < 60) & (blue < 60))
    place = np.array([y.mean(), x.mean()]) - (len(frame) - 1) / 2
    return place / np.linalg.norm(place)


def test_captions_describe_the_scene():
    for seed in range(20):
        comets = procedural.scene("comets", seed)
        assert comets.caption.startswith("a red square and a green triangle circle clockwise, the square at the ")
        assert comets.caption.endswith(" at first, over blue stripes that drift left")
        heights, sides = where_red(comets.render([0.0], 64)[0])
        assert ("top" in comets.caption) == (heights < -0.38) and ("bottom" in comets.caption) == (heights > 0.38)
        assert (" left at" in comets.caption) == (sides < -0.38) and ("right" in comets.caption) == (sides > 0.38)
        bouncing = procedural.scene("bouncing", seed)
        assert bouncing.caption.count(" bar ") == len(bouncing.world.bars)
        for shape, weave in zip(bouncing.world.shapes, bouncing.world.weave):
            assert shape in bouncing.caption and weave in bouncing.caption
        plain = procedural.scene("shapes", seed)
        assert plain.caption.startswith("a red disc, a yellow square and a cyan triangle bounce off the edges")
        assert "bar" not in plain.caption and plain.world.bars == ()
    assert "brick walls" in procedural.scene("maze", 0).caption


def test_mistakes_raise_value_error():
    with pytest.raises(ValueError, match="unknown kind 'clouds': use one of maze, comets, bouncing, shapes"):
        procedural.scene("clouds", 0)
    scene = procedural.scene("comets", 0)
    for size in (7, (32, 4)):
        with pytest.raises(ValueError, match="at least 8"):
            scene.render([0.0], size)
    for times in ([0.0, -0.1], [np.nan], 1.0):
        with pytest.raises(ValueError, match="finite seconds >= 0"):
            scene.render(times, 32)
