#!/usr/bin/env python3
"""nibble against transformers and llama.cpp on this machine's NVIDIA GPU: prompts, decoding and GPU memory on random weights
of the true shapes of Llama-3.2-1B, Qwen2-0.5B and Phi-1.5 (bench/random_checkpoint.py).

usage: bench/compare_gpu.py [--shapes llama-3.2-1b,qwen2-0.5b,phi-1.5] [--rounds 3] [--llama SOURCE] [--only-build]

All contenders of a shape run alternately, --rounds times; the figures are medians of the rounds, the ratios of medians.
nibble's and llama.cpp's runs are fresh processes, each after its own warm-up; transformers' process, which takes long to
start, waits between its turns. llama.cpp is built once, from --llama or PyPI's sdist of llama-cpp-python; Phi is not among
what hf_to_gguf.py writes. Files lie under --work (7 GB). Needs: nvcc cmake ninja, pip install gguf numpy torch transformers.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

import compare_llama_cpp as cpu

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ("llama-bench", "llama-quantize")
OPTIONS = ("-DGGML_CUDA=ON", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF",
           "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_BUILD_HTML=OFF")
PROMPT, GENERATED = 512, 128

TRANSFORMERS = """
import json, sys, time
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, attn_implementation="eager").cuda().eval()
prompt = torch.randint(0, model.config.vocab_size, (1, int(sys.argv[2])), device="cuda")
count = int(sys.argv[3])
def seconds(body):
    torch.cuda.synchronize()
    start = time.perf_counter()
    body()
    torch.cuda.synchronize()
    return time.perf_counter() - start
def prefill():
    model(prompt, use_cache=True, logits_to_keep=1)
def decode():
    out = model(prompt[:, :1], use_cache=True)
    for _ in range(count):
        token = out.logits[:, -1:].argmax(-1)
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
with torch.inference_mode():
    for _ in range(3): prefill()
    print(json.dumps(dict(version=f"transformers {transformers.__version__}, torch {torch.__version__}")), flush=True)
    for _ in sys.stdin:
        pp = sorted(prompt.shape[1] / seconds(prefill) for _ in range(5))[2]
        print(json.dumps(dict(pp=pp, tg=count / seconds(decode), memory=torch.cuda.max_memory_allocated())), flush=True)
