#!/usr/bin/env python3
"""A checkpoint of the given shapes with random weights: for speed and memory, which do not ask what a weight is. Its text
and its KL mean nothing.

usage: bench/random_checkpoint.py llama-3.2-1b|qwen2-0.5b|phi-1.5|qwen2.5-1.5b|CONFIG.json OUT [--tokenizer tokenizer.json]
                                  [--bits 4 [--group-size 64] [--symmetric] [--head-bits 8]] [--layers N]

CONFIG.json is a Llama's, Qwen2's or Phi's config.json. Without --bits OUT is a Hugging Face directory with bf16 weights,
matrices N(0, 0.02), norms 1, biases 0; with it a nibble directory whose codes are random. The same command gives the same
bytes. `nibble bench` needs no tokenizer. Needs: pip install numpy.
"""
import argparse
import json
import os
import pathlib
import shutil

import numpy as np

LLAMA = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
PHI = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense", "mlp.fc1", "mlp.fc2")
SHAPES = {
    "llama-3.2-1b": dict(
        model_type="llama", hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, vocab_size=128256, max_position_embeddings=131072, rms_norm_eps=1e-5,
        rope_theta=500000.0, tie_word_embeddings=True,
        rope_scaling=dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=8192)),
    "qwen2-0.5b": dict(
        model_type="qwen2", hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, vocab_size=151936, max_position_embeddings=32768, rms_norm_eps=1e-6,
        rope_theta=1000000.0, tie_word_embeddings=True),
    "qwen2.5-1.5b": dict(
        model_type="qwen2", hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, vocab_size=151936, max_position_embeddings=32768, rms_norm_eps=1e-6,
        rope_theta=1000000.0, tie_word_embeddings=True),
    "phi-1.5": dict(
        model_type="phi", hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32,
        vocab_size=51200, max_position_embeddings=2048, layer_norm_eps=1e-5, partial_rotary_factor=0.5,
        rope_theta=10000.0, hidden_act="gelu_new", tie_word_embeddings=False),
}


