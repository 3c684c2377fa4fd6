// nibble report DIR [-o md|csv|json]
#include "base/file.h"
#include "commands.h"
#include "report/csv.h"
#include "report/json.h"
#include "report/markdown.h"
#include "report/report.h"
#include "report/terminal.h"

namespace nibble::app {
namespace {

struct Options {
  std::string dir, output;
};

int run(const Options& options, const GlobalOptions& global) {
  const std::filesystem::path dir = options.dir, results = dir / "results.db";
  if (!std::filesystem::exists(results))
    fail("{}: not there; nibble study --out {} makes it", results.string(), options.dir);
  const Store store = Store::open(results, true);
  const report::Report report = report::make_report(store);
  report::write_report(report, dir);
  if (!global.json_file.empty()) write_file_atomically(global.json_file, report::render_json(report));
  if (options.output == "json" || (global.wants_json() && global.json_file.empty())) {
    print(report::render_json(report));
  } else if (options.output == "md") {
    print(report::render_markdown(report));
  } else if (options.output == "csv") {
    print(report::render_csv(report));
  } else {
    print(report::render_table1_terminal(report));
  }
  return 0;
}

}  // namespace

Run cmd_report(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<Options>();
  verb.option("dir", options->dir, "what nibble study --out named").required().type_name("DIR");
  verb.option("-o,--output", options->output, "md, csv or json; default: Table 1 for a terminal")
      .one_of({"md", "csv", "json"});
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
