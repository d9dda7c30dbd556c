/* Rotary positions (Su et al., 2021): the first half of a head turns with the second. */
#include "decoder.h"

void turns_of(uint32_t position, const float *frequencies, uint32_t half, float *turns) {
  for (uint32_t i = 0; i < half; i++) turn((float)position * frequencies[i], turns + i, turns + half + i);
}

void rotate(float *head, const float *turns, uint32_t half) {
  for (uint32_t i = 0; i < half; i += 4) {
    f32x4 a = load_floats(head + i), b = load_floats(head + half + i);
    f32x4 cosine = load_floats(turns + i), sine = load_floats(turns + half + i);
    store_floats(head + i, a * cosine - b * sine);
    store_floats(head + half + i, b * cosine + a * sine);
  }
}