class Maker:
    def __init__(self, options, config):
        self.options, self.config, self.linears = options, config, {}
        random = np.random.default_rng(1)
        # Large enough that no cache holds it; tensors are stretches of it.
        values = (random.standard_normal(1 << 24, dtype=np.float32) * 0.02).view(np.uint32)
        self.bf16 = (values >> 16).astype(np.uint16)
        self.bytes = random.integers(0, 256, 1 << 24, dtype=np.uint8)
        self.tensors = []  # (alignment class, name, type, shape, maker of the bytes)

    def stretch(self, source, n):
        return np.resize(source, n)

    def dense(self, name, shape, constant=None):
        n = int(np.prod(shape))
        if constant is None:
            make = lambda: self.stretch(self.bf16, n)  # noqa: E731
        else:
            make = lambda: np.full(n, np.float32(constant).view(np.uint32) >> 16, np.uint16)  # noqa: E731
        self.tensors.append((1, name, "BF16", list(shape), make))

    def linear(self, name, n, k, bits, bias):
        options = self.options
        if bias:
            self.dense(name + ".bias", [n])
        if not bits or bits == 16:
            return self.dense(name + ".weight", [n, k])
        inputs, chunk = {8: (4, 64), 4: (8, 64), 2: (16, 64), 3: (16, 96), 6: (16, 192)}[bits]
        group = options.group_size or k
        panels, groups, chunks = -(-n // 16), -(-k // group), -(-k // inputs)
        codes, scales = panels * chunks * chunk, panels * groups * 16
        self.tensors.append((0, name + ".codes", "U8", [codes], lambda: self.stretch(self.bytes, codes)))
        scale = np.array(0.04 / (1 << bits), np.float16).view(np.uint16)
        self.tensors.append((2, name + ".scales", "F16", [scales], lambda: np.full(scales, scale, np.uint16)))
        if not options.symmetric:
            zeros = panels * groups * (16 if bits > 4 else 8)
            middle = 1 << bits - 1
            self.tensors.append((3, name + ".zeros", "U8", [zeros], lambda: np.full(
                zeros, middle if bits > 4 else middle * 17, np.uint8)))
        self.linears[name] = dict(method="random", bits=bits, group_size=options.group_size,
                                  symmetric=options.symmetric)

    def model(self):
        c, options = self.config, self.options
        hidden, inner, phi = c["hidden_size"], c["intermediate_size"], c["model_type"] == "phi"
        dim = c.get("head_dim") or hidden // c["num_attention_heads"]
        query, kv = c["num_attention_heads"] * dim, (c.get("num_key_value_heads") or c["num_attention_heads"]) * dim
        head_bits = options.head_bits if options.bits else 16
        self.linear("model.embed_tokens", c["vocab_size"], hidden, head_bits, False)
        if not c.get("tie_word_embeddings"):
            self.linear("lm_head", c["vocab_size"], hidden, head_bits, phi)
        norms = ["input_layernorm"] + ([] if phi else ["post_attention_layernorm"])
        for layer in range(c["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            for norm in norms:
                self.norm(prefix + norm, hidden, phi)
            for name in PHI if phi else LLAMA:
                part = name.split(".")[1]
                n = {"q_proj": query, "k_proj": kv, "v_proj": kv, "o_proj": hidden, "dense": hidden,
                     "gate_proj": inner, "up_proj": inner, "fc1": inner}.get(part, hidden)
                k = {"o_proj": query, "dense": query, "down_proj": inner, "fc2": inner}.get(part, hidden)
                bias = phi or c["model_type"] == "qwen2" and part in ("q_proj", "k_proj", "v_proj")
                self.linear(prefix + name, n, k, options.bits, bias)
        self.norm("model.final_layernorm" if phi else "model.norm", hidden, phi)

    def norm(self, name, n, bias):
        self.dense(name + ".weight", [n], 1.0)
        if bias:
            self.dense(name + ".bias", [n], 0.0)

    def write(self, out):
        out.mkdir(parents=True, exist_ok=True)
        self.tensors.sort(key=lambda tensor: tensor[0])
        size = {"BF16": 2, "F16": 2, "U8": 1}
        header, at = {}, 0
        for _, name, dtype, shape, _ in self.tensors:
            n = int(np.prod(shape)) * size[dtype]
            header[name] = dict(dtype=dtype, shape=shape, data_offsets=[at, at + n])
            at += n
        text = json.dumps(header).encode()
        text += b" " * (-(len(text) + 8) % 64)
        with open(out / "model.safetensors", "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for *_, make in self.tensors:
                make().tofile(file)
        config = dict(self.config)
        if self.linears:
            config["quantization_config"] = dict(quant_method="nibble", layout_version=1, linears=self.linears)
        (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", metavar="SHAPE", help="one of the names above, or a config.json")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path)
    parser.add_argument("--bits", type=int, choices=(2, 3, 4, 6, 8))
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--symmetric", action="store_true")
    parser.add_argument("--head-bits", type=int, choices=(2, 3, 4, 6, 8, 16), default=8)
    parser.add_argument("--layers", type=int)
    options = parser.parse_args()
    if options.shape in SHAPES:
        config = dict(SHAPES[options.shape])
    elif options.shape.endswith(".json"):
        config = json.loads(pathlib.Path(options.shape).read_text())
    else:
        parser.error(f"{options.shape}: expected {', '.join(SHAPES)} or a config.json")
    if config["model_type"] not in ("llama", "qwen2", "phi"):
        parser.error(f"{config['model_type']}: only llama, qwen2 and phi")
    if options.layers:
        config["num_hidden_layers"] = options.layers
    maker = Maker(options, config)
    maker.model()
    maker.write(options.out)
    if options.tokenizer:
        shutil.copy(options.tokenizer, options.out / "tokenizer.json")
    print(f"{options.out}: {os.path.getsize(options.out / 'model.safetensors') / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
