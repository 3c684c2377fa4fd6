#!/usr/bin/env python3
"""Writes the GGUF fixtures of src/io/gguf_*_test.cpp and what they must decode to.

usage: golden_gguf.py [OUT_DIR]      (default tests/golden/gguf)      needs: pip install gguf numpy

types.gguf        one tensor of random blocks for each quantized type
types.safetensors the same, expanded by the `gguf` package: NAME.f32 and, rounded, NAME.bf16
MODEL.gguf        tiny models of random weights, made as llama.cpp's converter makes them
MODEL.safetensors the tensors that a reader must see, under their Hugging Face names
MODEL.json        config, generation_config and tokenizer that it must see
"""
import json
import os
import struct
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf.quants import dequantize, quantize

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FF = 32, 4, 2, 8, 64
HERE = os.path.dirname(os.path.abspath(__file__))
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = ["a", "b", "c", "d", "Ġ", "é", "ab", "Ġa", "abc", "cd", "<start>", "<end>", "<turn>", "  ", "[PAD14]", "x"]
TYPES = [1] * 10 + [3, 3, 3, 4, 5, 1]          # 1 normal, 3 control, 4 user-defined, 5 unused
MERGES = ["a b", "Ġ a", "ab c", "c d"]
START, END, TURN = 10, 11, 12


def bf16(x):
    """float32 → bfloat16 bits, round to nearest even."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, tensors):
    """tensors: name → (dtype, array); an array's bytes are written as they are."""
    head, at = {}, 0
    for name, (dtype, x) in tensors.items():
        head[name] = {"dtype": dtype, "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    h = json.dumps(head).encode()
    h += b" " * (-len(h) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(h)) + h)
        for _, x in tensors.values():
            f.write(np.ascontiguousarray(x).tobytes())


def random_blocks(rng, qtype, rows, columns):
    """Random bytes, but every fp16 scale finite (subnormal ones and zeros among them)."""
    block, size = gguf.GGML_QUANT_SIZES[qtype]
    x = rng.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    scales = {Q.Q6_K: [208]}.get(qtype, [0, 2] if qtype in (Q.Q4_1, Q.Q5_1, Q.Q4_K, Q.Q5_K) else [0])
    for at in scales:
        half = rng.integers(0, 1 << 16, x.shape[:2], dtype=np.uint16)
        half &= np.where((half & 0x7C00) == 0x7C00, 0xBBFF, 0xFFFF).astype(np.uint16)
        half[0, 0] = 0x8001                    # the smallest subnormal, negative
        x[:, :, at:at + 2] = half[:, :, None].view(np.uint8)
    return x.reshape(rows, -1)


def golden_types(out):
    rng = np.random.default_rng(1)
    w = gguf.GGUFWriter(os.path.join(out, "types.gguf"), "none")
    expected = {}
    for qtype in (Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q4_K, Q.Q5_K, Q.Q6_K):
        block = gguf.GGML_QUANT_SIZES[qtype][0]
        data = random_blocks(rng, qtype, 3, block * (1 if block == 256 else 5))
        w.add_tensor(qtype.name, data, raw_dtype=qtype)
        x = dequantize(data, qtype)
        expected[qtype.name + ".f32"] = ("F32", x)
        expected[qtype.name + ".bf16"] = ("BF16", bf16(x))
    finish(w)
    write_safetensors(os.path.join(out, "types.safetensors"), dict(sorted(expected.items(), key=lambda e: e[1][0], reverse=True)))


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


