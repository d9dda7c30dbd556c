/* Choosing among logits. */
#include "simd.h"

uint32_t likeliest(const float *logits, uint32_t count) {
  uint32_t best = 0;
  for (uint32_t i = 1; i < count; i++)
    if (logits[i] > logits[best]) best = i;
  return best;
}
