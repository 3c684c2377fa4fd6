// The files of src/report/page and Chart.js, embedded at build time (cmake/embed_page.cmake).
#pragma once

#include <string_view>

namespace nibble::report {

std::string_view page_template();  // page.html: {{style}}, {{chart}}, {{script}} and {{data}} are filled in
std::string_view page_style();
std::string_view page_chart();   // Chart.js as Debian packages it, with its licence in the first lines
std::string_view page_script();  // the scripts, one after the other

}  // namespace nibble::report
