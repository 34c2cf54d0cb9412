// The command line of `atb-server`.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "atb/server.h"

namespace atb {

struct CommandLine {
  ServerOptions server;
  ModelOptions model;
  std::vector<std::pair<std::string, std::string>> models;  // name, folder
  bool json_ready = false;
  bool help = false;
};

/// Throws `Error(Kind::invalid)` naming the option.
CommandLine read_command_line(const std::vector<std::string>& arguments);
std::string help();

}  // namespace atb
