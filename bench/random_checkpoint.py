#!/usr/bin/env python3
"""A Hugging Face directory of the given shape with random bf16 weights: for speed and memory, which do not ask what a
weight is. Its text and its KL mean nothing.

usage: random_checkpoint.py CONFIG.json OUT_DIR [--tokenizer tokenizer.json]        needs: pip install numpy

CONFIG.json is a Llama's or Qwen2's config.json. Matrices are N(0, 0.02), norms 1, biases 0; the same seed gives the same bytes.
"""
import argparse
import json
import pathlib
import shutil
import struct

import numpy as np


def shapes(config):
    """name -> shape, in the order of the file."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    kv = config.get("num_key_value_heads", heads) * head_dim
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", (hidden,)
        for name, rows, columns in (("q", heads * head_dim, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, heads * head_dim)):
            yield f"{at}self_attn.{name}_proj.weight", (rows, columns)
            if config["model_type"] == "qwen2" and name != "o":
                yield f"{at}self_attn.{name}_proj.bias", (rows,)
        yield at + "post_attention_layernorm.weight", (hidden,)
        for name, rows, columns in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
            yield f"{at}mlp.{name}_proj.weight", (rows, columns)
    yield "model.norm.weight", (hidden,)
    if not config.get("tie_word_embeddings"):
        yield "lm_head.weight", (config["vocab_size"], hidden)


def bf16(x):
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path)
    args = parser.parse_args()
    config = json.loads(args.config.read_text())
    if config["model_type"] not in ("llama", "qwen2"):
        parser.error(f"{config['model_type']}: only llama, qwen2")
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.copy(args.config, args.out / "config.json")
    if args.tokenizer:
        shutil.copy(args.tokenizer, args.out / "tokenizer.json")
    header, at = {}, 0
    for name, shape in shapes(config):
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    with open(args.out / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes(config):
            if len(shape) == 2:
                file.write(bf16(random.standard_normal(shape, np.float32) * np.float32(0.02)).tobytes())
            else:
                file.write(bf16(np.full(shape, name.endswith("norm.weight"), np.float32)).tobytes())


if __name__ == "__main__":
    main()
