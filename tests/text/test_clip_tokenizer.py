"""The tokenizer of CLIP in the one file that transformers 5 saves."""

import gzip
import json

import numpy as np
import pytest
from public_models import FIXTURES

from jvflow.text import clip_text

TOKENIZER = FIXTURES / "clip_text_tokenizer"


def test_a_tokenizer_in_one_file_gives_the_same_tokens(tmp_path):
    expected = json.loads((TOKENIZER / "expected.json").read_text())
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress((TOKENIZER / "tokenizer.json.gz").read_bytes()))
    tokens, mask = clip_text.make_tokenize(TOKENIZER, 20)(expected["captions"])
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        found = clip_text.make_tokenize(source, 20)(expected["captions"])
        assert found[0].tolist() == expected["tokens"]
        np.testing.assert_array_equal(found[1], mask)
    np.testing.assert_array_equal(tokens, expected["tokens"])


def test_other_files(tmp_path):
    with pytest.raises(
        ValueError, match="holds no vocab.json and no merges.txt, and no tokenizer.json: give the folder"
    ):
        clip_text.make_tokenize(tmp_path, 20)
    whole = json.loads(gzip.decompress((TOKENIZER / "tokenizer.json.gz").read_bytes()))
    whole["model"]["vocab"] = {("s" if k == clip_text.START else k): v for k, v in whole["model"]["vocab"].items()}
    whole["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(ValueError, match="the vocabulary in .* lacks .*: it is not CLIP's"):
        clip_text.make_tokenize(tmp_path, 20)
