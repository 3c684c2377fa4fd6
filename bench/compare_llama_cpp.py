#!/usr/bin/env python3
"""nibble against llama.cpp on this machine: decode, prefill, memory, load time and KL of the same checkpoint.

usage: bench/compare_llama_cpp.py MODEL_DIR [--text FILE] [--threads N] [--rounds N]
       bench/compare_llama_cpp.py MODEL_DIR --method rtn --samples 1      a checkpoint of random weights (random_checkpoint.py)

MODEL_DIR is a Hugging Face directory with bf16 weights. llama.cpp is built once from the PyPI sdist of
llama-cpp-python, its files and all models lie under --work (default: ~/.cache/nibble/compare), never in the
repository. All contenders run alternately, one after the other, --rounds times; the figures are medians and the
ratios are of medians. KL is against the same bf16 weights, each engine's own, over the first --windows windows of
512 tokens of --text, second halves scored. Needs: g++ cmake ninja, pip install gguf numpy.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tarfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
NIBBLE = ROOT / "build/release/nibble"
TOOLS = ("llama-bench", "llama-quantize", "llama-perplexity")
SAME, LEAN = "nibble as many bytes as Q4_0", "nibble lean"


def run(command, **options):
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


def nibble_models(model):
    """name, arguments of nibble quantize."""
    # llama.cpp's Q4_0 has a head of 6 bits, in blocks of 256 inputs, or of 8 where they do not divide a row.
    hidden = json.loads((model / "config.json").read_text())["hidden_size"]
    head = 8 if hidden % 256 else 6
    return ((SAME, f"--group-size 32 --symmetric --head-bits {head}"), (LEAN, "--group-size 64 --head-bits 4"))


def processor():
    return re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())[1]


def commit():
    return run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]).stdout.strip()


def measured(command):
    """standard output, wall seconds and peak resident bytes of a fresh process."""
    start = time.monotonic()
    with subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"failed ({child.returncode}): {' '.join(map(str, command))}")
    return output, time.monotonic() - start, usage.ru_maxrss * 1024


def keep_tile_configuration(source):
    """GCC 12 drops the stores of all but the first 8 bytes that its _tile_loadconfig() reads: prompts end in SIGILL
    on processors with AMX. A barrier in front of the call keeps them."""
    path, call = source / "ggml/src/ggml-cpu/amx/mmq.cpp", "_tile_loadconfig(&tc);"
    text = path.read_text()
    if call not in text:
        sys.exit(f"{path}: no {call}; see whether llama.cpp runs on AMX without the barrier")
    path.write_text(text.replace(call, f'__asm__ volatile("" ::"r"(&tc) : "memory"); {call}'))


def build_llama(work, jobs, tools=TOOLS, source=None, options=()):
    """The folder of llama.cpp's tools, built where they are not there. source: its checkout; None: PyPI's sdist."""
    binaries = work / "llama-build/bin"
    if all((binaries / tool).exists() for tool in tools):
        return binaries
    print("» llama.cpp (some minutes)", file=sys.stderr)
    if source is None:
        run([sys.executable, "-m", "pip", "download", "llama-cpp-python", "--no-binary", ":all:", "--no-deps",
             "-d", work])
        archive = max(work.glob("llama_cpp_python-*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
        source = work / archive.name.removesuffix(".tar.gz") / "vendor/llama.cpp"
        (work / "version").write_text(archive.name.removesuffix(".tar.gz").replace("_", "-"))
        keep_tile_configuration(source)
    run(["cmake", "-G", "Ninja", "-S", source, "-B", work / "llama-build", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
         "-DLLAMA_CURL=OFF", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_BUILD_TESTS=OFF", *options])
    run(["cmake", "--build", work / "llama-build", "--parallel", jobs, "--target", *tools])
    return binaries


def make_models(args, work, binaries):
    """label -> path, llama.cpp's and nibble's."""
    name = args.model.resolve().name
    bf16 = work / f"{name}.bf16.gguf"
    if not bf16.exists():
        print(f"» {bf16.name}", file=sys.stderr)
        run([sys.executable, ROOT / "bench/hf_to_gguf.py", args.model, bf16])
    llama = {"llama.cpp BF16": bf16}
    for kind in ("Q4_0", "Q4_K_M"):
        out = work / f"{name}.{kind}.gguf"
        if not out.exists():
            print(f"» {out.name}", file=sys.stderr)
            run([binaries / "llama-quantize", bf16, out, kind])
        llama[f"llama.cpp {kind}"] = out
    ours = {"nibble bf16": args.model}
    for label, options in nibble_models(args.model):
        options = f"--method {args.method} {options}"
        out = work / f"{name}.{re.sub('[^a-z0-9]+', '-', (label + options).lower())}"
        if not (out / "config.json").exists():
            print(f"» {label}: nibble quantize {options}", file=sys.stderr)
            calibration = ["--calibration", *args.calibration] if args.calibration else []
            run([NIBBLE, "quantize", args.model, out, *options.split(), "--samples", args.samples, *calibration, "--force"])
        ours[label] = out
    return llama, ours


def size(path):
    return sum(f.stat().st_size for f in path.glob("*.safetensors")) if path.is_dir() else path.stat().st_size


def bench_llama(binaries, path, args):
    command = [binaries / "llama-bench", "-m", path, "-t", args.threads, "-r", 1, "-o", "json"]
    speed = json.loads(measured([*command, "-p", 512, "-n", 128])[0])
    row = {f"{'pp' if t['n_prompt'] else 'tg'}": t["avg_ts"] for t in speed}
    _, _, row["rss"] = measured([*command, "-p", 512, "-n", 0])
    row["rss_no_mmap"] = measured([*command, "-p", 512, "-n", 0, "-lm", "none"])[2]
    output, wall, _ = measured([*command, "-p", 1, "-n", 0, "--no-warmup"])
    row["load"] = wall - json.loads(output)[0]["avg_ns"] / 1e9
    return row


def bench_nibble(path, args):
    command = [NIBBLE, "bench", path, "--threads", args.threads, "-r", 1, "-o", "json"]
    tests = json.loads(measured([*command, "-p", 512, "-n", 128])[0])
    row = {t["test"][:2]: t["tokens_per_s"]["mean"] for t in tests}
    row["bandwidth"] = tests[-1]["bandwidth_fraction"]
    row["load"] = tests[0]["load_s"]
    alone = json.loads(measured([*command, "-p", 512, "-n", 0])[0])  # before its bandwidth test
    row["rss"] = alone[0]["memory_bytes"]["peak_rss"]
    batch = json.loads(measured([*command, "-p", 0, "-n", 64, "-b", 8])[0])
    row["tg_batch8"] = batch[0]["tokens_per_s"]["mean"]
    return row


def kl_of_all(args, work, binaries, llama, ours):
    kl, base = {}, work / "base.kld"
    common = [binaries / "llama-perplexity", "-f", args.text, "-c", 512, "--chunks", args.windows, "-t", args.threads,
              "--kl-divergence-base", base]
    run([*common, "-m", llama["llama.cpp BF16"]])
    for label, path in llama.items():
        if "BF16" in label:
            continue
        done = run([*common, "-m", path, "--kl-divergence"])
        found = re.search(r"Mean\s+KLD:\s*([\d.eE+-]+)\s*±\s*([\d.eE+-]+)", done.stdout + done.stderr)
        kl[label] = (float(found[1]), float(found[2]))
    base.unlink(missing_ok=True)
    for label, path in ours.items():
        if path == args.model:
            continue
        done = run([NIBBLE, "compare", args.model, path, "--file", args.text, "--windows", args.windows, "--threads",
                    args.threads, "--json"])
        comparison = json.loads(done.stdout)
        kl[label] = (comparison["kl"]["mean"], comparison["kl"]["stderr"])
    return kl


def number(value, form):
    return "–" if value is None else format(value, form)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, help="of KL; without it no KL")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--calibration", nargs="*", default=[])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--method", default="gptq", help="of nibble's models; rtn will do where only speed is asked for")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5, help="0: only the KL")
    parser.add_argument("--work", type=pathlib.Path,
                        default=pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "nibble/compare")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    binaries = build_llama(args.work, args.threads)
    llama, ours = make_models(args, args.work, binaries)
    kl = kl_of_all(args, args.work, binaries, llama, ours) if args.text else {}
    if args.rounds == 0:
        print("| | KL |\n|---|---|")
        for label, (mean, error) in kl.items():
            print(f"| {label} | {mean:.4f} ± {error:.4f} |")
        return
    rows = {label: [] for label in (*llama, *ours)}
    for turn in range(args.rounds):
        print(f"» round {turn + 1} of {args.rounds}", file=sys.stderr)
        for label in rows:
            path = llama.get(label)
            rows[label].append(bench_llama(binaries, path, args) if path else bench_nibble(ours[label], args))
    median = {label: {key: statistics.median(r[key] for r in runs) if runs[0][key] is not None else None for key in runs[0]}
              for label, runs in rows.items()}

    version = run([NIBBLE, "--version"]).stdout.strip()
    print(f"{version} ({commit()}), {(args.work / 'version').read_text()}; {processor()}, {args.threads} threads; medians of "
          f"{args.rounds} alternating runs of {args.model.resolve().name}; nibble's by {args.method}")
    print("\n| | file MB | pp512 t/s | tg128 t/s | batch 8 t/s | of bandwidth | peak MB | without mmap | load s | KL |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for label, m in median.items():
        path = llama.get(label) or ours[label]
        print(f"| {label} | {size(path) / 1e6:.1f} | {m['pp']:.0f} | {m['tg']:.1f} | {number(m.get('tg_batch8'), '.0f')} | "
              f"{number(m.get('bandwidth'), '.0%')} | {m['rss'] / 1e6:.0f} | "
              f"{number(m['rss_no_mmap'] / 1e6 if 'rss_no_mmap' in m else None, '.0f')} | {m['load']:.3f} | "
              + (f"{kl[label][0]:.4f} ± {kl[label][1]:.4f} |" if label in kl else "– |"))
    q4, bf16 = median["llama.cpp Q4_0"], median["llama.cpp BF16"]
    same, lean, base = (median[label] for label in (SAME, LEAN, "nibble bf16"))
    print("\n| ratio | |\n|---|---|")
    for what, ours_value, theirs in (
            ("decode, as many bytes, against Q4_0", same["tg"], q4["tg"]),
            ("decode, lean, against Q4_0", lean["tg"], q4["tg"]),
            ("prefill, as many bytes, against Q4_0", same["pp"], q4["pp"]),
            ("prefill, bf16, against BF16", base["pp"], bf16["pp"]),
            ("peak memory against Q4_0", same["rss"], q4["rss"]),
            ("peak memory against Q4_0 without mmap", same["rss"], q4["rss_no_mmap"]),
            ("decode of 8 sequences against one", same["tg_batch8"], same["tg"])):
        print(f"| {what} | {ours_value / theirs:.2f} |")


if __name__ == "__main__":
    main()
