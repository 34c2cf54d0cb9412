#include "bundle/manifest.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <set>
#include <stdexcept>

#include "bundle/json.h"
#include "bundle/sha256.h"

namespace atb {
namespace {

using json::Node;

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why); }

const Node& member(const Node& node, const std::string& where, const char* name) {
  if (node.type != Node::Type::object) refuse(where + " is an object");
  const Node* found = node.find(name);
  if (found == nullptr) refuse(where + " has no " + name);
  return *found;
}

std::string text(const Node& node, const std::string& where, const char* name) {
  const Node& found = member(node, where, name);
  if (found.type != Node::Type::text) refuse(std::string(name) + " of " + where + " is a text");
  return found.text;
}

std::int64_t whole(const Node& node, const std::string& where, const char* name, std::int64_t least) {
  const auto found = member(node, where, name).whole();
  if (!found || *found < least)
    refuse(std::string(name) + " of " + where + " is a whole number of " + std::to_string(least) + " or more");
  return *found;
}

const Node& typed(const Node& node, const std::string& where, const char* name, Node::Type type) {
  const Node& found = member(node, where, name);
  if (found.type != type)
    refuse(std::string(name) + " of " + where + (type == Node::Type::list ? " is a list" : " is an object"));
  return found;
}

void only(const Node& node, const std::string& where, std::set<std::string> fields, const std::string& optional = {}) {
  if (node.type != Node::Type::object) refuse(where + " is an object");
  for (const std::string& name : node.names)
    if (fields.erase(name) == 0 && (optional.empty() || name != optional)) refuse(where + " has an unknown " + name);
  if (!fields.empty()) refuse(where + " has no " + *fields.begin());
}

bool is_backend(std::string_view name) {
  const auto lower = [](char c) { return c >= 'a' && c <= 'z'; };
  return !name.empty() && lower(name[0]) &&
         std::ranges::all_of(name, [&](char c) { return lower(c) || (c >= '0' && c <= '9') || c == '_'; });
}

/// Names joined by commas, no two the same.
bool is_device(std::string_view device) {
  std::set<std::string_view> seen;
  for (std::size_t at = 0; at <= device.size();) {
    const auto end = std::min(device.find(',', at), device.size());
    const std::string_view name = device.substr(at, end - at);
    const auto fits = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.'; };
    if (name.empty() || !std::ranges::all_of(name, fits) || !seen.insert(name).second) return false;
    at = end + 1;
  }
  return true;
}

Target target_of(const Node& node) {
  const std::string where = "a target";
  only(node, where, {"backend", "device", "precision", "shape", "threads"}, "dynamic");
  const Node& shape = member(node, where, "shape");
  only(shape, "a shape", {"batch", "length"});
  Target found;
  found.backend = text(node, where, "backend");
  found.device = text(node, where, "device");
  found.precision = text(node, where, "precision");
  found.batch = static_cast<std::size_t>(whole(shape, "a shape", "batch", 1));
  found.length = static_cast<std::size_t>(whole(shape, "a shape", "length", 1));
  found.threads = static_cast<std::size_t>(whole(node, where, "threads", 1));
  if (const Node* dynamic = node.find("dynamic")) {
    if (dynamic->type != Node::Type::boolean) refuse("dynamic of a target is true or false");
    found.dynamic = dynamic->truth;
  }
  constexpr std::array<std::string_view, 5> precisions{"auto", "f32", "bf16", "f16", "int8"};
  if (!is_backend(found.backend)) refuse("backend is a lower-case name such as openvino, got '" + found.backend + "'");
  if (!is_device(found.device))
    refuse("device is a name or different names joined by commas, got '" + found.device + "'");
  if (std::ranges::find(precisions, found.precision) == precisions.end())
    refuse("precision is one of auto, f32, bf16, f16, int8; got '" + found.precision + "'");
  return found;
}

