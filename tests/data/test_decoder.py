"""Damaged packets, joined files, gaps, late starts and declared lengths and rates, in real containers."""

from fractions import Fraction

import av
import films
import numpy as np
import pytest

from jvflow.data import cuts, decoder, folder, video

SHAPE = dict(frames=4, size=(16, 16), fps=24)


def numbers(shown):
    return [None if item.damage else films.number_of(item.frame) for item in shown]


def counting(count):
    return [k % 11 for k in range(count)]


def entries_and_clips(path, **options):
    entries = []
    clips = list(folder.clips(path, **SHAPE | options, report=entries.append))
    return entries, clips


def texture(count, size=(96, 128)):
    """Returns counters over a pattern that moves, which fills packets with enough bytes to damage them."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (size[0] + count, size[1] + 2 * count, 3))
    base = sum(np.roll(base, shift, (0, 1)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))) // 4
    pictures = []
    for k in range(count):
        rgb = base[k : k + size[0], 2 * k : 2 * k + size[1]].astype(np.uint8)
        rgb[36:60, 48:80] = films.level(k)
        pictures.append(rgb)
    return pictures


def write(path, count=36, **options):
    return films.write(path, count, size=(96, 128), pictures=texture(count), **options)


def packets_of(path):
    """Returns (position, size) of the packets of the video."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def damage(path, number, share=0.9):
    """Overwrites the last part of a packet with random bytes."""
    position, size = packets_of(path)[number]
    data = bytearray(path.read_bytes())
    count = round(share * size)
    data[position + size - count : position + size] = np.random.default_rng(1).bytes(count)
    path.write_bytes(data)


