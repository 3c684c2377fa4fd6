// Data sets from a server on the loopback address that plays the datasets server.
#include "hub/dataset.h"

#include <fstream>
#include <vector>

#include "base/file.h"
#include "base/sha256.h"
#include "hub/test_server.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kRevision(40, 'c');

class DatasetTest : public PlayedServer {
 protected:
  void SetUp() override {
    for (int i = 0; i < 250; ++i)
      rows_.push_back({{"question", fmt::format("q{} é", i)}, {"answer", fmt::format("#### {}", i)}});
    server_.Get("/rows", [this](const auto& request, auto& answer) { answer_rows(request, answer); });
    options_.dataset = "gsm8k";
    options_.split = "test";
    options_.endpoint = start();
    options_.file = dir_ / "data" / "gsm8k.test.jsonl";
    options_.download.first_wait = 0.01;
    options_.download.subject = "data set";
    options_.download.named_by = "--dataset and --split";
  }

  void answer_rows(const httplib::Request& request, httplib::Response& answer) {
    const auto number = [&](const char* name) { return std::stoul(request.get_param_value(name)); };
    const size_t offset = number("offset"), length = number("length");
    asked_.push_back(fmt::format("{} {}", offset, length));
    names_ = request.get_param_value("dataset") + " " + request.get_param_value("config") + " " +
             request.get_param_value("split");
    if (refused(request, answer) || busy(answer)) return;
    if (!body_.empty()) {
      answer.set_content(body_, "application/json");
      return;
    }
    EXPECT_LE(length, 100u);
    Json page = {{"num_rows_total", rows_.size()}, {"partial", partial_}, {"rows", Json::array()}};
    for (size_t i = offset; i < std::min(rows_.size(), offset + std::min(length, most_)); ++i)
      page["rows"].push_back({{"row_idx", i}, {"row", rows_[i]}, {"truncated_cells", Json::array()}});
    if (with_revision_)
      answer.set_header("X-Revision", offset >= changes_at_ ? std::string(40, 'd') : kRevision);
    if (cut_ > 0) {
      --cut_;
      cut(page.dump(), 50, "application/json", answer);
      return;
    }
    answer.set_content(page.dump(), "application/json");
  }

  PulledDataset pull() {
    return pull_dataset(options_, [this](uint64_t done, uint64_t) {
      if (stop_at_ > 0 && done >= stop_at_) throw std::runtime_error("stopped");
    });
  }
  std::string failure() {
    return failure_of([this] { pull(); });
  }
  std::string expected(size_t n) const {
    std::string text;
    for (size_t i = 0; i < n; ++i)
      text += fmt::format("{{\"question\":\"q{} é\",\"answer\":\"#### {}\"}}\n", i, i);
    return text;
  }
  void expect_whole(const PulledDataset& pulled, size_t n) {
    const std::string text = read_file(options_.file);
    EXPECT_EQ(text, expected(n));
    EXPECT_EQ(pulled.sha256, sha256_of(text));
    EXPECT_EQ(pulled.rows, n);
    const Json source = read_json_file(source_file());
    EXPECT_EQ(source["sha256"], sha256_of(text));
    EXPECT_EQ(source["rows"], n);
    EXPECT_EQ(source["rows_in_split"], rows_.size());
    EXPECT_EQ(source["split"], "test");
    size_t files = 0;
    for (const auto& entry : fs::directory_iterator(options_.file.parent_path())) files += entry.exists();
    EXPECT_EQ(files, 2u);  // nothing else is left
  }
  fs::path source_file() const { return options_.file.string() + ".source.json"; }

  DatasetPullOptions options_;
  std::vector<Json> rows_;
  std::vector<std::string> asked_;
  std::string names_, body_;
  bool partial_ = false, with_revision_ = true;
  int cut_ = 0;
  size_t most_ = 100, changes_at_ = 1'000'000;
  uint64_t stop_at_ = 0;
};

