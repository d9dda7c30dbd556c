/* Activations to 8 bits: each block by its own largest magnitude.

   Codes are stored in the order that their partners have when they are taken out of bytes, in runs
   of 32: as they are (8 bits); every fourth together (2 and 4 bits, taken from 16-bit lanes); even
   ones, then odd ones (4 bits that meet as bytes).

   Where bytes meet, the relaxed instruction wants one side between 0 and 127. Codes of 4 bits are.
   Those of 8 bits, c, are not; there the activations x are, as magnitudes, and the matrix takes their
   signs: c - 128 is c with its highest bit flipped, and with all the others flipped it is -1 less that.
   So x (c - 128) is |x| times what c is flipped to, and |x| more where x is negative; with 128 x that
   makes what a block's product then lacks. */
#include "matrix.h"

enum { RUN = 32 };

/* Returns what the matrix's product with the run lacks. */
static int32_t store_run(const int16_t *run, int8_t *codes, int8_t *flips, uint32_t bits) {
  int16_t *wide = (int16_t *)codes;
  int32_t missing = 0;
  if (is_flipped(bits)) {
    for (int i = 0; i < RUN; i++) {
      int negative = run[i] < 0, magnitude = negative ? -run[i] : run[i];
      codes[i] = (int8_t)magnitude;
      flips[i] = negative ? INT8_MAX : INT8_MIN;
      missing += 128 * run[i] + (negative ? magnitude : 0);
    }
  } else if (meets_as_bytes(bits)) {
    for (int i = 0; i < 16; i++) codes[i] = (int8_t)run[2 * i];
    for (int i = 0; i < 16; i++) codes[16 + i] = (int8_t)run[2 * i + 1];
  } else if (bits == 8) {
    for (int i = 0; i < RUN; i++) wide[i] = run[i];
  } else {
    for (int j = 0; j < 4; j++)
      for (int i = 0; i < 8; i++) wide[8 * j + i] = run[4 * i + j];
  }
  return missing;
}

float largest_magnitude(const float *x, uint32_t count) {
  f32x4 largest = splat(0);
  for (uint32_t i = 0; i < count; i += 4) largest = larger(largest, absolute(load_floats(x + i)));
  float ab = largest[0] > largest[1] ? largest[0] : largest[1];
  float cd = largest[2] > largest[3] ? largest[2] : largest[3];
  return ab > cd ? ab : cd;
}

static void round_block(const float *x, const Matrix *m, Rounded *rounded, uint32_t block) {
  const uint32_t size = m->block_size;
  int8_t *codes = rounded->codes + (size_t)block * size * code_bytes(m->bits);
  int8_t *flips = rounded->flips + (size_t)block * size;
  float largest = largest_magnitude(x, size);
  float inverse = largest > 0 ? 127 / largest : 0;
  i32x4 total = {0};
  int32_t missing = 0;
  for (uint32_t start = 0; start < size; start += RUN) {
    int16_t run[RUN];
    for (int i = 0; i < RUN; i += 4) {
      f32x4 whole = nearest(load_floats(x + start + i) * splat(inverse));
      i32x4 code = __builtin_convertvector(whole, i32x4);
      total += code;
      for (int j = 0; j < 4; j++) run[i + j] = (int16_t)code[j];
    }
    missing += store_run(run, codes + start * code_bytes(m->bits), flips + start, m->bits);
  }
  rounded->scales[block] = largest / 127;
  rounded->sums[block] = (float)((total[0] + total[1]) + (total[2] + total[3]));
  rounded->missing[block] = missing;
}

void round_to_bytes(const Matrix *m, const float *x, Rounded *rounded) {
  size_t stride = m->block_size * code_bytes(m->bits);
  uint32_t block = 0;
  for (; block < m->columns / m->block_size; block++)
    round_block(x + block * m->block_size, m, rounded, block);
  if (block < m->blocks) { /* the last block is filled up with zeros */
    float last[LARGEST_BLOCK] = {0};
    uint32_t first = block * m->block_size;
    for (uint32_t i = first; i < m->columns; i++) last[i - first] = x[i];
    round_block(last, m, rounded, block++);
  }
  for (; block < padded_blocks(m->blocks); block++) {
    __builtin_memset(rounded->codes + block * stride, 0, stride);
    rounded->scales[block] = rounded->sums[block] = 0;
    rounded->missing[block] = 0;
  }
}
