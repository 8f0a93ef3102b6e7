// Texts and files of token ids.
#include "models/input_files.h"

#include <gtest/gtest.h>

#include "models/file_error.h"
#include "tests/models/temporary_folder.h"

namespace sotto::models {
namespace {

using Ids = std::vector<std::int32_t>;

TEST(ReadText, MakesLinesEndAlike) {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& text) { return read_text(folder.write("text", text)); };
  EXPECT_EQ(read("a\r\nb\n\r\rc\r\r\n\n"), "a\nb\n\n\nc\n\n\n");
  EXPECT_EQ(read("\xff plain"), "\xff plain");
  EXPECT_THROW(read(""), FileError);
  EXPECT_THROW(read_text(folder.path()), FileError);
}

TEST(ReadTokenIds, TakesListsAndArrays) {
  const TemporaryFolder folder;
  for (const char* text : {"1 2 99", "1,2,99\n", "[1, 2, 99]", " [1\n2\t,99 ]\n", "1\r\n2\r\n99"}) {
    EXPECT_EQ(read_token_ids(folder.write("ids", text), 100), (Ids{1, 2, 99})) << text;
  }
}

TEST(ReadTokenIds, NamesWhatIsWrong) {
  const TemporaryFolder folder;
  const auto message = [&](const std::string& text) -> std::string {
    try {
      read_token_ids(folder.write("ids", text), 100);
    } catch (const FileError& error) {
      return std::string(error.what()).substr((folder.path() / "ids: ").string().size());
    }
    return "no error";
  };
  EXPECT_EQ(message("1 2 100"), "token 2: at byte 4: must be an integer in [0, 100), got \"100\"");
  EXPECT_EQ(message("1,-2"), "token 1: at byte 2: must be an integer in [0, 100), got \"-2\"");
  for (const char* wrong : {"1.5", "x", "+1", "99999999999999999999", "1 [2]", "[1", "1]", "[[1]]",
                            "0x1", "1;2", "[", "{\"a\": 1}"}) {
    EXPECT_NE(message(wrong).find("must be an integer"), std::string::npos) << wrong;
  }
  EXPECT_EQ(message(" \n"), "file: has no token ids");
  EXPECT_EQ(message("[]"), "file: has no token ids");
  EXPECT_EQ(message(""), "file: is empty");
  EXPECT_NE(message(std::string("\0\x1b[2J", 5)).find("\\x00\\x1b[2J"), std::string::npos);
}

}  // namespace
}  // namespace sotto::models
