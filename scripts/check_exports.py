#!/usr/bin/env python3
"""Proof by the other side: other software loads what `nibble convert` wrote and gives nibble's logits.

usage: scripts/check_exports.py [MODEL …] [--work DIR] [--llama DIR]

MODEL: names or directories, default the three bundled models. Each is quantized (--method rtn: the proof is of the
format, not of the method), exported, and read by
  transformers 5 + compressed-tensors       compressed-tensors, symmetric; asymmetric by its decompressor alone
  transformers 4 + compressed-tensors 0.13  compressed-tensors, symmetric or not
  transformers 5 + optimum + GPTQModel      gptq, gptq_v2; awq by GPTQModel's dequantization
  transformers 4 + optimum + auto-gptq      gptq alone
  transformers 4 + AutoAWQ                  awq by AutoAWQ's dequantization
                                            (4: what PyTorch 1.13 can run, which Debian has as a small package)
  llama.cpp                                 gguf: the same tokens, and the same greedy text, as nibble's own; and the tokens of
                                            a fixture with a tokenizer of SentencePiece's kind
  gguf                                      gguf: its weights are those of every other export, bit for bit, which numpy
                                            unpacks here by the formulas of their formats
transformers on the CPU in float32; printed is the largest difference of a logit over the tokens of a text, and the
share of positions with the same first token. Fails when a difference is above 2e-3 or a token, greedy text or weight
differs. A reader that is not installed is named as not run; --require NAME … makes that a failure. What the installed
version of a reader does not read is named, too.

needs: pip install numpy safetensors, and of these what shall read
         torch transformers compressed-tensors accelerate optimum gptqmodel   (several gigabytes), or
         of Debian 12 python3-torch, then for /usr/bin/python3, with --no-deps where these name a newer torch:
           'numpy<2' transformers==4.46.3 compressed-tensors==0.13.0 loguru accelerate==0.34.2 optimum==1.23.3
           peft==0.12.0 auto-gptq==0.7.1 autoawq==0.2.7.post3
         gguf
         cyllama, which holds llama.cpp; or llama-completion and llama-tokenize in --llama (bench/compare_llama_cpp.py)
"""
import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = "Question: Ada has 3 boxes with 5 pens in each. How many pens does she have?\nAnswer: 3 times 5 is 15."
PROMPT = "Question: Ada has 3 boxes with 5 pens in each. How many pens does she have?\nAnswer:"
GREEDY_TOKENS = 24
# format -> options of nibble quantize
EXPORTS = {
    "compressed-tensors": "--group-size 32",
    "compressed-tensors symmetric": "--group-size 32 --symmetric",
    "gptq": "--group-size 32 --symmetric",
    "gptq_v2": "--group-size 32",
    "awq": "--group-size 32",
}
QUICK = ("--method", "rtn", "--samples", "2", "--seqlen", "64")  # its weights need no calibration, only its report does
LIMIT = 2e-3
# Layers that a format cannot say stay at 16 bits: 600 inputs of qwen2-mini fit no group, nor GGUF's blocks.
PLAN = '[[rule]]\npattern = ".*down_proj"\nbits = 16\n'


def nibble(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"failed: nibble {' '.join(map(str, arguments))}\n{done.stderr[-1500:]}")
    return done.stdout


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers(package):
    return tuple(int(part) for part in version(package).split(".")[:2])


