"""Compares the results of one process and of several processes for the same commands.

    python tests/slow/equal_processes.py [--counts=2,4]

Encodes, inverts, evaluates, samples and streams with one process and with two: the files must be equal, byte for byte.
Trains VLFM and FlowFrames with one process, and with each number of processes in `counts`: the losses must agree.
Trains FlowFrames also with two processes on inversions of one, and with one process on inversions of two.
(`kill_processes.py` compares losses of Bi-flow, with kills.) Takes minutes, so pytest does not collect it.
"""

import argparse
import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from kill_and_resume import ROOT
from kill_processes import losses


def launch(count: int, name: str, *arguments: str) -> None:
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
    }
    command = [sys.executable, "-m", f"launch.{name}", *arguments]
    done = subprocess.run(
        [str(ROOT / "launch" / "local.sh"), str(count), *command] if count > 1 else command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} with {count} processes ended with {done.returncode}:\n{done.stderr[-3000:]}")


def differing(one: Path, two: Path) -> list[str]:
    """Returns the files that are not in both folders, or not the same, except HTML: it names its command."""
    files = [(p, folder) for folder in (one, two) for p in folder.rglob("*") if p.is_file() and p.suffix != ".html"]
    names = {str(p.relative_to(folder)) for p, folder in files}
    return sorted(
        name
        for name in names
        if not ((one / name).exists() and (two / name).exists() and filecmp.cmp(one / name, two / name, shallow=False))
    )


def losses_apart(counts: list[int], config: str, folder: Path, *arguments: str) -> float:
    """Returns the largest relative difference of a debug run's losses between one process and each of `counts`."""
    seen = {
        count: trained(count, config, folder / f"{config.replace('/', '_')}_{count}", *arguments)
        for count in (1, *counts)
    }
    return max(float(abs(seen[count] / seen[1] - 1).max()) for count in counts)


def trained(count: int, config: str, workdir: Path, *arguments: str):
    """Returns the losses of a debug run."""
    launch(
        count,
        "train",
        f"--config=configs/{config}.py:debug",
        f"--workdir={workdir}",
        "--config.run.progress=False",
        "--config.run.log_every=1",
        *arguments,
    )
    return losses(workdir)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--counts", default="2,4", help="the numbers of processes whose losses are compared with one's")
    counts = [int(count) for count in parser.parse_args().counts.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data, pretrained, streams = f"--config.data.cache={folder / 'data'}", folder / "pretrained", folder / "streams"
        for config, workdir in {"flowframes/pretrain": pretrained, "biflow/procedural": streams}.items():
            launch(
                1,
                "train",
                f"--config=configs/{config}.py:debug",
                data,
                "--config.run.progress=False",
                f"--workdir={workdir}",
            )
        for count in (1, 2):
            launch(
                count,
                "encode",
                "--config=configs/flowframes/procedural.py:debug",
                data,
                f"--config.pretrained={pretrained}",
                f"--out={folder / str(count) / 'inverted'}",
            )
            launch(count, "evaluate", f"--workdir={pretrained}", f"--out={folder / str(count) / 'metrics.json'}")
            launch(count, "sample", f"--workdir={pretrained}", f"--out={folder / str(count) / 'chunks'}", "--count=3")
            launch(
                count,
                "sample",
                f"--workdir={streams}",
                f"--out={folder / str(count) / 'streams'}",
                "--count=3",
                "--frames=12",
            )
        wrong = [
            name for name in differing(folder / "1", folder / "2") if not name.endswith("samples.json")
        ]  # these hold run times
        apart = {
            "vlfm/procedural": losses_apart(counts, "vlfm/procedural", folder, data),
            "flowframes/procedural": losses_apart(
                counts,
                "flowframes/procedural",
                folder,
                data,
                "--config.inversion.rho=0.0",
                f"--config.pretrained={pretrained}",
            ),
        }
        on = lambda made, count: trained(
            count,
            "flowframes/procedural",
            folder / f"of_{made}_by_{count}",
            f"--config.pretrained={pretrained}",
            f"--config.data.path={folder / str(made) / 'inverted'}",
        )
        alone, crossed = on(1, 1), (on(1, 2), on(2, 1))
        apart["inversions of one used by two, and of two used by one"] = max(
            float(abs(of / alone - 1).max()) for of in crossed
        )
        print(f"largest relative differences of the losses between numbers of processes: {apart}")
        files = sum(1 for p in (folder / "1").rglob("*") if p.is_file())
        print(
            f"{files} files of latents, inversions, metrics and videos; differing with two processes: {wrong or 'none'}"
        )
        sys.exit(bool(wrong) or files < 10 or max(apart.values()) > 1e-4)


if __name__ == "__main__":
    main()
