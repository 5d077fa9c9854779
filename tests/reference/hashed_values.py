# SPDX-License-Identifier: Apache-2.0
"""Pseudo-random values that tests/support/hashed_values.h forms bit for bit the same, so that
fixtures need not hold inputs and parameters."""
import numpy
import torch


def hash_of(text):
    """FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


def uniform(name, count):
    """`count` values in [0, 1): splitmix64 of hash(name) + index, 53 bits."""
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(hash_of(name)) + numpy.arange(count, dtype=numpy.uint64)
        z += numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z ^= z >> numpy.uint64(31)
    return (z >> numpy.uint64(11)).astype(numpy.float64) * 2.0**-53


def real(name, shape, center=0.0, spread=1.0):
    """Uniform in [center - spread, center + spread), f64, requiring gradients."""
    count = int(numpy.prod(shape))
    values = center + spread * (2.0 * uniform(name, count) - 1.0)
    return torch.tensor(values.reshape(shape), dtype=torch.float64, requires_grad=True)


def integers(name, count, limit):
    """Uniform in [0, limit)."""
    return torch.tensor(numpy.floor(uniform(name, count) * limit).astype(numpy.int64))


def parameter(name, shape):
    """A model's parameter under its name, at a magnitude that a trained model has."""
    if name.endswith("norm.weight"):
        return real(name, shape, 1.0, 0.3)
    if name.endswith("coefficients"):
        return real(name, shape, 0.3, 0.25)
    if name.endswith("embedding.weight"):
        return real(name, shape, 0.0, 1.5)
    return real(name, shape, 0.0, 1.7 / numpy.sqrt(shape[-1]))
