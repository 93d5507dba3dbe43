"""Downloads from a stand-in of the hub on this machine: which files, which commit, and what errors say."""

import hashlib
import json
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from public_models import FIXTURES, SINGLE, export_random
from safetensors.numpy import save_file

from jvflow import pretrained
from jvflow.pretrained import hub
from jvflow.pretrained.public import folders

pytest.importorskip("huggingface_hub")
COMMITS = {"main": "1" * 40, "v2": "2" * 40}
LTX = dict(num_attention_heads=2, attention_head_dim=4, in_channels=3, out_channels=3, num_layers=1)
LTX |= dict(caption_channels=5, cross_attention_dim=8)


class Hub(ThreadingHTTPServer):
    """Serves one repository, org/name, from folders of its revisions, and keeps the paths that were asked for."""

    def __init__(self, revisions: dict[str, Path]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.revisions, self.asked = revisions, []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self, *, head: bool = False):
        parts = self.path.strip("/").split("/")
        self.server.asked.append(f"{self.command} {self.path}")
        if parts[:4] == ["api", "models", "org", "name"]:
            revision = parts[5] if len(parts) > 5 else "main"
            if revision not in COMMITS:
                return self.answer(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
            root = self.server.revisions[revision]
            names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
            siblings = [dict(rfilename=name) for name in names]
            return self.answer(200, dict(id="org/name", sha=COMMITS[revision], siblings=siblings))
        if parts[:3] == ["org", "name", "resolve"]:
            revision = next(name for name, commit in COMMITS.items() if parts[3] in (name, commit))
            content = (self.server.revisions[revision] / "/".join(parts[4:])).read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            return self.answer(200, content, {"X-Repo-Commit": COMMITS[revision], "ETag": f'"{tag}"'}, head=head)
        return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}, head=head)

    def do_HEAD(self):
        self.do_GET(head=True)

    def answer(self, status, content, headers=None, head=False):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items() | {"Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Returns the folders of two revisions: a pipeline, a tokenizer, pickles and code."""
    first = tmp_path_factory.mktemp("hub") / "main"
    export_random("ltx_transformer", LTX, first / "transformer", size=4.0)
    for name in (f"{SINGLE[:-12]}.fp16.safetensors", f"{SINGLE[:-12]}.non_ema.safetensors"):
        save_file({"wrong": np.zeros(3, np.float32)}, first / "transformer" / name)
    for name in (f"{SINGLE[:-12]}.bin", "code.py", "handler.pkl"):
        (first / "transformer" / name).write_bytes(b"must not be downloaded")
    (first / "model_index.json").write_text("{}")
    shutil.copytree(FIXTURES / "t5_tokenizer", first / "tokenizer")
    (first / "pickles").mkdir()
    (first / "pickles" / "model.bin").write_bytes(b"x")
    (first / "pickles" / "config.json").write_text(json.dumps(dict(_class_name="UNet2DModel")))
    second = first.parent / "v2"
    export_random("ltx_transformer", LTX, second / "transformer", size=4.0, seed=9)
    return dict(main=first, v2=second)


@pytest.fixture
def served(repository, monkeypatch, tmp_path):
    from huggingface_hub import constants

    server = Hub(repository)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub._fetch.cache_clear()
    yield server
    server.shutdown()
    server.server_close()
    hub._fetch.cache_clear()


def downloaded(server) -> set[str]:
    return {path.split("/", 5)[5] for path in server.asked if path.startswith("GET /org/name/resolve/")}


def test_a_model_is_downloaded_by_the_rule_of_folders(served, repository):
    address = "hf://org/name/transformer"
    found = pretrained.load(address)
    expected = pretrained.load(repository["main"] / "transformer")
    np.testing.assert_array_equal(found.params["proj_in"]["kernel"], expected.params["proj_in"]["kernel"])
    assert downloaded(served) == {"transformer/config.json", f"transformer/{SINGLE}"}
    count = len(served.asked)
    pretrained.inspect(address, kind="ltx_transformer")
    pretrained.load(address)
    assert not any("GET /org/name/resolve" in path for path in served.asked[count:])  # the cache has the files
    assert folders(address) == [address] and hub.is_address(Path(address))


def test_a_revision(served, repository):
    found = pretrained.load("hf://org/name/transformer@v2")
    expected = pretrained.load(repository["v2"] / "transformer")
    np.testing.assert_array_equal(found.params["proj_in"]["kernel"], expected.params["proj_in"]["kernel"])
    assert all("/v2/" in path for path in served.asked if "resolve" in path)
    with pytest.raises(ValueError, match="hf://org/name/transformer@v3 cannot be downloaded: .*"):
        pretrained.load("hf://org/name/transformer@v3")


def test_a_file_and_a_tokenizer(served, repository):
    from jvflow.text import t5

    file = pretrained.open_folder(f"hf://org/name/transformer/{SINGLE}", "ltx_transformer")[2].paths[0]
    assert file.read_bytes() == (repository["main"] / "transformer" / SINGLE).read_bytes()
    assert downloaded(served) == {"transformer/config.json", f"transformer/{SINGLE}"}
    expected = json.loads((FIXTURES / "t5_tokenizer" / "expected.json").read_text())
    tokens, _ = t5.make_tokenize("hf://org/name/tokenizer", 20)(expected["captions"])
    assert tokens.tolist() == expected["tokens"]
    assert {name for name in downloaded(served) if name.startswith("tokenizer/")} == {
        "tokenizer/expected.json",
        "tokenizer/spiece.model",
    }


@pytest.mark.parametrize(
    "address, message",
    [
        (
            "hf://org/name",
            "is a whole pipeline: give one of its models, hf://org/name/pickles, hf://org/name/transformer",
        ),
        (
            "hf://org/name/pickles",
            "holds no safetensors, and only these are downloaded: it holds config.json, model.bin",
        ),
        ("hf://org/name/vae", "does not exist: the hub has model_index.json, "),
        ("hf://org/name/transformer/none.safetensors", "does not exist: the hub has model_index.json"),
        ("hf://org/other/vae", "cannot be downloaded"),
        ("hf://name", "is no address on the hub: write hf://ORG/NAME"),
        ("hf://org/name/../other", "is no address on the hub"),
        ("hf://org/name/a b", "is no address on the hub"),
        ("hf://", "is no address on the hub"),
    ],
)
def test_addresses_without_a_model(served, address, message):
    with pytest.raises(ValueError, match=f"{address}.* {message}"):
        pretrained.load(address)
    assert all(name.endswith(".json") for name in downloaded(served))


def test_without_a_network_the_cache_is_used(served):
    pretrained.inspect("hf://org/name/transformer")
    served.shutdown()
    served.server_close()
    hub._fetch.cache_clear()
    pretrained.inspect("hf://org/name/transformer")
    with pytest.raises(ValueError, match="hf://org/name/vae is not in the cache, and the hub cannot be reached"):
        pretrained.inspect("hf://org/name/vae")


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    hub._fetch.cache_clear()
    with pytest.raises(
        ValueError, match="hf://org/name/vae needs the package huggingface_hub: pip install 'jvflow.hub.'"
    ):
        pretrained.load("hf://org/name/vae")


def test_nothing_else_uses_the_network(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for source in ("org/name", tmp_path, "gs://bucket/vae", "https://host/vae"):
        with pytest.raises(ValueError, match="there is no|holds no"):
            pretrained.load(source)


def test_a_folder_below_an_address():
    assert hub.join("hf://org/name@v2", "vae") == "hf://org/name/vae@v2"
    assert hub.join("hf://org/name/sd", "unet") == "hf://org/name/sd/unet"
    assert hub.join("folder", "vae") == Path("folder/vae")