TEST_F(DatasetTest, BringsASplitOnce) {
  const PulledDataset pulled = pull();
  expect_whole(pulled, 250);
  EXPECT_EQ(pulled.fetched, 250u);
  EXPECT_EQ(pulled.revision, kRevision);
  EXPECT_EQ(read_json_file(source_file())["revision"], kRevision);
  EXPECT_EQ(names_, "openai/gsm8k main test");
  EXPECT_THAT(asked_, ElementsAre("0 100", "100 100", "200 50"));
  asked_.clear();
  EXPECT_EQ(pull().fetched, 0u);
  EXPECT_THAT(asked_, ElementsAre("0 1"));
  asked_.clear();
  options_.offline = true;
  expect_whole(pull(), 250);
  EXPECT_TRUE(asked_.empty());
}

TEST_F(DatasetTest, TheFirstRowsAlone) {
  options_.limit = 130;
  expect_whole(pull(), 130);
  EXPECT_THAT(asked_, ElementsAre("0 100", "100 30"));
  options_.limit = 0;
  options_.offline = true;
  EXPECT_THAT(failure(), HasSubstr("has 130 rows, not 250, and offline nothing is fetched"));
  options_.offline = false;
  expect_whole(pull(), 250);
  options_.limit = 1000;  // more than there are
  EXPECT_EQ(pull().fetched, 0u);
}

TEST_F(DatasetTest, AServerThatSaysNoRevisionAndGivesSmallPages) {
  with_revision_ = false;
  partial_ = true;
  most_ = 60;
  const PulledDataset pulled = pull();
  expect_whole(pulled, 250);
  EXPECT_EQ(pulled.revision, "");
  EXPECT_TRUE(pulled.partial);
  EXPECT_TRUE(read_json_file(source_file())["revision"].is_null());
  EXPECT_TRUE(read_json_file(source_file())["server_has_part_of_split"].get<bool>());
  EXPECT_EQ(pull().fetched, 0u);
}

TEST_F(DatasetTest, AStoppedPullGoesOn) {
  stop_at_ = 100;
  EXPECT_THROW(pull(), std::runtime_error);
  EXPECT_FALSE(fs::exists(options_.file));
  // Killed while it wrote a page: what the state does not vouch for is dropped.
  std::ofstream(options_.file.string() + ".incomplete", std::ios::app) << "{\"question\":\"half";
  stop_at_ = 0;
  asked_.clear();
  EXPECT_EQ(pull().fetched, 150u);
  EXPECT_THAT(asked_, ElementsAre("100 100", "200 50"));
  expect_whole(pull(), 250);
}

TEST_F(DatasetTest, DamagedRemainsAreNotGoneOnFrom) {
  stop_at_ = 100;
  EXPECT_THROW(pull(), std::runtime_error);
  stop_at_ = 0;
  std::string text = read_file(options_.file.string() + ".incomplete");
  text[5] ^= 1;
  std::ofstream(options_.file.string() + ".incomplete") << text;
  expect_whole(pull(), 250);
  fs::remove(options_.file);
  fs::remove(source_file());
  stop_at_ = 100;
  EXPECT_THROW(pull(), std::runtime_error);
  stop_at_ = 0;
  std::ofstream(options_.file.string() + ".incomplete.json") << "{\"rows\":";
  expect_whole(pull(), 250);
}

TEST_F(DatasetTest, KilledBeforeTheLastStep) {
  pull();
  const std::string text = read_file(options_.file), state = read_file(source_file());
  std::ofstream(options_.file.string() + ".incomplete") << text;
  std::ofstream(options_.file.string() + ".incomplete.json") << state;
  std::ofstream(options_.file) << "an earlier revision";
  asked_.clear();
  expect_whole(pull(), 250);
  EXPECT_TRUE(asked_.empty());
}

TEST_F(DatasetTest, ADataSetThatChangesStartsAgain) {
  changes_at_ = 200;  // seen with the third page; then again at each new start
  EXPECT_THAT(failure(), HasSubstr("changed twice"));
  changes_at_ = 0;
  const PulledDataset pulled = pull();
  expect_whole(pulled, 250);
  EXPECT_EQ(pulled.revision, std::string(40, 'd'));
  changes_at_ = 1'000'000;  // and after it was brought
  EXPECT_EQ(pull().fetched, 250u);
}

TEST_F(DatasetTest, ADataSetThatShrinksStartsAgain) {
  stop_at_ = 200;
  EXPECT_THROW(pull(), std::runtime_error);
  stop_at_ = 0;
  rows_.resize(120);
  expect_whole(pull(), 120);
}

