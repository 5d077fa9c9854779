// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "runtime/error.h"
#include "runtime/random.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

std::string error_of(const std::string& text) {
  return test::message_of<InputFileError>([&] { parse_json(text, "origin"); });
}

TEST(Json, KeepsOrderKindsAndBits) {
  const std::string text =
      R"({"z":1,"a":[-5,2.5,1e+300,true,null,"t\"\\\n\u0001é"],"o":{},"e":[],"u":18446744073709551615,"d":3.0})";
  const Json value = parse_json(text, "origin");
  EXPECT_EQ(value.dump(), text);
  EXPECT_EQ(value.at("a").items()[0].as_integer(), -5);
  EXPECT_EQ(value.at("a").items()[1].as_number(), 2.5);
  EXPECT_TRUE(value.at("a").items()[3].as_bool());
  EXPECT_TRUE(value.at("a").items()[4].is_null());
  EXPECT_EQ(value.at("u").as_unsigned(), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(value.at("z").as_unsigned(), 1u);
  EXPECT_EQ(value.members()[0].key, "z");
  EXPECT_EQ(value.find("nothing"), nullptr);
  EXPECT_EQ(parse_json(value.dump_indented(), "origin").dump(), text);
  EXPECT_EQ(parse_json(R"({"a":[1,2],"b":[{"c":"x","d":null},[]],"e":{}})", "o").dump_indented(),
            "{\n  \"a\": [1, 2],\n  \"b\": [\n    {\"c\": \"x\", \"d\": null},\n    []\n  ],\n"
            "  \"e\": {}\n}\n");
}

TEST(Json, NumbersReadBackAsTheSameBits) {
  const RandomStream random(7, "json");
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const double value = random.normal(i) * std::pow(10.0, random.uniform(i + 5000) * 600 - 300);
    EXPECT_EQ(parse_json(Json(value).dump(), "origin").as_number(), value);
  }
  for (const double value : {0.0, -0.0, 1.0, std::numeric_limits<double>::denorm_min(),
                             std::numeric_limits<double>::max()}) {
    const double back = parse_json(Json(value).dump(), "origin").as_number();
    EXPECT_EQ(back, value);
    EXPECT_EQ(std::signbit(back), std::signbit(value));
  }
  EXPECT_EQ(Json(1.0).dump(), "1.0");
  EXPECT_EQ(Json(1).dump(), "1");
  EXPECT_EQ(Json(std::nan("")).dump(), "null");
  EXPECT_EQ(Json(-std::numeric_limits<double>::infinity()).dump(), "null");
  EXPECT_EQ(Json(std::string("a\xff")).dump(), "\"a\xEF\xBF\xBD\"");
}

TEST(Json, RefusesWhatIsAmbiguousOrHostile) {
  EXPECT_NE(error_of(R"({"a":1,"b":2,"a":3})").find("the key \"a\" repeats"), std::string::npos);
  EXPECT_NE(error_of(R"([{"x":{"k":1,"k":1}}])").find("\"k\" repeats"), std::string::npos);
  EXPECT_EQ(error_of(R"([{"k":1},{"k":1}])"), "");
  EXPECT_EQ(error_of(std::string(32, '[') + std::string(32, ']')), "");
  EXPECT_NE(error_of(std::string(33, '[') + std::string(33, ']')).find("deeper"),
            std::string::npos);
  EXPECT_NE(error_of(std::string(1'000'000, '[')).find("deeper"), std::string::npos);
  for (const char* text : {"", "{", "[1,]", "{\"a\":1,}", "nul", "01", "1 2", "{}x", "NaN", "1e999",
                           "\"\\ud800\"", "'a'", "// c\n1"}) {
    const std::string error = error_of(text);
    EXPECT_TRUE(error.starts_with("origin: ")) << text << ": " << error;
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
  }
}

TEST(Json, AccessorsSayWhatTheyExpectedAndFound) {
  const Json value = parse_json(R"({"a":"text","b":2.5,"c":-1})", "origin");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] { value.at("a").as_integer(0, 9); }),
            "expected an integer in [0, 9], found \"text\"");
  EXPECT_THROW(value.at("b").as_integer(), InvalidArgument);
  EXPECT_THROW(value.at("c").as_integer(0), InvalidArgument);
  EXPECT_THROW(value.at("c").as_unsigned(), InvalidArgument);
  EXPECT_THROW(value.at("a").members(), InvalidArgument);
  EXPECT_THROW(value.at("b").as_string(), InvalidArgument);
  EXPECT_EQ(test::message_of<InvalidArgument>([&] { value.at("d"); }), "the key \"d\" is missing");
}

}  // namespace
}  // namespace polymoe
