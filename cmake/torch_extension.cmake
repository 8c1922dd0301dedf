# The C++ extension for the torch of the Python that elbokit is installed into, where it is there
# already. It serves that version alone; for others there is elbokit.torch.load_extension().
set(ELBOKIT_TORCH_SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/cpp/extension/extension.cpp
                          ${CMAKE_CURRENT_SOURCE_DIR}/cpp/extension/torch_table.h)
install(FILES ${ELBOKIT_TORCH_SOURCES} DESTINATION torch/extension)

function(elbokit_add_torch_extension summary)
  set(script ${CMAKE_CURRENT_SOURCE_DIR}/python/elbokit/torch/_extension_build.py)
  # -I: past the packages that pip builds with in isolation, to those of the environment itself.
  set(run ${Python_EXECUTABLE} -I ${script} ${CMAKE_CURRENT_SOURCE_DIR}/cpp/extension)
  execute_process(
    COMMAND ${run}
    OUTPUT_VARIABLE said
    OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_VARIABLE why
    RESULT_VARIABLE failed)
  if(failed)
    if(ELBOKIT_TORCH_EXTENSION STREQUAL "ON")
      message(FATAL_ERROR "ELBOKIT_TORCH_EXTENSION=ON, but torch cannot be imported:\n${why}")
    endif()
    set(${summary} "none (this Python has no torch)" PARENT_SCOPE)
    return()
  endif()
  string(REGEX MATCH "[^\n]*$" name "${said}") # the last line, whatever torch's import says
  if(ELBOKIT_TORCH_EXTENSION STREQUAL "AUTO")
    list(APPEND run --optional)
  endif()
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/torch_extension)
  cmake_path(GET CMAKE_MAKE_PROGRAM PARENT_PATH ninja) # with which torch builds, too
  add_custom_command(
    OUTPUT ${folder}/${name}
    COMMAND ${CMAKE_COMMAND} -E env CXX=${CMAKE_CXX_COMPILER} "PATH=$ENV{PATH}:${ninja}" ${run}
            --into ${folder}
    DEPENDS ${ELBOKIT_TORCH_SOURCES} ${script}
    COMMENT "Building the C++ extension for torch"
    VERBATIM)
  add_custom_target(torch_extension ALL DEPENDS ${folder}/${name})
  install(FILES ${folder}/${name} DESTINATION torch/extension OPTIONAL)
  set(${summary} ${name} PARENT_SCOPE)
endfunction()

if(ELBOKIT_TORCH_EXTENSION STREQUAL "OFF")
  set(ELBOKIT_TORCH_SUMMARY "none (ELBOKIT_TORCH_EXTENSION=OFF)")
else()
  elbokit_add_torch_extension(ELBOKIT_TORCH_SUMMARY)
endif()
