"""The report: one well-formed file that loads no other file and shows every number and video of its arguments."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from jvflow.biflow import comparison_page as report

VOID = {"meta", "img"}
PAPER_TABLE = report.PaperTable(
    caption="The paper: FVD / steps per frame.",
    data_sets=("A", "B", "C"),
    rows={"x": ((345, 23.51), (424, 45.31), (14010, 10.38)), "y": ((1, 2.5), (3, 4.5), (5, 6.5))},
)


class Page(HTMLParser):
    """A parser that collects tags and text, and asserts that every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.cells = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.cells.append(data)

    def images(self, kind):
        prefix = f"data:image/{kind};base64,"
        sources = [a["src"] for tag, a in self.tags if tag == "img"]
        return [Image.open(io.BytesIO(base64.b64decode(s[len(prefix) :]))) for s in sources if s.startswith(prefix)]


def duration(gif):
    """Returns the duration of one loop in milliseconds."""
    total = 0
    for i in range(gif.n_frames):
        gif.seek(i)
        total += gif.info["duration"]
    return total


def discs(count=5, frames=24, size=16, seed=0):
    """Returns uint8 videos of a disc that crosses the frame."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(0, size, (count, 1, 2)) + rng.normal(0, 1, (count, 1, 2)) * np.arange(frames)[:, None]
    y, x = np.mgrid[:size, :size]
    gap = (y - place[..., 0, None, None] % size) ** 2 + (x - place[..., 1, None, None] % size) ** 2
    colour = rng.uniform(100, 255, (count, 1, 1, 1, 3))
    return ((gap < size)[..., None] * colour).astype(np.uint8)


def measured(**change):
    return {
        "nfe_per_frame": 8.25,
        "distance_first_window": 1.5,
        "distance_last_window": 2.5,
        "motion_last_window": 0.9,
        "seconds_per_frame": 0.0123,
        **change,
    }


def toy(**change):
    line = lambda a: [(i, a * (i + 1)) for i in range(1, 8)]
    names = ("bi-flow", "<flow> & co")
    return {
        "title": "A <b>toy</b> & its report",
        "command": "python launch/toy.py --eps='0.1' <in >log &amp;",
        "methods": {
            names[0]: measured(guidance_cost=2.0, motion_last_window=float("nan")),
            names[1]: measured(seconds_per_frame=None),
        },
        "controls": {"real against real": 0.5, "frozen": 3.0, "noise": 40.0},
        "protocol": {"windows": "32 frames, stride 16", "videos": 128},
        "curves": {
            name: {"loss": line(0.1), "distance": line(i + 1), "motion": line(0.2)} for i, name in enumerate(names)
        },
        "videos": {name: discs(seed=i) for i, name in enumerate(("real", *names))},
        "fps": 8,
        "paper_table": PAPER_TABLE,
        **change,
    }


def written(tmp_path, **change):
    report.write(tmp_path / "report.html", **toy(**change))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_loads_nothing(tmp_path):
    text = written(tmp_path)
    page = Page(text)
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "a"}
        assert attrs.get("src", "data:").startswith("data:")
        assert tag != "img" or attrs["alt"]
    assert "://" not in text and "url(" not in text and "@import" not in text
    assert len(text) < report.LIMIT


def test_text_is_escaped(tmp_path):
    page = Page(written(tmp_path))
    assert "b" not in [tag for tag, _ in page.tags] and "flow" not in [tag for tag, _ in page.tags]
    for text in ("A <b>toy</b> & its report", "<flow> & co", "python launch/toy.py --eps='0.1' <in >log &amp;"):
        assert text in page.cells


def test_tables_hold_every_number(tmp_path):
    page = Page(written(tmp_path))
    row = page.cells.index("seconds per frame") + 2
    cells = [cell for cell in page.cells[row:] if cell.strip()]
    assert cells[:14] == [
        "bi-flow",
        "8.25",
        "1.5",
        "2.5",
        "–",
        "0.0123",
        "2",
        "<flow> & co",
        "8.25",
        "1.5",
        "2.5",
        "0.9",
        "–",
        "–",
    ]
    for cell in (
        "NFE per frame",
        "guidance cost",
        "345 / 23.51",
        "424 / 45.31",
        "14010 / 10.38",
        "128",
        "frozen",
        "40",
    ):
        assert cell in page.cells
    assert any("order of the methods is comparable" in cell.replace("\n", " ") for cell in page.cells)


def test_where_the_paper_has_nothing_to_compare_its_table_is_left_out(tmp_path):
    cells = Page(written(tmp_path, paper_table=None)).cells
    assert "NFE per frame" in cells and not any("paper" in cell for cell in cells)


def test_animations_show_the_videos_at_true_speed(tmp_path):
    page = Page(written(tmp_path))
    gifs = page.images("gif")
    assert [gif.n_frames for gif in gifs] == [24, 24, 24]
    assert gifs[0].size == (4 * 17, 2 * 17) and duration(gifs[0]) == 3000
    gifs[0].seek(7)
    shown = np.asarray(gifs[0].convert("RGB"), int)
    first = discs(seed=0)[0, 7].astype(int)
    assert np.abs(shown[:16, :16] - first).max() < 12
    assert (shown[17:, 17:] == 255).all()  # five videos leave three cells empty


def test_contact_sheets_have_videos_in_rows_and_frames_in_columns(tmp_path):
    long = {name: discs(count=12, frames=50, seed=3) for name in toy()["videos"]}
    page = Page(written(tmp_path, sheets=long))
    sheet = next(image for image in page.images("png") if image.size == (10 * 17, 8 * 17))
    cells = np.asarray(sheet)
    np.testing.assert_array_equal(cells[5 * 17 : 6 * 17 - 1, 9 * 17 : -1], long["real"][5, 49])
    assert "Rows: videos. Columns: frames 0, 5, 10, 16, 21, 27, 32, 38, 43, 49." in page.cells


def test_animations_drop_frames_to_stay_small():
    noise = np.random.default_rng(0).integers(0, 100, (2, 40, 64, 64, 3)).astype(np.uint8)
    noise[:, 30:] += 150
    data, every = report._gif(noise, 2, 10.0, 120_000)
    assert len(data) <= 120_000 and every > 1
    gif = Image.open(io.BytesIO(data))
    assert gif.n_frames == -(-40 // every) and duration(gif) == 4000
    bright = []
    for i in range(gif.n_frames):
        gif.seek(i)
        bright.append(np.asarray(gif.convert("RGB"))[:64, :64].mean() > 125)
    assert bright == [k >= 30 for k in range(0, 40, every)]
    assert report._gif(noise, 2, 100.0, 10**9)[1] == 2  # browsers slow down frames shorter than 1/50 s


def test_frames_are_shown_at_one_size(tmp_path):
    assert {a["width"] for tag, a in Page(written(tmp_path)).tags if tag == "img"} == {"384", "960", "640"}
    assert report._tile(np.zeros((3, 256, 256, 3), np.uint8), 3).size == (288, 96)
    assert report._tile(np.zeros((3, 128, 128, 3), np.uint8), 3).size == (396, 132)
    assert report._tile(np.zeros((3, 8, 16, 3), np.uint8), 2).size == (34, 18)


def test_writing_is_atomic(tmp_path, monkeypatch):
    before = written(tmp_path)

    def broken(*args):
        raise OSError("disk")

    with monkeypatch.context() as patch:
        patch.setattr(report.os, "replace", broken)
        with pytest.raises(OSError):
            report.write(tmp_path / "report.html", **toy(title="new"))
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert "<title>new" in written(tmp_path, title="new")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_errors_name_the_cure(tmp_path):
    videos, methods = toy()["videos"], toy()["methods"]
    with pytest.raises(ValueError, match="lacks seconds_per_frame: give None"):
        short = {k: v for k, v in measured().items() if k != "seconds_per_frame"}
        written(tmp_path, methods=methods | {"bi-flow": short})
    with pytest.raises(ValueError, match="videos must be given for real, bi-flow"):
        written(tmp_path, videos={k: v for k, v in videos.items() if k != "real"})
    with pytest.raises(ValueError, match=r"'real' must be uint8 .* got float32.*127.5"):
        written(tmp_path, videos=videos | {"real": videos["real"].astype(np.float32)})
    with pytest.raises(ValueError, match="curves of other belong to no method"):
        written(tmp_path, curves={"other": {}})
    with pytest.raises(ValueError, match="fps must be positive, got 0"):
        written(tmp_path, fps=0)
