// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/first_rank.h"

#include <algorithm>
#include <exception>

#include "launch/commands/exit_code.h"
#include "runtime/buffer.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

/// `text` of rank 0, on every rank.
std::string broadcast(const std::string& text, Communicator& world) {
  Stream stream(Device::cpu());
  const OwnedTensor length({1}, DType::i64, Device::cpu());
  *length->data<std::int64_t>() = static_cast<std::int64_t>(text.size());
  world.broadcast(*length, 0, stream);
  const OwnedTensor bytes({*length->data<std::int64_t>()}, DType::u8, Device::cpu());
  std::uint8_t* begin = bytes->data<std::uint8_t>();
  if (world.rank() == 0) std::copy(text.begin(), text.end(), begin);
  if (bytes->elements() > 0) world.broadcast(*bytes, 0, stream);
  return {begin, begin + bytes->elements()};
}

[[noreturn]] void throw_alike(int code, const std::string& path, const std::string& message) {
  // A file error's message is "PATH: CAUSE".
  const std::string cause = message.substr(std::min(message.size(), path.size() + 2));
  switch (code) {
    case exit_usage:
      throw InvalidArgument(message);
    case exit_input_file:
      throw InputFileError(path, cause);
    case exit_output_file:
      throw OutputFileError(path, cause);
    case exit_communication:
      throw CommunicationError(message);
    default:
      throw Error(message);
  }
}

}  // namespace

std::string on_first_rank(Communicator& world, const std::function<std::string()>& body) {
  std::string text, path, message;
  int code = exit_done;
  std::exception_ptr failure;
  if (world.rank() == 0) {
    try {
      text = body();
    } catch (const std::exception& error) {
      failure = std::current_exception();
      code = exit_code_of(error);
      message = error.what();
      if (const auto* input = dynamic_cast<const InputFileError*>(&error)) path = input->path();
      if (const auto* output = dynamic_cast<const OutputFileError*>(&error)) path = output->path();
    }
  }
  code = std::stoi(broadcast(std::to_string(code), world));
  if (code == exit_done) return broadcast(text, world);
  path = broadcast(path, world);
  message = broadcast(message, world);
  if (failure) std::rethrow_exception(failure);
  throw_alike(code, path, message);
}

}  // namespace polymoe
