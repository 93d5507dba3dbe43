"""Reads the config of a public model: absent keys take the defaults of the public library's class.

Each kind has a table of the keys of its class: a default for each key, and the values that can be read. The default and
the names are facts of the library (`tests/slow/public_defaults.py` compares them with the packages). A key without
allowed values does not change the computation, for example dropout at inference.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

LOG = logging.getLogger(__name__)
MAX_SIZE, MAX_LAYERS, MAX_LIST = 2**24, 2**10, 64
"""Limits of a size, of a number of layers and of a list: a wrong config must not fill the memory."""


class Allowed(NamedTuple):
    """The values of a key that can be read: in words, and as a function that tests one value."""

    words: str
    test: Callable[[Any], bool]


class Key(NamedTuple):
    """A key of a public config: the default of its class, and the allowed values, None if any value will do."""

    default: Any
    allowed: Allowed | None = None


Table = Mapping[str, Key]


# --- allowed values -------------------------------------------------------------------------------


def _shown(value) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 100 else f"{text[:97]}..."


def whole(least: int = 1, most: int = MAX_SIZE, *, even: bool = False) -> Allowed:
    """Returns the whole numbers of a range as allowed values."""
    fits = lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most and not (even and v % 2)
    return Allowed(f"{'an even' if even else 'a whole'} number from {least} to {most}", fits)


def one_of(*values) -> Allowed:
    """Returns a few values as allowed values."""
    shown = " or ".join(map(_shown, values))
    equal = lambda v, value: v == value and isinstance(v, bool) == isinstance(value, bool)
    return Allowed(shown, lambda v: any(equal(v, value) for value in values))


def list_of(entry: Allowed, length: int | None = None) -> Allowed:
    """Returns lists as allowed values, of `length` entries if it is given, else of 1 to `MAX_LIST`."""

    def test(v):
        fits = isinstance(v, list | tuple) and (len(v) == length if length else 1 <= len(v) <= MAX_LIST)
        return fits and all(map(entry.test, v))

    return Allowed(f"a list of {f'{length} entries' if length else 'entries'}, each {entry.words}", test)


def either(*allowed: Allowed) -> Allowed:
    """Returns the values that one of several allows."""
    return Allowed(" or ".join(a.words for a in allowed), lambda v: any(a.test(v) for a in allowed))


def _is_number(v) -> bool:
    return isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)


SIZE, LAYERS = whole(), whole(most=MAX_LAYERS)
NUMBER = Allowed("a number", _is_number)
POSITIVE = Allowed("a number above 0", lambda v: _is_number(v) and v > 0)
NONE = Allowed("null", lambda v: v is None)
FLAG = Allowed("true or false", lambda v: v is None or isinstance(v, bool))
FALSE = Allowed("false", lambda v: v is None or v is False)
TRUE = Allowed("true", lambda v: v is True)
TANH_GELU = one_of("gelu-approximate", "gelu_new", "gelu_pytorch_tanh")
SILU = one_of("silu", "swish")

HARMLESS = frozenset(
    "add_cross_attention architectures attention_dropout auto_map bad_words_ids begin_suppress_tokens "
    "chunk_size_feed_forward classifier_dropout cross_attention_hidden_size decoder_start_token_id "
    "diversity_penalty do_sample dropout dropout_rate dtype early_stopping "
    "encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task force_upcast forced_bos_token_id "
    "forced_eos_token_id id2label initializer_factor initializer_range is_decoder is_encoder_decoder label2id "
    "length_penalty max_length min_length model_type n_positions name_or_path no_repeat_ngram_size num_beam_groups "
    "num_beams num_decoder_layers num_return_sequences output_attentions "
    "output_hidden_states output_past output_scores prefix problem_type pruned_heads remove_invalid_values "
    "repetition_penalty return_dict return_dict_in_generate sample_size scalable_attention scale_decoder_outputs "
    "sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder "
    "tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p "
    "use_bfloat16 use_cache".split()
)
"""Keys of no table that are ignored without a word: general keys of transformers, and keys that classes once had."""


# --- reading --------------------------------------------------------------------------------------


def read_config(
    config: Mapping, table: Table, name: str, rules: Callable[[dict], Mapping[str, str]] | None = None
) -> dict:
    """Returns the values of all keys of a table.

    Args:
      config: the dict of a config.json. Keys that are not in the table are ignored, unknown ones with a warning.
      table: the keys of the class.
      name: the model in words, for messages, such as "a DiT".
      rules: `values -> {key: allowed values in words}`, the keys whose values do not fit the others.

    Raises:
      ValueError: with each key whose value is not allowed, its value and the allowed ones; or for a quantised model.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"the config of {name} is {_shown(config)}: a config.json holds an object with keys")
    check_not_quantised(config, name)
    values = {key: config.get(key, default) for key, (default, _) in table.items()}
    wrong = {key: a.words for key, (_, a) in table.items() if a is not None and not a.test(values[key])}
    wrong = wrong or (dict(rules(values)) if rules else {})
    if wrong:
        given = lambda key: _shown(values[key]) + ("" if key in config else " (the library's default)")
        differ = "; ".join(f"{key} is {given(key)}, allowed: {words}" for key, words in wrong.items())
        raise ValueError(f"{name} of this config cannot be read: {differ}")
    unknown = sorted(k for k, v in config.items() if k not in table and k not in HARMLESS and k[:1] != "_" and v)
    if unknown:
        _warn_unknown(name, tuple(unknown))
    return values


def check_not_quantised(config: Mapping, name: str) -> None:
    """Raises ValueError if a config says that its weights are quantised."""
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
        raise ValueError(
            f"{name} of this config has quantised weights (quantization_config, {method or 'of unknown method'}): "
            "take the files that are not quantised"
        )


@cache
def _warn_unknown(name: str, keys: Sequence[str]) -> None:
    LOG.warning("the config of %s has keys that are not known and are ignored: %s", name, ", ".join(keys))


def same_entries(value, levels: int):
    """Returns the entry of a list whose entries are all equal, or the value if it is no list; None if they differ."""
    if not isinstance(value, list | tuple):
        return value
    return value[0] if len(value) == levels and all(entry == value[0] for entry in value) else None
