#!/usr/bin/env python3
"""Says which tests of a ctest run were skipped, and why.

usage: skipped_tests.py JUNIT.xml                  one line per reason, with the tests it kept from running
       skipped_tests.py JUNIT.xml --select CTEST   the same tests as a file for ctest -I; CTEST is what
                                                   `ctest --show-only=json-v1` printed for the same build
"""
import json
import re
import sys
import xml.etree.ElementTree as ElementTree

SHOWN = 3  # tests named per reason


def skipped(junit):
    """{test: reason} of the tests that gtest or ctest did not run to a verdict."""
    found = {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        if (mark := case.find("skipped")) is None:
            continue
        output = case.findtext("system-out") or ""
        reason = re.search(r":\d+: Skipped\n(.*?)\n", output + "\n", re.DOTALL)
        found[case.get("name")] = reason.group(1).strip() if reason else mark.get("message") or "no reason given"
    return found


def main(arguments):
    if len(arguments) not in (1, 3) or (len(arguments) == 3 and arguments[1] != "--select"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    tests = skipped(arguments[0])
    if len(arguments) == 3:
        with open(arguments[2], encoding="utf-8") as f:
            names = [test["name"] for test in json.load(f)["tests"]]
        numbers = [str(i) for i, name in enumerate(names, 1) if name in tests]
        if numbers:  # start, end and stride that select nothing, then single tests; no line at all: none
            print(",".join(["0", "0", "1"] + numbers))
        return 0
    by_reason = {}
    for test, reason in tests.items():
        by_reason.setdefault(reason, []).append(test)
    for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        print(f"skipped {len(names)}: {reason} ({', '.join(names[:SHOWN])}{more})")
    print(f"skipped in all: {len(tests)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