class Model:
    def __init__(self, arch, seed):
        self.rng, self.arch, self.file, self.hf = np.random.default_rng(seed), arch, {}, {}

    def add(self, name, hf, shape, qtype, heads=0):
        """A random tensor; heads > 0: stored with the rows of each head interleaved, as llama.cpp does."""
        x = self.rng.standard_normal(shape).astype(np.float32)
        if qtype == Q.F32:
            raw, seen = x, ("F32", x)
        elif qtype == Q.F16:
            raw = x.astype(np.float16)
            seen = ("F16", raw)
        else:
            raw = quantize(x, qtype)
            seen = ("BF16", bf16(dequantize(raw, qtype)))
        if hf:
            self.hf[hf] = seen
        if heads:
            raw = raw.reshape(heads, 2, raw.shape[0] // heads // 2, *raw.shape[1:]).swapaxes(1, 2).reshape(raw.shape)
        self.file[name] = (np.ascontiguousarray(raw), qtype)

    def write(self, out, metadata, config, generation, tokenizer):
        w = gguf.GGUFWriter(os.path.join(out, self.arch + ".gguf"), self.arch)
        for key, value in metadata.items():
            key = key.replace("ARCH", self.arch)
            if key == "general.alignment":
                w.add_custom_alignment(value)
            elif isinstance(value, bool):
                w.add_bool(key, value)
            elif isinstance(value, int):
                w.add_uint32(key, value)
            elif isinstance(value, float):
                w.add_float32(key, value)
            elif isinstance(value, str):
                w.add_string(key, value)
            else:
                w.add_array(key, value)
        for name, (raw, qtype) in self.file.items():
            w.add_tensor(name, raw, raw_dtype=None if qtype in (Q.F32, Q.F16) else qtype)
        finish(w)
        write_safetensors(os.path.join(out, self.arch + ".safetensors"), self.hf)
        with open(os.path.join(out, self.arch + ".json"), "w") as f:
            json.dump({"config": config, "generation_config": generation, "tokenizer": tokenizer}, f, indent=1)
            f.write("\n")


def metadata(layers, **more):
    return {"ARCH.block_count": layers, "ARCH.context_length": 128, "ARCH.embedding_length": HIDDEN, "ARCH.feed_forward_length": FF,
            "ARCH.attention.head_count": HEADS, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": WORDS, "tokenizer.ggml.token_type": TYPES,
            "tokenizer.ggml.merges": MERGES, **more}


def config(**more):
    return {"hidden_size": HIDDEN, "intermediate_size": FF, "num_attention_heads": HEADS, "head_dim": HEAD_DIM, "max_position_embeddings": 128,
            "vocab_size": len(WORDS), "torch_dtype": "bfloat16", **more}


def tokenizer(pre_tokenizer, normalizer=None, ignore_merges=False, start=False):
    added = [{"id": i, "content": w, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": t == 3}
             for i, (w, t) in enumerate(zip(WORDS, TYPES)) if t in (3, 4)]
    special, a = {"SpecialToken": {"id": "<start>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    post = {"type": "TemplateProcessing", "single": [special, a], "pair": [a, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<start>": {"id": "<start>", "ids": [START], "tokens": ["<start>"]}}}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
             "byte_fallback": False, "ignore_merges": ignore_merges, "vocab": {w: i for i, w in enumerate(WORDS)},
             "merges": [m.split(" ") for m in MERGES]}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": post if start else None, "decoder": byte_level(True), "model": model}


def byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split(pattern):
    return {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, byte_level(False)]}


def gated_layer(m, i, bias, qk_heads):
    """One layer of llama or qwen2; qk_heads: heads of q and k to interleave, or (0, 0)."""
    b, h, kv = f"blk.{i}.", f"model.layers.{i}.", KV_HEADS * HEAD_DIM
    m.add(b + "attn_norm.weight", h + "input_layernorm.weight", HIDDEN, Q.F32)
    m.add(b + "attn_q.weight", h + "self_attn.q_proj.weight", (HIDDEN, HIDDEN), Q.Q8_0, qk_heads[0])
    m.add(b + "attn_k.weight", h + "self_attn.k_proj.weight", (kv, HIDDEN), Q.F16, qk_heads[1])
    m.add(b + "attn_v.weight", h + "self_attn.v_proj.weight", (kv, HIDDEN), Q.Q4_0)
    if bias:
        m.add(b + "attn_q.bias", h + "self_attn.q_proj.bias", HIDDEN, Q.F32, qk_heads[0])
        m.add(b + "attn_k.bias", h + "self_attn.k_proj.bias", kv, Q.F32, qk_heads[1])
        m.add(b + "attn_v.bias", h + "self_attn.v_proj.bias", kv, Q.F32)
    m.add(b + "attn_output.weight", h + "self_attn.o_proj.weight", (HIDDEN, HIDDEN), Q.BF16)
    m.add(b + "ffn_norm.weight", h + "post_attention_layernorm.weight", HIDDEN, Q.F32)
    m.add(b + "ffn_gate.weight", h + "mlp.gate_proj.weight", (FF, HIDDEN), Q.Q5_0)
    m.add(b + "ffn_up.weight", h + "mlp.up_proj.weight", (FF, HIDDEN), Q.Q5_1)
    m.add(b + "ffn_down.weight", h + "mlp.down_proj.weight", (HIDDEN, FF), Q.Q4_1)


