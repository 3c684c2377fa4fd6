// From what a user names to where the model lies.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

// The model that is fetched, not bundled: SmolLM2-135M-Instruct.
inline constexpr std::string_view kFetchedModel = "smollm2-135m";

// Names of the bundled mini models.
const std::vector<std::string>& bundled_models();
bool is_bundled_model(std::string_view name);

// The path of a directory or .gguf file as it stands, of a bundled name (bundled_data_dir() is where
// they lie), of kFetchedModel in the cache, or of a hub id ORG/NAME in the Hugging Face cache
// (HF_HUB_CACHE, HF_HOME/hub, ~/.cache/huggingface/hub). Throws Error that says what would help.
std::filesystem::path find_model(const std::string& name);

// The folder with the mini models (models/) and task files (data/): $NIBBLE_DATA, the checkout this
// program was built in, or ../share/nibble/mini beside it. Throws Error when there is none.
std::filesystem::path bundled_data_dir();
std::filesystem::path bundled_task_files();  // its folder data/

std::filesystem::path fetched_model_path();  // where kFetchedModel lies or will lie
std::filesystem::path fetch_script();        // that brings it; empty when not in a checkout
std::filesystem::path pulled_task_files();   // the folder that `nibble pull --dataset` fills
std::filesystem::path hub_cache_dir();
std::filesystem::path hub_repository_dir(const std::string& id);  // of ORG/NAME in it: models--ORG--NAME

}  // namespace nibble
