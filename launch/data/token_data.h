// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/data/document_ends.h"
#include "launch/data/document_packing.h"
#include "launch/data/mixture.h"
#include "launch/data/token_rows.h"
#include "launch/data/window_counts.h"
#include "runtime/files/token_file.h"

namespace polymoe {

/// Where the present mixture began, and how far each of its files had been read by then.
struct DataPosition {
  struct File {
    std::int64_t slot = 0;   // number of the file's seeded order among those of the run
    std::int64_t start = 0;  // windows
  };
  std::int64_t sample = 0;
  std::int64_t tokens = 0;  // predicted by all samples before
  std::vector<File> files;  // as TokenData::files()
};

/// The training samples of a run: sample i is a function of (files, context, seed, position, i)
/// alone, so that nothing depends on the number of ranks and a resumed run goes on where it
/// stopped.
///
/// A file is cut into windows of context + 1 tokens, stride context, or its documents are packed
/// into windows (data.packing). The files take turns as the mixture says, and each file's windows
/// come in a seeded order, every one of them once before any comes again; the order of the next
/// pass is another one.
class TokenData {
 public:
  struct Settings {
    std::int64_t context = 0;
    std::int64_t vocab = 0;
    std::uint64_t seed = 0;
    std::int64_t samples = 0;                // of the whole run, by which caps are checked
    std::filesystem::path kept_counts = {};  // see keep_counts()
    // By name, of files for which they are known already; those of others are looked for.
    std::map<std::string, FoundWindowCounts> counts = {};
  };

  /// The files of data.train and of all stages, each once, in order of appearance; begins at sample
  /// 0. Throws InputFileError when a file cannot be used or holds no whole window.
  TokenData(const DataConfig& config, const Settings& settings);

  /// Goes on from there.
  void begin(const DataPosition& position);
  const DataPosition& position() const { return position_; }

  std::int64_t context() const { return settings_.context; }
  /// Over all files.
  std::int64_t tokens() const;
  const std::vector<TokenFile>& files() const { return files_; }
  /// The path by which the configuration names a file.
  const std::string& name(std::size_t file) const { return names_[file]; }
  std::int64_t windows(std::size_t file) const { return windows_[file]; }
  /// How many windows of each file were drawn before `sample`.
  std::vector<std::int64_t> windows_drawn(std::int64_t sample) const {
    return mixture_.drawn(sample);
  }

  /// With data.packing = documents, what the log should say of the files' WindowCounts: those that
  /// had to be counted, of files with many documents, are kept in settings.kept_counts, where the
  /// next start finds them.
  struct CountsNotes {
    std::vector<std::string> lines, warnings;
  };
  CountsNotes keep_counts() const;

  /// Share of the rows of a file's windows that hold a token.
  double filled(std::size_t file) const;

  /// Whether some tokens are no targets, so that samples differ in how many they have.
  bool masked() const;
  /// Whether samples have document_starts.
  bool keeps_documents() const { return config_.keeps_documents(); }

  /// tokens[j] = window[j], targets[j] = window[j + 1], j in [0, context), or -1 where the file's
  /// mask says that it does not count, where a document ends (data.documents), and in padding,
  /// whose tokens are 0. Thread-safe.
  /// Throws InputFileError with file, position and id of a token outside [0, vocab).
  void sample(std::int64_t index, const TokenRows& rows) const;

 private:
  void open(const std::vector<WeightedFile>& files);
  std::vector<double> shares_of_all(const std::vector<WeightedFile>& files) const;
  void pack(const TokenFile& file, const std::vector<DocumentPacking::Piece>& pieces,
            const TokenRows& rows) const;

  DataConfig config_;
  Settings settings_;
  std::vector<std::string> names_;
  std::vector<TokenFile> files_;
  std::vector<std::int64_t> windows_;      // per file
  std::vector<DocumentEnds> ends_;         // per file, of streams with data.documents = mask
  std::vector<DocumentPacking> packings_;  // per file, with data.packing = documents
  std::vector<std::string> warnings_;      // of kept counts that are of no use
  DataPosition position_;
  std::vector<std::uint64_t> keys_;  // of the files' orders
  Mixture mixture_;
};

}  // namespace polymoe
