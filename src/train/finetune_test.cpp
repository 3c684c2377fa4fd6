// Fine-tuning mini models: rows and their masks, what is learnt, and that what is written is what was
// trained.
#include "train/finetune.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/file.h"
#include "io/safetensors.h"
#include "io/test_files.h"
#include "test_data.h"
#include "train/gradient_pass.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class FineTune : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string rows;
    // A family of rows that the mini models were not trained on.
    for (int i = 0; i < 60; ++i)
      rows += Json{{"question", fmt::format("Zed has {} blue pens.", 2 + i % 7)},
                   {"answer", fmt::format("Pens: <<{}=x>>blue. #### {}", i, 2 + i % 7)}}
                  .dump() +
              "\n";
    write_file_atomically(dir_ / "rows.jsonl", rows);
  }
  static double loss_of(const std::shared_ptr<const Model>& model, const TrainingText& text,
                        ThreadPool& pool) {
    TrainedModel frozen(model, {}, pool);
    GradientPass pass(frozen, {.batch_tokens = 512, .context = 512}, pool);
    CrossEntropy loss(model->config.vocab_size, pool);
    Batch batch;
    batch.add(0, 0, text.rows.front().tokens);
    loss.set(CrossEntropy::next_tokens(batch));
    return pass.loss(batch, loss);
  }

  std::shared_ptr<const Model> model_ = load_model(testing::mini_dir() / "models" / "llama-mini");
  Tokenizer tokenizer_ = model_->load_tokenizer();
  ThreadPool pool_{2};
  const TemporaryDirectory dir_;
};

TEST_F(FineTune, RowsEndWithTheirAnswerAndAnEndToken) {
  FineTuneOptions options;
  for (const bool strip : {false, true}) {
    options.strip_marks = strip;
    const TrainingText text = load_training_text(dir_ / "rows.jsonl", *model_, tokenizer_, options);
    ASSERT_EQ(text.rows.size(), 60u);
    const TrainingRow& row = text.rows[3];
    EXPECT_EQ(row.tokens.back(), model_->config.end_tokens.front());
    const std::span<const int32_t> tokens(row.tokens);
    const size_t prompt = static_cast<size_t>(row.prompt);
    EXPECT_EQ(tokenizer_.decode(tokens.subspan(1, prompt - 1)), "Question: Zed has 5 blue pens.\nAnswer:");
    EXPECT_EQ(tokenizer_.decode(tokens.subspan(prompt, tokens.size() - prompt - 1)),
              strip ? " Pens: blue. #### 5" : " Pens: <<3=x>>blue. #### 5");
  }
  options.context = 8;
  EXPECT_THROW(load_training_text(dir_ / "rows.jsonl", *model_, tokenizer_, options), Error);
  EXPECT_THROW(
      load_training_text(testing::mini_dir() / "data" / "gsm8k.test.jsonl", *model_, tokenizer_, options),
      UsageError);
}

TEST_F(FineTune, AdaptersLearnAndMergeIntoWhatIsWritten) {
  FineTuneOptions options;
  options.epochs = 6;
  options.rate = 2e-3;
  options.strip_marks = true;
  const TrainingText text = load_training_text(dir_ / "rows.jsonl", *model_, tokenizer_, options);
  TrainedModel trained(model_, trained_parts(options), pool_);
  const FineTuneReport report = fine_tune(trained, text, options, pool_, {});
  EXPECT_EQ(report.rows + report.held_out, 60);
  EXPECT_EQ(report.steps, static_cast<int>(std::ceil(6 * report.rows / 8.0)));
  EXPECT_LT(report.checks.back().loss, 0.3 * report.checks.front().loss);
  GradientPass pass(trained, {.batch_tokens = 512, .context = 512}, pool_);
  CrossEntropy loss(model_->config.vocab_size, pool_);
  Batch batch;
  batch.add(0, 0, text.rows.front().tokens);
  loss.set(CrossEntropy::next_tokens(batch));
  const double inside = pass.loss(batch, loss), before = loss_of(model_, text, pool_);
  write_fine_tuned(trained, dir_ / "merged", pool_);
  const double written = loss_of(load_model(dir_ / "merged"), text, pool_);
  EXPECT_LT(inside, before);
  EXPECT_NEAR(written, inside, 0.02 * before);  // bf16
  write_adapter(trained, options, dir_ / "adapter");
  const auto adapter = open_safetensors(dir_ / "adapter" / "adapter_model.safetensors");
  EXPECT_EQ(adapter.tensors.size(), 2 * model_->linears().size());
  const TensorView& b = adapter.tensors.at("base_model.model.model.layers.0.mlp.down_proj.lora_B.weight");
  EXPECT_EQ(b.shape, (std::vector<int64_t>{256, 16}));
  EXPECT_EQ(parse_json(read_file(dir_ / "adapter" / "adapter_config.json"), "adapter").at("r"), 16);
}

