"""Checkpoints of the train state and the data position, written by orbax, with checksums.

A save is complete when `save` returns, so a killed run loses at most the steps since its last save. `latest` ignores an
incomplete save. `restore` skips a damaged checkpoint with a warning: the checksums show changed bits in arrays, which
orbax does not detect.
"""

import json
import logging
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from jvflow.parallel.checksums import field_checksums

LOG = logging.getLogger(__name__)
METADATA_BYTES = 2**20
"""Upper bound on the bytes of a checkpoint in addition to its arrays."""


class Checkpoints:
    """The checkpoints of one run, in a folder of their own."""

    def __init__(self, directory, *, keep: int = 2):
        """Opens or creates `directory`; keeps the newest `keep` checkpoints."""
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(Path(directory).absolute(), options=options)

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, in ascending order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state, position: dict) -> None:
        """Writes the state and the data position of a step, and returns when the checkpoint is complete.

        Raises:
          OSError: if writing fails, for example on a full disk. Removes the incomplete files, and keeps earlier
            checkpoints.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            position=ocp.args.JsonSave(position),
            checksums=ocp.args.JsonSave(field_checksums(state) | {"position": _checksum_of_text(position)}),
        )
        need = sum(a.nbytes for a in jax.tree.leaves(state)) + METADATA_BYTES
        if shutil.disk_usage(self._manager.directory).free < need:
            raise self._not_saved(step, f"it needs {need / 2**20:.1f} MiB")
        try:
            self._manager.save(step, args=items)
            self._manager.wait_until_finished()
        except Exception as error:  # an OSError, or tensorstore's own error type for it
            raise self._not_saved(step, _reason(error)) from error

    def restore(self, abstract, step: int | None = None) -> tuple:
        """Restores the state and the data position of a step.

        Args:
          abstract: a state of `jax.ShapeDtypeStruct`s with the shardings of the restored arrays.
          step: which checkpoint; None takes the newest one that is not damaged.
        """

        def read(step):
            items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), position=ocp.args.JsonRestore())
            restored = self._manager.restore(step, args=items)
            state, position = restored["state"], restored["position"]
            self._check(step, field_checksums(state) | {"position": _checksum_of_text(position)})
            return state, position

        return self._newest(read, step)

    def restore_only(self, abstract: dict, step: int | None = None) -> tuple[dict, int]:
        """Restores some fields of the state, such as {"ema": abstract parameters}; returns them and their step."""
        sharded = jax.tree.map(lambda a: ocp.ArrayRestoreArgs(sharding=a.sharding), abstract)
        arguments = ocp.args.PyTreeRestore(item=abstract, restore_args=sharded, partial_restore=True)

        def read(step):
            fields = self._manager.restore(step, args=ocp.args.Composite(state=arguments))["state"]
            self._check(step, field_checksums(fields))
            return fields, step

        return self._newest(read, step)

    def restore_raw(self, step: int | None = None) -> dict:
        """Restores the whole state of a step as nested dicts of NumPy arrays, from a run on any devices."""
        step = self._find(step)
        tree = ocp.PyTreeCheckpointHandler().metadata(Path(self._manager.directory) / str(step) / "state").tree
        arguments = ocp.args.PyTreeRestore(
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        )
        return self._manager.restore(step, args=ocp.args.Composite(state=arguments))["state"]

    def forget_after(self, step: int) -> None:
        """Removes the checkpoints after `step`: a run that resumes there writes them again."""
        for later in (s for s in self.steps() if s > step):
            self._manager.delete(later)

    def _newest(self, read: Callable, step: int | None):
        """Returns `read(step)`; None reads the newest checkpoint that is not damaged."""
        if step is not None:
            return read(self._find(step))
        self._find(None)
        for candidate in reversed(self.steps()):
            try:
                return read(candidate)
            except Exception as error:  # orbax and tensorstore raise many types for damaged files
                reason = _reason(error)
                LOG.warning(
                    "the checkpoint of step %d in %s is damaged (%s): trying the previous one",
                    candidate,
                    self._manager.directory,
                    reason,
                )
        raise ValueError(
            f"no checkpoint in {self._manager.directory} can be read; the error for the oldest one: {reason}"
        )

    def _not_saved(self, step: int, reason: str) -> OSError:
        """Removes the incomplete files of a checkpoint, and returns the error to raise."""
        directory = Path(self._manager.directory)
        whole = {str(step) for step in Checkpoints(directory).steps()}
        for path in directory.iterdir():
            if path.name not in whole:
                shutil.rmtree(path, ignore_errors=True)
        kept = f"continues from step {max(map(int, whole))}, which is complete" if whole else "starts from step 0"
        return OSError(
            f"the checkpoint of step {step} cannot be written to {directory} ({reason}; "
            f"{shutil.disk_usage(directory).free / 2**20:.1f} MiB are free). Free some space and run the same command "
            f"again: it {kept}"
        )

    def _check(self, step: int, restored: dict[str, int]) -> None:
        saved = self._manager.restore(step, args=ocp.args.Composite(checksums=ocp.args.JsonRestore()))["checksums"]
        for name, found in restored.items():
            if found != saved[name]:
                raise ValueError(
                    f"the checksum of {name} at step {step} is {found:08x}, but the checkpoint stores {saved[name]:08x}"
                )

    def _find(self, step):
        found = self.steps()
        if not found:
            raise ValueError(f"no complete checkpoint in {self._manager.directory}: train first")
        if step is None:
            return found[-1]
        if step not in found:
            raise ValueError(f"no checkpoint of step {step} in {self._manager.directory}: use one of {found}")
        return step

    def close(self):
        """Closes orbax's manager."""
        self._manager.close()


def abstract_like(state, sharding):
    """Returns the shapes of a state, with one sharding for all arrays, for `restore`."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), state)


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__


def _checksum_of_text(position: dict) -> int:
    return zlib.crc32(json.dumps(position, sort_keys=True).encode())
