"""Scene cuts: all are found, nothing else is taken for one, and no clip contains one."""

import av
import numpy as np
import pytest

from jvflow.data import cuts, folder
from jvflow.report import videos


def moving(count, color, speed, seed=0):
    """Returns frames of a smooth random texture of one colour that moves left by `speed` pixels per frame."""
    rng = np.random.default_rng(seed)
    columns = np.arange(64)[None] + speed * np.arange(count)[:, None]
    wave = sum(np.sin(2 * np.pi * f * columns / 64 + rng.uniform(0, 6)) for f in (1, 2, 3)) / 3
    frames = 0.5 + 0.3 * wave[:, None, :, None] * np.ones((1, 48, 1, 1))
    return np.uint8(255 * frames * np.asarray(color))


def write_film(path, rate):
    """Writes three shots of 11, 7 and 12 frames, and returns the times at which the second and third begin."""
    shots = [moving(11, (1, 0.2, 0.2), 1), moving(7, (0.2, 1, 0.3), 2, 1), moving(12, (0.2, 0.3, 1), 3, 2)]
    videos.write(path.with_suffix(".mp4"), np.concatenate(shots), rate)
    if path.suffix == ".mkv":
        with av.open(str(path.with_suffix(".mp4"))) as source, av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        path.with_suffix(".mp4").unlink()
    return 11 / rate, 18 / rate


def test_cuts_are_found_at_their_times(tmp_path):
    expected = write_film(tmp_path / "film.mp4", 10)
    assert cuts.find(tmp_path / "film.mp4") == pytest.approx(expected)


def test_motion_and_fades_are_no_cuts(tmp_path):
    fast = moving(30, (1, 1, 1), 9)
    videos.write(tmp_path / "fast.mp4", fast, 10)
    videos.write(tmp_path / "fade.mp4", np.uint8(fast[:1] * np.linspace(0, 1, 12)[:, None, None, None]), 10)
    assert cuts.find(tmp_path / "fast.mp4") == cuts.find(tmp_path / "fade.mp4") == []


@pytest.mark.parametrize(
    "name, rate, fps",
    [
        ("a.mp4", 10, 10),
        ("a.mp4", 10, 7),
        ("a.mp4", 30, 23.976),
        ("a.mp4", 10, 4),
        ("a.mkv", 30, 30),
        ("a.mkv", 30, 12),
    ],
)
def test_no_clip_crosses_a_cut(tmp_path, name, rate, fps):
    """Checks that each clip shows one colour, although mkv rounds times, and that cuts cost few clips."""
    begins = write_film(tmp_path / name, rate)
    entries = []
    clips = list(folder.clips(tmp_path, frames=2, stride=1, fps=fps, size=(16, 16), report=entries.append))
    colors = [clip.video.reshape(2, -1, 3).mean(1).argmax(-1) for clip in clips]
    assert all(a == b for a, b in colors)
    assert {color for color, _ in colors} == {0, 1, 2}
    shown = np.arange(entries[0]["frames"]) / fps + 1e-4
    possible = sum(int(((shown >= a) & (shown < b)).sum()) - 1 for a, b in zip((0, *begins), (*begins, 9)))
    assert possible - 2 <= len(clips) <= possible
    assert entries[0]["shots"] == 3


def test_a_flash_and_a_thing_that_moves_fast_are_no_cuts(tmp_path):
    """Covers a flash over a third of the picture and a fast object: most blocks still match the frame before."""
    still = np.repeat(moving(1, (0.6, 0.8, 1), 0), 24, axis=0)
    flash = still.copy()
    flash[10:13, :, :24] = 255
    videos.write(tmp_path / "flash.mp4", flash, 10)
    fast_block = still.copy()
    for k in range(24):
        left = abs((10 * k) % 88 - 44)
        fast_block[k, 10:30, left : left + 20] = (250, 20, 20)
    videos.write(tmp_path / "fast_block.mp4", fast_block, 10)
    assert cuts.find(tmp_path / "flash.mp4") == cuts.find(tmp_path / "fast_block.mp4") == []


@pytest.mark.parametrize(
    "name, fps, marked",
    [
        pytest.param("01_dog.mp4", 30, [], marks=pytest.mark.integration),
        ("bedroom.mp4", 30, []),
        ("bikes.mp4", 25, [30, 76, 137, 187, 242]),
        pytest.param("tears-of-steel-battle-clip-medium.webm", 24,
         [52, 122, 158, 221, 309, 715, 788, 872, 901, 987, 1127, 1157, 1203, 1234, 1246, 1284, 1345, 1378, 1430, 1472,
          1525, 1571, 1618, 1650, 1689], marks=pytest.mark.integration),
    ],
)  # fmt: skip
def test_cuts_of_real_videos(shared, name, fps, marked):
    """Checks that the cuts are those marked by eye, each within one frame."""
    found = [fps * time for time in cuts.find(shared / "data" / "clips" / name)]
    assert found == pytest.approx(marked, abs=1.01)
