#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks and measures training on the GPUs of one machine, at most 8 minutes in all, and prints a table.

  tests/benchmarks/many_ranks.py                               # all GPUs, moe-7b and dense-1b
  tests/benchmarks/many_ranks.py --ranks 8 --json figures.json
  tests/benchmarks/many_ranks.py --ranks 2 --device cpu --moe tiny.ini --dense none   # a rehearsal

In this order, as far as the time goes; what is left out is named:
1. checks: the device tests of communicators and of the exchange where --tests has them, on 2, 4, ...
   ranks; losses and weights of a small model's f32 steps on 1 rank against all (`verify-layout`);
2. speed: one GPU, data parallel, expert parallel 2, 4, ..., with balanced routing, then the largest with
   the untrained router's; a dense model. Efficiency is tokens/s per GPU against one GPU of this run;
3. checkpoints: all ranks save, half of them and all of them go on, a rank is killed during a save;
4. --peer COMMAND, a shell command that ends with a line "N tokens/s", run last.

--launcher is what starts N ranks (%d). Exit codes: 0 all checks hold; 1 one does not; 64 wrong arguments.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "launch/configs"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, help="GPUs to use; default: those that nvidia-smi lists")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--moe", default=str(CONFIGS / "moe-7b.ini"))
    parser.add_argument("--dense", default=str(CONFIGS / "dense-1b.ini"), help="a file, or none")
    parser.add_argument("--sequences", type=int, default=16, help="of a step, per rank")
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--options", default="--optimizer.moment_dtype=bf16",
                        help="more keys for the measured runs")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--limit", type=float, default=110, help="seconds that a command may take")
    parser.add_argument("--polymoe", default=str(ROOT / "build/release/polymoe"))
    parser.add_argument("--tests", default=str(ROOT / "build/release/tests"))
    parser.add_argument("--launcher", default="mpirun -n %d --bind-to none")
    parser.add_argument("--peer")
    parser.add_argument("--json", help="writes all figures there")
    args = parser.parse_args()
    if args.ranks is None:
        try:
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            parser.error("no nvidia-smi here: give --ranks")
        args.ranks = len(listed.stdout.splitlines())
    if args.ranks < 2 or args.ranks & (args.ranks - 1):
        parser.error(f"--ranks {args.ranks}: must be a power of two, at least 2")
    return args


class Session:
    """Runs commands within the time that is left, and keeps what they said."""

    def __init__(self, args):
        self.args = args
        self.end = time.monotonic() + 60 * args.minutes
        self.failures, self.left_out = [], []

    def run(self, name, ranks, command, limit=None):
        """(exit code, output); None where no time is left."""
        left = self.end - time.monotonic()
        limit = limit or self.args.limit
        if left < min(limit, 20):
            self.left_out.append(name)
            return None
        start = shlex.split(self.args.launcher % ranks) if ranks > 1 else []
        began = time.monotonic()
        try:
            done = subprocess.run(start + [str(part) for part in command], text=True, errors="replace",
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  timeout=min(limit, left))
            code, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired as late:
            code, output = 124, (late.stdout or b"").decode(errors="replace")
        print(f"{time.monotonic() - began:6.1f} s  exit {code}  {name}", flush=True)
        return code, output

    def check(self, name, ranks, command, expected=(0,), limit=None):
        result = self.run(name, ranks, command, limit)
        if result and result[0] not in expected:
            self.failures.append(name)
            print("    " + "\n    ".join(result[1].splitlines()[-15:]))
        return result is not None and result[0] in expected


def sizes_up_to(ranks):
    return [1 << i for i in range(1, ranks.bit_length())]


SMALL = """[model]
layers = 2
hidden = 128
heads = 4
vocab = 512
context = 64
qk_norm = true
[moe]
experts = 16
top_k = 2
expert_ffn = 128
[train]
global_batch = 16
precision = f32
"""


def checks(session, folder):
    args = session.args
    for test in ("parallel.communication.nccl_communicator_test", "moe.token_exchange_test",
                 "moe.language_model_devices_test"):
        program = pathlib.Path(args.tests) / test
        if args.device == "cpu" or not program.is_file():
            session.left_out.append(test)
            continue
        for ranks in sizes_up_to(args.ranks) if "nccl" in test else [1]:
            session.check(f"{test} on {ranks}", ranks, [program])
    small = folder / "small.ini"
    small.write_text(SMALL)
    layouts = ",".join(["1x1"] + [f"{args.ranks}x{size}" for size in [1] + sizes_up_to(args.ranks)])
    session.check(f"layouts {layouts}", args.ranks,
                  [args.polymoe, "verify-layout", "--config", small, "--layouts", layouts, "--steps", 20,
                   f"--run.device={args.device}", "--optimizer.lr=1e-4"])


def measure(session, folder, rows):
    args = session.args

    def bench(name, config, ranks, expert, routing):
        figures = folder / "figures.json"
        figures.unlink(missing_ok=True)
        command = [args.polymoe, "bench", "--filter", "step", "--config", config, "--json", figures,
                   f"--train.global_batch={args.sequences * ranks}",
                   f"--train.micro_batch={args.micro_batch}", f"--run.device={args.device}"]
        command += shlex.split(args.options)
        if expert:
            command += [f"--parallel.expert={expert}", "--routing", routing]
        result = session.run(name, ranks, command)
        if not result:
            return
        if result[0] != 0 or not figures.is_file():
            reason = (result[1].strip().splitlines() or ["no output"])[-1]
            rows.append({"name": name, "ranks": ranks, "failed": f"exit {result[0]}: {reason}"})
            return
        report = json.loads(figures.read_text())
        rows.append({"name": name, "ranks": ranks, "config": str(config), "machine": report["machine"],
                     "step": report["step"], "revision": report["git_revision"],
                     "seconds": report["results"][0]["seconds"]})

    bench("MoE, one", args.moe, 1, 1, "balanced")
    bench(f"MoE, data parallel {args.ranks}", args.moe, args.ranks, 1, "balanced")
    for size in reversed(sizes_up_to(args.ranks)):
        bench(f"MoE, expert parallel {size}", args.moe, args.ranks, size, "balanced")
    bench(f"MoE, expert parallel {args.ranks}, untrained", args.moe, args.ranks, args.ranks, "untrained")
    if args.dense != "none":
        bench("dense, one", args.dense, 1, None, None)
        bench(f"dense, data parallel {args.ranks}", args.dense, args.ranks, None, None)


