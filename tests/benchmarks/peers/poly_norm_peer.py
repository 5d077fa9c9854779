#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times PolyNorm in PyTorch, eager and compiled, and polymoe's kernel, in turns.

  tests/benchmarks/peers/poly_norm_peer.py [--python PATH] [--pairs 5] [--rows 16384 --width 1536]

  y = a_0 + sum_{p=1..3} a_p n(x^p),  n(u) = u / sqrt(mean(u^2) + 1e-6) over the row

written as the paper's program computes it: a norm of each power, then the weighted sum (Zhuo et al.,
ICLR 2025, arXiv:2411.03884). polymoe's side is build/release/tests/benchmarks/poly_norm_benchmark. A
pair is one run of each, every run a process of its own, f32, equal numbers of threads. Prints medians,
ratios with their range, and the share of the copy bandwidth that polymoe's kernel reaches.
"""
import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import time

import compare

ROOT = pathlib.Path(__file__).resolve().parents[3]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in [("pairs", 5), ("threads", 2), ("rows", 16384), ("width", 1536),
                          ("runs", 15)]:
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--python", help="an interpreter with torch")
    parser.add_argument("--benchmark",
                        default=str(ROOT / "build/release/tests/benchmarks/poly_norm_benchmark"))
    parser.add_argument("--worker", choices=["eager", "compile"], help=argparse.SUPPRESS)
    return parser.parse_args()


def worker(args):
    """Runs in the interpreter with torch: prints seconds of forward, and of forward and backward."""
    import torch

    torch.set_num_threads(args.threads)

    def normed(u):
        return u * torch.rsqrt(u.pow(2).mean(-1, keepdim=True) + 1e-6)

    def poly_norm(x, weight, bias):
        return weight[0] * normed(x ** 3) + weight[1] * normed(x ** 2) + weight[2] * normed(x) + bias

    function = torch.compile(poly_norm) if args.worker == "compile" else poly_norm
    x = torch.randn(args.rows, args.width, requires_grad=True)
    weight = torch.full((3,), 1.0 / 3.0, requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    d_y = torch.randn(args.rows, args.width)

    def forward():
        with torch.no_grad():
            function(x, weight, bias)

    def both():
        function(x, weight, bias).backward(d_y)
        x.grad = weight.grad = bias.grad = None

    result = {"torch": torch.__version__}
    for name, body in [("forward", forward), ("both", both)]:
        for _ in range(3):
            body()
        seconds = []
        for _ in range(args.runs):
            start = time.perf_counter()
            body()
            seconds.append(time.perf_counter() - start)
        result[name] = statistics.median(seconds)
    print(json.dumps(result))


def run_peer(args, python, variant):
    command = [python, __file__, "--worker", variant]
    for name in ("threads", "rows", "width", "runs"):
        command += ["--" + name, str(getattr(args, name))]
    output, _ = compare.measured(command, args.threads)
    return {**json.loads(output.splitlines()[-1]), "command": shlex.join(command)}


def run_ours(args):
    """Medians of Google Benchmark's repetitions; shares are of the copy bandwidth of the same run."""
    command = [args.benchmark,
               f"--benchmark_filter=/rows:{args.rows}/width:{args.width}/order:3/",
               "--benchmark_format=json", "--benchmark_repetitions=5", "--benchmark_min_time=0.2"]
    output, _ = compare.measured(command, args.threads)
    result = {"command": shlex.join(command)}
    bandwidths = {}
    for entry in json.loads(output)["benchmarks"]:
        if entry.get("aggregate_name") != "median":
            continue
        direction = "forward" if "forward" in entry["run_name"] else "backward"
        scale = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}[entry["time_unit"]]
        result[direction] = entry["real_time"] * scale
        bandwidths[direction] = entry["bytes/s"] / entry["of_copy"]
    if "forward" not in result or "backward" not in result:
        raise RuntimeError(f"no benchmark of {args.rows} x {args.width}: {result['command']}")
    tensor = 4.0 * args.rows * args.width
    result["both"] = result["forward"] + result["backward"]
    result["forward_share"] = 2.0 * tensor / result["forward"] / bandwidths["forward"]
    result["both_share"] = 5.0 * tensor / result["both"] / bandwidths["backward"]
    return result


def main():
    args = arguments()
    if args.worker:
        worker(args)
        return
    python = args.python or compare.peers_python()
    ours, theirs, loads = [], {"eager": [], "compile": []}, []
    for pair in range(args.pairs):
        loads.append(os.getloadavg()[0])
        ours.append(run_ours(args))
        for variant in theirs:
            theirs[variant].append(run_peer(args, python, variant))
        print(f"pair {pair + 1} of {args.pairs}", flush=True)
    revision = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
                              capture_output=True, text=True).stdout.strip()
    print(f"\n{compare.processor()}; torch {theirs['eager'][0]['torch']}; polymoe {revision}")
    print(f"{args.rows} x {args.width}, f32, {args.threads} threads, {args.pairs} pairs, "
          f"load before each pair {min(loads):.1f} to {max(loads):.1f}")
    for name, label in [("forward", "forward"), ("both", "forward + backward")]:
        share = compare.median_and_range([100 * run[name + "_share"] for run in ours])
        print(f"{label}\n  polymoe        {1e3 * statistics.median(r[name] for r in ours):8.2f} ms, "
              f"{share} % of the copy bandwidth")
        for variant, runs in theirs.items():
            ratio = compare.median_and_range([b[name] / a[name] for a, b in zip(ours, runs)])
            print(f"  torch {variant:8} {1e3 * statistics.median(r[name] for r in runs):8.2f} ms; "
                  f"polymoe is {ratio} times as fast")
    print(f"{ours[0]['command']}\n{shlex.join([sys.executable, *sys.argv])}")


if __name__ == "__main__":
    main()
