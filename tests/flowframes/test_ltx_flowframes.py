"""FlowFrames on a very small LTX-Video: all commands, chunks that are encoded one by one, the frame rate of a video,
and training that starts from public parameters."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config
from jax.sharding import Mesh
from public_models import export_random

from jvflow import codecs, networks, pretrained, text
from jvflow.commands import evaluate, sample
from jvflow.data import latents, pipeline, records
from jvflow.data.pipeline import Window
from jvflow.experiment import assemble
from jvflow.flow.field import Condition
from jvflow.flowframes import inversion
from jvflow.load import load, load_model, load_pretrained
from jvflow.networks import as_field
from jvflow.parallel.checksums import tree_checksum
from jvflow.parallel.sharding import AXES
from jvflow.training.loop import train
from jvflow.training.step import create, train_step

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def tiny(folder, objective="flowframes", **change):
    config = load_config("flowframes/ltx_2b.py", "debug")
    config.objective = objective
    config.data.cache = str(folder / "data")
    config.inversion.update(rho=0.7 if objective == "flowframes" else 0.0, steps=5, max_error=None)
    config.train.steps = 4
    config.evaluate.update(clips=2, starts=1, batch=2, steps=(5,))
    config.run.update(progress=False, tensorboard=False, sample_every=0, log_every=2, checkpoint_every=4)
    config.update(change)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Encodes, pretrains, inverts and fine-tunes, each in a subfolder."""
    folder = tmp_path_factory.mktemp("ltx")
    config = tiny(folder, "text_to_video")
    latents.prepare(config, folder / "latents")
    config.data.path, config.chunk.frames = str(folder / "latents"), (9,)  # trains on one of both lengths
    train(config, folder / "pretrained")
    config = tiny(folder, pretrained=str(folder / "pretrained"))
    config.chunk.frames = (9,)
    config.data.path = str(folder / "latents")
    inversion.prepare(config, folder / "inverted", load_model)
    config.data.path = str(folder / "inverted")
    train(config, folder / "tuned")
    return folder


def test_chunks_are_encoded_each_by_itself(folder):
    """Checks both lengths; the frames after the last whole chunk of a clip are not encoded."""
    codec = codecs.build("ltx_vae", tiny=True)
    clip = pipeline.open_split(folder / "latents", "train")[1]
    assert clip["video"].shape == (34, 64, 64, 3) and "latent_mean" not in clip
    for length, count, each in ((9, 3, 2), (17, 2, 3)):
        mean, std = (clip[f"latent_{name}_{length}"] for name in ("mean", "std"))
        assert mean.shape == std.shape == (count * each, 2, 2, 16)
        for i in range(count):
            found = codec.encode(codec.params, clip["video"][None, i * length : (i + 1) * length])
            np.testing.assert_allclose(mean[i * each : (i + 1) * each], found.mean[0], atol=1e-4)
            np.testing.assert_allclose(std[i * each : (i + 1) * each], found.std[0], atol=1e-4)


def test_windows_hold_two_consecutive_chunks(folder):
    """Checks that a window starts at any chunk and also holds the inversion of its second chunk."""
    clips = pipeline.open_split(folder / "inverted", "train")
    windows = [Window(18, chunk=9, encoded=2, inverted=True)]
    batch = next(pipeline.batches(folder / "inverted", windows=windows, batch_size=8, seed=0, threads=0, latents=True))
    assert (
        batch.video is None and batch.latent_mean.shape == (8, 4, 2, 2, 16) and batch.inverted.shape == (8, 2, 2, 2, 16)
    )
    starts = set()
    for row in range(8):
        number = round(float(batch.start[row]) * 24 / 9)
        starts.add(number)
        clip = next(
            clip
            for clip in clips
            if np.array_equal(clip["latent_mean_9"][2 * number : 2 * number + 4], batch.latent_mean[row])
        )
        assert np.array_equal(clip["latent_std_9"][2 * number : 2 * number + 4], batch.latent_std[row])
        assert (
            np.array_equal(clip["inverted_9"][2 * number + 2 : 2 * number + 4], batch.inverted[row])
            and batch.inverted[row].any()
        )
        assert clip["inverted_9_error"][number + 1] == batch.inverted_error[row]
    assert starts == {0, 1}  # a clip has three chunks


