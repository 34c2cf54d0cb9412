// A folder that is a bundle, and everything that makes it none.
#include <sys/stat.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "atb/bundle.h"
#include "atb/error.h"
#include "bundle/sha256.h"
#include "scratch.h"

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

void write(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

Json engine(const std::string& artifact, int length, const std::string& precision = "f32", int batch = 1) {
  return {{"target",
           {{"backend", "openvino"},
            {"device", "CPU"},
            {"precision", precision},
            {"shape", {{"batch", batch}, {"length", length}}},
            {"threads", 1}}},
          {"artifact", artifact},
          {"effective_precision", precision}};
}

/// A bundle of its own.
struct Folder {
  atb::test::Scratch scratch;
  fs::path path = scratch.path() / "bundle";
  Json manifest;

  Folder() {
    write(path / "engines/model.xml", "<net/>");
    write(path / "engines/model.bin", "weights");
    write(path / "tokenizer.json", "{}");
    manifest = {{"schema", 1},
                {"name", "caf\u00e9"},
                {"model",
                 {{"task", "classification"},
                  {"labels", {"bad", "good"}},
                  {"max_length", 8},
                  {"subnet", nullptr},
                  {"tokenizer", "tokenizer.json"}}},
                {"engines", Json::array({engine("engines/model.xml", 8)})},
                {"parents", Json::object()},
                {"numbers", Json::object()},
                {"files", Json::object()}};
    list();
  }

  /// Lists every file, and writes the manifest as Python does.
  void list() {
    manifest["files"] = Json::object();
    for (const auto& entry : fs::recursive_directory_iterator(path))
      if (entry.is_regular_file() && entry.path().filename() != "manifest.json")
        add(entry.path().lexically_relative(path).generic_string(), atb::fingerprint(entry.path()));
    sign();
  }
  void add(const std::string& name, const atb::Fingerprint& facts) {
    manifest["files"][name] = {{"sha256", facts.sha256}, {"bytes", facts.bytes}};
  }
  void sign() {
    manifest.erase("sha256");
    const std::string content = nlohmann::json::parse(manifest.dump()).dump(-1, ' ', true);
    manifest["sha256"] = atb::sha256_of(content);
    write(path / "manifest.json", manifest.dump(2, ' ', true) + "\n");
  }

  [[nodiscard]] atb::Bundle read() const { return atb::Bundle::read(path); }
  /// What it is refused with; empty where it is read.
  [[nodiscard]] std::string refusal() const {
    try {
      (void)read();
      return {};
    } catch (const atb::Error& error) {
      BOOST_TEST((error.kind() == atb::Kind::bundle));
      return error.what();
    }
  }
};

bool says(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  BOOST_TEST_MESSAGE("'" << part << "' is not in: " << text);
  return false;
}

bool everywhere(const atb::Target&) { return true; }

}  // namespace

BOOST_AUTO_TEST_CASE(what_is_written_is_read) {
  const Folder folder;
  const atb::Bundle bundle = folder.read();
  BOOST_TEST(bundle.name == "caf\u00e9");
  BOOST_TEST(bundle.sha256 == folder.manifest["sha256"].get<std::string>());
  BOOST_TEST((bundle.task == atb::Task::classification));
  BOOST_TEST(bundle.labels.size() == 2U);
  BOOST_TEST(bundle.labels[1] == "good");
  BOOST_TEST(bundle.max_length == 8U);
  BOOST_TEST(bundle.tokenizer == folder.path / "tokenizer.json");
  BOOST_TEST(bundle.engines.size() == 1U);
  BOOST_TEST(bundle.engines[0].artifact == folder.path / "engines/model.xml");
  BOOST_TEST(bundle.engines[0].target.label() == "openvino-CPU-f32-b1-l8-t1");
  BOOST_TEST(bundle.engines[0].target.group() == "openvino-CPU-f32-b1-t1");
  BOOST_TEST(atb::Bundle::read(folder.path / "").folder == folder.path);
}

BOOST_AUTO_TEST_CASE(no_byte_of_any_file_can_change) {
  const Folder folder;
  for (const auto& name : {"engines/model.bin", "engines/model.xml", "tokenizer.json", "manifest.json"}) {
    std::ifstream in(folder.path / name, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ (1 + at % 255));
      write(folder.path / name, changed);
      BOOST_TEST(!folder.refusal().empty(), name << " at " << at);
    }
    write(folder.path / name, bytes);
  }
  BOOST_TEST(folder.refusal() == "");
}