def golden_llama(out):
    m = Model("llama", 2)
    m.add("rope_freqs.weight", "rope_freqs.weight", HEAD_DIM // 2, Q.F32)
    m.add("token_embd.weight", "model.embed_tokens.weight", (len(WORDS), HIDDEN), Q.Q8_0)
    gated_layer(m, 0, True, (HEADS, KV_HEADS))
    gated_layer(m, 1, False, (HEADS, KV_HEADS))
    m.add("output_norm.weight", "model.norm.weight", HIDDEN, Q.F32)
    m.write(out, metadata(2, **{"ARCH.attention.head_count_kv": KV_HEADS, "ARCH.attention.layer_norm_rms_epsilon": 0.5 ** 17, "ARCH.rope.freq_base": 500000.0,
                                "ARCH.rope.dimension_count": HEAD_DIM, "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.bos_token_id": START,
                                "tokenizer.ggml.eos_token_id": END, "tokenizer.ggml.eot_token_id": TURN, "general.alignment": 64}),
            config(architectures=["LlamaForCausalLM"], model_type="llama", num_hidden_layers=2, num_key_value_heads=KV_HEADS, hidden_act="silu",
                   rms_norm_eps=0.5 ** 17, rope_theta=500000.0, rope_scaling=None, tie_word_embeddings=True, bos_token_id=START, eos_token_id=END),
            {"bos_token_id": START, "eos_token_id": [END, TURN]}, tokenizer(split(LLAMA3), ignore_merges=True, start=True))


def golden_qwen2(out):
    m = Model("qwen2", 3)
    m.add("token_embd.weight", "model.embed_tokens.weight", (len(WORDS), HIDDEN), Q.F16)
    gated_layer(m, 0, True, (0, 0))
    m.add("output_norm.weight", "model.norm.weight", HIDDEN, Q.F32)
    m.add("output.weight", "lm_head.weight", (len(WORDS), HIDDEN), Q.Q8_0)
    m.write(out, metadata(1, **{"ARCH.attention.head_count_kv": KV_HEADS, "ARCH.attention.layer_norm_rms_epsilon": 0.5 ** 20, "ARCH.rope.freq_base": 1e6,
                                "ARCH.rope.scaling.type": "linear", "ARCH.rope.scaling.factor": 4.0, "tokenizer.ggml.pre": "qwen2",
                                "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.bos_token_id": START, "tokenizer.ggml.eos_token_id": END}),
            config(architectures=["Qwen2ForCausalLM"], model_type="qwen2", num_hidden_layers=1, num_key_value_heads=KV_HEADS, hidden_act="silu",
                   rms_norm_eps=0.5 ** 20, rope_theta=1e6, rope_scaling={"rope_type": "linear", "factor": 4.0}, tie_word_embeddings=False,
                   bos_token_id=START, eos_token_id=END),
            {"bos_token_id": START, "eos_token_id": [END]}, tokenizer(split(QWEN2), normalizer={"type": "NFC"}))


def golden_phi2(out):
    """Layer 0 holds q, k and v apart, layer 1 fused."""
    m = Model("phi2", 4)
    m.add("token_embd.weight", "model.embed_tokens.weight", (len(WORDS), HIDDEN), Q.Q4_0)
    for i in range(2):
        b, h = f"blk.{i}.", f"model.layers.{i}."
        for kind, shape, down, qtype in (("weight", (HIDDEN, HIDDEN), (HIDDEN, FF), Q.Q5_0), ("bias", HIDDEN, HIDDEN, Q.F32)):
            m.add(b + "attn_norm." + kind, h + "input_layernorm." + kind, HIDDEN, Q.F32)
            for part in "qkv":
                m.add(b + f"attn_{part}.{kind}", h + f"self_attn.{part}_proj.{kind}", shape, qtype)
            m.add(b + "attn_output." + kind, h + "self_attn.dense." + kind, shape, qtype)
            m.add(b + "ffn_up." + kind, h + "mlp.fc1." + kind, (FF, HIDDEN) if kind == "weight" else FF, qtype)
            m.add(b + "ffn_down." + kind, h + "mlp.fc2." + kind, down, qtype)
            if i == 1:
                parts = [m.file.pop(f"{b}attn_{part}.{kind}") for part in "qkv"]
                m.file[f"{b}attn_qkv.{kind}"] = (np.concatenate([p[0] for p in parts]), qtype)
    for kind, shape, qtype in (("weight", (len(WORDS), HIDDEN), Q.Q8_0), ("bias", len(WORDS), Q.F32)):
        m.add("output_norm." + kind, "model.final_layernorm." + kind, HIDDEN, Q.F32)
        m.add("output." + kind, "lm_head." + kind, shape, qtype)
    m.write(out, metadata(2, **{"ARCH.attention.layer_norm_epsilon": 0.5 ** 16, "ARCH.rope.dimension_count": 4, "tokenizer.ggml.pre": "phi-2",
                                "tokenizer.ggml.eos_token_id": END}),
            config(architectures=["PhiForCausalLM"], model_type="phi", num_hidden_layers=2, num_key_value_heads=HEADS, hidden_act="gelu_new",
                   layer_norm_eps=0.5 ** 16, rope_theta=10000.0, rope_scaling=None, partial_rotary_factor=0.5, qk_layernorm=False, tie_word_embeddings=False,
                   bos_token_id=None, eos_token_id=END),
            {"eos_token_id": [END]}, tokenizer(byte_level(True)))


if __name__ == "__main__":
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "..", "tests", "golden", "gguf")
    os.makedirs(out, exist_ok=True)
    for golden in (golden_types, golden_llama, golden_qwen2, golden_phi2):
        golden(out)
    print(out, sum(e.stat().st_size for e in os.scandir(out)), "bytes", file=sys.stderr)
