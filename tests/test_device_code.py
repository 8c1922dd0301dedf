"""The formulas of cpp/math must compile for CUDA too: they are what its kernels will share."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CPP = Path(__file__).parent.parent / "cpp"
KERNEL = """
namespace device = elbokit::ELBOKIT_LEVEL;
template <class T>
__global__ void kernel(const T* x, const T* t, T* out) {
  const int i = threadIdx.x;
  const auto bernoulli = device::bernoulli_term<T>(x[i], device::bernoulli_power(x[i]), t[i], T(1));
  const auto kl = device::gaussian_kl_term<T>(x[i], t[i], device::exp(-t[i]));
  const T lse = device::logsumexp_close(device::logsumexp_shift(x[i]), t[i]);
  const auto gaussian = device::gaussian_term<T>(x[i] - t[i], device::gaussian_noise<T>(t[i]));
  const auto categorical = device::categorical_term<T>(x[i], t[i], T(1));
  const T y = device::whiten(x[i], t[i], T(2), T(1));
  out[i] = bernoulli.loss + bernoulli.grad + kl.kl + kl.grad_prior_logvar() + lse + y +
           gaussian.loss + gaussian.grad_mean + categorical.loss + categorical.share +
           device::log_density(x[i], device::exp2_nonpositive(-y));
}
template __global__ void kernel(const float*, const float*, float*);
template __global__ void kernel(const double*, const double*, double*);
"""


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")
def test_formulas_compile_for_the_device(tmp_path: Path) -> None:
    headers = sorted(path.name for path in (CPP / "math").glob("*.h"))
    source = tmp_path / "formulas.cu"
    source.write_text("".join(f'#include "math/{name}"\n' for name in headers) + KERNEL)
    command = ["nvcc", "-std=c++17", "-arch=sm_90", "-I", str(CPP), "-Werror", "all-warnings"]
    result = subprocess.run(
        [*command, "-c", str(source), "-o", str(tmp_path / "formulas.o")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
