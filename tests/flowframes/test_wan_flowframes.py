"""FlowFrames on a very small Wan: encode, pretrain, invert, fine-tune, predict, evaluate, from one config file."""

import jax
import numpy as np
import pytest
from conftest import load_config

from jvflow.commands import evaluate, sample
from jvflow.data import latents
from jvflow.experiment import assemble
from jvflow.flow.unipc import UniPC
from jvflow.flowframes import inversion
from jvflow.load import load_model
from jvflow.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def tiny(folder, objective="flowframes", **change):
    config = load_config("flowframes/wan_1p3b.py", "debug")
    config.objective = objective
    config.data.cache = str(folder / "data")
    config.inversion.update(rho=0.7 if objective == "flowframes" else 0.0, steps=5, max_error=None)
    config.chunk.frames = (9,)
    config.evaluate.update(clips=2, starts=1, batch=2, steps=(5,))
    config.train.steps = 4
    config.run.update(progress=False, tensorboard=False, sample_every=0, log_every=2, checkpoint_every=4)
    config.update(change)
    return config


def test_all_commands_from_encoding_to_evaluation(tmp_path):
    config = tiny(tmp_path, "text_to_video")
    latents.prepare(config, tmp_path / "latents")
    config.data.path = str(tmp_path / "latents")
    train(config, tmp_path / "pretrained")
    config = tiny(tmp_path, pretrained=str(tmp_path / "pretrained"))
    config.data.path = str(tmp_path / "latents")
    inversion.prepare(config, tmp_path / "inverted", load_model)
    config.data.path = str(tmp_path / "inverted")
    losses = [loss for _, loss in train(config, tmp_path / "tuned").losses()]
    assert np.isfinite(losses).all()
    found = sample(tmp_path / "tuned", tmp_path / "future", count=2, length=18, observed=9)
    assert [s["frames"] for s in found["samples"]] == [18, 18] and found["protocol"]["method"] == "unipc"
    figures = evaluate(tmp_path / "tuned")["frames_9"]
    assert figures["nfe_5"]["nfe"] == 5 and np.isfinite(list(figures["nfe_5"].values())).all()


def test_the_config_has_the_sizes_of_the_paper():
    config = load_config("flowframes/wan_1p3b.py")
    experiment = assemble(config, abstract=True)
    assert (
        experiment.shapes == ((5, 30, 52, 16), (11, 30, 52, 16))
        and not experiment.network.takes_fps
        and experiment.text.width == 4096
    )
    assert experiment.text.tokenize([""])[0].shape == (1, 512)
    assert isinstance(experiment.sampler.solver, UniPC) and experiment.sampler.guidance == 5
    assert (
        sum(a.size for a in jax.tree.leaves(jax.eval_shape(experiment.network.init, jax.random.key(0))))
        == 1_418_996_800
    )
    with pytest.raises(ValueError, match=r"takes one folder as config.codec.checkpoint, such as \('Wan/vae',\)"):
        assemble(config)
