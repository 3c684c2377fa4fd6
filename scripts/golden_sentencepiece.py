#!/usr/bin/env python3
"""Prints a small tokenizer of SentencePiece's kind (BPE with byte_fallback) as Hugging Face's tokenizer.json, that file with
parts replaced as other models have them, and the ids and texts that Hugging Face's tokenizers gives for them.

Where the parts are those of the trained model, the ids must be SentencePiece's own, too.
"""
import io
import json
import pathlib
import sys

import sentencepiece
import tokenizers

ROOT = pathlib.Path(__file__).resolve().parent.parent
CORPUS = ROOT / "data/mini/data/wikitext.train.txt"
SIZE = 420
MARK = "\u2581"
SPECIALS = ["<unk>", "<s>", "</s>"]


def train():
    model = io.BytesIO()
    lines = [line for line in CORPUS.read_text().split("\n") if line.strip()][:400]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines + ["é ü 漢字 ¡ ”"] * 3), model_writer=model, model_type="bpe", vocab_size=SIZE, byte_fallback=True,
        character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, num_threads=1,
        allow_whitespace_only_pieces=True, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def merges_of(pieces, scores):
    """Two pieces that make a third, the best third first: what the converter of transformers does."""
    ids = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for piece, score in zip(pieces, scores):
        halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        merges += [(score, left, right) for left, right in sorted((h for h in halves if h[0] in ids and h[1] in ids),
                                                                  key=lambda h: (ids[h[0]], ids[h[1]]))]
    merges.sort(key=lambda m: (m[0], len(m[1]), len(m[2])), reverse=True)
    return [f"{left} {right}" for _, left, right in merges]


def added(*rows, first=0):
    return [{"id": first + i, "content": content, "single_word": False, "lstrip": "l" in flags, "rstrip": "r" in flags,
             "normalized": "n" in flags, "special": "s" in flags} for i, (content, flags) in enumerate(rows)]


def replace(pattern, content):
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def metaspace(**options):
    return {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": MARK, **options}}


def base_of(processor):
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    assert pieces[:3] == SPECIALS and pieces[3] == "<0x00>" and pieces[258] == "<0xFF>"
    start, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added(*((s, "s") for s in SPECIALS)),
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK}, replace(" ", MARK)]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [start, text], "pair": [start, text, start, other],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [replace(MARK, " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                                                     {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": {piece: i for i, piece in enumerate(pieces)},
                  "merges": merges_of(pieces[259:], [processor.get_score(i) for i in range(259, len(pieces))])}}


TEXTS = ["", " ", "  ", "   a", "a", "Hello world", " Hello  world ", "The bridge was opened in 1758.", "The\n\nlibrary\tlies\r\n", "x   y    z     .",
         "\u2581", "a\u2581b \u2581 c", "é ü 漢字", "naïve café", "👩\u200d👧 and 🦙", "한국어 \u3042", "\u00a0\u2003x", "\x00\x1f\x7f", "<0x41> <0x0A>",
         "\U0010ffff", "aaaaaaaaaaaaaaaa", "                 ", "Torwickton Bridge, a bridge, lies near the centre of Estmoor. " * 3, "e\u0301",
         "if (x == 1) {\n    return y;\n}"]
MARKED = ["<s>", "</s>", "a</s>b", "a </s> b", "<s>Hello", " <s> Hello", "</s></s>", "<unk>x", "x<unk>", "<s", "é</s>👍</s> ", "one</s>\n two"]
ADDED = ["<l> a <l>b", "a  <r>  b<r>c", "New York New  York", "xNew York", "\nNew York</s>New York"]
WITHOUT = ["<0xF0>", "<0xC3>", "é", "q"]  # no token for these


def without(model):
    gone = lambda token: any(w in token for w in WITHOUT)
    return {**model, "vocab": {t: i for t, i in model["vocab"].items() if not gone(t)},
            "merges": [m for m in model["merges"] if not gone(m.replace(" ", ""))]}


