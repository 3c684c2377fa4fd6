#include "study/store.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include "base/error.h"
#include "base/file.h"
#include "test_data.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "nibble_store_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
    file_ = dir_ / "results.db";
  }
  void TearDown() override { fs::remove_all(dir_); }

  void execute(const std::string& sql) const {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(file_.c_str(), &db), SQLITE_OK);
    char* message = nullptr;
    const int code = sqlite3_exec(db, sql.c_str(), nullptr, nullptr, &message);
    EXPECT_EQ(code, SQLITE_OK) << (message ? message : "");
    sqlite3_free(message);
    sqlite3_close(db);
  }
  std::string error_of_opening(bool read_only = false) const {
    try {
      Store::open(file_, read_only).cells();
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      EXPECT_THAT(error.what(), HasSubstr("results.db"));
      return error.what();
    }
    return "";
  }

  fs::path dir_, file_;
};

const Variant kBaseline{"llama-mini", "baseline", 16, 0};
const Variant kGptq{"llama-mini", "gptq", 4, 64};

Cell make_cell(const Variant& variant, const std::string& task, CellStatus status = CellStatus::kPlanned,
               const std::string& reason = "") {
  Cell cell;
  cell.variant = variant;
  cell.task = task;
  cell.status = status;
  cell.reason = reason;
  return cell;
}

Cell done_cell() {
  Cell cell = make_cell(kGptq, "boolq", CellStatus::kDone);
  cell.seconds = 12.25;
  cell.memory = MemoryBytes{1, 2, 3, 4, uint64_t{5} << 33, 6};
  TaskResult& r = cell.result.emplace();
  r.task = "boolq";
  r.task_version = 2;
  r.split = "validation";
  r.data_sha256 = "0123+4567";
  r.rows = 200;
  r.shots = 5;
  r.seed = 0xfedcba9876543210u;  // above INT64_MAX
  r.primary = "accuracy";
  r.higher_is_better = false;
  r.metrics["accuracy"] = {0.1 + 0.2, 0.034, 0.54, 0.67};
  r.metrics["ppl"] = {std::nan(""), HUGE_VAL, 0, 1};
  r.checks["label_share_yes"] = 0.62;
  r.latency_ms = {1, 2, 3, 4, 5, 0.25, 0.5, 1.5, 2.5, 4.5, 6};
  r.first_token_ms = {6, 7, 8, 9, 10};
  r.per_token_ms = {11, 12, 13, 14, 15};
  r.prompt_tokens_per_s = 16;
  r.output_tokens_per_s = 17;
  r.seconds = 18;
  r.samples.push_back(
      {"17/3", "17", 1, 4, "yes", "no", "Prüfung\n", std::string("a\0b", 3), {{"loglik", -1.5}}});
  r.samples.push_back({"18", "18", -0.25, 0, "", "", "", "\xff not utf-8", nullptr});
  return cell;
}

void expect_same(const Percentiles& a, const Percentiles& b) {
  EXPECT_EQ(a.mean, b.mean);
  EXPECT_EQ(a.p50, b.p50);
  EXPECT_EQ(a.p90, b.p90);
  EXPECT_EQ(a.p95, b.p95);
  EXPECT_EQ(a.p99, b.p99);
  for (double Percentiles::*member : {&Percentiles::min, &Percentiles::whisker_low, &Percentiles::p25,
                                      &Percentiles::p75, &Percentiles::whisker_high, &Percentiles::max}) {
    if (std::isnan(a.*member))
      EXPECT_TRUE(std::isnan(b.*member));
    else
      EXPECT_EQ(a.*member, b.*member);
  }
}

void expect_same(const std::vector<Sample>& a, const std::vector<Sample>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].key, b[i].key);
    EXPECT_EQ(a[i].cluster, b[i].cluster);
    EXPECT_EQ(a[i].score, b[i].score);
    EXPECT_EQ(a[i].tokens, b[i].tokens);
    EXPECT_EQ(a[i].prediction, b[i].prediction);
    EXPECT_EQ(a[i].gold, b[i].gold);
    EXPECT_EQ(a[i].prompt, b[i].prompt);
    EXPECT_EQ(a[i].output, b[i].output);
    EXPECT_EQ(a[i].detail, b[i].detail);
  }
}

