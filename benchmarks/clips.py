"""The clips that VLFM's benchmarks train on, one at a time: a part of a real video, or a procedural clip."""

from itertools import islice
from pathlib import Path


def real(config, data: str, name: str, out: Path, *, first: int, checkpoint: list[str]):
    """Writes and encodes the frames of one video at its own rate, from frame `first` on; returns the experiment."""
    from jvflow.data import latents, video
    from jvflow.report import videos

    config = config.copy_and_resolve_references()
    path = next(iter(sorted(Path(data).glob(f"{name}.*"))), None)
    if path is None:
        raise ValueError(f"{data} has no video {name}: give its folder with --data=FOLDER")
    frames, folder = config.data.frames, out / f"{name}_frames"
    if not (folder / name / f"{frames - 1:03d}.png").exists():  # new files would change the key of the data set
        for number, (_, frame) in enumerate(islice(video.frames(path), first, first + frames)):
            videos.write_png(folder / name / f"{number:03d}.png", frame)
    config.data.update(path=str(folder), fps=video.native_fps(path), image_fps=video.native_fps(path))
    config.codec = dict(name="tiny", checkpoint=tuple(checkpoint), scale=config.codec.scale)
    latents.prepare(config, out / f"{name}_latents")
    config.data.path = str(out / f"{name}_latents")
    return config


def procedural(config, kind: str, out: Path):
    """Returns the experiment on one procedural clip in pixels, at most 64 x 64 of them."""
    config = config.copy_and_resolve_references()
    config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
    side = min(64, *config.data.size)
    config.data.update(path=f"procedural:{kind}", size=(side, side), cache=str(out / "data"))
    patch = max(8 * side // config.data.size[0], 1)  # as many tokens as the latents of a real clip have
    config.network.patch = (1, patch, patch)
    config.path.velocity_scale = 0.1
    return config
