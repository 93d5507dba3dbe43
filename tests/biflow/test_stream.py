"""Streams of Bi-flow: noise, context, one program for all frames, and errors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvflow.biflow import sample
from jvflow.biflow.sample import backward, joint, plain, stream
from jvflow.flow.solver import Solution, SolveError, Solver

SHAPE = (4, 1, 2, 2, 3)


def normal(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


def drift(x, s, condition):
    """Returns the velocity 0.1 along t and no noise velocity."""
    return 0.1 * jnp.ones_like(x), jnp.zeros_like(x)


def test_each_frame_starts_from_the_last_and_is_clamped():
    frames = [
        np.asarray(f)
        for f, _ in itertools.islice(stream(drift, jnp.zeros(SHAPE), jax.random.key(0), curve=plain, epsilon=0.0), 15)
    ]
    np.testing.assert_allclose([f.mean() for f in frames[:9]], 0.1 * np.arange(1, 10), atol=1e-5)
    np.testing.assert_array_equal(frames[-1], np.ones(SHAPE))


def test_noise_is_fresh_for_each_frame_and_each_stream():
    frames = [
        np.asarray(f) for f, _ in itertools.islice(stream(drift, jnp.zeros(SHAPE), jax.random.key(0), epsilon=0.1), 5)
    ]
    added = np.diff([np.zeros(SHAPE), *frames], axis=0) - 0.1
    correlation = np.corrcoef(added.reshape(5, -1)) - np.eye(5)
    assert np.abs(correlation).max() < 0.6
    assert not np.allclose(added[0][0], added[0][1])
    assert 0.05 < np.std(added[0]) < 0.15


def test_a_stream_does_not_depend_on_how_many_others_run():
    first = normal(3)
    few = [np.asarray(f) for f, _ in itertools.islice(stream(drift, first[:2], jax.random.key(0)), 3)]
    many = [np.asarray(f) for f, _ in itertools.islice(stream(drift, first, jax.random.key(0)), 3)]
    np.testing.assert_allclose(np.stack(few), np.stack(many)[:, :2], atol=1e-6)


def test_one_program_serves_every_frame_and_every_stream():
    calls = []

    def field(x, s, condition):
        calls.append(1)
        return drift(x, s, condition)

    carried = jax.tree_util.Partial(field)
    list(itertools.islice(stream(carried, jnp.zeros(SHAPE), jax.random.key(0)), 5))
    traced = len(calls)
    list(itertools.islice(stream(carried, jnp.ones(SHAPE), jax.random.key(1), epsilon=0.2), 5))
    assert len(calls) == traced


def test_the_next_frame_is_under_way_before_the_last_is_taken():
    dispatched = []

    def step(past, key):
        dispatched.append(len(dispatched))
        return Solution(past, None, None, jnp.ones(len(past), bool), None)

    frames = sample._frames(step, jnp.zeros(SHAPE), jax.random.key(0))
    next(frames)
    assert len(dispatched) == 2


def test_condiff_streams_from_noise_given_the_last_frame():
    # the exact field of a world in which each frame is the previous one plus 0.1
    field = lambda x, s, c: ((c.context + 0.1 - x) / jnp.maximum(1 - s[0].reshape(-1, 1, 1, 1, 1), 1e-3),)
    frames = stream(
        field,
        jnp.zeros(SHAPE),
        jax.random.key(0),
        curve=plain,
        epsilon=0.0,
        source="noise",
        solver=dict(method="euler", steps=20),
    )
    values = [np.asarray(f) for f, _ in itertools.islice(frames, 3)]
    np.testing.assert_allclose(
        np.stack(values), np.broadcast_to(np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1, 1, 1, 1), (3, *SHAPE)), atol=1e-4
    )


@pytest.mark.parametrize("source", ["frame", "noise"])
def test_a_stream_keeps_its_context_and_goes_on_as_it_moved(source):
    """Uses the exact field of a world at constant speed: two frames determine the next one, one frame does not."""

    def field(x, s, c):
        older, rest = c.context[..., :3], c.context[..., 3:]
        if source == "frame":
            # v = x0 - older, and x = x0 + t v  =>  v = (x - older) / (1 + t)
            return ((x - older) / (1 + s[0].reshape(-1, 1, 1, 1, 1)),)
        return ((2 * rest - older - x) / jnp.maximum(1 - s[0].reshape(-1, 1, 1, 1, 1), 1e-3),)

    speed = jnp.array([0.1, 0.05, -0.1, 0.0]).reshape(4, 1, 1, 1, 1)
    start = speed * jnp.arange(2.0).reshape(1, 2, 1, 1, 1) * jnp.ones((4, 2, 2, 2, 3))
    frames = stream(
        field, start, jax.random.key(0), curve=plain, epsilon=0.0, source=source, solver=dict(method="euler", steps=20)
    )
    got = np.concatenate([np.asarray(f) for f, _ in itertools.islice(frames, 4)], axis=1)
    expected = np.asarray(speed) * np.arange(2.0, 6.0).reshape(1, 4, 1, 1, 1) * np.ones((4, 4, 2, 2, 3))
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_the_context_of_a_stream_gets_fresh_noise_of_its_level():
    contexts = lambda level: [
        np.asarray(f)
        for f, _ in itertools.islice(
            stream(
                lambda x, s, c: (c.context - x,),
                jnp.zeros((64, 2, 2, 2, 3)),
                jax.random.key(0),
                curve=plain,
                epsilon=0.0,
                context_noise=level,
                solver=dict(method="euler", steps=1),
            ),
            2,
        )
    ]
    first, second = contexts(0.2)
    assert 0.17 < first.std() < 0.23 and 0.17 < second.std() < 0.23
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1
    assert not np.any(contexts(0.0))


def hard(x, s, condition):
    """Returns the velocity 0.1; above a value of 0.25 it oscillates so fast that adaptive solves need many steps."""
    return 0.1 + jnp.where(x > 0.25, jnp.sin(1e4 * s[0]).reshape(-1, 1, 1, 1, 1), 0.0), jnp.zeros_like(x)


def broken(x, s, condition):
    """Returns the velocity 0.1; above a value of 0.25 it is NaN."""
    return jnp.where(x > 0.25, jnp.nan, 0.1), jnp.zeros_like(x)


@pytest.mark.parametrize(
    "field, solver, message",
    [
        (
            hard,
            Solver(rtol=1e-4, atol=1e-4, max_steps=20),
            r"^frame 2 of the stream: .* max_steps was reached by row 2 at t = 0\.\d+ after 20",
        ),
        (broken, Solver("euler", steps=4), r"^frame 2 of the stream: .* for 1 of 4 .* not finite in rows \[2\]"),
    ],
)
def test_a_frame_whose_solve_failed_is_an_error(field, solver, message):
    """Checks that the error names the frame, the row and the time reached, and that earlier frames arrive."""
    start = jnp.zeros(SHAPE).at[2].set(0.1)
    frames = stream(field, start, jax.random.key(0), curve=plain, epsilon=0.0, solver=solver)
    np.testing.assert_allclose(next(frames)[0], start + 0.1, atol=1e-5)
    with pytest.raises(SolveError, match=message):
        next(frames)
    with pytest.raises(StopIteration):
        next(frames)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(epsilon=-0.1), "epsilon scales noise and must be 0 or more"),
        (dict(context_noise=-0.1), "context_noise scales noise and must be 0 or more"),
        (dict(curve=backward, frames=jnp.zeros((4, 3, 2, 2, 3))), "the 2 frames before that are not known"),
        (dict(source="nowhere"), "'frame'"),
        (dict(curve=backward, gain=1.0), "gain 1.0 sets the noise of the curve `joint`"),
        (dict(epsilon=0.0, gain=1.0), "up to epsilon 0.0: use this curve and an epsilon above 0"),
        (dict(source="noise"), "plain"),
        (dict(curve=joint, field=lambda x, s, c: (x,)), "1 velocities"),
        (dict(frames=jnp.zeros((2, 2))), r"\(b, n, h, w, c\)"),
    ],
)
def test_errors(options, message):
    options = dict(field=drift, frames=jnp.zeros(SHAPE)) | options
    with pytest.raises(ValueError, match=message):
        next(stream(options.pop("field"), options.pop("frames"), jax.random.key(0), **options))
