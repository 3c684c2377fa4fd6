#include "report/recommend_prediction.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/measures.h"

namespace nibble::report {
namespace {

constexpr const char* kWhere = "bench";

Figure no_prediction(std::string reason) {
  Figure figure;
  figure.missing = std::move(reason);
  figure.predicted = true;
  return figure;
}

}  // namespace

Figure predict_memory(const Figure& here) {
  Figure there = here;
  there.predicted = true;
  if (there.known()) there.basis += "; as measured here";
  return there;
}

Figure predict_decode(const VariantView& variant, const std::optional<double>& bandwidth) {
  if (!bandwidth)
    return no_prediction("not predicted: say --bandwidth, what the other machine reads per second");
  const TaskView* bench = variant.find("bench");
  if (bench && !bench->missing.empty()) return no_prediction(fmt::format("bench: {}", bench->missing));
  const Json* test = bench_test(variant, "tg");
  const auto rate = bench_rate(variant, "tg");
  if (!test || !rate || !(rate->mean > 0))
    return no_prediction("no generation test of the bench to predict from");
  if (json_get_or<int64_t>(*test, "batch", 1, kWhere) != 1)
    return no_prediction("the bench generated for several sequences at once only");
  const double share = number_from_json(*test, "bandwidth_fraction", kWhere);
  const double here = number_from_json(*test, "bandwidth_bytes_per_s", kWhere);
  if (!(share > 0) || !(here > 0))
    return no_prediction(
        "the bench could not tell the bytes read from memory; weights that fit into the cache are not read");
  const double seconds = 1 / rate->mean, bytes = share * here * seconds;
  const double beside_reading = std::max(0.0, seconds - bytes / here);
  const double scaled = rate->mean * *bandwidth / here;
  Figure figure;
  figure.value = 1 / (bytes / *bandwidth + beside_reading);
  figure.low = std::min(figure.value, scaled);
  figure.high = std::max(figure.value, scaled);
  figure.predicted = true;
  figure.basis = fmt::format(
      "bench here: {:.1f} MB read a token at {:.1f} GB/s of {:.1f} GB/s, {:.2f} ms a token beside reading",
      bytes / 1e6, share * here / 1e9, here / 1e9, beside_reading * 1e3);
  return figure;
}

}  // namespace nibble::report
