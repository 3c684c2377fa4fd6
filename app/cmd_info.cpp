// nibble info MODEL
#include "commands.h"
#include "model/facts.h"
#include "open_model.h"

namespace nibble::app {
namespace {

std::string megabytes(uint64_t bytes) { return fmt::format("{:.2f} MB", static_cast<double>(bytes) / 1e6); }

std::string formats_text(const std::map<std::string, int>& formats) {
  std::string text;
  for (const auto& [format, count] : formats)
    text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", format, count);
  return text;
}

std::string render(const ModelFacts& facts, const Model& model, const std::string& sha256) {
  const ModelConfig& c = model.config;
  std::string text = fmt::format("{}\n", model.name());
  text += fmt::format(
      "{}, {} layers, hidden {}, intermediate {}, {} heads ({} key/value) of {}, vocabulary {}, context {}\n",
      facts.architecture, c.n_layers, c.hidden_size, c.intermediate_size, c.n_heads, c.n_kv_heads, c.head_dim,
      c.vocab_size, c.max_context);
  text += fmt::format("{}: {} of weights, {:.2f} M parameters, {:.2f} bits per weight\n", facts.format,
                      megabytes(facts.file_bytes), static_cast<double>(facts.parameters) / 1e6,
                      facts.bits_per_weight);
  if (!facts.source_types.empty())
    text += fmt::format("in the file: {}; in memory: dense\n", formats_text(facts.source_types));
  text += "\nin memory\n";
  const auto part = [&](const char* name, uint64_t bytes, const std::string& format) {
    text += fmt::format("  {:<10} {:>14}  {}\n", name, megabytes(bytes), format);
  };
  part("body", facts.body_bytes, formats_text(facts.formats));
  part("embedding", facts.embedding_bytes, facts.embedding_format);
  part("head", facts.head_bytes, facts.head_format);
  part("other", facts.other_bytes, "norms and biases, f32");
  part("total", facts.weight_bytes, "");
  return text + fmt::format("\nsha256 {}\n", sha256);
}

}  // namespace

Run cmd_info(Arguments& verb, const GlobalOptions& global) {
  auto name = std::make_shared<std::string>();
  verb.option("model", *name, kModelHelp).required().type_name("MODEL");
  return [name, &global] {
    const Model model(open_checkpoint(locate_model(*name), global.gguf_dtype(), false));
    const ModelFacts facts = model_facts(model);
    const std::string sha256 = checkpoint_sha256(model.checkpoint());
    write_output(global, to_json(facts, model, sha256), render(facts, model, sha256));
    return 0;
  };
}

}  // namespace nibble::app
