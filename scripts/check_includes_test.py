#!/usr/bin/env python3
"""Tests check_includes.py on small made-up source trees."""
import os
import subprocess
import sys
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_includes.py")


class CheckIncludes(unittest.TestCase):
    def check(self, files):
        """(exit status, output) of the script on a tree of {path: text}."""
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "w", encoding="utf-8") as f:
                    f.write(text)
            done = subprocess.run([sys.executable, SCRIPT, root], capture_output=True, text=True, check=False)
            return done.returncode, done.stdout + done.stderr

    def passes(self, files):
        status, output = self.check(files)
        self.assertEqual(status, 0, output)
        return output

    def fails(self, files, *expected):
        status, output = self.check(files)
        self.assertEqual(status, 1, output)
        for text in expected:
            self.assertIn(text, output)

    def test_downward_includes_pass(self):
        self.passes({"src/base/error.h": "", "src/tensor/tensor.h": '#include "base/error.h"\n',
                     "src/model/model.h": '#include <vector>\n#include "tensor/tensor.h"\n',
                     "src/quant/gptq.cpp": '#include "model/model.h"\n', "app/main.cpp": '#include "model/model.h"\n'})

    def test_upward_include_fails_and_names_the_line(self):
        self.fails({"src/model/model.h": "", "src/tensor/tensor.h": '// A tensor.\n#include "model/model.h"\n'},
                   "src/tensor/tensor.h:2: tensor may not include model/model.h of model; tensor may use: base")

    def test_siblings_do_not_know_each_other(self):
        self.fails({"src/eval/task.h": "", "src/quant/rtn.cpp": '#include "eval/task.h"\n'}, "quant may not include")
        self.fails({"src/text/bpe.h": "", "src/io/gguf.cpp": '#include "text/bpe.h"\n'}, "io may not include")

    def test_report_sees_results_only(self):
        stored = {"src/base/error.h": "", "src/eval/result.h": "", "src/eval/statistics.h": "", "src/study/store.h": "",
                  "src/report/columns.h": ""}
        self.passes({**stored, "src/report/table1.cpp": '#include "base/error.h"\n#include "eval/result.h"\n'
                     '#include "eval/statistics.h"\n#include "report/columns.h"\n#include "study/store.h"\n'})
        for other in ("eval/task.h", "study/runner.h", "kernels/ops.h", "tensor/tensor.h"):
            self.fails({**stored, f"src/{other}": "", "src/report/table1.cpp": f'#include "{other}"\n'},
                       f"report may not include {other}")

    def test_store_does_not_know_the_study(self):
        self.fails({"src/study/runner.h": "", "src/study/store.cpp": '#include "study/runner.h"\n'},
                   "store may not include")
        self.passes({"src/study/store.h": "", "src/study/runner.cpp": '#include "study/store.h"\n'})

    def test_tests_follow_their_module(self):
        tree = {"tests/test_data.h": "", "src/base/error.h": "", "src/model/model.h": ""}
        self.passes({**tree, "src/io/gguf_test.cpp": '#include <gtest/gtest.h>\n#include "base/error.h"\n'
                     '#include "test_data.h"\n'})
        self.fails({**tree, "src/io/gguf_test.cpp": '#include "model/model.h"\n'}, "io may not include")
        self.fails({**tree, "src/io/gguf.cpp": '#include "test_data.h"\n'}, '"test_data.h" is not src/test_data.h')
        self.passes({**tree, "tests/end_test.cpp": '#include "test_data.h"\n#include "model/model.h"\n'})

    def test_own_header_comes_first(self):
        self.fails({"src/base/file.h": "", "src/base/file.cpp": '#include <vector>\n#include "base/file.h"\n'},
                   'src/base/file.cpp:1: the first include must be "base/file.h"')
        self.fails({"src/base/file.h": "", "src/base/file.cpp": "int x;\n"}, "the first include must be")
        self.passes({"src/base/file.h": "", "src/base/file.cpp": '// Files.\n#include "base/file.h"\n#include <vector>\n'})
        self.fails({"app/verbs.h": "", "app/verbs.cpp": "#include <vector>\n"}, 'must be "verbs.h"')

    def test_source_files_are_not_included(self):
        self.fails({"src/base/file.cpp": "", "src/base/file_test.cpp": '#include "base/file.cpp"\n'},
                   "includes the source file base/file.cpp")

    def test_cuda_headers_stay_in_their_folder(self):
        for header in ("cuda_runtime.h", "cuda.h", "cublasLt.h", "nvml.h", "cub/cub.cuh"):
            self.fails({"src/model/model.h": f"#include <{header}>\n"}, f"CUDA header {header}")
            self.passes({"src/kernels/cuda/device.cpp": f"#include <{header}>\n"})

    def test_spelling_of_project_headers(self):
        self.fails({"src/base/file.h": "", "src/base/a.cpp": '#include "file.h"\n'}, '"file.h" is not src/file.h')
        self.fails({"src/base/file.h": "", "src/base/a.cpp": "#include <base/file.h>\n"}, "include it with quotes")
        self.fails({"src/base/a.cpp": "#include HEADER\n"}, "not a macro")

    def test_comments_and_strings_are_not_code(self):
        self.passes({"src/model/model.h": "", "src/base/a.cpp": '// #include "model/model.h"\n/*\n#include "model/model.h"\n*/\n'})
        self.fails({"src/model/model.h": "", "src/base/a.cpp": 'auto g = "data/*";\n#include "model/model.h"\nauto h = "*/";\n'},
                   "src/base/a.cpp:2: base may not include")
        self.passes({"src/model/model.h": "", "src/base/a.cpp": "/* one\ntwo */ #define X\n"})

    def test_length(self):
        self.assertIn("0 warnings", self.passes({"src/base/a.cpp": "\n" * 500}))
        self.assertIn("501 lines; look for a seam", self.passes({"src/base/a.cpp": "\n" * 501}))
        self.assertIn("800 lines; look", self.passes({"src/base/a.cpp": "\n" * 800}))
        self.fails({"src/base/a.cpp": "\n" * 801}, "801 lines; split it")

    def test_unknown_module_and_empty_tree(self):
        self.fails({"src/utils/a.h": ""}, "no rule for this folder")
        self.fails({"README.md": ""}, "no source files found")


if __name__ == "__main__":
    unittest.main()
