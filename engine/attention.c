/* A decoder remembers keys and values as whole numbers of 16 bits, each vector with a scale: half the
   memory of float32, in a third less time, for two instructions make four of them floats. Those of
   float16 take seven in WebAssembly, and are coarser than this. */
#include "attention.h"
#include "matrix.h"

enum { LANES = 4, WIDE = 16, LARGEST = 32767 }; /* head_dim is a multiple of WIDE */
static const float SMALLEST = 1e-30f;           /* what is less is 0: its inverse would be infinite */

INLINE f32x4 load_codes(const int16_t *at) {
  return __builtin_convertvector(__builtin_convertvector(load_4_signed(at), i32x4), f32x4);
}

void remember(const float *vector, uint32_t size, int16_t *codes, float *scale) {
  float largest = largest_magnitude(vector, size);
  f32x4 inverse = splat(largest > SMALLEST ? LARGEST / largest : 0);
  for (uint32_t i = 0; i < size; i += LANES) {
    i32x4 code = __builtin_convertvector(nearest(load_floats(vector + i) * inverse), i32x4);
    store_4_shorts(codes + i, __builtin_convertvector(code, i16x4));
  }
  *scale = largest / LARGEST;
}

/* Four elements of vectors that are remembered, or of floats. */
INLINE f32x4 load_elements(const void *vectors, size_t at, int are_codes) {
  return are_codes ? load_codes((const int16_t *)vectors + at) : load_floats((const float *)vectors + at);
}

/* The product of a query and a key: four running sums, for one would have to wait for itself. */
INLINE float product(const float *query, const void *keys, size_t at, uint32_t size, int are_codes) {
  f32x4 totals[4] = {{0}};
  for (uint32_t i = 0; i < size; i += WIDE)
    for (int j = 0; j < 4; j++)
      totals[j] += load_floats(query + i + LANES * j) * load_elements(keys, at + i + LANES * j, are_codes);
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

/* The weighted sum of values, sixteen elements at a time. */
INLINE void weigh(const float *weights, const void *values, size_t stride, uint32_t count, uint32_t size,
                  float *out, int are_codes) {
  for (uint32_t first = 0; first < size; first += WIDE) {
    f32x4 totals[4] = {{0}};
    for (uint32_t i = 0; i < count; i++)
      for (int j = 0; j < 4; j++)
        totals[j] += splat(weights[i]) * load_elements(values, i * stride + first + LANES * j, are_codes);
    for (int j = 0; j < 4; j++) store_floats(out + first + LANES * j, totals[j]);
  }
}

void attend(const float *query, const Remembered *keys, const Remembered *values, uint32_t count,
            uint32_t size, float *scores, float *out) {
  float scale = 1 / __builtin_sqrtf((float)size);
  for (uint32_t i = 0; i < count; i++)
    scores[i] = product(query, keys->codes, (size_t)i * size, size, 1) * (keys->scales[i] * scale);
  softmax(scores, count);
  for (uint32_t i = 0; i < count; i++) scores[i] *= values->scales[i];
  weigh(scores, values->codes, size, count, size, out, 1);
}

void attend_floats(const float *query, const float *keys, const float *values, size_t stride,
                   uint32_t count, uint32_t size, float *scores, float *out) {
  float scale = 1 / __builtin_sqrtf((float)size);
  for (uint32_t i = 0; i < count; i++) scores[i] = product(query, keys, i * stride, size, 0) * scale;
  softmax(scores, count);
  weigh(scores, values, stride, count, size, out, 0);
}
