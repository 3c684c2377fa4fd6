#!/usr/bin/env python3
"""Writes tests/golden/gsm8k_answers.json: what the regular expressions of lm-evaluation-harness (gsm8k, version 3.0)
take out of odd answers. src/eval/gsm8k_answer.cpp must agree.

usage: golden_gsm8k_answers.py > tests/golden/gsm8k_answers.json
"""
import json
import random
import re
import sys

STRICT, FLEXIBLE = r"#### (\-?[0-9\.\,]+)", r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
IGNORE = [",", r"\$", r"(?s).*#### ", r"\.$"]
BY_HAND = ["", " ", "none", "#### 42", "#### 42.", "####42", "#### $1,234.50", "$1,234.50", "It costs $1,234.50.", "#### -7", "-7", "- 7", "--7", "3-7",
           "The answer is 5", "5 or 6", "#### 5\n#### 6", "####  5", "##### 9", "#### x #### 8", "#### .", ".", "..", "$", "$$", "$5", "5$", "1,000,000", "1.5.", "#### 1.5.",
           "x = 3.\nQuestion", "<<3+4=7>>7 plums.\n#### 7", "#### 1e5", "#### 12 apples and 3", "½", "٤٢", "#### ٤", "3 000", "#### 3 000", "#### \n5", "####\t5", "#### -", "#### -.5", "-$5", "$-5",
           "#### ", "####", "a1b", "9" * 60, "." * 40, "The total is 18.", "so 7, then 8, and 9,", "#### 1,2,3,", "100%", "(42)", "**42**", "\\boxed{42}", "#### **42**", "caf\u00e9 12"]


def take(text):
    strict, found = re.search(STRICT, text), re.findall(FLEXIBLE, text)
    flexible = next(m for m in found[-1] if m) if found else None
    return {"text": text, "strict": strict and strict.group(1), "flexible": flexible}


def normalize(text):
    for pattern in IGNORE:
        text = re.sub(pattern, "", text)
    return text


def main():
    r = random.Random(5)
    texts = BY_HAND + ["".join(r.choice(["#### ", "#", " ", "-", "$", ".", ",", "1", "23", "a", "\n"]) for _ in range(r.randint(1, 14))) for _ in range(300)]
    # re's `$` also matches before a final newline, the strings that are compared never end in one.
    whole = [t for t in texts if not t.endswith("\n")]
    json.dump({"extracted": [take(t) for t in texts], "normalized": [{"text": t, "answer": normalize(t)} for t in whole]}, sys.stdout, indent=0)
    print()


if __name__ == "__main__":
    main()
