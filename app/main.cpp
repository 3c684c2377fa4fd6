// The program: finds the verb, runs it, turns what it throws into one line and an exit code.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <deque>
#include <exception>
#include <string_view>

#include "commands.h"
#include "interrupt.h"

namespace nibble::app {
namespace {

struct Verb {
  VerbInfo info;
  DeclareVerb declare;
};

constexpr Verb kVerbs[] = {
    {{"doctor", "what this machine can do, and what is missing", "nibble doctor"}, cmd_doctor},
    {{"info", "a model's architecture, shapes, formats and sizes", "nibble info llama-mini"}, cmd_info},
    {{"tokenize", "text to token ids", "nibble tokenize llama-mini --text 'Hello, world!'"}, cmd_tokenize},
    {{"logits", "the logits after every token of a text",
      "nibble logits llama-mini --text 'Hello, world!' --out logits.safetensors"},
     cmd_logits},
    {{"generate", "continues a prompt",
      "nibble generate llama-mini --prompt 'Question: Ada has 3 boxes with 5 pens in each. How many pens?' "
      "--max-tokens 60"},
     cmd_generate},
    {{"eval", "scores on tasks, with intervals, latency, throughput and memory",
      "nibble eval llama-mini --tasks boolq,wikitext --limit 20"},
     cmd_eval},
    {{"quantize", "a model compressed into the directory OUT",
      "nibble quantize llama-mini out/llama-4bit --method gptq --group-size 64"},
     cmd_quantize},
    {{"finetune", "a model trained further on questions with answers, into the directory OUT",
      "nibble finetune llama-mini out/llama-tuned --max-steps 20"},
     cmd_finetune},
    {{"analyze", "how much each layer minds being quantized, by group size",
      "nibble analyze llama-mini --samples 4 --kl-tokens 256"},
     cmd_analyze},
    {{"pull", "a model or a task's data of the Hugging Face hub",
      "nibble pull HuggingFaceTB/SmolLM2-135M-Instruct"},
     cmd_pull},
    {{"convert", "a quantized model in another format, to the bit",
      "nibble convert out/llama-4bit out/llama-gptq --to gptq --dequantize"},
     cmd_convert},
    {{"compare", "how far a quantized model lies from its baseline",
      "nibble compare llama-mini llama-mini --file data/mini/data/wikitext.test.txt --windows 4"},
     cmd_compare},
    {{"bench", "speed of prompts and of generation, latency, memory",
      "nibble bench llama-mini -p 64 -n 32 -r 3"},
     cmd_bench},
    {{"study", "every model, method, group size and task; results in DIR",
      "nibble study --models llama-mini --methods gptq --group-sizes 64 --tasks boolq --limit 20 --out "
      "out/study"},
     cmd_study},
    {{"report", "Table 1 and the critical issues of a study", "nibble report out/study -o md"}, cmd_report},
    {{"recommend", "the configuration of a study to deploy, and why; exit 3 when none meets the limits",
      "nibble recommend out/study --max-memory 600MB --min-accuracy-kept 98%"},
     cmd_recommend},
};

int complain(const char* message, int code) {
  std::fprintf(stderr, "nibble: %s\n", message);
  return code;
}

int run(int argc, char** argv) {
  CommandLine command_line(
      "nibble compresses small language models to 4 bits and measures what was lost and won.",
      NIBBLE_VERSION);
  std::deque<GlobalOptions> global;  // one a verb; addresses stay
  std::vector<Run> runs;
  for (const auto& [info, declare] : kVerbs) {
    Arguments arguments = command_line.add_verb(info);
    runs.push_back(declare(arguments, global.emplace_back()));
    add_global_options(arguments, global.back());
  }
  const int chosen = command_line.parse(argc, argv);
  return chosen < 0 ? 0 : runs[static_cast<size_t>(chosen)]();
}

}  // namespace
}  // namespace nibble::app

int main(int argc, char** argv) {
  using nibble::app::complain;
  try {
    return nibble::app::run(argc, argv);
  } catch (const nibble::app::Interrupted& stop) {
    complain("stopped; nothing was left half written", 1);
    std::signal(stop.signal, SIG_DFL);
    std::raise(stop.signal);
    return 128 + stop.signal;
  } catch (const nibble::UsageError& error) {
    return complain(error.what(), 2);
  } catch (const std::bad_alloc&) {
    return complain("out of memory", 1);
  } catch (const std::exception& error) {
    return complain(error.what(), 1);
  }
}