TEST(Variant, Names) {
  EXPECT_EQ(kBaseline.name(), "llama-mini baseline");
  EXPECT_EQ(kGptq.name(), "llama-mini gptq-4bit-g64");
  EXPECT_EQ((Variant{"org/m", "rtn", 8, 0}.name()), "org/m rtn-8bit-row");
}

TEST_F(StoreTest, CellComesBackAsItWas) {
  const Cell saved = done_cell();
  { Store::open(file_).save(saved); }
  const Store store = Store::open(file_, true);
  const std::vector<Cell> cells = store.cells(true);
  ASSERT_EQ(cells.size(), 1u);
  const Cell& cell = cells[0];
  EXPECT_EQ(cell.variant, saved.variant);
  EXPECT_EQ(cell.task, "boolq");
  EXPECT_EQ(cell.status, CellStatus::kDone);
  EXPECT_EQ(cell.seconds, 12.25);
  EXPECT_TRUE(cell.bench.is_null());
  ASSERT_TRUE(cell.memory);
  EXPECT_EQ(cell.memory->file, 1u);
  EXPECT_EQ(cell.memory->weights, 2u);
  EXPECT_EQ(cell.memory->kv_cache, 3u);
  EXPECT_EQ(cell.memory->workspace, 4u);
  EXPECT_EQ(cell.memory->peak_rss, uint64_t{5} << 33);
  EXPECT_EQ(cell.memory->peak_gpu, 6u);
  ASSERT_TRUE(cell.result);
  const TaskResult &r = *cell.result, &expected = *saved.result;
  EXPECT_EQ(r.task, "boolq");
  EXPECT_EQ(r.task_version, 2);
  EXPECT_EQ(r.split, "validation");
  EXPECT_EQ(r.data_sha256, "0123+4567");
  EXPECT_EQ(r.rows, 200);
  EXPECT_EQ(r.shots, 5);
  EXPECT_EQ(r.seed, expected.seed);
  EXPECT_EQ(r.primary, "accuracy");
  EXPECT_FALSE(r.higher_is_better);
  ASSERT_EQ(r.metrics.size(), 2u);
  EXPECT_EQ(r.metrics.at("accuracy").value, 0.1 + 0.2);  // to the last digit
  EXPECT_EQ(r.metrics.at("accuracy").stderr_, 0.034);
  EXPECT_EQ(r.metrics.at("accuracy").ci_low, 0.54);
  EXPECT_EQ(r.metrics.at("accuracy").ci_high, 0.67);
  EXPECT_TRUE(std::isnan(r.metrics.at("ppl").value));
  EXPECT_EQ(r.metrics.at("ppl").stderr_, HUGE_VAL);
  EXPECT_EQ(r.checks, expected.checks);
  expect_same(r.latency_ms, expected.latency_ms);
  expect_same(r.first_token_ms, expected.first_token_ms);
  expect_same(r.per_token_ms, expected.per_token_ms);
  EXPECT_EQ(r.prompt_tokens_per_s, 16);
  EXPECT_EQ(r.output_tokens_per_s, 17);
  EXPECT_EQ(r.seconds, 18);
  expect_same(r.samples, expected.samples);

  expect_same(store.samples(saved.variant, "boolq"), expected.samples);
  EXPECT_TRUE(store.samples(saved.variant, "gsm8k").empty());
  expect_same({store.sample(saved.variant, "boolq", 1).value()}, {expected.samples[1]});
  EXPECT_FALSE(store.sample(saved.variant, "boolq", 2));
  EXPECT_FALSE(store.sample(saved.variant, "gsm8k", 0));
  EXPECT_FALSE(store.sample(kBaseline, "boolq", 0));
  EXPECT_TRUE(store.samples(kBaseline, "boolq").empty());
  EXPECT_TRUE(store.cells()[0].result->samples.empty());
}