def test_it_is_trained_on_latents_as_on_video(folder):
    """Checks that a step that encodes the chunks itself gets the same latents."""
    config = tiny(folder, "conventional", pretrained="")
    experiment = assemble(config)
    video = pipeline.open_split(folder / "latents", "train")[0]["video"][None, :18]
    encoded = next(
        pipeline.batches(
            folder / "latents", windows=[Window(18, chunk=9, encoded=2)], batch_size=1, seed=0, threads=0, latents=True
        )
    )
    batch = pipeline.Batch(video=jnp.asarray(video), fps=jnp.ones(1), start=jnp.zeros(1))
    made = experiment.latents(batch, experiment.encoder_params)
    clip = pipeline.open_split(folder / "latents", "train")[0]
    np.testing.assert_allclose(made.mean[0], clip["latent_mean_9"][:4], atol=1e-4)
    np.testing.assert_allclose(made.std[0], clip["latent_std_9"][:4], atol=1e-4)
    assert experiment.latents(encoded, experiment.encoder_params).mean.shape == made.mean.shape
    assert experiment.shapes == ((4, 2, 2, 16), (6, 2, 2, 16)) and experiment.chunks == 2


def test_the_rate_of_a_video_reaches_the_network(folder):
    """Checks that the config gives the frame rate, that another rate changes the velocity, and that none raises."""
    tuned = load(folder / "tuned")
    field = as_field(tuned.experiment.network, tuned.params)
    condition = tuned.experiment.caption_condition(tuned.params, ["a comet"], tuned.config.data.fps)
    assert condition.fps.tolist() == [24.0]
    x, s = jax.random.normal(jax.random.key(0), (1, 2, 2, 2, 16)), (jnp.full(1, 0.5),)
    velocity = jax.jit(lambda condition: field(x, s, condition)[0])
    at = lambda fps: np.asarray(velocity(replace(condition, fps=jnp.full(1, fps))))
    np.testing.assert_array_equal(velocity(condition), at(24.0))
    assert np.abs(at(24.0) - at(12.0)).max() > 1e-4
    with pytest.raises(ValueError, match="give condition.text and condition.fps"):
        field(x, s, replace(condition, fps=None))
    experiment = tuned.experiment
    tokens, mask = experiment.text.tokenize(["a comet"])
    assert experiment.condition(
        tuned.params, tokens, mask, experiment.encoder_params, fps=jnp.full(1, 30.0)
    ).fps.tolist() == [30.0]


def test_the_rate_of_a_batch_is_trained_on(folder):
    """Checks that the same step with another frame rate has another loss."""
    config = tiny(folder, "text_to_video")
    experiment = assemble(config)
    batch = next(
        pipeline.batches(
            folder / "latents",
            windows=[Window(9, chunk=9, encoded=2)],
            batch_size=4,
            seed=0,
            threads=0,
            latents=True,
            tokenize=experiment.text.tokenize,
        )
    )
    state = create(jax.random.key(0), network=experiment.network, optimizer=experiment.optimizer, ema=False)
    step = jax.jit(
        lambda state, batch: train_step(state, batch, jax.random.key(1), experiment=experiment, ema=0.0)[1]["loss"]
    )
    assert batch.fps.tolist() == [24.0] * 4
    losses = [float(step(state, batch._replace(fps=np.full(4, fps, np.float32)))) for fps in (24, 12)]
    assert np.isfinite(losses).all() and losses[0] != losses[1], losses


