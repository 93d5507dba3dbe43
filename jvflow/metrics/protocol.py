"""The protocol of a distance between sets of videos: every choice in which public code bases differ, as data.

Two values compare only if their protocols are equal. `differences` lists the entries that differ, and `check_equal`
raises ValueError with that list. `PRESETS` holds the protocols of public code bases, read in their sources.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from jvflow.metrics.networks.i3d import MIN_FRAMES
from jvflow.metrics.networks.inception import FEATURES
from jvflow.metrics.resize import FILTERS, FITS

METRICS = {"fvd": "i3d", "fid": "inception"}
"""Each distance, and the network of its features."""
WINDOWS = ("all", "first", "random")
RANGES = {"-1..1": (127.5, -1.0), "0..1": (255.0, 0.0)}
"""Ranges of the network's input: the divisor of pixels in 0..255, and what is added afterwards."""
PRECISIONS = ("float64", "float32")
KINDS = {
    str: "one of its names",
    int: "a whole number",
    float: "a number with a point, such as 1e-3",
    bool: "True or False",
}


@dataclass(frozen=True)
class Protocol:
    """The protocol of one distance.

    Attributes:
      name: the preset that it comes from.
      metric: "fvd" (I3D, clips) or "fid" (Inception, frames).
      layer: of the features: "logits" for I3D; "64", "192", "768" or "2048" for Inception.
      fit: how frames get to `size` x `size`: "squash" or "short_side", see `jvflow.metrics.resize`.
      filter: "tf1", "half_pixel" or "antialias".
      size: pixels of the sides of the network's input.
      via: pixels of an earlier resize of the same kind, or 0 for none.
      via_fit, via_filter: the same choices for that resize.
      via_uint8: whether the frames become whole numbers (cut off, not rounded) after it.
      range: of the network's input.
      frames: of a clip; 1 for frames.
      frame_step: source frames from one frame of a clip to the next.
      window: which clips of a video: "all", the "first", or one at a "random" start.
      window_stride: frames between the starts of windows, for "all".
      seed: of the random starts.
      real_count, generated_count: clips in each set; 0 takes all that there are.
      redraw: whether a generated video gives several random clips if there are fewer videos than `generated_count`;
        only for the window "random".
      ddof: the covariance divides by n - ddof.
      precision: of the mean, the covariance and its root.
      batchnorm_epsilon: of I3D.
    """

    name: str
    metric: str = "fvd"
    layer: str = "logits"
    fit: str = "squash"
    filter: str = "tf1"
    size: int = 224
    via: int = 0
    via_fit: str = "squash"
    via_filter: str = "tf1"
    via_uint8: bool = False
    range: str = "-1..1"
    frames: int = 16
    frame_step: int = 1
    window: str = "first"
    window_stride: int = 16
    seed: int = 0
    real_count: int = 0
    generated_count: int = 0
    redraw: bool = False
    ddof: int = 1
    precision: str = "float64"
    batchnorm_epsilon: float = 1e-3

    def __post_init__(self):
        choices = dict(metric=METRICS, fit=FITS, via_fit=FITS, filter=FILTERS, via_filter=FILTERS, window=WINDOWS)
        choices |= dict(range=RANGES, precision=PRECISIONS, ddof=(0, 1))
        choices["layer"] = ("logits",) if self.metric == "fvd" else tuple(FEATURES)
        for entry, allowed in choices.items():
            value = getattr(self, entry)
            if value not in allowed:
                raise ValueError(
                    f"protocol {entry}={getattr(self, entry)!r}: use one of {', '.join(map(str, allowed))}"
                )
        least = dict(frames=MIN_FRAMES if self.metric == "fvd" else 1, frame_step=1, window_stride=1, size=32)
        least |= dict(via=0, seed=0, real_count=0, generated_count=0)
        for entry, bound in least.items():
            value = getattr(self, entry)
            if value < bound:
                raise ValueError(f"protocol {entry}={value!r}: use a whole number of {bound} or more")
        if self.metric == "fid" and self.frames != 1:
            raise ValueError(f"protocol frames={self.frames}: FID compares single frames, so frames is 1")
        if self.redraw and self.window != "random":
            raise ValueError(
                f"protocol redraw=True, window={self.window!r}: only random clips can be drawn again, "
                "others would repeat: set redraw=False too, or window=random"
            )
        if not 0 < self.batchnorm_epsilon < 1:
            raise ValueError(f"protocol batchnorm_epsilon={self.batchnorm_epsilon}: use a number between 0 and 1")

    @property
    def span(self) -> int:
        """Source frames from the first to the last frame of a clip."""
        return (self.frames - 1) * self.frame_step + 1


