#include "attention.h"

enum { LANES = 4, WIDE = 16 }; /* a head's size is a multiple of WIDE */

/* The product of a query and a key: four running sums, for one would have to wait for itself. */
INLINE float product(const float *query, const float *key, uint32_t size) {
  f32x4 totals[4] = {{0}};
  for (uint32_t i = 0; i < size; i += WIDE)
    for (int j = 0; j < 4; j++)
      totals[j] += load_floats(query + i + LANES * j) * load_floats(key + i + LANES * j);
  return sum((totals[0] + totals[1]) + (totals[2] + totals[3]));
}

/* Scores to weights that add up to one. scores: room for whole vectors. */
static void softmax(float *scores, uint32_t count) {
  uint32_t whole = (count + LANES - 1) / LANES * LANES;
  float largest = scores[0];
  for (uint32_t i = 1; i < count; i++)
    if (scores[i] > largest) largest = scores[i];
  for (uint32_t i = count; i < whole; i++) scores[i] = -__builtin_inff();
  f32x4 total = splat(0);
  for (uint32_t i = 0; i < whole; i += LANES) {
    f32x4 weights = exponential(load_floats(scores + i) - splat(largest));
    store_floats(scores + i, weights);
    total += weights;
  }
  f32x4 inverse = splat(1 / sum(total));
  for (uint32_t i = 0; i < whole; i += LANES) store_floats(scores + i, load_floats(scores + i) * inverse);
}

/* Sixteen elements of the weighted sum of values. */
INLINE void weigh(const float *weights, const float *values, size_t stride, uint32_t count, float *out) {
  f32x4 totals[4] = {{0}};
  for (uint32_t i = 0; i < count; i++)
    for (int j = 0; j < 4; j++)
      totals[j] += splat(weights[i]) * load_floats(values + i * stride + LANES * j);
  for (int j = 0; j < 4; j++) store_floats(out + LANES * j, totals[j]);
}

void attend(const float *query, const float *keys, const float *values, size_t stride, uint32_t count,
            uint32_t size, float *scores, float *out) {
  float scale = 1 / __builtin_sqrtf((float)size);
  for (uint32_t i = 0; i < count; i++) scores[i] = product(query, keys + i * stride, size) * scale;
  softmax(scores, count);
  for (uint32_t i = 0; i < size; i += WIDE) weigh(scores, values + i, stride, count, out + i);
}
