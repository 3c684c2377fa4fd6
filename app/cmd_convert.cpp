// nibble convert MODEL OUT --to FORMAT
#include "commands.h"
#include "convert/convert.h"
#include "export_summary.h"
#include "open_model.h"

namespace nibble::app {
namespace {

struct ConvertArguments {
  std::string model, out, to;
  ConvertOptions convert;
};

}  // namespace

Run cmd_convert(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<ConvertArguments>();
  verb.option("model", options->model, kModelHelp).required().type_name("MODEL");
  verb.option("out", options->out, "the directory to write; a file for gguf").required().type_name("OUT");
  verb.option("--to", options->to, "nibble, gptq, gptq_v2, awq, compressed-tensors or gguf").required();
  verb.flag("--dequantize", options->convert.dequantize, "what the format cannot say as F16, rounded");
  verb.flag("--force", options->convert.force, "write over OUT");
  return [options, &global] {
    options->convert.to = export_format(options->to);
    const auto model = load_model(locate_model(options->model), global.gguf_dtype());
    const ConvertReport report = convert_model(*model, options->convert, options->out);
    write_output(global, export_json(report, options->out, options->to),
                 export_summary(report, options->out, options->to));
    return 0;
  };
}

}  // namespace nibble::app
