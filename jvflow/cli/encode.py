"""Encodes a data set into latents, to train on them.

    jvflow encode --config=configs/flowframes/clips.py --out=DIR
    jvflow encode --config=CONFIG.py --config.data.path=FOLDER --out=DIR

Train on the result with --config.data.path=DIR. The result also holds caption embeddings if the text encoder is
pretrained, and inverted chunks if FlowFrames uses target inversion (config.inversion.rho above 0). You can stop the
command at any time; run it again to continue.
"""

from absl import flags
from ml_collections import config_flags

from jvflow.cli import advise, configs

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Required. The experiment with the data and models: FILE.py or FILE.py:debug.", lock_config=True
)
OUT = flags.DEFINE_string(
    "out", None, "Required. Folder for the latents. The clips that jvflow cuts from videos go to DIR-clips."
)
configs.define_show("out")
flags.mark_flag_as_required("config")


def main():
    from jvflow.commands import encode
    from jvflow.data import records
    from jvflow.files import local_path, mebibytes
    from jvflow.parallel import processes

    out, config = local_path(OUT.value, "--out").rstrip("/"), CONFIG.value
    manifest, note = encode(config, out)
    if not processes.is_primary():
        return
    report = records.report(out)
    captions = " and caption embeddings" if "text" in manifest["settings"] else ""
    clips = ", ".join(f"{count} clips in {split}" for split, count in manifest["splits"].items())
    print(f"{out}: key {manifest['key']}, latents{captions} of {clips}, {mebibytes(report['bytes'])}")
    if files := report.get("files"):
        skipped = [f"{file['file']} ({file['error']})" for file in files if file["error"]]
        dropped = sum(file["dropped"] for file in files)
        errors = ("; ".join(skipped[:5]) or "none") + " ..." * (len(skipped) > 5)
        print(f"{len(files)} videos, {dropped} frames not in any clip; videos with read errors: {errors}")
    for name, stats in report["latents"].items():
        shape = " x ".join(map(str, stats["shape"]))
        print(
            f"{name}: {shape} {manifest['settings']['dtype']}, "
            f"mean {stats['mean']:.4g}, standard deviation {stats['std']:.4g}"
        )
    if note:
        print(note)
    advise("train", **configs.given(), **{"config.data.path": out, "workdir": "DIR"})
