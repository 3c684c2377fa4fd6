// The verbs of the program. Each declares its options on `verb` and returns what runs once they are
// parsed; that returns the exit code (0 done, 3 done but nothing meets a specification), and throws Error (1)
// or UsageError (2) for what goes wrong.
#pragma once

#include <functional>

#include "arguments.h"
#include "options.h"

namespace nibble::app {

using Run = std::function<int()>;
using DeclareVerb = Run (*)(Arguments& verb, const GlobalOptions& global);

Run cmd_analyze(Arguments& verb, const GlobalOptions& global);
Run cmd_bench(Arguments& verb, const GlobalOptions& global);
Run cmd_compare(Arguments& verb, const GlobalOptions& global);
Run cmd_convert(Arguments& verb, const GlobalOptions& global);
Run cmd_doctor(Arguments& verb, const GlobalOptions& global);
Run cmd_eval(Arguments& verb, const GlobalOptions& global);
Run cmd_finetune(Arguments& verb, const GlobalOptions& global);
Run cmd_generate(Arguments& verb, const GlobalOptions& global);
Run cmd_info(Arguments& verb, const GlobalOptions& global);
Run cmd_logits(Arguments& verb, const GlobalOptions& global);
Run cmd_pull(Arguments& verb, const GlobalOptions& global);
Run cmd_quantize(Arguments& verb, const GlobalOptions& global);
Run cmd_recommend(Arguments& verb, const GlobalOptions& global);
Run cmd_report(Arguments& verb, const GlobalOptions& global);
Run cmd_study(Arguments& verb, const GlobalOptions& global);
Run cmd_tokenize(Arguments& verb, const GlobalOptions& global);

}  // namespace nibble::app
