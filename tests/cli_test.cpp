// The built program, as a person or a script calls it.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <fstream>

#include "base/file.h"
#include "base/json.h"
#include "io/safetensors.h"
#include "model/cuda_device.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

struct Outcome {
  int exit_code = -1;
  std::string out, err;
};

class Cli : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() / fmt::format("nibble-cli-{}", ::getpid());
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  // `arguments` as a shell reads them.
  Outcome run(const std::string& arguments, const std::string& environment = "") const {
    const fs::path out = dir_ / "stdout", err = dir_ / "stderr";
    const std::string command = fmt::format("{} '{}' {} >'{}' 2>'{}'", environment, NIBBLE_PROGRAM, arguments,
                                            out.string(), err.string());
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(out), read_file(err)};
  }
  std::string path(const char* name) const { return (dir_ / name).string(); }
  static std::string mini(const char* name) { return (testing::mini_dir() / name).string(); }

  // Exit code `code`, one line on standard error that names `what`, nothing on standard output.
  void expect_failure(const std::string& arguments, int code, const std::string& what) const {
    const Outcome o = run(arguments);
    EXPECT_EQ(o.exit_code, code) << arguments;
    EXPECT_EQ(o.out, "") << arguments;
    EXPECT_EQ(o.err.rfind("nibble: ", 0), 0u) << o.err;
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
    EXPECT_NE(o.err.find(what), std::string::npos) << o.err;
  }

  fs::path dir_;
};

const std::vector<std::string> kVerbs = {"doctor",    "info",    "tokenize", "logits",  "generate",
                                         "eval",      "compare", "bench",    "study",   "report",
                                         "recommend", "analyze", "finetune", "quantize"};

TEST_F(Cli, HelpOfEveryVerbShowsAnExample) {
  const Outcome top = run("--help");
  EXPECT_EQ(top.exit_code, 0);
  for (const std::string& verb : kVerbs) {
    EXPECT_NE(top.out.find("  " + verb + " "), std::string::npos) << verb;
    const Outcome help = run(verb + " --help");
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_NE(help.out.find("Example:\n  nibble " + verb), std::string::npos) << help.out;
    EXPECT_EQ(help.err, "");
  }
  EXPECT_EQ(run("--version").out.rfind("nibble ", 0), 0u);
}

TEST_F(Cli, WrongUsageExitsWith2) {
  expect_failure("", 2, "nibble --help");
  expect_failure("nonsense", 2, "no verb 'nonsense'");
  expect_failure("info", 2, "nibble info --help");
  expect_failure("info llama-mini --no-such-option", 2, "no-such-option");
  expect_failure("eval llama-mini --tasks nosuch", 2, "nosuch");
  expect_failure("eval llama-mini --tasks boolq --limit -3", 2, "limit");
  expect_failure("tokenize llama-mini", 2, "--text");
  expect_failure("logits llama-mini --ids '{}' --out " + path("x"), 2, "--ids");
  expect_failure("bench llama-mini -p 0 -n 0", 2, "nothing to measure");
  expect_failure("info llama-mini --dtype float16", 2, "dtype");
  expect_failure("eval " + mini("models/llama-mini") + " --tasks boolq", 2, "--data");
  expect_failure("quantize llama-mini x --symmetric --scale-bits 8", 2, "no sign");
  expect_failure("quantize llama-mini x --scale-bits 12", 2, "8 and 16 are possible");
  expect_failure("pull", 2, "give either ORG/NAME or --dataset");
  expect_failure("pull org/name --dataset boolq", 2, "give either ORG/NAME or --dataset");
  expect_failure("pull org/name --split test", 2, "for --dataset");
  expect_failure("pull --dataset boolq --revision main", 2, "for models");
  expect_failure("pull --dataset squad", 2, "there are boolq, gsm8k, msmarco, wikitext");
  expect_failure("pull --dataset boolq --split test --offline --out " + path("x"), 2, "no split 'test'");
  expect_failure("pull --dataset gsm8k --offline --out " + path("x.jsonl"), 2, "splits test and train");
}

