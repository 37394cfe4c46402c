// Documents as flat lists of names and values, as admin arguments are.
#include <algorithm>

#include "common/deploy/deployment_spec.h"

namespace dray {
namespace {

constexpr int kDepthMax = 6;

bool is_index(const std::string& text) {
  return !text.empty() && text.size() <= 3 &&
         text.find_first_not_of("0123456789") == std::string::npos;
}

bool is_list_of_texts(const Doc& doc) {
  return doc.is_list() && std::all_of(doc.list().begin(), doc.list().end(), [](const Doc& item) {
           return std::holds_alternative<std::string>(item.value());
         });
}

void flatten_into(const Doc& doc, const std::string& prefix,
                  std::vector<std::pair<std::string, Doc>>& out) {
  if (doc.is_object()) {
    for (const auto& [name, value] : doc.object())
      flatten_into(value, prefix.empty() ? name : prefix + "." + name, out);
  } else if (doc.is_list() && !is_list_of_texts(doc)) {
    for (size_t i = 0; i < doc.list().size(); ++i)
      flatten_into(doc.list()[i], prefix + "." + std::to_string(i), out);
  } else {
    out.emplace_back(prefix, doc);
  }
}

// Of names that begin with the same part.
Doc build(const std::vector<std::pair<std::string, const Doc*>>& entries, int depth) {
  std::vector<std::string> order;
  for (const auto& [name, value] : entries) {
    const std::string head = name.substr(0, name.find('.'));
    if (std::find(order.begin(), order.end(), head) == order.end()) order.push_back(head);
  }
  const bool is_list = !order.empty() && std::all_of(order.begin(), order.end(), is_index);
  Doc doc = is_list ? Doc(Doc::List{}) : Doc(Doc::Object{});
  for (const std::string& head : order) {
    std::vector<std::pair<std::string, const Doc*>> below;
    const Doc* leaf = nullptr;
    for (const auto& [name, value] : entries) {
      if (name == head) leaf = value;
      if (name.size() > head.size() && name.starts_with(head) && name[head.size()] == '.')
        below.emplace_back(name.substr(head.size() + 1), value);
    }
    Doc child =
        leaf != nullptr || depth == kDepthMax ? (leaf ? *leaf : Doc()) : build(below, depth + 1);
    if (is_list)
      doc.push(std::move(child));
    else
      doc.set(head, std::move(child));
  }
  return doc;
}

}  // namespace

std::vector<std::pair<std::string, Doc>> flatten(const Doc& doc) {
  std::vector<std::pair<std::string, Doc>> out;
  flatten_into(doc, "", out);
  return out;
}

Doc unflatten(const Doc& flat) {
  std::vector<std::pair<std::string, const Doc*>> entries;
  for (const auto& [name, value] : flat.object()) entries.emplace_back(name, &value);
  return build(entries, 0);
}

}  // namespace dray