class Placeholder(types.ModuleType):
    """A module whose every name is there, for imports whose names nothing here calls."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def for_old_torch():
    """compressed-tensors names types and a decorator that PyTorch 1.13 has not, for formats of no export here, and what only
    transformers 5 has, for attention and cache, which no export here quantizes; optimum and auto-gptq import what only
    quantizing needs."""
    import torch
    import transformers  # which looks for datasets, too, and must not find the placeholder

    if not hasattr(torch, "float8_e4m3fn"):
        torch.float8_e4m3fn = torch.float16
    if not hasattr(torch, "compile"):
        torch.compile = lambda function=None, **_: function or torch.compile
    if importlib.util.find_spec("transformers.masking_utils") is None:
        for part in ("", ".attention", ".kvcache"):
            sys.modules["compressed_tensors.modeling" + part] = Placeholder("compressed_tensors.modeling" + part)
    for package in ("datasets", "gekko"):
        if version("auto-gptq") and not version(package):
            sys.modules[package] = Placeholder(package)
    return transformers


def awq_dequantization():
    """The function, and whose it is. Of AutoAWQ without what its package imports first, models of newer transformers; and
    with the whole numbers that PyTorch 1.13 takes for an index, 64 bits."""
    if version("gptqmodel"):
        from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

        return dequantize_gemm, "GPTQModel's dequantize_gemm, into transformers"
    import torch

    if "awq" not in sys.modules:
        sys.modules["awq"] = importlib.util.module_from_spec(importlib.util.find_spec("awq"))
    from awq.utils import packing_utils

    packing_utils.torch = types.SimpleNamespace(**{**vars(torch), "int32": torch.int64})
    return packing_utils.dequantize_gemm, "AutoAWQ's dequantize_gemm, into transformers"


def unread(label, model):
    """Why the installed readers do not read this export; None when they do."""
    form = label.split()[0]
    if version("torch") is None or version("transformers") is None:
        return "not run: torch, transformers not installed"
    if form == "compressed-tensors":
        if version("compressed-tensors") is None:
            return "not run: compressed-tensors not installed"
        if label == form and numbers("compressed-tensors") < (0, 13):
            return f"not read by compressed-tensors {version('compressed-tensors')}: packed zero points"
        return None
    if form == "awq":
        return None if version("gptqmodel") or version("autoawq") else "not run: neither gptqmodel nor autoawq installed"
    if version("optimum") is None or (version("gptqmodel") or version("auto-gptq")) is None:
        return "not run: optimum, gptqmodel not installed"
    if version("gptqmodel") is None and form != "gptq":
        return f"not read by auto-gptq {version('auto-gptq')}"
    if version("gptqmodel") is None and needs_plan(model):
        return f"not read by auto-gptq {version('auto-gptq')}: outputs that are no multiple of 32"
    return None


def nibble_logits(program, model, work):
    import safetensors.numpy

    file = work / "logits.safetensors"
    nibble(program, "logits", model, "--text", TEXT, "--out", file, "--dtype", "float32", "--activations", "f32")
    data = safetensors.numpy.load_file(file)
    return data["ids"].reshape(-1).tolist(), data["logits"]


def logits_of(model, ids):
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


def float32():
    import torch

    return {"dtype" if numbers("transformers") >= (5,) else "torch_dtype": torch.float32}


def by_transformers(folder, ids, form):
    """Logits by transformers' own reader of the format, and whose class the layers have that did it."""
    import torch
    from transformers import AutoModelForCausalLM, GPTQConfig

    options = float32()
    # The plain kernels: what `auto` takes on this processor multiplies bf16.
    if form.startswith("gptq"):
        plain = {"backend": "gptq_torch"} if version("gptqmodel") else {"use_exllama": False}
        options["quantization_config"] = GPTQConfig(bits=4, **plain)
    model = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", **options)
    if form.startswith("gptq"):
        for module in model.modules():
            if hasattr(module, "qweight"):
                module.scales = module.scales.float()  # they multiply in the scales' type, fp16
    layer = type(model.model.layers[0].self_attn.q_proj)
    return logits_of(model, ids), f"transformers, {layer.__name__} of {layer.__module__.split('.')[0]}"


def load_dense(config, kept, dense, ids):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), **float32())
    absent, unknown = model.load_state_dict({**{k: v.float() for k, v in kept.items()}, **dense}, strict=False)
    if unknown or set(absent) - {"lm_head.weight"}:
        raise RuntimeError(f"missing {absent}, unknown {unknown}")
    model.tie_weights()
    return logits_of(model, ids)


def read_export(folder):
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    return config, config.pop("quantization_config"), load_file(folder / "model.safetensors")


def by_decompressor(folder, ids):
    """The same with compressed-tensors' own decompression of every linear. transformers 5.24 cannot load asymmetric
    pack-quantized files, llm-compressor's own included: it expects zero points of the unpacked shape."""
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    config, quantization, tensors = read_export(folder)
    (group,) = quantization["config_groups"].values()
    scheme = QuantizationScheme.model_validate(group)
    dense = {}
    for key in [k for k in tensors if k.endswith(".weight_packed")]:
        prefix = key.removesuffix("weight_packed")
        part = {k.removeprefix(prefix): tensors.pop(k) for k in list(tensors) if k.startswith(prefix + "weight_")}
        part["weight_scale"] = part["weight_scale"].float()
        dense[prefix + "weight"] = PackedQuantizationCompressor.decompress(part, scheme)["weight"]
    return load_dense(config, tensors, dense, ids), "compressed-tensors' decompressor, into transformers"


