// Peak memory of the program on files of at most 1 MB that mean harm: each in a process of its own, held to
// 256 MB. Files that are made to take as much as they can, and damaged copies of the fuzzers' seeds.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cstring>

#include "base/file.h"
#include "io/gguf_writer.h"
#include "io/hostile_files.h"
#include "test_data.h"

extern char** environ;

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLargestFile = size_t{1} << 20;
constexpr long kMostKilobytes = 256 * 1024;

// Sanitizers keep what was freed, and shadow what is used.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kMemoryIsOurs = false;
#else
constexpr bool kMemoryIsOurs = true;
#endif

std::string repeated(const std::string& part, const std::string& begin = "", const std::string& end = "") {
  std::string text = begin;
  while (text.size() + part.size() + end.size() <= kLargestFile) text += part;
  return text + end;
}

// Entries "…0…", "…1…": `part` has {} where the number goes.
std::string numbered(const char* part, const std::string& begin, const std::string& end,
                     size_t most = kLargestFile) {
  std::string text = begin;
  for (int i = 0;; ++i) {
    const std::string next = fmt::format(fmt::runtime(part), i) + ",";
    if (text.size() + next.size() + end.size() > most) break;
    text += next;
  }
  text.back() = ' ';  // no comma after the last
  return text + end;
}

class HostileMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!kMemoryIsOurs) GTEST_SKIP() << "peak memory says nothing under a sanitizer";
    fs::create_directories(dir_ / "model");
    put("model/config.json", read_file(mini("config.json")));
  }

  static fs::path mini(const char* name) { return testing::mini_dir() / "models" / "llama-mini" / name; }
  void put(const std::string& name, const std::string& bytes) {
    ASSERT_LE(bytes.size(), kLargestFile) << name;
    replace_file(dir_ / name, bytes);
  }
  std::string model() const { return (dir_ / "model").string(); }

  // Runs nibble; it must end by itself, refuse in one line or succeed, and stay below the limit. Throws the
  // line as Error where it refuses.
  void run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), NIBBLE_PROGRAM);
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    const std::string err = (dir_ / "stderr").string();
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&files, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    pid_t child = 0;
    const int failed = ::posix_spawn(&child, NIBBLE_PROGRAM, &files, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&files);
    ASSERT_EQ(failed, 0) << std::strerror(failed);
    int status = 0;
    rusage usage{};
    ASSERT_EQ(::wait4(child, &status, 0, &usage), child);
    const std::string said = read_file(err);
    ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status) << "; " << said;
    EXPECT_LE(usage.ru_maxrss, kMostKilobytes) << said;
    most_ = std::max(most_, usage.ru_maxrss);
    if (WEXITSTATUS(status) == 0) return;
    EXPECT_LE(WEXITSTATUS(status), 2) << said;
    EXPECT_TRUE(said.starts_with("nibble: ")) << said;
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
    throw Error(said.substr(0, said.find('\n')));
  }
  void expect_refused(std::vector<std::string> arguments) {
    EXPECT_NE(error_of([&] { run(std::move(arguments)); }), "");
  }
  void TearDown() override { RecordProperty("most_kilobytes", static_cast<int>(most_)); }

  // Damaged copies of a seed, given to `read` as the file `name`.
  template <typename Read>
  void damage(const std::string& seed, Read&& read) {
    expect_truncations(seed, read);
    open_with_random_bytes(seed, seed.size(), 4, 7, [&](const fs::path& path) { read(read_file(path)); });
  }

  TemporaryDirectory dir_;
  long most_ = 0;

 private:
  template <typename Read>
  void expect_truncations(const std::string& seed, Read&& read) {
    for (const size_t size : {size_t{0}, seed.size() / 3, seed.size() - 1})
      error_of([&] { read(seed.substr(0, size)); });
  }
};

std::vector<std::string> seeds(const char* reader) {
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(testing::source_dir() / "fuzz" / "corpus" / reader))
    found.push_back(read_file(entry.path()));
  EXPECT_FALSE(found.empty()) << reader;
  return found;
}

