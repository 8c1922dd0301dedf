// Large outputs that nobody has touched yet.
#pragma once

#include <cstddef>

namespace elbokit::dispatch {

// Asks for huge pages under an output that is about to be written for the first time: the kernel
// otherwise clears it 4 KiB at a time, which can take longer than computing it. A no-op for small
// outputs, and where the system has no such thing.
void advise_huge_pages(void* data, std::size_t bytes);

}  // namespace elbokit::dispatch
