// What a verb takes on its command line. CLI11 parses it and stays in arguments.cpp: its header costs every
// file that includes it as much time as the rest of the file.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace nibble::app {

class Argument {
 public:
  explicit Argument(CLI::Option* option) : option_(option) {}

  Argument& required();
  Argument& type_name(const std::string& name);  // stands for the value in --help
  Argument& show_default();                      // in --help: the variable's value when it was declared
  Argument& one_of(const std::vector<std::string>& values);
  Argument& range(int lowest, int highest);
  Argument& comma_list();
  Argument& optional_value();  // --name alone is accepted too
  Argument& group(const std::string& name);
  bool given() const;

 private:
  CLI::Option* option_;
};

class Arguments {
 public:
  explicit Arguments(CLI::App& verb) : verb_(&verb) {}

  // `value` is written when the option is given and must live until the program runs the verb. The types in
  // use are listed in arguments.cpp; a new one is a line there.
  template <typename T>
  Argument option(const std::string& names, T& value, const std::string& help);
  template <typename T>
  Argument flag(const std::string& names, T& value, const std::string& help);

 private:
  CLI::App* verb_;
};

struct VerbInfo {
  const char* name;
  const char* summary;
  const char* example;  // works as pasted
};

// The parser of `nibble VERB …`.
class CommandLine {
 public:
  CommandLine(const char* summary, const char* version);
  ~CommandLine();

  Arguments add_verb(const VerbInfo& verb);

  // Index of the verb that was chosen, in the order of add_verb; -1 when help or the version was asked for
  // and printed. Throws UsageError for what cannot be parsed.
  int parse(int argc, char** argv);

 private:
  struct Parser;
  std::unique_ptr<Parser> parser_;
};

}  // namespace nibble::app
