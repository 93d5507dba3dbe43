"""Rules for values: which values an entry of a config, or an argument of a command, may have.

A rule is a function of a value. It returns "" for an allowed value, and otherwise the allowed values in words. Programs
compute in float32 and int32, so no rule accepts a number that these types would turn into 0, infinity or another one.
"""

import reprlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from jvflow.flow.solver import FIXED_ONLY, METHODS
from jvflow.flow.torchode import CONTROLLERS
from jvflow.metrics import FEATURE_MAPS, evaluation_protocol

Rule = Callable[[Any], str]


class Rules(NamedTuple):
    """The rules of a paper for its config.

    Attributes:
      entries: the rule of each entry, by its path, such as "sample.epsilon".
      contradictions: `config -> sentences`; takes the config as a dict of dicts, in which each entry is allowed by
        itself and some may be absent. Returns a sentence for each pair of entries that contradict each other.
    """

    entries: Mapping[str, Rule] = {}
    contradictions: Callable[[dict], Iterable[str]] = lambda config: ()


def check(values: Iterable[tuple[str, Any, Rule]]) -> None:
    """Raises ValueError if a rule refuses its value; `values` holds (name, value, rule)."""
    refuse(problem(*each) for each in values)


def problem(name: str, value: Any, rule: Rule) -> str:
    """Returns a sentence with the value and the allowed values; "" if the rule allows the value."""
    allowed = rule(value)
    return allowed and f"{name} is {reprlib.repr(value)}: use {allowed}"


def refuse(problems: Iterable[str]) -> None:
    """Raises ValueError with all sentences that are not empty, if there are any."""
    found = [sentence for sentence in problems if sentence]
    if len(found) > 1:
        raise ValueError("\n".join([f"{len(found)} values are wrong:", *(f"  {sentence}" for sentence in found)]))
    if found:
        raise ValueError(found[0])


# --- rules ----------------------------------------------------------------------------------------

LARGEST = 2**31 - 1
TINY, HUGE = 1e-30, 1e30
"""The bounds of positive numbers: float32 holds their products with numbers of usual size."""


def whole(least: int, most: int = LARGEST) -> Rule:
    """Returns the rule for whole numbers from `least` to `most`."""

    def rule(value):
        number = isinstance(value, int) and not isinstance(value, bool)
        if number and least <= value <= most:
            return ""
        bounded = most < LARGEST or (number and value > most)
        return f"a whole number from {least} to {most}" if bounded else f"a whole number of {least} or more"

    return rule


def real(least: float | int, most: float | int, words: str = "") -> Rule:
    """Returns the rule for numbers from `least` to `most`, which `words` names."""

    def rule(value):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and least <= value <= most:
            return ""
        usual = not number or value == 0 or TINY <= abs(value) <= HUGE
        return words if words and usual else f"a number from {least} to {most}"

    return rule


def choice(*names: str) -> Rule:
    """Returns the rule for one of some names."""
    return lambda value: "" if isinstance(value, str) and value in names else f"one of {', '.join(names)}"


def optional(rule: Rule) -> Rule:
    """Returns the rule for None and the values of `rule`."""

    def or_none(value):
        allowed = "" if value is None else rule(value)
        return allowed and f"{allowed}, or None"

    return or_none


def special(other: int, meaning: str, rule: Rule) -> Rule:
    """Returns the rule for the number `other`, whose meaning is for example "for never", and the values of `rule`."""

    def or_other(value):
        allowed = "" if value == other and not isinstance(value, bool) else rule(value)
        return allowed and f"{allowed}, or {other} {meaning}"

    return or_other


def many(rule: Rule, words: str, lengths: Container[int] = range(LARGEST)) -> Rule:
    """Returns the rule for a tuple, of one of these lengths, of values of `rule`; `words` names it."""

    def each(value):
        fits = isinstance(value, list | tuple) and len(value) in lengths
        return "" if fits and not any(map(rule, value)) else words

    return each


def FVD(value) -> str:  # noqa: N802, a rule
    """Is the rule for `config.evaluate.fvd`: "" or a protocol, with changes of its entries."""
    words = f'"" for none, or one of {", ".join(evaluation_protocol.NAMES)}'
    if not isinstance(value, str):
        return words
    try:
        return value and evaluation_protocol.parse(value) and ""
    except ValueError as error:
        return f"{words}: {error}"


BOOLEAN: Rule = lambda value: "" if isinstance(value, bool) else "True or False"
TEXT: Rule = lambda value: "" if isinstance(value, str) else "text"
NAME: Rule = lambda value: "" if isinstance(value, str) and value.strip() else "text that is not empty"
COUNT = whole(1)
NUMBER = real(-HUGE, HUGE, "a number")
POSITIVE = real(TINY, HUGE, "a number above 0")
NOT_NEGATIVE = real(0, HUGE, "a number of 0 or more")
FRACTION = real(0, 1)
BELOW_ONE = real(0, 0.9999999)  # 1 - 1e-7: the float32 of a larger number may be 1
RATE = real(0.01, 1000, "frames per second from 0.01 to 1000")
SEED = whole(0, 2**32 - 1)
"""A random key has 32 bits: two seeds that are equal in them would give the same numbers."""
DTYPE = choice("float32", "bfloat16", "float16")

SOLVER: Mapping[str, Rule] = {
    "sample.method": choice(*METHODS),
    "sample.rtol": POSITIVE,
    "sample.atol": POSITIVE,
    "sample.steps": optional(COUNT),
    "sample.per_sample": BOOLEAN,
    "sample.controller": choice(*CONTROLLERS),
}
"""The entries that `jvflow.assembly.build_solver` reads."""
DISTANCE: Mapping[str, Rule] = {
    "evaluate.window": whole(2),
    "evaluate.features": choice(*FEATURE_MAPS),
    "evaluate.dimensions": whole(3),
    "evaluate.real_clips": COUNT,
    "evaluate.batch": COUNT,
    "evaluate.seed": SEED,
}
"""The entries of an evaluation by a distance between windows of frames."""


def check_solver(sample: Mapping) -> Iterator[str]:
    """Yields a sentence for each method that its controller or its steps contradict; `sample` is config.sample."""
    if sample["steps"] is None and sample["method"] in FIXED_ONLY:
        yield (
            f"config.sample.method is {sample['method']!r}, which has no error estimate: set config.sample.steps to a "
            "number of steps, or use an adaptive method, such as heun"
        )
    paper = sample["method"] == "heun" and sample["per_sample"]
    if sample["steps"] is None and sample["controller"] == "torchode" and not paper:
        yield (
            f"config.sample.controller is 'torchode', with config.sample.method={sample['method']!r} and "
            f"config.sample.per_sample={sample['per_sample']}: torchode's count is that of heun with a step size for "
            "each sample, so use method='heun' and per_sample=True, or controller='diffrax'"
        )
