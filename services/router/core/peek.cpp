#include "services/router/core/peek.h"

#include <vector>

#include "common/wire/pack.h"

namespace dray {

bool peek_flag(const Frames& frames) {
  thread_local std::vector<wire::Element> elements;
  elements.clear();
  const std::string_view head = frames.frame[0].view();
  auto used = wire::parse_elements(head, elements);
  if (!used) return false;
  elements.clear();
  if (!wire::parse_elements(head.substr(*used), elements) || elements.size() < 2) return false;
  using Type = wire::Element::Type;
  return elements[0].type == Type::array && elements[1].type == Type::boolean &&
         elements[1].number != 0;
}

}  // namespace dray
