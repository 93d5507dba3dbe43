"""Runs the commands of `docs/finetuning.md` with very small models of each backbone (needs the extra `dev`).

    python -m benchmarks.finetune --data=FOLDER [--models=ltx,wan,dit,unet] [--steps=100] [--out=out/finetune]

Creates random public models with diffusers. Tunes each on the videos of FOLDER, once with all parameters and once with
LoRA. Exports each run (for LoRA once with merged matrices and once with the matrices only), and loads the export into
diffusers. Writes the validation losses over the steps, and the difference between diffusers' output and ours, to
`out/benchmarks/finetune.json`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from absl import flags

from benchmarks import record
from jvflow import cli

DATA = flags.DEFINE_string("data", None, "A folder of videos.")
MODELS = flags.DEFINE_list("models", ["ltx", "wan", "dit", "unet"], "Backbones to tune.")
STEPS = flags.DEFINE_integer("steps", 100, "Training steps of each run.")
OUT = flags.DEFINE_string("out", "out/finetune", "Folder for models, caches, runs and exports.")
flags.mark_flags_as_required(["data"])

VIDEO = dict(num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, num_layers=2)
BLOCKS = dict(
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
    class_embed_type="timestep",
)
PUBLIC = dict(
    ltx=("LTXVideoTransformer3DModel", dict(VIDEO, cross_attention_dim=24, caption_channels=16), ("transformer",)),
    wan=("WanTransformer3DModel", dict(VIDEO, text_dim=16, ffn_dim=32), ("transformer",)),
    dit=(
        "DiTTransformer2DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=3,
            out_channels=6,
            num_layers=2,
            patch_size=2,
            sample_size=16,
            num_embeds_ada_norm=10,
        ),
        ("transformer",),
    ),
    unet=("UNet2DModel", dict(BLOCKS, sample_size=16, in_channels=3, out_channels=3), ("video", "noise")),
)
CONFIGS = dict(
    ltx=("flowframes/ltx_2b.py", ["--config.data.size=(64,64)", "--config.tune.layers=('attn','ff')"]),
    wan=("flowframes/wan_1p3b.py", ["--config.data.size=(32,32)", "--config.tune.layers=('attn','ffn')"]),
    dit=(
        "vlfm/dit_public.py",
        [
            "--config.data.size=(16,16)",
            "--config.text.name=none",
            "--config.tune.layers=('qkv','proj','mlp','patch','modulation')",
        ],
    ),
    unet=("biflow/unet.py", ["--config.data.size=(16,16)", "--config.tune.layers=('attentions',)"]),
)
"""Config of each backbone, and additional flags; the flags of config.tune are for LoRA only."""


def main():
    file = record.file("finetune.json")
    found = json.loads(file.read_text())["results"] if file.exists() else {}
    for name in MODELS.value:
        _make(name)
        found[name] = {tuning: _tune(name, rank) for tuning, rank in (("whole", 0), ("lora", 4))}
        print(name, json.dumps(found[name], indent=1), flush=True)
        record.write("finetune", dict(steps=STEPS.value, results=found))


def _make(name: str) -> None:
    """Writes the random public models of a backbone."""
    import diffusers
    import torch

    kind, sizes, folders = PUBLIC[name]
    for number, folder in enumerate(folders):
        torch.manual_seed(number)
        model = getattr(diffusers, kind)(**sizes)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))  # biases and norms too
        model.save_pretrained(Path(OUT.value) / name / folder)


def _tune(name: str, rank: int) -> dict:
    """Trains one run, with LoRA if `rank` is above 0; returns its validation losses and the errors of its exports."""
    home = Path(OUT.value) / name
    config, more = CONFIGS[name]
    more = more if rank else [flag for flag in more if "tune" not in flag]
    options = [
        f"--config=configs/{config}:debug",
        f"--config.pretrained={','.join(str(home / folder) for folder in PUBLIC[name][2])}",
        *more,
        "--config.data.test_fraction=0.2",
        "--config.data.fps=10.0",
        f"--config.tune.rank={rank}",
        "--config.run.progress=False",
    ]
    run = home / ("lora" if rank else "whole")
    _command("encode", *options, f"--config.data.path={DATA.value}", f"--out={home / 'encoded'}")
    often = max(STEPS.value // 5, 1)
    _command(
        "train",
        *options,
        f"--config.data.path={home / 'encoded'}",
        f"--config.train.steps={STEPS.value}",
        "--config.train.batch_size=8",
        f"--config.optimizer.learning_rate={1e-2 if rank else 3e-3}",
        "--config.optimizer.schedule=constant",
        "--config.optimizer.warmup_steps=0",
        f"--config.run.validate_every={often}",
        f"--config.run.checkpoint_every={STEPS.value}",
        "--config.run.sample_every=0",
        f"--workdir={run}",
    )
    lines = map(json.loads, (run / "validation.jsonl").read_text().splitlines())
    losses = {line["step"]: line["loss"] for line in lines}
    size = lambda folder: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    record = dict(
        held_out=losses,
        fell=losses[STEPS.value] < losses[0],
        checkpoint_bytes=size(run / "checkpoints" / str(STEPS.value)),
    )
    for lora in (False, True) if rank else (False,):
        out = run / ("matrices" if lora else "exported")
        _command("export", f"--workdir={run}", f"--out={out}", *["--lora"] * lora)
        record["unmerged" if lora else "merged"] = max(
            _difference(name, folder, run, out, lora) for folder in PUBLIC[name][2]
        )
    return record


def _command(name: str, *given: str) -> None:
    """Runs a command of `launch`; keeps an export that exists."""
    out = next(Path(flag.partition("=")[2]) for flag in given[::-1] if flag.startswith(("--out=", "--workdir=")))
    if name == "export" and out.exists():
        return
    print("python -m launch." + " ".join([name, *given]), flush=True)
    subprocess.run(
        [sys.executable, "-m", f"launch.{name}", *given],
        check=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(["."] + sys.path)),
    )


def _difference(name: str, folder: str, run: Path, out: Path, lora: bool) -> float:
    """Returns the largest difference between the package's output and ours, relative to the largest output."""
    import diffusers
    import jax
    import numpy as np
    import torch

    from jvflow import pretrained
    from jvflow.load import load
    from jvflow.pretrained import public

    source, found = Path(OUT.value) / name / folder, load(run)
    params = {key: a for key, a in found.params.items() if key != "text"}
    parts = public.parts(found.config, found.experiment.network)
    for key in parts[PUBLIC[name][2].index(folder)].path:
        params = params[key]
    inputs = _inputs(name)
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(pretrained.inspect(source, **public.import_options(found.config)).apply(params, **inputs))
    at = out / folder if len(PUBLIC[name][2]) > 1 else out
    model = getattr(diffusers, PUBLIC[name][0]).from_pretrained(source if lora else at).eval()
    if lora:
        _with_matrices(model, at)
    arguments = {key: torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for key, a in inputs.items()}
    with torch.no_grad():
        theirs = model(**arguments, return_dict=False)[0].numpy()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _with_matrices(model, folder: Path) -> None:
    """Loads low-rank matrices into a model with diffusers, or with peft if diffusers does not support its class."""
    from safetensors.torch import load_file

    from jvflow.pretrained import LORA_FILE

    tensors = load_file(folder / LORA_FILE)
    prefix = next(iter(tensors)).partition(".")[0]
    if hasattr(model, "load_lora_adapter"):
        model.load_lora_adapter(tensors, prefix=prefix)
        return
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    tensors = {name.removeprefix(f"{prefix}."): a for name, a in tensors.items()}
    layers = sorted({name.rpartition(".lora_")[0] for name in tensors})
    rank = next(a for name, a in tensors.items() if "lora_A" in name).shape[0]
    model = inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), model)
    wrong = set_peft_model_state_dict(model, tensors)
    if wrong.unexpected_keys:
        raise ValueError(f"peft does not know {wrong.unexpected_keys[:3]}")


def _inputs(name: str) -> dict:
    """Returns inputs in the package's layout and names."""
    import numpy as np

    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    time = np.array([900.0, 100.0], np.float32)
    return dict(
        ltx=dict(
            hidden_states=normal(2, 3 * 4 * 4, 16),
            encoder_hidden_states=normal(2, 5, 16),
            timestep=time,
            encoder_attention_mask=np.ones((2, 5), np.int64),
            num_frames=3,
            height=4,
            width=4,
            rope_interpolation_scale=(5.0, 512.0, 512.0),  # positions that divide without rounding
        ),
        wan=dict(hidden_states=normal(2, 16, 3, 4, 4), timestep=time, encoder_hidden_states=normal(2, 5, 16)),
        dit=dict(hidden_states=normal(2, 3, 16, 16), timestep=time, class_labels=np.array([3, 7])),
        unet=dict(
            sample=normal(2, 3, 16, 16),
            timestep=np.array([0.2, 0.9], np.float32),
            class_labels=np.array([0.1, 0.8], np.float32),
        ),
    )[name]


if __name__ == "__main__":
    cli.run(main)
