# SPDX-License-Identifier: Apache-2.0
"""Writes to tests/reference/fixtures/ texts.parquet: columns of texts, numbers and lists in three row
groups, and conversations.parquet: messages, prompts and completions, with conversations.jsonl, the
same by rows.

    pip install pyarrow && python3 tests/reference/parquet_texts.py
"""
import json
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
FIXTURES = pathlib.Path(__file__).parent / "fixtures"
pq.write_table(table, FIXTURES / "texts.parquet", row_group_size=3, compression="none",
               store_schema=False)


def turn(number):
    """More turns than a reader takes at a time, now and then."""
    roles = ["user", "assistant"] * (50 if number == 3 else 1 + number % 3)
    return [{"role": role, "content": f"{role} {number}.{i}, naïve\n" * (i % 4 + 1), "name": "x"}
            for i, role in enumerate(roles)]


CONVERSATIONS = [turn(number) for number in range(9)]
PARTS = pa.list_(pa.struct({"role": pa.string(), "content": pa.string(), "name": pa.string()}))
pq.write_table(pa.table({
    "id": pa.array([f"c{i}" for i in range(9)]),
    "messages": pa.array(CONVERSATIONS, PARTS),
    "prompt": pa.array([f"p{i}\n" for i in range(9)]),
    "completion": pa.array([f"c{i}" for i in range(9)]),
}), FIXTURES / "conversations.parquet", row_group_size=4, compression="none", store_schema=False)
with open(FIXTURES / "conversations.jsonl", "w", encoding="utf-8") as lines:
    for messages in CONVERSATIONS:
        plain = [{key: message[key] for key in ("role", "content")} for message in messages]
        lines.write(json.dumps({"messages": plain}, ensure_ascii=False) + "\n")

# What is refused: a turn without content, a list that is not there, and no such columns.
pq.write_table(pa.table({"messages": pa.array(
    [CONVERSATIONS[0], [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]], PARTS)}),
    FIXTURES / "conversations-null.parquet", compression="none", store_schema=False)
pq.write_table(pa.table({"prompt": pa.array(["a", None, "b"]), "completion": pa.array(["c", "d", "e"])}),
               FIXTURES / "prompts.parquet", compression="none", store_schema=False)
