#!/usr/bin/env python3
"""nibble's fine-tuning with adapters against PyTorch's on this machine's processor: tokens a second and memory.

usage: bench/compare_torch_training.py MODEL_DIR --data rows.jsonl [--steps 6] [--threads N]

MODEL_DIR is a Hugging Face directory, rows.jsonl has question and answer. Both train adapters of rank 16 beside every linear of the
blocks with AdamW on the same rows, 8 a step, answers alone in the loss; PyTorch in float32 and with bf16 products
(autocast), its rows padded to the longest of a step, padding not counted. Steps are timed, the first one left out for PyTorch; nibble's
figure is its report's, without the held-out checks. Each in a fresh process; memory is its peak.
Needs: pip install torch transformers.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from compare_llama_cpp import NIBBLE, commit, measured, processor  # noqa: E402

RANK, ALPHA, BATCH, LR = 16, 32, 8, 5e-4
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def rival(args):
    """In its own process: what PyTorch does."""
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    model.requires_grad_(False)

    class Adapted(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.a = nn.Parameter(torch.randn(RANK, inner.in_features) / RANK)
            self.b = nn.Parameter(torch.zeros(inner.out_features, RANK))

        def forward(self, x):
            return self.inner(x) + (x @ self.a.T) @ self.b.T * (ALPHA / RANK)

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if name in LINEARS:
                setattr(module, name, Adapted(child))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0)
    rows = [json.loads(line) for line in args.data.read_text(encoding="utf-8").splitlines() if line.strip()]
    tokens = seconds = 0
    for step in range(args.steps):
        ids, labels = [], []
        for row in rows[step * BATCH:(step + 1) * BATCH]:
            prompt = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
            answer = tokenizer(" " + row["answer"])["input_ids"]
            ids.append(prompt + answer)
            labels.append([-100] * len(prompt) + answer)
        longest = max(map(len, ids))
        mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in ids])
        x = torch.tensor([r + [0] * (longest - len(r)) for r in ids])
        y = torch.tensor([r + [-100] * (longest - len(r)) for r in labels])
        start = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss = model(input_ids=x, attention_mask=mask, labels=y).loss
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step > 0:
            seconds += time.monotonic() - start
            tokens += sum(map(len, ids))
    print(json.dumps({"tokens_per_second": tokens / seconds, "loss": loss.item()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rival", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--bf16", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rival:
        rival(args)
        return

    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    common = ["--data", args.data, "--threads", args.threads]
    torch = [sys.executable, __file__, args.model, "--rival", "--steps", args.steps, *common]
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "adapter"
        ours = [NIBBLE, "finetune", args.model, out, "--adapter", "--score-rows", 0, "--max-steps", args.steps, "--force", *common]
        for label, command in (("nibble", ours), ("nibble --dtype float32", [*ours, "--dtype", "float32"]),
                               ("PyTorch float32", torch), ("PyTorch bf16", [*torch, "--bf16"])):
            print(f"» {label}", file=sys.stderr)
            output, _, peak = measured(command)
            report = json.loads((out / "finetune_report.json").read_text()) if command[0] == NIBBLE else json.loads(output.splitlines()[-1])
            rows[label] = (report["tokens_per_second"], peak)
    version = subprocess.run([sys.executable, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{args.model.resolve().name}, {args.steps} steps of {BATCH} rows, {args.threads} threads of {processor()}; nibble {commit()}, PyTorch {version}\n")
    print("| | tokens/s | of PyTorch float32's | peak MB |\n|---|---|---|---|")
    for label, (speed, peak) in rows.items():
        print(f"| {label} | {speed:.0f} | {speed / rows['PyTorch float32'][0]:.2f} | {peak / 1e6:,.0f} |")


if __name__ == "__main__":
    main()
