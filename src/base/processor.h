// Which processor this is.
#pragma once

#include <string>

namespace nibble {

std::string processor_name();  // as /proc/cpuinfo says: "AMD EPYC"; "unknown processor" when it does not

}  // namespace nibble
