// .npy files: what right ones give, and what every kind of wrong one says; and that what the
// writers write is what the readers read.
#include "models/npy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "models/file_error.h"
#include "models/safetensors.h"
#include "tests/models/damage.h"
#include "tests/models/temporary_folder.h"

namespace sotto::models {
namespace {

std::string npy(const std::string& dictionary, const std::string& data,
                const std::string& version = std::string("\1\0", 2)) {
  const auto length = static_cast<std::uint32_t>(dictionary.size());
  std::string bytes(4, '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  if (version[0] == 1) bytes.resize(2);
  return "\x93NUMPY" + version + bytes + dictionary + data;
}

std::string dictionary(const std::string& descr, const std::string& shape,
                       const std::string& fortran = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + fortran + ", 'shape': " + shape + ", }\n";
}

// Of six floats 1 … 6.
std::string six() {
  std::string data;
  for (int i = 1; i <= 6; ++i) {
    const auto x = static_cast<float>(i);
    data.append(reinterpret_cast<const char*>(&x), sizeof(x));
  }
  return data;
}

TEST(Npy, ReadsEveryVersionAndOrderOfKeys) {
  const TemporaryFolder folder;
  const std::string files[] = {
      npy(dictionary("<f4", "(2, 3)"), six()),
      npy(dictionary("<f4", "(2, 3)"), six(), std::string("\2\0", 2)),
      npy(dictionary("<f4", "(2, 3)"), six(), std::string("\3\0", 2)),
      npy("{\"shape\": (2,3), \"fortran_order\":False,\"descr\":\"<f4\"}   \n", six())};
  for (const std::string& file : files) {
    const NpyFile read(folder.write("x.npy", file));
    EXPECT_EQ(read.tensor().type, StorageType::f32);
    EXPECT_EQ(read.tensor().shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(to_float(read.tensor()), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  }
}

TEST(Npy, ReadsScalarsVectorsAndEmptyArrays) {
  const TemporaryFolder folder;
  const NpyFile scalar(folder.write("s.npy", npy(dictionary("<f4", "()"), six().substr(0, 4))));
  EXPECT_TRUE(scalar.tensor().shape.empty());
  const NpyFile vector(folder.write("v.npy", npy(dictionary("|u1", "(3,)"), "abc")));
  EXPECT_EQ(to_float(vector.tensor()), (std::vector<float>{'a', 'b', 'c'}));
  const NpyFile empty(folder.write("e.npy", npy(dictionary("<i8", "(0, 4)"), "")));
  EXPECT_TRUE(empty.tensor().data.empty());
}

struct Wrong {
  const char* name;
  std::string content;
  const char* expected;
};

class NpyWrong : public testing::TestWithParam<Wrong> {};

TEST_P(NpyWrong, NamesTheField) {
  const TemporaryFolder folder;
  const auto path = folder.write("x.npy", GetParam().content);
  try {
    const NpyFile file(path);
    FAIL() << "was read";
  } catch (const FileError& error) {
    EXPECT_NE(std::string(error.what()).find(GetParam().expected), std::string::npos)
        << error.what();
    EXPECT_EQ(std::string(error.what()).find(path.string()), 0U);
  }
}

const std::string kFine = dictionary("<f4", "(2, 3)");

const std::vector<Wrong> kWrong = {
    {"magic", "PK\3\4 a zip archive", "magic: expected \"\\x93NUMPY\", got \"PK\\x03\\x04"},
    {"version_4", npy(kFine, six(), std::string("\4\0", 2)), "version: expected 1.0, 2.0 or 3.0"},
    {"short_version", "\x93NUMPY\1", "version: the file ends within it"},
    {"short_length", std::string("\x93NUMPY\2\0\1", 9), "header length: the file ends within it"},
    {"short_header", std::string("\x93NUMPY\1\0\xff\1{", 11), "header: the file ends within it"},
    {"huge_header", std::string("\x93NUMPY\2\0\xff\xff\xff\xff{", 13),
     "header length: must be at most 65536, got 4294967295"},
    {"big_endian", npy(dictionary(">f4", "(2, 3)"), six()), "descr: \">f4\" is big-endian"},
    {"pickled", npy(dictionary("|O", "(2, 3)"), six()), "descr: \"|O\" is pickled objects"},
    {"structured", npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }", six()),
     "descr: is a structured type"},
    {"f64", npy(dictionary("<f8", "(3,)"), six()), "descr: \"<f8\" is not supported (supported: "},
    {"bf16", npy(dictionary("<V2", "(12,)"), six()), "bf16 and e4m3 have no type in NumPy"},
    {"fortran", npy(dictionary("<f4", "(2, 3)", "True"), six()), "fortran_order: must be False"},
    {"fortran_1", npy(dictionary("<f4", "(2, 3)", "1"), six()),
     "fortran_order: must be True or False"},
    {"negative", npy(dictionary("<f4", "(-2, 3)"), six()), "shape: dimension 0 must be an integer"},
    {"text_size", npy(dictionary("<f4", "(2, x)"), six()), "shape: dimension 1 must be an integer"},
    {"list", npy(dictionary("<f4", "[2, 3]"), six()), "shape: must be a tuple"},
    {"overflow_number", npy(dictionary("<f4", "(99999999999999999999,)"), six()),
     "shape: dimension 0 must be an integer"},
    {"overflow_product", npy(dictionary("<f4", "(4294967296, 4294967296)"), six()),
     "shape: overflows"},
    {"too_little", npy(dictionary("<f4", "(2, 4)"), six()), "data: must be 32 bytes"},
    {"too_much", npy(dictionary("<f4", "(5,)"), six()), "data: must be 20 bytes"},
    {"huge_shape", npy(dictionary("<f4", "(1000000000000,)"), six()),
     "data: must be 4000000000000"},
    {"no_shape", npy("{'descr': '<f4', 'fortran_order': False}", six()), "shape: is missing"},
    {"no_descr", npy("{'fortran_order': False, 'shape': (6,)}", six()), "descr: is missing"},
    {"twice", npy("{'descr': '<f4', 'descr': '<f4'}", six()), "descr: is there twice"},
    {"unknown_key", npy("{'descr': '<f4', 'colour': 3}", six()),
     "has a key that the format does not know: \"colour\""},
    {"trailing", npy(kFine + "print()", six()), "header: goes on after its dictionary"},
    {"no_dictionary", npy("(2, 3)", six()), "header: expected '{' at byte 0"},
    {"unclosed", npy("{'descr': '<f4", six()), "descr: expected a string"},
};

INSTANTIATE_TEST_SUITE_P(Files, NpyWrong, testing::ValuesIn(kWrong),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Npy, SurvivesDamageEverywhere) {
  const TemporaryFolder folder;
  const std::string content = npy(kFine, six());
  damage_everywhere(folder, "x.npy", content, content.size() - 24,
                    [&] { NpyFile(folder.path() / "x.npy"); });
}

StoredTensor stored(StorageType type, std::vector<std::int64_t> shape, const std::string& data) {
  return {
      .file = "", .type = type, .shape = std::move(shape), .data = std::as_bytes(std::span(data))};
}

TEST(Npy, WritesWhatItReads) {
  const TemporaryFolder folder;
  const std::string data(24, '\x3c');
  const std::pair<StorageType, std::vector<std::int64_t>> tensors[] = {
      {StorageType::f32, {2, 3}},  {StorageType::f16, {12}},   {StorageType::i8, {2, 3, 4}},
      {StorageType::u8, {24}},     {StorageType::i32, {6, 1}}, {StorageType::i64, {3}},
      {StorageType::boolean, {24}}};
  for (const auto& [type, shape] : tensors) {
    ASSERT_TRUE(has_npy_type(type));
    std::ostringstream text;
    write_npy(text, stored(type, shape, data));
    EXPECT_EQ((text.str().size() - data.size()) % 64, 0U);
    const NpyFile read(folder.write("x.npy", text.str()));
    EXPECT_EQ(read.tensor().type, type);
    EXPECT_EQ(read.tensor().shape, shape);
    EXPECT_EQ(std::memcmp(read.tensor().data.data(), data.data(), data.size()), 0);
  }
  EXPECT_FALSE(has_npy_type(StorageType::bf16));
  EXPECT_FALSE(has_npy_type(StorageType::e4m3));
}

TEST(Safetensors, WritesWhatItReads) {
  const TemporaryFolder folder;
  const std::string bytes = "abc", four = "four", words(16, 'x'), none;
  const TensorMap kept = {{"a \"name\"", stored(StorageType::e4m3, {3}, bytes)},
                          {"scalar", stored(StorageType::f32, {}, four)},
                          {"w", stored(StorageType::i64, {2, 1}, words)},
                          {"none", stored(StorageType::bf16, {0, 5}, none)}};
  std::ostringstream text;
  write_safetensors(text, kept);
  const SafetensorsFile read(folder.write("x.safetensors", text.str()));
  ASSERT_EQ(read.tensors().size(), kept.size());
  for (const auto& [name, tensor] : kept) {
    const StoredTensor& found = read.tensors().at(name);
    EXPECT_EQ(found.type, tensor.type);
    EXPECT_EQ(found.shape, tensor.shape);
    ASSERT_EQ(found.data.size(), tensor.data.size());
    EXPECT_TRUE(std::equal(found.data.begin(), found.data.end(), tensor.data.begin()));
    if (!found.data.empty()) {
      const auto width = static_cast<std::uintptr_t>(*byte_size(tensor.type, {}));
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(found.data.data()) % width, 0U) << name;
    }
  }
}

}  // namespace
}  // namespace sotto::models
