// A directory that long work writes its result into. What the work needs to go on after it was stopped lies
// in the folder "unfinished" of it until the result is complete.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace nibble {

class ResultDirectory {
 public:
  // report: name of the file that is written last; where it lies, the result is complete.
  ResultDirectory(std::filesystem::path path, std::string report);

  std::filesystem::path unfinished() const { return path_ / "unfinished"; }

  // Makes the directory. One that exists is taken when it is empty, when unfinished work lies there or with
  // `force`; a report there is removed, and so is what a killed process had half written. Throws Error
  // otherwise.
  void begin(bool force) const;
  // The result is complete: writes the report, removes the unfinished.
  void finish(std::string_view report) const;

 private:
  std::filesystem::path path_;
  std::string report_;
};

}  // namespace nibble
