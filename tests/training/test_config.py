"""Configs, whole: each is complete, fits itself, and has no key that nothing reads."""

import json
from collections.abc import Iterator

import jax
import pytest
from conftest import ROOT, load_config
from legends import unexplained
from ml_collections import ConfigDict

from jvflow import commands
from jvflow.experiment import assemble
from jvflow.parallel import mesh as meshes
from jvflow.run import scalars
from jvflow.training import dryrun
from jvflow.training.loop import train
from jvflow.training.step import create, train_step
from jvflow.training.workdir import Workdir, recorded

pytestmark = pytest.mark.slow

FILES = sorted(str(p.relative_to(ROOT / "configs")) for p in (ROOT / "configs").rglob("*.py"))
OBJECTIVES = dict(
    biflow=("flow", "biflow", "condiff"),
    vlfm=("vlfm", "direct"),
    flowframes=("text_to_video", "flowframes", "conventional"),
)
UNETS = {  # the others are these, on data of other sizes
    "biflow/unet.py": (("flow", 1), ("biflow", 1), ("condiff", 3)),
    "biflow/unet_minerl.py": (("biflow", 1),),
}
UNET_OF_CHUNKS = "flowframes/shapes.py"  # one time for all frames, so that it does not fit the conventional design
SOURCE = "flowframes/pretrain.py"  # the model that FlowFrames starts from: it has no settings of the other objectives

LONG = {"vlfm/paper.py": 52, "flowframes/clips.py": 55, "flowframes/procedural.py": 55, "flowframes/ltx_2b.py": 77}
"""Lines of the configs that need more than 45: they have long commands in their headers, and encoders or inversion."""


def objectives(file: str) -> tuple[str, ...]:
    if file == UNET_OF_CHUNKS:
        return "text_to_video", "flowframes"
    return ("text_to_video",) if file == SOURCE else OBJECTIVES[file.partition("/")[0]]


CASES = [
    (file, objective, past)
    for file in FILES
    for objective in objectives(file)
    for past in ((1, 3) if "biflow" in file else (0,))
    if "unet" not in file or (objective, past) in UNETS.get(file, ())
]


@pytest.mark.integration
@pytest.mark.parametrize("file, objective, past", CASES)
def test_a_whole_train_step_fits(file, objective, past):
    """Shapes of a full-size step, without computing anything."""
    config = load_config(file)
    config.objective = objective
    if past:
        config.context.frames = past
    if config.codec.name not in ("pixels", "ltx_vae", "wan_vae"):
        config.codec = dict(name="pixels", checkpoint=(), scale=1.0)  # the checkpoint is somebody's files
    if config.get("text", {}).get("name") == "clip_text":
        config.text = dict(name="bytes", length=308, width=768, depth=1)  # likewise
    experiment = assemble(config, abstract=True)
    batch = dryrun.batch_shapes(experiment, config, meshes.make_mesh(devices=jax.devices()[:1]))
    init = lambda key: create(key, experiment.network, experiment.optimizer, ema=config.optimizer.ema > 0)
    before = jax.eval_shape(init, jax.random.key(0))
    step = lambda s, b: train_step(s, b, jax.random.key(0), experiment=experiment, ema=0.9)
    after, metrics = jax.eval_shape(step, before, batch)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert metrics["loss"].shape == ()


@pytest.mark.parametrize("file", FILES)
def test_configs_say_how_to_run_them_and_have_a_debug_mode(file):
    text = (ROOT / "configs" / file).read_text()
    assert len(text.splitlines()) <= LONG.get(file, 45)
    header = " ".join(text.split('"""')[1].split())
    assert "Cost: " in header and "Expect" in header
    assert f"python -m launch.train --config=configs/{file}" in " ".join(text.split())
    full, debug = load_config(file), load_config(file, "debug")
    # a codec and a text encoder have options of their own
    keys = lambda config: {key for key in leaves(config) if not key.startswith(("codec.", "text."))}
    assert keys(full) == keys(debug)
    assert debug.train.steps <= 50
    with pytest.raises(ValueError, match="unknown mode"):
        load_config(file, "debgu")


def leaves(config: ConfigDict | dict, prefix: str = "") -> Iterator[str]:
    for key, value in (config if isinstance(config, dict) else config.to_dict()).items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


