"""Files of PyTorch: their tensors are read, and nothing in them is run."""

import copyreg
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import ROOT
from public_models import FIXTURES
from safetensors.numpy import load_file
from torch_files import BEGIN, END, encode, tensor, write, write_archive

from jvflow.pretrained.torch_file import TorchFile

# --- what PyTorch writes --------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 4])
def test_every_tensor_of_a_file_of_pytorch(protocol):
    """Compares dtypes, strides, offsets, nested containers and parameters with a file that PyTorch itself wrote."""
    opened = TorchFile(FIXTURES / f"torch_protocol_{protocol}.pt")
    expected = load_file(FIXTURES / "torch_expected.safetensors")
    exact = {"bfloat16": "float32", "float8_e4m3fn": "float32", "float8_e5m2": "float32"}
    assert opened.shapes == {name: a.shape for name, a in expected.items()}
    dtypes = set()
    for name, a in expected.items():
        read = opened.read(name)
        dtypes.add(read.dtype.name)
        np.testing.assert_array_equal(read.astype(exact.get(read.dtype.name, read.dtype)), a, err_msg=name)
    assert {"bfloat16", "float8_e4m3fn", "float8_e5m2", "bool", "uint8", "int64", "float16", "float64"} <= dtypes
    np.testing.assert_array_equal(
        opened.read_rows("nested.0.transposed", np.array([3, 1])), opened.read("plain").T[[3, 1]]
    )


def test_the_writer_of_these_tests_writes_what_the_reader_reads(tmp_path):
    arrays = dict(a=np.arange(6, dtype=np.float32).reshape(2, 3), b=dict(c=[np.arange(3)]), d="text", e=None, f=1.5)
    opened = TorchFile(write(tmp_path / "a.pt", arrays))
    assert opened.shapes == {"a": (2, 3), "b.c.0": (3,)}
    np.testing.assert_array_equal(opened.read("a"), arrays["a"])
    np.testing.assert_array_equal(opened.read("b.c.0"), np.arange(3))


# --- code -----------------------------------------------------------------------------------------

OPEN = b"cbuiltins\nopen\n"
NEW_OPEN = b"\x8c\x08builtins\x8c\x04open\x93"
EXTENSIONS = {241: ("builtins", "open"), 54321: ("_io", "open"), 7654321: ("io", "open")}
"""Codes for names, which a pickle may use in place of the names."""


def hostile(canary: str) -> dict[str, bytes]:
    """Returns pickles that make the file `canary` when Python's own reader reads them, each in another way."""
    name = encode(canary, [])
    arguments = b"(" + name + encode("w", []) + b"t"
    call = OPEN + arguments + b"R"
    text = f"S{canary!r}\nS'w'\n".encode()
    code = encode(f"open({canary!r}, 'w')", [])
    inner = BEGIN + call + END
    return {
        "reduce": call,
        "reduce of a name on the stack": NEW_OPEN + arguments + b"R",
        "os.system": b"cos\nsystem\n(" + encode(f"touch {canary}", []) + b"tR",
        "posix": b"cposix\nsystem\n(" + encode(f"touch {canary}", []) + b"tR",
        "exec": b"cbuiltins\nexec\n(" + code + b"tR",
        "eval of the old name": b"c__builtin__\neval\n(" + code + b"tR",
        "inst": b"(" + text + b"ibuiltins\nopen\n",
        "obj": b"(" + b"c_io\nFileIO\n" + name + encode("w", []) + b"o",
        "newobj": b"ctorch_files\nActing\n(" + name + b"t\x81",
        "newobj with keywords": b"ctorch_files\nActing\n)}(" + encode("path", []) + name + b"u\x92",
        "extension of one byte": b"\x82" + struct.pack("<B", 241) + arguments + b"R",
        "extension of two bytes": b"\x83" + struct.pack("<H", 54321) + arguments + b"R",
        "extension of four bytes": b"\x84" + struct.pack("<i", 7654321) + arguments + b"R",
        "through the memo": OPEN + b"q\x00h\x00" + arguments + b"R",
        "another name in the memo": b"ccollections\nOrderedDict\nq\x00" + OPEN + b"q\x000h\x00" + arguments + b"R",
        "in a list of a dict": b"}(" + encode("a", []) + b"](" + call + b"e" + b"u",
        "as a key": b"}(" + b"cbuiltins\nexec\n(" + code + b"tR" + encode(1, []) + b"u",
        "popped again": call + b"0N",
        "duplicated": OPEN + b"2" + arguments + b"R",
        "among a tensor's arguments": b"ccollections\nOrderedDict\n(](" + b"(" + encode("a", []) + call + b"t" + b"etR",
        "state of a dict": b"ccollections\nOrderedDict\n)R" + b"}(" + encode("a", []) + call + b"u" + b"b",
        "pickle inside a pickle": b"cpickle\nloads\n(" + b"B" + struct.pack("<I", len(inner)) + inner + b"tR",
        "getattr": b"cbuiltins\ngetattr\n(c_io\nFileIO\n" + encode("__call__", []) + b"t" + b"R" + arguments + b"R",
        "partial": b"cfunctools\npartial\n(" + OPEN + name + encode("w", []) + b"tR)R",
        "map": b"cbuiltins\nlist\n(cbuiltins\nmap\n(" + OPEN + b"(" + name + b"t" + b"(" + encode("w", []) + b"ttRtR",
        "a name with dots": b"\x8c\x03_io\x8c\x0fFileIO.__call__\x93" + arguments + b"R",
        "identity of a storage": b"("
        + encode("storage", [])
        + call
        + encode("0", [])
        + encode("cpu", [])
        + encode(1, [])
        + b"tQ",
        "setstate": b"ctorch_files\nActing\n)\x81" + name + b"b",
        "set": b"\x8f(" + b"cbuiltins\nexec\n(" + code + b"tR" + b"\x90",
        "frozen set": b"(" + b"cbuiltins\nexec\n(" + code + b"tR" + b"\x91",
    }


