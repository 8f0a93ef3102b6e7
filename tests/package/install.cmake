# Installs what is in the build folder BUILD, then moves it to PREFIX: nothing in the tree may
# depend on where it was installed.
file(REMOVE_RECURSE ${PREFIX} ${PREFIX}-staged)
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${PREFIX}-staged
                OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(RENAME ${PREFIX}-staged ${PREFIX})
