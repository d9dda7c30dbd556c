/* What the threads of a model work with, and the job that they share most often. */
#pragma once
#include "matrix.h"
#include "team.h"

typedef struct {
  Team team;
  Rounded *rounded;  /* of the tokens that go through the layers together */
  float **scores;    /* of each thread: one for each token that is attended to */
  float **vectors;   /* of each thread: the widest input of a matrix */
  uint8_t **scratch; /* of each thread: unpacked_bytes */
} Workplace;

/* The product of a matrix with the first rounded tokens; out, stride, add: as multiply() has them. */
void share_product(Workplace *work, const Matrix *m, uint32_t tokens, float *out, size_t stride, int add);
