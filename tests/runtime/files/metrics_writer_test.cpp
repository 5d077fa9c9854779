// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/metrics_writer.h"

#include <gtest/gtest.h>

#include <string>

#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::read_bytes;
using test::TemporaryDirectory;

void write_steps(MetricsWriter& writer, int begin, int end) {
  for (int step = begin; step <= end; ++step) {
    writer.write(Json::object().set("step", step).set("loss", 0.5));
  }
}

std::string rows(int end) {
  std::string text;
  for (int step = 1; step <= end; ++step) {
    text += "{\"step\":" + std::to_string(step) + ",\"loss\":0.5}\n";
  }
  return text;
}

TEST(MetricsWriter, FlushesEveryRow) {
  TemporaryDirectory directory;
  MetricsWriter writer(directory.path() / "metrics.jsonl", 0);
  write_steps(writer, 1, 1);
  EXPECT_EQ(read_bytes(directory.path() / "metrics.jsonl"), rows(1));
  write_steps(writer, 2, 3);
  EXPECT_EQ(read_bytes(directory.path() / "metrics.jsonl"), rows(3));
}

TEST(MetricsWriter, NoStepAppearsTwiceAfterAResume) {
  TemporaryDirectory directory;
  const auto path = directory.path() / "metrics.jsonl";
  {
    MetricsWriter writer(path, 0);
    write_steps(writer, 1, 12);
  }
  MetricsWriter writer(path, 10);
  EXPECT_EQ(read_bytes(path), rows(10));
  write_steps(writer, 11, 20);
  EXPECT_EQ(read_bytes(path), rows(20));
}

TEST(MetricsWriter, DropsARowThatWasCutOffByAKill) {
  TemporaryDirectory directory;
  const auto path = directory.path() / "metrics.jsonl";
  for (const char* torn : {"{\"step\":4,\"lo", "{\"step\":4,\"loss\":0.5}", "\n", "{}\n",
                           "{\"step\":4,\"loss\":0.5\n"}) {
    test::write_bytes(path, rows(3) + torn);
    MetricsWriter writer(path, 10);
    EXPECT_EQ(read_bytes(path), rows(3)) << torn;
    write_steps(writer, 4, 5);
    EXPECT_EQ(read_bytes(path), rows(5)) << torn;
  }
}

TEST(MetricsWriter, ANewRunStartsAnEmptyFile) {
  TemporaryDirectory directory;
  const auto path = directory.path() / "metrics.jsonl";
  test::write_bytes(path, rows(3));
  const MetricsWriter writer(path, 0);
  EXPECT_EQ(read_bytes(path), "");
}

TEST(MetricsWriter, CompletesTheLastRowAlsoOfAnEarlierStart) {
  TemporaryDirectory directory;
  const auto path = directory.path() / "metrics.jsonl";
  {
    MetricsWriter writer(path, 0);
    write_steps(writer, 1, 2);
    writer.complete(Json::object().set("step", 2).set("valid", 1.25));
    EXPECT_EQ(read_bytes(path), rows(1) + "{\"step\":2,\"loss\":0.5,\"valid\":1.25}\n");
    write_steps(writer, 3, 3);
    EXPECT_EQ(writer.last().at("step").as_integer(), 3);
  }
  MetricsWriter writer(path, 2);
  EXPECT_EQ(writer.last().at("valid").as_number(), 1.25);
  // A shorter row leaves nothing of the longer one.
  writer.complete(Json::object().set("step", 2).set("valid", 0.5).set("a", 1));
  writer.complete(Json::object().set("step", 2).set("valid", 8.0));
  EXPECT_EQ(read_bytes(path), rows(1) + "{\"step\":2,\"loss\":0.5,\"valid\":8.0,\"a\":1}\n");
  write_steps(writer, 3, 3);
  EXPECT_EQ(writer.last().at("step").as_integer(), 3);
  // Of a step that has no row it is a row of its own.
  writer.complete(Json::object().set("step", 4).set("valid", 1.0));
  EXPECT_EQ(read_bytes(path), rows(1) +
                                  "{\"step\":2,\"loss\":0.5,\"valid\":8.0,\"a\":1}\n"
                                  "{\"step\":3,\"loss\":0.5}\n{\"step\":4,\"valid\":1.0}\n");
}

TEST(MetricsWriter, NamesAPathThatCannotBeWritten) {
  TemporaryDirectory directory;
  const std::string message = test::message_of<OutputFileError>(
      [&] { MetricsWriter(directory.path() / "missing" / "metrics.jsonl", 0); });
  EXPECT_NE(message.find("metrics.jsonl: cannot open for writing"), std::string::npos) << message;
}

}  // namespace
}  // namespace polymoe
