"""Times the train step and streaming against the same network and solver in PyTorch (`benchmarks.torch_biflow`)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import subject, torch_biflow
from benchmarks.timing import in_turn
from jvflow.biflow.sample import joint, next_frame, stream
from jvflow.data.pipeline import Batch
from jvflow.flow.solver import as_argument
from jvflow.networks import as_field
from jvflow.training.step import train_step

STEPS, FRAMES, ROUNDS = 10, 3, 9
VIDEOS = 16


def measure() -> dict:
    config = subject.config()
    experiment, state = subject.experiment()
    params = jax.tree.map(np.asarray, state.params)
    make = lambda: torch_biflow.DiT(experiment.network.config, params, config.data.size)
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (config.train.batch_size, 2, *config.data.size, 3), dtype=np.uint8)
    frame = rng.uniform(-1, 1, (VIDEOS, *config.data.size, 3)).astype(np.float32)
    solver = experiment.sampler.solver
    epsilon = config.sample.epsilon
    equal = _equal(experiment, state, make().eval(), frame, epsilon, solver)

    # ours
    step = jax.jit(partial(train_step, experiment=experiment, ema=config.optimizer.ema), donate_argnums=0)
    batch = Batch(jnp.asarray(video), jnp.ones(len(video)), jnp.zeros(len(video)))
    current = jax.tree.map(jnp.array, state)
    key = jax.random.key(2)

    def train_ours():
        nonlocal current
        for _ in range(STEPS):
            current, values = step(current, batch, key)
        jax.block_until_ready((current, values))

    field = as_field(experiment.network, state.params)

    def stream_ours():
        frames = stream(field, jnp.asarray(frame)[:, None], jax.random.key(3), **vars(experiment.sampler))
        for _, (x, _) in zip(range(FRAMES), frames):
            np.asarray(x)

    # theirs
    torch.manual_seed(0)
    settings = config.optimizer.to_dict()
    plain, compiled = (
        torch_biflow.Training(make(), config.loss_weights.biflow, settings, compiled=c) for c in (False, True)
    )
    tensor, model = torch.tensor(video), make().eval()

    def train_theirs(training):
        for _ in range(STEPS):
            training.step(tensor)

    def stream_theirs(model):
        x = torch.tensor(frame)
        for _ in range(FRAMES):
            x, _ = torch_biflow.next_frame(model, x, torch.randn_like(x), epsilon, solver.rtol, solver.atol)

    trainings = dict(ours=train_ours, plain=partial(train_theirs, plain), compiled=partial(train_theirs, compiled))
    compiled_model = torch.compile(model)
    streams = dict(
        ours=stream_ours, plain=partial(stream_theirs, model), compiled=partial(stream_theirs, compiled_model)
    )
    trained, streamed = in_turn(trainings, ROUNDS), in_turn(streams, ROUNDS)
    return dict(
        what="seconds of PyTorch over seconds of jvflow: above 1, jvflow is faster",
        train_step=dict(
            ratio_plain=trained["plain"] / trained["ours"],
            ratio_compiled=trained["compiled"] / trained["ours"],
            seconds={name: s / STEPS for name, s in trained.items()},
        ),
        streaming=dict(
            ratio_plain=streamed["plain"] / streamed["ours"],
            ratio_compiled=streamed["compiled"] / streamed["ours"],
            seconds_per_frame_of_all_videos={name: s / FRAMES for name, s in streamed.items()},
        ),
        equal=equal,
        protocol=dict(
            batch=len(video),
            videos=VIDEOS,
            size=list(config.data.size),
            parameters=sum(p.size for p in jax.tree.leaves(params)),
            solver=f"{solver.method}, rtol {solver.rtol}, atol {solver.atol}, per sample",
            rounds=ROUNDS,
            threads=torch.get_num_threads(),
            plain="eager",
            compiled="torch.compile of the network",
        ),
    )


def _equal(experiment, state, model, frame, epsilon, solver) -> dict:
    """Returns the differences of both networks and both solvers; raises ValueError if they do not compute the same."""
    b = len(frame)
    t, alpha = np.linspace(0.1, 0.9, b, dtype=np.float32), np.linspace(0, 1, b, dtype=np.float32)
    field = as_field(experiment.network, state.params)
    ours = jax.jit(field)(jnp.asarray(frame)[:, None], (jnp.asarray(t), jnp.asarray(alpha)), None)
    with torch.no_grad():
        theirs = model(*map(torch.tensor, (frame, t, alpha)))
    network = max(float(np.abs(np.asarray(a[:, 0]) - b.numpy()).max()) for a, b in zip(ours, theirs))

    key = jax.random.key(4)
    noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (1, *frame.shape[1:])))(jnp.arange(b))
    solution = next_frame(
        field,
        jnp.asarray(frame)[:, None],
        key,
        jnp.arange(b),
        jnp.float32(epsilon),
        jnp.float32(0),
        None,
        curve=joint,
        solver=as_argument(solver, frame),
        clamp=(-1.0, 1.0),
    )
    x, nfe_torch = torch_biflow.next_frame(
        model, torch.tensor(frame), torch.tensor(np.asarray(noise[:, 0])), epsilon, solver.rtol, solver.atol
    )
    nfe, solved = solution.nfe, float(np.abs(np.asarray(solution.x[:, -1]) - x.numpy()).max())
    if network > 1e-4 or solved > 1e-3 or not np.array_equal(nfe, nfe_torch):
        raise ValueError(
            f"not the same computation: the networks differ by {network}, the frames by {solved}, "
            f"NFE {nfe} and {nfe_torch}"
        )
    return dict(network=network, frame=solved, nfe_per_frame=float(np.mean(nfe)))