def text_of_repository(folder):
    text = folder / "text.txt"
    text.write_text("\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))))
    return text


def checkpoints(session, folder):
    args, ranks = session.args, session.args.ranks
    prefix = folder / "tokens"
    if not session.check("tokenize", 1, [args.polymoe, "tokenize", "--tokenizer", "bytes", "--input",
                                         text_of_repository(folder), "--output", prefix]):
        return
    small = folder / "small.ini"
    run = folder / "run"

    def train(count, steps, more=()):
        return [args.polymoe, "train", "--config", small, f"--data.train={prefix}.bin",
                f"--run.dir={run}", f"--train.steps={steps}", f"--parallel.expert={count}",
                f"--run.device={args.device}", *more]

    session.check(f"{ranks} ranks train and save", ranks, train(ranks, 10))
    session.check("verify", 1, [args.polymoe, "checkpoint", "verify", run])
    if ranks > 2:
        session.check(f"{ranks // 2} ranks go on", ranks // 2, train(ranks // 2, 20))
    session.check(f"{ranks} ranks go on", ranks, train(ranks, 30))
    kill_in_save(session, train(ranks, 1000000, ["--checkpoint.every=2"]), run)
    session.check("after a kill: verify", 1, [args.polymoe, "checkpoint", "verify", run])
    newest = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*[0-9]"))
    session.check("after a kill: go on", ranks, train(ranks, newest + 5))


def kill_in_save(session, command, run):
    """SIGKILL to the last rank while a checkpoint is incomplete: all ranks end, and none succeeds."""
    if session.end - time.monotonic() < 60:
        session.left_out.append("a rank killed in a save")
        return
    start = shlex.split(session.args.launcher % session.args.ranks)
    job = subprocess.Popen(start + [str(part) for part in command], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 45
    killed = False
    while not killed and time.monotonic() < deadline and job.poll() is None:
        if any((run / "checkpoints").glob("step-*.partial")):
            ranks = [int(entry.name) for entry in pathlib.Path("/proc").glob("[0-9]*")
                     if is_rank(entry, job.pid, run)]
            if ranks:
                os.kill(max(ranks), signal.SIGKILL)
                killed = True
    try:
        code = job.wait(timeout=45)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        code = None
    print(f"          exit {code}  a rank killed in a save")
    if not killed or code in (None, 0):
        session.failures.append("a rank killed in a save")


def is_rank(entry, session_id, run):
    try:
        arguments = (entry / "cmdline").read_bytes().split(b"\0")
        return (os.getsid(int(entry.name)) == session_id and b"train" in arguments[1:2]
                and f"--run.dir={run}".encode() in arguments)
    except OSError:
        return False


def print_table(rows):
    singles = {row["name"].split(",")[0]: row for row in rows if row["ranks"] == 1 and "step" in row}
    print("\n| run | tokens/s a GPU | of one GPU | exchange exposed | row moves | reduction | memory GiB"
          " | exchange, of its floor |\n|---|---|---|---|---|---|---|---|")
    for row in rows:
        if "failed" in row:
            print(f"| {row['name']} | {row['failed']} |" + " |" * 6)
            continue
        step = row["step"]
        rate = step["tokens_per_second"] / row["ranks"]
        one = singles.get(row["name"].split(",")[0])
        efficiency = f"{rate * 1 / one['step']['tokens_per_second']:.3f}" if one else "-"
        seconds = step["seconds"]
        share = {key: f"{100 * value / sum(seconds.values()):.1f} %" for key, value in seconds.items()}
        floor = "-"
        exchange = step.get("exchange")
        best = row["machine"].get("all_to_all_bytes_per_second")
        if exchange and best and exchange.get("seconds_on_link"):
            # The all-to-all's rate is that of all ranks, the bytes are those of one.
            floor = f"{exchange['bytes'] * row['ranks'] / best / exchange['seconds_on_link']:.2f}"
        print(f"| {row['name']} | {rate:,.0f} | {efficiency} | {share.get('exchange_wait', '-')} | "
              f"{share.get('exchange', '-')} | {share.get('gradient_reduction', '-')} | "
              f"{step['peak_bytes'] / 2**30:.1f} | {floor} |")


def main():
    args = arguments()
    session = Session(args)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        checks(session, folder)
        measure(session, folder, rows)
        checkpoints(session, folder)
        if args.peer:
            result = session.run("peer", 1, ["bash", "-c", args.peer])
            found = re.findall(r"([\d.,]+) tokens/s", result[1]) if result else []
            print(f"peer: {found[-1] + ' tokens/s' if found else 'no figure'}")
    print_table(rows)
    if session.left_out:
        print("not run: " + "; ".join(session.left_out))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(
            {"rows": rows, "failures": session.failures, "not_run": session.left_out}, indent=1))
    if session.failures:
        print("FAILED: " + "; ".join(session.failures))
    return 1 if session.failures else 0


if __name__ == "__main__":
    sys.exit(main())