_FID = dict(metric="fid", filter="half_pixel", size=299, frames=1, window="all", window_stride=1)
PRESETS = {
    preset.name: preset
    for preset in (
        Protocol("original"),
        Protocol("short_side", fit="short_side", filter="half_pixel"),
        Protocol("stylegan_v", filter="half_pixel", window="random", real_count=2048, generated_count=2048, ddof=0),
        Protocol(
            "videogpt",
            fit="short_side",
            filter="half_pixel",
            real_count=256,
            generated_count=256,
            precision="float32",
            batchnorm_epsilon=1e-5,
        ),
        Protocol(
            "cd_fvd",
            filter="half_pixel",
            via=256,
            via_fit="short_side",
            via_filter="antialias",
            via_uint8=True,
            window="random",
            generated_count=2048,
            redraw=True,
            ddof=0,
            batchnorm_epsilon=1e-5,
        ),
        Protocol("magvit", generated_count=10000, real_count=10000),
        Protocol("magvit_via64", via=64),
        Protocol("windows_32", frames=32, window="all", window_stride=16),
        Protocol("fid", **_FID, layer="2048"),
        *(Protocol(f"fid_{layer}", **_FID, layer=layer) for layer in ("64", "192", "768")),
    )
}
NOTES = {
    "original": "frechet_video_distance of google-research; frames and counts are the caller's, 16 here",
    "short_side": "the original with the short side resized and the centre cropped",
    "stylegan_v": "universome/stylegan-v; its resize is inside a TorchScript file and taken as half-pixel bilinear",
    "videogpt": "wilson1yan/VideoGPT and TATS",
    "cd_fvd": "songweige/content-debiased-fvd with resolution 256; set via= to the resolution that was asked for",
    "magvit": "google-research/magvit, training library; it repeats the whole four times and averages",
    "magvit_via64": "google-research/magvit, tools/compute_fvd.py",
    "windows_32": "the original on windows of 32 frames at stride 16, for long streams",
    "fid": "mseitzer/pytorch-fid, on the frames of all videos",
}
"""A line on each preset: its source and what is not known of it."""


def preset(name: str, changes: Mapping | None = None) -> Protocol:
    """Returns a preset, with other entries if `changes` has any; raises ValueError for unknown names."""
    if name not in PRESETS:
        raise ValueError(f"unknown protocol {name!r}: use one of {', '.join(PRESETS)}; jvflow score also takes pairs")
    changes = dict(changes or {})
    known = [field.name for field in fields(Protocol)]
    unknown = [entry for entry in changes if entry not in known or entry in ("name", "metric")]
    if unknown:
        raise ValueError(
            f"a protocol has no entry {unknown[0]!r} to set: use one of "
            f"{', '.join(entry for entry in known if entry not in ('name', 'metric'))}"
        )
    original = PRESETS[name]
    for entry, value in changes.items():
        kind = type(getattr(original, entry))
        if type(value) is not kind:
            raise ValueError(f"protocol {entry}={value!r}: use {KINDS[kind]}")
    changed = {entry: value for entry, value in changes.items() if value != getattr(original, entry)}
    return replace(original, **changed, name=f"{name} (changed)") if changed else original


def differences(first: Mapping, second: Mapping) -> list[str]:
    """Returns a line for each entry, other than the name, in which two protocols differ (`dataclasses.asdict`)."""
    entries = sorted((first.keys() | second.keys()) - {"name"})
    return [
        f"{entry} {first.get(entry, 'absent')!r} and {second.get(entry, 'absent')!r}"
        for entry in entries
        if first.get(entry, "absent") != second.get(entry, "absent")
    ]


def check_equal(first: Protocol | Mapping, second: Protocol | Mapping) -> None:
    """Raises ValueError with the entries that differ if two values have different protocols."""
    first, second = (asdict(each) if isinstance(each, Protocol) else dict(each) for each in (first, second))
    if found := differences(first, second):
        raise ValueError(f"these values do not compare, because their protocols differ: {'; '.join(found)}")
