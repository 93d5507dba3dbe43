"""Videos that PyTorch saved as one tensor, as CARLA's."""

import numpy as np
import pytest
import torch_files
from PIL import Image

from jvflow.data import listing, video
from jvflow.data.clip_length import Cutting
from jvflow.data.one_video import cut_video
from jvflow.data.tensor_video import TensorVideo


@pytest.fixture
def frames():
    shades = np.linspace(0, 200, 20).astype(np.uint8)[:, None, None, None]
    return shades + np.arange(8 * 12 * 3, dtype=np.uint8).reshape(1, 8, 12, 3) % 50


def test_the_frames_of_a_tensor(frames, tmp_path):
    """Checks order, rate and pixels; at half the rate every second frame is left out."""
    source = video.source_of(torch_files.write(tmp_path / "video_0.pt", frames), 10.0)
    assert isinstance(source, TensorVideo) and video.measure(source).fps == 10
    times, shown = zip(*video.frames(source))
    np.testing.assert_array_equal(np.stack(shown), frames)
    np.testing.assert_allclose(times, np.arange(20) / 10)
    assert len(list(video.frames(source, fps=5.0))) == 10


def test_a_folder_of_tensors_becomes_clips(frames, tmp_path):
    for number in (0, 1):
        torch_files.write(tmp_path / f"video_{number}.pt", frames + np.uint8(number))
    (tmp_path / "video_train.csv").write_text(",path\n0,video_0.pt\n")
    found = listing.list_folder(tmp_path)
    assert [path.name for path in found.videos] == ["video_0.pt", "video_1.pt"]
    cutting = Cutting(frames=5, size=(8, 12), fps=10.0, stride=5, fit="squeeze", image_fps=10.0)
    *clips, report = cut_video(tmp_path, found.videos[1], {}, cutting)
    assert report["status"] == "kept" and report["frames"] == 20 and len(clips) == 4
    np.testing.assert_array_equal(clips[1].video, frames[5:10] + np.uint8(1))


@pytest.mark.parametrize(
    "value, message",
    [
        (np.zeros((3, 8, 12, 3), np.float32), "holds float32 .3, 8, 12, 3., and a video is one tensor uint8"),
        (np.zeros((3, 3, 8, 12), np.uint8), "holds uint8 .3, 3, 8, 12."),
        ({"a": np.zeros(3, np.uint8), "b": np.zeros(4, np.uint8)}, "holds uint8 .3,., uint8 .4,., and a video"),
        ({}, "holds no tensor"),
    ],
)
def test_other_tensors_are_reported(value, message, tmp_path):
    path = torch_files.write(tmp_path / "a.pt", value)
    with pytest.raises(ValueError, match=f"a.pt {message}"):
        list(video.frames(video.source_of(path, 10.0)))
    cutting = Cutting(frames=5, size=(8, 12), fps=10.0, stride=5, image_fps=10.0)
    (report,) = cut_video(tmp_path, path, {}, cutting)
    assert report["status"] == "skipped" and "a video is one tensor" in report["reason"]


def test_a_tensor_has_no_rate_and_is_no_video_next_to_others(frames, tmp_path):
    path = torch_files.write(tmp_path / "a.pt", frames)
    with pytest.raises(
        ValueError, match="a.pt is a tensor, and its frames have no frame rate: set config.data.image_fps"
    ):
        list(video.frames(video.source_of(path, 0)))
    Image.fromarray(frames[0]).save(tmp_path / "1.png")
    found = listing.list_folder(tmp_path)
    assert found.videos == [tmp_path]
    assert [(entry["file"], entry["status"], entry["reason"]) for entry in found.others] == [
        ("a.pt", "ignored", "suffix .pt")
    ]