void read_model(const Node& node, Bundle& out) {
  const std::string where = "model";
  const std::string task = text(node, where, "task");
  if (task != "classification" && task != "regression")
    refuse("task is one of classification, regression; got '" + task + "'");
  out.task = task == "regression" ? Task::regression : Task::classification;
  for (const Node& label : typed(node, where, "labels", Node::Type::list).items) {
    if (label.type != Node::Type::text) refuse("labels are texts");
    out.labels.push_back(label.text);
  }
  if (out.task == Task::regression ? out.labels.size() != 1 : out.labels.size() < 2)
    refuse("classification has 2 labels or more, regression 1; got " + std::to_string(out.labels.size()));
  if (std::set<std::string>(out.labels.begin(), out.labels.end()).size() < out.labels.size())
    refuse("labels are different texts");
  out.max_length = static_cast<std::size_t>(whole(node, where, "max_length", 1));
  if (const auto type = member(node, where, "subnet").type; type != Node::Type::null && type != Node::Type::object)
    refuse("subnet of model is an object or null");
  out.tokenizer = text(node, where, "tokenizer");
}

void check_schema(const Node& data) {
  const Node& schema = member(data, "the manifest", "schema");
  if (schema.whole() == kSchema) return;
  const std::string shown = json::canonical(schema).substr(0, 40);
  // Digits alone, however many, are a whole number.
  const bool newer =
      schema.type == Node::Type::number && shown.find_first_not_of("0123456789") == shown.npos && shown != "0";
  refuse("schema " + shown + " is unknown, this version reads " + std::to_string(kSchema) + ": " +
         (newer ? "written by a newer atb-export, so update this one" : "build the bundle again"));
}

}  // namespace

Manifest parse_manifest(std::string_view bytes) {
  const Node data = json::parse(bytes);
  const std::string where = "the manifest";
  check_schema(data);
  Manifest found;
  found.bundle.name = text(data, where, "name");
  read_model(member(data, where, "model"), found.bundle);
  std::set<std::string> labels;
  for (const Node& item : typed(data, where, "engines", Node::Type::list).items) {
    EngineEntry entry;
    entry.target = target_of(member(item, "an engine", "target"));
    entry.artifact = text(item, "an engine", "artifact");
    entry.effective_precision = text(item, "an engine", "effective_precision");
    if (!labels.insert(entry.target.label()).second)
      refuse("each engine has a target of its own; there are several of " + entry.target.label());
    found.bundle.engines.push_back(std::move(entry));
  }
  typed(data, where, "parents", Node::Type::object);
  typed(data, where, "numbers", Node::Type::object);
  const Node& files = typed(data, where, "files", Node::Type::object);
  for (std::size_t i = 0; i < files.items.size(); ++i) {
    const std::string entry = "the file '" + files.names[i] + "'";
    found.files[files.names[i]] = {text(files.items[i], entry, "sha256"),
                                   static_cast<std::uint64_t>(whole(files.items[i], entry, "bytes", 0))};
  }
  found.bundle.sha256 = text(data, where, "sha256");
  found.as_written =
      json::indented(data) + "\n" == bytes && found.bundle.sha256 == sha256_of(json::canonical(data, "sha256"));
  return found;
}

bool stays_inside(std::string_view name) {
  if (name == kManifestFile || name.find('\\') != name.npos || name.find('\0') != name.npos) return false;
  std::size_t second = 1;  // where the second character begins; a colon there makes it a drive of Windows
  while (second < name.size() && (static_cast<unsigned char>(name[second]) & 0xC0U) == 0x80) ++second;
  if (second < name.size() && name[second] == ':') return false;
  for (std::size_t at = 0; at <= name.size();) {
    const auto end = std::min(name.find('/', at), name.size());
    const std::string_view part = name.substr(at, end - at);
    if (part.empty() || part == "." || part == "..") return false;
    at = end + 1;
  }
  return true;
}

std::string beside(std::string_view onnx, std::string_view location) {
  if (location.starts_with('/')) return std::string(location);
  const auto slash = onnx.rfind('/');
  std::string joined;
  if (slash != onnx.npos) joined = onnx.substr(0, slash);
  for (std::size_t at = 0; at <= location.size();) {
    const auto end = std::min(location.find('/', at), location.size());
    const std::string_view part = location.substr(at, end - at);
    if (!part.empty() && part != ".") (joined += joined.empty() ? "" : "/") += part;
    at = end + 1;
  }
  return joined;
}

}  // namespace atb