TEST_F(DatasetTest, OtherPeoplesFilesAreLeftAlone) {
  fs::create_directories(options_.file.parent_path());
  std::ofstream(options_.file) << "mine\n";
  EXPECT_THAT(failure(), HasSubstr("no pull brought it"));
  fs::remove(options_.file);
  pull();
  std::ofstream(options_.file, std::ios::app) << "mine\n";
  EXPECT_THAT(failure(), HasSubstr("remove both"));
  EXPECT_THAT(read_file(options_.file), HasSubstr("mine"));
  options_.split = "train";
  EXPECT_THAT(failure(), HasSubstr("split is 'test' there, not 'train'"));
}

TEST_F(DatasetTest, OfflineSaysWhatIsMissing) {
  options_.offline = true;
  EXPECT_THAT(failure(), HasSubstr("not there, and offline nothing is fetched"));
  EXPECT_TRUE(asked_.empty());
}

TEST_F(DatasetTest, RefusalsSayWhatHelps) {
  wanted_token_ = "secret";
  EXPECT_THAT(failure(), HasSubstr("set HF_TOKEN"));
  options_.download.token = "secret2";
  EXPECT_THAT(failure(), HasSubstr("does not accept this HF_TOKEN"));
  options_.download.token = "secret";
  expect_whole(pull(), 250);
  EXPECT_THAT(read_file(source_file()), ::testing::Not(HasSubstr("secret")));
  status_ = 403;
  EXPECT_THAT(failure(), HasSubstr("accept the data set's terms"));
  status_ = 404;
  EXPECT_THAT(failure(), HasSubstr("not there (404); check --dataset and --split"));
}

TEST_F(DatasetTest, AFailedBeginningLeavesNothing) {
  status_ = 404;
  EXPECT_THAT(failure(), HasSubstr("not there (404)"));
  EXPECT_TRUE(fs::is_empty(options_.file.parent_path()));
}

TEST_F(DatasetTest, FaultsThatPass) {
  busy_ = 4;
  cut_ = 1;
  expect_whole(pull(), 250);
  busy_ = 1000;
  EXPECT_THAT(failure(), HasSubstr("the server answers 503 (6 tries)"));
  cut_ = 1000;
  busy_ = 0;
  EXPECT_THAT(failure(), HasSubstr("(6 tries)"));
}

TEST_F(DatasetTest, RetryAfterIsObeyed) {
  busy_ = 1;
  busy_status_ = 429;
  const auto start = std::chrono::steady_clock::now();
  expect_whole(pull(), 250);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(990));
}

TEST_F(DatasetTest, AFullDiskKeepsWholePages) {
  std::string said;
  with_small_disk(expected(150).size(), [&] { said = failure(); });
  EXPECT_THAT(said, HasSubstr("make room and the same command goes on"));
  asked_.clear();
  expect_whole(pull(), 250);
  EXPECT_THAT(asked_, ElementsAre("100 100", "200 50"));
}

TEST_F(DatasetTest, TwoAtOnceAreOne) {
  std::string other;
  const PulledDataset pulled = pull_dataset(options_, [&](uint64_t, uint64_t) {
    if (other.empty()) other = failure();
  });
  expect_whole(pulled, 250);
  EXPECT_THAT(other, HasSubstr("another pull"));
}

