# SPDX-License-Identifier: Apache-2.0
"""The objects of files of JSON lines, plain or packed, and of Parquet, read front to back in parts."""
import json
import lzma
import os
import sys
import zlib

from refusal import Refusal

CHUNK = 1 << 16
LONGEST_LINE = 1 << 30
COLUMNS = ("messages", "prompt", "completion", "tools", "documents")
ROWS = 64  # of Parquet at a time


def zstd_decompressor():
    try:
        from compression.zstd import ZstdDecompressor
        return ZstdDecompressor()
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError:
        raise Refusal(f"zstandard is missing for {sys.executable}: apt-get install "
                      "python3-zstandard, or pip install zstandard", 64) from None
    return zstandard.ZstdDecompressor().decompressobj()


PACKED = [(b"\x1f\x8b", "gzip", lambda: zlib.decompressobj(wbits=31)),
          (b"\x28\xb5\x2f\xfd", "zstd", zstd_decompressor),
          (b"\xfd7zXZ\x00", "xz", lzma.LZMADecompressor)]


def unpacked(stream, name):
    """The content in chunks, by its first bytes."""
    front = stream.read(CHUNK)
    chunks = iter(lambda: stream.read(CHUNK), b"")
    if front.startswith(b"PAR1"):
        raise Refusal(f"{name}: is a Parquet file, which must be given by its name")
    for magic, form, make in PACKED:
        if front.startswith(magic):
            break
    else:
        yield front
        yield from chunks
        return
    unpacker = make()
    data = front
    try:
        while True:
            if unpacker.eof:  # another member follows, or zeros that pad a file
                data = unpacker.unused_data or next(chunks, b"")
                data = data.lstrip(b"\0")
                if data:
                    unpacker = make()
            elif not data:
                data = next(chunks, b"")
                if not data:
                    raise Refusal(f"{name}: ends within its packed data ({form})")
            if not data:
                return
            yield unpacker.decompress(data)
            data = b""
    except (zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise Refusal(f"{name}: is damaged as {form}: {error}") from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise Refusal(f"{name}: is damaged as {form}: {error}") from None
        raise


def lines(chunks, name):
    """(number, text) of each line that is not blank."""
    number, pending, size = 0, [], 0

    def text(parts):
        line = b"".join(parts)
        if number == 1 and line.startswith(b"\xef\xbb\xbf"):
            line = line[3:]
        try:
            return line.decode().strip()
        except UnicodeDecodeError as error:
            raise Refusal(f"{name} line {number}: byte {error.start} is no UTF-8 "
                          f"(0x{line[error.start]:02x})") from None

    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            number += 1
            if line := text([*pending, part]):
                yield number, line
            pending, size = [], 0
        pending.append(rest)
        size += len(rest)
        if size > LONGEST_LINE:
            raise Refusal(f"{name} line {number + 1} has over 1 GiB")
    number += 1
    if line := text(pending):
        yield number, line


def rows(path):
    """(where, object) of each row of a Parquet file."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise Refusal(f"{path}: is a Parquet file, and pyarrow is missing for {sys.executable}: pip "
                      "install pyarrow, or write it as lines of JSON", 64) from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK) as file:
            columns = [name for name in file.schema_arrow.names if name in COLUMNS]
            for batch in file.iter_batches(ROWS, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", {key: value for key, value in record.items()
                                                   if value is not None}
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{path}: behind row {number}: cannot be read as Parquet: {error}") from None


def is_parquet(path):
    if not os.path.isfile(path):  # what is read from a pipe is gone
        return False
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


def records(path):
    """(where, object) of each line or row of a file."""
    name = "standard input" if path == "-" else path
    try:
        if path != "-" and is_parquet(path):
            yield from rows(path)
            return
        stream = sys.stdin.buffer if path == "-" else open(path, "rb")
        with stream:
            for number, line in lines(unpacked(stream, name), name):
                where = f"{name} line {number}"
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:  # a number of 5000 digits too
                    raise Refusal(f"{where}: is no JSON: {error}") from None
                if not isinstance(record, dict):
                    raise Refusal(f"{where}: is no JSON object")
                yield where, record
    except OSError as error:
        raise Refusal(f"{name}: {error.strerror or error}") from None
