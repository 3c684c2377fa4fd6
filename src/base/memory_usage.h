// What this process holds in memory, as the kernel counts it (proc(5), /proc/self/status).
#pragma once

#include <cstdint>

namespace nibble {

uint64_t rss_bytes();       // now: anonymous, and touched pages of mapped files
uint64_t peak_rss_bytes();  // the most so far, or since reset_peak_rss(); 0 when the kernel does not tell
bool reset_peak_rss();      // false where it is not allowed: the peak then goes on rising only

uint64_t available_memory_bytes();  // what may be allocated without swapping; 0 when unknown
uint64_t total_memory_bytes();

// Gives the heap's free pages back to the system.
void release_free_memory();

}  // namespace nibble