TEST_F(Cli, FailureExitsWith1AndOneLine) {
  expect_failure("info " + path("absent"), 1, "absent");
  expect_failure("info no/such-model", 1, "no/such-model");
  expect_failure("report " + path("absent"), 1, "results.db");
  expect_failure("eval llama-mini --tasks boolq --data " + path("absent"), 1, "absent");
  expect_failure("logits llama-mini --ids '[99999]' --out " + path("x"), 1, "99999");
  EXPECT_FALSE(fs::exists(path("x")));
  std::ofstream(path("broken.gguf")) << "GGUF and then nothing";
  expect_failure("info " + path("broken.gguf"), 1, "broken.gguf");
  expect_failure("pull --dataset boolq --offline --out " + path("x"), 1, "offline nothing is fetched");
}

TEST_F(Cli, WithoutAGpuOneLineSaysSo) {
  if (cuda_problem().empty()) GTEST_SKIP() << "there is a GPU here";
  const std::string quantize = "quantize llama-mini " + path("q");
  for (const char* verb : {"bench llama-mini", "generate llama-mini --prompt Hello",
                           "eval llama-mini --limit 1", "logits llama-mini --text Hello --out x.safetensors",
                           "compare llama-mini llama-mini --file /proc/self/maps", quantize.c_str()})
    expect_failure(fmt::format("{} --device cuda", verb), 1, "--device cuda: " + cuda_problem());
  EXPECT_FALSE(fs::exists(dir_ / "q"));
}

TEST_F(Cli, ModelsAreFoundByName) {
  const std::string data = "NIBBLE_DATA='" + testing::mini_dir().string() + "'";
  EXPECT_EQ(run("info phi-mini", data).exit_code, 0);
  EXPECT_EQ(run("info phi-mini", "NIBBLE_DATA=/nonexistent").exit_code, 1);
  const fs::path repository = dir_ / "hub/models--some--model";
  fs::create_directories(repository / "refs");
  fs::create_directories(repository / "snapshots");
  std::ofstream(repository / "refs/main") << "abc123\n";
  fs::create_directory_symlink(mini("models/qwen2-mini"), repository / "snapshots/abc123");
  const Outcome hub = run("info some/model", "HF_HUB_CACHE='" + path("hub") + "'");
  EXPECT_EQ(hub.exit_code, 0) << hub.err;
  EXPECT_NE(hub.out.find("Qwen2"), std::string::npos) << hub.out;
  EXPECT_EQ(run("info some/other", "HF_HUB_CACHE='" + path("hub") + "'").exit_code, 1);
}

TEST_F(Cli, InfoSaysWhatTheModelIs) {
  ASSERT_EQ(run("info llama-mini --json " + path("info.json")).exit_code, 0);
  const Json json = read_json_file(path("info.json"));
  const uint64_t file = fs::file_size(mini("models/llama-mini/model.safetensors"));
  EXPECT_EQ(json.at("file_bytes"), file);
  EXPECT_EQ(json.at("parameters"),
            2048u * 256 + 6 * (256 * 256 * 2 + 256 * 128 * 2 + 3 * 256 * 704 + 2 * 256) + 256);
  EXPECT_NEAR(json.at("bits_per_weight").get<double>(),
              8.0 * static_cast<double>(file) / json.at("parameters").get<double>(), 1e-9);
  EXPECT_EQ(json.at("sha256").get<std::string>().size(), 64u);
  const Json& bytes = json.at("weight_bytes");
  EXPECT_EQ(bytes.at("embedding"), 2u * 2048 * 256);
  EXPECT_EQ(bytes.at("head"), 0);
  EXPECT_EQ(bytes.at("body").get<uint64_t>() + bytes.at("embedding").get<uint64_t>() +
                bytes.at("other").get<uint64_t>(),
            bytes.at("total"));
}

