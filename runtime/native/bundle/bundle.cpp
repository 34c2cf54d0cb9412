#include "atb/bundle.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <system_error>

#include "atb/error.h"
#include "bundle/file.h"
#include "bundle/manifest.h"
#include "bundle/onnx_weights.h"
#include "bundle/sha256.h"

namespace atb {
namespace fs = std::filesystem;
namespace {

using Problems = std::vector<std::string>;

/// A name of the folder's or of a model's as text: those may be any bytes.
std::string shown(const std::string& name) {
  const std::string quoted = nlohmann::json(name).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return quoted.substr(1, quoted.size() - 2);
}

void refuse(const fs::path& folder, const Problems& problems) {
  if (problems.empty()) return;
  constexpr std::size_t kShown = 5;
  std::string shown;
  for (std::size_t i = 0; i < std::min(kShown, problems.size()); ++i) shown += (i == 0 ? "" : "; ") + problems[i];
  if (problems.size() > kShown) shown += "; and " + std::to_string(problems.size() - kShown) + " more";
  throw Error(Kind::bundle, "the bundle " + folder.string() + " is not intact: " + shown + ". Fetch or build it again");
}

std::string read_text(const fs::path& path) {
  const File file(path);
  if (file.size() > kMostManifestBytes)
    throw std::invalid_argument("it has " + std::to_string(file.size()) + " bytes, a manifest at most " +
                                std::to_string(kMostManifestBytes));
  std::string out(file.size(), '\0');
  out.resize(file.read(0, {reinterpret_cast<unsigned char*>(out.data()), out.size()}));
  return out;
}

Manifest read_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifestFile;
  std::error_code ignored;
  if (!fs::is_regular_file(fs::symlink_status(path, ignored)))
    throw Error(Kind::bundle, folder.string() + " is not a bundle: it has no " + kManifestFile);
  try {
    return parse_manifest(read_text(path));
  } catch (const std::invalid_argument& error) {
    throw Error(Kind::bundle, path.string() + " is not a manifest: " + error.what());
  } catch (const std::system_error& error) {
    throw Error(Kind::bundle, path.string() + " cannot be read: " + error.code().message());
  }
}

/// The plain files under `folder` without the manifest; what is neither file nor folder becomes a problem.
std::set<std::string> walk(const fs::path& folder, Problems& problems) {
  std::set<std::string> found;
  std::error_code error;
  // Links to folders are not followed, and are named as links.
  for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const auto type = at->symlink_status(error).type();
    if (error) break;
    const std::string name = at->path().lexically_relative(folder).generic_string();
    if (type == fs::file_type::symlink)
      problems.push_back(shown(name) + " is a link: a bundle holds plain files");
    else if (type != fs::file_type::directory && type != fs::file_type::regular)
      problems.push_back(shown(name) + " is not a plain file");
    else if (type == fs::file_type::regular && name != kManifestFile)
      found.insert(name);
  }
  if (error) problems.push_back("a folder of it cannot be read: " + error.message());
  return found;
}

void check_file(const fs::path& path, const std::string& name, const FileFacts& facts, Problems& problems) {
  try {
    if (const auto size = File(path).size(); size != facts.bytes) {
      problems.push_back(name + " has " + std::to_string(size) + " bytes, the manifest says " +
                         std::to_string(facts.bytes));
    } else if (fingerprint(path).sha256 != facts.sha256) {
      problems.push_back(name + " has changed: its SHA-256 is not the manifest's");
    }
  } catch (const std::system_error& error) {
    problems.push_back(name + " cannot be read: " + error.code().message());
  }
}

