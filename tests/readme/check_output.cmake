# Runs PROGRAM, whose STREAM (OUTPUT or ERROR) must be the text in the file EXPECTED, from PAGE.
execute_process(COMMAND ${PROGRAM} OUTPUT_VARIABLE OUTPUT ERROR_VARIABLE ERROR)
file(READ ${EXPECTED} expected)
if(NOT ${STREAM} STREQUAL expected)
  message(FATAL_ERROR "${PAGE} says\n${expected}\nbut the program printed\n${${STREAM}}")
endif()
