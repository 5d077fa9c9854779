// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/hdf5_file.h"

#include <gtest/gtest.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/buffer.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/hash.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::message_of;
using test::TemporaryDirectory;

template <class T>
Tensor view(std::vector<T>& values) {
  return {values.data(), {static_cast<std::int64_t>(values.size())}, dtype_of<T>(), Device::cpu()};
}

template <class T>
void round_trip(const char* name) {
  TemporaryDirectory directory;
  std::vector<T> values(100);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(i * i) / 3 - 1000;
  std::vector<T> other(3, T{7});
  Hdf5Writer writer(directory.path() / "a.h5");
  writer.write(name, view(values));
  const std::int64_t offset = writer.write("y/z", view(other));
  writer.close();
  T in_file{};
  InputFile(directory.path() / "a.h5").read(offset, &in_file, sizeof(T));
  EXPECT_EQ(in_file, T{7});
  const Hdf5Reader reader(directory.path() / "a.h5");
  EXPECT_EQ(reader.describe(name).dtype, dtype_of<T>());
  EXPECT_EQ(reader.describe(name).count, 100);
  EXPECT_EQ(reader.describe("y/z").offset, offset);
  for (const std::size_t begin : {0, 1, 60, 100}) {
    std::vector<T> out(std::min<std::size_t>(40, 100 - begin), T{-1});
    reader.read(name, static_cast<std::int64_t>(begin), view(out));
    for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], values[begin + i]);
  }
  std::vector<T> out(41);
  EXPECT_THROW(reader.read(name, 60, view(out)), InputFileError);
  EXPECT_THROW(reader.read(name, -1, view(out)), InputFileError);
}

TEST(Hdf5File, ReadsBackEveryType) {
  round_trip<float>("a");
  round_trip<double>("a/b/layers.3.experts.17.up.weight:5");
  round_trip<std::int32_t>("b/c");
  round_trip<std::int64_t>("a/c");
}

TEST(Hdf5File, KeepsTheBitsOfBf16) {
  TemporaryDirectory directory;
  std::vector<std::uint16_t> bits(1 << 16), back(1 << 16);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i);
  const auto as_bf16 = [](std::vector<std::uint16_t>& values) {
    return Tensor(values.data(), {static_cast<std::int64_t>(values.size())}, DType::bf16,
                  Device::cpu());
  };
  Hdf5Writer writer(directory.path() / "a.h5");
  writer.write("a", as_bf16(bits));
  writer.close();
  const Hdf5Reader reader(directory.path() / "a.h5");
  EXPECT_EQ(reader.describe("a").dtype, DType::bf16);
  EXPECT_EQ(size_of_file(directory.path() / "a.h5") / 1000, 2 * 65536 / 1000 + 2);
  reader.read("a", 0, as_bf16(back));
  EXPECT_EQ(back, bits);
}

TEST(Hdf5File, TheSameWritesGiveTheSameBytes) {
  TemporaryDirectory directory;
  std::vector<float> values = {1, 2, 3};
  for (const char* name : {"a.h5", "b.h5"}) {
    Hdf5Writer writer(directory.path() / name);
    writer.write("group/values", view(values));
    writer.close();
  }
  EXPECT_EQ(test::read_bytes(directory.path() / "a.h5"),
            test::read_bytes(directory.path() / "b.h5"));
}

TEST(Hdf5File, RefusesWhatItCannotStore) {
  TemporaryDirectory directory;
  Hdf5Writer writer(directory.path() / "a.h5");
  std::vector<float> values = {1, 2, 3}, none;
  std::vector<std::uint8_t> bytes = {1};
  writer.write("a/b", view(values));
  EXPECT_THROW(writer.write("a/b", view(values)), InvalidArgument);
  EXPECT_THROW(writer.write("c", view(none)), InvalidArgument);
  EXPECT_THROW(writer.write("c", view(bytes)), InvalidArgument);
  EXPECT_THROW(writer.write("a/b/c", view(values)), OutputFileError);
  EXPECT_THROW(Hdf5Writer(directory.path() / "none" / "a.h5"), OutputFileError);
  EXPECT_EQ(message_of<OutputFileError>([&] { Hdf5Writer(directory.path()); }),
            directory.path().string() + ": cannot create: Is a directory");
}

