#!/usr/bin/env python3
"""A Hugging Face directory (Llama, Qwen2; one safetensors file) as a GGUF in BF16, for llama.cpp.

usage: hf_to_gguf.py DIR OUT.gguf        needs: pip install gguf numpy
"""
import json
import pathlib
import struct
import sys

import gguf
import numpy as np

PRE = {"qwen2": "qwen2", "llama": "llama-bpe"}


def read_safetensors(path):
    """name -> array; BF16 as its bits in uint16, mapped."""
    data = np.memmap(path, np.uint8, "r")
    (length,) = struct.unpack("<Q", data[:8].tobytes())
    header = json.loads(data[8 : 8 + length].tobytes())
    types = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + at for at in entry["data_offsets"])
        tensors[name] = (entry["dtype"], data[begin:end].view(types[entry["dtype"]]).reshape(entry["shape"]))
    return tensors


def interleave(array, heads):
    """Llama's GGUF keeps the two halves of a rotary pair beside each other."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def add_tokenizer(writer, folder, kind, vocab_size):
    file = folder / "tokenizer.json"
    if not file.exists():
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(vocab_size)
        return
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    types = [gguf.TokenType.UNUSED] * vocab_size
    for token, i in vocab.items():
        tokens[i], types[i] = token, gguf.TokenType.NORMAL
    for added in tokenizer.get("added_tokens", []):
        tokens[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE[kind])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_add_bos_token(kind == "llama")


def main():
    folder, out = pathlib.Path(sys.argv[1]), sys.argv[2]
    config = json.loads((folder / "config.json").read_text())
    kind = config["model_type"]
    if kind not in PRE:
        sys.exit(f"hf_to_gguf: {kind}: only {', '.join(PRE)}")
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(out, kind)
    writer.add_name(folder.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    for key, add in (("bos_token_id", writer.add_bos_token_id), ("eos_token_id", writer.add_eos_token_id)):
        value = config.get(key)
        if value is not None:
            add(value[0] if isinstance(value, list) else value)
    add_tokenizer(writer, folder, kind, config["vocab_size"])

    architecture = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for name, (dtype, array) in read_safetensors(folder / "model.safetensors").items():
        to = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if to is None:
            sys.exit(f"hf_to_gguf: {name} has no place in a {kind} GGUF")
        if kind == "llama" and (".q_proj." in name or ".k_proj." in name):
            array = interleave(array, heads if ".q_proj." in name else kv_heads)
        if array.ndim == 1:  # norms and biases are float32 in GGUF
            if dtype == "BF16":
                array = (array.astype(np.uint32) << 16).view(np.float32)
            writer.add_tensor(to, np.ascontiguousarray(array, np.float32))
        elif dtype == "BF16":
            writer.add_tensor(to, np.ascontiguousarray(array).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(to, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
