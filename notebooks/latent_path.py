# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # The latent path of VLFM, and the field that follows it
#
# $\psi_t = \sigma_t z + \mu_t$: the noise level over video time, the exact field of Theorem 4.1, and clips that are
# read between their frames. The equations are in `jvflow/vlfm/latent_path.py` and `jvflow/vlfm/method.py`.

# %%
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jvflow.flow.solver import Solver
from jvflow.vlfm import generate
from jvflow.vlfm.exact import exact_field
from jvflow.vlfm.latent_path import SigmaSchedule, latent

RATE, FRAMES = 24.0, 24  # one second

# %% [markdown]
# ## The schedule between the frames
#
# The paper has $\sigma_t = (1 - s_0)(\sin^2(\pi N t / T) + e^{-\alpha t}) + s_0$, with $s_0 = 0.01$ and $\alpha = 10$.
# At the frames the sine is 0; half-way between them it is 1. A frame that is decoded half-way is the mean plus noise of
# unit variance, which is 0 dB for latents of unit variance: this schedule cannot interpolate. And with $t$ in seconds,
# $e^{-10 t}$ is still 0.66 at the first of 24 frames. jvflow's default falls once, and stays low.

# %%
paper, default = SigmaSchedule(RATE, kind="paper", alpha=10.0), SigmaSchedule(RATE)
frames, halves = np.arange(1, 25) / RATE, (np.arange(1, 24) + 0.5) / RATE
first = float(paper(jnp.asarray(frames[:1]))[0])
between = np.asarray(paper(jnp.asarray(halves)))
low = max(float(default(jnp.asarray(times)).max()) for times in (frames, halves))
print("1. The noise level sigma at 24 frames per second, for latents of unit variance (0 is no noise):")
print(f"   the paper's: {first:.2f} at the first frame (expected: above 0.65)")
print(f"   the paper's, half-way between frames: {between.min():.2f} to {between.max():.2f} (above 0.99, above 1.5)")
print(f"   jvflow's default: at most {low:.4f} at and between frames (expected: below 0.011)")
assert first > 0.65
assert between.min() > 0.99 and between.max() > 1.5
assert low < 0.011

t = np.linspace(0, 0.5, 2000)
figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(t, paper(jnp.asarray(t)), lw=0.8, label="paper")
axes.plot(t, default(jnp.asarray(t)), label="exponential, 7 per frame")
axes.plot(frames[:12], paper(jnp.asarray(frames[:12])), "k.", label="at the frames")
axes.set(xlabel="video time, s", ylabel="sigma", title="The noise level at 24 frames per second")
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## Lemma D.7
#
# "For any $\alpha$, $\sigma'_t / \sigma_t \le (1 - s_0) / s_0 = 99$." The supremum over time is approximately
# $\pi R (1 - s_0) / \sqrt{s_0}$, and grows with the frame rate $R$. The lemma holds at one frame per second, but not at
# the frame rates of video.

# %%


def steepest(rate):
    sigma = SigmaSchedule(rate, kind="paper", alpha=10.0)
    t = jnp.asarray(np.linspace(0.5, 2, 400_001), jnp.float32)
    value, slope = jax.jvp(sigma, (t,), (jnp.ones_like(t),))
    return float(jnp.max(slope / value))


rates = np.array([1, 2, 4, 8, 12, 16, 24, 48])
found = np.array([steepest(float(rate)) for rate in rates])
print("\n2. Lemma D.7: is sigma' / sigma at most 99 at every frame rate? Not at the rates of video. Largest values:")
for rate, value in zip(rates, found):
    print(f"   at {rate} per second: {value:.0f}, {'above' if value > 99 else 'below'} 99")
assert found[0] < 99 and np.all(found[rates >= 8] > 99)
assert 650 < found[list(rates).index(24)] < 760

figure, axes = plt.subplots(figsize=(6, 3))
axes.loglog(rates, found, "o", label="largest sigma' / sigma")
axes.loglog(rates, np.pi * rates * 0.99 / 0.1, ":", label="pi R (1 - s0) / sqrt(s0)")
axes.axhline(99, color="grey", label="Lemma D.7")
axes.set(xlabel="frames per second", title="The bound of the lemma, and the measured maximum")
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## Theorem 4.1, by integration
#
# The minimum of the objective for one clip is $F(x, t) = \frac{\sigma'}{\sigma} (x - \mu) + \mu'$ at $x = \psi_t$. The
# paper prints $z$ in the place of $x$, and integrates this form in Theorem F.4. Only the form with $x$ follows the
# path. The clip here is a curve in the plane with 24 frames, read 192 times per second.