TEST_F(StoreTest, BenchAndFailureComeBack) {
  Cell bench = make_cell(kBaseline, "bench", CellStatus::kDone);
  bench.bench = Json::parse(R"([{"test": "pp128", "tokens_per_s": {"mean": 1.5, "sd": 0.1}}])");
  Cell failed = make_cell(kGptq, "gsm8k", CellStatus::kFailed, "killed by signal 9");
  Store store = Store::open(file_);
  store.save(bench);
  store.save(failed);
  const auto cells = store.cells();
  ASSERT_EQ(cells.size(), 2u);
  EXPECT_EQ(cells[0].bench, bench.bench);
  EXPECT_FALSE(cells[0].result);
  EXPECT_FALSE(cells[0].memory);
  EXPECT_EQ(cells[1].status, CellStatus::kFailed);
  EXPECT_EQ(cells[1].reason, "killed by signal 9");
}

TEST_F(StoreTest, SavingAgainReplacesAll) {
  Store store = Store::open(file_);
  store.save(done_cell());
  store.save(make_cell(kGptq, "boolq", CellStatus::kFailed, "no luck"));
  auto cells = store.cells(true);
  ASSERT_EQ(cells.size(), 1u);
  EXPECT_FALSE(cells[0].result);
  EXPECT_FALSE(cells[0].memory);
  EXPECT_TRUE(store.samples(kGptq, "boolq").empty());
  store.save(done_cell());
  cells = store.cells(true);
  EXPECT_EQ(cells[0].reason, "");
  EXPECT_EQ(cells[0].result->samples.size(), 2u);
}

TEST_F(StoreTest, PlanKeepsOrderAndWhatIsKnown) {
  Store store = Store::open(file_);
  store.plan({make_cell(kBaseline, "boolq"), make_cell(kBaseline, "bench"), make_cell(kGptq, "boolq")});
  store.save(done_cell());  // the last one
  store.plan({make_cell(kGptq, "wikitext"), make_cell(kGptq, "boolq"), make_cell(kBaseline, "boolq")});
  std::vector<std::string> seen;
  for (const Cell& cell : store.cells()) {
    seen.push_back(cell.variant.method + " " + cell.task + (cell.status == CellStatus::kDone ? " done" : ""));
  }
  EXPECT_THAT(seen, ElementsAre("baseline boolq", "baseline bench", "gptq boolq done", "gptq wikitext"));
}

TEST_F(StoreTest, FactsAndMeta) {
  Store store = Store::open(file_);
  EXPECT_FALSE(store.facts(kGptq));
  store.plan({make_cell(kGptq, "boolq")});
  EXPECT_FALSE(store.facts(kGptq));
  store.set_facts(kGptq, {"abc", 1234, 4.625, 99, 3.5, {{"totals", {{"seconds", 3.5}}}}, {{"body", 1}}});
  store.set_facts(kBaseline, {"def", 5, 16, 99, 0, nullptr, nullptr});
  const auto facts = store.facts(kGptq);
  ASSERT_TRUE(facts);
  EXPECT_EQ(facts->sha256, "abc");
  EXPECT_EQ(facts->file_bytes, 1234u);
  EXPECT_EQ(facts->bits_per_weight, 4.625);
  EXPECT_EQ(facts->parameters, 99u);
  EXPECT_EQ(facts->quantize_seconds, 3.5);
  EXPECT_EQ(facts->quantization_report["totals"]["seconds"], 3.5);
  EXPECT_EQ(facts->parts["body"], 1);
  EXPECT_TRUE(store.facts(kBaseline)->quantization_report.is_null());

  EXPECT_TRUE(store.analysis("llama-mini").is_null());
  store.set_analysis("llama-mini", {{"tokens", 8}});
  store.set_analysis("llama-mini", {{"tokens", 9}});
  EXPECT_EQ(store.analysis("llama-mini"), (Json{{"tokens", 9}}));
  EXPECT_TRUE(store.analysis("phi-mini").is_null());

  EXPECT_FALSE(store.meta("version"));
  store.set_meta("version", "0.1");
  store.set_meta("version", "0.2");
  EXPECT_EQ(store.meta("version"), "0.2");
}

