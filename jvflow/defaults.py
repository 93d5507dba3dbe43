"""Blocks of a config that most experiments share, and how one config derives from another.

A config calls `common`, changes what differs, and spells out its experiment: network, objective, path, sampling and
evaluation. Nothing here imports JAX: a command reads its config before JAX starts.
"""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from ml_collections import ConfigDict, config_dict


def common(method: str, objective: str, mode: str, *, seed: int = 0) -> ConfigDict:
    """Returns a config with the blocks that most experiments share.

    Args:
      method: the paper, see `jvflow.experiment.PAPERS`.
      objective: one of the paper's objectives.
      mode: "", or "debug" for a run of seconds.
      seed: of parameters, batches and noise.

    Raises:
      ValueError: if the mode is unknown.
    """
    if mode not in ("", "debug"):
        raise ValueError(f"unknown mode {mode!r}: use nothing or debug")
    # pretrained: a run's workdir (pretrained_state: continue its optimizer and steps), or the folder of a public model
    config = ConfigDict(dict(seed=seed, method=method, objective=objective, pretrained="", pretrained_state=False))
    config.codec = dict(name="pixels", checkpoint=(), scale=1.0)
    # path: a folder of videos, the data set that `jvflow encode` wrote, or procedural:KIND
    config.data = dict(path="", cache="", seed=0, captions="", image_fps=0.0, fit="crop", test_fraction=0.2, threads=1)
    config.data.update(clips=dict(train=0, test=0), min_frames=0, slow="skip", splits="")  # see docs/data.md
    config.data.dtype = "float32"  # of latents on disk; or "float16", "bfloat16"
    config.optimizer = dict(name="adamw", schedule="cosine", b1=0.9, b2=0.99, eps=1e-8)
    config.optimizer.update(weight_decay=0.0, max_grad_norm=1.0)
    # all parameters train; or layers that match an expression; or LoRA matrices of rank > 0, new or those of a file
    config.tune = dict(layers=(), rank=0, alpha=16.0, lora="", dtype="float32")  # dtype: of frozen parameters
    # mesh, microbatches and remat say how steps are computed, and change no result
    config.run = dict(mesh=dict(data=-1, fsdp=1, sequence=1, tensor=1), microbatches=1, remat="none", keep=2)
    config.run.update(evaluate_every=0, progress=True, tensorboard=True)
    return config


def dit(**settings) -> dict:
    """Returns `config.network` of a DiT in float32 that a laptop trains: layers by name, and convolutions of tokens."""
    return dict(name="dit", mlp_ratio=4.0, dtype="float32", scan=False, local=True) | settings


def adaptive_heun() -> dict:
    """Returns entries of `config.sample`: Heun's method with a step size per sample, at the papers' tolerance."""
    steps = config_dict.placeholder(int)  # a number of equal steps, in place of the tolerances
    return dict(method="heun", rtol=1e-2, atol=1e-2, steps=steps, per_sample=True, controller="diffrax")


def shorten(config: ConfigDict) -> None:
    """Sets the few steps and small batches of a debug mode."""
    config.train.update(steps=20, batch_size=4)
    config.run.update(log_every=5, checkpoint_every=10, sample_every=0, validate_every=0)


def derive(file: str, base: str, mode: str) -> ConfigDict:
    """Returns the config of the file `base` in the folder of `file`: the config that `file` changes."""
    spec = spec_from_file_location("base", Path(file).with_name(base))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(mode)
