"""Encodes a data set once, for training in latents: python -m launch.encode --config=configs/biflow/video_folder.py --out=DIR ...

A config of FlowFrames with target inversion (config.inversion.rho above 0) gets the inverted chunks too, one with a pretrained text encoder the embedded captions. `DIR` is then what `--config.data.path` takes. Stop it at any time and give the same command again.
"""

from absl import flags
from ml_collections import config_flags

import launch

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: its data and its codec are read.", lock_config=True)
OUT = flags.DEFINE_string("out", None, "The data set of latents. Clips that have to be built lie beside it in DIR-clips.")
flags.mark_flags_as_required(["config", "out"])


def main():
    from jvflow.flowframes import inversion
    from jvflow.data import latents
    from jvflow.parallel import processes
    from jvflow.data import records
    from jvflow.data.files import mebibytes

    out, config = OUT.value.rstrip("/"), CONFIG.value
    inverts = "inversion" in config and config.inversion.rho
    manifest = (inversion if inverts else latents).prepare(config, out)
    if not processes.is_primary():
        return
    report, captions = records.report(out), ", embedded captions" if "text" in manifest["settings"] else ""
    print(
        f"{out}: key {manifest['key']}, latents{' and inversions' if inverts else ''}{captions} of "
        + ", ".join(f"{n} clips in {k}" for k, n in manifest["splits"].items()) + f", {mebibytes(report['bytes'])}"
    )
    if files := report.get("files"):
        skipped = [f"{file['file']} ({file['error']})" for file in files if file["error"]]
        print(f"{len(files)} videos, {sum(file['dropped'] for file in files)} frames in no clip; not read to the end: {'; '.join(skipped[:5]) or 'none'}" + " ..." * (len(skipped) > 5))
    for name, of in report["latents"].items():
        print(f"{name}: {' x '.join(map(str, of['shape']))} {manifest['settings']['dtype']}, mean {of['mean']:.4g}, standard deviation {of['std']:.4g}")
    if "path" in config:
        print(f"they change by {latents.motion(out, every=config.clip.every):.3f} from a frame to the next: --config.path.motion takes it")


if __name__ == "__main__":
    launch.run(main)
