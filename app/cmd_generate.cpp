// nibble generate MODEL --prompt S
#include "base/memory_usage.h"
#include "commands.h"
#include "eval/stream.h"
#include "interrupt.h"
#include "model/cuda_device.h"
#include "open_model.h"

namespace nibble::app {
namespace {

struct GenerateArguments {
  std::string model, prompt;
  int max_tokens = 128;
  SamplingOptions sampling;
};

int run(const GenerateArguments& options, const GlobalOptions& global) {
  options.sampling.validate();
  const InterruptGuard guard;
  const LoadedModel loaded = open_model(options.model, global);
  ThreadPool pool(global.thread_count(), global.pin);
  const auto prompt = loaded.tokenizer->encode(options.prompt);
  const bool streams = !(global.wants_json() && global.json_file.empty());
  std::string text;
  const StreamResult r = stream_text(loaded.model, *loaded.tokenizer, prompt, options.max_tokens,
                                     options.sampling, global.precision(), pool, [&](std::string_view part) {
                                       InterruptGuard::check();
                                       text += part;
                                       if (streams && !part.empty()) print(part);
                                     });
  const auto rate = [](int64_t tokens, double seconds) {
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  };
  // The first token comes with the prompt.
  const double prompt_rate = rate(r.prompt_tokens, r.prompt_seconds);
  const double output_rate = rate(r.output_tokens - 1, r.output_seconds);
  OrderedJson json;
  json["model"] = options.model;
  json["text"] = text;
  json["finish"] = r.finish == FinishReason::kEndToken ? "end_token" : "length";
  json["prompt_tokens"] = r.prompt_tokens;
  json["output_tokens"] = r.output_tokens;
  json["first_token_ms"] = r.prompt_seconds * 1000;
  json["prompt_tokens_per_s"] = prompt_rate;
  json["output_tokens_per_s"] = output_rate;
  json["memory_bytes"] = {{"weights", loaded.model->weight_bytes()},
                          {"kv_cache", r.cache_bytes},
                          {"workspace", r.workspace_bytes},
                          {"peak_rss", peak_rss_bytes()},
                          {"peak_gpu", gpu_bytes_in_use(global.precision().device)}};
  write_output(global, json, "\n");
  fmt::print(stderr,
             "{} prompt tokens at {:.1f}/s, {} generated at {:.1f}/s; weights {:.1f} MB, cache {:.1f} MB, "
             "peak {:.1f} MB\n",
             r.prompt_tokens, prompt_rate, r.output_tokens, output_rate,
             static_cast<double>(loaded.model->weight_bytes()) / 1e6,
             static_cast<double>(r.cache_bytes) / 1e6, static_cast<double>(peak_rss_bytes()) / 1e6);
  return 0;
}

}  // namespace

Run cmd_generate(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<GenerateArguments>();
  verb.option("model", options->model, kModelHelp).required().type_name("MODEL");
  verb.option("--prompt", options->prompt, "the text to continue").required().type_name("S");
  verb.option("--max-tokens", options->max_tokens, "tokens to generate").show_default();
  verb.option("--temperature", options->sampling.temperature, "0: always the likeliest token").show_default();
  verb.option("--top-p", options->sampling.top_p, "draw among the likeliest that reach this share")
      .show_default();
  verb.option("--seed", options->sampling.seed, "of the draws").show_default();
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
