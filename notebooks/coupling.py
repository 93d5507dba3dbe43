# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Is the next chunk of a video its optimal partner?
#
# FlowFrames (figure 2) pairs each chunk of a video with the next one, and argues from exact optimal transport between
# chunks, with uniform marginals and squared distance as the cost, that this coupling is nearly optimal. The paper shows
# two plans: (a) pairs a chunk with any chunk but itself; (b) only with later chunks of its own video. This notebook
# computes both with `jvflow.flow.coupling.ot_plan`, and adds controls that are needed to interpret them.
#
# `JVFLOW_CLIPS=FOLDER python notebooks/coupling.py` reads the videos of a folder; the default is procedural video.

# %%
import os
from itertools import islice
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from jvflow.data import procedural, video
from jvflow.flow.coupling import ot_plan

VIDEOS, CHUNKS, FRAMES, FPS, SIDE = 10, 12, 9, 12.0, 32
rng = np.random.default_rng(0)


def videos():
    folder = os.environ.get("JVFLOW_CLIPS")
    if not folder:
        times = np.arange(CHUNKS * FRAMES) / FPS
        yield from (procedural.scene("maze", seed).render(times, (SIDE, SIDE)) for seed in range(VIDEOS))
        return
    for path in sorted(p for p in Path(folder).iterdir() if p.suffix in video.VIDEO_SUFFIXES):
        frames = [
            video.resize(f, (SIDE, SIDE), "squeeze") for _, f in islice(video.frames(path, fps=FPS), CHUNKS * FRAMES)
        ]
        if len(frames) >= 3 * FRAMES:
            yield np.stack(frames)


chunks, owner = [], []
for number, clip in enumerate(islice(videos(), VIDEOS)):
    whole = len(clip) // FRAMES
    chunks += list(clip[: whole * FRAMES].reshape(whole, -1) / 127.5 - 1)
    owner += [number] * whole
chunks, owner = np.stack(chunks), np.array(owner)
n, place = len(chunks), np.concatenate([np.arange((owner == v).sum()) for v in np.unique(owner)])
cost = ((chunks[:, None] - chunks[None]) ** 2).mean(-1)
print(f"Data: {n} chunks of {FRAMES} frames, of {len(np.unique(owner))} videos of {SIDE} x {SIDE} pixels.")

# %% [markdown]
# ## (a) Every chunk but itself
#
# The cost is symmetric, so an optimal plan may pair $i$ with $j$ and $j$ with $i$. If only neighbours are near, the
# plan consists of such swaps, and about half of all chunks go to the next one, even if the order is perfect. The plan
# still shows how often the partner is adjacent, $|i - j| = 1$ in one video, and the rank of the next chunk in its row.
# The control has the same costs with rows and columns permuted, so that adjacency means nothing.

# %%
other = ~np.eye(n, dtype=bool)
neighbour = (owner[:, None] == owner[None]) & (np.abs(place[:, None] - place[None]) == 1)
following = (owner[:, None] == owner[None]) & (place[None] - place[:, None] == 1)


def adjacency(cost):
    """Returns an optimal plan, with its fractions of neighbours and the ranks of the next chunks in their rows."""
    plan = ot_plan(cost, other)
    rank = [(np.delete(cost[i], i) < cost[i, j]).sum() for i, j in np.argwhere(following)]
    return plan, dict(
        adjacent=float(plan[neighbour].sum()),
        following=float(plan[following].sum()),
        same_video=float(plan[owner[:, None] == owner[None]].sum()),
        median_rank_of_the_next=float(np.median(rank)),
        first=float(np.mean(np.array(rank) == 0)),
    )


renamed = rng.permutation(n)
(plan, found), (_, control) = adjacency(cost), adjacency(cost[renamed][:, renamed])
MEANING = dict(
    adjacent="share of chunks whose partner is next or before",
    following="share whose partner is the next chunk (at most about 0.5, because pairs swap)",
    same_video="share whose partner is of the same video",
    median_rank_of_the_next="nearer chunks than the next one, median",
    first="share whose nearest chunk is the next one",
)
print("\n(a) Optimal plan, every chunk but itself. Control: the same costs, with the order of the chunks shuffled.")
for key, meaning in MEANING.items():
    print(f"   {meaning}: {found[key]:.3g}, control {control[key]:.3g}")
print("   expected: the next chunk below 0.75; adjacent more than 5 times the control; a lower rank than the control")
assert found["following"] < 0.75, "swaps: the next chunk cannot be much more than half of all partners"
assert (
    found["adjacent"] > 5 * control["adjacent"]
    and found["median_rank_of_the_next"] < control["median_rank_of_the_next"]
)

# %% [markdown]
# ## (b) Only later chunks of the same video
#
# The last chunk of a video has no later one: its row is empty, and no plan has uniform marginals. If the other pairs
# are allowed at an additional cost, a plan exists, but it has no freedom: the second last chunk can only go to the
# last, the third last to the second last, and so on. Random costs give the same plan. So (b) is no evidence.

# %%
print("\n(b) Only later chunks of the same video.")
later = (owner[:, None] == owner[None]) & (place[None] > place[:, None])
try:
    ot_plan(cost, later)
except ValueError as error:
    print(f"   no such plan exists, as expected: {error}")
else:
    raise AssertionError("this plan should not exist")
joined = following.sum() / n
for name, some in dict(true=cost, random=rng.uniform(size=(n, n))).items():
    forced = ot_plan(some, later, penalty=1e3)
    share = float(forced[following].sum() / joined)
    print(f"   other pairs at a cost, {name} costs: share of chunks that go to the next one {share:.3f} (expected: 1)")
    assert np.isclose(forced[following].sum(), joined)

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 4.2))
axes[0].imshow(cost)
axes[0].set_title("squared distance of chunks")
axes[1].imshow(plan > 0, cmap="Greys")
axes[1].set_title(
    f"(a) adjacent {found['adjacent']:.0%}, next {found['following']:.0%}; renamed {control['adjacent']:.0%}"
)
axes[2].imshow(forced > 0, cmap="Greys")
axes[2].set_title("(b) with random costs: the same staircase")
for axis in axes:
    axis.set(xlabel="chunk j", ylabel="chunk i")
figure.tight_layout()
plt.show()

# %% [markdown]
# A script without windows (`MPLBACKEND=Agg`) writes the figures to files.

# %%
for number in plt.get_fignums():
    file = Path("out/notebooks") / f"coupling_{number}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    plt.figure(number).savefig(file)
    print(f"picture: {file}, {plt.figure(number).axes[0].get_title()}")
