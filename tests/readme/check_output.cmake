# Runs PROGRAM, whose standard error must be the text in the file EXPECTED.
execute_process(COMMAND ${PROGRAM} ERROR_VARIABLE seen OUTPUT_QUIET)
file(READ ${EXPECTED} expected)
if(NOT seen STREQUAL expected)
  message(FATAL_ERROR "README.md says\n${expected}\nbut the program printed\n${seen}")
endif()
