#include "study/store.h"

#include <array>
#include <cstring>

#include "base/error.h"
#include "base/file_lock.h"
#include "study/sqlite.h"

namespace nibble {
namespace {

// "nibl": tells our databases from other programs'.
constexpr int64_t kApplicationId = 0x6e69626c;

// Script i takes schema i to i + 1; a new file gets all of them.
constexpr std::array kMigrations = {R"sql(
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE variants (
  id INTEGER PRIMARY KEY,
  model TEXT NOT NULL, method TEXT NOT NULL, bits INTEGER NOT NULL, group_size INTEGER NOT NULL,
  sha256 TEXT, file_bytes INTEGER, bits_per_weight REAL, parameters INTEGER, quantize_seconds REAL,
  quantization_report TEXT,
  UNIQUE (model, method, bits, group_size));
CREATE TABLE cells (
  id INTEGER PRIMARY KEY,
  variant_id INTEGER NOT NULL REFERENCES variants(id),
  task TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('planned', 'done', 'failed')),
  reason TEXT NOT NULL DEFAULT '',
  seconds REAL,
  task_version INTEGER, split TEXT, data_sha256 TEXT, rows INTEGER, shots INTEGER, seed INTEGER,
  primary_metric TEXT, higher_is_better INTEGER,
  prompt_tokens_per_s REAL, output_tokens_per_s REAL, task_seconds REAL,
  file_bytes INTEGER, weights_bytes INTEGER, kv_cache_bytes INTEGER, workspace_bytes INTEGER,
  peak_rss_bytes INTEGER, peak_gpu_bytes INTEGER,
  bench TEXT,
  UNIQUE (variant_id, task));
CREATE TABLE metrics (
  cell_id INTEGER NOT NULL REFERENCES cells(id), name TEXT NOT NULL,
  value REAL, stderr REAL, ci_low REAL, ci_high REAL,
  PRIMARY KEY (cell_id, name)) WITHOUT ROWID;
CREATE TABLE checks (
  cell_id INTEGER NOT NULL REFERENCES cells(id), name TEXT NOT NULL, value REAL,
  PRIMARY KEY (cell_id, name)) WITHOUT ROWID;
CREATE TABLE latencies (
  cell_id INTEGER NOT NULL REFERENCES cells(id),
  kind TEXT NOT NULL CHECK (kind IN ('response', 'first_token', 'per_token')),
  mean_ms REAL, p50_ms REAL, p90_ms REAL, p95_ms REAL, p99_ms REAL,
  PRIMARY KEY (cell_id, kind)) WITHOUT ROWID;
CREATE TABLE samples (
  cell_id INTEGER NOT NULL REFERENCES cells(id), position INTEGER NOT NULL,
  key TEXT NOT NULL, cluster TEXT NOT NULL, score REAL, tokens REAL,
  prediction TEXT NOT NULL, gold TEXT NOT NULL, prompt TEXT NOT NULL, output TEXT NOT NULL, detail TEXT,
  PRIMARY KEY (cell_id, position)) WITHOUT ROWID;
)sql",
                                    R"sql(
ALTER TABLE variants ADD COLUMN parts TEXT;
ALTER TABLE cells ADD COLUMN distance TEXT;
)sql",
                                    R"sql(
ALTER TABLE latencies ADD COLUMN min_ms REAL;
ALTER TABLE latencies ADD COLUMN whisker_low_ms REAL;
ALTER TABLE latencies ADD COLUMN p25_ms REAL;
ALTER TABLE latencies ADD COLUMN p75_ms REAL;
ALTER TABLE latencies ADD COLUMN whisker_high_ms REAL;
ALTER TABLE latencies ADD COLUMN max_ms REAL;
)sql",
                                    R"sql(
CREATE TABLE analyses (model TEXT PRIMARY KEY, analysis TEXT NOT NULL) WITHOUT ROWID;
)sql",
                                    // What is unique changes, and SQLite wants a new table for that.
                                    R"sql(
