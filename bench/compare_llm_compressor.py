#!/usr/bin/env python3
"""nibble against llm-compressor on this machine's processor: time, memory and KL of GPTQ on the same model and text.

usage: bench/compare_llm_compressor.py MODEL_DIR --calibration c4.jsonl wikipedia.txt gsm8k.jsonl [--text FILE ...]

MODEL_DIR is a Hugging Face directory. Both quantize every linear of the blocks to 4 bits with zero points in groups of 128,
the head left alone, calibrated with --samples sequences of --seqlen tokens from the same files. A file's share for
llm-compressor is --shares (half, a quarter, a quarter); nibble draws its samples as `nibble quantize` does. Each runs in a fresh process
on --threads threads without a card, reading and writing the model included; memory is the process's peak. KL is
`nibble compare` against MODEL_DIR, over the first 16 windows of each --text.
Needs: pip install llmcompressor==0.14.0 (PyTorch: gigabytes).
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from compare_llama_cpp import NIBBLE, commit, measured, processor, run  # noqa: E402

BITS, GROUP = 4, 128
OURS = (("nibble gptq", "gptq"), ("nibble default", ""))


def texts(path):
    """The rows of a file: of JSONL the text, or question and answer; of plain text its paragraphs."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".jsonl":
        return [part for part in content.split("\n\n") if part.strip()]
    rows = [json.loads(line) for line in content.splitlines() if line.strip()]
    return [row["text"] if "text" in row else f"Question: {row['question']}\nAnswer: {row['answer']}" for row in rows]


def samples_of(tokenizer, files, shares, count, length):
    """count sequences of length tokens: from each file its share, the file's rows in a row."""
    sequences = []
    for path, share in zip(files, shares):
        wanted, ids = round(count * share), []
        for text in texts(path):
            ids += tokenizer(text + "\n\n")["input_ids"]
            if len(ids) >= wanted * length:
                break
        if len(ids) < wanted * length:
            sys.exit(f"{path}: only {len(ids)} tokens, {wanted * length} are needed")
        sequences += [ids[i * length:(i + 1) * length] for i in range(wanted)]
    return sequences


def rival(args):
    """In its own process: what llm-compressor does."""
    import torch
    torch.set_num_threads(args.threads)
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16)
    ids = samples_of(tokenizer, args.calibration, args.shares, args.samples, args.seqlen)
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})
    oneshot(model=model, dataset=data, max_seq_length=args.seqlen, num_calibration_samples=len(ids),
            recipe=GPTQModifier(targets="Linear", scheme="W4A16_ASYM", ignore=["lm_head"]))
    model.save_pretrained(args.rival, save_compressed=True)
    tokenizer.save_pretrained(args.rival)


def kl_of(model, quantized, text, threads):
    done = run([NIBBLE, "compare", model, quantized, "--file", text, "--windows", 16, "--threads", threads, "--json"])
    kl = json.loads(done.stdout)["kl"]
    return f"{kl['mean']:.4f} ± {kl['stderr']:.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--calibration", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25, 0.25])
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--text", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=pathlib.Path,
                        default=pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "nibble/compare")
    parser.add_argument("--rival", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if len(args.shares) != len(args.calibration):
        parser.error("--shares takes a number for each file of --calibration")
    if args.rival:
        rival(args)
        return

    args.work.mkdir(parents=True, exist_ok=True)
    common = ["--threads", args.threads, "--samples", args.samples, "--seqlen", args.seqlen, "--calibration", *args.calibration]
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    rows = {}
    for label, method in (("llm-compressor gptq", None), *OURS):
        out = args.work / re.sub("[^a-z0-9]+", "-", f"{args.model.resolve().name}-{label}-g{GROUP}".lower())
        if method is None:
            command = [sys.executable, __file__, args.model, "--rival", out, "--shares", *args.shares, *common]
        else:
            command = [NIBBLE, "quantize", args.model, out, "--force", "--bits", BITS, "--group-size", GROUP, "--head-bits", 16,
                       *(["--method", method] if method else []), *common]
        print(f"» {label}", file=sys.stderr)
        start = time.monotonic()
        _, _, peak = measured(command)
        seconds = time.monotonic() - start
        print(f"  {seconds:.0f} s, peak {peak / 1e6:,.0f} MB", file=sys.stderr)
        rows[label] = (seconds, peak, [kl_of(args.model, out, text, args.threads) for text in args.text])

    package = subprocess.run([sys.executable, "-c", "import importlib.metadata as m; print(m.version('llmcompressor'), 'torch', m.version('torch'))"],
                             capture_output=True, text=True, check=True).stdout.strip()
    print(f"{args.model.resolve().name}, {args.samples} x {args.seqlen} tokens, {args.threads} threads of {processor()}; "
          f"{run([NIBBLE, '--version']).stdout.strip()} ({commit()}), llmcompressor {package}\n")
    print("| | s | of llm-compressor's | peak MB | of llm-compressor's |" + "".join(f" KL {t.name} |" for t in args.text))
    print("|---|---|---|---|---|" + "---|" * len(args.text))
    seconds, memory, _ = rows["llm-compressor gptq"]
    for label, (s, peak, kl) in rows.items():
        print(f"| {label} | {s:.0f} | {s / seconds:.2f} | {peak / 1e6:,.0f} | {peak / memory:.2f} |" + "".join(f" {v} |" for v in kl))


if __name__ == "__main__":
    main()
