# SPDX-License-Identifier: Apache-2.0
"""Scores and standard errors by numpy, from the log-likelihoods that transformers found:

python3 tests/reference/task_errors.py
    reads fixtures/tasks/ (see score_tasks.py), writes fixtures/tasks/errors.json: of each task and
    of their mean every score and its error, and holds each error to that of a bootstrap over items.
"""
import json
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "fixtures" / "tasks"
TASKS = ("quiz", "lines")


def items(task):
    """Choices and the right one of each item."""
    found = {}
    for number, line in enumerate(open(FOLDER / f"{task}.jsonl", encoding="utf-8")):
        row = json.loads(line)
        if "request" in row:
            choices, _ = found.setdefault(row["doc_id"], ({}, row["label"]))
            choices[row["idx"]] = row["request"]["continuation"]
        else:
            found[number] = (dict(enumerate(row["choices"])), row["gold"])
    return [([choices[i] for i in sorted(choices)], gold) for _, (choices, gold) in sorted(found.items())]


def columns(task):
    """An array of a value per item for each score; of bits per byte two: bits, and bytes."""
    said = [json.loads(line) for line in open(FOLDER / "scores.jsonl")]
    said = [np.array(row["log_likelihoods"]) for row in said if row["task"] == task]
    right = {"acc": [], "acc_per_char": [], "acc_per_byte": []}
    bits, size = [], []
    for (choices, gold), likelihoods in zip(items(task), said, strict=True):
        lengths = {"acc": np.ones(len(choices)),
                   "acc_per_char": np.array([len(choice) for choice in choices]),
                   "acc_per_byte": np.array([len(choice.encode()) for choice in choices])}
        for name, length in lengths.items():
            right[name].append(np.argmax(likelihoods / length) == gold)
        bits.append(-likelihoods[gold] / np.log(2))
        size.append(len(choices[gold].encode()))
    return {name: np.array(values, float) for name, values in right.items()}, np.array(bits), np.array(size)


def main():
    draw = np.random.default_rng(3)
    result, resampled = {}, {}
    for task in TASKS:
        shares, bits, size = columns(task)
        n = len(bits)
        scores = {name: (values.mean(), values.std() / np.sqrt(n)) for name, values in shares.items()}
        ratio = bits.sum() / size.sum()
        scores["bits_per_byte"] = (ratio, np.std(bits - ratio * size, ddof=1) / np.sqrt(n) / size.mean())
        picks = draw.integers(0, n, (20000, n))
        again = {name: values[picks].mean(1) for name, values in shares.items()}
        again["bits_per_byte"] = bits[picks].sum(1) / size[picks].sum(1)
        resampled[task] = again
        result[task] = scores
    names = result[TASKS[0]]
    result["macro"] = {name: (np.mean([result[task][name][0] for task in TASKS]),
                              np.sqrt(sum(result[task][name][1] ** 2 for task in TASKS)) / len(TASKS))
                       for name in names}
    resampled["macro"] = {name: np.mean([resampled[task][name] for task in TASKS], 0) for name in names}
    for task, scores in result.items():
        for name, (value, error) in scores.items():
            bootstrap = resampled[task][name].std()
            print(f"{task:6} {name:14} {value:.4f} +- {error:.4f}, by bootstrap {bootstrap:.4f}")
            assert abs(bootstrap / error - 1) < 0.08, (task, name)
    (FOLDER / "errors.json").write_text(json.dumps(result) + "\n")


main()
