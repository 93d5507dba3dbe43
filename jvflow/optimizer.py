"""Optimizers: AdamW with clipping and a schedule, over optax."""

import optax


def schedule(name: str, learning_rate: float, *, warmup_steps: int, steps: int) -> optax.Schedule:
    """The learning rate over the steps of a run: linear warm-up, then constant, linear or cosine to 0."""
    rest = max(steps - warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(learning_rate, rest),
    }
    if name not in after:
        raise ValueError(f"unknown schedule {name!r}: use one of {', '.join(after)}")
    if warmup_steps < 1:
        return after[name]
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, warmup_steps - 1 or 1)
    return optax.join_schedules([warmup, after[name]], [warmup_steps])


def adamw(learning_rate: optax.Schedule, *, b1, b2, eps, weight_decay, clip) -> optax.GradientTransformation:
    """AdamW behind clipping by the global norm; `clip` 0 means none."""
    update = optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(clip), update) if clip else update