// A baseline and a quantized variant with a score and a bench each, as each version wrote them.
class OlderSchema : public StoreTest, public ::testing::WithParamInterface<int> {};

TEST_P(OlderSchema, IsReadAsItIsAndMigratedByAWriter) {
  execute(read_file(testing::source_dir() / "tests" / "golden" / "results_v1.sql"));
  if (GetParam() >= 2) {
    execute(
        "ALTER TABLE variants ADD COLUMN parts TEXT; ALTER TABLE cells ADD COLUMN distance TEXT;"
        "PRAGMA user_version = 2;");
  }
  if (GetParam() >= 3) {
    for (const char* column : {"min_ms", "whisker_low_ms", "p25_ms", "p75_ms", "whisker_high_ms", "max_ms"})
      execute(fmt::format("ALTER TABLE latencies ADD COLUMN {} REAL", column));
    execute("PRAGMA user_version = 3");
  }
  if (GetParam() >= 4) {
    execute(
        "CREATE TABLE analyses (model TEXT PRIMARY KEY, analysis TEXT NOT NULL) WITHOUT ROWID;"
        "PRAGMA user_version = 4");
  }
  const std::string before = read_file(file_);
  const auto expect_content = [&](const Store& store) {
    const auto cells = store.cells(true);
    ASSERT_EQ(cells.size(), 4u);
    EXPECT_EQ(cells[0].variant.name(), "llama-mini baseline");
    EXPECT_EQ(cells[0].result->samples.size(), 5u);
    EXPECT_GT(cells[0].result->latency_ms.p50, 0);
    EXPECT_TRUE(std::isnan(cells[0].result->latency_ms.p25));  // not measured then, so not made up
    EXPECT_EQ(cells[1].bench.size(), 2u);
    EXPECT_EQ(cells[2].variant.name(), "llama-mini gptq-4bit-g16");
    EXPECT_TRUE(cells[2].distance.is_null());
    const auto facts = store.facts(cells[2].variant);
    EXPECT_EQ(facts->file_bytes, 3457024u);
    EXPECT_TRUE(facts->parts.is_null());
    EXPECT_TRUE(store.analysis("llama-mini").is_null());
  };
  expect_content(Store::open(file_, true));
  EXPECT_EQ(read_file(file_), before);

  Store writer = Store::open(file_);
  expect_content(writer);
  Cell kl = make_cell(kGptq, "kl", CellStatus::kDone);
  kl.distance = {{"kl", {{"mean", 0.01}}}};
  writer.save(kl);
  Cell measured = done_cell();
  measured.variant = kBaseline;
  writer.save(measured);
  writer.set_analysis("llama-mini", {{"tokens", 8}});
  EXPECT_EQ(Store::open(file_, true).analysis("llama-mini")["tokens"], 8);
  expect_same(Store::open(file_, true).cells()[0].result->latency_ms, measured.result->latency_ms);
  EXPECT_EQ(Store::open(file_, true).cells().back().distance, kl.distance);
  // Cells still belong to their variants, and no variant of that name can be made twice.
  Variant elsewhere = kGptq;
  elsewhere.source = "org/llama-mini-gptq";
  writer.save(make_cell(elsewhere, "boolq"));
  EXPECT_EQ(Store::open(file_, true).cells().size(), 6u);
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(file_.c_str(), &db), SQLITE_OK);
  EXPECT_EQ(
      sqlite3_exec(
          db,
          "PRAGMA foreign_keys = ON; INSERT INTO cells (variant_id, task, status) VALUES (99, 'x', 'done')",
          nullptr, nullptr, nullptr),
      SQLITE_CONSTRAINT);
  EXPECT_EQ(sqlite3_exec(db,
                         "INSERT INTO variants (model, method, bits, group_size) SELECT model, method, bits, "
                         "group_size FROM variants LIMIT 1",
                         nullptr, nullptr, nullptr),
            SQLITE_CONSTRAINT);
  sqlite3_close(db);
  EXPECT_NE(read_file(file_), before);
}

