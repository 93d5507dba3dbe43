"""Checksums of every config's debug mode: initial parameters, losses of 20 steps, frames of one sample.

    python -m benchmarks.checksums --out=FILE.json [--only=vlfm] [--against=benchmarks/results/checksums.json]

A change that only moves code keeps them equal bit for bit on one machine. Another processor or another version of XLA
rounds differently: the file names both, and a comparison of unequal ones says so. To judge a change, run the commits
before and after it on one machine. Continues an interrupted run.
"""

import hashlib
import json
import os
import platform
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import av
import jax
import numpy as np
from absl import app, flags
from PIL import Image

from jvflow.commands import encode, sample
from jvflow.experiment import assemble
from jvflow.metrics import record
from jvflow.parallel.checksums import tree_checksum
from jvflow.training.loop import train

OUT = flags.DEFINE_string("out", None, "The JSON file to write.", required=True)
ONLY = flags.DEFINE_list("only", [], "Run only the cases with such a text in CONFIG:OBJECTIVE; default: all.")
AGAINST = flags.DEFINE_string("against", None, "A JSON file of an earlier run to compare with.")
MADE_WITH = "made with"
"""The entry of a file that is no case: processor and versions."""
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
OBJECTIVES = dict(
    biflow=("biflow", "flow", "condiff"),
    vlfm=("vlfm", "direct"),
    flowframes=("flowframes", "conventional", "text_to_video"),
)
ONE_OBJECTIVE = ("unet_", "biflow/paper.py", "vlfm/dit_", "vlfm/as_printed.py")


def cases():
    """Yields (config file, objective)."""
    for file in sorted(CONFIGS.rglob("*.py")):
        name = str(file.relative_to(CONFIGS))
        if name == "flowframes/pretrain.py":
            yield name, "text_to_video"
            continue
        objectives = OBJECTIVES.get(name.partition("/")[0], ())
        yield from ((name, o) for o in objectives[: 1 if any(part in name for part in ONE_OBJECTIVE) else None])


def load_config(name: str, objective: str, folder: Path):
    config = runpy.run_path(str(CONFIGS / name))["get_config"]("debug")
    config.objective = objective
    config.run.update(progress=False, tensorboard=False, sample_every=0)
    if not config.data.path:
        config.data.update(path="procedural:comets", clips=dict(train=8, test=4))
    config.data.cache = str(folder / "data")
    if "inversion" in config and objective != "flowframes":
        config.inversion.rho = 0.0
    return config


def measure(name: str, objective: str, folder: Path) -> dict:
    """Trains and samples one case in `folder`; returns its checksums."""
    config = load_config(name, objective, folder)
    if "inversion" in config and config.inversion.rho:
        train(load_config(name, "text_to_video", folder), folder / "pretrained")
        config.pretrained = str(folder / "pretrained")
        encode(config, folder / "inverted")
        config.data.path = str(folder / "inverted")
    experiment = assemble(config)
    params = jax.jit(experiment.network.init)(jax.random.split(jax.random.key(config.seed))[0])
    losses = [loss for _, loss in train(config, folder / "run").losses()]
    made = sample(folder / "run", folder / "out", count=4, length=4 if name.startswith("biflow") else None)
    videos = [decode(folder / "out" / entry["file"]) for entry in made["samples"]]
    return dict(
        parameters=tree_checksum(params),
        losses=digest(np.array(losses)),
        first_loss=losses[0],
        last_loss=losses[-1],
        videos=digest(*videos),
        sheet=digest(np.asarray(Image.open(folder / "out" / "sheet.png"))),
        nfe=[entry["nfe_per_frame"] for entry in made["samples"]],
    )


def decode(file: Path) -> np.ndarray:
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def digest(*arrays) -> str:
    sums = hashlib.sha256()
    for array in arrays:
        sums.update(np.ascontiguousarray(array).tobytes())
    return sums.hexdigest()[:16]


def made_with() -> dict:
    """Returns what decides how a program rounds: the processor, its cores, and the versions of jax and numpy."""
    versions = {name: record.versions()[name] for name in ("jax", "jaxlib", "flax", "numpy")}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return dict(processor=processor(), cores=cores, **versions)


def processor() -> str:
    """Returns family, model and vector instructions where Linux tells them; otherwise what Python knows."""
    try:
        lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in lines}
    vectors = [each for each in facts.get("flags", "").split() if each.startswith(("avx", "amx", "fma"))]
    names = [facts.get(key, "") for key in ("model name", "cpu family", "model")]
    return " ".join(filter(None, [*names, *sorted(vectors)])) or platform.machine()


def main(argv):
    del argv
    out = Path(OUT.value)
    found = json.loads(out.read_text()) if out.exists() else {}
    before = json.loads(Path(AGAINST.value).read_text()) if AGAINST.value else {}
    here = made_with()
    if found.setdefault(MADE_WITH, here) != here:
        sys.exit(f"{out} was begun with {found[MADE_WITH]}, and this is {here}: name another file")
    if before and before.get(MADE_WITH) != here:
        print(f"{AGAINST.value} was made with {before.get(MADE_WITH, 'what it does not tell')}, this with {here}")
    different = []
    for name, objective in cases():
        label = f"{name}:{objective}"
        if ONLY.value and not any(part in label for part in ONLY.value):
            continue
        if label not in found:
            folder = Path(tempfile.mkdtemp())
            try:
                found[label] = measure(name, objective, folder)
            finally:
                shutil.rmtree(folder)
            out.write_text(json.dumps(found, indent=1) + "\n")
        wrong = [key for key, value in before.get(label, {}).items() if found[label][key] != value]
        different += [f"{label}: {', '.join(wrong)}"] if wrong else []
        print(label, "differs in " + ", ".join(wrong) if wrong else "equal" if label in before else "", flush=True)
    if different:
        sys.exit(f"{len(different)} differ: " + "; ".join(different))


if __name__ == "__main__":
    app.run(main)