def by_awq_dequantization(folder, ids):
    """Linears dequantized by AWQ's routine in float32. The CPU kernels that transformers would take are less exact than the
    limit (docs/formats.md); AutoAWQ's multiply in fp16, which PyTorch 1.13 cannot on a CPU."""
    dequantize_gemm, whose = awq_dequantization()
    config, quantization, tensors = read_export(folder)
    dense = {}
    for key in [k for k in tensors if k.endswith(".qweight")]:
        prefix = key.removesuffix("qweight")
        codes, zeros, scales = (tensors.pop(prefix + part) for part in ("qweight", "qzeros", "scales"))
        weight = dequantize_gemm(codes, zeros, scales.float(), quantization["bits"], quantization["group_size"])
        dense[prefix + "weight"] = weight.float().T
    return load_dense(config, tensors, dense, ids), whose


def check_transformers(args, model, name, work):
    rows = []
    odd = needs_plan(model)
    for label, options in EXPORTS.items():
        form = label.split()[0]
        out = work / f"{name}.{label.replace(' ', '-')}"
        if why := unread(label, model):
            rows.append((name, label, "transformers", why))
            continue
        for_old_torch()
        plan = ["--plan", work / "plan.toml"] if odd and not form.startswith("gptq") else []
        nibble(args.nibble, "quantize", model, out, *QUICK, *options.split(), *plan, "--format", form, "--force")
        ids, ours = nibble_logits(args.nibble, out, work)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                if label == "compressed-tensors" and numbers("transformers") >= (5,):
                    theirs, layer = by_decompressor(out, ids)
                elif form == "awq":
                    theirs, layer = by_awq_dequantization(out, ids)
                else:
                    theirs, layer = by_transformers(out, ids, form)
        except Exception as error:  # whatever the reader throws is the finding
            rows.append((name, label, "transformers", f"FAILED to load: {type(error).__name__}: {str(error)[:300]}"))
            continue
        worst = float(abs(ours - theirs).max())
        same = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
        verdict = "ok" if worst <= LIMIT else "FAILED"
        rows.append((name, label, layer, f"{verdict}: largest difference {worst:.1e}, same first token {same:.0%}"))
    return rows


def needs_plan(model):
    """Whether the width of the MLP fits no group of 32 (a format's limit, not the method's)."""
    config = json.loads((pathlib.Path(model) / "config.json").read_text())
    return config["intermediate_size"] % 32 != 0


