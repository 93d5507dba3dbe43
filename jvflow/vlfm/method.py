"""Video Latent Flow Matching: a clip as one continuous flow of the latents of an image model.

    psi(t) = sigma(t) z + mu(t)                   the path of a clip, z ~ N(0, I)            (1)   paper, eq. 3
    L      = E |F(psi(t), c, t) - psi'(t)|^2      t in [0, T], c the caption                 (2)   paper, section 4.3
    F(x)   = sigma'/sigma (x - mu) + mu'          the minimum for one clip                   (3)   paper, Theorem 4.1
    F(x)   = sum_i p_i(x) F_i(x)                  for clips i, p_i ~ exp(-|x - mu_i|^2 / (2 sigma^2))    (4)
    u(t)   = x(t) - sigma(t) z                    read-out without the noise, z = x(0) - mu(0)           (5)

t is video time in seconds: frame k of N at R frames per second is at t = k / R, and T = N / R. `latent_path.latent`
defines mu and sigma. The state is the latent of one frame, (b, 1, h, w, c): one solve gives a whole clip, with outputs
at any times. The paper prints (3) with z in place of x = psi(t), and integrates that form in its Theorem F.4.

During the first frame sigma falls from 1 to its minimum, and psi' is many times larger than afterwards. So the errors
in (2) are divided by the size of psi',

    c(t)^2 = sigma'(t)^2 + m^2,    m the root mean square of mu'                             (6)

Afterwards sigma'/sigma is 0, and errors of F stay in the state. A network can return the mean and its slope, (a, b):

    F(x) = sigma'/sigma (x - a) + m b,    u(t) = a(x(t), t)                                  (7)

Each read-out then comes from the whole state, and errors of the solve do not add up. This needs much noise at the
frames (s0 = 0.5; the paper has 0.01). With little noise the network copies mu from x = mu + sigma z and does not learn
it from t, but in sampling x is no more accurate than the network. The read-out (7) does not contain this noise.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jvflow.assembly import Latents, build_network, build_solver, choose, drop_captions
from jvflow.data.pipeline import Window
from jvflow.flow.field import Bound, Condition, Field, as_partial, expand_like
from jvflow.flow.path import Path, squared_error
from jvflow.method import Method
from jvflow.vlfm import data, hippo
from jvflow.vlfm.direct import direct_loss, regress
from jvflow.vlfm.evaluate import evaluate, preview
from jvflow.vlfm.latent_path import ClipTimeDensity, SigmaSchedule, draw, latent
from jvflow.vlfm.rules import RULES, unread_entries
from jvflow.vlfm.sample import ClipSampler, sample, sample_frames, sampling_program

Frames = Float[Array, "b n h w c"]
OBJECTIVES = ("vlfm", "direct")  # the paper's method, and its ablation without a flow


# --- objective ------------------------------------------------------------------------------------


def loss(
    field: Field,
    frames: Frames,
    keys: Key[Array, "b"],
    condition: Condition | None = None,
    *,
    path: Path,
    velocity_scale: float | None = None,
    times: ClipTimeDensity = ClipTimeDensity(),
    mean_weight: float = 0.0,
) -> Float[Array, "b"]:
    """Computes the objective (2), one number per example.

    Args:
      field: takes s = (t,); its first output is F. A second output, the mean of (7), is fitted to mu with the weight
        `mean_weight`.
      frames: latents of clips, in order, with as many frames as `path` has.
      path: a path made by `latent_path.latent`.
      velocity_scale: m of (6), in latents per second; None leaves the errors unscaled, as in the paper.
      times: the density of t.
    """
    t, ends = draw(frames, keys, times, path)
    x, (velocity,) = path(ends, (t,))
    outputs = field(x, (t,), condition)
    per = 1.0 if velocity_scale is None else jnp.square(time_rate(path.position.sigma, t)[1]) + velocity_scale**2  # (6)
    total = squared_error(outputs[0], velocity) / per
    if mean_weight:
        if len(outputs) < 2:
            raise ValueError(
                f"mean_weight={mean_weight} fits a second output to mu, but the field has {len(outputs)} output: "
                "use `mean_to_velocity`, or mean_weight=0"
            )
        total = total + mean_weight * squared_error(outputs[1], jax.vmap(path.position.mean)(ends.frames, t))
    return total


def time_rate(function: Callable, t):
    """Returns the values and the derivatives of a function of time, at times (b,)."""
    return jax.jvp(function, (t,), (jnp.ones_like(t),))


# --- fields ---------------------------------------------------------------------------------------


def mean_to_velocity(field: Field, path: Path, velocity_scale: float) -> Field:
    """Returns the field (7) with outputs (F, mean); `field` returns a mean, and its slope over `velocity_scale`."""
    return jax.tree_util.Partial(Bound(_mean_to_velocity, (path, velocity_scale)), as_partial(field))


def _mean_to_velocity(path, velocity_scale, field, x, s, condition=None):
    mean, slope = field(x, s, condition)
    sigma, change = time_rate(path.position.sigma, s[0])
    return expand_like(change / sigma, x) * (x - mean) + velocity_scale * slope, mean  # (7)


def scale_velocity(field: Field, path: Path, velocity_scale: float) -> Field:
    """Returns the field c(t) f(x / sqrt(1 + sigma^2), t), with c of (6); f maps data of unit size to such data."""
    return jax.tree_util.Partial(Bound(_scale_velocity, (path, velocity_scale)), as_partial(field))


def _scale_velocity(path, velocity_scale, field, x, s, condition=None):
    sigma, change = time_rate(path.position.sigma, s[0])
    size = jnp.sqrt(jnp.square(change) + velocity_scale**2)  # (6)
    outputs = field(x / expand_like(jnp.sqrt(1 + jnp.square(sigma)), x), s, condition)
    return tuple(expand_like(size, x) * output for output in outputs)


# --- an experiment from a config ------------------------------------------------------------------

TO_VELOCITY = {"scaled_velocity": scale_velocity, "clean": mean_to_velocity, "velocity": None}
"""Functions that turn the network's outputs into velocities, by `config.prediction`; None keeps the outputs."""


