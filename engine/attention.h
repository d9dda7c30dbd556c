/* Attention of one head and one token over the keys and values of others. */
#pragma once
#include "functions.h"

/* Keys or values as a decoder keeps them: codes of 16 bits, vector after vector, each with a scale. */
typedef struct {
  int16_t *codes;
  float *scales;
} Remembered;

void remember(const float *vector, uint32_t size, int16_t *codes, float *scale);

/* keys, values: ``count`` of ``size`` numbers, a multiple of 16. scores: room for whole vectors.
   out: may not be the query. */
void attend(const float *query, const Remembered *keys, const Remembered *values, uint32_t count,
            uint32_t size, float *scores, float *out);
/* The same over floats, each vector ``stride`` behind the last. */
void attend_floats(const float *query, const float *keys, const float *values, size_t stride,
                   uint32_t count, uint32_t size, float *scores, float *out);
