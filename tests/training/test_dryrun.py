"""The dry run: its figures add up, and its plan agrees with training."""

import importlib.util
import json

import jax
import pytest
from conftest import debug_config, load_config
from dit_sizes import forward_flops

from jvflow.data import dataset, pipeline
from jvflow.experiment import assemble
from jvflow.parallel import mesh as meshes
from jvflow.training import dryrun

pytestmark = pytest.mark.slow


def config_of(paper):
    config = load_config(f"{paper}/procedural.py", "debug")
    config.network.update(width=64, heads=2)
    config.train.batch_size = 8
    if paper == "flowframes":
        config.inversion.rho = 0.0
    return config


@pytest.fixture(scope="module")
def gpus():
    config = config_of("biflow")
    config.run.mesh.update(data=2, fsdp=2)
    return config, dryrun.report(config, "h100:4", largest=False)


def test_the_report_adds_up(gpus, monkeypatch):
    config, found = gpus
    experiment = assemble(config)
    params = jax.eval_shape(experiment.network.init, jax.random.key(0))
    assert found["parameters"] == sum(a.size for a in jax.tree.leaves(params))
    assert found["mesh"] == dict(data=2, fsdp=2) and found["memory_is"] == "an estimate"
    whole = sum(a.size * 4 for a in jax.tree.leaves(params))
    assert whole / 2 < found["state_bytes"]["params"] < whole  # split in two, except for small arrays
    assert found["state_bytes"]["opt_state"] == pytest.approx(2 * found["state_bytes"]["params"], rel=0.01)
    train = found["train"]
    assert train["fits"] and train["peak_bytes"] == sum(train["bytes"].values())
    assert train["bytes"]["arguments"] > sum(found["state_bytes"].values())
    assert train["efficiency_bound"]["one_after_the_other"] < train["efficiency_bound"]["at_the_same_time"] <= 1
    assert found["sample"]["videos"] == 4
    json.dumps(found)


@pytest.mark.parametrize(
    "paper",
    ["biflow", *(pytest.param(paper, marks=pytest.mark.integration) for paper in ("vlfm", "flowframes"))],
)
def test_devices_only_exchange_parameters_and_gradients(paper):
    """Checks with all devices on fsdp that parameters are gathered twice and gradients scattered once.

    No layer sends rows of its activations to other devices, the text encoder included.
    """
    config = config_of(paper)
    config.run.mesh.update(data=1, fsdp=4)
    config.network.depth = 1
    if "text" in config:
        config.text.update(width=128, depth=1)
    train = dryrun.report(config, "h100:4", sampler=False, largest=False)["train"]
    assert 0.8 < train["bytes_over_minimum"] < 1.45


@pytest.mark.integration
def test_u_nets_only_exchange_parameters_and_gradients():
    config = load_config("biflow/unet.py", "debug")
    config.network.update(width=dict(biflow=64), groups=8, dtype="float32")
    config.train.batch_size = 16
    config.run.mesh.update(data=1, fsdp=4)
    train = dryrun.report(config, "h100:4", sampler=False, largest=False)["train"]
    assert 0.8 < train["bytes_over_minimum"] < 1.45


@pytest.mark.integration
def test_ltx_only_exchanges_parameters_and_gradients():
    """Uses a config whose codec and text encoder are absent; each of two microbatches gathers parameters anew."""
    config = load_config("flowframes/ltx_2b.py")
    config.network.update(depth=2, heads=4, dtype="float32")
    config.train.batch_size = 32
    config.run.update(microbatches=2, remat="none")
    config.run.mesh.update(data=1, fsdp=4)
    found = dryrun.report(config, "h100:4", sampler=True, largest=False)
    train = found["train"]
    assert 0.8 < train["bytes_over_minimum"] < 1.45
    split = found["parameters"] - found["copied_parameters"]
    assert train["minimum_bytes"] == 2 * 3 * 4 * split * 3 / 4
    assert found["sample"]["videos"] == 4 and found["sample"]["flops"] > 0