CREATE TABLE new_variants (
  id INTEGER PRIMARY KEY,
  model TEXT NOT NULL, method TEXT NOT NULL, bits INTEGER NOT NULL, group_size INTEGER NOT NULL,
  source TEXT NOT NULL DEFAULT '',
  sha256 TEXT, file_bytes INTEGER, bits_per_weight REAL, parameters INTEGER, quantize_seconds REAL,
  quantization_report TEXT, parts TEXT,
  UNIQUE (model, method, bits, group_size, source));
INSERT INTO new_variants (id, model, method, bits, group_size, sha256, file_bytes, bits_per_weight, parameters,
                          quantize_seconds, quantization_report, parts)
SELECT id, model, method, bits, group_size, sha256, file_bytes, bits_per_weight, parameters, quantize_seconds,
       quantization_report, parts FROM variants;
DROP TABLE variants;
ALTER TABLE new_variants RENAME TO variants;
)sql"};
constexpr auto kSchemaVersion = static_cast<int64_t>(kMigrations.size());

constexpr const char* kClearResult = R"sql(
UPDATE cells SET
  task_version = NULL, split = NULL, data_sha256 = NULL, rows = NULL, shots = NULL, seed = NULL,
  primary_metric = NULL, higher_is_better = NULL,
  prompt_tokens_per_s = NULL, output_tokens_per_s = NULL, task_seconds = NULL,
  file_bytes = NULL, weights_bytes = NULL, kv_cache_bytes = NULL, workspace_bytes = NULL,
  peak_rss_bytes = NULL, peak_gpu_bytes = NULL,
  bench = NULL, distance = NULL
WHERE id = ?1)sql";

constexpr const char* kWriteResult = R"sql(
UPDATE cells SET
  task_version = ?2, split = ?3, rows = ?4, shots = ?5, seed = ?6,
  primary_metric = ?7, higher_is_better = ?8,
  prompt_tokens_per_s = ?9, output_tokens_per_s = ?10, task_seconds = ?11, data_sha256 = ?12
WHERE id = ?1)sql";

constexpr const char* kReadCells = R"sql(
SELECT
  c.id, v.model, v.method, v.bits, v.group_size, c.task, c.status, c.reason, c.seconds, c.bench,
  c.task_version, c.split, c.rows, c.shots, c.seed, c.primary_metric, c.higher_is_better,
  c.prompt_tokens_per_s, c.output_tokens_per_s, c.task_seconds,
  c.file_bytes, c.weights_bytes, c.kv_cache_bytes, c.workspace_bytes, c.peak_rss_bytes, c.peak_gpu_bytes,
  c.data_sha256, c.distance, v.source
FROM cells c JOIN variants v ON v.id = c.variant_id ORDER BY c.id)sql";

constexpr const char* kStatusNames[] = {"planned", "done", "failed"};

CellStatus parse_status(const std::string& name, const std::string& where) {
  for (int i = 0; i < 3; ++i) {
    if (name == kStatusNames[i]) return static_cast<CellStatus>(i);
  }
  fail("{}: a cell has the unknown status '{}'", where, name);
}

