#include "base/memory_usage.h"

#include <malloc.h>

#include <fstream>
#include <string>

namespace nibble {
namespace {

// "Name:   1234 kB" in bytes; 0 when absent.
uint64_t kilobytes_line(const char* file, const std::string& name) {
  std::ifstream in(file);
  for (std::string word; in >> word;) {
    uint64_t value = 0;
    if (word == name && in >> value) return value * 1024;
  }
  return 0;
}

}  // namespace

uint64_t rss_bytes() { return kilobytes_line("/proc/self/status", "VmRSS:"); }

// Not getrusage's ru_maxrss: that one outlives exec() and then tells the parent's peak.
uint64_t peak_rss_bytes() { return kilobytes_line("/proc/self/status", "VmHWM:"); }

bool reset_peak_rss() {
  std::ofstream out("/proc/self/clear_refs");
  out << "5" << std::flush;
  return out.good();
}

uint64_t available_memory_bytes() { return kilobytes_line("/proc/meminfo", "MemAvailable:"); }
uint64_t total_memory_bytes() { return kilobytes_line("/proc/meminfo", "MemTotal:"); }

void release_free_memory() { ::malloc_trim(0); }

}  // namespace nibble