BOOST_AUTO_TEST_CASE(problems_are_told_together) {
  const Folder folder;
  write(folder.path / "engines/model.bin", "short");
  fs::remove(folder.path / "tokenizer.json");
  for (int i = 0; i < 7; ++i) write(folder.path / ("x" + std::to_string(i)), "");
  const std::string text = folder.refusal();
  BOOST_TEST(says(text, "tokenizer.json is missing"));
  BOOST_TEST(says(text, "x0 is not listed"));
  BOOST_TEST(says(text, "and 4 more"));
}

BOOST_AUTO_TEST_CASE(names_that_are_no_text_are_told_as_text) {
  const Folder folder;
  write(folder.path / "\xff\xfe.bin", "");
  BOOST_TEST(says(folder.refusal(), "\xef\xbf\xbd\xef\xbf\xbd.bin is not listed"));
}

BOOST_AUTO_TEST_CASE(links_and_pipes_are_refused) {
  const Folder folder;
  fs::rename(folder.path / "engines/model.bin", folder.path.parent_path() / "model.bin");
  fs::create_symlink(folder.path.parent_path() / "model.bin", folder.path / "engines/model.bin");
  BOOST_TEST(says(folder.refusal(), "engines/model.bin is a link"));
  fs::remove(folder.path / "engines/model.bin");
  BOOST_TEST(::mkfifo((folder.path / "engines/model.bin").c_str(), 0600) == 0);
  BOOST_TEST(says(folder.refusal(), "engines/model.bin is not a plain file"));
  fs::remove(folder.path / "engines/model.bin");
  fs::rename(folder.path / "engines", folder.path.parent_path() / "engines");
  fs::create_directory_symlink(folder.path.parent_path() / "engines", folder.path / "engines");
  BOOST_TEST(says(folder.refusal(), "engines is a link"));
  fs::rename(folder.path / "manifest.json", folder.path.parent_path() / "manifest.json");
  fs::create_symlink(folder.path.parent_path() / "manifest.json", folder.path / "manifest.json");
  BOOST_TEST(says(folder.refusal(), "is not a bundle"));
}

BOOST_AUTO_TEST_CASE(paths_that_leave_the_bundle_are_refused_before_all_else) {
  Folder folder;
  folder.add("../outside", {.sha256 = std::string(64, '0'), .bytes = 1});
  folder.sign();
  fs::remove(folder.path / "tokenizer.json");
  const std::string text = folder.refusal();
  BOOST_TEST(says(text, "'../outside' leaves the bundle"));
  BOOST_TEST(!says(text, "missing"));
}

BOOST_AUTO_TEST_CASE(a_manifest_is_what_it_should_be) {
  const auto refused = [](const std::function<void(Json&)>& change) {
    Folder folder;
    change(folder.manifest);
    folder.sign();
    return folder.refusal();
  };
  BOOST_TEST(says(refused([](Json& x) { x["schema"] = 2; }), "written by a newer atb-export"));
  BOOST_TEST(says(refused([](Json& x) { x["schema"] = 1.0; }), "build the bundle again"));
  BOOST_TEST(says(refused([](Json& x) { x["schema"] = true; }), "build the bundle again"));
  BOOST_TEST(says(refused([](Json& x) { x["model"]["task"] = "translation"; }), "classification, regression"));
  BOOST_TEST(says(refused([](Json& x) { x["model"]["labels"] = {"same", "same"}; }), "different texts"));
  BOOST_TEST(says(refused([](Json& x) { x["model"]["labels"] = {"one"}; }), "2 labels or more"));
  BOOST_TEST(says(refused([](Json& x) { x["model"]["max_length"] = 0; }), "max_length"));
  BOOST_TEST(says(refused([](Json& x) { x["model"].erase("subnet"); }), "no subnet"));
  BOOST_TEST(says(refused([](Json& x) { x["model"]["tokenizer"] = "../x"; }), "the tokenizer is at ../x"));
  BOOST_TEST(
      says(refused([](Json& x) { x["engines"][0]["artifact"] = "/etc/hostname"; }), "which is not a file of it"));
  BOOST_TEST(says(refused([](Json& x) { x["engines"][0]["target"]["more"] = 1; }), "unknown more"));
  BOOST_TEST(says(refused([](Json& x) { x["engines"][0]["target"]["threads"] = 1.0; }), "threads"));
  BOOST_TEST(says(refused([](Json& x) { x["engines"][0]["target"]["backend"] = "OpenVINO"; }), "lower-case"));
  BOOST_TEST(says(refused([](Json& x) { x["engines"][0]["target"]["device"] = "a,,b"; }), "device"));
  BOOST_TEST(says(refused([](Json& x) { x["engines"][0]["target"]["precision"] = "f8"; }), "precision"));
  BOOST_TEST(
      says(refused([](Json& x) { x["engines"].push_back(x["engines"][0]); }), "several of openvino-CPU-f32-b1-l8-t1"));
  BOOST_TEST(says(refused([](Json& x) { x["files"]["tokenizer.json"]["bytes"] = -1; }), "bytes"));
  BOOST_TEST(says(refused([](Json& x) { x.erase("numbers"); }), "no numbers"));
  BOOST_TEST(refused([](Json& x) { x["engines"][0]["target"]["dynamic"] = true; }) == "");
}

