// nibble logits MODEL --text S|--file F|--ids JSON --out F.safetensors
#include "base/progress.h"
#include "commands.h"
#include "eval/sequence_logits.h"
#include "interrupt.h"
#include "io/safetensors.h"
#include "open_model.h"

namespace nibble::app {
namespace {

struct LogitsArguments {
  std::string model, out;
  std::optional<std::string> text, file, ids;
};

std::vector<int32_t> parse_ids(const std::string& text) {
  const Json json = parse_json(text, "--ids");
  std::vector<int32_t> ids;
  if (!json.is_array()) throw UsageError("--ids: a JSON array of numbers, for example [1, 2, 3]");
  for (const Json& id : json) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX)
      throw UsageError(fmt::format("--ids: {} is not a token id", id.dump()));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

int run(const LogitsArguments& options, const GlobalOptions& global) {
  std::vector<int32_t> ids;
  if (options.ids) {
    if (options.text || options.file) throw UsageError("give --ids, --text or --file");
    ids = parse_ids(*options.ids);
  }
  const std::string text = options.ids ? "" : text_argument(options.text, options.file);
  const InterruptGuard guard;
  const LoadedModel loaded = open_model(options.model, global);
  if (!options.ids) ids = loaded.tokenizer->encode(text);
  ThreadPool pool(global.thread_count(), global.pin);
  Progress progress(stderr, "logits", "tokens");
  const AlignedBuffer<float> logits =
      sequence_logits(loaded.model, ids, global.precision(), pool, [&](size_t done, size_t total) {
        InterruptGuard::check();
        progress.update(done, total);
      });
  progress.finish();
  const int64_t t = static_cast<int64_t>(ids.size()), vocab = loaded.model->config.vocab_size;
  write_safetensors(
      options.out,
      {{"ids", {DType::kI32, {t}, reinterpret_cast<const std::byte*>(ids.data())}},
       {"logits", {DType::kF32, {t, vocab}, reinterpret_cast<const std::byte*>(logits.data())}}});
  OrderedJson json;
  json["model"] = options.model;
  json["out"] = options.out;
  json["tokens"] = t;
  json["vocab_size"] = vocab;
  json["dtype"] = global.dtype;
  write_output(global, json, fmt::format("{}: ids [{}], logits [{}, {}]\n", options.out, t, t, vocab));
  return 0;
}

}  // namespace

Run cmd_logits(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<LogitsArguments>();
  verb.option("model", options->model, kModelHelp).required().type_name("MODEL");
  verb.option("--text", options->text, "the text itself").type_name("S");
  verb.option("--file", options->file, "a file with the text").type_name("F");
  verb.option("--ids", options->ids, "token ids as a JSON array").type_name("JSON");
  verb.option("--out", options->out, "safetensors file to write: ids I32 [t], logits F32 [t, vocab]")
      .required()
      .type_name("F");
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
