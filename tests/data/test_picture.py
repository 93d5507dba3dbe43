"""The picture as a player shows it: orientation, shape of pixels, fields, colours, depth and transparency."""

import struct
from fractions import Fraction

import films
import numpy as np
import pytest

from jvflow.data import picture, video

ENCODERS = {
    "mpg": dict(codec="mpeg2video", rate=25, options={"b": "9000000"}),
    "wmv": dict(codec="wmv2", options={"b": "9000000"}),
    "flv": dict(codec="flv", options={"b": "9000000"}),
    "3gp": dict(codec="mpeg4", options={"b": "9000000"}),
    "avi": dict(codec="mpeg4", options={"b": "9000000"}),
    "ogv": dict(codec="libvpx", format="ogg", options={"b": "9000000"}),
    "mts": dict(format="mpegts"),
}
ALPHA = {
    "prores.mov": dict(codec="prores_ks", pix_fmt="yuva444p10le"),
    "vp9.webm": dict(codec="libvpx-vp9", pix_fmt="yuva420p", options={"crf": "5", "b": "0"}),
    "vp8.webm": dict(codec="libvpx", pix_fmt="yuva420p", options={"b": "2000000", "auto-alt-ref": "0"}),
    "animation.mov": dict(codec="qtrle", pix_fmt="argb"),
    "png.mov": dict(codec="png", pix_fmt="rgba"),
    "ffv1.mkv": dict(codec="ffv1", pix_fmt="yuva444p"),
}


def decoded(path, **options):
    return [frame for _, frame in video.frames(path, **options)]


def check(frames, colours=films.COLOURS, within=3):
    """Checks the colours of each frame, and that frames are in order and complete."""
    assert [films.number_of(frame) for frame in frames] == [k % 11 for k in range(len(frames))]
    worst = max(np.abs(films.corners(frame) - colours).max() for frame in frames)
    assert worst <= within, worst


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("matrix", films.MATRICES)
def test_display_matrices_mirror_and_turn(tmp_path, matrix, suffix):
    frames = decoded(films.write(tmp_path / f"a.{suffix}", matrix=matrix))
    across = films.MATRICES[matrix][0] == 0
    assert len(frames) == 12 and frames[0].shape == ((96, 64, 3) if across else (64, 96, 3))
    check(frames, films.turned(matrix))


def test_a_matrix_that_turns_by_another_angle_is_refused():
    sides = lambda *numbers: struct.pack("9i", *numbers)
    assert picture.orientation(None) == picture.orientation(sides(*[0] * 9)) == ()
    assert picture.orientation(sides(65536, 300, 0, -300, 65536, 0, 0, 0, 1 << 30)) == ()  # a quarter of a degree
    with pytest.raises(ValueError, match=r"a\.mp4 .* multiple of 90 degrees .*46341.*: turn the video with ffmpeg"):
        picture.orientation(sides(46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30), "a.mp4")


