// Opening what the user named as MODEL.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "model/model.h"
#include "options.h"

namespace nibble::app {

inline constexpr const char* kModelHelp =
    "a Hugging Face directory, a .gguf file, a nibble directory, llama-mini, qwen2-mini, phi-mini, "
    "smollm2-135m, or "
    "ORG/NAME in the Hugging Face cache";

// The path; fetches smollm2-135m first when it is not there, and says so on standard error.
std::filesystem::path locate_model(const std::string& name);

// Throws Error where --device names a GPU that is not there: better said before a model is read.
void require_device(const GlobalOptions& global);

// The model and its tokenizer; require_device() first.
LoadedModel open_model(const std::string& name, const GlobalOptions& global);

// The folder of task files: `given`; for the bundled models and smollm2-135m the bundled one. Throws
// UsageError for other models without --data.
std::filesystem::path task_files(const std::optional<std::string>& given, const std::string& model);
bool has_default_task_files(const std::string& model);

// The text of --text or --file, exactly one of which was given.
std::string text_argument(const std::optional<std::string>& text, const std::optional<std::string>& file);

}  // namespace nibble::app