TEST_F(DatasetTest, HostileAnswersEndInOneLine) {
  const auto error = [&](const std::string& body) {
    body_ = body;
    const std::string said = failure();
    EXPECT_FALSE(fs::exists(options_.file)) << body;
    return said;
  };
  const auto row = [](const std::string& fields) {
    return R"({"num_rows_total":5,"rows":[{"row_idx":0,"row":{)" + fields + "}}]}";
  };
  EXPECT_THAT(error(row(R"("question":"q")")), HasSubstr("row 0: 'answer' is missing"));
  EXPECT_THAT(error(row(R"("question":"q","answer":["a"])")), HasSubstr("wrong type"));
  EXPECT_THAT(error(R"({"num_rows_total":5,"rows":[)"), HasSubstr("/rows?dataset=openai%2Fgsm8k"));
  EXPECT_THAT(error(R"({"num_rows_total":5,"rows":[]})"), HasSubstr("no rows from 0, of 5"));
  EXPECT_THAT(error(R"({"num_rows_total":0,"rows":[]})"), HasSubstr("is empty"));
  EXPECT_THAT(error(R"({"num_rows_total":-1,"rows":[]})"), HasSubstr("no size of a split"));
  EXPECT_THAT(error(R"({"num_rows_total":1e19,"rows":[]})"), HasSubstr("no number that can stand here"));
  EXPECT_THAT(error(R"({"num_rows_total":5})"), HasSubstr("'rows' is missing"));
  EXPECT_THAT(error(R"({"num_rows_total":5,"rows":{}})"), HasSubstr("expected an array"));
  EXPECT_THAT(error(R"({"num_rows_total":5,"rows":[7]})"), HasSubstr("'row_idx' is missing"));
  EXPECT_THAT(error(R"({"num_rows_total":5,"rows":[{"row_idx":3,"row":{}}]})"), HasSubstr("in its place"));
  EXPECT_THAT(error(R"({"num_rows_total":5,"rows":[{"row_idx":0,"row":{},"truncated_cells":["question"]}]})"),
              HasSubstr("cut it short"));
  EXPECT_THAT(error(R"({"num_rows_total":5,"rows":[0,0,0,0,0,0]})"), HasSubstr("6 rows from 0"));
  EXPECT_THAT(error("[]"), HasSubstr("'num_rows_total' is missing"));
  EXPECT_THAT(error(std::string(10'000, '[')), HasSubstr("rows?"));
  EXPECT_THAT(error("<html>"), HasSubstr("rows?"));
}

std::string form_of(const char* dataset, const std::string& row) {
  return read_page(fmt::format(R"({{"num_rows_total":1,"rows":[{{"row_idx":0,"row":{}}}]}})", row),
                   find_dataset(dataset), 0, 100, "page")
      .text;
}

TEST(DatasetForms, AreThoseOfTheTasks) {
  EXPECT_EQ(form_of("boolq", R"({"answer":true,"question":"is it","passage":"It is.\nYes."})"),
            "{\"question\":\"is it\",\"passage\":\"It is.\\nYes.\",\"answer\":true}\n");
  const std::string marco =
      "{\"query\":\"q\",\"query_id\":7,\"passages\":{\"is_selected\":[0,1],\"passage_text\":[\"a\",\"b\"]},"
      "\"answers\":[\"b\"]}\n";
  EXPECT_EQ(form_of("msmarco", R"({"answers":["b"],"passages":{"is_selected":[0,1],"passage_text":["a","b"],
                                   "url":["u","v"]},"query":"q","query_id":7,"query_type":"ENTITY"})"),
            marco);
  EXPECT_EQ(form_of("msmarco", R"({"answers":["b"],"query":"q","query_id":7,"passages":[
                {"is_selected":0,"passage_text":"a"},{"is_selected":1,"passage_text":"b"}]})"),
            marco);
  EXPECT_THROW(form_of("msmarco", R"({"answers":[],"passages":{"is_selected":[0],"passage_text":[]},
                                      "query":"q","query_id":7})"),
               Error);
  EXPECT_EQ(form_of("wikitext", R"({"text":" = Title = \n"})"), " = Title = \n");
  EXPECT_EQ(form_of("wikitext", R"({"text":""})"), " \n");
  EXPECT_THROW(form_of("wikitext", R"({"text":"no end"})"), Error);
  EXPECT_THROW(form_of("wikitext", R"({"text":"two\nlines\n"})"), Error);
  EXPECT_THROW(find_dataset("squad"), UsageError);
}

// The data set's rows are the lines of the published file, blank ones emptied: put together they are that
// file.
TEST(DatasetForms, WikitextIsThePublishedFile) {
  const fs::path file = testing::shared_dir() / "data" / "wikitext2" / "wiki.test.raw";
  NIBBLE_NEEDS(file);
  const std::string whole = read_file(file);
  std::string made;
  for (size_t begin = 0; begin < whole.size();) {
    const size_t end = whole.find('\n', begin) + 1;
    const std::string text = whole.substr(begin, end - begin);
    made += form_of("wikitext", Json{{"text", text == " \n" ? "" : text}}.dump());
    begin = end;
  }
  EXPECT_EQ(sha256_of(made), sha256_of(whole));
}

}  // namespace
}  // namespace nibble
