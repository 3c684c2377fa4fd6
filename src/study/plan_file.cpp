#include <sstream>

#include "base/file.h"
#include "base/json.h"
#include "io/quote_name.h"
#include "io/toml.h"
#include "study/plan.h"
#include "study/plan_rules.h"

namespace nibble {
namespace {

using namespace plan_rules;

// Reads one table; every key must be asked for before finish().
class TableReader {
 public:
  TableReader(const toml::table& table, std::string_view where) : table_(table), where_(where) {}

  // "study.toml line 3: limit", for errors.
  std::string place(std::string_view key, const toml::node& node) const {
    return fmt::format("{} line {}: {}", where_, node.source().begin.line, key);
  }
  const toml::node* find(std::string_view key) {
    known_.insert(std::string(key));
    return table_.get(key);
  }
  template <typename T>
  T value_of(std::string_view key, const toml::node& node) const {
    static constexpr const char* kKind = std::is_same_v<T, bool>      ? "true or false"
                                         : std::is_same_v<T, int64_t> ? "a whole number"
                                                                      : "a text in quotes";
    const auto value = node.value_exact<T>();
    if (!value) refuse("{}: not {}", place(key, node), kKind);
    return *value;
  }
  // The value and its place, checked by `check(place, value)`.
  template <typename T, typename Check>
  std::optional<T> read(std::string_view key, Check check) {
    const toml::node* node = find(key);
    if (!node) return std::nullopt;
    const T value = value_of<T>(key, *node);
    check(place(key, *node), value);
    return value;
  }
  std::optional<int> integer(std::string_view key, int low, int high) {
    const auto value =
        read<int64_t>(key, [&](const std::string& at, int64_t v) { check_range(at, v, low, high); });
    return value ? std::optional<int>(static_cast<int>(*value)) : std::nullopt;
  }
  template <typename T, typename Check>
  std::optional<std::vector<T>> list(std::string_view key, Check check) {
    const toml::node* node = find(key);
    if (!node) return std::nullopt;
    const toml::array* array = node->as_array();
    if (!array) refuse("{}: not a list in brackets", place(key, *node));
    std::vector<T> values;
    for (const toml::node& item : *array) {
      values.push_back(value_of<T>(key, item));
      check(place(key, item), values.back());
    }
    check_no_repeats(place(key, *node), values);
    return values;
  }
  std::optional<int> bits() {
    const auto value = read<int64_t>("bits", check_bits);
    return value ? std::optional<int>(static_cast<int>(*value)) : std::nullopt;
  }
  std::optional<std::vector<int>> group_sizes() {
    const auto sizes = list<int64_t>("group_sizes", check_group_size);
    return sizes ? std::optional(std::vector<int>(sizes->begin(), sizes->end())) : std::nullopt;
  }
  // [[key]], as often as it stands there; null: not at all.
  const toml::array* tables(const char* key) {
    const toml::node* node = find(key);
    if (!node) return nullptr;
    const toml::array* array = node->as_array();
    if (!array || !array->is_array_of_tables()) refuse("{}: write [[{}]]", place(key, *node), key);
    return array;
  }
  void finish() const {
    for (const auto& [key, node] : table_) {
      if (!known_.contains(std::string(key.str()))) {
        refuse("{} line {}: unknown key '{}'; known here are {}", where_, key.source().begin.line, key.str(),
               fmt::join(known_, ", "));
      }
    }
  }