def test_samples_and_figures(folder):
    """Checks the number of frames, which need not fill whole chunks, finite figures, and an NFE without guidance."""
    found = sample(folder / "tuned", folder / "future", count=2, length=20, observed=9)
    assert [s["frames"] for s in found["samples"]] == [20, 20]
    figures = evaluate(folder / "tuned")["frames_9"]
    assert figures["nfe_5"]["nfe"] == 5 and np.isfinite(list(figures["nfe_5"].values())).all()


def test_training_starts_from_a_public_transformer(folder, tmp_path):
    """Uses the folder of a public model as `config.pretrained`; loading stacks the layers that are scanned."""
    config = tiny(folder, pretrained=str(tmp_path / "transformer"))
    config.text = dict(name="t5", checkpoint=(), length=16, dtype="float32", by_layer=False)
    config.chunk.frames = (17,)
    public = dict(
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        caption_channels=8,
        cross_attention_dim=24,
        patch_size=1,
        patch_size_t=1,
    )
    export_random("ltx_transformer", public, tmp_path / "transformer")
    experiment = assemble(with_t5(config, tmp_path))
    found = load_pretrained(config, experiment)
    assert found.config.objective == "text_to_video" and found.step == 0
    x, s = jax.random.normal(jax.random.key(0), (1, 2, 2, 2, 16)), (jnp.full(1, 0.5),)
    condition = Condition(text=jax.random.normal(jax.random.key(1), (1, 16, 8)), fps=jnp.full(1, 24.0))
    theirs = as_field(pretrained.load(tmp_path / "transformer"))(x, s, condition)[0]
    field = as_field(found.experiment.network, found.params)
    np.testing.assert_allclose(field(x, s, condition)[0], theirs, atol=1e-5)
    inversion.prepare(config, tmp_path / "inverted", load_model)
    assert records.manifest(tmp_path / "inverted")["settings"]["inversion"]["model"] == tree_checksum(found.params)
    clip = pipeline.open_split(tmp_path / "inverted", "train")[0]
    condition = found.experiment.caption_condition(found.params, [clip["caption"]], config.data.fps)
    made = inversion.invert(field, jnp.asarray(clip["latent_mean_17"][None, 3:6]), condition, steps=5)
    np.testing.assert_allclose(clip["inverted_17"][3:6], made.latents[0], atol=1e-4)

    def refuse(params, tokens):
        raise AssertionError("captions are embedded again, but the data set holds their embeddings")

    silent = replace(found.experiment, text=replace(found.experiment.text, apply=refuse))
    inversion.invert_dataset(
        replace(found, experiment=silent),
        tmp_path / "inverted-latents",
        tmp_path / "again",
        lengths=(17,),
        steps=1,
        guidance=1.0,
    )
    config.network.depth = 3
    with pytest.raises(ValueError, match="parameters: .* is .* there and .* here"):
        load_pretrained(config, assemble(config))


def with_t5(config, folder):
    """Returns the config with a very small T5."""
    from public_models import FIXTURES

    t5 = dict(
        architectures=["T5EncoderModel"],
        d_ff=16,
        d_kv=4,
        d_model=8,
        feed_forward_proj="gated-gelu",
        num_heads=2,
        num_layers=1,
        relative_attention_max_distance=16,
        relative_attention_num_buckets=8,
        vocab_size=90,
    )
    export_random("t5_encoder", t5, folder / "text_encoder")
    config.text.checkpoint = (str(folder / "text_encoder"), str(FIXTURES / "t5_tokenizer"))
    return config


# --- mistakes of a user ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(chunk=dict(frames=(8,))), r"the codec needs 8 k \+ 1 frames, got 8: use 1 or 9"),
        (dict(text=dict(name="none")), "attends to captions in every layer: give a text encoder"),
        (dict(codec=dict(name="ltx_vae", checkpoint=())), "takes one folder as config.codec.checkpoint"),
        (dict(run=dict(remat="some")), "unknown remat 'some'"),
    ],
)
def test_configs_that_do_not_fit(tmp_path, change, message):
    config = tiny(tmp_path)
    for key, value in change.items():
        if key == "run":
            config.run.update(value)
        else:
            config[key] = value
    with pytest.raises(ValueError, match=message):
        assemble(config)


