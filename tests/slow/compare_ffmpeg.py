"""Compares the frames of jvflow with those of the program ffmpeg on synthesized files of every kind.

    python tests/slow/compare_ffmpeg.py [--keep=DIR]

The program is the one of the package imageio-ffmpeg. For each file it must give the same frames, one to one, with the
same orientation and order, and colours within 3 of 255 except in the pixels next to an edge, which depend on the
filter that scales colour. It turns pictures by itself; the options of this script add only what a player does more:
square pixels, deinterlacing, a black background, and the colour matrix of files without tags.
"""

import argparse
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of films

import av
import films
import imageio_ffmpeg
import numpy as np

from jvflow.data import video

WITHIN = 3
RIPPLE = 3
"""Largest difference of colours inside a flat area."""
MARGIN = 4
"""Pixels next to an edge that are not compared."""
ASPECTS = (Fraction(1), Fraction(4, 3), Fraction(10, 11))
DEINTERLACE = "yadif=deint=interlaced"


def cases(folder: Path) -> dict[str, tuple[Path, list[str]]]:
    """Writes the files; returns for each name (file, filters of ffmpeg)."""
    made = {}

    def add(name, filters=(), suffix="mp4", **options):
        made[name] = films.write(folder / f"{name}.{suffix}", **options), list(filters)

    for matrix in films.MATRICES:
        for aspect in ASPECTS:
            n, d = aspect.as_integer_ratio()
            width, height = (round(96 * aspect), 64) if aspect >= 1 else (96, round(64 / aspect))
            across = films.MATRICES[matrix][0] == 0
            size = f"{height}:{width}" if across else f"{width}:{height}"
            add(f"{matrix}_{n}_{d}", [f"scale={size}"] * (aspect != 1), matrix=matrix, aspect=aspect)
    for colours in (1, 6, 7, 9):
        for full in (False, True):
            for pix_fmt in ("yuv420p", "yuv420p10le"):
                add(f"colours_{colours}_{full}_{pix_fmt}", colours=colours, full=full, pix_fmt=pix_fmt)
    add("untagged_hd", ["setparams=colorspace=bt709:range=tv"], tags=False, colours=1, size=(720, 1280), count=3)
    add("untagged_sd", ["setparams=colorspace=smpte170m:range=tv"], tags=False)
    add("untagged_pal", ["setparams=colorspace=smpte170m:range=tv"], tags=False, size=(576, 720), count=3)
    for order in ("tff", "bff"):
        add(f"interlaced_{order}", [DEINTERLACE], interlaced=True, options={"crf": "1", "x264-params": f"{order}=1"})
    mpeg2 = {"b": "9000000", "flags": "+ildct+ilme"}
    add("interlaced_mpeg2", [DEINTERLACE], "mpg", codec="mpeg2video", rate=25, interlaced=True, options=mpeg2)
    black = ["format=gbrap", "premultiply=inplace=1"]
    add("alpha_prores", black, "mov", codec="prores_ks", pix_fmt="yuva444p10le", alpha=True)
    add("alpha_animation", black, "mov", codec="qtrle", pix_fmt="argb", alpha=True)
    add("alpha_png", black, "mov", codec="png", pix_fmt="rgba", alpha=True)
    webm = {"crf": "5", "b": "0"}
    add("alpha_vp9", black, "webm", codec="libvpx-vp9", pix_fmt="yuva420p", alpha=True, options=webm)
    plain = {"crf": "1", "bf": "0"}
    uneven = [0, 40, 90, 100, 240, 250, 300, 520, 560, 600, 900, 940]
    for suffix in ("mp4", "mkv"):
        add(f"variable_{suffix}", suffix=suffix, times=uneven, options=plain)
    for suffix in ("mkv", "ts", "flv"):
        codec = dict(codec="flv", options={"b": "9000000"}) if suffix == "flv" else dict(options=plain)
        add(f"late_{suffix}", suffix=suffix, times=[2000 + 40 * k for k in range(12)], **codec)
    for suffix in ("mp4", "mkv"):
        for gap in (5, 600):
            times = [40 * k + 1000 * gap * (k > 5) for k in range(12)]
            add(f"gap_{gap}_{suffix}", suffix=suffix, times=times, options=plain)
    for hidden in (6, 12):
        times = [3750 * (k - hidden) for k in range(36)]
        header = {"use_editlist": "1", "avoid_negative_ts": "disabled"}
        options = plain | {"g": "12"}
        base = Fraction(1, 90000)
        add(f"edit_list_{hidden}", count=36, times=times, time_base=base, options=options, container=header)
    for parts in (2, 3):
        one = films.write(folder / "one.ts", 12)
        joined = folder / f"restart_{parts}.ts"
        joined.write_bytes(one.read_bytes() * parts)
        made[joined.stem] = joined, []
    for suffix in ("mpg", "wmv", "flv", "3gp", "avi", "m4v", "mts"):
        codec = {"mpg": "mpeg2video", "wmv": "wmv2", "flv": "flv", "3gp": "mpeg4", "avi": "mpeg4"}.get(
            suffix, "libx264"
        )
        options = {"b": "9000000"} if codec != "libx264" else plain
        format = "mpegts" if suffix == "mts" else None
        add(f"container_{suffix}", suffix=suffix, codec=codec, rate=25, options=options, format=format)
    return made