def variants(base):
    decoders = base["decoder"]["decoders"]
    unstripped = {"decoder": {"type": "Sequence", "decoders": decoders[:3]}}
    more = {"added_tokens": base["added_tokens"] + added(("<l>", "ls"), ("<r>", "rs"), ("New York", "n"), first=SIZE)}
    odd = [t + "é" for t in ("qé", "q🦙", "🦙q", "aéqb", "qéa", "éüq漢")] + ["q", "é", "qqa", "q 🦙"]
    digits = {"type": "Digits", "individual_digits": True}
    yield "as trained", {}, TEXTS + MARKED
    yield "normalized specials", {"added_tokens": added(*((s, "sn") for s in SPECIALS))}, MARKED
    yield "added tokens", more, ADDED
    for scheme in ("first", "always", "never"):
        for split in (False, True):
            changes = metaspace(prepend_scheme=scheme, split=split)
            yield f"Metaspace {scheme}{', split' if split else ''}", {**changes, **more, **(unstripped if scheme == "never" else {})}, TEXTS + MARKED + ADDED
    yield "Metaspace of old", metaspace(add_prefix_space=True), TEXTS + MARKED
    yield "Metaspace of old, no prefix", {**metaspace(add_prefix_space=False, prepend_scheme="never"), **unstripped}, TEXTS + MARKED
    yield "Digits, then Metaspace", {"normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        digits, metaspace(prepend_scheme="first", split=True)["pre_tokenizer"]]}}, TEXTS
    yield "Metaspace, then Digits", {"normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        metaspace(prepend_scheme="first", split=True)["pre_tokenizer"], digits]}}, TEXTS
    yield "Replace alone", {"normalizer": replace(" ", MARK), **unstripped}, TEXTS + MARKED
    yield "NFC first", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, *base["normalizer"]["normalizers"]]}}, TEXTS
    yield "strip of two", {"decoder": {"type": "Sequence", "decoders": [*decoders[:3], {**decoders[3], "start": 2}]}}, TEXTS
    yield "ignore merges", {"model": {"ignore_merges": True}, **metaspace(prepend_scheme="first", split=True)}, TEXTS
    for fuse in (True, False):
        yield f"unknown characters{', fused' if fuse else ''}", {"model": {"fuse_unk": fuse, "without": WITHOUT}}, TEXTS + odd
    yield "no unknown token", {"model": {"unk_token": None, "without": WITHOUT}}, TEXTS + odd


def document_of(base, changes):
    """The tokenizer.json that a variant's changes stand for; what the test does with them, too."""
    model = {**base["model"], **changes.get("model", {})}
    if model.pop("without", None):
        model = without(model)
    return {**base, **changes, "model": model}


def main():
    """A case's texts are null where a token is looked for in normalized text: tokenizers of this version writes its pattern
    there ("▁New▁York", and a byte of its own for a non-ASCII one of a byte-level tokenizer), older ones what the file says."""
    processor = train()
    base = base_of(processor)
    rows = []
    for name, changes, texts in variants(base):
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document_of(base, changes)))
        changed = {t["id"] for t in {**base, **changes}["added_tokens"] if t["normalized"]}
        cases = []
        for text in dict.fromkeys(texts):
            ids = tokenizer.encode(text).ids
            if name == "as trained" and text not in MARKED and MARK not in text:  # SentencePiece reads its mark as a space
                assert ids[1:] == processor.encode(text), (text, ids, processor.encode(text))
            decoded = [None, None] if changed & set(ids) else [tokenizer.decode(ids, skip_special_tokens=s) for s in (True, False)]
            cases.append({"text": text, "ids": ids, "decoded": decoded[0], "with_specials": decoded[1]})
        rows.append({"name": name, "changes": changes, "cases": cases})
    compact = lambda value: json.dumps(value, separators=(",", ":"))
    versions = f"sentencepiece {sentencepiece.__version__}, tokenizers {tokenizers.__version__}"
    scores = [processor.get_score(i) for i in range(processor.get_piece_size())]
    sys.stdout.write('{"made_with": %s,\n"base": %s,\n"scores": %s,\n"variants": [\n' % (compact(versions), compact(base), compact(scores)))
    sys.stdout.write(",\n".join('{"name": %s, "changes": %s, "cases": [\n%s]}' % (
        compact(r["name"]), compact(r["changes"]), ",\n".join(map(compact, r["cases"]))) for r in rows))
    sys.stdout.write("\n]}\n")


if __name__ == "__main__":
    main()
