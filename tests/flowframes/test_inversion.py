"""Inversions on disk: the manifest names their model, and training on them starts from no other model."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config

from jvflow.data import latents, pipeline, records
from jvflow.flowframes import inversion
from jvflow.load import load, load_model
from jvflow.networks import as_field
from jvflow.parallel.checksums import tree_checksum
from jvflow.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def quiet(name, folder, **data):
    config = load_config(f"flowframes/{name}.py", "debug")
    config.data.update(cache=str(folder / "data"), **data)
    config.train.steps = 4
    config.run.update(progress=False, tensorboard=False)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Trains a text-to-video model for four steps with a high learning rate, and inverts chunks through it."""
    folder = tmp_path_factory.mktemp("flowframes")
    config = quiet("pretrain", folder)
    config.optimizer.learning_rate = 0.02
    train(config, folder / "pretrained")
    inversion.prepare(tuned(folder, path=config.data.path), folder / "set", load_model)
    return folder


def tuned(folder, path=None):
    """Returns a config of target inversion from the run in `folder`, on the data in `path` or the inverted set."""
    config = quiet("procedural", folder, path=str(folder / "set") if path is None else path)
    config.pretrained = str(folder / "pretrained")
    config.chunk.frames = (4, 8)
    config.inversion.update(steps=10, max_error=None)
    return config


def test_every_chunk_has_its_inversion_and_its_error(folder):
    model = load(folder / "pretrained")
    before = pipeline.open_split(folder / "set-latents", "train")
    for clip, was in zip(pipeline.open_split(folder / "set", "train"), before, strict=True):
        assert all(np.array_equal(clip[name], was[name]) for name in was)
        for length in (4, 8):
            column = clip[f"inverted_{length}"]
            assert column.shape == was["latent_mean"].shape and clip[f"inverted_{length}_error"].shape == (
                32 // length,
            )
            chunk = was["latent_mean"][None, length : 2 * length]
            condition = model.experiment.caption_condition(model.params, [clip["caption"]], model.config.data.fps)
            made = inversion.invert(
                as_field(model.experiment.network, model.params), jnp.asarray(chunk), condition, steps=10
            )
            np.testing.assert_allclose(column[length : 2 * length], made.latents[0], atol=1e-5)
            np.testing.assert_allclose(clip[f"inverted_{length}_error"][1], made.error[0], atol=1e-5)
            assert not column[:length].any() and np.isinf(clip[f"inverted_{length}_error"][0])  # it is never a target
    assert not any(clip["inverted_4"].any() for clip in pipeline.open_split(folder / "set", "test"))
    settings = records.manifest(folder / "set")["settings"]["inversion"]
    assert settings == dict(
        model=tree_checksum(model.params), frames=[4, 8], steps=10, guidance=1.0, method="rf_solver", back="rf_solver"
    )
    assert latents.has_latents(folder / "set")
    report = inversion.report(folder / "set", 8, max_error=0.0)
    assert report["chunks"] == report["above"] == 8 * 3 and 0 < report["median"] <= report["largest"]


