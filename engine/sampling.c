/* Arg-max and top-k, by a heap that most of a vocabulary never gets into. */
#include "sampling.h"

static int less_likely(const float *logits, uint32_t a, uint32_t b) {
  return logits[a] < logits[b] || (logits[a] == logits[b] && a > b);
}

/* Move the token at ``at`` down a heap whose root is the least likely. */
static void sink(const float *logits, uint32_t *heap, uint32_t size, uint32_t at) {
  const uint32_t token = heap[at];
  for (uint32_t child; (child = 2 * at + 1) < size; at = child) {
    if (child + 1 < size && less_likely(logits, heap[child + 1], heap[child])) child++;
    if (!less_likely(logits, heap[child], token)) break;
    heap[at] = heap[child];
  }
  heap[at] = token;
}

static void make_heap(const float *logits, uint32_t *heap, uint32_t size) {
  for (uint32_t at = size / 2; at-- > 0;) sink(logits, heap, size, at);
}

/* The first token from ``at`` on whose logit is at least ``least``. */
static uint32_t next_likely(const float *logits, uint32_t count, uint32_t at, float least) {
  for (; at + 16 <= count; at += 16) {
    i32x4 likely = {0};
    for (int i = 0; i < 16; i += 4) likely |= load_floats(logits + at + i) >= splat(least);
    if (likely[0] | likely[1] | likely[2] | likely[3]) break;
  }
  while (at < count && !(logits[at] >= least)) at++;
  return at;
}

/* The k-th largest logit, or minus infinity where there are no more. heap: k */
static float kth_largest(const float *logits, uint32_t count, uint32_t k, uint32_t *heap) {
  uint32_t at = 0, size = 0;
  for (; at < count && size < k; at++)
    if (logits[at] == logits[at]) heap[size++] = at;
  if (size < k) return -__builtin_inff();
  make_heap(logits, heap, k);
  while ((at = next_likely(logits, count, at, logits[heap[0]])) < count) {
    if (less_likely(logits, heap[0], at)) heap[0] = at, sink(logits, heap, k, 0);
    at++;
  }
  return logits[heap[0]];
}

uint32_t most_likely(const float *logits, uint32_t count, uint32_t k, uint32_t *ids) {
  float least = kth_largest(logits, count, k, ids);
  uint32_t found = 0;
  for (uint32_t at = 0; (at = next_likely(logits, count, at, least)) < count; at++) ids[found++] = at;
  make_heap(logits, ids, found);
  for (uint32_t left = found; left-- > 1;) { /* the least likely of those left goes behind them */
    uint32_t last = ids[left];
    ids[left] = ids[0], ids[0] = last;
    sink(logits, ids, left, 0);
  }
  return found;
}
