# SPDX-License-Identifier: Apache-2.0
"""Writes tests/reference/fixtures/texts.parquet: columns of texts, numbers and lists in three row groups.

    pip install pyarrow && python3 tests/reference/parquet_texts.py
"""
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

TEXTS = ["first", "zwei\nZeilen, naïve", "", "你好 😀", "first", "x" * 300, "last"]
table = pa.table({
    "number": pa.array(range(7), pa.int64()),
    "text": pa.array(TEXTS, pa.string()),
    "note": pa.array(["a", "b", "c", "d", None, "f", "g"], pa.string()),
    "tags": pa.array([["a"], [], ["b", "c"], [], [], [], []], pa.list_(pa.string())),
    "inside": pa.array([{"text": text + "!"} for text in TEXTS]),
})
out = pathlib.Path(__file__).parent / "fixtures" / "texts.parquet"
pq.write_table(table, out, row_group_size=3, compression="none", store_schema=False)
