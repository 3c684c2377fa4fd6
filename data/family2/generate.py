#!/usr/bin/env python3
"""Writes a second family of word problems in GSM8K's format: sentences that the mini models never saw, sums of
the size that they can do. For fine-tuning (docs/training.md). No question of the test file is in the train file.

usage: generate.py OUT_DIR [--train-rows N] [--test-rows N] [--seed S]
"""
import argparse
import json
import os
import random

NAMES = "Ada Bram Cleo Dora Emil Fern Gus Hana Ivo Jette Kofi Lena Milo Nora Otis Pia Quinn Rosa Sven Tara".split()
TOWNS = "Marrow Veldt Tollin Harwick Osmere Quill Brannoch Lindale Ferrow Estmoor Caldene Pavick".split()
FIELDS = "garden field yard meadow court orchard".split()


def plus(a, b):
    return f"{a} + {b} = <<{a}+{b}={a + b}>>{a + b}"


def minus(a, b):
    return f"{a} - {b} = <<{a}-{b}={a - b}>>{a - b}"


def fence(r):
    f, t = r.choice(FIELDS), r.choice(TOWNS)
    a, b = r.randint(31, 299), r.randint(11, 99)
    return (f"A {f} near {t} is {a} metres long and {b} metres wide. How many metres of fence go around it?",
            f"Two sides are {plus(a, b)} metres.\nAll four sides are {plus(a + b, a + b)} metres.", 2 * (a + b))


def train(r):
    s, t = r.sample(TOWNS, 2)
    a, off, on = r.randint(120, 600), r.randint(11, 99), r.randint(11, 99)
    return (f"A train leaves {s} with {a} passengers. In {t} {off} get off and {on} get on. How many passengers are on it then?",
            f"Without those who get off there are {minus(a, off)} passengers.\nWith those who get on there are {plus(a - off, on)} passengers.",
            a - off + on)


def pages(r):
    n = r.choice(NAMES)
    a, more = r.randint(15, 199), r.randint(11, 99)
    return (f"On Monday {n} reads {a} pages, on Tuesday as many again, and on Wednesday {more} pages. How many pages did {n} read on the three days?",
            f"On the first two days {n} reads {plus(a, a)} pages.\nOn all three days {n} reads {plus(2 * a, more)} pages.", 2 * a + more)


def rows(r, count, taken):
    out = []
    while len(out) < count:
        question, steps, answer = r.choice([fence, train, pages])(r)
        if question not in taken:
            taken.add(question)
            out.append({"question": question, "answer": f"{steps}\n#### {answer}"})
    return out


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("out")
    a.add_argument("--train-rows", type=int, default=800)
    a.add_argument("--test-rows", type=int, default=150)
    a.add_argument("--seed", type=int, default=20261127)
    o = a.parse_args()
    os.makedirs(o.out, exist_ok=True)
    r, taken = random.Random(o.seed), set()
    for name, count in (("gsm8k.train.jsonl", o.train_rows), ("gsm8k.test.jsonl", o.test_rows)):
        with open(os.path.join(o.out, name), "w") as f:
            for row in rows(r, count, taken):
                f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
