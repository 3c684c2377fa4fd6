#!/usr/bin/env python3
"""Proves that transformers' peft loads an adapter of `nibble finetune --adapter` and gives nibble's logits.

usage: check_adapter.py NIBBLE MODEL_DIR [STEPS, default 20]
Needs torch, transformers, peft and safetensors. Fine-tunes MODEL_DIR twice on data/family2 by the same options, once
to an adapter and once to a merged model. peft's merge of the adapter, in the merged model's type, is held against that
model's weights, and its logits against `nibble logits` in float32. Exits 1 where they differ.
"""
import json
import os
import subprocess
import sys
import tempfile

TEXT = "Question: Ada has 12 pencils and gives 5 of them to Bram. How many pencils are left?\nAnswer:"
DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "family2")
LOGITS, WEIGHTS = 2e-3, 1e-3  # greatest difference of a logit; share of weights that may round the other way


def main(arguments):
    if len(arguments) not in (2, 3):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    nibble, model = arguments[:2]
    steps = arguments[2] if len(arguments) == 3 else "20"
    with tempfile.TemporaryDirectory() as folder:
        adapter, merged, logits = (os.path.join(folder, name) for name in ("adapter", "merged", "logits.safetensors"))
        tune = ["--data", DATA, "--max-steps", steps, "--lr", "2e-3", "--score-rows", "0"]
        run = lambda *a: subprocess.run([nibble, *a], check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: E731
        run("finetune", model, adapter, "--adapter", *tune)
        run("finetune", model, merged, *tune)
        ids = json.loads(run("tokenize", model, "--text", TEXT))
        run("logits", merged, "--ids", json.dumps(ids), "--dtype", "float32", "--out", logits)
        ours = load_file(logits)["logits"]

        base = AutoModelForCausalLM.from_pretrained(model, torch_dtype=torch.float32)
        before = {name: p.clone() for name, p in base.named_parameters()}
        tuned = PeftModel.from_pretrained(base, adapter)
        with torch.no_grad():
            apart = tuned(torch.tensor([ids])).logits[0]
            theirs = tuned.merge_and_unload()
            stored = load_file(os.path.join(merged, "model.safetensors"))
            changed = differing = total = 0
            for name, p in theirs.named_parameters():
                if name not in stored:  # a tied head
                    continue
                rounded = p.to(stored[name].dtype)
                changed += int((p != before[name]).any())
                differing += int((rounded != stored[name]).sum())
                total += p.numel()
                p.copy_(rounded.float())
            together = theirs(torch.tensor([ids])).logits[0]
            difference = (together - ours).abs().max().item()
            print(f"{changed} tensors changed by the adapter; of {total} weights {differing} round another way than nibble's")
            print(f"greatest difference of {ours.numel()} logits: {difference:.2e} merged and rounded as nibble does, "
                  f"{(apart - ours).abs().max().item():.2e} with the adapter apart in float32")
        good = changed > 0 and differing <= WEIGHTS * total and difference <= LOGITS
        print("peft gives nibble's logits" if good else "peft does NOT give nibble's logits")
        return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
