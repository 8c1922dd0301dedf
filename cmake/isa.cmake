# Each kernel file is compiled once per CPU level, in a namespace named after the level.
# The flags are exactly what __builtin_cpu_supports("x86-64-vN") checks at run time.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(ELBOKIT_CPU_LEVELS v2 v3 v4)
  set(ELBOKIT_FLAGS_v2 -march=x86-64-v2)
  set(ELBOKIT_FLAGS_v3 -march=x86-64-v3)
  set(ELBOKIT_FLAGS_v4 -march=x86-64-v4 -mprefer-vector-width=512)
  if(ELBOKIT_SPLIT_VECTORS)
    # The compiler makes two AVX vectors of each. Without AVX2, so that no 32-byte intrinsic is used.
    set(ELBOKIT_FLAGS_v4 -march=x86-64-v2 -mfma -DELBOKIT_SPLIT_VECTORS -Wno-psabi)
  endif()
else()
  set(ELBOKIT_CPU_LEVELS baseline)
endif()

# No global fast-math: only contraction to FMA, and neither errno nor traps, which no kernel reads.
set(ELBOKIT_KERNEL_FLAGS -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math
                         -fno-exceptions -fno-rtti)

function(elbokit_add_kernels target)
  add_library(${target} INTERFACE)
  foreach(level IN LISTS ELBOKIT_CPU_LEVELS)
    add_library(${target}_${level} OBJECT ${ARGN})
    target_link_libraries(${target}_${level} PRIVATE elbokit_options)
    target_compile_definitions(${target}_${level} PRIVATE ELBOKIT_LEVEL=${level})
    target_compile_options(${target}_${level} PRIVATE ${ELBOKIT_KERNEL_FLAGS}
                                                      ${ELBOKIT_FLAGS_${level}})
    target_link_libraries(${target} INTERFACE ${target}_${level})
    target_sources(${target} INTERFACE $<TARGET_OBJECTS:${target}_${level}>)
  endforeach()
endfunction()
