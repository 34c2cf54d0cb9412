// A plain file, open for reading; links are not followed.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <system_error>

namespace atb {

class File {
 public:
  /// Throws `std::system_error` for what is not there, not to be read, or no plain file.
  explicit File(const std::filesystem::path& path)
      : handle_(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)) {
    struct stat facts {};
    if (handle_ < 0 || ::fstat(handle_, &facts) != 0) fail(path, errno);
    if (!S_ISREG(facts.st_mode)) fail(path, EINVAL);
    size_ = static_cast<std::uint64_t>(facts.st_size);
  }
  ~File() {
    if (handle_ >= 0) ::close(handle_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  /// Fills `room` from `offset` on; fewer bytes only at the end. Throws `std::system_error`.
  std::size_t read(std::uint64_t offset, std::span<unsigned char> room) const {
    std::size_t done = 0;
    while (done < room.size()) {
      const auto got = ::pread(handle_, room.data() + done, room.size() - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw std::system_error(errno, std::generic_category(), "cannot be read");
      if (got == 0) break;
      done += static_cast<std::size_t>(got);
    }
    return done;
  }

 private:
  int handle_;
  std::uint64_t size_ = 0;

  [[noreturn]] void fail(const std::filesystem::path& path, int error) {
    if (handle_ >= 0) ::close(handle_);
    throw std::system_error(error, std::generic_category(), path.string());
  }
};

}  // namespace atb
