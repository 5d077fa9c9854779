#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Token files in every form that polymoe reads, byte by byte from the formats' descriptions.

Writes fixtures/token_files/*; tests/runtime/files/token_file_test.cpp knows the formula of the tokens.
"""
import pathlib
import struct

here = pathlib.Path(__file__).parent / "fixtures" / "token_files"
here.mkdir(parents=True, exist_ok=True)


def token(i, modulus):
    return (i * i * 37 + i * 11 + 5) % modulus


documents = [7, 0, 12, 1, 30]  # tokens each
count = sum(documents)


def megatron(name, code, letter, modulus, split):
    """`split` cuts each document into two sequences, as sentence-level Megatron files have it."""
    width = struct.calcsize("<" + letter)
    (here / f"{name}.bin").write_bytes(
        b"".join(struct.pack("<" + letter, token(i, modulus)) for i in range(count)))
    lengths, boundaries = [], [0]
    for tokens in documents:
        lengths += [tokens // 3, tokens - tokens // 3] if split else [tokens]
        boundaries.append(len(lengths))
    offsets = [width * sum(lengths[:i]) for i in range(len(lengths))]
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(lengths), len(boundaries))
    index += struct.pack(f"<{len(lengths)}i", *lengths)
    index += struct.pack(f"<{len(offsets)}q", *offsets)
    index += struct.pack(f"<{len(boundaries)}q", *boundaries)
    (here / f"{name}.idx").write_bytes(index)


megatron("megatron_u16", 8, "H", 50000, split=False)
megatron("megatron_i32", 4, "i", 100000, split=True)
megatron("megatron_i64", 5, "q", 100000, split=False)
megatron("megatron_u8", 1, "B", 256, split=False)

for name, letter, magic, version, modulus in [("llmc_u16", "H", 20240520, 1, 50000),
                                              ("llmc_u32", "I", 20240801, 7, 100000)]:
    header = struct.pack("<256i", magic, version, count, *([0] * 253))
    body = b"".join(struct.pack("<" + letter, token(i, modulus)) for i in range(count))
    (here / f"{name}.bin").write_bytes(header + body)

for name, letter, modulus in [("raw_u16", "H", 50000), ("raw_u32", "I", 100000)]:
    (here / f"{name}.npy").write_bytes(
        b"".join(struct.pack("<" + letter, token(i, modulus)) for i in range(count)))
