// Puts the results of several machines that shared one study (`--shard`) into one database.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "study/plan.h"
#include "study/store.h"

namespace nibble {

struct MergeOutcome {
  size_t cells = 0, done = 0, failed = 0;  // in the merged study
  size_t taken = 0;                        // cells that came from the sources now
  std::string message;                     // one line
};

// Takes what each SOURCE/results.db has done into DIR/results.db, which is made when it is not there; leaves
// DIR/study.toml. A failed cell comes along where there is nothing better. Sources are not changed. What is
// there already stays, so a merge that was cut short can be repeated.
// Throws Error, before anything is written, where the parts cannot stand in one table: another plan, version,
// processor, instruction set or number of threads, other weights of a variant, or a cell measured twice with
// different scores.
MergeOutcome merge_studies(const std::vector<std::filesystem::path>& sources,
                           const std::filesystem::path& dir);

}  // namespace nibble
