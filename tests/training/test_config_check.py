"""Wrong values of a config and of arguments: each is refused, with the values to use, before anything is built."""

import re
from collections.abc import Iterator

import jax
import pytest
from absl import flags
from conftest import ROOT, debug_config, load_config

from jvflow import cli, commands
from jvflow.experiment import method_of
from jvflow.training import dryrun
from jvflow.training.config_check import check_config
from jvflow.training.loop import train
from jvflow.training.rules import BELOW_ONE, COUNT, POSITIVE, SEED, problem
from jvflow.training.workdir import override, recorded

FILES = sorted(str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.py"))
BIFLOW, UNET = "biflow/procedural.py", "biflow/unet.py"
VLFM, FLOWFRAMES = "vlfm/procedural.py", "flowframes/procedural.py"


def with_values(file: str, values: dict):
    """Returns the debug config of a file with these entries, {path: value}, of any type."""
    config = load_config(file, "debug")
    with config.ignore_type(), config.unlocked():
        for path, value in values.items():
            *sections, name = path.split(".")
            part = config
            for section in sections:
                part = part[section]
            part[name] = value
    return config


def refused(config) -> str:
    with pytest.raises(ValueError) as error:
        check_config(config)
    return str(error.value)


def leaves(tree: dict, prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        yield from leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]


@pytest.mark.parametrize("file", FILES)
def test_every_config_passes_with_every_objective(file):
    for mode in ("", "debug"):
        config = load_config(file, mode)
        for objective in method_of(config).objectives:
            config.objective = objective
            if (objective, config.network.name) != ("conventional", "unet"):  # refused, see below
                check_config(config)
        check_config(recorded(config))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("value", [float("nan"), (float("nan"),), b"x"])
def test_every_entry_has_a_rule(file, value):
    """Checks that no entry of any config accepts values that have no meaning anywhere."""
    paths = set(leaves(load_config(file, "debug").to_dict())) - {"method", "objective"}
    found = refused(with_values(file, dict.fromkeys(paths, value)))
    assert {line.split()[0] for line in found.splitlines()[1:]} == {f"config.{path}" for path in paths}


WHOLE, ABOVE, LEAST = "use a whole number of 1 or more", "use a number above 0", "use a number of 0 or more"
SIZE, BELOW = r"use \(height, width\) in pixels, two whole numbers", "use a number from 0 to 0.9999999"


@pytest.mark.parametrize(
    "file, path, values, message",
    [
        (BIFLOW, "seed", [2**32, 2**32 + 1, 2**64], "use a whole number from 0 to 4294967295"),
        (BIFLOW, "seed", [-1, None, 1.0, True, "1"], "use a whole number of 0 or more"),
        (BIFLOW, "data.seed", [-1, 2**32], "use a whole number"),
        (BIFLOW, "evaluate.seed", [-1, 2**32], "use a whole number"),
        (BIFLOW, "network.dtype", ["bf16", "float16", "float64", None], "use one of float32, bfloat16"),
        (BIFLOW, "data.dtype", ["fp16", "float"], "use one of float32, float16, bfloat16"),
        (BIFLOW, "data.size", [32, (32,), (32, 32, 3), (32, 0), (32.0, 32), "32", ()], SIZE),
        (BIFLOW, "data.size", [(10, 10)], "use at least 11 pixels a side, because the SSIM"),
        (VLFM, "data.size", [(4, 4)], "use at least 8 pixels a side for procedural video"),
        (BIFLOW, "data.fps", [0, -1.0, float("inf"), None], "0.01 to 1000"),
        (BIFLOW, "data.test_fraction", [1, 1.5, -0.1], "use a number of 0 or more and below 1"),
        (BIFLOW, "data.threads", [-1, 1.5], f"{WHOLE}, or 0 to read on demand"),
        (BIFLOW, "data.stride", [0], WHOLE),
        (BIFLOW, "data.frames", [0, -8], WHOLE),
        (BIFLOW, "data.clips.train", [0], f"{WHOLE} for procedural video"),
        (BIFLOW, "data.clips.train", [1_000_001], "use a whole number from 0 to 1000000"),
        (BIFLOW, "data.clips", [3], "use a dict with the entries train, test"),
        (BIFLOW, "train.steps", [0], f"config.pretrained names no model: {WHOLE}"),
        (BIFLOW, "train.steps", [-20, 20.0, "20", True], f"{WHOLE}, or 0 to write the model"),
        (BIFLOW, "train.steps", [2**31], "use a whole number from 1 to 2147483647, or 0"),
        (BIFLOW, "train.batch_size", [0, -4], WHOLE),
        (BIFLOW, "optimizer.learning_rate", [0, -1e-3, "1e-3"], ABOVE),
        (BIFLOW, "optimizer.learning_rate", [1e-300, 1e300, float("inf")], "use a number from 1e-30 to"),
        (BIFLOW, "optimizer.warmup_steps", [-1], "use a whole number of 0 or more"),
        (BIFLOW, "optimizer.b1", [1, -0.1, 1 - 1e-9], BELOW),
        (BIFLOW, "optimizer.ema", [1.0, -0.1, 1 - 1e-9], BELOW),
        (BIFLOW, "optimizer.eps", [0], ABOVE),
        (BIFLOW, "optimizer.max_grad_norm", [-1.0], LEAST),
        (BIFLOW, "run.keep", [0], WHOLE),
        (BIFLOW, "run.microbatches", [0], WHOLE),
        (BIFLOW, "run.mesh.data", [0, -2], f"{WHOLE}, or -1 for the remaining devices"),
        (BIFLOW, "run.checkpoint_every", [-1, 0.5, False], f"{WHOLE}, or 0 for never"),
        (BIFLOW, "run.progress", [1, "yes"], "use True or False"),
        (BIFLOW, "run.sampel_every", [5], "is unknown: did you mean config.run.sample_every?"),
        (BIFLOW, "tune.rank", [-1], f"{WHOLE}, or 0 for no LoRA matrices"),
        (BIFLOW, "tune.layers", ["attn", ("",)], "use a tuple of regular expressions"),
        (BIFLOW, "network.width", [0, 96.0], WHOLE),
        (UNET, "network.width.biflow", [0], WHOLE),
        (UNET, "network.width", [dict(flow=8)], "has no value for the objective biflow"),
        (BIFLOW, "network.patch", [(1, 2), (1, 0, 2), 2], r"use \(frames, height, width\)"),
        (BIFLOW, "network.scales", [(1.0,), dict(biflow=(1.0,))], "biflow has 2"),
        (BIFLOW, "network.name", ["unet"], "does not take depth, heads, .* and needs attends, levels"),
        (BIFLOW, "loss_weights", [dict(biflow=(1.0,)), dict(flow=(1.0,))], "biflow has 2"),
        (BIFLOW, "sample.steps", [0, 2.5], f"{WHOLE}, or None"),
        (BIFLOW, "sample.rtol", [0, -1e-2], ABOVE),
        (BIFLOW, "sample.method", ["rk4"], "no error estimate: set config.sample.steps"),
        (BIFLOW, "context.frames", [0], WHOLE),
        (BIFLOW, "evaluate.window", [97], "frames is 96, and 4 windows of 97 frames need 145"),
        (BIFLOW, "evaluate.dimensions", [0], "use a whole number of 3 or more"),
        (VLFM, "sample.guidance", [None, float("nan"), "2"], "use a number"),
        (VLFM, "path.order", [0, 2.0], f"{WHOLE}, or None"),
        (VLFM, "path.sigma_min", [0, 1], "use a number between 0 and 1"),
        (VLFM, "window.frames", [1], "use a whole number of 2 or more"),
        (VLFM, "evaluate.text_guidance", [2.0, (None,)], "use a tuple of numbers"),
        (FLOWFRAMES, "inversion.rho", [-0.1, 1.2], "use a number from 0 to 1"),
        (FLOWFRAMES, "inversion.max_error", [0], f"{ABOVE}, or None"),
        (FLOWFRAMES, "chunk.frames", [(), (0,), 8], "use a tuple of whole numbers of 1 or more"),
        (FLOWFRAMES, "evaluate.window", [5], r"too long for config.evaluate.chunks=1 of 4 frames"),
    ],
)
def test_a_wrong_value_is_one_line_with_the_cure(file, path, values, message):
    for value in values:
        found = refused(with_values(file, {path: value}))
        assert "\n" not in found and f"config.{path}" in found and re.search(message, found), (value, found)


@pytest.mark.parametrize(
    "file, values, message",
    [
        (BIFLOW, {"evaluate.frames": 64}, "config.evaluate.frames is 64, and 4 windows of 32 frames need 80"),
        (
            BIFLOW,
            {"context.frames": 96},
            "a stream starts from config.context.frames=96 frames: use 97",
        ),
        (BIFLOW, {"sample.curve": "backward", "context.frames": 2}, "'backward' needs config.context.frames=1, not 2"),
        (BIFLOW, {"sample.gain": 1.0, "sample.epsilon": 0.0}, "config.sample.gain is 1.0, and config.sample.epsilon"),
        (
            BIFLOW,
            {"sample.controller": "torchode", "sample.per_sample": False},
            "config.sample.controller is 'torchode'",
        ),
        (VLFM, {"sample.controller": "torchode", "sample.method": "bosh3"}, "method='heun' and per_sample=True"),
        (BIFLOW, {"data.min_frames": 81}, "config.data.min_frames is 81, more than config.data.frames=80"),
        (VLFM, {"window.anywhere": True, "run.evaluate_every": 5}, "compares clips from their first frame"),
        ("flowframes/ltx_2b.py", {"network.head": 13}, "config.network.head is 13: use an even number"),
        (
            "flowframes/shapes.py",
            {"objective": "conventional"},
            "config.network.name 'unet' takes one for all: use the network dit",
        ),
        ("flowframes/shapes.py", {"inversion.rho": 0.5}, "config.chunk.noise is 0.3, which would hide the inverted"),
    ],
)
def test_values_that_contradict_each_other(file, values, message):
    assert message in refused(with_values(file, values))


def test_all_wrong_values_are_in_one_message():
    assert refused(
        with_values(BIFLOW, {"data.fps": 0.0, "network.dtype": "bf16", "train.batch_size": 0})
    ).splitlines() == [
        "3 values are wrong:",
        "  config.data.fps is 0.0: use frames per second from 0.01 to 1000",
        "  config.network.dtype is 'bf16': use one of float32, bfloat16",
        "  config.train.batch_size is 0: use a whole number of 1 or more",
    ]


def test_a_config_of_another_type_is_refused():
    assert refused(load_config(BIFLOW).to_dict()) == (
        "the config is a dict: let get_config return a ConfigDict of ml_collections"
    )


def test_names_are_checked_before_the_paper_is_imported():
    assert refused(with_values(BIFLOW, {"method": 3, "train.steps": 0})) == "config.method is 3: use text"
    assert refused(with_values(BIFLOW, {"objective": ["flow"]})) == "config.objective is ['flow']: use text"
    assert refused(with_values(BIFLOW, {"objective": "flwo"})).startswith("unknown objective 'flwo'")


def test_absent_entries_are_left_to_the_code_that_reads_them():
    config = load_config(BIFLOW, "debug")
    for section, names in dict(evaluate=("window", "frames"), data=("clips", "size"), sample=("epsilon",)).items():
        for name in names:
            del config[section][name]
    check_config(config)


@pytest.mark.parametrize("rule, value", [(COUNT, 2**31 - 1), (POSITIVE, 1e30), (BELOW_ONE, 0), (SEED, 2**32 - 1)])
def test_bounds_are_allowed(rule, value):
    assert problem("x", value, rule) == ""


def test_the_rules_allow_exactly_the_seeds_that_differ():
    """A random key has the lower 32 bits of its seed."""
    key = lambda seed: jax.random.key_data(jax.random.key(seed)).tolist()
    assert key(2**32 + 1) == key(1) and key(-1) == key(2**32 - 1)


# --- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "encode", "dryrun", "demo"])
def test_a_command_refuses_before_it_writes(tmp_path, command):
    config, out = with_values(BIFLOW, {"data.fps": 0.0, "data.cache": str(tmp_path / "data")}), tmp_path / "out"
    run = dict(
        train=lambda: train(config, out),
        encode=lambda: commands.encode(config, out),
        dryrun=lambda: dryrun.report(config, "h100:1"),
        demo=lambda: commands.demo(config, out, command="demo"),
    )[command]
    with pytest.raises(ValueError, match="config.data.fps is 0.0"):
        run()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "file, values, message",
    [
        (BIFLOW, {"pretrained": "nowhere", "tune.layers": ("qkv",)}, "config.pretrained names nowhere"),
        (BIFLOW, {"tune.rank": 99}, "freezes parameters, which would stay random without config.pretrained"),
        (UNET, {"run.remat": "dots"}, "unknown remat 'dots' of a U-Net: use none or full"),
        (UNET, {"network.groups": 3}, r"channels \[8, 16\] are no multiples of groups 3"),
        (UNET, {"network.attends": (False,)}, "a U-Net of 2 levels needs as many entries in attends"),
        (VLFM, {"text.heads": 3}, "heads 3 does not divide the width 32 of the text encoder"),
        (BIFLOW, {"train.batch_size": 6}, "use 8"),
    ],
)
def test_sizes_that_do_not_fit_are_found_before_data_are_built(tmp_path, file, values, message):
    with pytest.raises(ValueError, match=message):
        train(with_values(file, values | {"data.cache": str(tmp_path / "data")}), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "file, section, entries, message",
    [
        (BIFLOW, "sample", dict(steps=0), "config.sample.steps is 0"),
        (BIFLOW, "sample", dict(method="euler"), "config.sample.method is 'euler', which has no error estimate"),
        (BIFLOW, "sample", dict(epsilom=0.1), "config.sample has no 'epsilom'"),
        (BIFLOW, "evaluate", dict(videos=0), "config.evaluate.videos is 0"),
        (BIFLOW, "evaluate", dict(frames=64), "4 windows of 32 frames need 80"),
        (VLFM, "sample", dict(guidance=None), "config.sample.guidance is None"),
        (FLOWFRAMES, "evaluate", dict(steps=3), "config.evaluate.steps is 3: use a tuple"),
    ],
)
def test_an_override_is_refused_before_the_run_is_loaded(tmp_path, file, section, entries, message):
    (tmp_path / "config.json").write_text(recorded(load_config(file, "debug")).to_json())  # no checkpoint
    options = dict(sampling=entries) if section == "sample" else dict(overrides=entries)
    with pytest.raises(ValueError, match=message):
        commands.evaluate(tmp_path, **options)