class Reads:
    """Records the whole path, such as "run.mesh.fsdp", of every config entry that is read while it is installed."""

    def __init__(self, monkeypatch):
        # of each dict that was met: itself, since ids are used again, the config that it is in, and its path there
        self._met, self._reads, self._copying = {}, [], False
        self._get = get = ConfigDict.__getitem__
        to_dict = ConfigDict.to_dict

        def reading(config, key):
            value = get(config, key)
            _, root, prefix = self._met.setdefault(id(config), (config, config, ""))
            if isinstance(value, ConfigDict):
                self._met[id(value)] = (value, root, f"{prefix}{key}.")
            elif not self._copying:
                self._reads.append((root, prefix + key))
            return value

        def copying(config, *args, **options):
            self._copying, before = True, self._copying
            try:
                return to_dict(config, *args, **options)
            finally:
                self._copying = before

        monkeypatch.setattr(ConfigDict, "__getitem__", reading)
        monkeypatch.setattr(ConfigDict, "to_dict", copying)  # a record that holds a whole section has read none of it

    def paths(self, objective: str) -> set[str]:
        """Returns what was read of configs of this objective: another model's config does not count."""
        reads, self._reads = self._reads, []
        return {path for root, path in reads if "objective" in root and self._get(root, "objective") == objective}


def test_reads_are_told_apart_by_their_whole_path(monkeypatch):
    config = ConfigDict(dict(objective="flow", sample=dict(steps=1, seed=2), train=dict(steps=3, mesh=dict(data=4))))
    other = ConfigDict(dict(objective="biflow", seed=5))
    reads = Reads(monkeypatch)
    config.train.to_dict()
    assert other.seed == 5 and dict(**config.sample) == dict(steps=1, seed=2) and config.train.mesh.data == 4
    assert reads.paths("flow") == {"sample.steps", "sample.seed", "train.mesh.data"}
    assert config.copy_and_resolve_references().train.steps == 3 and reads.paths("flow") == {"train.steps"}


FRAMES = {"biflow/procedural.py": 2, "vlfm/procedural.py": None, "flowframes/procedural.py": None}


@pytest.mark.integration
@pytest.mark.parametrize("file", FRAMES)
def test_every_key_is_read(tmp_path, monkeypatch, file):
    """Encoding, training, sampling and evaluating read every key of the config, or the key should not be there."""
    config = load_config(file, "debug")
    config.run.update(progress=False, sample_every=20)
    if "text_guidance" in config.evaluate:
        config.evaluate.text_guidance = (1.0,)  # each is a program of its own
    reads = Reads(monkeypatch)
    # programs of one device compile sooner
    one_device = lambda: meshes.make_mesh(devices=jax.devices()[:1])
    monkeypatch.setattr(meshes, "local_mesh", one_device)
    monkeypatch.setattr(commands, "local_mesh", one_device)
    if "inversion" in config:
        monkeypatch.setattr("jvflow.flowframes.inversion.local_mesh", one_device)
        prepare_inversions(config, tmp_path)
    else:
        commands.encode(config, tmp_path / "encoded")
    config.run.evaluate_every = 20 if "biflow" in file else 0  # one is enough to see that it says the same
    train(config, tmp_path / "run")
    record = commands.evaluate(tmp_path / "run")
    assert unexplained(record) == []
    if config.run.evaluate_every:
        line = json.loads((tmp_path / "run" / "validation.jsonl").read_text())
        assert (
            line.pop("step") == 20
            and line.pop("evaluate_seconds") > 0
            and line["distance_mean"] == record["distance_mean"] > 0
        )
        assert line.keys() == scalars(record).keys() and "truth" in line
    # as many frames as elsewhere: compiled once
    commands.sample(tmp_path / "run", tmp_path / "out", count=4, length=FRAMES[file])
    read = reads.paths(config.objective)
    # read when a sample starts from given images
    read |= {"data.image_fps", "data.fit"}
    assert sorted(set(leaves(saved(tmp_path / "run"))) - read) == []


def saved(workdir) -> ConfigDict:
    return ConfigDict(Workdir(workdir).read_config())


PROCEDURAL = [(f"{paper}/procedural.py", objective) for paper in OBJECTIVES for objective in OBJECTIVES[paper]]
ELSEWHERE = ("run.", "data.", "evaluate.", "sample.", "inversion.", "optimizer.ema", "train.batch_size", "seed")


