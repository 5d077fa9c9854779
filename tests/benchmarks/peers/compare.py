#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the same model in polymoe and in PyTorch, in turns, and prints how their speeds compare.

  tests/benchmarks/peers/compare.py                          # all models, all variants
  tests/benchmarks/peers/compare.py --models moe --pairs 7
  tests/benchmarks/peers/compare.py --python ~/torch/bin/python

A pair is one run of polymoe (`polymoe bench --filter step`: random tokens, median of its steps)
followed by one of each PyTorch variant (torch_step.py). Every run is a process of its own with the same
number of threads, in f32. Of the pairs' ratios the median and the range are printed. A compiled or
grouped variant that cannot run is reported with its reason, not left out.

Without --python, a virtual environment with torch and transformers is made in
build/peers-python.
"""
import argparse
import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = pathlib.Path(__file__).resolve().parent

# The configuration, and what torch_step.py makes of it. PyTorch's feed-forwards are SwiGLU of 2/3 the
# width: three matrices instead of two, the same number of parameters.
MODELS = {
    "moe": ("bench-moe.ini", ["eager", "compile", "grouped"]),
    "small-experts": ("bench-small-experts.ini", ["eager", "compile", "grouped"]),
    "dense": ("bench-dense.ini", ["eager", "compile"]),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--variants", nargs="+", choices=["eager", "compile", "grouped", "batched"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a PyTorch run")
    parser.add_argument("--python", help="an interpreter with torch and transformers")
    parser.add_argument("--polymoe", default=str(ROOT / "build/release/polymoe"))
    parser.add_argument("--json", help="writes all figures there as well")
    args = parser.parse_args()
    if args.pairs < 1 or args.threads < 1 or args.steps < 1:
        parser.error("--pairs, --threads and --steps must be at least 1")
    return args


def peers_python():
    """The interpreter of a virtual environment with the peers, made on first use."""
    folder = ROOT / "build/peers-python"
    python = folder / "bin/python"
    ready = folder / "ready"
    if not ready.exists():
        print(f"installing torch and transformers into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "torch", "transformers"], check=True)
        ready.touch()
    return str(python)


def read_ini(path):
    values, section = {}, ""
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line:
            key, value = (part.strip() for part in line.split("=", 1))
            values[f"{section}.{key}"] = value
    return values


def torch_arguments(values, model):
    """The sizes of a configuration as options of torch_step.py."""
    def of(key, otherwise=None):
        return values[key] if otherwise is None else values.get(key, otherwise)

    hidden = int(of("model.hidden"))
    # ModelConfig::dense_width for three matrices: 8/3 hidden rounded up to 128.
    width = -(-8 * hidden // 3 // 128) * 128
    if model != "dense":
        width = int(of("moe.expert_ffn")) * 2 // 3
    options = {"layers": of("model.layers"), "hidden": hidden, "heads": of("model.heads"),
               "vocab": of("model.vocab"), "context": of("model.context"), "ffn": width,
               "batch": of("train.global_batch"), "experts": of("moe.experts", "1"),
               "top-k": of("moe.top_k", "1")}
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def environment(threads):
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


def measured(command, threads):
    """Runs to the end. Returns output and peak memory in bytes, or raises with the last error line."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment(threads))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            lines = [line for line in err.read().splitlines() if line.strip()]
            raise RuntimeError(lines[-1] if lines else f"exit code {process.returncode}")
        return out.read(), usage.ru_maxrss * 1024


def run_polymoe(args, config):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "bench.json"
        command = [args.polymoe, "bench", "--config", str(config), "--filter", "step", "--json",
                   str(path), "--run.device=cpu", f"--run.threads={args.threads}"]
        measured(command, args.threads)
        report = json.loads(path.read_text())
    # Of the steps; later the process has the buffers of the machine's rates as well.
    return {"tokens_per_second": report["step"]["tokens_per_second"],
            "peak_bytes": report["step"]["peak_bytes"],
            "parameters": report["parameters"],
            "share_of_product_rate": report["results"][-1]["share_of_ceiling"],
            "revision": report["git_revision"],
            "command": shlex.join(command)}


