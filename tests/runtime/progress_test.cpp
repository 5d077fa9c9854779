// SPDX-License-Identifier: Apache-2.0
#include "runtime/progress.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <thread>

namespace polymoe {
namespace {

TEST(ProgressTextTest, SpellsTimes) {
  EXPECT_EQ(clock_text(0.4), "0:00");
  EXPECT_EQ(clock_text(7.0), "0:07");
  EXPECT_EQ(clock_text(125.2), "2:05");
  EXPECT_EQ(clock_text(3723.0), "1:02:03");
  EXPECT_EQ(clock_text(59.6), "1:00");
}

TEST(ProgressTextTest, SpellsCounts) {
  EXPECT_EQ(short_count(0), "0");
  EXPECT_EQ(short_count(987.4), "987");
  EXPECT_EQ(short_count(9876), "9876");
  EXPECT_EQ(short_count(12345), "12.3k");
  EXPECT_EQ(short_count(999999), "1.00M");
  EXPECT_EQ(short_count(2.5e6), "2.50M");
  EXPECT_EQ(short_count(6919161856.0), "6.92B");
  EXPECT_EQ(short_bytes(512), "512 B");
  EXPECT_EQ(short_bytes(2.74e9), "2.74 GB");
}

TEST(ProgressTextTest, FitsCharactersNotBytes) {
  EXPECT_EQ(fitted("abc", 5), "abc");
  EXPECT_EQ(fitted("abc", 2), "ab");
  EXPECT_EQ(fitted("\xC3\xA9\xC3\xA9x", 2), "\xC3\xA9\xC3\xA9");
}

TEST(ProgressTextTest, CountedLineTellsShareRateAndTimeLeft) {
  const CountedWork work{.what = "tokenizing", .total = 2'000'000'000, .unit = "bytes"};
  EXPECT_EQ(counted_line(work, 500'000'000, 10.0, 200),
            "tokenizing  25 %  500 MB of 2.00 GB  50.0 MB/s  0:30 left");
  EXPECT_EQ(counted_line(work, 500'000'000, 10.0, 40), "tokenizing  25 %  50.0 MB/s  0:30 left");
  EXPECT_EQ(counted_line(work, 500'000'000, 10.0, 30), "tokenizing  25 %  0:30 left");
  EXPECT_EQ(counted_line(work, 500'000'000, 10.0, 5), "tokenizing  25 %");
  EXPECT_EQ(counted_line({.what = "evaluating", .unit = "windows"}, 40, 2.0, 200),
            "evaluating  40 windows  20 windows/s");
  const CountedWork slow{.what = "generating", .total = 10, .unit = "texts"};
  EXPECT_EQ(counted_line(slow, 2, 10.0, 200),
            "generating  20 %  2 of 10 texts  0.20 texts/s  0:40 left");
  EXPECT_EQ(counted_line(slow, 5, 2.0, 200),
            "generating  50 %  5 of 10 texts  2.5 texts/s  0:02 left");
  EXPECT_EQ(counted_line(slow, 10, 1.0, 200),
            "generating  100 %  10 of 10 texts  10 texts/s  0:00 left");
  EXPECT_EQ(counted_line(slow, 0, 1.0, 200), "generating  0 %  0 of 10 texts  0 texts/s");
}

class Recorded {
 public:
  std::FILE* file() { return file_.get(); }
  std::string text() {
    std::string text(static_cast<std::size_t>(std::ftell(file_.get())), '\0');
    std::rewind(file_.get());
    EXPECT_EQ(std::fread(text.data(), 1, text.size(), file_.get()), text.size());
    return text;
  }

 private:
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{std::tmpfile(), std::fclose};
};

TEST(StatusLineTest, RewritesItselfWithinTheTerminal) {
  Recorded output;
  {
    StatusLine line({.file = output.file(), .terminal = true, .columns = 6});
    EXPECT_TRUE(line.due());
    line.show("123456789");
    EXPECT_FALSE(line.due());
    line.note("a line that stays is not cut");
    line.show("12");
  }  // the shell's prompt starts on a line of its own
  EXPECT_EQ(output.text(), "\r12345\x1b[K\r\x1b[Ka line that stays is not cut\n\r12\x1b[K\n");
}

TEST(StatusLineTest, IsNotDueAtOnceInAFile) {
  Recorded output;
  {
    StatusLine line({.file = output.file()});
    EXPECT_FALSE(line.due());
    line.show("a line");
  }
  EXPECT_EQ(output.text(), "a line\n");
}

TEST(StatusLineTest, IsSilentWithoutAnOutput) {
  StatusLine line({});
  EXPECT_FALSE(line.due());
  line.show("nothing");
  line.note("nothing");
}

TEST(ProgressTest, IsSilentWhileShort) {
  Recorded output;
  {
    Progress progress({.file = output.file(), .terminal = true, .columns = 80},
                      {.what = "evaluating", .total = 3, .unit = "windows"});
    for (int i = 0; i < 3; ++i) progress.advance();
  }
  EXPECT_EQ(output.text(), "");
}

TEST(ElapsedTest, TellsHowLongAndGoes) {
  Recorded output;
  {
    const Elapsed elapsed(
        {.file = output.file(), .terminal = true, .columns = 80, .silent_seconds = 0.0}, "loading");
    while (std::ftell(output.file()) == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const std::string text = output.text();
  EXPECT_TRUE(text.starts_with("\rloading  0:")) << text;
  EXPECT_TRUE(text.ends_with("\x1b[K\r\x1b[K")) << text;
}

TEST(ElapsedTest, IsSilentWhileShortAndWithoutAnOutput) {
  Recorded output;
  {
    const Elapsed shown(
        {.file = output.file(), .terminal = true, .columns = 80, .silent_seconds = 3600.0},
        "loading");
    const Elapsed nowhere({}, "loading");
  }
  EXPECT_EQ(output.text(), "");
}

}  // namespace
}  // namespace polymoe