 private:
  const toml::table& table_;
  std::string where_;
  std::set<std::string> known_;
};

constexpr auto kAnything = [](const std::string&, const auto&) {};

std::optional<std::vector<StudyMethod>> read_methods(TableReader& top, std::string_view where) {
  const auto check = [&](const std::string& at, const std::string& name) { check_method(at, name); };
  const auto names = top.list<std::string>("methods", check);
  const toml::node* node = top.find("method");
  std::vector<StudyMethod> methods;
  if (names) {
    if (node) refuse("{}: beside 'methods'; say it in one way", top.place("[[method]]", *node));
    for (const std::string& name : *names) methods.push_back({name, {}, {}});
    return methods;
  }
  if (!node) return std::nullopt;
  for (const toml::node& table : *top.tables("method")) {
    TableReader reader(*table.as_table(), where);
    const auto name = reader.read<std::string>("name", check);
    if (!name) refuse("{}: 'name' is missing", top.place("[[method]]", table));
    methods.push_back({*name, reader.group_sizes(), reader.bits()});
    reader.finish();
  }
  return methods;
}

std::vector<QuantizedModel> read_quantized(TableReader& top, std::string_view where) {
  std::vector<QuantizedModel> all;
  const toml::array* tables = top.tables("quantized");
  if (!tables) return all;
  for (const toml::node& table : *tables) {
    TableReader reader(*table.as_table(), where);
    const auto text = [&](const char* key) {
      return reader.read<std::string>(key, check_not_empty).value_or("");
    };
    QuantizedModel& q = all.emplace_back();
    q.model = text("model");
    if (q.model.empty()) refuse("{}: 'model' is missing", top.place("[[quantized]]", table));
    q.of = text("of");
    q.method = text("method");
    q.bits = reader.bits().value_or(0);
    if (const auto size = reader.read<int64_t>("group_size", check_group_size))
      q.group_size = static_cast<int>(*size);
    reader.finish();
    if (q.method.empty() != (q.bits == 0))
      refuse("{}: 'method' and 'bits' stand together or not at all", top.place("[[quantized]]", table));
  }
  return all;
}

std::vector<FineTunedModel> read_finetuned(TableReader& top, std::string_view where) {
  std::vector<FineTunedModel> all;
  const toml::array* tables = top.tables("finetuned");
  if (!tables) return all;
  for (const toml::node& table : *tables) {
    TableReader reader(*table.as_table(), where);
    const auto text = [&](const char* key) {
      const auto value = reader.read<std::string>(key, check_not_empty);
      if (!value) refuse("{}: '{}' is missing", top.place("[[finetuned]]", table), key);
      return *value;
    };
    FineTunedModel& f = all.emplace_back();
    f.model = text("model");
    f.base = text("base");
    reader.finish();
  }
  return all;
}

std::string quoted(const std::string& text) {
  std::ostringstream out;
  out << toml::value<std::string>(text);
  return out.str();
}

std::string quoted_list(const std::vector<std::string>& texts) {
  std::vector<std::string> items;
  for (const std::string& text : texts) items.push_back(quoted(text));
  return fmt::format("[{}]", fmt::join(items, ", "));
}

std::vector<std::string> to_strings(const std::vector<std::filesystem::path>& paths) {
  std::vector<std::string> texts;
  for (const auto& path : paths) texts.push_back(path.string());
  return texts;
}

}  // namespace

StudyOptions parse_study(std::string_view text, std::string_view where) {
  const toml::table table = parse_toml(text, where);
  TableReader top(table, where);
  StudyOptions o;
  o.models = top.list<std::string>("models", check_not_empty);
  o.tasks = top.list<std::string>(
      "tasks", [&](const std::string& at, const std::string& name) { check_task(at, name); });
  o.methods = read_methods(top, where);
  o.quantized = read_quantized(top, where);
  o.finetuned = read_finetuned(top, where);
  o.group_sizes = top.group_sizes();
  o.bits = top.bits();
  o.limit =
      top.read<int64_t>("limit", [](const std::string& at, int64_t v) { check_range(at, v, 1, INT64_MAX); });
  o.seed =
      top.read<int64_t>("seed", [](const std::string& at, int64_t v) { check_range(at, v, 0, INT64_MAX); });
  o.shots = top.integer("shots", 0, 8);
  o.samples = top.integer("samples", 1, kMaxInt);
  o.seqlen = top.integer("seqlen", 2, kMaxInt);
  o.window = top.integer("window", 2, kMaxInt);
  o.threads = top.integer("threads", 1, 4096);
  o.same_examples = top.read<bool>("same_examples", kAnything);
  o.symmetric = top.read<bool>("symmetric", kAnything);
  if (const auto data = top.read<std::string>("data", check_not_empty)) o.data = *data;
  if (const auto files = top.list<std::string>("calibration", check_not_empty)) {
    o.calibration.emplace(files->begin(), files->end());
  }
  o.dtype = top.read<std::string>("dtype", check_dtype);
  o.device = top.read<std::string>("device", check_device);
  if (const toml::node* node = top.find("bench")) {
    if (!node->is_table()) refuse("{}: write [bench]", top.place("bench", *node));
    TableReader bench(*node->as_table(), where);
    o.bench_prompt = bench.integer("prompt", 0, kMaxInt);
    o.bench_generate = bench.integer("generate", 0, kMaxInt);
    o.bench_repetitions = bench.integer("repetitions", 0, kMaxInt);
    bench.finish();
  }
  if (const toml::node* node = top.find("kl")) {
    if (!node->is_table()) refuse("{}: write [kl]", top.place("kl", *node));
    TableReader kl(*node->as_table(), where);
    o.kl_windows = kl.integer("windows", 0, kMaxInt);
    o.kl_window = kl.integer("window", kSmallestKlWindow, kMaxInt);
    kl.finish();
  }
  top.finish();
  return o;
}

StudyOptions read_study_file(const std::filesystem::path& path) {
  return parse_study(read_file(path, size_t{1} << 20), path.string());
}

std::string to_toml(const StudyPlan& plan) {
  std::string text =
      "# The plan of this study with every default filled in; `nibble study FILE` takes it as it is.\n";
  const auto line = [&](std::string_view key, const std::string& value) {
    text += fmt::format("{} = {}\n", key, value);
  };
  const auto line_if = [&](std::string_view key, const auto& value) {
    if (value) line(key, fmt::format("{}", *value));
  };
  line("models", quoted_list(plan.models));
  line("tasks", quoted_list(plan.tasks));
  line_if("limit", plan.limit);
  line_if("shots", plan.shots);
  line("seed", fmt::format("{}", plan.seed));
  if (plan.data) line("data", quoted(plan.data->string()));
  line("same_examples", fmt::to_string(plan.same_examples));
  line("symmetric", fmt::to_string(plan.symmetric));
  if (!plan.calibration.empty()) line("calibration", quoted_list(to_strings(plan.calibration)));
  line_if("samples", plan.samples);
  line_if("seqlen", plan.seqlen);
  line_if("window", plan.window);
  if (plan.dtype) line("dtype", quoted(*plan.dtype));
  if (plan.device) line("device", quoted(*plan.device));
  line("threads", fmt::format("{}", plan.threads));
  if (plan.methods.empty()) line("methods", "[]");
  for (const MethodPlan& m : plan.methods) {
    text += "\n[[method]]\n";
    line("name", quoted(m.name));
    line("bits", fmt::format("{}", m.bits));
    line("group_sizes", fmt::format("[{}]", fmt::join(m.group_sizes, ", ")));
  }
  for (const QuantizedModel& q : plan.quantized) {
    text += "\n[[quantized]]\n";
    line("model", quoted(q.model));
    if (!q.of.empty()) line("of", quoted(q.of));
    if (q.method.empty()) continue;
    line("method", quoted(q.method));
    line("bits", fmt::format("{}", q.bits));
    line("group_size", fmt::format("{}", q.group_size));
  }
  for (const FineTunedModel& f : plan.finetuned) {
    text += "\n[[finetuned]]\n";
    line("model", quoted(f.model));
    line("base", quoted(f.base));
  }
  text += "\n[bench]\n";
  line("prompt", fmt::format("{}", plan.bench_prompt));
  line("generate", fmt::format("{}", plan.bench_generate));
  line("repetitions", fmt::format("{}", plan.bench_repetitions));
  text += "\n[kl]\n";
  line("windows", fmt::format("{}", plan.kl_windows));
  line_if("window", plan.kl_window);
  return text;
}

std::string finetuned_json(const StudyPlan& plan) {
  Json all = Json::array();
  for (const FineTunedModel& f : plan.finetuned) all.push_back({{"model", f.model}, {"base", f.base}});
  return all.dump();
}

}  // namespace nibble
