#!/usr/bin/env python3
"""Holds a quantized run's GPU memory against its baseline's: loaded, with prompts of 512 and 2,048 tokens, and decoding, for
every group size. Each in a fresh process, on random weights of a true shape (bench/random_checkpoint.py).

usage: bench/gpu_memory.py [--nibble build/cuda/nibble] [--shape qwen2-0.5b] [--work DIR]

Exits 1 where a quantized run takes as much as the baseline or more; where no GPU can be used, says so and exits 0.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
GROUPS = (16, 32, 64, 128, 0)
TESTS = {"pp512": ("-p", "512", "-n", "0"), "pp2048": ("-p", "2048", "-n", "0"), "tg128": ("-p", "0", "-n", "128")}


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout


def peaks(nibble, path):
    """test -> bytes of the process on the card; weights beside them."""
    found = {}
    for name, options in TESTS.items():
        (test,) = json.loads(run([nibble, "bench", path, "--device", "cuda", "-r", 1, "-o", "json", *options]))
        memory = test["memory_bytes"]
        found[name] = memory["peak_gpu"]
        found["weights"] = memory["weights"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", type=pathlib.Path, default=ROOT / "build/cuda/nibble")
    parser.add_argument("--shape", default="qwen2-0.5b")
    parser.add_argument("--work", type=pathlib.Path)
    args = parser.parse_args()
    if json.loads(run([args.nibble, "doctor", "--json"]))["gpu"] is None:
        print("no GPU can be used here: left out")
        return
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        model = pathlib.Path(folder) / "model"
        make = [sys.executable, ROOT / "bench/random_checkpoint.py", args.shape, model]
        run(make)
        baseline = peaks(args.nibble, model)
        names = ["weights", *TESTS]
        print(f"{args.shape}, GPU MB\n\n| | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
        show = lambda label, row: print(f"| {label} | {' | '.join(f'{row[n] / 1e6:,.0f}' for n in names)} |")  # noqa: E731
        show("bf16", baseline)
        broken = []
        for bits in (4, 8):
            for group in GROUPS:
                run([*make, "--bits", bits, "--group-size", group])
                row = peaks(args.nibble, model)
                show(f"{bits} bits, groups of {group or 'a row'}", row)
                broken += [f"{bits} bits, group size {group}: {n}: {row[n]} of {baseline[n]} bytes" for n in names
                           if not 0 < row[n] < baseline[n]]
    for line in broken:
        print(line)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