std::string safetensors(const std::string& header) {
  std::string file(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(file.data(), &size, 8);
  return file + header.substr(0, kLargestFile - 8);
}

TEST_F(HostileMemory, Safetensors) {
  const auto read = [&](const std::string& file) {
    put("model/model.safetensors", file.substr(0, kLargestFile));
    run({"info", model()});
  };
  const auto refused = [&](const std::string& file) { EXPECT_NE(error_of([&] { read(file); }), ""); };
  const auto header = [](std::string text) {  // within the file
    text.resize(std::min(text.size(), kLargestFile - 8));
    return safetensors(text);
  };
  refused(header(numbered(R"("{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", "{", "}        ")));
  refused(header(numbered(R"("{}":"")", R"({"__metadata__":{)", "}}        ")));
  refused(header(repeated("0,", "[", "0]        ")));
  refused(header(repeated("[],", "[", "0]        ")));
  refused(header(repeated("1,", R"({"a":{"dtype":"U8","data_offsets":[0,1],"shape":[)", "1]}}        ")));
  refused(header(repeated("[")));
  refused(header(repeated("{\"a\":")));
  std::string lies = safetensors("{}");
  lies[7] = '\x7f';
  refused(lies);
  for (const std::string& seed : seeds("safetensors")) damage(seed, read);
}

TEST_F(HostileMemory, Gguf) {
  const std::string file = (dir_ / "model.gguf").string();
  const auto read_written = [&] {
    ASSERT_LE(fs::file_size(file), kLargestFile);
    error_of([&] { run({"info", file}); });
    error_of([&] { run({"tokenize", file, "--text", "some text"}); });
  };
  const auto read = [&](const std::string& bytes) {
    put("model.gguf", bytes);
    read_written();
  };
  std::string endless = "GGUF";
  for (const uint64_t word : {uint64_t{3} | ~uint64_t{0} << 32, ~uint64_t{0}, ~uint64_t{0}})
    endless.append(reinterpret_cast<const char*>(&word), 8);
  read(endless);

  for (const bool merges : {false, true}) {  // as many tokens as fit
    GgufWriter writer;
    std::vector<std::string> tokens, pairs;
    size_t bytes = 1000;
    for (int i = 0; bytes < kLargestFile; ++i) {
      tokens.push_back(fmt::format("{:x}", i));
      pairs.push_back(fmt::format("{:x} {:x}", i, i));
      bytes += merges ? 24 + tokens[0].size() + tokens.back().size() * 3 : 12 + tokens.back().size();
    }
    writer.add_text("general.architecture", "llama");
    writer.add_text("tokenizer.ggml.model", "gpt2");
    writer.add_text("tokenizer.ggml.pre", "llama-bpe");
    writer.add_texts("tokenizer.ggml.tokens", tokens);
    writer.add_integers("tokenizer.ggml.token_type", std::vector<int32_t>(merges ? 0 : tokens.size(), 3));
    if (merges) writer.add_texts("tokenizer.ggml.merges", pairs);
    writer.write(file);
    read_written();
  }
  GgufWriter blocks;  // the type that grows most when it is opened
  blocks.add_text("general.architecture", "llama");
  blocks.add_tensor("token_embd.weight", GgmlType::kQ4_K, {7000, 256}, [](const ByteSink& sink) {
    const std::string data(7000 * 144, '\1');
    sink(data.data(), data.size());
  });
  blocks.write(file);
  read_written();
  for (const char* seed : {"llama.gguf", "phi2.gguf"})
    damage(read_file(testing::source_dir() / "tests" / "golden" / "gguf" / seed), read);
}

TEST_F(HostileMemory, TokenizerJson) {
  const auto read = [&](const std::string& file) {
    put("model/tokenizer.json", file);
    run({"tokenize", model(), "--text", "The 2 cats' café\n  <|im_end|>"});
  };
  const Json seed = Json::parse(seeds("tokenizer").front());
  const auto with = [&](const char* pointer, const std::string& text) {  // seed, with JSON text in one place
    Json json = seed;
    json[Json::json_pointer(pointer)] = "@";
    std::string whole = json.dump();
    return whole.replace(whole.find("\"@\""), 3, text);
  };
  const size_t room = kLargestFile - seed.dump().size() - 64;
  for (const std::string& file :
       {with("/model/vocab", numbered(R"("{0}":{0})", "{", "}", room)),
        with("/model/merges", numbered(R"("a b{}")", "[", "]", room)),
        with("/added_tokens", numbered(R"({{"id":{0},"content":"{0}"}})", "[", "]", room)),
        with("/pre_tokenizer",
             numbered(R"({{"type":"Digits"}})", R"({"type":"Sequence","pretokenizers":[)", "]}", room)),
        repeated("0,", "[", "0]"), repeated("{\"a\":")})
    error_of([&] { read(file); });
  Json bare = seed;  // nothing but what grows
  bare["post_processor"] = nullptr;
  bare["model"]["merges"] = bare["added_tokens"] = Json::array();
  bare["model"]["vocab"] = "@";
  const std::string long_token(kLargestFile - 2000, 'x');
  bare["added_tokens"] = {{{"id", 7}, {"content", long_token}, {"normalized", true}}};
  std::string whole = bare.dump();
  read(whole.replace(whole.find("\"@\""), 3, R"({"a":0})"));
  bare["added_tokens"] = Json::array();
  whole = bare.dump();
  read(
      whole.replace(whole.find("\"@\""), 3, numbered(R"("{0}":{0})", "{", "}", kLargestFile - whole.size())));
  for (const std::string& s : seeds("tokenizer")) damage(s, read);
}

TEST_F(HostileMemory, TextToTokenize) {
  fs::copy_file(mini("tokenizer.json"), dir_ / "model" / "tokenizer.json");
  for (const char* part : {"a", " ", "\xff", "1", "e\xcc\x81", "<|", "\n", "'s"}) {
    put("text", repeated(part));
    run({"tokenize", model(), "--file", (dir_ / "text").string()});
  }
}

TEST_F(HostileMemory, ConfigJson) {
  put("model/model.safetensors", safetensors("{}      "));
  const auto read = [&](const std::string& file) {
    put("model/config.json", file);
    run({"info", model()});
  };
  const std::string good = read_file(mini("config.json"));
  const std::string open = good.substr(0, good.rfind('}')) + ",";
  for (const std::string& file :
       {numbered(R"("{}":0)", open, "}"), numbered("{}", open + R"("eos_token_id":[)", "]}"),
        numbered(R"("{}":{{}})",
                 open + R"("quantization_config":{"quant_method":"nibble","layout_version":1,"linears":{)",
                 "}}}"),
        numbered(
            R"("{}":{{}})",
            open + R"("quantization_config":{"quant_method":"gptq","bits":4,"group_size":32,"dynamic":{)",
            "}}}"),
        numbered(R"("{}":{{"targets":["Linear"]}})",
                 open + R"("quantization_config":{"quant_method":"compressed-tensors","config_groups":{)",
                 "}}}"),
        repeated("[],", open + "\"a\":[", "0]}"), repeated("{\"a\":")})
    EXPECT_NE(error_of([&] { read(file); }), "");
  for (const std::string& seed : seeds("config")) damage(seed, read);
}

TEST_F(HostileMemory, NibbleDirectory) {
  const auto read = [&](const std::string& file) {
    const size_t end = std::min(file.find('\0'), file.size());
    put("model/config.json", file.substr(0, end));
    put("model/model.safetensors", end < file.size() ? file.substr(end + 1) : "");
    run({"info", model()});
  };
  for (const std::string& seed : seeds("nibble_directory")) damage(seed, read);
}

TEST_F(HostileMemory, JsonLines) {
  const auto read = [&](const std::string& file) {
    put("boolq.validation.jsonl", file);
    run({"eval", "llama-mini", "--tasks", "boolq", "--limit", "1", "--data", dir_.path().string()});
  };
  const auto read_all = [&](const std::string& file) {
    put("boolq.validation.jsonl", file);
    expect_refused({"eval", "llama-mini", "--tasks", "boolq", "--data", dir_.path().string()});
  };
  for (const std::string& file :
       {repeated("{}\n"), repeated("{\"a\":0}\n"), repeated("[],", "{\"a\":[", "0]}\n"), repeated("\n"),
        repeated("[", "", "\n"), numbered(R"("{}":0)", "{", "}\n")})
    read_all(file);
  error_of(
      [&] { read(R"({"question":"q","answer":true,"passage":")" + std::string(1'000'000, 'x') + "\"}\n"); });
  for (const std::string& seed : seeds("json_lines")) damage(seed, read);
}

TEST_F(HostileMemory, StudyToml) {
  const auto read = [&](const std::string& file) {
    put("study.toml", file);
    run({"study", (dir_ / "study.toml").string(), "--dry-run", "--out", (dir_ / "out").string()});
  };
  for (const std::string& file :
       {repeated("[[method]]\n"), repeated("[", "a = ", ""),
        numbered("{}", "limit = 1\nmodels = ['llama-mini']\n[[method]]\nname = 'rtn'\ngroup_sizes = [",
                 "]\n"),
        repeated("'x',", "models = [", "]\n"), repeated("{a=", "a=", ""), repeated("#\n"),
        repeated("a.", "", "a = 1\n"), repeated("\"\"\"")})
    error_of([&] { read(file); });
  for (std::string seed : seeds("study")) {
    constexpr std::string_view kReal = "smollm2-135m";  // whose own size is no harm that the file does
    for (size_t at; (at = seed.find(kReal)) != std::string::npos;) seed.replace(at, kReal.size(), "phi-mini");
    damage(seed, read);
  }
}

}  // namespace
}  // namespace nibble