def llama_run(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
    if done.returncode != 0:  # half a text is no text
        raise SystemExit(f"failed ({done.returncode}): {' '.join(map(str, command))}\n{done.stderr[-1500:]}")
    return done


def by_llama_tools(folder, file):
    """Tokens of TEXT and the greedy text after PROMPT, by llama.cpp's programs."""
    # --ids prints a Python-like list of the ids, start token included.
    listed = llama_run([folder / "llama-tokenize", "-m", file, "-p", TEXT, "--ids", "--log-disable"])
    done = llama_run([folder / "llama-completion", "-m", file, "-p", PROMPT, "-n", GREEDY_TOKENS, "--temp", "0",
                      "-no-cnv", "--no-display-prompt", "--no-warmup", "-t", "2"])
    return json.loads(re.search(r"\[[\d, ]+\]", listed.stdout)[0]), done.stdout.replace("[end of text]", "")


def by_cyllama(file):
    """The same by the llama.cpp inside the package."""
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()
    model = llama_cpp.LlamaModel(str(file), llama_cpp.LlamaModelParams())
    parameters = llama_cpp.LlamaContextParams()
    parameters.n_ctx, parameters.n_threads, parameters.n_threads_batch = 256, 2, 2
    context, vocabulary = llama_cpp.LlamaContext(model, parameters), model.get_vocab()
    sampler = llama_cpp.LlamaSampler(llama_cpp.LlamaSamplerChainParams())
    sampler.add_greedy()
    step, position, text = vocabulary.tokenize(PROMPT, True, True), 0, []
    while len(text) < GREEDY_TOKENS:
        if context.decode(llama_cpp.llama_batch_get_one(step, position)) != 0:
            raise SystemExit(f"failed: llama.cpp cannot run {file}")
        position += len(step)
        step = [sampler.sample(context, -1)]
        if vocabulary.is_eog(step[0]):
            break
        text += step
    return vocabulary.tokenize(TEXT, True, True), vocabulary.detokenize(text, 4096, True, False)


def check_llama(args, model, name, work):
    tools = ("llama-completion", "llama-tokenize")
    absent = [tool for tool in tools if not (args.llama / tool).exists()]
    packaged = version("cyllama")
    if absent and not packaged:
        return [(name, "gguf", "llama.cpp", f"not run: neither {', '.join(absent)} in {args.llama} nor cyllama installed")]
    reader = f"llama.cpp (cyllama {packaged})" if packaged else "llama.cpp"
    rows = []
    plan = ["--plan", work / "plan.toml"] if needs_plan(model) else []
    for label, options in (("gguf Q4_0", "--group-size 32 --symmetric"), ("gguf Q8_0 of asymmetric", "--group-size 32")):
        out = work / f"{name}.{label.split()[1]}.gguf"
        nibble(args.nibble, "quantize", model, out, *QUICK, *options.split(), *plan, "--format", "gguf", "--force")
        ours = json.loads(nibble(args.nibble, "tokenize", model, "--text", TEXT))
        theirs, other = by_cyllama(out) if packaged else by_llama_tools(args.llama, out)
        text = nibble(args.nibble, "generate", out, "--prompt", PROMPT, "--max-tokens", GREEDY_TOKENS, "--activations",
                      "f32", "--dtype", "float32")
        tokens = "same tokens" if ours == theirs else f"other tokens ({ours[:8]} … against {theirs[:8]} …)"
        same = text.strip() == other.strip()
        greedy = "same greedy text" if same else f"greedy text {other.strip()[:80]!r} against {text.strip()[:80]!r}"
        verdict = "ok" if ours == theirs and same else "FAILED"
        rows.append((name, label, reader, f"{verdict}: {tokens}, {greedy}"))
    return rows


def check_sentencepiece(args, work):
    """Tokens by llama.cpp of a GGUF with a tokenizer of SentencePiece's kind, which no bundled model has."""
    if version("cyllama") is None:
        return ("sentencepiece", "gguf", "llama.cpp", "not run: cyllama not installed")
    from cyllama.llama import llama_cpp

    golden = json.loads((ROOT / "tests/golden/sentencepiece.json").read_text())
    folder, file = work / "sentencepiece", work / "sentencepiece.gguf"
    shutil.copytree(ROOT / "data/mini/foreign/gptq-sym-g32", folder)
    (folder / "tokenizer.json").write_text(json.dumps(golden["base"]))
    nibble(args.nibble, "convert", folder, file, "--to", "gguf")
    llama_cpp.disable_logging()
    model = llama_cpp.LlamaModel(str(file), llama_cpp.LlamaModelParams())
    (trained,) = (v["cases"] for v in golden["variants"] if v["name"] == "as trained")
    cases = [c for c in trained if c["text"] and "\0" not in c["text"]]  # which the binding cannot pass
    wrong = [c["text"] for c in cases if list(model.get_vocab().tokenize(c["text"], True, True)) != c["ids"]]
    verdict = f"FAILED: other tokens of {wrong[0]!r}" if wrong else f"ok: same tokens of {len(cases)} texts"
    return ("sentencepiece", "gguf", f"llama.cpp (cyllama {version('cyllama')})", verdict)


def nibbles(words, axis, order=range(8)):
    """4-bit codes of int32 words; code i of a word is order[i] of the eight that lie along `axis`."""
    import numpy

    words = numpy.moveaxis(words.view(numpy.uint32), axis, -1)
    codes = numpy.empty((*words.shape, 8), numpy.int32)
    for i, at in enumerate(order):
        codes[..., at] = words >> 4 * i & 15
    return numpy.moveaxis(codes.reshape(*words.shape[:-1], -1), -1, axis)


def by_formula(folder, form):
    """The 4-bit weights of an export, {linear: float32 [outputs, inputs]}, by the formulas in docs of the formats."""
    import numpy
    from safetensors import safe_open

    weights = {}
    mark = ".weight_packed" if form == "compressed-tensors" else ".qweight"
    with safe_open(folder / "model.safetensors", "numpy") as file:
        names = set(file.keys())
        for linear in sorted(n.removesuffix(mark) for n in names if n.endswith(mark)):
            get = lambda part: file.get_tensor(f"{linear}.{part}")
            if form == "compressed-tensors":  # signed codes, stored + 8
                codes, scales = nibbles(get("weight_packed"), 1) - 8, get("weight_scale").astype(numpy.float32)
                zeros = (nibbles(get("weight_zero_point"), 0)[: len(scales)] - 8
                         if f"{linear}.weight_zero_point" in names else numpy.zeros(scales.shape, numpy.int32))
                codes = codes[:, : int(get("weight_shape")[1])]
                group = numpy.arange(codes.shape[1]) // (codes.shape[1] // scales.shape[1])
            else:  # as [inputs, outputs]
                awq = form == "awq"
                order = (0, 2, 4, 6, 1, 3, 5, 7) if awq else range(8)
                codes = nibbles(get("qweight"), 1 if awq else 0, order).T
                zeros = nibbles(get("qzeros"), 1, order).T + (form == "gptq")  # version 1 stores one less
                scales = get("scales").T.astype(numpy.float32)
                group = numpy.arange(codes.shape[1]) // (codes.shape[1] // scales.shape[1]) if awq else get("g_idx")
            weights[linear] = scales[:, group] * (codes - zeros[:, group]).astype(numpy.float32)
    return weights


def by_gguf(file, linears):
    """The same of a GGUF, by the gguf package: its names, its dequantization, llama's rows as its converter puts them."""
    import gguf

    reader = gguf.GGUFReader(file)
    architecture = str(reader.get_field("general.architecture").contents())
    field = lambda key: reader.get_field(f"{architecture}.{key}").contents()
    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, field("block_count"))
    tensors = {t.name: t for t in reader.tensors}
    weights = {}
    for linear in linears:
        tensor = tensors[names.get_name(linear) + ".weight"]
        weight = gguf.dequantize(tensor.data, tensor.tensor_type)
        if architecture == "llama" and linear.endswith((".q_proj", ".k_proj")):
            heads = field("attention.head_count" + ("_kv" if linear.endswith("k_proj") else ""))
            weight = weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        weights[linear] = weight
    return weights