def assemble(config, codec, encoder) -> dict:
    """Returns the fields of an `Experiment` that this paper determines."""
    window, settings, shape = Window(**config.window), config.path, codec.latent_shape((1, *config.data.size))
    sigma = SigmaSchedule(config.data.fps / window.every)
    if config.objective == "vlfm":
        sigma = SigmaSchedule(sigma.frame_rate, settings.sigma, settings.sigma_min, settings.alpha)
    order = hippo.default_order(window.frames) if settings.order is None else settings.order
    printed = {key: settings[key] for key in ("basis", "allow_divergence") if key in settings}  # not in earlier runs
    path = latent(window.frames, order, sigma, settings.rule, ramp=settings.ramp, **printed)
    options = dict(guidance=config.sample.guidance)
    if config.objective == "vlfm":
        scale = settings.velocity_scale * sigma.frame_rate if settings.velocity_scale else None
        to_velocity = choose(TO_VELOCITY, "prediction", config.prediction)
        _check_prediction(config)
        make, means = sample_frames, config.prediction == "clean"
        weight, times = config.mean_weight if means else 0.0, ClipTimeDensity(**config.times)
        objective = partial(loss, path=path, velocity_scale=scale, times=times, mean_weight=weight)
        to_field = partial(to_velocity, path=path, velocity_scale=scale) if to_velocity else lambda field: field
        options |= dict(solver=build_solver(config.sample), sigma=sigma, readout=config.sample.readout)
    else:
        make, means, to_field, objective = regress, False, lambda field: field, partial(direct_loss, path=path)
    sizes = dict(coordinates=1, velocities=2 if means else 1, text_width=encoder.width if encoder else 0)
    sampler = ClipSampler(path, shape[1:], make, options)
    fields = dict(shapes=(shape,), windows=(window,), sampler=sampler, start_frames=window.frames)
    network = build_network(config, [shape], encoder, to_field, **sizes)
    return dict(fields, network=network, loss=partial(clip_loss, objective, config.caption_dropout if encoder else 0.0))


def _check_prediction(config) -> None:
    name, scale = config.prediction, config.path.velocity_scale
    if TO_VELOCITY[name] and not scale:
        raise ValueError(
            f"prediction {name!r} needs config.path.velocity_scale above 0, got {scale}: `jvflow encode` prints it; or "
            "use 'velocity'"
        )
    if config.sample.readout == "mean" and name != "clean":
        raise ValueError(
            f"config.sample.readout 'mean' needs prediction 'clean', and the prediction is {name!r}: use 'noise'"
        )


def clip_loss(
    objective: Callable, dropout: float, field: Field, latents: Latents, condition: Condition | None, keys, key
) -> tuple[Float[Array, "b"], dict]:
    """Computes the loss of whole clips; a fraction `dropout` of them trains without captions."""
    del key
    return objective(field, latents.mean, keys, drop_captions(condition, keys, dropout)), {}


METHOD = Method(
    name="vlfm",
    objectives=OBJECTIVES,
    assemble=assemble,
    preview=preview,
    sample=sample,
    evaluate=evaluate,
    sampling_program=sampling_program,
    video_codecs=False,
    encode=data.encode,
    unread=unread_entries,
    rules=RULES,
)