TEST_F(Cli, TokenizeGivesTheGoldenIds) {
  for (const char* model : {"llama-mini", "qwen2-mini", "phi-mini"}) {
    const Json golden = read_json_file(testing::mini_dir() / "golden" / (std::string(model) + ".json"));
    const Json& strings = golden.at("token_ids");
    for (size_t i = 0; i < strings.size(); i += 7) {
      write_file_atomically(path("text"), strings[i].at("text").get<std::string>());
      const Outcome o = run(fmt::format("tokenize {} --file {}", model, path("text")));
      EXPECT_EQ(o.exit_code, 0) << o.err;
      EXPECT_EQ(parse_json(o.out, "stdout"), strings[i].at("ids")) << model << ' ' << strings[i].at("text");
    }
  }
  const Outcome with = run("tokenize llama-mini --text Hello"),
                without = run("tokenize llama-mini --text Hello --no-special");
  EXPECT_EQ(with.out, "[2046,39,485,78]\n");
  EXPECT_EQ(without.out, "[39,485,78]\n");
}

TEST_F(Cli, LogitsAreTheGoldenOnes) {
  const auto golden = open_safetensors(testing::mini_dir() / "golden/phi-mini.logits.safetensors");
  const TensorView& ids = golden.tensors.at("ids");
  Json list = Json::array();
  for (int64_t i = 0; i < ids.elements(); ++i)
    list.push_back(ids.dtype == DType::kI64 ? ids.as<int64_t>()[i] : ids.as<int32_t>()[i]);
  const Outcome o = run(
      fmt::format("logits phi-mini --ids '{}' --out {} --dtype float32", list.dump(), path("l.safetensors")));
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const auto made = open_safetensors(path("l.safetensors"));
  EXPECT_EQ(made.tensors.at("ids").shape, std::vector<int64_t>{ids.elements()});
  EXPECT_EQ(made.tensors.at("ids").dtype, DType::kI32);
  EXPECT_EQ(made.tensors.at("logits").shape, golden.tensors.at("logits").shape);
  const auto a = to_float(made.tensors.at("logits")), b = to_float(golden.tensors.at("logits"));
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::fabs(double{a[i]} - double{b[i]}));
  EXPECT_LE(worst, 2e-3);
}

TEST_F(Cli, GenerateStreamsTheGreedyText) {
  const Json golden = read_json_file(mini("golden/qwen2-mini.json")).at("gsm8k_3shot_greedy")[0];
  write_file_atomically(path("prompt"), golden.at("prompt").get<std::string>());
  const std::string arguments =
      fmt::format("generate qwen2-mini --prompt \"$(cat {})\" --max-tokens {} --dtype float32",
                  path("prompt"), golden.at("greedy").size());
  const Outcome o = run(arguments);
  ASSERT_EQ(o.exit_code, 0) << o.err;
  EXPECT_EQ(o.out, golden.at("text").get<std::string>() + "\n");
  EXPECT_NE(o.err.find("generated at"), std::string::npos);
  EXPECT_EQ(run(arguments + " --temperature 1 --seed 3").out,
            run(arguments + " --temperature 1 --seed 3").out);
}

TEST_F(Cli, EvalGivesTheSameScoresTwice) {
  const auto evaluate = [&](const char* name) {
    const Outcome o = run(fmt::format("eval llama-mini --limit 5 --window 128 --json {} --log-samples {}",
                                      path(name), path("samples.jsonl")));
    EXPECT_EQ(o.exit_code, 0) << o.err;
    EXPECT_NE(o.out.find("accuracy"), std::string::npos) << o.out;
    Json json = read_json_file(path(name));
    for (const char* part : {"file", "weights", "kv_cache", "workspace", "peak_rss"})
      EXPECT_GT(json.at("memory_bytes").at(part).get<uint64_t>(), 0u) << part;
    EXPECT_TRUE(json.at("quantization").is_null());
    EXPECT_EQ(json.at("model_sha256").get<std::string>().size(), 64u);
    Json scores = Json::object();
    for (const Json& r : json.at("results"))
      scores[r.at("task").get<std::string>()] = {r.at("metrics"), r.at("checks"), r.at("rows")};
    return scores;
  };
  const Json first = evaluate("a.json");
  EXPECT_EQ(first.size(), 4u);
  EXPECT_EQ(first, evaluate("b.json"));
  const auto samples = read_json_lines(path("samples.jsonl"));
  EXPECT_EQ(
      std::count_if(samples.begin(), samples.end(), [](const Json& s) { return s.at("task") == "gsm8k"; }),
      5);
}