def check_gguf(args, model, name, work):
    missing = [p for p in ("gguf", "numpy", "safetensors") if version(p) is None]
    if missing:
        return [(name, "all", "gguf", f"not run: {', '.join(missing)} not installed")]
    rows = []
    plan = ["--plan", work / "plan.toml"] if needs_plan(model) else []
    for label, options in EXPORTS.items():
        form = label.split()[0]
        outs = [(form, work / f"{name}.{label.replace(' ', '-')}.values"),
                ("gguf", work / f"{name}{options.replace(' ', '')}.values.gguf")]
        for to, out in outs:
            if not out.exists():
                nibble(args.nibble, "quantize", model, out, *QUICK, *options.split(), *plan, "--format", to)
        ours = by_formula(outs[0][1], form)
        theirs = by_gguf(outs[1][1], ours)
        wrong = [linear for linear, weight in ours.items() if not (weight == theirs[linear]).all()]
        verdict = f"FAILED: {len(wrong)} differ, {wrong[0]}" if wrong or not ours else "ok"
        rows.append((name, label, f"formula; gguf {version('gguf')}", f"{verdict}: {len(ours)} linears equal bit for bit"
                     if verdict == "ok" else verdict))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--nibble", type=pathlib.Path, default=ROOT / "build/release/nibble")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/nibble-exports"))
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    parser.add_argument("--llama", type=pathlib.Path, default=cache / "nibble/compare/llama-build/bin")
    parser.add_argument("--require", nargs="*", default=[], choices=["transformers", "llama.cpp", "gguf"])
    args = parser.parse_args()
    models = args.models or [str(ROOT / "data/mini/models" / name) for name in ("llama-mini", "qwen2-mini", "phi-mini")]
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    (args.work / "plan.toml").write_text(PLAN)
    packages = ", ".join(f"{p} {version(p)}" for p in
                         ("transformers", "compressed-tensors", "gptqmodel", "auto-gptq", "autoawq", "optimum", "torch", "gguf", "cyllama") if version(p))
    print(f"{nibble(args.nibble, '--version').strip()}; {packages}")
    print("\n| model | export | read by | result |\n|---|---|---|---|")
    row = check_sentencepiece(args, args.work)
    print(f"| {' | '.join(row)} |", flush=True)
    failed = "FAILED" in row[3] or ("not run" in row[3] and "llama.cpp" in args.require)
    for model in models:
        name = pathlib.Path(model).name
        for check, reader in ((check_transformers, "transformers"), (check_llama, "llama.cpp"), (check_gguf, "gguf")):
            for row in check(args, model, name, args.work):
                print(f"| {' | '.join(row)} |", flush=True)
                failed = failed or "FAILED" in row[3] or ("not run" in row[3] and reader in args.require)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
