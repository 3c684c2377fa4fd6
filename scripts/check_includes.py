#!/usr/bin/env python3
"""Checks which file includes which, and how long files are (docs/architecture.md, "Who may know whom").

usage: check_includes.py [ROOT, default the checkout]
Prints one line per finding, FILE:LINE: what is wrong. Exits 1 if anything but a warning was found.
"""
import os
import re
import sys

# Who may include whom. `store` (STORE below) is what was measured, without the code that measures, so that the
# report never links a kernel.
LIBRARY = ("base", "hub", "tensor", "io", "text", "kernels", "model")
ALLOWED = {
    "base": (),
    "tensor": ("base",),
    "io": ("base", "tensor"),
    "text": ("base", "tensor"),
    "kernels": ("base", "tensor"),
    "model": LIBRARY[:-1],
    "store": ("base",),
    "hub": ("base",),
    "quant": LIBRARY,
    "convert": LIBRARY,
    "train": LIBRARY + ("quant",),
    "eval": LIBRARY + ("store",),
    "study": LIBRARY + ("quant", "train", "eval", "store"),
    "report": ("base", "store"),
}
STORE = ("eval/result", "eval/statistics", "eval/paired", "study/store", "study/sqlite")
FREE = ("app", "tests", "bench", "fuzz")  # may include every module
SUFFIXES = (".h", ".cpp", ".cu", ".cuh")
LOOK_AGAIN, TOO_LONG = 500, 800  # lines
CUDA_FOLDER = "src/kernels/cuda/"
CUDA_HEADER = re.compile(r"^(cuda|cublas|cusparse|cutlass/|cute/|cub/|thrust/|cooperative_groups|nccl|nvml|nvrtc|mma\.h)")

# Strings and comments in one pattern, so that "/*" in a string does not open a comment.
TOKEN = re.compile(r'R"(?P<d>[^()\\\s]{0,16})\(.*?\)(?P=d)"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
                   r"|(?P<comment>//[^\n]*|/\*.*?\*/)", re.DOTALL)
INCLUDE = re.compile(r"[ \t]*#[ \t]*include[ \t]*(.*)")


def includes_of(text):
    """[(line, "name", quoted)] of the include directives outside comments; quoted is None for a macro."""
    blank = lambda m: "\n" * m.group().count("\n") if m.group("comment") else m.group()  # noqa: E731
    found = []
    for number, line in enumerate(TOKEN.sub(blank, text).split("\n"), 1):
        if directive := INCLUDE.match(line):
            target = directive.group(1).strip()
            if name := re.fullmatch(r'"([^"]*)"|<([^>]*)>', target):
                found.append((number, name.group(1) or name.group(2) or "", name.group(1) is not None))
            else:
                found.append((number, target, None))
    return found


def module_of(path):
    """The module of a path relative to the root; None for a folder under src/ that no rule names."""
    top, _, rest = path.partition("/")
    if top != "src":
        return top
    stem = re.sub(r"(_test)?\.\w+$", "", rest)
    folder = "store" if stem in STORE else rest.partition("/")[0]
    return folder if folder in ALLOWED else None


class Checker:
    def __init__(self, root):
        self.root, self.errors, self.warnings, self.files = root, [], [], 0

    def run(self):
        for top in ("src",) + FREE:
            for folder, folders, names in sorted(os.walk(os.path.join(self.root, top))):
                folders.sort()
                for name in sorted(names):
                    if name.endswith(SUFFIXES):
                        self.check(os.path.relpath(os.path.join(folder, name), self.root))
        return self

    def error(self, path, line, message):
        self.errors.append(f"{path}:{line}: {message}")

    def exists(self, *parts):
        return os.path.isfile(os.path.join(self.root, *parts))

    def check(self, path):
        self.files += 1
        with open(os.path.join(self.root, path), encoding="utf-8") as f:
            text = f.read()
        lines = text.count("\n")
        if lines > TOO_LONG:
            self.error(path, lines, f"{lines} lines; split it, {TOO_LONG} is the limit")
        elif lines > LOOK_AGAIN:
            self.warnings.append(f"{path}:{lines}: warning: {lines} lines; look for a seam to split it along")
        module = module_of(path)
        if module is None:
            self.error(path, 1, f"no rule for this folder; add the module to {os.path.basename(__file__)}")
            return
        found = includes_of(text)
        for line, name, quoted in found:
            self.check_include(path, module, line, name, quoted)
        self.check_own_header(path, found)

    def check_include(self, path, module, line, name, quoted):
        if quoted is None:
            self.error(path, line, f"#include {name}: write the header's name, not a macro")
        elif name.endswith((".cpp", ".cc", ".c", ".cu")):
            self.error(path, line, f"includes the source file {name}; declare what is needed in a header")
        elif CUDA_HEADER.match(name) and not path.startswith(CUDA_FOLDER):
            self.error(path, line, f"CUDA header {name} outside {CUDA_FOLDER}")
        elif not quoted:
            if self.exists("src", name):
                self.error(path, line, f"<{name}> is a project header: include it with quotes")
        elif self.exists("src", name):
            self.check_order(path, module, line, name)
        elif not self.found_beside(path, module, name):
            self.error(path, line, f'"{name}" is not src/{name}; spell project headers "module/file.h" '
                                   "and all others <header>")

    def check_order(self, path, module, line, name):
        theirs = module_of("src/" + name)
        if module in FREE or theirs == module or theirs in ALLOWED[module]:
            return
        may = ", ".join(ALLOWED[module]) or "nothing of the project"
        self.error(path, line, f"{module} may not include {name} of {theirs}; {module} may use: {may}")

    def found_beside(self, path, module, name):
        """Headers that no module owns: tests/*.h for every test, a program's own beside its sources."""
        is_test = path.endswith("_test.cpp") or module == "tests"
        if is_test and self.exists("tests", name):
            return True
        return module in FREE and self.exists(os.path.dirname(path), name)

    def check_own_header(self, path, found):
        """foo.cpp includes its foo.h first, which proves that foo.h needs nothing before it."""
        stem, suffix = os.path.splitext(path)
        if suffix not in (".cpp", ".cu") or not self.exists(stem + ".h"):
            return
        own = stem[len("src/"):] + ".h" if path.startswith("src/") else os.path.basename(stem) + ".h"
        if not found or found[0][1] != own:
            self.error(path, found[0][0] if found else 1, f'the first include must be "{own}"')


def main(arguments):
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    root = arguments[0] if arguments else os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    checker = Checker(root).run()
    for finding in checker.warnings + checker.errors:
        print(finding)
    if checker.files == 0:
        print(f"{root}: no source files found", file=sys.stderr)
        return 1
    print(f"includes: {checker.files} files, {len(checker.errors)} errors, {len(checker.warnings)} warnings")
    return 1 if checker.errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