def test_other_papers_take_single_frames():
    config = load_config("biflow/procedural.py", "debug")
    config.codec = dict(name="ltx_vae", checkpoint=(), tiny=True)
    with pytest.raises(
        ValueError, match="encodes 8 frames into one latent frame, but biflow needs a latent for each frame"
    ):
        assemble(config)


def test_the_fingerprint_depends_on_tiles_but_not_on_pieces_or_the_decoder_time():
    """Checks that only tiles change the fingerprint, because pieces and the time of the decoder keep the latents."""
    known = latents.model_fingerprint("ltx_vae", piece=1, tile=0, time=0.0)
    assert (
        known
        == latents.model_fingerprint("ltx_vae", piece=0, tile=0, time=0.5)
        != latents.model_fingerprint("ltx_vae", piece=1, tile=128, time=0.0)
    )


def test_latents_of_other_lengths(folder):
    config = tiny(folder, "conventional")
    config.data.path = str(folder / "latents")
    config.chunk.frames = (9, 25)
    with pytest.raises(
        ValueError, match=r"have chunks of \[9, 17\] frames, config.chunk.frames=\[9, 25\] needs \[25\] too"
    ):
        config.data.frames = 50
        latents.check_latents(
            folder / "latents",
            latents.model_fingerprint(**config.codec),
            latents.chunk_lengths(codecs.build(**config.codec), config),
        )
    config.data.frames = 20
    with pytest.raises(ValueError, match="chunks of 25 frames are longer than the clips, config.data.frames=20"):
        latents.prepare(config, folder / "others")
    with pytest.raises(ValueError, match="needs 8 k [+] 1 frames, got 10: use 9 or 17"):
        sample(folder / "tuned", folder / "none", count=1, length=40, observed=10)
    assert not (folder / "none").exists() and not (folder / "others").exists()


def test_a_mesh_that_does_not_divide_heads_or_tokens_raises():
    network = networks.build("ltx", channels=16, text_width=8, depth=1, heads=2, head=12)
    mesh = lambda *, sequence=1, tensor=1: Mesh(np.full((1, 1, sequence, tensor), jax.devices()[0]), AXES)
    networks.check_mesh(network, (2, 2, 2, 16), mesh(tensor=2, sequence=8))
    with pytest.raises(
        ValueError,
        match="tensor=4 does not divide the 2 heads: use --config.run.mesh.tensor=2 --config.run.mesh.sequence=2",
    ):
        networks.check_mesh(network, (2, 2, 2, 16), mesh(tensor=4))
    with pytest.raises(ValueError, match="sequence=3 does not divide the 8 tokens"):
        networks.check_mesh(network, (2, 2, 2, 16), mesh(sequence=3))
    with pytest.raises(ValueError, match="one time and one velocity, this objective has 2 and 2"):
        networks.build("ltx", channels=16, text_width=8, coordinates=2, velocities=2)


def test_the_config_has_the_sizes_of_the_paper():
    """Checks table 3 of the paper, and the shapes of models whose checkpoints are absent."""
    config = load_config("flowframes/ltx_2b.py")
    experiment = assemble(config, abstract=True)
    assert (
        tuple(config.data.size) == (256, 384)
        and tuple(config.chunk.frames) == (17, 41)
        and config.sample.guidance == 3.5
    )
    assert experiment.shapes == ((3, 8, 12, 128), (6, 8, 12, 128)) and experiment.text.width == 4096
    assert (
        sum(a.size for a in jax.tree.leaves(jax.eval_shape(experiment.network.init, jax.random.key(0))))
        == 1_923_385_472
    )
    assert text.build("t5", abstract=True, length=128).tokenize([""])[0].shape == (1, 128)
    with pytest.raises(ValueError, match="takes one folder"):
        assemble(config)
    json.dumps(config.to_dict())
