#pragma once

// Before a loop of known length over registers: without it GCC keeps the array in memory at -O2.
#define NIBBLE_UNROLL _Pragma("GCC unroll 16")
