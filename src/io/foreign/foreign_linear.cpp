#include "io/foreign/foreign_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "io/quote_name.h"

namespace nibble {

const TensorView& foreign_tensor(const TensorMap& tensors, const std::string& name, DType dtype,
                                 const std::vector<int64_t>& shape, const std::string& where) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) fail("{}: tensor {} is missing", where, quote_name(name));
  const TensorView& view = found->second;
  if (view.dtype != dtype || view.shape != shape)
    fail("{}: tensor {} is {} {}, expected {} {}", where, quote_name(name), dtype_name(view.dtype),
         shape_string(view.shape), dtype_name(dtype), shape_string(shape));
  return view;
}

QuantizedMatrix foreign_matrix(const ForeignFormat& f, int64_t n, int64_t k, const std::string& where) {
  try {
    return QuantizedMatrix(PackedFormat{f.bits, f.group_size, false, n, k});
  } catch (const Error& error) {
    fail("{}: {}", where, error.what());
  }
}

const TensorView& matrix_of_words(const TensorMap& tensors, const std::string& name,
                                  const std::string& where) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) fail("{}: tensor {} is missing", where, quote_name(name));
  const TensorView& view = found->second;
  if (view.dtype != DType::kI32 || view.shape.size() != 2 || view.elements() == 0)
    fail("{}: tensor {} is {} {}, expected a matrix of I32", where, quote_name(name), dtype_name(view.dtype),
         shape_string(view.shape));
  return view;
}

void read_foreign_scales(const TensorMap& tensors, const std::string& linear, const char* suffix,
                         bool transposed, QuantizedMatrix& m, const std::string& file) {
  const std::string where = fmt::format("{}: {}", file, quote_name(linear));
  const auto found = tensors.find(fmt::format("{}.{}", linear, suffix));
  if (found == tensors.end()) fail("{}: tensor '{}.{}' is missing", file, linear, suffix);
  std::vector<int64_t> shape{m.format.n, m.format.groups()};
  if (transposed) std::swap(shape[0], shape[1]);
  if (found->second.shape != shape)
    fail("{}: its scales are {}, but {} inputs in groups of {} ask for {}", where,
         shape_string(found->second.shape), m.format.k, m.format.group(), shape_string(shape));
  const std::vector<float> values = to_float(found->second);
  NIBBLE_CHECK(values.size() == m.scales.size());
  const size_t n = static_cast<size_t>(m.format.n), groups = static_cast<size_t>(m.format.groups());
  for (size_t row = 0; row < n; ++row) {
    for (size_t g = 0; g < groups; ++g)
      m.scales[row * groups + g] = values[transposed ? g * n + row : row * groups + g];
  }
  if (!std::all_of(m.scales.begin(), m.scales.end(), [](float s) { return std::isfinite(s); }))
    fail("{}: a scale is NaN or infinite", where);
  if (!std::all_of(m.scales.begin(), m.scales.end(), [](float s) { return rounded_to_fp16(s) == s; }))
    m.format.scale_type = ScaleType::kF32;
}

void settle_zeros(QuantizedMatrix& m) {
  const auto [least, greatest] = std::minmax_element(m.zeros.begin(), m.zeros.end());
  m.format.symmetric = *least == m.format.middle() && *greatest == m.format.middle();
  m.format.wide_zeros = m.format.bits <= 4 && *greatest > m.format.max_code();
}

std::vector<int32_t> order_from_groups(const TensorView& groups, const PackedFormat& f,
                                       const std::string& where) {
  if (groups.dtype != DType::kI32 || groups.shape != std::vector<int64_t>{f.k})
    fail("{}: the groups of its inputs are {} {}, expected I32 [{}]", where, dtype_name(groups.dtype),
         shape_string(groups.shape), f.k);
  const int32_t* of = groups.as<int32_t>();
  const size_t k = static_cast<size_t>(f.k), size = static_cast<size_t>(f.group());
  bool in_order = true, none = true;
  for (size_t i = 0; i < k; ++i) {
    in_order = in_order && of[i] == static_cast<int32_t>(i / size);
    none = none && of[i] == -1;
  }
  if (in_order || none) return {};
  std::vector<size_t> next(static_cast<size_t>(f.groups()));
  for (size_t g = 0; g < next.size(); ++g) next[g] = g * size;
  std::vector<int32_t> order(k);
  for (size_t i = 0; i < k; ++i) {
    const int64_t g = of[i];
    if (g < 0 || g >= f.groups()) fail("{}: input {} is in group {} of {}", where, i, g, f.groups());
    size_t& at = next[static_cast<size_t>(g)];
    if (at == std::min(k, (static_cast<size_t>(g) + 1) * size))
      fail("{}: group {} has more than its {} inputs", where, g, size);
    order[at++] = static_cast<int32_t>(i);
  }
  return order;
}

std::vector<int32_t> groups_from_order(const std::vector<int32_t>& order, const PackedFormat& f) {
  std::vector<int32_t> groups(static_cast<size_t>(f.k));
  for (size_t j = 0; j < groups.size(); ++j)
    groups[order.empty() ? j : static_cast<size_t>(order[j])] =
        static_cast<int32_t>(static_cast<int64_t>(j) / f.group());
  return groups;
}

void place_row(const std::vector<int32_t>& order, const uint8_t* inputs, int64_t k, uint8_t* columns) {
  if (order.empty()) {
    std::memcpy(columns, inputs, static_cast<size_t>(k));
    return;
  }
  for (int64_t j = 0; j < k; ++j) columns[j] = inputs[order[static_cast<size_t>(j)]];
}

void restore_row(const std::vector<int32_t>& order, const uint8_t* columns, int64_t k, uint8_t* inputs) {
  if (order.empty()) {
    std::memcpy(inputs, columns, static_cast<size_t>(k));
    return;
  }
  for (int64_t j = 0; j < k; ++j) inputs[order[static_cast<size_t>(j)]] = columns[j];
}

}  // namespace nibble