bool is_onnx(std::string_view name) {
  constexpr std::string_view ending = ".onnx";
  return name.size() >= ending.size() &&
         std::ranges::equal(name.substr(name.size() - ending.size()), ending, {},
                            [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
}

void check_weights(const fs::path& folder, const std::string& name, const Manifest& manifest, Problems& problems) {
  try {
    for (const auto& [location, bytes] : external_weights(folder / name)) {
      const std::string path = beside(name, location);
      const auto file = manifest.files.find(path);
      if (file == manifest.files.end())
        problems.push_back("weights of " + name + " are at " + shown(path) + ", which is not a file of it");
      else if (file->second.bytes < bytes)
        problems.push_back(name + " wants " + std::to_string(bytes) + " bytes of " + path + ", which has " +
                           std::to_string(file->second.bytes));
    }
  } catch (const std::invalid_argument& error) {
    problems.push_back(name + " is not an ONNX model: " + error.what());
  } catch (const std::system_error& error) {
    problems.push_back(name + " cannot be read: " + error.code().message());
  }
}

std::string name_of(const Target& target, const std::string& sizes) {
  std::string device = target.device;
  std::ranges::replace(device, ',', '+');
  return target.backend + "-" + device + "-" + target.precision + "-" + sizes + "-t" + std::to_string(target.threads) +
         (target.dynamic ? "-dynamic" : "");
}

}  // namespace

std::string Target::label() const {
  return name_of(*this, "b" + std::to_string(batch) + "-l" + std::to_string(length));
}

std::string Target::group() const { return name_of(*this, "b" + std::to_string(batch)); }

Bundle Bundle::read(const fs::path& where) {
  std::error_code ignored;
  const fs::path absolute = fs::absolute(where, ignored).lexically_normal();
  const fs::path folder = absolute.has_filename() ? absolute : absolute.parent_path();
  Manifest manifest = read_manifest(folder);
  Problems problems;
  for (const auto& [name, facts] : manifest.files)
    if (!stays_inside(name)) problems.push_back("'" + name + "' leaves the bundle");
  refuse(folder, problems);  // before any of them is opened
  const std::set<std::string> there = walk(folder, problems);
  for (const auto& [name, facts] : manifest.files)
    if (!there.contains(name)) problems.push_back(name + " is missing");
  for (const std::string& name : there)
    if (!manifest.files.contains(name)) problems.push_back(shown(name) + " is not listed");
  for (const auto& [name, facts] : manifest.files)
    if (there.contains(name)) check_file(folder / name, name, facts, problems);
  if (!manifest.as_written)
    problems.push_back(std::string(kManifestFile) + " has changed: it is not as it was written");
  Bundle& bundle = manifest.bundle;
  for (const EngineEntry& entry : bundle.engines)
    if (!manifest.files.contains(entry.artifact.string()))
      problems.push_back(entry.target.label() + " is at " + entry.artifact.string() + ", which is not a file of it");
  if (!manifest.files.contains(bundle.tokenizer.string()))
    problems.push_back("the tokenizer is at " + bundle.tokenizer.string() + ", which is not a file of it");
  refuse(folder, problems);  // before any of them is parsed
  for (const auto& [name, facts] : manifest.files)
    if (is_onnx(name)) check_weights(folder, name, manifest, problems);
  refuse(folder, problems);
  bundle.folder = folder;
  bundle.tokenizer = folder / bundle.tokenizer;
  for (EngineEntry& entry : bundle.engines) entry.artifact = folder / entry.artifact;
  return std::move(bundle);
}

std::vector<EngineEntry> Bundle::choose(const std::string& wanted, bool (*runs)(const Target&)) const {
  std::vector<std::pair<std::string, std::vector<EngineEntry>>> groups;  // in the order of their first engines
  std::string have;
  for (const EngineEntry& entry : engines) {
    const Target& target = entry.target;
    have += (have.empty() ? "" : ", ") + target.label();
    if (wanted == target.label()) groups.assign(1, {wanted, {}});
  }
  const bool one = !groups.empty();
  for (const EngineEntry& entry : engines) {
    const Target& target = entry.target;
    const std::string group_name = one ? target.label() : target.group();
    if (!wanted.empty() && wanted != group_name && wanted != target.backend) continue;
    auto group = std::ranges::find(groups, group_name, [](const auto& x) { return x.first; });
    if (group == groups.end() && !one) group = groups.insert(groups.end(), {group_name, {}});
    if (group != groups.end()) group->second.push_back(entry);
  }
  if (groups.empty())
    throw Error(Kind::not_found, "the bundle has no engine " + wanted + "; it has " + (have.empty() ? "none" : have));
  for (auto& [_, entries] : groups) {
    if (!runs(entries.front().target)) continue;
    std::ranges::stable_sort(entries, {}, [](const EngineEntry& x) { return x.target.length; });
    return std::move(entries);
  }
  throw Error(Kind::bundle, "none of the bundle's engines can run here: " + have +
                                "; build one for this machine with `atb export --rebuild`");
}

}  // namespace atb
