"""Writes files that would take much memory or time, and opens them in a process with little memory.

    python tests/hostile_files.py FOLDER

Prints a JSON object: for each file, the seconds and the error message.
"""

import json
import resource
import sys
import time
import zipfile
from pathlib import Path

from torch_files import BEGIN, END, encode, tensor, write_archive

from jvflow.pretrained.readers import open_file, read_json

MORE_MEMORY = 600 * 2**20
"""Bytes that the process may take in addition to what it has before it opens a file."""


def pickles() -> dict[str, bytes]:
    """Returns short pickles that stand for very many values, and long ones."""
    array = tensor("Float", 0, 2, 0, (2,), (1,))

    def nested(depth: int, width: int) -> bytes:
        data = b"}(" + encode("a", []) + array + b"uq\x00"
        for _ in range(depth):
            data += b"}(" + b"".join(encode(str(i), []) + b"h\x00" for i in range(width)) + b"uq\x00"
        return data

    long_key = encode("k" * 2**20, []) + b"q\x01"
    return {
        "each dict holds the one before it ten times": nested(10, 10),
        "many dicts inside one another": nested(2000, 1),
        "a list that holds itself": b"]q\x00(" + b"h\x00" * 3 + b"e",
        "long names": long_key + b"}q\x00(" + (b"h\x01" + array) * 100 + b"u}(" + encode("b", []) + b"h\x00u",
        "one long size many times": b"(" + b"K\x01" * 50000 + b"tq\x00(" + b"ctorch\nSize\n(h\x00tR" * 1000 + b"t",
        "one long list many times": b"](" + b"N" * 100000 + b"eq\x00(" + b"h\x00" * 100000 + b"t",
        "many instructions": b"N" * 2000000,
        "a long number": b"L" + b"9" * 2**22 + b"L\n",
        "a long pickle": b"N" * 2**26,
    }


def write_all(folder: Path) -> dict[str, Path]:
    """Writes the files into a folder; returns them by what is wrong with them."""
    files = {}
    for number, (name, data) in enumerate(pickles().items()):
        files[name] = write_archive(folder / f"{number}.pt", BEGIN + data + END, [b"12345678"])
    files["a pickle that is compressed much"] = folder / "deflated.pt"
    with zipfile.ZipFile(folder / "deflated.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**27))
    entry, count = b"PK\x01\x02" + bytes(42), 400_000
    sizes = (len(entry) * count).to_bytes(4, "little") + (30).to_bytes(4, "little")
    texts = {
        "many entries.pt": b"PK\x03\x04" + bytes(26) + entry * count + b"PK\x05\x06" + bytes(4) + b"\xff" * 4 + sizes,
        "long header.safetensors": (2**27).to_bytes(8, "little") + b"{" + b" " * 2**27,
        "claimed header.safetensors": (2**62).to_bytes(8, "little") + b"{}",
        "deep header.safetensors": (200_000).to_bytes(8, "little") + b'{"a":' + b"[" * 199_995,
        "deep.json": b'{"a":' * 100_000,
        "long.json": b"[" + b"{}," * 2**22 + b"{}]",
        "number.json": b'{"a": ' + b"9" * 100_000 + b"}",
    }
    texts["many entries.pt"] += bytes(2)
    for name, text in texts.items():
        files[name] = folder / name
        files[name].write_bytes(text)
    return files


def main(folder: Path) -> None:
    files, found = write_all(folder), {}
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MORE_MEMORY,) * 2)
    for name, file in files.items():
        begin, message = time.perf_counter(), "no error"
        try:
            (read_json if file.suffix == ".json" else open_file)(file)
        except ValueError as error:
            message = str(error)
        except MemoryError:
            message = "memory"
        found[name] = [time.perf_counter() - begin, message]
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