class Careless(pickle.Unpickler):
    """Python's reader, with any storage."""

    def persistent_load(self, identity):
        return identity


@pytest.mark.parametrize("kind", hostile("canary"))
def test_no_code_in_a_pickle_is_run(kind, tmp_path):
    """Checks that Python's own reader runs the code, so that the file is hostile, and that ours refuses it."""
    canary = tmp_path / "canary"
    data = (b"\x80\x04" if "dots" in kind else BEGIN) + hostile(str(canary))[kind] + END
    for code, names in EXTENSIONS.items():
        copyreg.add_extension(*names, code)
    try:
        made = Careless(io.BytesIO(data)).load()
        made.wait() if hasattr(made, "wait") else None
    except (TypeError, AttributeError, ValueError):
        pass  # the code has run before
    finally:
        for code, names in EXTENSIONS.items():
            copyreg.remove_extension(*names, code)
    assert canary.exists()
    canary.unlink()
    with pytest.raises(ValueError, match=f"{tmp_path}/model.pt .*(save only its state_dict|download it again)"):
        TorchFile(write_archive(tmp_path / "model.pt", data))
    assert not canary.exists()


def test_a_name_that_is_allowed_elsewhere_is_not_called(tmp_path):
    """Checks the names that tensors need, in places where tensors do not have them."""
    array = tensor("Float", 0, 2, 0, (2,), (1,))
    for name, data in {
        "a tensor as a function": array + b")R",
        "a dtype as a function": b"ctorch\nfloat32\n)R",
        "a dict of no pairs": b"ccollections\nOrderedDict\n(](K\x01etR",
        "a size of strings": b"ctorch\nSize\n((" + encode("a", []) + b"ttR",
        "a size of a dict": b"ctorch\nSize\n(}tR",
        "a tensor of no storage": b"ctorch._utils\n_rebuild_tensor_v2\n(K\x00K\x00))\x89}tR",
        "a storage of no type": b"(" + encode("storage", []) + b"ctorch\nSize\n" + encode("0", []) * 2 + b"K\x01tQ",
        "items for a tuple": b")" + b"K\x01a",
        "an unknown value of the memo": b"h\x07",
        "a mark alone": b"(",
        "nothing": b"",
        "no end": b"}" + b"K",
    }.items():
        with pytest.raises(ValueError, match="model.pt"):
            TorchFile(write_archive(tmp_path / "model.pt", BEGIN + data + END, [b"12345678"]))
            pytest.fail(name)


def test_a_tensor_stays_inside_of_its_bytes(tmp_path):
    make = lambda *view, stored=b"x" * 24: write_archive(
        tmp_path / "a.pt", BEGIN + b"}(" + encode("w", []) + tensor("Float", 0, *view) + b"u" + END, [stored]
    )
    assert TorchFile(make(6, 1, (2, 2), (3, 1))).read("w").shape == (2, 2)
    assert TorchFile(make(6, 9, (0, 2), (3, 1))).read("w").shape == (0, 2)
    for view in ((6, 3, (2, 2), (3, 1)), (6, 0, (7,), (1,)), (9, 0, (6,), (1,)), (2**40, 0, (6,), (1,))):
        with pytest.raises(ValueError, match="w .* reaches beyond its bytes: download it again"):
            TorchFile(make(*view))
    with pytest.raises(ValueError, match="w .* repeats 6 stored values: save a contiguous copy"):
        TorchFile(make(6, 0, (2**40,), (0,)))
    for view in ((6, -1, (2,), (1,)), (6, 5, (2,), (-1,)), (6, 0, (2,), (1, 1)), (6, 0, (1,) * 40, (1,) * 40)):
        with pytest.raises(ValueError, match="is damaged"):
            TorchFile(make(*view))


# --- archives -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../../outside.pt", "/outside.pt", "archive/../../outside", "archive\\outside", "archive/data.pkl"]
)
def test_an_archive_writes_nothing_outside(name, tmp_path):
    (tmp_path / "inner").mkdir()
    with pytest.warns() if name == "archive/data.pkl" else pytest.MonkeyPatch.context():
        file = write(tmp_path / "inner" / "a.pt", {"a": np.zeros(2, np.float32)}, entries={name: b"here"})
    with pytest.raises(ValueError, match="a.pt holds an entry .* which torch.save does not write"):
        TorchFile(file)
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "a.pt"]


def test_other_archives(tmp_path):
    file = tmp_path / "a.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "a zip of something else")
    with pytest.raises(ValueError, match="a.pt is a zip archive, but not one that torch.save writes"):
        TorchFile(file)
    write(file, {}, entries={"archive/code/model.py": b"import os"})
    with pytest.raises(ValueError, match="a.pt is a TorchScript archive, which holds code"):
        TorchFile(file)
    whole = write(file, {"a": np.zeros(100, np.float32)}).read_bytes()
    for length in (len(whole) - 1, len(whole) - 30, len(whole) // 2, 10):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="a.pt is cut off.*: download it again"):
            TorchFile(file)
    for place in range(30, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            TorchFile(file).read("a")  # a changed value is not found: archives of PyTorch are read without their sums
        except ValueError as error:
            assert "a.pt" in str(error)
        except KeyError:
            pass  # a changed name


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_bombs_take_little_memory_and_time(tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "hostile_files.py"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 17
    for name, (seconds, message) in found.items():
        assert message.startswith(str(tmp_path)) and seconds < 20, (name, seconds, message)