INSTANTIATE_TEST_SUITE_P(Versions, OlderSchema, ::testing::Values(1, 2, 3, 4),
                         [](const auto& v) { return fmt::format("V{}", v.param); });

TEST_F(StoreTest, VariantsOfOneFormDifferByTheirSource) {
  Store store = Store::open(file_);
  Variant elsewhere = kGptq;
  elsewhere.source = "org/llama-mini-gptq";
  VariantFacts here, there;
  here.sha256 = "a";
  there.sha256 = "b";
  store.save(done_cell());
  store.save(make_cell(elsewhere, "boolq", CellStatus::kFailed, "no luck"));
  store.set_facts(kGptq, here);
  store.set_facts(elsewhere, there);
  const auto cells = store.cells();
  ASSERT_EQ(cells.size(), 2u);
  EXPECT_EQ(cells[0].variant, kGptq);
  EXPECT_EQ(cells[1].variant, elsewhere);
  EXPECT_EQ(cells[1].variant.name(), "llama-mini gptq-4bit-g64 (org/llama-mini-gptq)");
  EXPECT_EQ(store.facts(kGptq)->sha256, "a");
  EXPECT_EQ(store.facts(elsewhere)->sha256, "b");
}

TEST_F(StoreTest, QueriesOfTheDocumentationRun) {
  { Store::open(file_).save(done_cell()); }
  const std::string page = read_file(testing::source_dir() / "docs" / "results.md");
  const std::string open = "```sql\n", close = "```";
  int queries = 0;
  for (size_t at = page.find(open); at != std::string::npos; at = page.find(open, at + 1), ++queries) {
    const size_t begin = at + open.size();
    execute(page.substr(begin, page.find(close, begin) - begin));
  }
  EXPECT_EQ(queries, 2);
}

TEST_F(StoreTest, SecondWriterIsRefusedReadersAreNot) {
  Store first = Store::open(file_);
  first.save(done_cell());
  EXPECT_THAT(error_of_opening(), HasSubstr("another nibble is writing to it"));
  EXPECT_EQ(Store::open(file_, true).cells().size(), 1u);
  { const Store moved = std::move(first); }
  EXPECT_EQ(error_of_opening(), "");
}

TEST_F(StoreTest, ReaderCannotWriteNorCreate) {
  EXPECT_THAT(error_of_opening(true), HasSubstr("nibble study --out"));
  EXPECT_FALSE(fs::exists(file_));
  { Store::open(file_); }
  Store reader = Store::open(file_, true);
  EXPECT_THROW(reader.set_meta("a", "b"), Error);
}

TEST_F(StoreTest, NewerSchemaIsRefusedAndLeftAlone) {
  { Store::open(file_).save(done_cell()); }
  execute("PRAGMA user_version = 99");
  const std::string before = read_file(file_);
  EXPECT_THAT(error_of_opening(), HasSubstr("newer nibble (schema 99"));
  EXPECT_THAT(error_of_opening(true), HasSubstr("newer nibble (schema 99"));
  EXPECT_EQ(read_file(file_), before);
}

TEST_F(StoreTest, ForeignDatabaseIsRefusedAndLeftAlone) {
  execute("CREATE TABLE songs (title TEXT)");
  const std::string before = read_file(file_);
  EXPECT_THAT(error_of_opening(), HasSubstr("another program"));
  execute("PRAGMA user_version = 1");
  EXPECT_THAT(error_of_opening(true), HasSubstr("another program"));
  execute("PRAGMA user_version = 0");
  EXPECT_EQ(read_file(file_).size(), before.size());
}