std::optional<std::string> json_text(const Json& json) {
  if (json.is_null()) return std::nullopt;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json json_column(const sqlite::Statement& row, int column, const std::string& where) {
  return row.is_null(column) ? Json() : parse_json(row.text(column), where);
}

// Held by the one writer. Readers need no lock: SQLite shows them the last finished transaction.
std::unique_ptr<FileLock> writer_lock(const std::filesystem::path& database) {
  // A killed study's child may hold its lock for a moment yet, between fork and exec.
  constexpr double kPatience = 2;  // seconds
  return std::make_unique<FileLock>(
      database.string() + ".lock", kPatience,
      fmt::format("{}: another nibble is writing to it; wait until it is done, or use another --out",
                  database.string()));
}

// Brings an empty or older file to the present schema; refuses what is not ours.
void prepare_schema(sqlite::Database& database, bool read_only) {
  const std::string& file = database.file();
  const int64_t version = database.integer("PRAGMA user_version");
  const bool empty = database.integer("SELECT count(*) FROM sqlite_schema") == 0;
  if (empty && version == 0) {
    if (read_only) fail("{}: no results in it yet; `nibble study` makes them", file);
  } else if (database.integer("PRAGMA application_id") != kApplicationId) {
    fail("{}: a database of another program, not results of nibble; use another --out", file);
  } else if (version > kSchemaVersion) {
    fail("{}: written by a newer nibble (schema {}, this one knows up to {}); update nibble", file, version,
         kSchemaVersion);
  } else if (version < 1) {
    fail("{}: schema {} was never in use; the file is damaged", file, version);
  }
  if (version == kSchemaVersion) return;
  if (read_only) database.continue_in_memory();
  sqlite::Transaction transaction(database);
  for (int64_t i = version; i < kSchemaVersion; ++i) database.execute(kMigrations[static_cast<size_t>(i)]);
  database.execute(fmt::format("PRAGMA application_id = {}", kApplicationId).c_str());
  database.execute(fmt::format("PRAGMA user_version = {}", kSchemaVersion).c_str());
  transaction.commit();
}

}  // namespace

std::string Variant::name() const {
  if (is_baseline()) return model + " baseline";
  const std::string group = group_size == 0 ? "row" : fmt::format("g{}", group_size);
  const std::string from = source.empty() || source == model ? "" : fmt::format(" ({})", source);
  return fmt::format("{} {}-{}bit-{}{}", model, method, bits, group, from);
}

struct Store::Impl {
  Impl(const std::filesystem::path& path, bool read_only)
      : lock(read_only ? nullptr : writer_lock(path)),
        // A reader, too, must be able to undo what a killed writer left half done.
        database(path.string(), SQLITE_OPEN_READWRITE | (read_only ? 0 : SQLITE_OPEN_CREATE)) {
    database.execute("PRAGMA busy_timeout = 10000");
    // A rollback journal: one file when at rest, and safe against kill -9 and power loss at FULL.
    if (!read_only) database.execute("PRAGMA synchronous = FULL");
    prepare_schema(database, read_only);  // without foreign keys: it may replace a table that others refer to
    database.execute("PRAGMA foreign_keys = ON");
    if (read_only) database.execute("PRAGMA query_only = ON");
  }

  std::unique_ptr<FileLock> lock;  // before the database: released after it is closed
  sqlite::Database database;

  std::optional<int64_t> find_variant(const Variant& v) const {
    auto query = database.prepare(
        "SELECT id FROM variants WHERE model = ?1 AND method = ?2 AND bits = ?3 AND group_size = ?4 AND "
        "source = ?5");
    if (!query.bind(v.model, v.method, v.bits, v.group_size, v.source).step()) return std::nullopt;
    return query.integer(0);
  }
  std::optional<int64_t> find_cell(const Variant& v, const std::string& task) const {
    const auto variant = find_variant(v);
    if (!variant) return std::nullopt;
    auto query = database.prepare("SELECT id FROM cells WHERE variant_id = ?1 AND task = ?2");
    if (!query.bind(*variant, task).step()) return std::nullopt;
    return query.integer(0);
  }
  int64_t variant_id(const Variant& v) {
    if (const auto found = find_variant(v)) return *found;
    database
        .prepare("INSERT INTO variants (model, method, bits, group_size, source) VALUES (?1, ?2, ?3, ?4, ?5)")
        .run(v.model, v.method, v.bits, v.group_size, v.source);
    return *find_variant(v);
  }
  int64_t cell_id(const Variant& variant, const std::string& task) {
    const int64_t variant_row = variant_id(variant);
    database
        .prepare(
            "INSERT INTO cells (variant_id, task, status) VALUES (?1, ?2, 'planned') ON CONFLICT DO NOTHING")
        .run(variant_row, task);
    auto query = database.prepare("SELECT id FROM cells WHERE variant_id = ?1 AND task = ?2");
    NIBBLE_CHECK(query.bind(variant_row, task).step());
    return query.integer(0);
  }
  void clear(int64_t cell);
  void write_result(int64_t cell, const TaskResult& result);
  void read_result(int64_t cell, TaskResult& result) const;
  std::vector<Sample> read_samples(int64_t cell) const;
};

