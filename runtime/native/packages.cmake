# Finds what the native part stands on: headers and libraries inside Python packages, without importing them.
find_package(Python 3.11 REQUIRED COMPONENTS Interpreter OPTIONAL_COMPONENTS Development.Module)

function(package_folder result name)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
            "import os, sys; print(next((p for p in (os.path.join(x, '${name}') for x in sys.path if x) if os.path.isdir(p)), ''))"
    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

function(need module folder)
  if(NOT folder)
    message(FATAL_ERROR "${Python_EXECUTABLE} has no package ${module}: pip install openvino==2026.4.1 cmeel-boost nlohmann-json")
  endif()
endfunction()

package_folder(openvino_folder openvino)
need(openvino "${openvino_folder}")
set(OpenVINO_DIR ${openvino_folder}/cmake)
find_package(OpenVINO REQUIRED COMPONENTS Runtime)

package_folder(nlohmann_folder nlohmann_json)
need(nlohmann-json "${nlohmann_folder}")
add_library(atb_json INTERFACE)
target_include_directories(atb_json SYSTEM INTERFACE ${nlohmann_folder}/include)

package_folder(cmeel_folder cmeel.prefix)
need(cmeel-boost "${cmeel_folder}")
add_library(atb_boost INTERFACE)
target_include_directories(atb_boost SYSTEM INTERFACE ${cmeel_folder}/include)
target_compile_definitions(atb_boost INTERFACE BOOST_ERROR_CODE_HEADER_ONLY BOOST_ALL_NO_LIB)

if(NOT ATB_TLS STREQUAL OFF)
  find_package(OpenSSL QUIET)
  if(ATB_TLS STREQUAL ON AND NOT OpenSSL_FOUND)
    message(FATAL_ERROR "ATB_TLS=ON needs OpenSSL's headers (libssl-dev)")
  endif()
endif()
if(NOT ATB_GRPC STREQUAL OFF)
  find_package(PkgConfig QUIET)
  if(PkgConfig_FOUND)
    pkg_check_modules(GRPCPP QUIET IMPORTED_TARGET grpc++ protobuf)
  endif()
  find_program(PROTOC protoc)
  find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin)
  if(GRPCPP_FOUND AND PROTOC AND GRPC_CPP_PLUGIN)
    add_library(atb::grpc ALIAS PkgConfig::GRPCPP)
  elseif(ATB_GRPC STREQUAL ON)
    message(FATAL_ERROR "ATB_GRPC=ON needs libgrpc++-dev and protobuf-compiler-grpc")
  endif()
endif()
