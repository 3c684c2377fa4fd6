#include "arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>

#include "base/error.h"

namespace nibble::app {

struct CommandLine::Parser {
  explicit Parser(const char* summary) : app(summary, "nibble") {}

  bool has(const char* verb) const {
    return std::any_of(verbs.begin(), verbs.end(),
                       [&](const CLI::App* known) { return known->get_name() == verb; });
  }

  CLI::App app;
  std::vector<CLI::App*> verbs;
};

Argument& Argument::required() { return option_->required(), *this; }
Argument& Argument::type_name(const std::string& name) { return option_->type_name(name), *this; }
Argument& Argument::show_default() { return option_->capture_default_str(), *this; }
Argument& Argument::one_of(const std::vector<std::string>& values) {
  return option_->check(CLI::IsMember(values)), *this;
}
Argument& Argument::range(int lowest, int highest) {
  return option_->check(CLI::Range(lowest, highest)), *this;
}
Argument& Argument::comma_list() { return option_->delimiter(','), *this; }
Argument& Argument::optional_value() { return option_->expected(0, 1), *this; }
Argument& Argument::group(const std::string& name) { return option_->group(name), *this; }
bool Argument::given() const { return option_ != nullptr && option_->count() > 0; }

template <typename T>
Argument Arguments::option(const std::string& names, T& value, const std::string& help) {
  return Argument(verb_->add_option(names, value, help));
}

template <typename T>
Argument Arguments::flag(const std::string& names, T& value, const std::string& help) {
  return Argument(verb_->add_flag(names, value, help));
}

#define NIBBLE_OPTION(...) \
  template Argument Arguments::option(const std::string&, __VA_ARGS__&, const std::string&)
#define NIBBLE_FLAG(...) \
  template Argument Arguments::flag(const std::string&, __VA_ARGS__&, const std::string&)
NIBBLE_OPTION(int);
NIBBLE_OPTION(int64_t);
NIBBLE_OPTION(uint64_t);
NIBBLE_OPTION(double);
NIBBLE_OPTION(std::string);
NIBBLE_OPTION(std::vector<int>);
NIBBLE_OPTION(std::vector<std::string>);
NIBBLE_OPTION(std::optional<int>);
NIBBLE_OPTION(std::optional<int64_t>);
NIBBLE_OPTION(std::optional<double>);
NIBBLE_OPTION(std::optional<std::string>);
NIBBLE_OPTION(std::optional<std::filesystem::path>);
NIBBLE_OPTION(std::optional<std::vector<int>>);
NIBBLE_OPTION(std::optional<std::vector<std::string>>);
NIBBLE_OPTION(std::optional<std::vector<std::filesystem::path>>);
NIBBLE_FLAG(bool);
NIBBLE_FLAG(std::optional<bool>);
#undef NIBBLE_OPTION
#undef NIBBLE_FLAG

CommandLine::CommandLine(const char* summary, const char* version)
    : parser_(std::make_unique<Parser>(summary)) {
  CLI::App& app = parser_->app;
  app.set_version_flag("--version", std::string("nibble ") + version);
  app.require_subcommand(1);
  app.footer("nibble VERB --help shows a verb's options and an example.");
}

CommandLine::~CommandLine() = default;

Arguments CommandLine::add_verb(const VerbInfo& verb) {
  CLI::App* added = parser_->app.add_subcommand(verb.name, verb.summary);
  added->footer(std::string("Example:\n  ") + verb.example);
  parser_->verbs.push_back(added);
  return Arguments(*added);
}

int CommandLine::parse(int argc, char** argv) {
  CLI::App& app = parser_->app;
  if (argc > 1 && argv[1][0] != '-' && !parser_->has(argv[1])) {
    throw UsageError(fmt::format("no verb '{}' (see nibble --help)", argv[1]));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // help and version
      app.exit(error);
      return -1;
    }
    const auto chosen = app.get_subcommands();
    const std::string verb = chosen.empty() ? "" : chosen.front()->get_name() + " ";
    throw UsageError(fmt::format("{} (see nibble {}--help)", error.what(), verb));
  }
  const auto chosen = std::find_if(parser_->verbs.begin(), parser_->verbs.end(),
                                   [](CLI::App* verb) { return verb->parsed(); });
  return static_cast<int>(chosen - parser_->verbs.begin());
}

}  // namespace nibble::app