void Store::Impl::clear(int64_t cell) {
  for (const char* sql :
       {"DELETE FROM metrics WHERE cell_id = ?1", "DELETE FROM checks WHERE cell_id = ?1",
        "DELETE FROM latencies WHERE cell_id = ?1", "DELETE FROM samples WHERE cell_id = ?1"}) {
    database.prepare(sql).run(cell);
  }
  database.prepare(kClearResult).run(cell);
}

void Store::Impl::write_result(int64_t cell, const TaskResult& r) {
  database.prepare(kWriteResult)
      .run(cell, r.task_version, r.split, r.rows, r.shots, r.seed, r.primary, r.higher_is_better,
           r.prompt_tokens_per_s, r.output_tokens_per_s, r.seconds, r.data_sha256);
  auto metric = database.prepare("INSERT INTO metrics VALUES (?1, ?2, ?3, ?4, ?5, ?6)");
  for (const auto& [name, m] : r.metrics) metric.run(cell, name, m.value, m.stderr_, m.ci_low, m.ci_high);
  auto check = database.prepare("INSERT INTO checks VALUES (?1, ?2, ?3)");
  for (const auto& [name, value] : r.checks) check.run(cell, name, value);
  auto latency = database.prepare(
      "INSERT INTO latencies (cell_id, kind, mean_ms, p50_ms, p90_ms, p95_ms, p99_ms, min_ms, "
      "whisker_low_ms, p25_ms, p75_ms, whisker_high_ms, max_ms) "
      "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)");
  const auto write_latency = [&](const char* kind, const Percentiles& p) {
    latency.run(cell, kind, p.mean, p.p50, p.p90, p.p95, p.p99, p.min, p.whisker_low, p.p25, p.p75,
                p.whisker_high, p.max);
  };
  write_latency("response", r.latency_ms);
  write_latency("first_token", r.first_token_ms);
  write_latency("per_token", r.per_token_ms);
  auto sample = database.prepare("INSERT INTO samples VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)");
  int64_t position = 0;
  for (const Sample& s : r.samples) {
    sample.run(cell, position++, s.key, s.cluster, s.score, s.tokens, s.prediction, s.gold, s.prompt,
               s.output, json_text(s.detail));
  }
}

void Store::Impl::read_result(int64_t cell, TaskResult& r) const {
  auto metrics =
      database.prepare("SELECT name, value, stderr, ci_low, ci_high FROM metrics WHERE cell_id = ?1");
  metrics.bind(cell);
  while (metrics.step()) {
    r.metrics[metrics.text(0)] = {metrics.real(1), metrics.real(2), metrics.real(3), metrics.real(4)};
  }
  auto checks = database.prepare("SELECT name, value FROM checks WHERE cell_id = ?1");
  checks.bind(cell);
  while (checks.step()) r.checks[checks.text(0)] = checks.real(1);
  auto latencies = database.prepare(
      "SELECT kind, mean_ms, p50_ms, p90_ms, p95_ms, p99_ms, min_ms, whisker_low_ms, p25_ms, p75_ms, "
      "whisker_high_ms, max_ms FROM latencies WHERE cell_id = ?1");
  latencies.bind(cell);
  while (latencies.step()) {
    const std::string kind = latencies.text(0);
    Percentiles& p = kind == "response"      ? r.latency_ms
                     : kind == "first_token" ? r.first_token_ms
                                             : r.per_token_ms;
    p = {latencies.real(1), latencies.real(2),  latencies.real(3), latencies.real(4),
         latencies.real(5), latencies.real(6),  latencies.real(7), latencies.real(8),
         latencies.real(9), latencies.real(10), latencies.real(11)};
  }
}

