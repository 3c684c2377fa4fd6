#!/usr/bin/env python3
"""What small groups and odd widths cost: prompts and decoding at every group size, on random models.

usage: bench/group_sizes.py [--rounds N] [--threads N]

`even` has widths that 128 divides (896, 4,864), `odd` has k = 600 and 2,500, where every group size leaves a short last
group. Both have more weights than most last-level caches. All contenders run alternately; figures are medians, the
ratios are to `even` at g128. A model's speed is first multiplied by its share of even's weights in the blocks, since it
has fewer.

That compares a narrow model with a wide one, too: attention, norms and what a pass costs do not shrink with the weights.
`rounded` has odd's widths rounded up to what 128 divides (640, 2,560; heads of 64 instead of 60) and g128 alone. The last
two columns are to it, for odd at g128: what is left is the remainder's cost.

Needs: pip install numpy; files lie under --work.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from compare_llama_cpp import NIBBLE, ROOT, measured, run  # noqa: E402

SHAPES = {"even": (896, 14, 4864), "odd": (600, 10, 2500), "rounded": (640, 10, 2560)}
LAYERS, VOCAB = 24, 4096
# Group size and bits of a scale.
FORMATS = (("16", 16), ("16", 8), ("32", 16), ("32", 8), ("64", 16), ("128", 16), ("0", 16))
G128 = ("128", 16)


def config(hidden, heads, inner):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
            "num_attention_heads": heads, "num_key_value_heads": 2, "num_hidden_layers": LAYERS, "vocab_size": VOCAB,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
            "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 1}


def block_weights(hidden, heads, inner):
    return LAYERS * (2 * hidden * hidden + 2 * hidden * 2 * hidden // heads + 3 * hidden * inner)


def make(work):
    """(shape, group, bits of a scale) -> quantized directory"""
    models = {}
    for name, shape in SHAPES.items():
        source = work / f"random-{name}"
        if not (source / "model.safetensors").exists():
            source.mkdir(parents=True, exist_ok=True)
            (work / f"{name}.json").write_text(json.dumps(config(*shape)))
            run([sys.executable, ROOT / "bench/random_checkpoint.py", work / f"{name}.json", source, "--tokenizer",
                 ROOT / "data/mini/models/llama-mini/tokenizer.json"])
        for group, bits in (G128,) if name == "rounded" else FORMATS:
            out = work / f"random-{name}-g{group}-s{bits}"
            if not (out / "config.json").exists():
                run([NIBBLE, "quantize", source, out, "--method", "rtn", "--group-size", group, "--scale-bits", bits,
                     "--samples", 1, "--force"])
            models[name, group, bits] = out
    return models


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=pathlib.Path,
                        default=pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "nibble/compare")
    args = parser.parse_args()
    models = make(args.work)
    speeds = {key: {"pp": [], "tg": []} for key in models}
    for turn in range(args.rounds):
        print(f"» round {turn + 1} of {args.rounds}", file=sys.stderr)
        for key, path in models.items():
            output = measured([NIBBLE, "bench", path, "--threads", args.threads, "-r", 1, "-p", 512, "-n", 128, "-o", "json"])[0]
            for test in json.loads(output):
                speeds[key][test["test"][:2]].append(test["tokens_per_s"]["mean"])
    median = {key: {test: statistics.median(values) for test, values in tests.items()} for key, tests in speeds.items()}

    def ratios(key, base):
        """key's speeds by weight against those of base at g128"""
        share = block_weights(*SHAPES[key[0]]) / block_weights(*SHAPES[base])
        return [f"{median[key][test] * share / median[base, *G128][test]:.2f}" for test in ("pp", "tg")]

    print("| widths | group, bits of a scale | pp512 t/s | tg128 t/s | pp512 against g128 | tg128 against g128 | pp512 against rounded "
          "| tg128 against rounded |\n|---|---|---|---|---|---|---|---|")
    for key, m in median.items():
        name, group, bits = key
        label = f"{'row' if group == '0' else group}, {bits}"
        columns = ratios(key, "even") + (ratios(key, "rounded") if key == ("odd", *G128) else ["", ""])
        print(f"| {name} | {label} | {m['pp']:.0f} | {m['tg']:.1f} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
