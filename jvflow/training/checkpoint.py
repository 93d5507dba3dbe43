"""Checkpoints of the train state and the data position, written by orbax, with checksums.

A save is complete when `save` returns, so a killed run loses at most the steps since its last save. `latest` ignores an
incomplete save. `restore` skips a damaged checkpoint with a warning: the checksums show changed bits in arrays, which
orbax does not detect. Arrays are read in the dtype in which they were saved, and checked before they are cast.
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
from jvflow.training import format_version

LOG = logging.getLogger(__name__)
METADATA_BYTES = 2**20
"""Upper bound on the bytes of a checkpoint in addition to its arrays."""


class Checkpoints:
    """The checkpoints of one run, in a folder of their own."""

    def __init__(self, directory, *, keep: int = 2, write: bool = True):
        """Opens `directory`, and creates it if `write`; `save` keeps the newest `keep` checkpoints."""
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=write,
            enable_async_checkpointing=False,
            lightweight_initialize=True,  # reads no metadata here: `restore` skips a checkpoint where it is damaged
        )
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
            format=ocp.args.JsonSave({format_version.ENTRY: format_version.VERSION}),
        )
        need = sum(a.nbytes for a in jax.tree.leaves(state)) + METADATA_BYTES
        if shutil.disk_usage(self._manager.directory).free < need:
            raise self._not_saved(step, f"it needs {need / 2**20:.1f} MiB")
        try:
            self._manager.save(step, args=items)
            self._manager.wait_until_finished()
        except Exception as error:  # an OSError, or tensorstore's own error type for it
            raise self._not_saved(step, _reason(error)) from error

    def restore(self, abstract, step: int | None = None, *, keep_dtypes: bool = False) -> tuple:
        """Restores the state and the data position of a step.

        Args:
          abstract: a state of `jax.ShapeDtypeStruct`s with the shardings of the restored arrays.
          step: which checkpoint; None takes the newest one that is not damaged.
          keep_dtypes: keep the dtypes of the saved arrays, as far as JAX has them, instead of those of `abstract`.
        """

        def read(step):
            state = self._read(step, abstract, keep_dtypes)
            position = self._manager.restore(step, args=ocp.args.Composite(position=ocp.args.JsonRestore()))["position"]
            self._check(step, {"position": _checksum_of_text(position)})
            return state, position

        return self._newest(read, step)

    def restore_only(self, abstract: dict, step: int | None = None, *, keep_dtypes: bool = False) -> tuple[dict, int]:
        """Restores some fields of the state, such as {"ema": abstract parameters}; returns them and their step.

        Arguments as for `restore`.
        """
        return self._newest(lambda step: (self._read(step, abstract, keep_dtypes, partial=True), step), step)

    def _read(self, step: int, abstract, keep_dtypes: bool, partial: bool = False):
        """Reads arrays in their saved dtypes, checks them, and casts them; `partial` leaves out other fields."""
        self._check_version(step)
        dtypes = {_name(path): a.dtype for path, a in jax.tree.leaves_with_path(self._saved(step))}
        stored = jax.tree.map_with_path(lambda path, a: _stored(a, dtypes.get(_name(path), a.dtype)), abstract)
        wide = sorted({str(a.dtype) for a in jax.tree.leaves(stored) if a.sharding is None})
        if wide:
            LOG.warning(
                "warning: the checkpoint in %s holds %s, which JAX casts to 32 bits: set JAX_ENABLE_X64=1 to keep them",
                self._manager.directory,
                ", ".join(wide),
            )
        arguments = ocp.args.PyTreeRestore(
            item=stored, restore_args=jax.tree.map(_restore_args, stored), partial_restore=partial
        )
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            state = reader.restore(self._folder(step), args=arguments)
        self._check(step, field_checksums(state))
        return jax.tree.map(lambda a, s: _cast(a, a.dtype if keep_dtypes else s.dtype, s.sharding), state, abstract)

    def _saved(self, step: int):
        """Returns the metadata of the saved arrays, as nested dicts."""
        return ocp.PyTreeCheckpointHandler().metadata(self._folder(step)).tree

    def _folder(self, step: int) -> Path:
        return Path(self._manager.directory) / str(step) / "state"

    def restore_raw(self, step: int | None = None) -> dict:
        """Restores the whole state of a step as nested dicts of NumPy arrays, from a run on any devices."""
        step = self._find(step)
        self._check_version(step)
        arguments = ocp.args.PyTreeRestore(
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), self._saved(step))
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
            except format_version.LaterVersion:  # not damaged: an earlier checkpoint would lose steps
                raise
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

    def _check_version(self, step: int) -> None:
        """Raises `LaterVersion` if a later jvflow wrote a checkpoint; those of version 0 have no entry."""
        folder = Path(self._manager.directory) / str(step)
        if (folder / "format").exists():
            found = self._manager.restore(step, args=ocp.args.Composite(format=ocp.args.JsonRestore()))["format"]
            format_version.check_version(found, folder)

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
            raise ValueError(f"no complete checkpoint in {self._manager.directory}: run `jvflow train` again")
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


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _stored(array: jax.ShapeDtypeStruct, dtype) -> jax.ShapeDtypeStruct:
    """Returns an array as it was saved; without a sharding, so that it stays in NumPy, if JAX would cast it."""
    kept = jax.dtypes.canonicalize_dtype(dtype) == dtype
    return jax.ShapeDtypeStruct(array.shape, dtype, sharding=array.sharding if kept else None)


def _restore_args(array: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
    if array.sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray, dtype=array.dtype)
    return ocp.ArrayRestoreArgs(sharding=array.sharding, global_shape=array.shape, dtype=array.dtype)


def _cast(array, dtype, sharding) -> jax.Array:
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return array.astype(dtype) if isinstance(array, jax.Array) else jax.device_put(array.astype(dtype), sharding)


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__


def _checksum_of_text(position: dict) -> int:
    return zlib.crc32(json.dumps(position, sort_keys=True).encode())
