// The verbs of the program. Each declares its options on `verb` and returns what runs once they are
// parsed; that returns the exit code, and throws Error (1) or UsageError (2) for what goes wrong.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "options.h"

namespace nibble::app {

using Run = std::function<int()>;
using DeclareVerb = Run (*)(CLI::App& verb, const GlobalOptions& global);

Run cmd_bench(CLI::App& verb, const GlobalOptions& global);
Run cmd_compare(CLI::App& verb, const GlobalOptions& global);
Run cmd_doctor(CLI::App& verb, const GlobalOptions& global);
Run cmd_eval(CLI::App& verb, const GlobalOptions& global);
Run cmd_generate(CLI::App& verb, const GlobalOptions& global);
Run cmd_info(CLI::App& verb, const GlobalOptions& global);
Run cmd_logits(CLI::App& verb, const GlobalOptions& global);
Run cmd_quantize(CLI::App& verb, const GlobalOptions& global);
Run cmd_report(CLI::App& verb, const GlobalOptions& global);
Run cmd_study(CLI::App& verb, const GlobalOptions& global);
Run cmd_tokenize(CLI::App& verb, const GlobalOptions& global);

}  // namespace nibble::app
