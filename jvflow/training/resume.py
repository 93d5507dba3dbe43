"""Decides what may change when a run is continued, and keeps a record of what changed.

These entries of the config may change:

    run.*, sample.*, evaluate.*     they do not change training
    data.path, data.captions, data.cache, codec.checkpoint, text.checkpoint, and with config.tune pretrained, tune.lora
                                    places of files; keys and checksums show that the content is the same
    train.steps, optimizer.*        as long as the state keeps its shape; from the restored step on, the schedule is
                                    the new config's, counted from step 0 over all steps

All others define the run: another value belongs to a new workdir, which starts from `config.pretrained`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jvflow.files import read_json_lines, write_text

HISTORY = "config_history.jsonl"
NOT_TRAINING = ("run.", "sample.", "evaluate.", "data.cache", "data.threads")
FREE = (*NOT_TRAINING, "optimizer.", "train.steps")
PLACES = ("data.path", "data.captions", "codec.checkpoint", "text.checkpoint", "pretrained")
"""Entries that name files; on resume these may be elsewhere if their content is the same."""
PARTS = ("optimizer.ema", "optimizer.max_grad_norm")
"""Entries that add a part to the state, and leave it out if they are 0."""
ADDED = {"path.basis": "legs", "path.allow_divergence": False, "network.shared": False, "evaluate.fvd": ""}
"""Entries that runs of an earlier version lack, with the values that describe them."""
SCHEDULE = ("train.steps", "optimizer.schedule", "optimizer.learning_rate", "optimizer.warmup_steps")


def changes(before: Mapping, now: Mapping) -> dict[str, list]:
    """Returns {key: [value before, value now]} of the entries that differ, without `config.run`.

    Leaves out entries of `config.data` that only one config has: another kind of data reads them (a folder, or the
    data set that was built of it). The key of the data shows whether the content is the same.
    """
    before, now = flat(before), flat(now)
    before = {key: value for key, value in ADDED.items() if key in now} | before
    changed = {key: [before.get(key), now.get(key)] for key in sorted(before | now) if before.get(key) != now.get(key)}
    unread = lambda key: key.startswith("data.") and None in changed[key]
    return {key: pair for key, pair in changed.items() if not key.startswith("run.") and not unread(key)}


def flat(tree: Mapping, prefix: str = "") -> dict:
    """Returns the leaves of nested dicts by their paths, such as "data.path"."""
    leaves = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def reshapes_state(changed: Mapping[str, list]) -> list[str]:
    """Returns the changed entries with which the optimizer's state, or the moving average, has other arrays."""
    return [key for key in PARTS if key in changed and bool(changed[key][0]) != bool(changed[key][1])]


def refused(changed: Mapping[str, list], verified: tuple[str, ...]) -> list[str]:
    """Returns the changed entries that a run may not change; `verified` lists the places whose content is checked."""
    free = lambda key: key.startswith(FREE) or key in verified
    reshaped = reshapes_state(changed)
    return [key for key in changed if key in reshaped or not free(key)]


def lines(changed: Mapping[str, list]) -> str:
    """Returns one line of text for each change."""
    return "\n".join(f"  config.{key}: was {before!r}, now {now!r}" for key, (before, now) in changed.items())


# --- the record -----------------------------------------------------------------------------------


def history(workdir: Path) -> list[dict]:
    """Returns the changes of a run, in order; leaves out damaged lines.

    Each is {"step": the steps before it, "changed": {key: [value before, value now]}, "config": the config before}. A
    fork begins with the changes of the run that it continues, and with one that names this run as "forked".
    """
    file = workdir / HISTORY
    entries = [entry for _, entry in read_json_lines(file)] if file.is_file() else []
    types = dict(step=int, changed=dict, config=dict)
    whole = lambda entry: all(isinstance(entry.get(key), kind) for key, kind in types.items())
    return [entry for entry in entries if isinstance(entry, dict) and whole(entry)]


def record(workdir: Path, step: int, before: Mapping, now: Mapping) -> None:
    """Adds a line to `HISTORY` if the configs differ. At step 0 empties the file: the run begins anew.

    A run that goes back to an earlier checkpoint repeats the steps from there with the new config, so no line keeps a
    later step.
    """
    entries = history(workdir)
    kept = [dict(entry, step=min(entry["step"], step)) for entry in entries] if step else []
    if step and (changed := changes(before, now)):
        kept.append(dict(step=step, changed=changed, config=before))
    if kept != entries:
        _write(workdir, kept)


def record_fork(workdir: Path, step: int, source: Path, before: Mapping, now: Mapping) -> None:
    """Writes `HISTORY` of a fork, which continues the run in `source` at a step with another config."""
    entries = [entry for entry in history(source) if entry["step"] < step]
    _write(workdir, [*entries, dict(step=step, forked=str(source), changed=changes(before, now), config=before)])


def _write(workdir: Path, entries: Sequence[Mapping]) -> None:
    write_text(workdir / HISTORY, "".join(json.dumps(entry) + "\n" for entry in entries))


def trained_with(workdir: Path, step: int) -> dict:
    """Returns the entry `config_changes` of a protocol: the changes to training before `step`; {} without any."""
    found = []
    for entry in history(workdir):
        forked = {name: entry[name] for name in ("forked",) if name in entry}
        apart = NOT_TRAINING if forked else (*NOT_TRAINING, *PLACES)
        changed = {key: pair for key, pair in entry["changed"].items() if not key.startswith(apart)}
        if entry["step"] < step and (changed or forked):
            found.append(dict(step=entry["step"], **forked, changed=changed))
    return dict(config_changes=found) if found else {}
