"""Times Stable Diffusion 1.5 at full size, with random parameters: decoding a 512 x 512 frame, and a step of DDIM."""

import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from jvflow import networks
from jvflow.flow import ddim
from jvflow.networks.autoencoder_kl import Autoencoder, KLConfig
from jvflow.networks.unet import UNet, UNetConfig

UNET = UNetConfig((320, 640, 1280, 1280), (True, True, True, False), inputs=4, outputs=4, heads=8, text_width=768)
LATENT = (1, 64, 64, 4)


def measure() -> dict:
    autoencoder, unet = networks.functional(Autoencoder, KLConfig()), networks.functional(UNet, UNET)
    text = jnp.ones((1, 77, 768))

    def step(params, x):
        predict = lambda params, x, t: unet.apply(params, x, t.astype(jnp.float32), text=text)
        return ddim.sample(jax.tree_util.Partial(predict, params), x, ddim.Schedule(), steps=1)

    decode = lambda params, latents: autoencoder.apply(params, latents, method="decode")
    return dict(decode=_measure(autoencoder, decode), ddim_step=_measure(unet, step))


def _measure(network, function) -> dict:
    """Compiles and runs `function(params, latents)` once; returns the time and the memory."""
    params = jax.jit(network.init)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), LATENT)
    clock = time.perf_counter()
    program = jax.jit(function).lower(params, x).compile()
    compiled, clock = time.perf_counter() - clock, time.perf_counter()
    output = np.asarray(program(params, x))
    ran = time.perf_counter() - clock
    assert np.isfinite(output).all()
    memory = program.memory_analysis()
    return dict(
        parameters=sum(a.size for a in jax.tree.leaves(params)),
        output=list(output.shape),
        seconds=ran,
        seconds_of_compilation=compiled,
        temporary_bytes=memory.temp_size_in_bytes,
        parameter_bytes=memory.argument_size_in_bytes,
        peak_resident_bytes_of_the_process=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
