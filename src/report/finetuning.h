// What fine-tuning changed for quantization: a base model and one fine-tuned from it, each quantized the same
// ways, side by side.
#pragma once

#include <string>
#include <vector>

#include "report/study_view.h"
#include "report/text_table.h"

namespace nibble::report {

// What quantization changed on one measure, of the base and of the fine-tuned model.
struct FineTunedMeasure {
  std::string name;            // of the task, or "KL"
  std::string missing;         // why there is nothing; empty when the rest holds
  bool is_ratio = false;       // the changes are of ln ppl
  bool is_distance = false;    // they are KLs, in nats
  double base = 0, tuned = 0;  // quantized less 16 bits: share of right answers, ln ppl; or the KL
  double difference = 0;       // tuned − base
  // Of a task: row by row on the same rows, by clusters. Of KLs: of two independent means.
  double error = 0;
};

struct FineTunedVariant {
  const VariantView *base = nullptr, *tuned = nullptr;  // of the study
  std::vector<FineTunedMeasure> measures;
  // The layers whose relative output error grew most, by the factor: at most five, none that shrank.
  struct Layer {
    std::string name;
    double base = 0, tuned = 0;
    double growth() const { return tuned / base; }
  };
  std::vector<Layer> layers;
};

struct FineTunedPair {
  std::string base, tuned;  // models, as the study names them
  std::vector<FineTunedVariant> variants;
};

// The pairs that the study names (`[[finetuned]]`), with the variants that both models have.
std::vector<FineTunedPair> fine_tuned_pairs(const StudyView& study);

// A row a measure of each variant, in their order: as points of accuracy, per cent of perplexity, nats.
TextTable measures_table(const FineTunedPair& pair);
// A row a layer of each variant.
TextTable layers_table(const FineTunedPair& pair);

// A section of table1.md; empty where there is no pair.
std::string render_fine_tuned(const std::vector<FineTunedPair>& pairs);

}  // namespace nibble::report