BOOST_AUTO_TEST_CASE(a_manifest_is_as_it_was_written) {
  const Folder folder;
  const std::string text = folder.manifest.dump(2, ' ', true) + "\n";
  for (const std::string& other :
       {text + "\n", folder.manifest.dump(1, ' ', true) + "\n", folder.manifest.dump(2) + "\n"}) {
    write(folder.path / "manifest.json", other);
    BOOST_TEST(says(folder.refusal(), "not as it was written"));
  }
}

BOOST_AUTO_TEST_CASE(weights_of_an_onnx_file_are_files_of_the_bundle) {
  const std::string tensor = std::string("\x70\x01\x6a\x11\x0a\x08location\x12\x05w.bin");
  const std::string graph = std::string("\x2a") + static_cast<char>(tensor.size()) + tensor;
  const std::string model = std::string("\x42\x02\x10\x11\x3a") + static_cast<char>(graph.size()) + graph;
  Folder folder;
  write(folder.path / "engines/MODEL.ONNX", model);
  folder.list();
  BOOST_TEST(says(folder.refusal(), "weights of engines/MODEL.ONNX are at engines/w.bin"));
  write(folder.path / "engines/w.bin", "");
  folder.list();
  BOOST_TEST(folder.refusal() == "");
  write(folder.path / "engines/MODEL.ONNX", model.substr(1));
  folder.list();
  BOOST_TEST(says(folder.refusal(), "is not an ONNX model"));
}

BOOST_AUTO_TEST_CASE(engines_that_differ_in_length_only_are_chosen_together) {
  Folder folder;
  const std::string at = "engines/model.xml";
  folder.manifest["engines"] = {engine(at, 64, "bf16"), engine(at, 32), engine(at, 8), engine(at, 16, "bf16"),
                                engine(at, 8, "f32", 4)};
  folder.sign();
  const atb::Bundle bundle = folder.read();
  const auto lengths = [&](const std::string& wanted, bool (*runs)(const atb::Target&)) {
    std::string out;
    for (const auto& x : bundle.choose(wanted, runs)) out += x.target.precision + std::to_string(x.target.length) + " ";
    return out;
  };
  BOOST_TEST(lengths("", everywhere) == "bf1616 bf1664 ");
  BOOST_TEST(lengths("", [](const atb::Target& x) { return x.precision == "f32"; }) == "f328 f3232 ");
  BOOST_TEST(lengths("openvino", everywhere) == "bf1616 bf1664 ");
  BOOST_TEST(lengths("openvino-CPU-f32-b1-t1", everywhere) == "f328 f3232 ");
  BOOST_TEST(lengths("openvino-CPU-f32-b1-l32-t1", everywhere) == "f3232 ");
  BOOST_CHECK_EXCEPTION(bundle.choose("tensorrt", everywhere), atb::Error, [](const auto& error) {
    return says(error.what(), "no engine tensorrt; it has openvino-CPU-bf16-b1-l64-t1");
  });
  BOOST_CHECK_EXCEPTION(bundle.choose("", [](const atb::Target&) { return false; }), atb::Error,
                        [](const auto& error) { return says(error.what(), "can run here"); });
}
