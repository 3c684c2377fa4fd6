// nibble tokenize MODEL --text S|--file F [--no-special]
#include "base/file.h"
#include "commands.h"
#include "open_model.h"

namespace nibble::app {
namespace {

struct TokenizeArguments {
  std::string model;
  std::optional<std::string> text, file;
  bool no_special = false;
};

int run(const TokenizeArguments& options, const GlobalOptions& global) {
  const std::string text = text_argument(options.text, options.file);
  const auto tokenizer = load_tokenizer(locate_model(options.model));
  // The list is its own JSON, on one line.
  const std::string line = Json(tokenizer->encode(text, !options.no_special)).dump() + "\n";
  if (!global.json_file.empty()) write_file_atomically(global.json_file, line);
  print(line);
  return 0;
}

}  // namespace

Run cmd_tokenize(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<TokenizeArguments>();
  verb.option("model", options->model, "a model, or a directory with tokenizer.json")
      .required()
      .type_name("MODEL");
  verb.option("--text", options->text, "the text itself").type_name("S");
  verb.option("--file", options->file, "a file with the text").type_name("F");
  verb.flag("--no-special", options->no_special, "leave out what the post-processor adds (a start token)");
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