KINDS = {
    "h264.mp4": dict(options={"crf": "20", "g": "12", "bf": "0", "sc_threshold": "0"}),
    "b_frames.mp4": dict(options={"crf": "20", "g": "12", "bf": "3", "sc_threshold": "0"}),
    "h264.mkv": dict(options={"crf": "20", "g": "12", "bf": "0", "sc_threshold": "0"}),
    "hevc.mp4": dict(
        codec="libx265", options={"crf": "20", "x265-params": "log-level=none:keyint=12:scenecut=0:bframes=0"}
    ),
    "mpeg4.avi": dict(codec="mpeg4", rate=25, options={"b": "3000000", "g": "12"}),
    "mpeg2.mpg": dict(codec="mpeg2video", rate=25, options={"b": "3000000", "g": "12"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_packet_damages_frames_up_to_the_next_key_frame(tmp_path, name):
    """Checks that every frame that differs from the undamaged file is marked, and that the next key frame ends it."""
    whole = write(tmp_path / f"whole.{name}", 36, **KINDS[name])
    path = tmp_path / name
    path.write_bytes(whole.read_bytes())
    damage(path, 16, share=1.0 if "hevc" in name else 0.9)
    fps = KINDS[name].get("rate", 24)
    before, after = list(video.shown(whole, fps=fps)), list(video.shown(path, fps=fps))
    assert len(before) == len(after) == 36 and not any(item.damage for item in before)
    bad = [k for k, item in enumerate(after) if item.damage]
    assert bad and bad == list(range(bad[0], bad[-1] + 1)) and 12 <= bad[0] <= 16 and bad[-1] <= 24
    for old, new in zip(before, after):
        assert new.time == old.time and (new.damage or (new.frame == old.frame).all())
    assert "is damaged: its " in after[bad[-1]].damage


def test_clips_with_damage_are_left_out_and_counted(tmp_path):
    for name in ("whole.mp4", "damaged.mp4"):
        write(tmp_path / name, 36, **KINDS["h264.mp4"])
    damage(tmp_path / "damaged.mp4", 17, share=1.0)
    (bad, good), clips = entries_and_clips(tmp_path)
    assert good["clips"] == 9 and good["damaged"] == good["damaged_clips"] == 0 and good["error"] is None
    assert bad["damaged"] == 7 and bad["damaged_clips"] == 2 and bad["clips"] == 7 and bad["frames"] == 29
    assert bad["dropped"] == 1 and bad["status"] == "kept" and "is damaged" in bad["error"]
    at = {(clip.source, clip.start): clip.video for clip in clips}
    same = [(at["damaged.mp4", start] == at["whole.mp4", start]).all() for name, start in at if name == "damaged.mp4"]
    assert all(same) and len(same) == 7


def test_lost_packets_of_mpegts_are_damage(tmp_path):
    """Removes transport packets from the middle, as bad reception does."""
    path = write(tmp_path / "a.ts", 48, options={"crf": "20", "g": "12", "bf": "0", "sc_threshold": "0"})
    data = path.read_bytes()
    middle = len(data) // 376 * 188
    path.write_bytes(data[:middle] + data[middle + 5 * 188 :])
    shown = list(video.shown(path, fps=24))
    assert any(item.damage for item in shown) and not shown[0].damage and not shown[-1].damage


def test_damage_before_the_first_key_frame_and_at_the_end(tmp_path):
    path = write(tmp_path / "a.mp4", 36, **KINDS["h264.mp4"])
    data = path.read_bytes()
    damage(path, 0)
    shown = list(video.shown(path, fps=24))
    assert {bool(item.damage) for item in shown[:-24]} <= {True} and not any(item.damage for item in shown[-24:])
    path.write_bytes(data)
    for number in range(30, 36):
        damage(path, number, share=1.0)
    (entry,), clips = entries_and_clips(tmp_path)
    assert 28 <= entry["frames"] <= 30 and len(clips) == 7 and "a.mp4 " in entry["error"]


def test_a_file_without_any_good_frame_is_skipped(tmp_path):
    path = write(tmp_path / "a.mp4", 12, options={"crf": "20", "g": "1"})
    for number in range(12):
        position, size = packets_of(path)[number]
        data = bytearray(path.read_bytes())
        data[position + 4 : position + size] = bytes(size - 4)
        path.write_bytes(data)
    (entry,), clips = entries_and_clips(tmp_path)
    assert not clips and entry["status"] == "skipped" and "a.mp4" in entry["reason"]


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("name", ["a.ts", "a.mp4", "a.mpg"])
def test_joined_files_whose_time_starts_again(tmp_path, parts, name):
    """Joins files of 24 frames; mp4 stands for MPEG-TS with a wrong name."""
    kind = KINDS["mpeg2.mpg"] | {"rate": 24} if name == "a.mpg" else {}
    one = films.write(tmp_path / "parts" / "one", 24, format="mpeg" if name == "a.mpg" else "mpegts", **kind)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    path.write_bytes(one.read_bytes() * parts)
    shown = list(video.shown(path, fps=24))
    assert numbers(shown) == counting(24) * parts
    assert [item.time for item in shown] == sorted({item.time for item in shown})
    assert cuts.find(path) == [pytest.approx(part) for part in range(1, parts)]
    (entry,), clips = entries_and_clips(tmp_path / "in", frames=8)
    assert entry["shots"] == parts and entry["clips"] == len(clips) == 3 * parts and entry["error"] is None
    assert (
        video.measure(path).parts == parts and folder.max_clips(tmp_path / "in", **SHAPE | {"frames": 8}) >= 3 * parts
    )


@pytest.mark.parametrize("gap", [3, 600, 86400])
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.flv", "a.webm"])
def test_a_gap_gives_no_still_frames(tmp_path, gap, name):
    times = [1000 * k // 24 + 1000 * gap * (k >= 24) for k in range(48)]
    codec = {"a.webm": "libvpx", "a.flv": "flv"}.get(name, "libx264")
    options = {"bf": "0", "crf": "1"} if codec == "libx264" else {"b": "9000000"}
    films.write(tmp_path / name, 48, times=times, codec=codec, options=options)
    (entry,), clips = entries_and_clips(tmp_path)
    assert 48 <= entry["frames"] <= 50 and entry["shots"] == 2 and entry["clips"] == 12
    assert all(len({films.number_of(frame) for frame in clip.video}) == 4 for clip in clips)
    assert clips[6].start == pytest.approx(gap + 1, abs=0.1)
    assert folder.max_clips(tmp_path, **SHAPE) <= 14


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.webm", "a.ts", "a.flv"])
@pytest.mark.parametrize("start", [2, 1000])
def test_a_late_start_is_no_damage(tmp_path, name, start):
    times = [1000 * k // 25 + 1000 * start for k in range(48)]
    codec = {"a.webm": "libvpx", "a.flv": "flv"}.get(name, "libx264")
    options = {"bf": "0", "crf": "1"} if codec == "libx264" else {"b": "9000000"}
    path = films.write(tmp_path / name, 48, times=times, rate=25, codec=codec, options=options)
    (entry,), clips = entries_and_clips(tmp_path, fps=25)
    assert entry["frames"] == 48 and entry["clips"] == 12 and entry["error"] is None
    assert clips[0].start == 0 and numbers(video.shown(path, fps=25)) == counting(48)


def test_a_late_start_does_not_hide_that_a_file_is_truncated(tmp_path):
    times = [40 * k + 2000 for k in range(250)]
    path = films.write(tmp_path / "a.mkv", 250, times=times, rate=25, options={"bf": "0"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"a\.mkv ends after .* of the 12\.00 s"):
        list(video.shown(path))


@pytest.mark.parametrize("milliseconds", [80, 50, 100])
def test_a_recording_that_declares_1000_fps(tmp_path, milliseconds):
    """Writes a webm as browsers do: times vary by some milliseconds, and the declared rate is that of the clock."""
    rng = np.random.default_rng(0)
    times = [milliseconds * k + int(rng.integers(0, 9)) for k in range(60)]
    path = films.write(tmp_path / "a.webm", 60, times=times, rate=1000, codec="libvpx", options={"b": "9000000"})
    with pytest.raises(ValueError, match=r"than config\.data\.fps=24.*: a\.webm"):
        folder.max_clips(tmp_path, **SHAPE)
    rate = 1000 / milliseconds
    assert decoder.native_fps(path) == pytest.approx(rate, rel=0.02)
    shown = numbers(video.shown(path, fps=decoder.native_fps(path)))
    assert shown[0] == 0 and abs(len(shown) - 60) <= 1
    assert sum(a == b for a, b in zip(shown, shown[1:], strict=False)) <= 12  # late by some milliseconds
    assert folder.max_clips(tmp_path, frames=4, fps=rate, size=(8, 8)) <= 16


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60), Fraction(25)])
def test_the_declared_rate_is_exact_where_times_agree(tmp_path, rate):
    times = [round(1000 * k / rate) for k in range(48)]
    path = films.write(tmp_path / "a.mkv", 48, times=times, rate=rate, options={"bf": "0"})
    assert decoder.native_fps(path) == float(rate)
    assert numbers(video.shown(path, fps=float(rate))) == counting(48)


def test_a_trimmed_file_gives_the_frames_that_its_edit_list_shows(tmp_path):
    """Writes negative times, which mp4 hides with an edit list, and counts in its header."""
    times = [round(90000 * (k - 12) / 24) for k in range(48)]
    path = films.write(
        tmp_path / "a.mp4",
        48,
        times=times,
        time_base=Fraction(1, 90000),
        options={"bf": "0", "g": "12"},
        container={"use_editlist": "1", "avoid_negative_ts": "disabled"},
    )
    shown = list(video.shown(path, fps=24))
    assert numbers(shown) == counting(48)[12:] and shown[0].time == 0
    assert video.measure(path).pictures == 36 and decoder.native_fps(path) == 24


def test_missing_times_in_raw_streams(tmp_path):
    """Reads h264 without a container, which has neither times nor a length, named as a video."""
    films.write(tmp_path / "raw.h264", 24, options={"bf": "0"})
    path = (tmp_path / "raw.h264").rename(tmp_path / "a.mpg")
    assert numbers(video.shown(path)) == counting(24)


def test_more_frames_than_the_times_of_the_packets_allow(tmp_path, monkeypatch):
    films.write(tmp_path / "a.mp4", 24)
    short = video.timing.Length(2, Fraction(1, 12), 1, 24.0)
    monkeypatch.setattr(video.decoder, "measure", lambda path: short)
    (entry,), clips = entries_and_clips(tmp_path, frames=2)
    assert len(clips) == 1 and "gives more than the 3 frames" in entry["error"]


def test_a_gap_in_the_file_of_the_first_frames_is_refused(tmp_path):
    from ml_collections import ConfigDict

    times = [42 * k + 60000 * (k >= 3) for k in range(12)]
    path = films.write(tmp_path / "a.mkv", 12, times=times, options={"bf": "0"})
    data = ConfigDict(dict(fps=24.0, image_fps=0.0, size=(16, 16), fit="crop"))
    assert len(video.first_frames(path, 3, data)) == 3
    with pytest.raises(ValueError, match=r"a\.mkv has a gap in time there.* its first 5 frames"):
        video.first_frames(path, 5, data)


def test_metadata_that_are_not_utf_8_do_not_matter(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "a title"
        stream = container.add_stream("mpeg4", rate=24, width=16, height=16)
        frames = [av.VideoFrame.from_ndarray(np.full((16, 16, 3), films.level(k), np.uint8)) for k in range(6)]
        container.mux([packet for frame in [*frames, None] for packet in stream.encode(frame)])
    path.write_bytes(path.read_bytes().replace(b"a title", b"\xfc title"))
    assert b"\xfc title" in path.read_bytes()
    _, clips = entries_and_clips(tmp_path)
    assert len(clips) == 1
