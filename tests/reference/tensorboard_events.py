#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A TensorBoard event file, encoded from the description of the format with nothing but struct.

Writes fixtures/tensorboard.tfevents; the same calls are in tests/runtime/tensorboard_writer_test.cpp.
"""
import pathlib
import struct


def crc32c(data):
    """Bit by bit, as polynomial division: no table to share a mistake with."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            mix = (crc ^ (byte >> bit)) & 1
            crc = (crc >> 1) ^ (0x82F63B78 * mix)
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


def masked(data):
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def record(data):
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))


def varint(value):
    digits = []
    while True:
        digits.append(value & 127)
        value >>= 7
        if not value:
            return bytes(d | 128 for d in digits[:-1]) + bytes(digits[-1:])


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def event(wall_time, step, rest):
    head = b"\x09" + struct.pack("<d", wall_time)
    return record(head + (b"\x10" + varint(step) if step else b"") + rest)


def scalars(wall_time, step, values):
    summary = b"".join(
        field(1, field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
        for tag, value in values)
    return event(wall_time, step, field(5, summary))


start = 1700000000.25
content = event(start, 0, field(3, b"brain.Event:2"))
content += event(start, 41, field(7, b"\x08\x01"))  # SessionLog: START at step 41
content += scalars(start + 1, 41, [("train/loss", 8.375), ("train/lr", 4e-4)])
content += scalars(start + 2, 100000, [("moe/" + "x" * 200, float("inf"))])
path = pathlib.Path(__file__).parent / "fixtures" / "tensorboard.tfevents"
path.write_bytes(content)
