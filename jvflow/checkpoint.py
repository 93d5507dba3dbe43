"""Checkpoints: the whole state and the data position, by orbax.

A save has finished when `save` returns, so a run that is killed at any moment goes back by no
more than the interval between two saves. A save that was cut off is not found by `latest`.
"""

from pathlib import Path

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints of one run, in a folder of their own."""

    def __init__(self, directory, *, keep: int = 2):
        """Opens (and makes) `directory`; the newest `keep` checkpoints stay."""
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(Path(directory).absolute(), options=options)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """The steps that can be restored."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state, position: dict) -> None:
        """Writes the state and the data position of a step. Returns when it is complete."""
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position))
        self._manager.save(step, args=items)
        self._manager.wait_until_finished()

    def restore(self, abstract, step: int | None = None) -> tuple:
        """The state and the data position of a step (the latest when None).

        Args:
          abstract: a state of `jax.ShapeDtypeStruct`s with shardings: where the arrays go.
          step: which checkpoint.
        """
        step = self._find(step)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), position=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=items)
        return restored["state"], restored["position"]

    def restore_only(self, abstract: dict, step: int | None = None) -> dict:
        """Some fields of the state alone, such as {"ema": abstract parameters}, from a fresh manager."""
        step = self._find(step)
        sharded = jax.tree.map(lambda a: ocp.ArrayRestoreArgs(sharding=a.sharding), abstract)
        arguments = ocp.args.PyTreeRestore(item=abstract, restore_args=sharded, partial_restore=True)
        return self._manager.restore(step, args=ocp.args.Composite(state=arguments))["state"]

    def restore_raw(self, step: int | None = None) -> dict:
        """The whole state of a step as nested dicts of NumPy arrays, for looking at."""
        step = self._find(step)
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]

    def _find(self, step):
        found = self.steps()
        if not found:
            raise ValueError(f"no complete checkpoint in {self._manager.directory}: train first")
        if step is None:
            return found[-1]
        if step not in found:
            raise ValueError(f"no checkpoint of step {step} in {self._manager.directory}: there are {found}")
        return step

    def close(self):
        """Frees what the manager holds."""
        self._manager.close()


def abstract_like(state, sharding):
    """The shapes of a state with one sharding for all of it, as `restore` wants them."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), state)
