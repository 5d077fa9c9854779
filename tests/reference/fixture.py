# SPDX-License-Identifier: Apache-2.0
"""Writes fixtures that tests/support/fixture.h reads.

    write_fixture("rms_norm.txt", {"x": x, "loss": loss})

Values are torch tensors, numpy arrays, nested lists or numbers. File: tests/reference/fixtures/.
"""
import pathlib

import numpy

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


def write_fixture(file, entries):
    FIXTURES.mkdir(exist_ok=True)
    with open(FIXTURES / file, "w") as out:
        for name, value in entries.items():
            if any(c.isspace() for c in name):
                raise ValueError(f"entry name {name!r} contains white space")
            if hasattr(value, "detach"):
                value = value.detach().cpu().numpy()
            array = numpy.asarray(value, dtype=numpy.float64)
            print(" ".join([name, *map(str, array.shape)]), file=out)
            print(" ".join(f"{number:.17g}" for number in array.flatten()), file=out)
