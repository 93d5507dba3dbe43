"""Computes published values of FVD and LPIPS from pixels, with the real weights; needs the extra `metrics`.

    python tests/slow/published_metrics.py [--golden=FOLDER]

FVD of 2 x 128 videos of noise, through I3D; FVD of black against white videos of 10 to 30 frames; LPIPS of all pairs of
images, with both networks. FOLDER holds golden_fvd, golden_i3d and golden_lpips (safetensors). Takes some minutes, so
pytest does not collect it. Prints a table; exits with 1 if a value is off.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from jvflow import metrics
from jvflow.metrics import distances

PUBLISHED_FVD = 10.138085
PUBLISHED_LPIPS = {("zeros_ones64", "alexnet"): 0.8140, ("torchmetrics_seed123", "vgg16"): 0.3485}
BATCH = 8


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "golden")
    folder = parser.parse_args().golden
    if not folder.is_dir():
        sys.exit(f"{folder} is not a folder: give the folder of golden files with --golden=FOLDER")
    golden = {name: load_file(folder / f"golden_{name}.safetensors") for name in ("fvd", "i3d", "lpips")}
    rows = [*noise(golden["fvd"]), *black_and_white(golden["i3d"]), *images(golden["lpips"])]
    print("| value | reference | jvflow | difference | allowed |\n| --- | --- | --- | --- | --- |")
    for what, want, found, difference, allowed in rows:
        mark = "" if difference <= allowed else " WRONG"
        print(f"| {what} | {want:.7g} | {found:.7g} | {difference:.2g} | {allowed:.2g}{mark} |")
    wrong = sum(not row[3] <= row[4] for row in rows)
    print(f"{len(rows)} values, {wrong} wrong")
    sys.exit(1 if wrong else 0)


def noise(golden):
    """Yields the rows of FVD between two sets of 128 noise videos, from their pixels."""
    apply, features = metrics.i3d(), []
    for seed in (1, 2):
        videos = np.random.RandomState(seed).rand(128, 16, 224, 224, 3).astype(np.float32)
        features.append(np.concatenate([apply(videos[i : i + BATCH]) for i in range(0, len(videos), BATCH)]))
        apart = np.abs(features[-1] - golden[f"noise_rs{seed}.logits"]).max()
        yield f"logits of noise, seed {seed}, largest difference", 0.0, float(apart), float(apart), 1e-4
    found = distances.frechet_of_rows(*features)
    yield "FVD of noise, seeds 1 and 2", PUBLISHED_FVD, found, abs(found / PUBLISHED_FVD - 1), 1e-5


def black_and_white(golden):
    """Yields the rows of FVD between a black and a white video, by the number of frames."""
    apply = metrics.i3d()
    for frames, published in zip(golden["zeros_ones.T"], golden["zeros_ones.published_gpu_torchscript"], strict=True):
        black, white = (apply(np.full((1, int(frames), 224, 224, 3), value, np.float32)) for value in (-1, 1))
        found = float(np.square(np.asarray(black, np.float64) - np.asarray(white, np.float64)).sum())
        yield f"FVD of black and white, {frames} frames", published, found, abs(found / published - 1), 3.5e-3
    tensorflow = float(golden["zeros_ones.published_tf_T30"][0])
    yield "the same, 30 frames, TensorFlow", tensorflow, found, abs(found / tensorflow - 1), 1e-5


def images(golden):
    """Yields the rows of LPIPS, for each pair of images and each network."""
    pixels = lambda a: a.astype(np.float32) / 127.5 - 1 if a.dtype == np.uint8 else a
    for name in sorted({key.split(".")[0] for key in golden}):
        x, y = pixels(golden[f"{name}.a"]), pixels(golden[f"{name}.b"])
        for net, long in (("alex", "alexnet"), ("vgg", "vgg16")):
            for result, key in (("mean", f"{name}.{long}"), ("spatial", f"{name}.{long}.upsampled_mean")):
                found = np.asarray(metrics.lpips(x, y, net, result=result)).reshape(len(x), -1).mean(1)
                apart = float(np.abs(found - golden[key]).max())
                yield f"LPIPS {long} {name} {result}", float(golden[key].mean()), float(found.mean()), apart, 1e-4
                published = PUBLISHED_LPIPS.get((name, long))
                if published and result == ("spatial" if net == "alex" else "mean"):
                    apart = float(abs(found.mean() - published))
                    yield f"the same, published {published}", published, float(found.mean()), apart, 1e-4


if __name__ == "__main__":
    main()
