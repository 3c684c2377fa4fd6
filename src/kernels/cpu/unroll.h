#pragma once

// Before a loop of known length over registers: without it GCC keeps the array in memory at -O2.
#define NIBBLE_UNROLL _Pragma("GCC unroll 16")
// Before a function with registers' contents in arrays: called, it would pass them through memory.
#define NIBBLE_INLINE [[gnu::always_inline]] inline
