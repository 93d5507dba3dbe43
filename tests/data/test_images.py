"""Pictures of every mode: orientation, depth, palettes, transparency, and what Pillow refuses."""

import numpy as np
import pytest
from PIL import Image

from jvflow.data import folder, images, video
from jvflow.report import videos

ORIENTATION = 0x0112
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
"""What each EXIF orientation does to the stored pixels."""


def picture():
    y, x = np.mgrid[:16, :24]
    return np.stack([10 * x, 15 * y, 100 + 0 * x], -1).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(picture()).save(tmp_path / f"a.{suffix}", exif=exif, **options)
    expected = TURNS[orientation](picture())
    shown = images.read_image(tmp_path / f"a.{suffix}")
    assert shown.shape == expected.shape and np.abs(shown.astype(int) - expected).max() <= 6


def test_exif_orientation_of_a_folder_and_of_a_first_frame(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    (tmp_path / "walk").mkdir()
    for k in range(4):
        Image.fromarray(picture()).save(tmp_path / "walk" / f"{k}.png", exif=exif)
    expected = TURNS[6](picture())
    frames = [frame for _, frame in video.frames(images.ImageFolder(tmp_path / "walk", 10))]
    assert all((frame == expected).all() for frame in frames)
    from ml_collections import ConfigDict

    data = ConfigDict(dict(fps=10.0, image_fps=10.0, size=(24, 16), fit="crop"))
    np.testing.assert_array_equal(video.first_frames(tmp_path / "walk" / "0.png", 1, data)[0], expected)


GREY = np.linspace(0, 1, 24)[None].repeat(16, 0)


@pytest.mark.parametrize(
    "name, values",
    [
        ("short.png", np.round(65535 * GREY).astype(np.uint16)),
        ("short.tif", np.round(65535 * GREY).astype(np.uint16)),
        ("short.pgm", np.round(65535 * GREY).astype(np.uint16)),
        ("long.tif", np.round((2.0**32 - 1) * GREY).astype(np.uint32).view(np.int32)),
        ("float.tif", GREY.astype(np.float32)),
        ("byte.png", np.round(255 * GREY).astype(np.uint8)),
    ],
)
def test_deep_grey_is_scaled(tmp_path, name, values):
    Image.fromarray(values).save(tmp_path / name)
    shown = images.read_image(tmp_path / name)
    assert shown.dtype == np.uint8 and np.abs(shown - 255 * GREY[..., None]).max() <= 1


@pytest.mark.parametrize("mode, within", [("CMYK", 1), ("L", 0), ("1", 0), ("YCbCr", 6)])
def test_modes_without_transparency(tmp_path, mode, within):
    source = Image.fromarray(picture()).convert(mode)
    name = "a.tif" if mode in ("CMYK", "YCbCr") else "a.png"
    source.save(tmp_path / name)
    expected = np.array(source.convert("RGB")).astype(int)
    assert np.abs(images.read_image(tmp_path / name) - expected).max() <= within


def transparent(mode):
    """Returns a magenta picture whose left half is transparent, in one of the modes that Pillow knows."""
    pixels = np.zeros((16, 24, 4), np.uint8)
    pixels[..., [0, 2, 3]] = 255
    pixels[:, :12, 3] = 0
    if mode == "half":
        pixels[:, :12, 3] = 128
    image = Image.fromarray(pixels)
    if mode == "P":
        palette = Image.fromarray(np.uint8(np.arange(24)[None].repeat(16, 0) < 12), "P")
        palette.putpalette([255, 0, 255, 255, 0, 255])
        palette.info["transparency"] = 1
        return palette
    return image.convert("LA") if mode == "LA" else image


@pytest.mark.parametrize(
    "mode, suffix", [("RGBA", "png"), ("RGBA", "webp"), ("LA", "png"), ("P", "png"), ("half", "png")]
)
def test_transparent_pixels_show_black(tmp_path, mode, suffix):
    transparent(mode).save(tmp_path / f"a.{suffix}", **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    shown = images.read_image(tmp_path / f"a.{suffix}").astype(int)
    assert np.abs(shown[:, :12, 0] - (128 if mode == "half" else 0)).max() <= 1
    assert shown[:, 12:, 0].min() >= (105 if mode == "LA" else 254)


def test_a_colour_that_means_transparent_shows_black(tmp_path):
    pixels = np.full((16, 24, 3), (255, 0, 255), np.uint8)
    pixels[:, 12:] = (10, 200, 10)
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=(255, 0, 255))
    shown = images.read_image(tmp_path / "a.png")
    assert shown[:, :12].max() == 0 and (shown[:, 12:] == (10, 200, 10)).all()


def broken(name, path):
    """Writes an image that Pillow refuses."""
    Image.fromarray(picture()).save(path)
    data = path.read_bytes()
    if name == "huge":
        Image.new("1", (20000, 10000)).save(path)
    elif name == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif name == "empty":
        path.write_bytes(b"")
    elif name == "text":
        path.write_text("no picture")
    elif name == "flipped":
        path.write_bytes(data[:45] + bytes(255 - byte for byte in data[45:60]) + data[60:])


@pytest.mark.parametrize("name", ["huge", "cut", "empty", "text", "flipped"])
def test_what_pillow_refuses_is_a_damaged_frame(tmp_path, name):
    """Checks that the clips with the image are left out, counted, and explained, and that others are kept."""
    for k in range(12):
        (tmp_path / "in" / "walk").mkdir(parents=True, exist_ok=True)
        videos.write_png(tmp_path / "in" / "walk" / f"{k}.png", np.full((32, 48, 3), 10 * k, np.uint8))
    broken(name, tmp_path / "in" / "walk" / "5.png")
    with pytest.raises(ValueError, match=r"5\.png does not decode: \S"):
        images.read_image(tmp_path / "in" / "walk" / "5.png")
    entries = []
    options = dict(frames=4, fps=10, size=(16, 16), image_fps=10, report=entries.append)
    clips = list(folder.clips(tmp_path / "in", **options))
    assert [(clip.start, int(round(clip.video[0].mean()))) for clip in clips] == [(0.0, 0), (0.8, 80)]
    assert entries[0]["damaged"] == entries[0]["damaged_clips"] == 1 and entries[0]["dropped"] == 3
    assert "5.png does not decode" in entries[0]["error"] and entries[0]["status"] == "kept"


def test_a_folder_of_broken_images_is_skipped_with_the_reason(tmp_path):
    (tmp_path / "walk").mkdir()
    for k in range(3):
        broken("huge", tmp_path / "walk" / f"{k}.png")
    with pytest.raises(
        ValueError, match=r"none of the 1 videos .*0\.png does not decode: Image size \(200000000 pixels\)"
    ):
        folder.build(tmp_path, tmp_path / "out", frames=2, fps=10, size=(16, 16), image_fps=10)


def test_deep_grey_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    values = np.round(65535 * GREY).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    shown = images.read_image(tmp_path / "a.png")
    assert np.abs(shown - 255 * np.rot90(GREY)[..., None]).max() <= 1
