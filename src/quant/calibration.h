// The text that a quantizer sees.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace nibble {

struct CalibrationOptions {
  std::vector<std::filesystem::path> files;  // text, or JSONL of the tasks' rows or of {"text": …}
  int samples = 128;
  int seqlen = 512;  // tokens a sample
  uint64_t seed = 0;
};

struct Calibration {
  std::vector<std::vector<int32_t>> samples;  // seqlen tokens each, the start token first if there is one
  int64_t tokens = 0;
  std::string sha256;  // over all sample tokens as little-endian int32
  struct Source {
    std::string file;
    int samples = 0;
  };
  std::vector<Source> sources;
  size_t longest() const;  // tokens of the longest sample, at least 1
};

// Throws UsageError for a file that is a test split known here.
void refuse_test_split(const std::filesystem::path& file);

// The text of a file: of JSONL the rows in their order, each in the prompt form of its task with the
// right answer, a blank line between them; of other files as it is.
std::string prompt_text(const std::filesystem::path& file);

// Each file is a stream cut into disjoint samples; the files share `samples` as evenly as they can,
// and which samples of a file are taken is drawn with the seed. JSONL rows are shuffled first and
// take the prompt form of their task, with the right answer. A text shorter than one sample gives
// one short sample. Throws Error when no file yields a token, UsageError for a file that is a test
// split known here.
Calibration load_calibration(const CalibrationOptions& options, const Tokenizer& tokenizer);

// The files of data/mini that are for training: general text twice, so that half is general.
std::vector<std::filesystem::path> bundled_calibration(const std::filesystem::path& mini_data_dir);

}  // namespace nibble