@pytest.mark.parametrize(
    "aspect, shape", [((4, 3), (64, 128)), ((10, 11), (70, 96)), ((1, 2), (128, 96)), ((1, 1), (64, 96))]
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_pixels_become_square(tmp_path, aspect, shape, suffix):
    frames = decoded(films.write(tmp_path / f"a.{suffix}", aspect=Fraction(*aspect)))
    assert frames[0].shape == (*shape, 3)
    check(frames)


def test_pixels_are_stretched_before_the_picture_is_turned(tmp_path):
    frames = decoded(films.write(tmp_path / "a.mp4", aspect=Fraction(4, 3), matrix="clockwise"))
    assert frames[0].shape == (128, 64, 3)
    check(frames, films.turned("clockwise"))


def test_an_absurd_aspect_is_refused():
    frame = films.yuv_frame(films.picture(0), "yuv420p", 6, False)
    with pytest.raises(ValueError, match=r"pixels with the aspect 20, which is not in \[1/16, 16\]"):
        picture.Converter("a.mkv", Fraction(20))(frame)


@pytest.mark.parametrize("order", ["tff", "bff"])
def test_fields_are_deinterlaced_one_to_one(tmp_path, order):
    path = films.write(tmp_path / "a.mp4", interlaced=True, options={"crf": "1", "x264-params": f"{order}=1"})
    frames = decoded(path)
    assert len(frames) == 12
    for k, frame in enumerate(frames):
        middle = frame[28:36, 44:52].astype(int)
        assert np.abs(middle[1:] - middle[:-1]).max() <= 3, "a comb"
        assert films.number_of(frame) in (k % 11, (k + 1) % 11)


def test_progressive_frames_stay_as_they_are_next_to_interlaced_ones(tmp_path):
    """Joins progressive, interlaced and progressive parts as MPEG-TS."""
    parts = [
        films.write(
            tmp_path / f"{k}.ts", interlaced=k == 1, options={"crf": "1", "x264-params": "tff=1"} if k == 1 else None
        )
        for k in range(3)
    ]
    (tmp_path / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = decoded(tmp_path / "a.ts")
    assert len(frames) == 36
    check(frames[:12]), check(frames[24:])


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv444p"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("colours", films.LUMA)
def test_colours_follow_the_tags(tmp_path, colours, full, pix_fmt):
    check(decoded(films.write(tmp_path / "a.mkv", codec="ffv1", colours=colours, full=full, pix_fmt=pix_fmt, count=3)))


@pytest.mark.parametrize(
    "codec, pix_fmt",
    [("libx264", "yuv420p10le"), ("libx265", "yuv420p12le"), ("ffv1", "yuv444p16le"), ("prores_ks", "yuv422p10le")],
)
def test_colours_of_deep_pictures(tmp_path, codec, pix_fmt):
    options = {"crf": "1", "x265-params": "log-level=none"} if codec == "libx265" else None
    path = films.write(tmp_path / "a.mkv", codec=codec, pix_fmt=pix_fmt, colours=1, options=options)
    check(decoded(path))


@pytest.mark.parametrize(
    "size, colours",
    [((720, 1280), 1), ((720, 960), 1), ((544, 1280), 1), ((1280, 720), 1), ((576, 720), 6), ((480, 854), 6)],
)
def test_colours_without_tags_follow_the_size(tmp_path, size, colours):
    size = (size[0], size[1] // 2 * 2)
    path = films.write(tmp_path / "a.mp4", count=2, tags=False, colours=colours, size=size)
    check(decoded(path))


@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG"), (8, "linear")])
@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_transfer_functions_without_a_filter_are_refused_by_name(tmp_path, transfer, name, codec):
    path = films.write(tmp_path / "a.mkv", codec=codec, transfer=transfer, pix_fmt="yuv420p10le", colours=9)
    with pytest.raises(ValueError, match=rf"a\.mkv has the transfer function {name}.*: convert it to BT\.709"):
        decoded(path)


@pytest.mark.parametrize("name", ALPHA)
def test_transparent_pixels_show_black(tmp_path, name):
    """Writes the left half transparent, with its colours still there."""
    colours = films.COLOURS.copy()
    colours[:, 0] = 0
    frames = decoded(films.write(tmp_path / name, alpha=True, **ALPHA[name]))
    assert len(frames) == 12
    assert max(np.abs(films.corners(frame) - colours).max() for frame in frames) <= 3


def test_a_transparent_gif_shows_black(tmp_path):
    from PIL import Image

    pixels = np.zeros((32, 48, 4), np.uint8)
    pixels[..., 0] = 255
    pixels[:, 24:, 3] = 255
    Image.fromarray(pixels).save(
        tmp_path / "a.gif", save_all=True, append_images=[Image.fromarray(pixels)], duration=100
    )
    frame = decoded(tmp_path / "a.gif")[0]
    assert frame[:, :24].max() == 0 and frame[:, 24:, 0].min() > 250


@pytest.mark.parametrize("suffix", ENCODERS)
def test_containers(tmp_path, suffix):
    frames = decoded(films.write(tmp_path / f"a.{suffix}", count=10, **ENCODERS[suffix]))
    check(frames, within=6)  # some of these codecs lose colour
    assert f".{suffix}" in video.VIDEO_SUFFIXES
