// report.html: one file that works offline.
#pragma once

#include <string>

#include "report/report.h"

namespace nibble::report {

struct PageOptions {
  // The page asks its server for data.json every few seconds and shows what is new.
  bool live = false;
};

// The whole page. Everything out of the store stands in one JSON block and reaches the page as text only.
std::string render_page(const Report& report, const PageOptions& options = {});

// The JSON block: what the page shows, made from the report alone. "<" is escaped, so that no stored text
// can end the element that holds it.
std::string page_data(const Report& report, const PageOptions& options = {});

}  // namespace nibble::report