def test_an_override_does_not_judge_the_rest_of_a_run():
    config = with_values(BIFLOW, {"data.size": (8, 8), "seed": 2**40})
    override(config, "sample", dict(epsilon=0, steps=3))
    assert config.sample.epsilon == 0 and config.sample.steps == 3


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(count=0, length=-1, observed=0), "3 values are wrong:\n  --count is 0: .*\n  --frames is -1: "),
        (dict(seed=-1), "--seed is -1"),
        (dict(fps=float("inf")), "--fps is inf: use a number from 0.01 to 1000"),
    ],
)
def test_wrong_arguments_of_sample(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        commands.sample(tmp_path, tmp_path / "out", **options)


def test_wrong_noise_levels_of_compare(tmp_path):
    compare = method_of(debug_config(None)).compare
    for options, message in (
        (dict(epsilons=[-0.1, float("nan")]), r"--epsilon is \[-0.1, nan\]: use numbers of 0 or more"),
        (dict(gains=[float("inf")]), r"--gain is \[inf\]: use numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            compare({}, print, tmp_path, **options)
    with pytest.raises(ValueError, match="--workdirs is empty"):
        commands.compare([], tmp_path)


def test_a_list_of_numbers_names_its_flag():
    values = flags.FlagValues()
    flag = flags.DEFINE_list("epsilon", ["0", "0.1"], "levels", flag_values=values)
    values(["jvflow", "--epsilon=0.2,1"])
    assert cli.parse_numbers(flag) == [0.2, 1.0]
    values(["jvflow", "--epsilon=x"])
    with pytest.raises(ValueError, match="--epsilon=x: write numbers, such as 0,0.1"):
        cli.parse_numbers(flag)
