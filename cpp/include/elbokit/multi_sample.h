// Bounds of log p(x) from several latent samples of each data row: Bernoulli decoder, posterior
// N(mu, diag e^logvar), prior N(0, I). With log w_s = log p(x|z_s) + log p(z_s) - log q(z_s|x)
//
//   iwae: log 1/S sum_s w_s        elbo: 1/S sum_s log w_s
//
// The loss is the negative bound; value and gradients come from one visit to each data row.
#pragma once

#include "elbokit/level.h"
#include "elbokit/matrix.h"
#include "elbokit/whole_vectors.h"

namespace elbokit {

// Row s * rows + i of logits and z is sample s of data row i. T, the type computed in, is float for
// logits narrower than that; the latent part and the weights are computed in double.
template <class T>
struct MultiSampleArgs {
  std::int64_t samples, rows, cols, latent;
  Operand logits;              // (samples * rows, cols)
  Operand target, mask;        // (rows, cols); an element of mask 0 counts as nothing; null is 1
  T target_scale;              // targets are this times what lies in memory
  Operand mu, logvar;          // (rows, latent)
  Operand z;                   // (samples * rows, latent)
  bool importance;             // the iwae bound, else the elbo
  Vector<const T> row_weight;  // optional
  Vector<T> row_loss;          // optional
  Result grad_logits;          // optional: d loss / d logits * scale
  Matrix<T> grad_mu, grad_logvar, grad_z;  // optional, all: d loss / d ... * scale; col_stride 1
  T scale;
  bool stream;  // grad_logits exceeds the caches: write past them
};

// Scratch: `samples` weights, and `samples` times in_whole_vectors(cols) slopes, without which
// the importance-weighted gradient computes them again.
#define ELBOKIT_DECLARE(level)                                                         \
  namespace level {                                                                    \
  template <class T>                                                                   \
  double multi_sample(const MultiSampleArgs<T>&, std::int64_t begin, std::int64_t end, \
                      double* weights, T* slopes);                                     \
  }
ELBOKIT_FOR_EACH_LEVEL(ELBOKIT_DECLARE)
#undef ELBOKIT_DECLARE

namespace cpu {
// The sum of the loss over all rows.
template <class T>
double multi_sample(const MultiSampleArgs<T>& args);
}  // namespace cpu

}  // namespace elbokit