TEST_F(Cli, CompareOfAModelWithItself) {
  const Outcome o = run(fmt::format("compare qwen2-mini {} --file {} --windows 2 --window 128 --json",
                                    mini("models/qwen2-mini"), mini("data/wikitext.test.txt")));
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const Json json = parse_json(o.out, "stdout");
  EXPECT_EQ(json.at("windows"), 2);
  EXPECT_EQ(json.at("tokens"), 2 * 63);
  EXPECT_EQ(json.at("kl").at("mean"), 0);
  EXPECT_EQ(json.at("kl").at("max"), 0);
  EXPECT_EQ(json.at("top1_agreement"), 1);
  EXPECT_EQ(json.at("ppl_base"), json.at("ppl_quant"));

  // Without --file: the text that the task wikitext scores.
  const Outcome same = run("compare qwen2-mini qwen2-mini --windows 2 --window 128 --json");
  ASSERT_EQ(same.exit_code, 0) << same.err;
  const Json again = parse_json(same.out, "stdout");
  EXPECT_EQ(again.at("data_sha256"), json.at("data_sha256"));
  EXPECT_EQ(again.at("ppl_base"), json.at("ppl_base"));
  EXPECT_EQ(run("compare qwen2-mini qwen2-mini --file x --data y").exit_code, 2);
}

TEST_F(Cli, APlanIsSolvedFromAnAnalysisAndKeepsItsSize) {
  const std::string sensitivities = (dir_ / "analysis.json").string();
  const Outcome measured =
      run(fmt::format("analyze llama-mini --bits 3,4,8 --group-sizes 32,128 --samples 2 --seqlen 256 "
                      "--kl-tokens 256 --out {}",
                      sensitivities));
  ASSERT_EQ(measured.exit_code, 0) << measured.err;
  EXPECT_NE(measured.out.find("linears that lose most"), std::string::npos) << measured.out;
  EXPECT_EQ(read_json_file(sensitivities).at("linears").size(), 42u);
  const std::string out = (dir_ / "planned").string();
  const Outcome o = run(fmt::format(
      "quantize llama-mini {} --method rtn --samples 2 --seqlen 64 --target-bpw 4.5 --analysis {} --json",
      out, sensitivities));
  ASSERT_EQ(o.exit_code, 0) << o.err;
  EXPECT_NE(o.err.find("bits a weight in the linear layers, scales of 8 bits"), std::string::npos) << o.err;
  const Json plan = parse_json(o.out, "stdout").at("plan");
  EXPECT_LE(plan.at("bits_per_weight").get<double>(), 4.5);
  EXPECT_GT(plan.at("bits_per_weight").get<double>(), 4.3);
  EXPECT_TRUE(fs::exists(fs::path(out) / "plan.toml"));
  for (const Json& linear : plan.at("linears")) {
    EXPECT_EQ(linear.at("scale_bits"), 8);
    EXPECT_GE(linear.at("bits"), 4);
  }
  const std::string small = (dir_ / "small").string();
  const Outcome sized = run(fmt::format(
      "quantize llama-mini {} --method rtn --samples 2 --seqlen 64 --target-size 3.2MB --analysis {}", small,
      sensitivities));
  ASSERT_EQ(sized.exit_code, 0) << sized.err;
  EXPECT_NE(sized.out.find("rtn, its plan ("), std::string::npos) << sized.out;
  EXPECT_LE(fs::file_size(fs::path(small) / "model.safetensors"), 3'200'000u);
  EXPECT_GT(fs::file_size(fs::path(small) / "model.safetensors"), 2'700'000u);
  EXPECT_EQ(
      run(fmt::format(
              "quantize llama-mini {} --method rtn --samples 2 --seqlen 64 --target-size 1MB --analysis {}",
              small, sensitivities))
          .exit_code,
      1);
}

