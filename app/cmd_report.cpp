// nibble report DIR [-o md|csv|json|html] [--analysis F.json,…] [--serve [--port N]]
#include <chrono>
#include <stop_token>
#include <thread>

#include "base/file.h"
#include "commands.h"
#include "interrupt.h"
#include "report/csv.h"
#include "report/json.h"
#include "report/markdown.h"
#include "report/page.h"
#include "report/page_server.h"
#include "report/report.h"
#include "report/terminal.h"
#include "study/stored_analysis.h"

namespace nibble::app {
namespace {

struct ReportArguments {
  std::string dir, output;
  std::vector<std::string> analyses;
  bool serve = false;
  int port = 8080;
};

// Until Ctrl-C, which ends it as asked: exit 0.
int serve(const ReportArguments& options) {
  report::PageServer server(options.dir);
  const int port = server.bind(options.port);
  fmt::print(stderr, "nibble: http://127.0.0.1:{}/ shows {} as it grows; Ctrl-C ends\n", port, options.dir);
  const InterruptGuard guard;
  std::jthread watch([&](const std::stop_token& stop) {
    while (!stop.stop_requested() && !InterruptGuard::received())
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    server.stop();
  });
  server.run();
  return 0;
}

int run(const ReportArguments& options, const GlobalOptions& global) {
  const std::filesystem::path dir = options.dir, results = dir / "results.db";
  if (!std::filesystem::exists(results))
    fail("{}: not there; nibble study --out {} makes it", results.string(), options.dir);
  if (!options.analyses.empty()) {
    Store store = Store::open(results);
    for (const std::string& file : options.analyses) add_analysis(store, read_json_file(file), file);
  }
  if (options.serve) return serve(options);
  const Store store = Store::open(results, true);
  const report::Report report = report::make_report(store);
  report::write_report(report, dir);
  if (!global.json_file.empty()) write_file_atomically(global.json_file, report::render_json(report));
  if (options.output == "json" || (global.wants_json() && global.json_file.empty())) {
    print(report::render_json(report));
  } else if (options.output == "md") {
    print(report::render_markdown(report));
  } else if (options.output == "html") {
    print(report::render_page(report));
  } else if (options.output == "csv") {
    print(report::render_csv(report));
  } else {
    print(report::render_table1_terminal(report));
  }
  return 0;
}

}  // namespace

Run cmd_report(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<ReportArguments>();
  verb.option("dir", options->dir, "what nibble study --out named").required().type_name("DIR");
  verb.option("-o,--output", options->output, "md, csv, json or html; default: Table 1 for a terminal")
      .one_of({"md", "csv", "json", "html"});
  verb.option("--analysis", options->analyses,
              "what nibble analyze --out wrote of the study's models: kept in results.db, shown as heat maps")
      .comma_list()
      .type_name("F.json,…");
  verb.flag("--serve", options->serve, "the page at http://127.0.0.1:PORT/, live while a study runs");
  verb.option("--port", options->port, "of --serve, on this machine only; 0: any free one")
      .range(0, 65535)
      .show_default();
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
