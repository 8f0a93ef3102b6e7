# What every form of the library is built with: the static one, the shared one, and the one that the
# tests make of the other's objects.
find_package(hwy REQUIRED)
find_package(fmt REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
# Before the targets, which take their CUDA settings when they are made.
include(${CMAKE_CURRENT_LIST_DIR}/SottoCuda.cmake)

function(sotto_library name)
  sotto_target(${name})
  target_compile_features(${name} PUBLIC cxx_std_20)
  target_include_directories(${name}
    PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
    PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${name} PRIVATE hwy::hwy fmt::fmt OpenMP::OpenMP_CXX)
  if(SOTTO_WITH_CUDA)
    target_link_libraries(${name} PRIVATE CUDA::cudart_static)
  endif()
  # Only what carries SOTTO_API is seen from outside. The map also hides what templates of other
  # libraries leave behind, which their headers declare visible.
  set_target_properties(${name} PROPERTIES
    CXX_VISIBILITY_PRESET hidden
    CUDA_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON
    VERSION ${PROJECT_VERSION}
    # A minor version may change the binary interface (docs/versioning.md).
    SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
  get_target_property(type ${name} TYPE)
  if(type STREQUAL SHARED_LIBRARY AND UNIX AND NOT APPLE)
    set(map ${PROJECT_SOURCE_DIR}/src/sotto.map)
    target_link_options(${name} PRIVATE LINKER:--version-script=${map})
    set_property(TARGET ${name} APPEND PROPERTY LINK_DEPENDS ${map})
  endif()
endfunction()