TEST_F(Cli, ScalesOfBytesAreSeenAndExportedExactly) {
  const std::string out = path("bytes"), exported = path("exported");
  const Outcome made =
      run(fmt::format("quantize llama-mini {} --method rtn --group-size 32 --scale-bits 8 --head-bits 16 "
                      "--samples 1 --seqlen 64",
                      out));
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_NE(run("info " + out).out.find("rtn 4-bit g32 with 8-bit scales"), std::string::npos);
  for (const char* format : {"gptq", "compressed-tensors"}) {
    const Outcome written = run(fmt::format("convert {} {} --to {} --force", out, exported, format));
    ASSERT_EQ(written.exit_code, 0) << written.err;
    const Outcome same = run(fmt::format("compare {} {} --file {} --windows 2 --window 128 --json", out,
                                         exported, mini("data/wikitext.test.txt")));
    ASSERT_EQ(same.exit_code, 0) << same.err;
    EXPECT_EQ(parse_json(same.out, "stdout").at("kl").at("max"), 0) << format;
  }
}

TEST_F(Cli, BenchMeasuresPromptsAndGeneration) {
  const Outcome o = run("bench llama-mini -p 32 -n 8 -r 2 -t 1 -o json");
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const Json json = parse_json(o.out, "stdout");
  ASSERT_EQ(json.size(), 2u);
  EXPECT_EQ(json[0].at("test"), "pp32");
  EXPECT_EQ(json[1].at("test"), "tg8");
  for (const Json& test : json) {
    EXPECT_GT(test.at("tokens_per_s").at("mean").get<double>(), 0);
    EXPECT_GT(test.at("latency_ms").at("p50").get<double>(), 0);
    EXPECT_GT(test.at("memory_bytes").at("peak_rss"), test.at("memory_bytes").at("weights"));
    // The buffer that bandwidth is measured with does not count.
    EXPECT_LT(test.at("memory_bytes").at("peak_rss").get<uint64_t>(), uint64_t{128} << 20);
    EXPECT_EQ(test.at("threads"), 1);
    EXPECT_TRUE(test.at("bandwidth_fraction").is_null());  // the weights fit in the cache
  }
  EXPECT_EQ(run("bench llama-mini -p 16 -n 4 -r 1 -o csv").out.rfind("model,test,", 0), 0u);
}

TEST_F(Cli, DoctorKnowsTheMachine) {
  const Outcome o = run("doctor --json");
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const Json json = parse_json(o.out, "stdout");
  EXPECT_GE(json.at("cores").get<int>(), 1);
  EXPECT_FALSE(json.at("isa").get<std::string>().empty());
}

// Ctrl-C during an evaluation: ended by the signal, no file half written.
TEST_F(Cli, AnInterruptLeavesNoFile) {
  const std::string command = fmt::format(
      "'{}' eval llama-mini --tasks gsm8k --json {} --log-samples {} >/dev/null 2>{} & pid=$!; sleep 0.5; "
      "kill -TERM $pid; wait $pid",
      NIBBLE_PROGRAM, path("r.json"), path("s.jsonl"), path("err"));
  std::ofstream(path("script")) << command;
  const int code = std::system(fmt::format("sh {}", path("script")).c_str());
  EXPECT_EQ(WEXITSTATUS(code), 128 + SIGTERM);
  EXPECT_NE(read_file(path("err")).find("nibble: stopped"), std::string::npos);
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(dir_))
    files += entry.path().filename() != "err" && entry.path().filename() != "script";
  EXPECT_EQ(files, 0u);
}

}  // namespace
}  // namespace nibble