# %%
turn = 2 * np.pi * np.arange(1, FRAMES + 1) / FRAMES
curve = np.stack([np.cos(turn) + 0.3 * np.cos(3 * turn), np.sin(turn)], -1)
clip = jnp.asarray(curve, jnp.float32)[None, :, None, None]  # (1, n, 1, 1, 2)
path = latent(FRAMES, 31, default)
times = np.arange(1, 193) / 192.0
solver = Solver(method="dopri5", rtol=1e-6, atol=1e-6)
field, shape = exact_field(path, clip), (8, 1, 1, 2)
mean = np.stack([path.position.mean(clip[0, :, 0, 0], jnp.float32(t)) for t in times])


def as_printed(x, s, condition=None, z=None):
    sigma, change = jax.jvp(default, (s[0],), (jnp.ones_like(s[0]),))
    mu, slope = jax.vmap(
        lambda t: jax.jvp(lambda t: path.position.mean(clip[0, :, 0, 0], t), (t,), (jnp.ones_like(t),))
    )(s[0])
    wide = lambda a: a[:, None, None, None]
    return (wide((change / sigma)[:, None]) * (z - wide(mu)) + wide(slope),)


start = jax.random.normal(jax.random.key(1), (8, 1, 1, 1, 2))
with_x = generate(field, jax.random.key(0), times, shape, solver=solver, readout="none", start=start)
printed = generate(
    lambda x, s, c: as_printed(x, s, c, start),
    jax.random.key(0),
    times,
    shape,
    solver=solver,
    readout="none",
    start=start,
)
target = np.asarray(default(jnp.asarray(times)))[None, :, None] * np.asarray(start)[:, 0, 0] + mean[None]
off = lambda out: float(np.abs(np.asarray(out)[:, :, 0, 0] - target).max())
print("\n3. Theorem 4.1: which field follows the path? Largest distance of 8 samples from it; the clip is 2.6 wide:")
print(f"   F(x, t): {off(with_x):.1e} (expected: below 0.001)")
print(f"   F(z, t), as printed: {off(printed):.1f} (expected: above 1)")
assert off(with_x) < 1e-3 and off(printed) > 1

figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharex=True, sharey=True)
for axis, out, name in zip(axes, (with_x, printed), ("F(x, t)", "as printed, F(z, t)")):
    for row in np.asarray(out)[:, :, 0, 0]:
        axis.plot(*row.T, lw=0.8)
    axis.plot(*curve.T, "k.", ms=4)
    axis.set(title=f"{name}: off by {off(out):.1g}", xlim=(-3, 3), ylim=(-3, 3))
plt.show()

# %% [markdown]
# ## Several clips
#
# With more than one clip the minimum weights the clips by their likelihood at $x$. A sample settles on one clip before
# the first frame, while the noise disappears, and follows this clip to its end.

# %%
other = jnp.asarray(np.stack([curve[:, 0] - 0.5, -(curve[:, 1] ** 2)], -1), jnp.float32)[None, :, None, None]
both = jnp.concatenate([clip, other])
out = np.asarray(
    generate(exact_field(path, both), jax.random.key(3), times, (60, 1, 1, 2), solver=solver, sigma=default)
)[:, :, 0, 0]
means = np.stack([[path.position.mean(c[:, 0, 0], jnp.float32(t)) for t in times] for c in both])
distance = np.abs(out[:, None] - means[None]).max(-1)  # (samples, clips, times)
last = distance[:, :, -1]
print("\n4. Does each of 60 samples of two clips follow one of them?")
print(f"   distance from the nearer clip at the end: at most {last.min(1).max():.3f} (expected: below 0.03)")
print(f"   share that follows the second clip: {np.mean(last.argmin(1)):.2f} (expected: 0.2 to 0.8, both occur)\n")
assert last.min(1).max() < 0.03
assert 0.2 < np.mean(last.argmin(1)) < 0.8, "both clips occur"
assert np.all(distance[:, :, 24:].argmin(1) == last.argmin(1)[:, None]) or np.mean(distance[:, :, 24:].min(1)) < 0.03

figure, axes = plt.subplots(figsize=(5, 4.5))
for row, which in zip(out, last.argmin(1)):
    axes.plot(*row.T, lw=0.5, color=("tab:blue", "tab:orange")[which])
for c in both:
    axes.plot(*np.asarray(c)[:, 0, 0].T, "k.", ms=4)
axes.set(title="Sixty samples of two clips, without their noise", xlim=(-3, 3), ylim=(-3, 3))
plt.show()

# %% [markdown]
# A script without windows (`MPLBACKEND=Agg`) writes the figures to files.

# %%
for number in plt.get_fignums():
    file = Path("out/notebooks") / f"latent_path_{number}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    plt.figure(number).savefig(file)
    print(f"picture: {file}, {plt.figure(number).axes[0].get_title()}")
