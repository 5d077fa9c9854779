// SPDX-License-Identifier: Apache-2.0
// Which documents of a window go to cuDNN: found on the device, but by a function of both.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/attention_cuda_long_documents.h"
#include "kernels/attention/attention_cuda_scratch.h"
#include "kernels/documents.h"
#include "runtime/tensor.h"

namespace polymoe::cuda {
namespace {

struct Window {
  std::vector<std::int32_t> starts, begin, end;  // of rows; of each document

  void add(std::int32_t length) {
    begin.push_back(static_cast<std::int32_t>(starts.size()));
    starts.insert(starts.end(), static_cast<std::size_t>(length), begin.back());
    end.push_back(static_cast<std::int32_t>(starts.size()));
  }
  void pad(std::int32_t window) { starts.resize(static_cast<std::size_t>(window), no_document); }
};

void expect_found(const Window& w, std::int32_t window) {
  const LongDocumentRows found = find_long_documents(w.starts.data(), window);
  int expected = 0;
  for (std::size_t d = 0; d < w.begin.size(); ++d) {
    if (4 * (w.end[d] - w.begin[d]) <= window) continue;
    if (w.end[d] - w.begin[d] <= short_document(window)) continue;  // of a window of no multiple
    ASSERT_LT(expected, found.count) << "of " << window;
    EXPECT_EQ(found.begin[expected], w.begin[d]);
    EXPECT_EQ(found.end[expected], w.end[d]);
    ++expected;
  }
  EXPECT_EQ(found.count, expected);
}

TEST(LongDocuments, AreFoundWhereverTheyBegin) {
  std::mt19937 random(7);
  for (const std::int32_t window : {4, 5, 6, 7, 256, 257, 258, 259, 1000, 4096}) {
    SCOPED_TRACE("a window of " + std::to_string(window));
    for (int i = 0; i < 2000; ++i) {
      Window w;
      // Mostly around the lengths that decide, and padding behind some.
      std::uniform_int_distribution<std::int32_t> length(1, i % 3 == 0 ? window : window / 2);
      const std::int32_t filled =
          i % 4 == 0 ? std::uniform_int_distribution<std::int32_t>(0, window)(random) : window;
      while (static_cast<std::int32_t>(w.starts.size()) < filled) {
        const auto left = filled - static_cast<std::int32_t>(w.starts.size());
        w.add(std::min(left, length(random)));
      }
      w.pad(window);
      expect_found(w, window);
      if (HasFailure()) return;
    }
  }
}

TEST(LongDocuments, OfAWindowAreOneWholeOrThreeOfAThird) {
  const std::int32_t window = 300;
  Window whole;
  whole.add(window);
  expect_found(whole, window);
  EXPECT_EQ(find_long_documents(whole.starts.data(), window).count, 1);
  Window thirds;
  for (int i = 0; i < 3; ++i) thirds.add(100);
  expect_found(thirds, window);
  EXPECT_EQ(find_long_documents(thirds.starts.data(), window).count, 3);
  Window quarters;
  for (int i = 0; i < 4; ++i) quarters.add(75);
  EXPECT_EQ(find_long_documents(quarters.starts.data(), window).count, 0);
}

TEST(LongDocuments, HaveAPlaceInOneOfTheCalls) {
  for (std::int64_t window = least_window_of_long_documents; window < 1100; ++window) {
    const auto calls = long_documents_of(window);
    const std::int64_t shortest = short_document(window) + 1;
    EXPECT_GE(calls[0].places, window / shortest);
    EXPECT_GE(calls[1].places, window / (calls[0].length + 1));
    EXPECT_EQ(calls[1].length, window);
  }
}

TEST(LongDocuments, AreNoneOfPromptsNorOfShortWindows) {
  const std::vector<std::int32_t> starts(512, 0);
  AttentionShape shape{.batch = 1,
                       .query_length = 512,
                       .key_length = 512,
                       .heads = 2,
                       .kv_heads = 2,
                       .head_dim = 64,
                       .document_starts = Tensor(const_cast<std::int32_t*>(starts.data()), {512},
                                                 DType::i32, Device::cpu())};
  EXPECT_TRUE(cudnn_serves_long_documents(shape, DType::bf16));
  EXPECT_FALSE(cudnn_serves_long_documents(shape, DType::f32));
  AttentionShape prompt = shape;
  prompt.unprepared = true;
  EXPECT_FALSE(cudnn_serves_long_documents(prompt, DType::bf16));
  shape.query_length = shape.key_length = 255;
  EXPECT_FALSE(cudnn_serves_long_documents(shape, DType::bf16));
}

}  // namespace
}  // namespace polymoe::cuda
