"""Tokenizers that belong to their model: special tokens, added tokens, and sizes of the vocabulary."""

import json
import shutil

import numpy as np
import pytest
from public_models import FIXTURES, export_random, read_fixture

from jvflow import text
from jvflow.text import clip_text, t5
from jvflow.text.special_tokens import read_added_tokens, read_special_tokens

CLIP, T5 = FIXTURES / "clip_text_tokenizer", FIXTURES / "t5_tokenizer"


def copy(tokenizer, folder, **files):
    """Copies a tokenizer and adds json files: `tokenizer_config=...` becomes tokenizer_config.json."""
    shutil.copytree(tokenizer, folder)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


# --- padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        dict(tokenizer_config=dict(pad_token="!")),
        dict(tokenizer_config=dict(pad_token=dict(content="!", __type="AddedToken"))),
        dict(special_tokens_map=dict(pad_token="!")),
        # Stable Diffusion 2.1: older files, in which special_tokens_map.json goes first
        dict(tokenizer_config=dict(pad_token="<|endoftext|>"), special_tokens_map=dict(pad_token="!")),
        dict(
            tokenizer_config=dict(pad_token="!", added_tokens_decoder={"0": dict(content="!")}),
            special_tokens_map=dict(pad_token="<|endoftext|>"),
        ),
    ],
)
def test_the_padding_of_stable_diffusion_2(tmp_path, files):
    captions = ["a photo of a cat", ""]
    plain, mask = clip_text.make_tokenize(CLIP, 12)(captions)
    tokens, same_mask = clip_text.make_tokenize(copy(CLIP, tmp_path / "tokenizer", **files), 12)(captions)
    exclamation = json.loads((CLIP / "vocab.json").read_text())["!"]
    np.testing.assert_array_equal(mask, same_mask)
    length = int(mask[0].sum())
    assert (tokens[0, :length] == plain[0, :length]).all() and tokens[0, length - 1] == plain[0, -1]
    assert (tokens[0, length:] == exclamation).all() and (tokens[1, 2:] == exclamation).all()
    assert (tokens[1, :2] == plain[1, :2]).all()


def test_a_padding_token_that_does_not_exist(tmp_path):
    folder = copy(CLIP, tmp_path / "clip", tokenizer_config=dict(pad_token="<pad>"))
    with pytest.raises(ValueError, match="clip pads with '<pad>', which its vocabulary lacks: download it again"):
        clip_text.make_tokenize(folder, 12)
    folder = copy(T5, tmp_path / "t5", tokenizer_config=dict(pad_token="</s>"))
    with pytest.raises(ValueError, match="t5 pads with '</s>', T5 with token 0, '<pad>': it belongs"):
        t5.make_tokenize(folder, 12)
    folder = copy(T5, tmp_path / "usual", tokenizer_config=dict(pad_token="<pad>"))
    assert t5.make_tokenize(folder, 12)(["a cat"])[0].tolist() == t5.make_tokenize(T5, 12)(["a cat"])[0].tolist()


def test_files_that_hold_no_json(tmp_path):
    folder = copy(CLIP, tmp_path / "broken", tokenizer_config="{")
    with pytest.raises(ValueError, match="tokenizer_config.json is damaged: it is not JSON .*: download it again"):
        read_special_tokens(folder)
    folder = copy(CLIP, tmp_path / "list", special_tokens_map=[1])
    with pytest.raises(ValueError, match="special_tokens_map.json is damaged: it holds an array, not an object"):
        read_special_tokens(folder)


# --- added tokens ---------------------------------------------------------------------------------


def test_added_tokens_are_single_tokens_with_their_number(tmp_path):
    last = max(json.loads((CLIP / "vocab.json").read_text()).values())
    folder = copy(CLIP, tmp_path / "added", added_tokens={"<sks>": last + 1, "<two>": last + 2})
    assert read_added_tokens(folder) == {"<sks>": last + 1, "<two>": last + 2}
    tokens, mask = clip_text.make_tokenize(folder, 12, vocabulary=last + 3)(["a <sks> cat"])
    assert (tokens == last + 1).sum() == 1 and mask.sum() == 5
    with pytest.raises(ValueError, match=f"has tokens up to {last + 2}, the model knows {last + 1}: they come from"):
        clip_text.make_tokenize(folder, 12, vocabulary=last + 1)
    decoder = {str(last + 9): dict(content="<sks>")}
    folder = copy(CLIP, tmp_path / "gap", tokenizer_config=dict(added_tokens_decoder=decoder))
    with pytest.raises(ValueError, match=f"adds '<sks>' as token {last + 9}, the next one is {last + 1}"):
        clip_text.make_tokenize(folder, 12)


# --- special tokens in a caption ------------------------------------------------------------------


