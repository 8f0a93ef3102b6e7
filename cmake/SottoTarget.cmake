# What every target of the project is compiled with.
function(sotto_target name)
  target_compile_options(${name} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wnon-virtual-dtor>)
  if(SOTTO_SANITIZE)
    target_compile_options(${name} PRIVATE
      $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${SOTTO_SANITIZE} -fno-omit-frame-pointer
                                -fno-sanitize-recover=all>)
    target_link_options(${name} PUBLIC -fsanitize=${SOTTO_SANITIZE})
    target_compile_definitions(${name} PRIVATE SOTTO_SANITIZED)  # fewer SIMD targets: src/cpu/targets.h
  endif()
endfunction()
