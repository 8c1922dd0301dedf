// Blocks of the pool as objects with Python's buffer protocol.
#include "bindings/bindings.h"
#include "dispatch/buffer_pool.h"

namespace elbokit::bindings {

namespace py = pybind11;

namespace {

class Buffer {
 public:
  explicit Buffer(std::size_t bytes) : bytes_(bytes), block_(dispatch::take_block(bytes)) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { dispatch::give_block(block_); }

  py::buffer_info info() const {
    return {block_.data, 1, py::format_descriptor<unsigned char>::format(),
            static_cast<py::ssize_t>(bytes_)};
  }

 private:
  std::size_t bytes_;
  dispatch::Block block_;
};

}  // namespace

void register_buffer(py::module_& m) {
  using namespace py::literals;
  py::class_<Buffer>(m, "Buffer", py::buffer_protocol())
      .def(py::init<std::size_t>(), "bytes"_a)
      .def_buffer([](const Buffer& buffer) { return buffer.info(); });
  m.def("set_pool_limit", &dispatch::set_pool_limit, "bytes"_a);
  m.def("pool_limit", &dispatch::pool_limit);
  m.def("pooled_bytes", &dispatch::pooled_bytes);
}

}  // namespace elbokit::bindings
