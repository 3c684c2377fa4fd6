#!/usr/bin/env python3
"""Small models quantized by other tools, with the logits those tools give: data/mini/foreign/{NAME,NAME.logits.safetensors}.

usage: make_foreign_fixtures.py OUT NAME...
  gptq-act-order-g32        GPTQModel, desc_act, version 1, qwen2-mini's first two layers
  gptq-v2-dynamic           GPTQModel, version 2, asymmetric, per-module overrides, llama-mini's first two layers
  compressed-tensors-w8-channel  llm-compressor, 8 bits, whole rows, act-order, qwen2-mini's first two layers
needs: pip install torch transformers gptqmodel optimum llmcompressor safetensors
The logits are those of the weights that the tool itself dequantizes, multiplied in float32 by transformers.
"""
import json
import pathlib
import shutil
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

MINI = pathlib.Path(__file__).resolve().parent.parent / "data/mini"
LAYERS = 2
TOKENS = 24


def cut(name, folder):
    """The first layers of a mini model, as a model of its own."""
    source = MINI / "models" / name
    shutil.copytree(source, folder, dirs_exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    config["num_hidden_layers"] = LAYERS
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tensors = load_file(source / "model.safetensors")
    keep = {k: v for k, v in tensors.items() if not k.startswith("model.layers.") or int(k.split(".")[2]) < LAYERS}
    save_file(keep, folder / "model.safetensors", {"format": "pt"})
    return folder


def calibration(tokenizer, count=64, length=128):
    text = (MINI / "data/wikitext.train.txt").read_text()[: count * length * 8]
    ids = tokenizer(text)["input_ids"]
    return [ids[i * length : (i + 1) * length] for i in range(count) if (i + 1) * length <= len(ids)]


def save_logits(model, tokenizer, path):
    ids = tokenizer((MINI / "data/wikitext.test.txt").read_text()[:400])["input_ids"][:TOKENS]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].float()
    save_file({"ids": torch.tensor(ids), "logits": logits.contiguous()}, path)


def gptq(source, out, tokenizer, **options):
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    config = QuantizeConfig(bits=4, **options)
    model = GPTQModel.load(str(source), config)
    model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in calibration(tokenizer)], batch_size=4)
    model.save(str(out))
    loaded = GPTQModel.load(str(out), backend=BACKEND.TORCH, device="cpu", dtype=torch.float16)  # that of the scales
    dense = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    modules = dict(loaded.model.named_modules())
    with torch.no_grad():
        for name, module in dense.named_modules():
            other = modules.get(name)
            if other is not None and hasattr(other, "dequantize_weight"):
                other.scales = other.scales.float()  # the product is otherwise rounded to 16 bits
                weight = other.dequantize_weight()
                assert weight.dtype == torch.float32
                module.weight.copy_(weight.T if weight.shape != module.weight.shape or weight.shape[0] == weight.shape[1]
                                    else weight)
    return dense


def compressed(source, out, tokenizer):
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    data = Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in calibration(tokenizer)])
    recipe = GPTQModifier(targets="Linear", ignore=["lm_head"], config_groups={
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "symmetric": True,
                                                       "strategy": "channel", "actorder": "weight"}}})
    oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=128, num_calibration_samples=len(data))
    model.save_pretrained(out, save_compressed=True, quantization_format="pack-quantized")
    tokenizer.save_pretrained(out)
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    return loaded


def main():
    out = pathlib.Path(sys.argv[1])
    torch.manual_seed(0)
    for name in sys.argv[2:]:
        with tempfile.TemporaryDirectory() as temporary:
            mini = "llama-mini" if "dynamic" in name else "qwen2-mini"
            source = cut(mini, pathlib.Path(temporary) / "source")
            tokenizer = AutoTokenizer.from_pretrained(source)
            folder = out / name
            if name == "gptq-act-order-g32":
                model = gptq(source, folder, tokenizer, group_size=32, desc_act=True, act_group_aware=False, sym=True)
            elif name == "gptq-v2-dynamic":
                model = gptq(source, folder, tokenizer, group_size=64, desc_act=False, sym=False, format="gptq_v2",
                             dynamic={r"+:.*\.down_proj": {"bits": 8, "group_size": 32},
                                      r"-:.*layers\.0\..*o_proj": {}})
            else:
                model = compressed(source, folder, tokenizer)
            save_logits(model, tokenizer, out / f"{name}.logits.safetensors")
            for extra in folder.iterdir():
                if extra.suffix not in (".json", ".safetensors"):
                    extra.unlink()
            config = json.loads((folder / "config.json").read_text())
            config["quantization_config"].get("meta", {}).pop("offload_to_disk_path", None)  # of this machine
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            (folder / "quantize_config.json").unlink(missing_ok=True)  # says the same
            print(name, sorted(f.name for f in folder.iterdir()))


if __name__ == "__main__":
    main()