def test_a_padding_token_of_clip_is_whole_in_a_caption(tmp_path):
    """The sign "!" is a special token where it pads, so it does not become the piece "!</w>" of a word."""
    vocabulary = json.loads((CLIP / "vocab.json").read_text())
    folder = copy(CLIP, tmp_path / "second", tokenizer_config=dict(pad_token="!"))
    for source, expected in ((CLIP, vocabulary["!</w>"]), (folder, vocabulary["!"])):
        assert clip_text.make_tokenize(source, 12)(["a cat! sits"])[0][0].tolist().count(expected) >= 1
    assert vocabulary["!</w>"] not in clip_text.make_tokenize(folder, 12)(["a cat! sits"])[0]


@pytest.mark.parametrize("normalized", [False, True])
def test_an_end_token_in_capitals(tmp_path, normalized):
    """Matches a token after lower-casing only where its entry says so."""
    token = dict(content=clip_text.END, normalized=normalized)
    folder = copy(CLIP, tmp_path / "clip", tokenizer_config=dict(eos_token=token))
    (_, _, second, *_), (_, _, _, end, *_) = clip_text.make_tokenize(folder, 30)(["a <|EndOfText|> b", "a b"])[0]
    assert bool(second == end) is normalized


def test_special_tokens_in_a_caption_of_t5(tmp_path):
    """Gives each special token its number, and the text between them the tokens of captions of their own."""
    tokenize = t5.make_tokenize(T5, 16)
    tokens, mask = tokenize(["a </s> b<pad>c <unk>", "a", "b", "c"])
    a, b, c = (row[row_mask][:-1].tolist() for row, row_mask in zip(tokens[1:], mask[1:]))
    assert tokens[0][mask[0]].tolist() == [*a, t5.END, *b, t5.PADDING, *c, 2, t5.END]
    added = copy(T5, tmp_path / "added", added_tokens={"<extra_id_0>": 199})
    assert t5.make_tokenize(added, 16)(["a<extra_id_0>b"])[0][0].tolist()[: len(a + b) + 2] == [*a, 199, *b, t5.END]


# --- models ---------------------------------------------------------------------------------------


def t5_model(folder, **changes):
    config = dict(read_fixture(FIXTURES / "t5_masked.safetensors")[0], vocab_size=90) | changes
    return export_random("t5_encoder", config, folder)


@pytest.mark.parametrize("by_layer", [False, True])
@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(vocab_size=30), "has tokens up to 7., the model knows 30: they come from different models"),
        (
            dict(vocab_size=400),
            "has .. tokens, fewer than half of the 400 that the model knows: they come from different",
        ),
        (
            dict(eos_token_id=2),
            "ends a text with token 1, the model's config says eos_token_id 2: they come from different",
        ),
    ],
)
def test_a_tokenizer_of_another_t5(tmp_path, changes, message, by_layer):
    folder = t5_model(tmp_path / "model", **changes)
    with pytest.raises(ValueError, match=message):
        text.build("t5", checkpoint=(folder, T5), length=8, by_layer=by_layer)


def test_a_tokenizer_of_another_clip(tmp_path):
    config = dict(read_fixture(FIXTURES / "clip_text_quick.safetensors")[0], vocab_size=700)
    for number, (changes, message) in enumerate(
        [
            (dict(vocab_size=500), "has tokens up to 602, the model knows 500: they come from different models"),
            (dict(vocab_size=2000), "has 603 tokens, fewer than half of the 2000 that the model knows"),
            (dict(eos_token_id=17), "ends a text with token 602, the model's config says eos_token_id 17"),
        ]
    ):
        folder = export_random("clip_text", config | changes, tmp_path / str(number))
        with pytest.raises(ValueError, match=message):
            text.build("clip_text", checkpoint=(folder, CLIP))


def test_embeddings_read_by_layer_are_checked(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = t5_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tokens, _ = t5.make_tokenize(T5, 8)(["a photo of a cat"])
    encoder = lambda: text.build("t5", checkpoint=(folder, T5), length=8, dtype="float32", by_layer=True)
    expected = encoder().apply(None, tokens)
    embedding = tensors.pop("shared.weight")
    save_file(tensors | {"encoder.embed_tokens.weight": embedding}, folder / "model.safetensors")
    np.testing.assert_array_equal(encoder().apply(None, tokens), expected)
    save_file(
        tensors | {"encoder.embed_tokens.weight": embedding, "shared.weight": embedding + 1},
        folder / "model.safetensors",
    )
    with pytest.raises(ValueError, match="encoder.embed_tokens.weight and shared.weight differ"):
        encoder().apply(None, tokens)
    embedding[tokens[0, 0], 2] = np.nan
    save_file(tensors | {"shared.weight": embedding}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="shared.weight holds .* values that are not finite"):
        encoder().apply(None, tokens)
