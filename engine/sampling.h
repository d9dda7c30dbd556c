/* Which tokens are likely: what sampling looks for among the logits of a whole vocabulary. */
#pragma once
#include "simd.h"

/* The k tokens with the largest logits, and all that equal the last of them, likeliest first; equal
   ones in the vocabulary's order. Returns how many they are. A logit that is no number is not likely.

   ids: has room for ``count``. k: 1 or more; with 1 the first of ids is the arg-max. */
uint32_t most_likely(const float *logits, uint32_t count, uint32_t k, uint32_t *ids);