namespace {

constexpr const char* kReadSamples =
    "SELECT key, cluster, score, tokens, prediction, gold, prompt, output, detail FROM samples "
    "WHERE cell_id = ?1 ORDER BY position";
constexpr const char* kReadSample =
    "SELECT key, cluster, score, tokens, prediction, gold, prompt, output, detail FROM samples "
    "WHERE cell_id = ?1 AND position = ?2";

Sample read_sample(const sqlite::Statement& row, const std::string& file) {
  return {row.text(0), row.text(1), row.real(2),
          row.real(3), row.text(4), row.text(5),
          row.text(6), row.text(7), json_column(row, 8, file)};
}

}  // namespace

std::vector<Sample> Store::Impl::read_samples(int64_t cell) const {
  auto query = database.prepare(kReadSamples);
  query.bind(cell);
  std::vector<Sample> samples;
  while (query.step()) samples.push_back(read_sample(query, database.file()));
  return samples;
}

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;
Store::Store(Store&&) noexcept = default;
Store& Store::operator=(Store&&) noexcept = default;

Store Store::open(const std::filesystem::path& file, bool read_only) {
  if (read_only && !std::filesystem::exists(file)) {
    fail("{}: not there; `nibble study --out {}` makes it", file.string(), file.parent_path().string());
  }
  if (std::filesystem::is_directory(file)) fail("{}: a directory, not a file of results", file.string());
  return Store(std::make_unique<Impl>(file, read_only));
}

void Store::set_meta(const std::string& key, const std::string& value) {
  impl_->database.prepare("INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2")
      .run(key, value);
}

std::optional<std::string> Store::meta(const std::string& key) const {
  auto query = impl_->database.prepare("SELECT value FROM meta WHERE key = ?1");
  if (!query.bind(key).step()) return std::nullopt;
  return query.text(0);
}

void Store::plan(const std::vector<Cell>& cells) {
  sqlite::Transaction transaction(impl_->database);
  for (const Cell& cell : cells) impl_->cell_id(cell.variant, cell.task);
  transaction.commit();
}

void Store::set_facts(const Variant& variant, const VariantFacts& facts) {
  sqlite::Transaction transaction(impl_->database);
  impl_->database
      .prepare(
          "UPDATE variants SET sha256 = ?2, file_bytes = ?3, bits_per_weight = ?4, parameters = ?5, "
          "quantize_seconds = ?6, quantization_report = ?7, parts = ?8 WHERE id = ?1")
      .run(impl_->variant_id(variant), facts.sha256, facts.file_bytes, facts.bits_per_weight,
           facts.parameters, facts.quantize_seconds, json_text(facts.quantization_report),
           json_text(facts.parts));
  transaction.commit();
}

std::optional<VariantFacts> Store::facts(const Variant& v) const {
  auto query = impl_->database.prepare(
      "SELECT sha256, file_bytes, bits_per_weight, parameters, quantize_seconds, quantization_report, parts "
      "FROM variants WHERE model = ?1 AND method = ?2 AND bits = ?3 AND group_size = ?4 AND source = ?5");
  if (!query.bind(v.model, v.method, v.bits, v.group_size, v.source).step() || query.is_null(0))
    return std::nullopt;
  const std::string& file = impl_->database.file();
  return VariantFacts{query.text(0),
                      query.unsigned_integer(1),
                      query.real(2),
                      query.unsigned_integer(3),
                      query.real(4),
                      json_column(query, 5, file),
                      json_column(query, 6, file)};
}

void Store::set_analysis(const std::string& model, const Json& analysis) {
  NIBBLE_CHECK(!analysis.is_null());
  impl_->database
      .prepare("INSERT INTO analyses VALUES (?1, ?2) ON CONFLICT (model) DO UPDATE SET analysis = ?2")
      .run(model, json_text(analysis));
}