def test_batches_hold_two_chunks_and_the_inversion_of_the_second(folder):
    source = pipeline.open_split(folder / "set", "train")
    clips = [source[i] for i in range(len(source))]
    windows = [pipeline.Window(2 * n, chunk=n, inverted=True) for n in (4, 8)]
    batches = pipeline.batches(folder / "set", windows=windows, batch_size=4, seed=0, latents=True)
    lengths, starts = set(), set()
    for batch, _ in zip(batches, range(12)):
        length = batch.inverted.shape[1]
        lengths.add(length)
        assert batch.latent_mean.shape[1] == 2 * length
        for mean, inverted, error, start in zip(batch.latent_mean, batch.inverted, batch.inverted_error, batch.start):
            (clip,) = [
                c
                for c in clips
                for at in range(0, 32 - 2 * length + 1, length)
                if np.array_equal(c["latent_mean"][at : at + 2 * length], mean)
            ]
            first = round(float(start) * 8)
            starts.add((length, first // length))
            np.testing.assert_array_equal(inverted, clip[f"inverted_{length}"][first + length : first + 2 * length])
            assert error == clip[f"inverted_{length}_error"][first // length + 1]
    assert lengths == {4, 8} and len(starts) > 4


def test_training_starts_from_the_pretrained_parameters_and_uses_the_inversions(folder, tmp_path):
    config = tuned(folder)
    config.optimizer.learning_rate = 1e-30  # too small to change a parameter
    train(config, tmp_path / "run")
    (before, after) = (load(path, ema=False) for path in (folder / "pretrained", tmp_path / "run"))
    averaged = load(folder / "pretrained")
    for a, b in zip(jax.tree.leaves(averaged.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params)))
    assert loss_of(folder, tmp_path / "other") != loss_of(folder, tmp_path / "same", std=0.0)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["coupling_cost"] > 0 and line["inversion_used"] == 1


def loss_of(folder, path, **changes):
    """Returns the first loss, with inversion in every example."""
    config = tuned(folder)
    config.inversion.update(dict(dict(rho=1.0), **changes))
    config.train.steps = 1
    return train(config, path).losses()[0][1]


def test_a_run_that_was_begun_does_not_need_its_pretrained_model_any_more(folder, tmp_path):
    shutil.copytree(folder / "pretrained", tmp_path / "model")
    config = tuned(folder)
    config.inversion.rho, config.pretrained, config.run.checkpoint_every = 0.0, str(tmp_path / "model"), 2
    config.run.keep = 3
    whole = train(config, tmp_path / "run").losses()
    shutil.rmtree(tmp_path / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    assert train(config, tmp_path / "run").losses() == whole
    with pytest.raises(ValueError, match="there is no run and no public model"):
        train(config, tmp_path / "new")


def test_inversions_that_do_not_come_back_are_not_used(folder, tmp_path):
    unused = loss_of(folder, tmp_path / "none", max_error=1e-9)
    assert unused == loss_of(folder, tmp_path / "without", std=0.0) != loss_of(folder, tmp_path / "all", max_error=1e9)


def test_a_finished_set_is_left_alone_and_another_models_is_refused(folder, tmp_path):
    config = tuned(folder, path=str(folder / "set-latents"))
    assert inversion.prepare(config, folder / "set", load_model) == records.manifest(folder / "set")
    other = quiet("pretrain", folder)
    other.seed = 1
    train(other, tmp_path / "other")
    config.pretrained = str(tmp_path / "other")
    with pytest.raises(
        ValueError,
        match=r"set holds another data set .* there / here: inversion.model: \w+ / \w+: take .* remove it, or "
        r"choose another name",
    ):
        inversion.prepare(config, folder / "set", load_model)
    config = tuned(folder)
    config.pretrained = str(tmp_path / "other")
    with pytest.raises(
        ValueError,
        match="was inverted with a model .* checksum .* config.pretrained=.* has .*: invert with config.pretrained",
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def change(config, **changes):
    for path, value in changes.items():
        section = config
        *parents, name = path.split("__")
        for parent in parents:
            section = section[parent]
        section[name] = value
    return config


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(inversion__steps=25), "do not match config.inversion and config.chunk: steps is 10, not 25: change"),
        (dict(chunk__frames=(2, 4)), "there are no chunks of 2 frames"),
        (dict(chunk__frames=(32,)), "data.frames is 32, this experiment needs 64"),
        (dict(chunk__frames=()), r"config.chunk.frames is \(\): use a tuple of whole numbers"),
        (dict(chunk__frames=(3,)), "does not divide video"),
        (dict(inversion__rho=1.2), "config.inversion.rho is 1.2: use a number from 0 to 1"),
        (dict(inversion__coin="both"), "config.inversion.coin is 'both': use one of example, batch"),
        (dict(inversion__std=None), "this codec has no sigma_0"),
        (dict(data__fps=4.0), "have fps 8.0, and config.data.fps is 4.0"),
        (
            dict(network__width=48),
            "the network of config.pretrained=.* differs from this config's in .* parameters: .* there and .* here",
        ),
        (dict(pretrained="nowhere"), "nowhere, where there is no run and no public model"),
        (dict(data__path="procedural:comets"), "has no inverted targets, .* make them once with `jvflow encode`"),
        (dict(times__name="beta"), "config.times.name is 'beta': use one of uniform, logit_normal"),
    ],
)
def test_mistakes_of_a_config(folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(change(tuned(folder), **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(pretrained=""), "give the workdir of a text_to_video run as config.pretrained"),
        (dict(chunk__frames=(40,)), "chunks of 40 frames are longer than the clips in .*, 32 frames"),
        (
            dict(data__path="procedural:comets", data__fps=4.0),
            "was trained with fps 8.0, this config has 4.0: use the same",
        ),
    ],
)
def test_mistakes_of_an_inversion(folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        inversion.prepare(
            change(tuned(folder, path=str(folder / "set-latents")), **changes), tmp_path / "set", load_model
        )
    assert not (tmp_path / "set").exists()


def test_only_a_text_to_video_run_inverts(folder, tmp_path):
    config = tuned(folder)
    config.inversion.rho = 0.0
    train(config, tmp_path / "run")
    config = tuned(folder, path=str(folder / "set-latents"))
    config.pretrained = str(tmp_path / "run")
    with pytest.raises(ValueError, match="is a run of 'flowframes': inversion needs a 'text_to_video' run"):
        inversion.prepare(config, tmp_path / "set", load_model)
    with pytest.raises(ValueError, match="has inversions already"):
        inversion.prepare(tuned(folder), tmp_path / "set", load_model)