TEST(Hdf5File, AFullDiskIsFoundAtTheLatestInClose) {
  TemporaryDirectory directory;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  for (const rlim_t limit : {rlim_t{100}, rlim_t{1000}, rlim_t{100'000}}) {
    rlimit small = before;
    small.rlim_cur = limit;
    std::vector<float> values(50'000, 1.0f);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const std::string message = message_of<OutputFileError>([&] {
      Hdf5Writer writer(directory.path() / "a.h5");
      writer.write("values", view(values));
      writer.close();
    });
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_NE(message.find("File too large"), std::string::npos) << limit << ": " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  signal(SIGXFSZ, handler);
}

class ForeignHdf5File : public testing::Test {
 protected:
  ForeignHdf5File() : file_(H5Fcreate(path().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT)) {}

  std::filesystem::path path() const { return directory_.path() / "a.h5"; }
  hid_t make(const char* name, hid_t type, std::vector<hsize_t> extents,
             hid_t creation = H5P_DEFAULT) {
    const hid_t space = H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr);
    const hid_t dataset = H5Dcreate2(file_, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    H5Sclose(space);
    return dataset;
  }
  /// The message of the error that reading four floats of `name` gives.
  std::string error_of(const char* name) {
    H5Fflush(file_, H5F_SCOPE_GLOBAL);
    if (file_ >= 0) H5Fclose(std::exchange(file_, -1));
    const Hdf5Reader reader(path());
    std::vector<float> out(4);
    return message_of<InputFileError>([&] { reader.read(name, 0, view(out)); });
  }

  TemporaryDirectory directory_;
  hid_t file_;
};

TEST_F(ForeignHdf5File, LinksAndForeignStorageAreRefused) {
  const float values[] = {1, 2, 3, 4};
  const hid_t plain = make("plain", H5T_NATIVE_FLOAT, {4});
  H5Dwrite(plain, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
  H5Dclose(plain);
  H5Dclose(make("nowhere", H5T_NATIVE_FLOAT, {4}));
  H5Lcreate_soft("/plain", file_, "soft", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_external("b.h5", "/x", file_, "outside", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_hard(file_, "/plain", file_, "hard", H5P_DEFAULT, H5P_DEFAULT);
  const hid_t external = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(external, "/etc/hostname", 0, 16);
  H5Dclose(make("external", H5T_NATIVE_FLOAT, {4}, external));
  const hid_t virtual_layout = H5Pcreate(H5P_DATASET_CREATE);
  const hsize_t four = 4;
  const hid_t space = H5Screate_simple(1, &four, nullptr);
  H5Pset_virtual(virtual_layout, space, "b.h5", "/x", space);
  H5Dclose(make("virtual", H5T_NATIVE_FLOAT, {4}, virtual_layout));
  const hid_t chunked = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(chunked, 1, &four);
  H5Dclose(make("chunked", H5T_NATIVE_FLOAT, {4}, chunked));
  for (const hid_t list : {external, virtual_layout, chunked}) H5Pclose(list);
  H5Sclose(space);
  EXPECT_EQ(error_of("plain"), "");
  EXPECT_EQ(error_of("hard"), "");
  EXPECT_NE(error_of("nowhere").find("has not all its elements here"), std::string::npos);
  EXPECT_NE(error_of("soft").find("link to elsewhere"), std::string::npos);
  EXPECT_NE(error_of("outside").find("link to elsewhere"), std::string::npos);
  EXPECT_NE(error_of("outside/x").find("link to elsewhere"), std::string::npos);
  EXPECT_NE(error_of("external").find("not stored in one piece"), std::string::npos);
  EXPECT_NE(error_of("virtual").find("not stored in one piece"), std::string::npos);
  EXPECT_NE(error_of("chunked").find("not stored in one piece"), std::string::npos);
}

TEST_F(ForeignHdf5File, OtherTypesAndRanksAreRefused) {
  const double values[] = {1, 2, 3, 4};
  const hid_t reals = make("double", H5T_NATIVE_DOUBLE, {4});
  H5Dwrite(reals, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
  H5Dclose(reals);
  H5Dclose(make("big", H5T_IEEE_F32BE, {4}));
  H5Dclose(make("matrix", H5T_NATIVE_FLOAT, {2, 2}));
  const hid_t scalar = H5Screate(H5S_SCALAR);
  H5Dclose(
      H5Dcreate2(file_, "scalar", H5T_NATIVE_FLOAT, scalar, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  H5Sclose(scalar);
  H5Gclose(H5Gcreate2(file_, "group", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  EXPECT_NE(error_of("double").find("is f64, expected f32"), std::string::npos);
  EXPECT_NE(error_of("big").find("unexpected type"), std::string::npos);
  EXPECT_NE(error_of("matrix").find("not one dimension"), std::string::npos);
  EXPECT_NE(error_of("scalar").find("not one dimension"), std::string::npos);
  EXPECT_NE(error_of("group").find("no dataset group"), std::string::npos);
  EXPECT_NE(error_of("none").find("no dataset none"), std::string::npos);
  EXPECT_NE(error_of("none/below").find("no dataset none/below"), std::string::npos);
  EXPECT_EQ(Hdf5Reader(path()).datasets(),
            (std::vector<std::string>{"big", "double", "matrix", "scalar"}));
  test::write_bytes(directory_.path() / "text.h5", "no HDF5 file");
  EXPECT_THROW(Hdf5Reader(directory_.path() / "text.h5"), InputFileError);
}

TEST(Hdf5Superblock, AnotherThanOursIsRefusedBeforeTheLibrarySeesIt) {
  TemporaryDirectory directory;
  const auto path = directory.path() / "a.h5";
  std::vector<float> values = {1, 2, 3};
  Hdf5Writer writer(path);
  writer.write("group/values", view(values));
  writer.close();
  const std::string whole = test::read_bytes(path);
  const auto error_of = [&](const std::string& bytes) {
    test::write_bytes(path, bytes);
    return message_of<InputFileError>([&] { Hdf5Reader{path}; });
  };
  EXPECT_EQ(error_of(whole), "");
  EXPECT_NE(error_of("").find("too short"), std::string::npos);
  EXPECT_NE(error_of(whole.substr(0, 95)).find("too short"), std::string::npos);
  EXPECT_NE(error_of(whole + " ").find("size"), std::string::npos);
  EXPECT_NE(error_of(whole.substr(0, whole.size() - 1)).find("size"), std::string::npos);
  EXPECT_NE(error_of(std::string(512, '\0') + whole).find("begin"), std::string::npos);
  // Any other version, size, flag, base, free space, end, driver; and the root beyond the end.
  for (std::size_t byte = 0; byte < 56; ++byte) {
    std::string changed = whole;
    changed[byte] = static_cast<char>(changed[byte] ^ 1);
    EXPECT_NE(error_of(changed).find("cannot open as HDF5: it"), std::string::npos) << byte;
  }
  std::string changed = whole;
  changed[70] = 1;
  EXPECT_NE(error_of(changed).find("root"), std::string::npos);
  // The newer formats of the library.
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  H5Fclose(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access));
  H5Pclose(access);
  EXPECT_NE(message_of<InputFileError>([&] { Hdf5Reader{path}; }).find("begin"), std::string::npos);
}

TEST(Hdf5File, WritesPartsAsItWritesTheWhole) {
  TemporaryDirectory directory;
  std::vector<float> values(1000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const Tensor whole = view(values);
  Hdf5Writer at_once(directory.path() / "a.h5");
  at_once.write("values", whole);
  at_once.close();
  Hdf5Writer in_parts(directory.path() / "b.h5");
  in_parts.write("values", DType::f32, 1000, [&](const Hdf5Writer::WritePart& write) {
    write(whole.rows(0, 333));
    write(whole.rows(333, 333));
    write(whole.rows(333, 1000));
  });
  in_parts.close();
  EXPECT_EQ(test::read_bytes(directory.path() / "a.h5"),
            test::read_bytes(directory.path() / "b.h5"));

  Hdf5Writer wrong(directory.path() / "c.h5");
  const auto writes = [&](const char* name, std::int64_t end, DType dtype) {
    return message_of<InvalidArgument>([&] {
      wrong.write(name, dtype, 10,
                  [&](const Hdf5Writer::WritePart& write) { write(whole.rows(0, end)); });
    });
  };
  EXPECT_EQ(writes("a", 10, DType::f32), "");
  EXPECT_NE(writes("b", 9, DType::f32).find("of 10 elements got 9"), std::string::npos);
  EXPECT_NE(writes("c", 11, DType::f32).find("after 0 come 11"), std::string::npos);
  EXPECT_NE(writes("d", 10, DType::i32).find("come 10 of f32"), std::string::npos);
}

// The hash of nothing is published with the algorithm.
TEST(Hash, GivesTheKnownAnswers) {
  EXPECT_EQ(xxh3_of(""), "99aa06d3014798d86001c324468d497f");
  TemporaryDirectory directory;
  std::string bytes;
  for (int i = 0; i < 3'000'000; ++i) bytes += static_cast<char>(i * 7 + i / 251);
  test::write_bytes(directory.path() / "a", bytes);
  EXPECT_EQ(xxh3_of_file(directory.path() / "a"), xxh3_of(bytes));
  Xxh3 in_parts;
  for (std::size_t begin = 0; begin < bytes.size(); begin += 77'777)
    in_parts.update(bytes.data() + begin, std::min<std::size_t>(77'777, bytes.size() - begin));
  EXPECT_EQ(in_parts.digest(), xxh3_of(bytes));
  EXPECT_THROW(xxh3_of_file(directory.path() / "none"), InputFileError);
  EXPECT_THROW(xxh3_of_file(directory.path()), InputFileError);
}

}  // namespace
}  // namespace polymoe
