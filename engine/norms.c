#include "norms.h"

void rms_norm(const float *x, const float *gain, uint32_t size, float epsilon, float *out) {
  f32x4 squares = splat(0);
  uint32_t i = 0;
  for (; i + 4 <= size; i += 4) {
    f32x4 four = load_floats(x + i);
    squares += four * four;
  }
  float total = sum(squares);
  for (; i < size; i++) total += x[i] * x[i];
  float factor = 1 / __builtin_sqrtf(total / (float)size + epsilon);
  for (i = 0; i + 4 <= size; i += 4)
    store_floats(out + i, load_floats(x + i) * splat(factor) * load_floats(gain + i));
  for (; i < size; i++) out[i] = x[i] * factor * gain[i];
}

static float mean(const float *x, uint32_t size) {
  f32x4 four = splat(0);
  uint32_t i = 0;
  for (; i + 4 <= size; i += 4) four += load_floats(x + i);
  float total = sum(four);
  for (; i < size; i++) total += x[i];
  return total / (float)size;
}

void layer_norm(const float *x, const float *gain, const float *shift, uint32_t size, float epsilon, float *out) {
  float middle = mean(x, size);
  f32x4 squares = splat(0);
  uint32_t i = 0;
  for (; i + 4 <= size; i += 4) {
    f32x4 four = load_floats(x + i) - splat(middle);
    squares += four * four;
  }
  float total = sum(squares);
  for (; i < size; i++) total += (x[i] - middle) * (x[i] - middle);
  float factor = 1 / __builtin_sqrtf(total / (float)size + epsilon);
  for (i = 0; i + 4 <= size; i += 4) {
    f32x4 four = (load_floats(x + i) - splat(middle)) * splat(factor);
    store_floats(out + i, four * load_floats(gain + i) + load_floats(shift + i));
  }
  for (; i < size; i++) out[i] = (x[i] - middle) * factor * gain[i] + shift[i];
}
