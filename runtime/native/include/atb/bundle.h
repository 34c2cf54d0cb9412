// A bundle: a folder whose manifest.json names every file by its SHA-256, and the engines among them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace atb {

enum class Task { classification, regression };

/// What an engine was built for, as `runtime.target.EngineTarget` writes it.
struct Target {
  std::string backend;
  std::string device;
  std::string precision;
  std::size_t batch = 1;
  std::size_t length = 0;
  std::size_t threads = 1;
  bool dynamic = false;

  [[nodiscard]] std::string label() const;  // openvino-CPU-bf16-b1-l64-t1
  [[nodiscard]] std::string group() const;  // openvino-CPU-bf16-b1-t1: what the lengths of one engine share
};

struct EngineEntry {
  Target target;
  std::filesystem::path artifact;  // absolute
  std::string effective_precision;
};

struct Bundle {
  std::filesystem::path folder;
  std::string name;
  std::string sha256;  // of the manifest's content: names this very model
  Task task = Task::classification;
  std::vector<std::string> labels;  // in the order of the logits
  std::size_t max_length = 0;       // tokens
  std::filesystem::path tokenizer;  // absolute
  std::vector<EngineEntry> engines;

  /// Hashes every file. Throws `Error(Kind::bundle)` naming what is not as the manifest says, before any other file of
  /// the folder is parsed: links, files that are missing, unlisted or changed, paths that leave the folder, another
  /// schema, ONNX files whose weights lie elsewhere.
  static Bundle read(const std::filesystem::path& folder);

  /// The engines that differ in length only, shortest first: of `wanted` (a label, a group or a backend), or of the
  /// first group whose backend `runs` says can run here. Throws `Error` naming what there is.
  [[nodiscard]] std::vector<EngineEntry> choose(const std::string& wanted, bool (*runs)(const Target&)) const;
};

}  // namespace atb