@pytest.mark.parametrize("file, objective", PROCEDURAL)
def test_a_record_has_only_keys_that_its_objective_reads(file, objective, monkeypatch):
    config = load_config(file, "debug")
    config.objective = objective
    record = recorded(config)
    assert set(leaves(record)) < set(leaves(config))
    reads = Reads(monkeypatch)
    experiment = assemble(record)
    batch = dryrun.batch_shapes(experiment, record, meshes.make_mesh(devices=jax.devices()[:1]))
    init = lambda key: create(key, experiment.network, experiment.optimizer, ema=True)
    state = jax.eval_shape(init, jax.random.key(0))
    step = lambda s, b: train_step(s, b, jax.random.key(0), experiment=experiment, ema=0.9)
    jax.eval_shape(step, state, batch)
    unread = sorted(set(leaves(record)) - reads.paths(objective))
    assert [key for key in unread if not key.startswith(ELSEWHERE)] == []


@pytest.mark.parametrize(
    "file, objective, absent",
    [
        (
            "biflow/procedural.py",
            "flow",
            ["loss_weights.biflow", "network.scales.biflow", "alpha_max", "sample.epsilon"],
        ),
        ("biflow/procedural.py", "biflow", ["loss_weights.flow", "network.scales.condiff", "tune.alpha"]),
        ("vlfm/procedural.py", "direct", ["path.sigma", "times.start", "prediction", "mean_weight", "sample.rtol"]),
        ("flowframes/procedural.py", "text_to_video", ["inversion.rho", "coupling"]),
        ("flowframes/procedural.py", "conventional", ["inversion.rho"]),
    ],
)
def test_a_record_leaves_out_keys_without_effect(file, objective, absent):
    config = load_config(file, "debug")
    config.objective = objective
    assert set(absent) <= set(leaves(config)) - set(leaves(recorded(config)))


def prepare_inversions(config, folder):
    """Trains the model that `config` starts from, and inverts the config's data through it."""
    before = load_config("flowframes/pretrain.py", "debug")
    before.run.progress = False
    train(before, folder / "pretrained")
    config.pretrained = str(folder / "pretrained")
    commands.encode(config, folder / "inverted")
    config.data.path = str(folder / "inverted")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(objective="flwo"), "unknown objective 'flwo': use one of flow, biflow, condiff"),
        (dict(method="biflwo"), "unknown method 'biflwo': use one of biflow"),
        (dict(coupling="ot"), "unknown coupling 'ot'"),
        (dict(prediction="noise"), "unknown prediction 'noise': use one of velocity, clean"),
        (dict(codec=dict(name="jpeg")), "unknown codec"),
    ],
)
def test_wrong_names(change, message):
    config = load_config("biflow/procedural.py")
    config.update(change)
    with pytest.raises(ValueError, match=message):
        assemble(config)


def test_a_network_of_clean_states_is_used_as_a_field():
    """A fresh network returns zeros: a clean state of zeros says that all of x is noise."""
    config = load_config("biflow/procedural.py", "debug")
    key, x, s = jax.random.key(0), jax.numpy.ones((2, 1, 16, 16, 3)), (jax.numpy.zeros(2), jax.numpy.array([0.5, 1.0]))
    for prediction, noise in (("velocity", [0.0, 0.0]), ("clean", [2.0, 1.0])):
        config.prediction = prediction
        network = assemble(config).network
        v, d = jax.jit(lambda key, x, s, network=network: network.apply(network.init(key), x, s))(key, x, s)
        assert not v.any() and d.mean((1, 2, 3, 4)).tolist() == noise


def test_wrong_sizes():
    config = load_config("biflow/procedural.py")
    config.data.size = (25, 24)
    with pytest.raises(ValueError, match="does not divide"):
        assemble(config)
    config = load_config("biflow/procedural.py")
    config.sample.method = "rk4"
    with pytest.raises(ValueError, match="no error estimate"):
        assemble(config)


@pytest.mark.parametrize("option", [dict(checkpoint=("vae",)), dict(scale=0.5), dict(sacle=1.0), dict(piece=4)])
def test_the_codec_of_pixels_has_no_options(option):
    config = load_config("biflow/procedural.py")
    config.codec.update(option)
    (name,) = option
    with pytest.raises(ValueError, match=f"the codec pixels has no checkpoint, scale or other option, got .'{name}': "):
        assemble(config)
