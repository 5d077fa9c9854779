# SPDX-License-Identifier: Apache-2.0
"""Says what the golden checkpoints hold, read by h5py and the manifest alone.

    python3 tests/reference/checkpoint_values.py

reads every fixtures/checkpoint-vN and writes fixtures/checkpoint-vN.json: per tensor its shape, the
exactly rounded sums of its values and of their squares, its first and its last value. From version 2
on the same values must be seen through view.h5. A golden checkpoint is made once, by the program as it
was when that version was the newest: two ranks with expert parallelism 2, the configuration that its
manifest holds, two steps; version 3 by `checkpoint convert --dtype bf16` from version 2. It is never
made again.
"""

import json
import math
from pathlib import Path

import h5py
import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"


def stored(directory, manifest):
    """(name, array) of every tensor, put together from the pieces."""
    shards = [h5py.File(directory / file["name"], "r") for file in manifest["files"]]
    for tensor in manifest["tensors"]:
        pieces = [shards[piece["file"]][piece["dataset"]][:] for piece in tensor["pieces"]]
        yield tensor["name"], np.concatenate(pieces).reshape(tensor["shape"])


def view_path(name):
    return "/" + name.removeprefix("parameter/").replace(".", "/")


def describe(directory):
    manifest = json.loads((directory / "manifest.json").read_text())
    view = h5py.File(directory / "view.h5", "r") if "view" in manifest else None
    tensors = {}
    for name, values in stored(directory, manifest):
        if view is not None:
            seen = view[view_path(name)]
            assert seen.shape == values.shape and seen.dtype == values.dtype, name
            assert seen[...].tobytes() == values.tobytes(), name
        flat = values.astype(np.float64).ravel()
        tensors[name] = {
            "shape": list(values.shape),
            "sum": math.fsum(flat),
            "sum_of_squares": math.fsum(flat * flat),
            "first": flat[0],
            "last": flat[-1],
        }
    return {"version": manifest["version"], "step": manifest["step"], "tensors": tensors}


def main():
    for directory in sorted(FIXTURES.glob("checkpoint-v*")):
        if directory.is_dir():
            path = directory.with_suffix(".json")
            path.write_text(json.dumps(describe(directory)) + "\n")
            print(path)


if __name__ == "__main__":
    main()