def reference(path: Path, filters: list[str], shape: tuple) -> np.ndarray:
    """Returns all frames that ffmpeg decodes, without repeating or dropping any."""
    decoder = ["-c:v", "libvpx-vp9"] if path.stem == "alpha_vp9" else []
    chain = ",".join([*filters, "scale=flags=bicubic+accurate_rnd+full_chroma_int", "format=rgb24"])
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *decoder, "-i", str(path), "-vf", chain]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(pixels, np.uint8).reshape(-1, *shape)


def flat(frame: np.ndarray) -> np.ndarray:
    """Returns a mask of the pixels that are not within MARGIN of an edge."""
    size = 2 * MARGIN + 1
    padded = np.pad(frame.astype(int), ((MARGIN,) * 2, (MARGIN,) * 2, (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (0, 1))
    return (windows.max((-2, -1)) - windows.min((-2, -1))).max(-1) <= RIPPLE


def compare(path: Path, filters: list[str]) -> tuple[str, float, float]:
    """Returns (problem or "", largest difference of a colour, share of the pixels that were compared)."""
    own = [frame for _, frame in video.frames(path)]
    if len({frame.shape for frame in own}) != 1:
        return f"frames of the shapes {sorted({frame.shape for frame in own})}", 0.0, 0.0
    theirs = reference(path, filters, own[0].shape)
    if len(own) != len(theirs):
        return f"{len(own)} frames instead of {len(theirs)}", 0.0, 0.0
    worst, compared = 0.0, []
    for a, b in zip(own, theirs, strict=True):
        mask = flat(b)
        compared.append(mask.mean())
        worst = max(worst, np.abs(a.astype(int) - b)[mask].max())
    return "", float(worst), float(np.mean(compared))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", type=Path, help="a folder for the files")
    keep = parser.parse_args().keep
    av.logging.set_level(None)
    failed, largest, smallest = 0, 0.0, 1.0
    with tempfile.TemporaryDirectory() as scratch:
        made = cases(keep or Path(scratch))
        for name, (path, filters) in made.items():
            problem, worst, share = compare(path, filters)
            problem = problem or (f"colours differ by {worst:.0f}" if worst > WITHIN else "")
            problem = problem or (f"only {share:.0%} of the pixels are flat" if share < 0.3 else "")
            failed += bool(problem)
            largest, smallest = max(largest, worst), min(smallest, share)
            print(f"{'FAILED' if problem else 'equal '} {name}: {problem or f'within {worst:.0f}'}")
    print(f"{len(made)} files, {failed} failed; colours within {largest:.0f} of 255, {smallest:.0%} of pixels or more")
    return int(failed > 0 or len(made) < 60)


if __name__ == "__main__":
    sys.exit(main())
