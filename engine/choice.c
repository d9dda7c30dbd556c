/* Choosing among logits: the likeliest, and the k likeliest. */
#include "simd.h"

uint32_t likeliest(const float *logits, uint32_t count) {
  uint32_t best = 0;
  for (uint32_t i = 1; i < count; i++)
    if (logits[i] > logits[best]) best = i;
  return best;
}

/* The k-th largest of the logits, by a heap of the k largest so far, its root the least. */
float threshold(const float *logits, uint32_t count, uint32_t k, float *heap) {
  for (uint32_t i = 0; i < k; i++) heap[i] = -__builtin_inff();
  for (uint32_t i = 0; i < count; i++) {
    float value = logits[i];
    if (!(value > heap[0])) continue;
    uint32_t at = 0;
    for (uint32_t child; (child = 2 * at + 1) < k; at = child) {
      if (child + 1 < k && heap[child + 1] < heap[child]) child++;
      if (heap[child] >= value) break;
      heap[at] = heap[child];
    }
    heap[at] = value;
  }
  return heap[0];
}
