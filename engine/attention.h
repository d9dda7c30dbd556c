/* Attention of one head and one token over the keys and values of others. */
#pragma once
#include "functions.h"

/* keys, values: ``count`` of ``size`` numbers, a multiple of 16, each ``stride`` behind the last.
   scores: room for whole vectors. out: may not be the query. */
void attend(const float *query, const float *keys, const float *values, size_t stride, uint32_t count,
            uint32_t size, float *scores, float *out);
