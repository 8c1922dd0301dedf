# The CUDA kernels, in an extension module of their own, which is loaded at the first CUDA array.
set(ELBOKIT_CUDA_KERNELS
    cuda/common/loss.cu
    cuda/common/queue.cu
    cuda/common/slices.cu
    cuda/kernels/bernoulli.cu
    cuda/kernels/categorical.cu
    cuda/kernels/elementary.cu
    cuda/kernels/gaussian_kl.cu
    cuda/kernels/gaussian_kl_full.cu
    cuda/kernels/gaussian_loss.cu
    cuda/kernels/gmm.cu
    cuda/kernels/gmm_diagonal.cu
    cuda/kernels/gmm_fit_many.cu
    cuda/kernels/gmm_full_logits.cu
    cuda/kernels/gmm_full_scatter.cu
    cuda/kernels/gmm_gradient.cu
    cuda/kernels/gmm_logits.cu
    cuda/kernels/gmm_merge.cu
    cuda/kernels/gmm_model.cu
    cuda/kernels/gmm_moments.cu
    cuda/kernels/gmm_plan.cu
    cuda/kernels/gmm_products.cu
    cuda/kernels/gmm_products_logits.cu
    cuda/kernels/gmm_products_model.cu
    cuda/kernels/gmm_products_moments.cu
    cuda/kernels/gmm_responsibilities.cu
    cuda/kernels/gmm_scatter.cu
    cuda/kernels/gmm_small.cu
    cuda/kernels/gmm_sparse.cu
    cuda/kernels/gmm_sparse_filter.cu
    cuda/kernels/gmm_sparse_long.cu
    cuda/kernels/gmm_sparse_model.cu
    cuda/kernels/gmm_sparse_sums.cu
    cuda/kernels/gmm_update.cu
    cuda/kernels/gmm_weights.cu
    cuda/kernels/kmeans.cu
    cuda/kernels/kmeans_seeding.cu
    cuda/kernels/kmeans_spread.cu
    cuda/kernels/label_moments.cu
    cuda/kernels/logsumexp.cu
    cuda/kernels/multi_sample.cu
    cuda/kernels/scale.cu
    cuda/kernels/vae_loss.cu)
set(ELBOKIT_CUDA_BINDINGS
    cuda/bindings/module.cpp
    cuda/bindings/bernoulli.cpp
    cuda/bindings/categorical.cpp
    cuda/bindings/elementary.cpp
    cuda/bindings/gaussian_kl.cpp
    cuda/bindings/gaussian_kl_full.cpp
    cuda/bindings/gaussian_loss.cpp
    cuda/bindings/gmm.cpp
    cuda/bindings/gmm_fit_many.cpp
    cuda/bindings/gmm_products.cpp
    cuda/bindings/gmm_small.cpp
    cuda/bindings/gmm_sparse.cpp
    cuda/bindings/gmm_update.cpp
    cuda/bindings/kmeans.cpp
    cuda/bindings/logsumexp.cpp
    cuda/bindings/multi_sample.cpp
    cuda/bindings/scale.cpp
    cuda/bindings/vae_loss.cpp)
list(TRANSFORM ELBOKIT_CUDA_KERNELS PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)
list(TRANSFORM ELBOKIT_CUDA_BINDINGS PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)

function(elbokit_add_cuda_module name architectures)
  list(JOIN architectures ", " shown)  # a semicolon would end a definition
  pybind11_add_module(${name} NO_EXTRAS ${ELBOKIT_CUDA_BINDINGS} ${ELBOKIT_CUDA_KERNELS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/cuda ${PROJECT_SOURCE_DIR}/cpp
                                             ${PROJECT_SOURCE_DIR}/cpp/include
                                             ${PROJECT_SOURCE_DIR}/cuda/bindings)
  target_compile_definitions(
    ${name} PRIVATE ELBOKIT_MODULE=${name} ELBOKIT_VERSION="${SKBUILD_PROJECT_VERSION}"
                    ELBOKIT_CUDA_ARCHITECTURES="${shown}")
  target_link_options(${name} PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/exports.map)
  install(TARGETS ${name} LIBRARY DESTINATION .)
endfunction()

# What a build is for if it is not told: one architecture of each generation whose code the later
# ones of that generation run, and PTX for those to come.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 90-real 90-virtual)
endif()

if(NOT ELBOKIT_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "ELBOKIT_CUDA is ${ELBOKIT_CUDA}, expected AUTO, ON or OFF.")
endif()

# Of a build without the kernels, ELBOKIT_CUDA_STATUS is also what its users are told.
set(ELBOKIT_CUDA_STATUS "ELBOKIT_CUDA was OFF")
if(NOT ELBOKIT_CUDA STREQUAL "OFF")
  include(cmake/find_nvcc.cmake)
  elbokit_find_nvcc(found_nvcc problem)
  if(found_nvcc)
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    elbokit_add_cuda_module(_cuda "${CMAKE_CUDA_ARCHITECTURES}")
    set(warnings -Wall,-Wextra)
    if(ELBOKIT_WERROR)
      string(APPEND warnings ,-Werror)
    endif()
    target_compile_options(
      _cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${warnings}
                    $<$<BOOL:${ELBOKIT_WERROR}>:-Werror=all-warnings> -Xfatbin=-compress-all>
                    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra $<$<BOOL:${ELBOKIT_WERROR}>:-Werror>>)
    set(ELBOKIT_CUDA_STATUS "")
    set(summary "${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
  elseif(ELBOKIT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "ELBOKIT_CUDA is ON, but ${problem}. Name a compiler with the environment "
                        "variable CUDACXX, or set ELBOKIT_CUDA to AUTO or OFF.")
  else()
    set(ELBOKIT_CUDA_STATUS "${problem}")
  endif()
endif()
if(ELBOKIT_CUDA_STATUS)
  set(summary "no: ${ELBOKIT_CUDA_STATUS}")
endif()
set(ELBOKIT_CUDA_SUMMARY "${summary}")
set_source_files_properties(cpp/bindings/system.cpp PROPERTIES COMPILE_DEFINITIONS
                            "ELBOKIT_WITHOUT_CUDA=\"${ELBOKIT_CUDA_STATUS}\"")

if(ELBOKIT_EMULATION)
  add_subdirectory(cuda/emulation)
endif()
