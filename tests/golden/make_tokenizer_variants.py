#!/usr/bin/env python3
"""Writes tokenizer_variants.json: phi-mini's tokenizer with parts replaced, and the ids that Hugging
Face's tokenizers gives for a few strings. Run with `tokenizers` installed; written with 0.23.3."""
import json
import pathlib

import tokenizers

HERE = pathlib.Path(__file__).resolve().parent
BASE = json.loads((HERE / "../../data/mini/models/phi-mini/tokenizer.json").read_text())


def byte_level(prefix, regex):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def split(pattern, kind="Regex"):
    step = {"type": "Split", "pattern": {kind: pattern}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": sequence(step, byte_level(False, False))}


def digits(individual, prefix):
    return {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": individual}, byte_level(prefix, True))}


def added(*tokens, first=2048):
    rows = [dict(id=first + i, content=content, single_word="w" in flags, lstrip="l" in flags, rstrip="r" in flags,
                 normalized="n" in flags, special="s" in flags) for i, (content, flags) in enumerate(tokens)]
    return {"added_tokens": BASE["added_tokens"] + rows}


def template(before, after):
    names = {name: ids for name, ids in before + after}
    piece = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {"post_processor": {"type": "Sequence", "processors": [byte_level(True, True), {
        "type": "TemplateProcessing",
        "single": [piece(n) for n, _ in before] + [text] + [piece(n) for n, _ in after],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {n: {"id": n, "ids": ids, "tokens": [n] * len(ids)} for n, ids in names.items()}}]}}


def model(**changes):
    return {"model": changes}  # keys replaced inside the model


PROSE = ["", " ", "Hello, world!", " two  spaces\n\n and\tlines \n", "I'm he'Ll WE'RE \u017f'\u017f '\u212a",
         "in 1984 and 12345678", "½ ² Ⅷ ١٢٣ x1y22", "naïve cafe\u0301 漢字 한국 👩‍👧", "a\u180eb\u0085c\u00a0d\u200be\u3000f\x1cg"]
MARKS = ["cafe\u0301", "A\u030a\u0301", "\u0344\u0300\u0323q\u0307\u0323", "\u1100\u1161\u11a8\uac00", "\u2126\u212b\u0958", "plain"]
TOKENS = ["foo food foo. afoo", "a <l> b<l>c  <l>  <l>", "a <r> b<r>c\n <r>", "x <b>  <b> \u3000<b>y", "abcd abc bcd ab",
          "\t\t  \t    x", "éé e\u0301e\u0301 ÅÅ A\u030aA\u030a", "_foo foo_ (foo) ⓐfoo 一foo foo\u200d", "<|endoftext|>foo"]
ADDED = added(("foo", "w"), ("<l>", "l"), ("<r>", "r"), ("<b>", "lrs"), ("  ", "n"), ("    ", "n"), ("\t", "n"), ("éé", "n"),
              ("ÅÅ", ""), ("ab", ""), ("abc", "n"), ("bcd", ""))
NFC = {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}}
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
MISSING = ["Ġ", "l", "a", "Ã"]


def without_bytes(**changes):
    vocab = {t: i for t, i in BASE["model"]["vocab"].items() if not any(m in t for m in MISSING)}
    merges = [m for m in BASE["model"]["merges"] if m[0] in vocab and m[1] in vocab and m[0] + m[1] in vocab]
    return model(vocab=vocab, merges=merges, **changes)


VARIANTS = [
    ("digits one by one", digits(True, False), PROSE),
    ("digits in runs, prefix space", digits(False, True), PROSE),
    ("prefix space", {"pre_tokenizer": byte_level(True, True)}, PROSE + [" x", "\nx", "<|endoftext|>x"]),
    ("prefix space, no regex", {"pre_tokenizer": byte_level(True, False)}, PROSE),
    ("split and prefix space", {"pre_tokenizer": sequence(split(CL100K)["pre_tokenizer"]["pretokenizers"][0],
                                                          byte_level(True, False))}, PROSE),
    ("Llama 3's pattern", split(CL100K), PROSE),
    ("empty matches", split(r"\s*"), PROSE),
    ("options and hex digits", split(r"(?i)\u017f|k|\h{2,3}?|\v"), PROSE),
    ("anchors, lookbehind, possessive", split(r"^.|.$|(?<=\p{Lu})\p{Ll}*+|[^\S\n]+"), PROSE),
    ("look ahead by threes", split(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"), PROSE),
    ("literal", split(", w", "String"), PROSE + ["a, wb, w, w", ", w"]),
    ("nfc", NFC, MARKS),
    ("added tokens", ADDED, TOKENS),
    ("added tokens, nfc, prefix space", {**ADDED, **NFC, "pre_tokenizer": byte_level(True, True)}, TOKENS),
    ("template", {**ADDED, **template([("<b>", [2051])], [("foo", [2048, 2049])])}, ["", "Hello", "foo"]),
    ("ignore merges", model(ignore_merges=True, merges=BASE["model"]["merges"][:200]), PROSE),
    ("merges as strings", model(merges=[" ".join(m) for m in BASE["model"]["merges"]]), PROSE),
    ("missing bytes", without_bytes(), PROSE),
    ("unknown token", without_bytes(unk_token="!"), PROSE),
    ("fused unknown token", without_bytes(unk_token="!", fuse_unk=True), PROSE + ["all alla aaall"]),
]

rows = []
for name, changes, texts in VARIANTS:
    document = {**BASE, **changes, "model": {**BASE["model"], **changes.get("model", {})}}
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
    row = {"name": name}
    for key, value in changes.items():
        if key == "model" and "vocab" in value:  # too long to store: what was left out says it
            value = {**{k: v for k, v in value.items() if k not in ("vocab", "merges")}, "without": MISSING}
        elif key == "model" and "merges" in value:
            value = {**value, "merges": "strings" if isinstance(value["merges"][0], str) else len(value["merges"])}
        row[key] = value
    row["cases"] = [{"text": text, "ids": tokenizer.encode(text).ids} for text in texts]
    rows.append(json.dumps(row))
head = json.dumps(f"tokenizers {tokenizers.__version__}")
(HERE / "tokenizer_variants.json").write_text('{"made_with": %s, "variants": [\n%s\n]}\n' % (head, ",\n".join(rows)))
