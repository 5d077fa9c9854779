// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/tensorboard_writer.h"

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "runtime/files/crc32c.h"
#include "runtime/files/file.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

// Wire types of Protocol Buffers.
enum Wire : std::uint64_t { varint = 0, fixed64 = 1, length_delimited = 2, fixed32 = 5 };

template <class T>
void append_raw(std::string& text, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  text.append(bytes, sizeof value);
}

void append_varint(std::string& text, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) text += static_cast<char>(value | 0x80);
  text += static_cast<char>(value);
}

void append_key(std::string& text, std::uint64_t field, Wire wire) {
  append_varint(text, field << 3 | wire);
}

void append_bytes(std::string& text, std::uint64_t field, std::string_view value) {
  append_key(text, field, length_delimited);
  append_varint(text, value.size());
  text += value;
}

/// The fields that every Event has. A field of the default value is left out, as the library does.
std::string event_head(std::int64_t step, double wall_time) {
  std::string event;
  append_key(event, 1, fixed64);
  append_raw(event, wall_time);
  if (step != 0) {
    append_key(event, 2, varint);
    append_varint(event, static_cast<std::uint64_t>(step));
  }
  return event;
}

std::uint32_t masked_crc(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

std::filesystem::path event_path(const std::filesystem::path& directory, double wall_time) {
  make_directories(directory);
  return directory /
         ("events.out.tfevents." + std::to_string(static_cast<std::int64_t>(wall_time)) + "." +
          host_name() + "." + std::to_string(::getpid()));
}

}  // namespace

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& directory, std::int64_t last_step,
                                     double wall_time)
    : file_(event_path(directory, wall_time)) {
  std::string version = event_head(0, wall_time);
  append_bytes(version, 3, "brain.Event:2");
  write_record(version);
  // A session that starts at a step: readers drop what earlier sessions wrote from there on.
  std::string session = event_head(last_step + 1, wall_time);
  append_bytes(session, 7, "\x08\x01");  // SessionLog { status: START }
  write_record(session);
  file_.flush();
}

void TensorBoardWriter::add_scalars(std::int64_t step, double wall_time,
                                    std::span<const Scalar> scalars) {
  std::string summary;
  for (const Scalar& scalar : scalars) {
    std::string value;
    append_bytes(value, 1, scalar.tag);
    append_key(value, 2, fixed32);
    append_raw(value, scalar.value);
    append_bytes(summary, 1, value);
  }
  std::string event = event_head(step, wall_time);
  append_bytes(event, 5, summary);
  write_record(event);
  file_.flush();
}

void TensorBoardWriter::write_record(const std::string& event) {
  std::string length;
  append_raw(length, static_cast<std::uint64_t>(event.size()));
  std::string record = length;
  append_raw(record, masked_crc(length));
  record += event;
  append_raw(record, masked_crc(event));
  file_.write(record);
}

}  // namespace polymoe
