/* Norms of a token's hidden state; out may be x. */
#pragma once
#include "simd.h"

/* The RMS norm (Zhang and Sennrich, 2019). */
void rms_norm(const float *x, const float *gain, uint32_t size, float epsilon, float *out);
/* The layer norm (Ba, Kiros and Hinton, 2016). */
void layer_norm(const float *x, const float *gain, const float *shift, uint32_t size, float epsilon, float *out);