def test_bytes_of_collectives_do_not_rise(gpus):
    """Compares with the least: two gathers and one scatter. Small arrays and sums over `data` add to it."""
    train = gpus[1]["train"]
    split = gpus[1]["parameters"] - gpus[1]["copied_parameters"]
    assert train["minimum_bytes"] == 3 * 4 * split / 2  # float32; two devices exchange half each time
    assert 1 < train["bytes_over_minimum"] < 2.6


def test_operations_are_those_of_the_network(gpus):
    config, found = gpus
    forward = forward_flops(assemble(config).network.config, (1, 16, 16))
    assert found["train"]["flops"] == pytest.approx(3 * config.train.batch_size / 4 * forward, rel=0.05)


def test_the_table_shows_whether_training_fits(gpus):
    text = dryrun.table(gpus[1])
    assert (
        "biflow on h100:4 (data 2, fsdp 2), batch 8" in text
        and "train               fits" in text
        and "an estimate" in text
    )


@pytest.mark.integration
def test_too_large_a_batch_does_not_fit_and_the_largest_batch_does(gpus, monkeypatch):
    config, small = gpus[0].copy_and_resolve_references(), gpus[1]["train"]["peak_bytes"]
    config.train.batch_size = 256
    monkeypatch.setitem(dryrun.CHIPS, "h100", dryrun.CHIPS["h100"]._replace(memory=2.5 * small))
    found = dryrun.report(config, "h100:4", sampler=False)
    assert not found["train"]["fits"] and "DOES NOT FIT" in dryrun.table(found)
    config.train.batch_size = found["largest_batch"]
    assert 8 < found["largest_batch"] < 256
    assert dryrun.report(config, "h100:4", sampler=False, largest=False)["train"]["fits"]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra `tpu`")
@pytest.mark.integration
def test_a_tpu_slice_is_compiled_for():
    config = config_of("flowframes")
    config.run.mesh.update(data=2, fsdp=2)
    found = dryrun.report(config, "v5e:2x2", largest=False)
    assert (
        found["devices"] == 4
        and found["train"]["fits"]
        and found["sample"]["fits"]
        and found["memory_is"] == "the compiler's"
    )
    assert found["train"]["collectives"]["all-gather"]["bytes"] > 0


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra `tpu`")
def test_an_axis_may_be_a_part_of_the_slice():
    mesh = meshes.make_mesh(dict(data=4, fsdp=16), dryrun.devices("v6e:8x8"))
    assert mesh.size == 64 and (mesh.shape["data"], mesh.shape["fsdp"]) == (4, 16)


@pytest.mark.parametrize("topology", ["v5e", "v5e:", "v9:4x4", "h100:2x2", "v5e:4xx4", "v5e:0x4", "h100:0", ""])
def test_wrong_topologies(topology):
    with pytest.raises(ValueError, match="unknown topology .*v5e:4x4.*h100:8"):
        dryrun.report(config_of("biflow"), topology)


def test_a_wrong_mesh_or_number_of_devices_raises_before_compiling():
    config = config_of("biflow")
    config.run.mesh.fsdp = 3
    with pytest.raises(ValueError, match="does not multiply to the 4 devices"):
        dryrun.report(config, "h100:4")
    with pytest.raises(ValueError, match="needs 64 simulated devices"):
        dryrun.report(debug_config(None), "h100:64")


def test_batches_have_the_shapes_of_training(tmp_path):
    """Compares the dry run's batch with a batch of the pipeline."""
    for paper in ("biflow", "vlfm", "flowframes"):
        config = config_of(paper)
        config.data.cache = str(tmp_path)
        experiment, mesh = assemble(config), meshes.make_mesh()
        data = dataset.prepare(config.data, tmp_path, frames=experiment.window.span)
        real = next(
            pipeline.batches(
                data,
                windows=experiment.windows,
                batch_size=8,
                seed=0,
                threads=0,
                tokenize=experiment.text and experiment.text.tokenize,
            )
        )
        planned = dryrun.batch_shapes(experiment, config, mesh)
        look = lambda batch: jax.tree.map(lambda a: (a.shape, str(a.dtype)), batch)
        assert look(real) == look(planned)