TEST_F(FineTune, AllWeightsLearnToo) {
  FineTuneOptions options;
  options.full = true;
  options.rate = 5e-4;
  options.max_steps = 20;
  options.epochs = 9;
  const TrainingText text = load_training_text(dir_ / "rows.jsonl", *model_, tokenizer_, options);
  TrainedModel trained(model_, trained_parts(options), pool_);
  const FineTuneReport report = fine_tune(trained, text, options, pool_, {});
  EXPECT_EQ(report.steps, 20);
  EXPECT_LT(report.checks.back().loss, 0.5 * report.checks.front().loss);
  write_fine_tuned(trained, dir_ / "full", pool_);
  const auto written = load_model(dir_ / "full");
  EXPECT_EQ(written->checkpoint().tensors.size(), model_->checkpoint().tensors.size());
  EXPECT_LT(loss_of(written, text, pool_), loss_of(model_, text, pool_));
  EXPECT_NE(written->final_norm.weight, model_->final_norm.weight);
}

// The same options give the same weights.
TEST_F(FineTune, IsRepeatable) {
  FineTuneOptions options;
  options.max_steps = 3;
  const TrainingText text = load_training_text(dir_ / "rows.jsonl", *model_, tokenizer_, options);
  std::vector<std::vector<float>> values[2];
  for (auto& kept : values) {
    TrainedModel trained(model_, trained_parts(options), pool_);
    fine_tune(trained, text, options, pool_, {});
    for (const Parameter* p : trained.parameters()) kept.push_back(p->value);
  }
  EXPECT_TRUE(values[0] == values[1]);
}

// Wherever it is stopped, the same call goes on and ends with the same weights and the same report.
TEST_F(FineTune, AStoppedOneGoesOn) {
  struct Stop {};
  for (const bool full : {false, true}) {
    FineTuneOptions options;
    options.full = full;
    options.rate = 1e-3;
    options.epochs = 9;
    options.max_steps = 10;  // checks at 2, 4, …; the rows are shuffled anew in the seventh
    options.score_rows = 2;
    const TrainingText text = load_training_text(dir_ / "rows.jsonl", *model_, tokenizer_, options);
    int trained_steps = 0;
    // Stops after step `stop`, or in the score taken there.
    const auto run = [&](const fs::path& out, const std::string& kept, int stop, bool in_score) {
      TrainedModel trained(model_, trained_parts(options), pool_);
      FineTuneCalls calls;
      calls.keep.folder = kept.empty() ? fs::path() : dir_ / kept;
      int done = 0;
      calls.progress = [&](int step, int, double) {
        ++trained_steps;
        done = step;
        if (step == stop && !in_score) throw Stop{};
      };
      calls.score = [&](std::span<const TrainingRow* const> rows) -> std::optional<double> {
        if (done == stop && in_score) throw Stop{};
        return static_cast<double>(rows.size()) + static_cast<double>(trained.parameters().back()->value[7]);
      };
      const FineTuneReport report = fine_tune(trained, text, options, pool_, calls);
      write_fine_tuned(trained, out, pool_);
      OrderedJson json = to_json(report, options);
      for (const char* key : {"seconds", "training_seconds", "tokens_per_second", "peak_rss"})
        json.erase(key);
      return json;
    };
    const OrderedJson expected = run(dir_ / "whole", "", -1, false);
    EXPECT_NE(expected["checks"].back()["exact_match"], 2);
    trained_steps = 0;
    for (const auto& [stop, in_score] :
         {std::pair{0, true}, {1, false}, {2, true}, {5, false}, {8, false}, {10, true}})
      EXPECT_THROW(run(dir_ / "pieces", "kept", stop, in_score), Stop);
    EXPECT_EQ(run(dir_ / "pieces", "kept", -1, false), expected);
    EXPECT_EQ(trained_steps, 10) << "steps made again";
    EXPECT_TRUE(read_file(dir_ / "pieces/model.safetensors") == read_file(dir_ / "whole/model.safetensors"));
    fs::remove_all(dir_ / "kept");
  }
}

TEST_F(FineTune, WhatWasBegunWithOtherOptionsIsNotGoneOnWith) {
  struct Stop {};
  FineTuneOptions options;
  options.max_steps = 3;
  options.score_rows = 0;
  const auto run = [&](bool stop, bool force) {
    const TrainingText text = load_training_text(dir_ / "rows.jsonl", *model_, tokenizer_, options);
    TrainedModel trained(model_, trained_parts(options), pool_);
    FineTuneCalls calls;
    calls.keep = {dir_ / "kept", 0, force, "1"};
    int steps = 0;
    calls.progress = [&](int, int, double) {
      ++steps;
      if (stop) throw Stop{};
    };
    fine_tune(trained, text, options, pool_, calls);
    return steps;
  };
  const auto message = [&] {
    try {
      run(false, false);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_THROW(run(true, false), Stop);
  options.rank = 8;
  options.decay = 0.1;
  EXPECT_NE(message().find("--rank 16, now 8; --weight-decay 0.0, now 0.1;"), std::string::npos) << message();
  options.rank = 16;
  options.decay = 0;
  options.strip_marks = true;
  EXPECT_NE(message().find("begun with another --data; --strip-marks false, now true;"), std::string::npos)
      << message();
  EXPECT_EQ(run(false, true), 3);
  EXPECT_EQ(run(false, true), 0) << "forced, but nothing differs";
  const std::string bytes = read_file(dir_ / "kept/finetune.safetensors");
  write_file_atomically(dir_ / "kept/finetune.safetensors", bytes.substr(0, bytes.size() / 2));
  EXPECT_NE(message().find("finetune.safetensors"), std::string::npos) << message();
}

}  // namespace
}  // namespace nibble
