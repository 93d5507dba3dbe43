"""BI-FLOW in plain PyTorch: the DiT of `jvflow.networks.dit`, its train step, and a frame by adaptive Heun.

Takes the parameters of the JAX DiT, so that `benchmarks.run pytorch` can check that both compute the same before it
times them. Supports one known frame, no text and no labels.
"""

import math

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from jvflow.networks.layers import FREQUENCIES, position_table


def linear(params) -> nn.Linear:
    """Returns a PyTorch layer with the parameters of a flax layer."""
    n, m = params["kernel"].shape
    layer = nn.Linear(n, m)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(params["kernel"]).T)
        layer.bias.copy_(torch.tensor(params["bias"]))
    return layer


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Embedder(nn.Module):
    def __init__(self, params, scale):
        super().__init__()
        self.hidden, self.out, self.scale = linear(params["hidden"]), linear(params["out"]), scale
        half = FREQUENCIES // 2
        self.register_buffer("omega", torch.exp(-math.log(10000.0) * torch.arange(half) / half))

    def forward(self, s):
        angles = self.scale * s[:, None, None] * self.omega
        return self.out(F.silu(self.hidden(torch.cat([angles.cos(), angles.sin()], -1))))


class Block(nn.Module):
    def __init__(self, params, heads):
        super().__init__()
        for name in ("qkv", "proj", "mlp_in", "mlp_out", "modulation"):
            setattr(self, name, linear(params[name]))
        d = params["proj"]["kernel"].shape[0]
        self.heads, self.neighbours = heads, nn.Conv2d(d, d, 3, padding=1, groups=d, bias=False)
        with torch.no_grad():
            self.neighbours.weight.copy_(rearrange(torch.tensor(params["neighbours"]), "i j d -> d 1 i j"))

    def forward(self, x, c, h):
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(F.silu(c)).chunk(6, -1)
        q, k, v = rearrange(self.qkv(norm(x) * (1 + scale_a) + shift_a), "b n (h p d) -> p b h n d", p=3, h=self.heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + gate_a * self.proj(rearrange(attended, "b h n d -> b n (h d)"))
        y = norm(x) * (1 + scale_m) + shift_m
        y = y + rearrange(self.neighbours(rearrange(y, "b (h w) d -> b d h w", h=h)), "b d h w -> b (h w) d")
        return x + gate_m * self.mlp_out(F.gelu(self.mlp_in(y), approximate="tanh"))


class DiT(nn.Module):
    """`(x (b, h, w, c), t (b,), alpha (b,)) -> (v, d)`, each like x."""

    def __init__(self, config, params, size):
        super().__init__()
        assert config.local and not (config.context or config.labels or config.text_width) and config.patch[0] == 1
        self.patch, self.scales = config.patch[1], config.scales
        self.rows = size[0] // self.patch
        self.patch_in, self.patch_out = linear(params["patch_in"]), linear(params["patch_out"])
        self.modulation = linear(params["modulation"])
        self.embedders = nn.ModuleList(
            Embedder(embedder, config.time_scale) for _, embedder in sorted(params["conditioning"]["embedders"].items())
        )
        self.blocks = nn.ModuleList(Block(params["blocks"][i], config.heads) for i in sorted(params["blocks"]))
        table = position_table((1, self.rows, size[1] // self.patch), config.width)
        self.register_buffer("positions", torch.tensor(table))

    def forward(self, x, t, alpha):
        p = self.patch
        tokens = rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=p, q=p)
        tokens = self.patch_in(tokens) + self.positions
        c = sum(embed(s) for embed, s in zip(self.embedders, (t, alpha)))
        for block in self.blocks:
            tokens = block(tokens, c, self.rows)
        shift, scale = self.modulation(F.silu(c)).chunk(2, -1)
        y = self.patch_out(norm(tokens) * (1 + scale) + shift)
        y = rearrange(y, "b (h w) (p q c v) -> v b (h p) (w q) c", h=self.rows, p=p, q=p, v=2)
        return tuple(v * scale for v, scale in zip(y, self.scales))


class Training:
    """The train step: BI-FLOW's loss, AdamW with clipped gradients, and the moving average of the parameters."""

    def __init__(self, model, loss_weights, optimizer, compiled=False):
        self.model = torch.compile(model) if compiled else model
        self.parameters, self.loss_weights, self.settings = list(model.parameters()), loss_weights, optimizer
        self.average = [p.detach().clone() for p in self.parameters]
        self.adamw = torch.optim.AdamW(
            self.parameters,
            lr=optimizer["learning_rate"],
            betas=(optimizer["b1"], optimizer["b2"]),
            eps=optimizer["eps"],
            weight_decay=optimizer["weight_decay"],
        )

    def loss(self, x0, x1, t, alpha, noise):
        expand = lambda s: s[:, None, None, None]
        x = x0 + expand(t) * (x1 - x0) + expand(alpha) * noise
        v, d = self.model(x, t, alpha)
        weight_v, weight_d = self.loss_weights
        return weight_v * F.mse_loss(v, x1 - x0) + weight_d * F.mse_loss(d, noise)

    def step(self, video):
        """Takes one step on a video, uint8 (b, 2, h, w, c), and returns its loss."""
        x0, x1 = (video.float() / 127.5 - 1).unbind(1)
        loss = self.loss(x0, x1, torch.rand(len(x0)), torch.rand(len(x0)), torch.randn_like(x0))
        self.adamw.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings["max_grad_norm"])
        self.adamw.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1 - self.settings["ema"])
        return loss.item()


@torch.no_grad()
def next_frame(model, frame, noise, epsilon, rtol, atol):
    """Solves for the frame after `frame` (b, h, w, c) along the joint curve, by adaptive Heun with steps per sample.

    Returns the frame and the evaluations that each sample needed.
    """
    b = len(frame)
    expand = lambda s: s[:, None, None, None]

    def derivative(k, x):
        v, d = model(x, k, epsilon * (1 - k))
        return v - epsilon * d

    x, k, step = frame + epsilon * noise, torch.zeros(b), torch.full((b,), 0.1)
    nfe, running = torch.zeros(b), torch.ones(b, dtype=torch.bool)
    while running.any():
        k_next = torch.where(running, torch.minimum(k + step, torch.ones(())), k)
        h = k_next - k
        a = derivative(k, x)
        c = derivative(k_next, x + expand(h) * a)
        proposed = x + expand(h) * (a + c) / 2
        scale = atol + rtol * torch.maximum(x.abs(), proposed.abs())
        error = (expand(h) * (c - a) / 2 / scale).square().mean((1, 2, 3)).sqrt()
        nfe += 2 * running
        accept = running & (error < 1)
        x, k = torch.where(expand(accept), proposed, x), torch.where(accept, k_next, k)
        factor = 0.9 * error.clamp(min=1e-12) ** -0.5
        step = torch.where(running, h * torch.where(accept, factor.clamp(1, 10), factor.clamp(0.2, 0.9)), step)
        running = running & (k < 1)
    return x.clamp(-1, 1), nfe
