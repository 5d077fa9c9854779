// SPDX-License-Identifier: Apache-2.0
// How fast checkpoints are saved and loaded, hashing included, beside dd on the same disk.
//
//   checkpoint_io DIRECTORY [GIB [ROUNDS]]
//
// Each round saves a checkpoint of GIB (default 2) by CheckpointSaver, copies its shard by `dd
// bs=4M conv=fsync`, loads the checkpoint and reads the shard by dd: both from the disk, then both
// from the system's page cache. What a round wrote is removed again. Prints each round's seconds
// and the medians of the ratios, dd's time over ours.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/saver.h"
#include "parallel/communication/local/local_communicator.h"
#include "runtime/random.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

template <class Body>
double seconds_of(Body body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void run_dd(const fs::path& from, const fs::path& to, const std::string& options) {
  const std::string command =
      "dd 'if=" + from.string() + "' 'of=" + to.string() + "' bs=4M " + options + " 2>/dev/null";
  if (std::system(command.c_str()) != 0) throw std::runtime_error(command);
}

/// The files' pages leave the page cache: the next reader waits for the disk.
void forget(const fs::path& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    const int file = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) throw std::runtime_error("cannot open " + entry.path().string());
    ::fsync(file);
    ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    ::close(file);
  }
}

/// Parameters and moments like those of experts, 12 MiB each.
struct State {
  explicit State(double gib) {
    const Shape shape = {1536, 2048};
    const auto count = static_cast<int>(gib * 1024 / 12);
    for (int i = 0; i < count; ++i) {
      const char* kinds[] = {"parameter/", "moment1/", "moment2/"};
      const std::string name =
          kinds[i % 3] + std::string("experts.") + std::to_string(i / 3) + ".up.weight";
      memory.emplace_back(shape, DType::f32, Device::cpu());
      const RandomStream random(1, name);
      float* values = memory.back()->data<float>();
      for (std::int64_t k = 0; k < shape.elements(); ++k)
        values[k] = static_cast<float>(random.uniform(static_cast<std::uint64_t>(k)));
      pieces.push_back({name, shape, 0, *memory.back()});
      bytes += memory.back()->bytes();
    }
  }

  std::deque<OwnedTensor> memory;
  std::vector<TensorPiece> pieces;
  std::size_t bytes = 0;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void measure(const fs::path& directory, double gib, int rounds) {
  const State state(gib);
  const auto world = make_local_communicators(1);
  CheckpointSaver saver({.root = directory / "checkpoint_io",
                         .staging_bytes = CheckpointSaver::staging_bytes(state.pieces)},
                        world[0]->split(0));
  Stream stream(Device::cpu());
  const double gigabytes = static_cast<double>(state.bytes) * 1e-9;
  std::printf("%.2f GB in %zu pieces, seconds\n", gigabytes, state.pieces.size());
  std::printf("%8s %8s %8s | %8s %8s | %8s %8s\n", "step", "save", "dd", "load", "dd", "cached",
              "dd");
  std::vector<double> save_ratios, load_ratios, cached_ratios;
  for (int round = 0; round < rounds; ++round) {
    const std::int64_t step = round + 1;
    const fs::path checkpoint = directory / "checkpoint_io" / checkpoint_name(step);
    const fs::path shard = checkpoint / shard_name(0, 1);
    CheckpointInfo info;
    info.step = step;
    ::sync();
    double waited = 0.0;
    const double save = seconds_of([&] {
      waited = seconds_of([&] { saver.start(info, state.pieces, stream); });
      saver.wait();
    });
    ::sync();
    const fs::path copy = directory / "checkpoint_io" / "copy";
    const double dd_save = seconds_of([&] { run_dd(shard, copy, "conv=fsync"); });
    fs::remove(copy);
    const auto load = [&] { CheckpointReader(checkpoint).read(state.pieces); };
    const auto dd_load = [&] { run_dd(shard, "/dev/null", ""); };
    forget(checkpoint);
    const double from_disk = seconds_of(load);
    forget(checkpoint);
    const double dd_from_disk = seconds_of(dd_load);
    const double from_cache = seconds_of(load);
    const double dd_from_cache = seconds_of(dd_load);
    fs::remove_all(checkpoint);
    std::printf("%8.2f %8.2f %8.2f | %8.2f %8.2f | %8.2f %8.2f\n", waited, save, dd_save, from_disk,
                dd_from_disk, from_cache, dd_from_cache);
    save_ratios.push_back(dd_save / save);
    load_ratios.push_back(dd_from_disk / from_disk);
    cached_ratios.push_back(dd_from_cache / from_cache);
  }
  saver.shutdown();
  fs::remove_all(directory / "checkpoint_io");
  std::printf("of dd: save %.0f %%, load from disk %.0f %%, load from page cache %.0f %%\n",
              100.0 * median(save_ratios), 100.0 * median(load_ratios),
              100.0 * median(cached_ratios));
}

}  // namespace
}  // namespace polymoe

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs("usage: checkpoint_io DIRECTORY [GIB [ROUNDS]]\n", stderr);
    return 64;
  }
  try {
    polymoe::measure(argv[1], argc > 2 ? std::atof(argv[2]) : 2.0,
                     argc > 3 ? std::max(1, std::atoi(argv[3])) : 3);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "checkpoint_io: %s\n", error.what());
    return 70;
  }
}