Json Store::analysis(const std::string& model) const {
  auto query = impl_->database.prepare("SELECT analysis FROM analyses WHERE model = ?1");
  return query.bind(model).step() ? json_column(query, 0, impl_->database.file()) : Json();
}

void Store::save(const Cell& cell) {
  sqlite::Transaction transaction(impl_->database);
  const int64_t id = impl_->cell_id(cell.variant, cell.task);
  impl_->clear(id);
  impl_->database
      .prepare(
          "UPDATE cells SET status = ?2, reason = ?3, seconds = ?4, bench = ?5, distance = ?6 WHERE id = ?1")
      .run(id, kStatusNames[static_cast<int>(cell.status)], cell.reason, cell.seconds, json_text(cell.bench),
           json_text(cell.distance));
  if (cell.memory) {
    const MemoryBytes& m = *cell.memory;
    impl_->database
        .prepare(
            "UPDATE cells SET file_bytes = ?2, weights_bytes = ?3, kv_cache_bytes = ?4, "
            "workspace_bytes = ?5, peak_rss_bytes = ?6, peak_gpu_bytes = ?7 WHERE id = ?1")
        .run(id, m.file, m.weights, m.kv_cache, m.workspace, m.peak_rss, m.peak_gpu);
  }
  if (cell.result) impl_->write_result(id, *cell.result);
  transaction.commit();
}

std::vector<Cell> Store::cells(bool with_samples) const {
  const std::string& file = impl_->database.file();
  auto query = impl_->database.prepare(kReadCells);
  query.bind();
  std::vector<Cell> cells;
  while (query.step()) {
    Cell& cell = cells.emplace_back();
    cell.variant = {query.text(1), query.text(2), static_cast<int>(query.integer(3)),
                    static_cast<int>(query.integer(4)), query.text(28)};
    cell.task = query.text(5);
    cell.status = parse_status(query.text(6), file);
    cell.reason = query.text(7);
    cell.seconds = query.is_null(8) ? 0 : query.real(8);
    cell.bench = json_column(query, 9, file);
    cell.distance = json_column(query, 27, file);
    if (!query.is_null(10)) {
      TaskResult& r = cell.result.emplace();
      r.task = cell.task;
      r.task_version = static_cast<int>(query.integer(10));
      r.split = query.text(11);
      r.rows = query.integer(12);
      r.shots = static_cast<int>(query.integer(13));
      r.seed = query.unsigned_integer(14);
      r.primary = query.text(15);
      r.higher_is_better = query.integer(16) != 0;
      r.prompt_tokens_per_s = query.real(17);
      r.output_tokens_per_s = query.real(18);
      r.seconds = query.real(19);
      r.data_sha256 = query.text(26);
      impl_->read_result(query.integer(0), r);
      if (with_samples) r.samples = impl_->read_samples(query.integer(0));
    }
    if (!query.is_null(20)) {
      cell.memory =
          MemoryBytes{query.unsigned_integer(20), query.unsigned_integer(21), query.unsigned_integer(22),
                      query.unsigned_integer(23), query.unsigned_integer(24), query.unsigned_integer(25)};
    }
  }
  return cells;
}

std::vector<Sample> Store::samples(const Variant& variant, const std::string& task) const {
  const auto cell = impl_->find_cell(variant, task);
  return cell ? impl_->read_samples(*cell) : std::vector<Sample>{};
}

std::optional<Sample> Store::sample(const Variant& variant, const std::string& task, size_t position) const {
  const auto cell = impl_->find_cell(variant, task);
  if (!cell) return std::nullopt;
  auto query = impl_->database.prepare(kReadSample);
  if (!query.bind(*cell, static_cast<int64_t>(position)).step()) return std::nullopt;
  return read_sample(query, impl_->database.file());
}

}  // namespace nibble