TEST_F(StoreTest, DamagedFilesEndInOneLine) {
  write_file_atomically(file_,
                        "This is a letter, not a database. It is long enough to hold a header of one.");
  EXPECT_THAT(error_of_opening(), HasSubstr("no results database of nibble"));
  fs::remove(file_);
  Cell cell = done_cell();
  cell.result->samples.resize(500, cell.result->samples[0]);
  { Store::open(file_).save(cell); }
  const std::string whole = read_file(file_);
  for (const size_t size : {size_t{100}, size_t{4096}, whole.size() / 2}) {
    write_file_atomically(file_, whole.substr(0, size));
    EXPECT_NE(error_of_opening(true), "") << size;
  }
  std::string scrambled = whole;
  for (size_t i = 4096; i < scrambled.size(); ++i) scrambled[i] = static_cast<char>(scrambled[i] ^ 0x5a);
  write_file_atomically(file_, scrambled);
  EXPECT_NE(error_of_opening(true), "");
  write_file_atomically(file_, "");
  EXPECT_THAT(error_of_opening(true), HasSubstr("no results in it yet"));
  fs::remove(file_);
  fs::create_directory(file_);
  EXPECT_THAT(error_of_opening(), HasSubstr("a directory"));
}

TEST_F(StoreTest, StrangeValuesEndInOneLine) {
  { Store::open(file_).save(done_cell()); }
  execute("UPDATE samples SET detail = '{broken'");
  EXPECT_THROW(Store::open(file_, true).cells(true), Error);
  execute("PRAGMA ignore_check_constraints = ON; UPDATE cells SET status = 'later'");
  EXPECT_THAT(error_of_opening(true), HasSubstr("unknown status 'later'"));
  execute("DROP TABLE metrics; UPDATE cells SET status = 'done'");
  EXPECT_THAT(error_of_opening(true), HasSubstr("metrics"));
}

TEST_F(StoreTest, KilledWriterLosesOnlyTheCellInHand) {
  { Store::open(file_).save(make_cell(kBaseline, "boolq", CellStatus::kDone)); }
  for (int delay_us : {500, 2000, 5000, 20000}) {
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      Store store = Store::open(file_);
      Cell cell = done_cell();
      cell.result->samples.resize(3000, cell.result->samples[0]);
      if (::write(ready[1], "x", 1) != 1) ::_exit(1);
      for (;;) store.save(cell);
    }
    char byte;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    ::usleep(static_cast<useconds_t>(delay_us));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ::close(ready[0]);
    ::close(ready[1]);
    // A reader comes first, as `nibble report` may.
    const auto cells = Store::open(file_, true).cells(true);
    ASSERT_GE(cells.size(), 1u);
    EXPECT_EQ(cells[0].status, CellStatus::kDone);
    if (cells.size() > 1) {
      EXPECT_EQ(cells[1].result->samples.size(), 3000u);
    }
    EXPECT_EQ(Store::open(file_).cells().size(), cells.size());
  }
}

TEST_F(StoreTest, FailedWriteLeavesTheRest) {
  { Store::open(file_).save(make_cell(kBaseline, "boolq", CellStatus::kDone)); }
  const pid_t child = ::fork();
  if (child == 0) {  // a limit on the file's size stands in for a full disk
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1 << 17, 1 << 17};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    Cell cell = done_cell();
    cell.result->samples[0].output.assign(1 << 22, 'x');
    Store store = Store::open(file_);
    try {
      store.save(cell);
    } catch (const Error& error) {
      const std::string what = error.what();
      const bool clear = what.find("results.db: cannot write: File too large") != std::string::npos;
      ::_exit(clear && store.cells().size() == 1 ? 0 : 1);
    }
    ::_exit(2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(Store::open(file_).cells().size(), 1u);
}

}  // namespace
}  // namespace nibble