"""


class Transformers:
    def __init__(self, folder):
        self.child = subprocess.Popen([sys.executable, "-c", TRANSFORMERS, folder, str(PROMPT), str(GENERATED)],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.version = self.answer()["version"]

    def answer(self):
        line = self.child.stdout.readline()
        if not line:
            sys.exit(f"failed: transformers ended with {self.child.wait()}")
        return json.loads(line)

    def __call__(self):
        self.child.stdin.write("go\n")
        self.child.stdin.flush()
        return self.answer()

    def close(self):
        self.child.stdin.close()
        self.child.wait()


def bench_nibble(program, path):
    tests = json.loads(cpu.run([program, "bench", path, "--device", "cuda", "-p", PROMPT, "-n", GENERATED, "-r", 3,
                                "-o", "json"]).stdout)
    row = {t["test"][:2]: t["tokens_per_s"]["mean"] for t in tests}
    row["memory"] = max(t["memory_bytes"]["peak_gpu"] for t in tests)
    row["bandwidth"] = tests[-1]["bandwidth_fraction"]
    return row


def bench_llama(binaries, path):
    tests = json.loads(cpu.run([binaries / "llama-bench", "-m", path, "-ngl", 99, "-fa", 1, "-p", PROMPT, "-n", GENERATED,
                                "-r", 3, "-o", "json"]).stdout)
    return {"pp" if t["n_prompt"] else "tg": t["avg_ts"] for t in tests}


def contenders(args, shape, binaries):
    """label -> what makes a row of figures; and the transformers process."""
    work, make = args.work, [sys.executable, ROOT / "bench/random_checkpoint.py", shape]
    bf16, packed = work / shape, work / f"{shape}-4bit"
    for out, options in ((bf16, ()), (packed, ("--bits", 4))):
        if not (out / "config.json").exists():
            cpu.run([*make, out, *options])
    runs = {"nibble bf16": lambda: bench_nibble(args.nibble, bf16), "nibble 4 bits": lambda: bench_nibble(args.nibble, packed)}
    if binaries:
        base = work / f"{shape}.bf16.gguf"
        if not base.exists():
            cpu.run([sys.executable, ROOT / "bench/hf_to_gguf.py", bf16, base])
        for kind in ("F16", "Q4_0"):
            out = work / f"{shape}.{kind}.gguf"
            if not out.exists():
                cpu.run([binaries / "llama-quantize", base, out, kind])
            runs[f"llama.cpp {kind}"] = lambda out=out: bench_llama(binaries, out)
    torch = Transformers(bf16)
    runs["transformers bf16 eager"] = torch
    return runs, torch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="llama-3.2-1b,qwen2-0.5b,phi-1.5")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nibble", type=pathlib.Path, default=ROOT / "build/cuda/nibble")
    parser.add_argument("--llama", type=pathlib.Path, help="llama.cpp's source; default: from PyPI")
    parser.add_argument("--commit", help="of nibble, where there is no repository to ask")
    parser.add_argument("--only-build", action="store_true", help="builds llama.cpp and measures nothing")
    parser.add_argument("--work", type=pathlib.Path,
                        default=pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "nibble/compare-gpu")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    card, driver, capability = cpu.run(["nvidia-smi", "--query-gpu=name,driver_version,compute_cap",
                                        "--format=csv,noheader"]).stdout.split("\n")[0].split(", ")
    binaries = cpu.build_llama(args.work, len(os.sched_getaffinity(0)), TOOLS, args.llama,
                               (*OPTIONS, f"-DCMAKE_CUDA_ARCHITECTURES={capability.replace('.', '')}"))
    if args.only_build:
        return
    tables, versions = [], set()
    for shape in args.shapes.split(","):
        runs, torch = contenders(args, shape, binaries if shape != "phi-1.5" else None)
        versions.add(torch.version)
        rows = {label: [] for label in runs}
        for turn in range(args.rounds):
            print(f"» {shape}: round {turn + 1} of {args.rounds}", file=sys.stderr)
            for label, measure in runs.items():
                rows[label].append(measure())
        torch.close()
        median = {label: {key: statistics.median(row[key] for row in all_rows) for key in all_rows[0]}
                  for label, all_rows in rows.items()}
        spread = {label: max(row["tg"] for row in all_rows) / min(row["tg"] for row in all_rows) - 1
                  for label, all_rows in rows.items()}
        tables.append((shape, median, spread))
    commit = args.commit or cpu.commit()
    llama = args.work / "version"
    llama = llama.read_text().strip() if llama.exists() else f"llama.cpp of {args.llama}"
    print(f"{card}, driver {driver}; {cpu.run([args.nibble, '--version']).stdout.strip()} ({commit}), {llama}, "
          f"{', '.join(versions)}; medians of {args.rounds} alternating rounds\n")
    print(f"| | pp{PROMPT} t/s | tg{GENERATED} t/s | largest tg over least | of the copy's bandwidth | GPU MB |\n|---|---|---|---|---|---|")
    for shape, median, spread in tables:
        for label, m in median.items():
            print(f"| {shape}, {label} | {m['pp']:,.0f} | {m['tg']:,.1f} | {spread[label]:+.1%} | "
                  f"{cpu.number(m.get('bandwidth'), '.0%')} | "
                  f"{cpu.number(m['memory'] / 1e6 if 'memory' in m else None, ',.0f')} |")
    print("\n| ratio | pp | tg |\n|---|---|---|")
    for shape, median, _ in tables:
        for ours, theirs in (("nibble bf16", "llama.cpp F16"), ("nibble 4 bits", "llama.cpp Q4_0"),
                             ("nibble bf16", "transformers bf16 eager"), ("nibble 4 bits", "nibble bf16")):
            if theirs in median:
                a, b = median[ours], median[theirs]
                print(f"| {shape}: {ours} / {theirs} | {a['pp'] / b['pp']:.2f} | {a['tg'] / b['tg']:.2f} |")


if __name__ == "__main__":
    main()
