#include "report/page.h"

#include <array>
#include <utility>

#include "base/error.h"
#include "report/page_files.h"

namespace nibble::report {

std::string render_page(const Report& report, const PageOptions& options) {
  const std::string data = page_data(report, options);
  const std::array<std::pair<std::string_view, std::string_view>, 4> parts = {{
      {"{{style}}", page_style()},
      {"{{chart}}", page_chart()},
      {"{{data}}", data},
      {"{{script}}", page_script()},
  }};
  // In the template's order: what is filled in is never searched.
  std::string_view rest = page_template();
  std::string page;
  for (const auto& [mark, text] : parts) {
    const size_t at = rest.find(mark);
    NIBBLE_CHECK(at != std::string_view::npos);
    page.append(rest.substr(0, at)).append(text);
    rest.remove_prefix(at + mark.size());
  }
  return page.append(rest);
}

}  // namespace nibble::report
