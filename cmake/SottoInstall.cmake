# `cmake --install`: the library, its headers, the CMake package and the pkg-config file. All of
# them find each other relative to where they lie, so that the tree may be moved.
include(CMakePackageConfigHelpers)

install(TARGETS sotto EXPORT sotto
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/sotto DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/sotto)
install(EXPORT sotto NAMESPACE sotto:: DESTINATION ${package_dir} FILE sotto-targets.cmake)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/sotto-config.cmake.in
  ${PROJECT_BINARY_DIR}/sotto-config.cmake INSTALL_DESTINATION ${package_dir})
# Before 1.0 a minor version may change the API (docs/versioning.md).
set(compatibility SameMajorVersion)
if(PROJECT_VERSION_MAJOR EQUAL 0)
  set(compatibility SameMinorVersion)
endif()
write_basic_package_version_file(${PROJECT_BINARY_DIR}/sotto-config-version.cmake
  COMPATIBILITY ${compatibility})
install(FILES ${PROJECT_BINARY_DIR}/sotto-config.cmake
              ${PROJECT_BINARY_DIR}/sotto-config-version.cmake DESTINATION ${package_dir})

# Programs link a static library's dependencies themselves. There is no shared library beside it
# for which they would be too much, so that they stand under Requires, with or without --static.
set(pc_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH pc_to_prefix /${pc_dir} /)
set(pc_requires)
set(pc_libs)
if(NOT BUILD_SHARED_LIBS)
  set(pc_requires "fmt libhwy")
  set(pc_libs ${OpenMP_CXX_FLAGS})
  if(SOTTO_WITH_CUDA)
    string(APPEND pc_libs " -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt -lpthread")
  endif()
endif()
configure_file(${PROJECT_SOURCE_DIR}/cmake/sotto.pc.in ${PROJECT_BINARY_DIR}/sotto.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/sotto.pc DESTINATION ${pc_dir})