def run_torch(args, python, model, variant, sizes):
    command = [python, str(HERE / "torch_step.py"), "--model", "dense" if model == "dense" else "moe",
               "--variant", variant, "--threads", str(args.threads), "--steps", str(args.steps), *sizes]
    output, _ = measured(command, args.threads)
    return {**json.loads(output.splitlines()[-1]), "command": shlex.join(command)}


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def median_and_range(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def compare(args, python, model):
    file, variants = MODELS[model]
    variants = [v for v in args.variants or variants if model != "dense" or v in variants]
    config = ROOT / "launch/configs" / file
    sizes = torch_arguments(read_ini(config), model)
    ours, theirs, failures = [], {v: [] for v in variants}, {}
    loads = []
    for pair in range(args.pairs):
        loads.append(os.getloadavg()[0])
        ours.append(run_polymoe(args, config))
        print(f"{model} pair {pair + 1}: polymoe {ours[-1]['tokens_per_second']:.0f} tokens/s",
              end="", flush=True)
        for variant in variants:
            if variant in failures:
                continue
            try:
                theirs[variant].append(run_torch(args, python, model, variant, sizes))
                print(f", {variant} {theirs[variant][-1]['tokens_per_second']:.0f}", end="", flush=True)
            except RuntimeError as error:
                failures[variant] = str(error)
        print(flush=True)
    summary = {"model": model, "polymoe": ours, "torch": theirs, "failures": failures, "load": loads}
    print(f"\n{model} ({file}), {args.threads} threads, f32, {args.pairs} pairs, "
          f"load before each pair {min(loads):.1f} to {max(loads):.1f}")
    rates = [run["tokens_per_second"] for run in ours]
    shares = [100 * run["share_of_product_rate"] for run in ours]
    print(f"  polymoe          {statistics.median(rates):8.0f} tokens/s, "
          f"{statistics.median(shares):.0f} % of the product rate, "
          f"peak {statistics.median(run['peak_bytes'] for run in ours) / 2**20:.0f} MiB "
          f"({ours[0]['parameters']} parameters)")
    for variant in variants:
        runs = theirs[variant]
        if variant in failures:
            print(f"  torch {variant:10} did not run: {failures[variant]}")
            continue
        speed = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(ours, runs)]
        memory = [a["peak_bytes"] / b["peak_bytes"] for a, b in zip(ours, runs)]
        print(f"  torch {variant:10} {statistics.median(r['tokens_per_second'] for r in runs):8.0f} "
              f"tokens/s; polymoe is {median_and_range(speed)} times as fast, "
              f"with {median_and_range(memory)} of its memory "
              f"({runs[0]['parameters']} parameters)")
    print(f"  {ours[0]['command']}")
    for variant in variants:
        if theirs[variant]:
            print(f"  {theirs[variant][0]['command']}")
    print()
    return summary


def main():
    args = arguments()
    python = args.python or peers_python()
    version = subprocess.run(
        [python, "-c", "import torch, transformers; print(torch.__version__, transformers.__version__)"],
        check=True, capture_output=True, text=True).stdout.split()
    ours = subprocess.run([args.polymoe, "--version"], check=True, capture_output=True, text=True).stdout
    print(f"{processor()}; {platform.system()} {platform.release()}")
    print(f"torch {version[0]}, transformers {version[1]}")
    print(f"{ours.strip()}\n{shlex.join([sys.executable, *sys.argv])}\n", flush=True)
    summaries = [compare(args, python, model) for model in args.models]
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(
            {"processor": processor(), "torch": version[0], "transformers": version[1],
             "polymoe": ours.splitlines(), "models": summaries}, indent=1) + "\n")


if __name__ == "__main__":
    main()
