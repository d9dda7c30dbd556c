/* Matrices as MatMulNBits stores them: rows of blocks of integer codes.

   A value is scale * (code - zero point). The first code of a byte sits in its lowest bits; a row
   whose blocks hold more than its columns is filled up. Zero points are packed as codes are, from a
   new byte in each row; without them every one is the middle code. Behind a tensor some 16 bytes can
   be read, whatever they are: vectors are loaded whole. */
#pragma once
#include "simd.h"

typedef struct {
  const uint8_t *codes;   /* rows, blocks, block_size * bits / 8 */
  const uint8_t *scales;  /* rows, blocks: float32 or float16 */
  const uint8_t *zeros;   /* rows, ceil(blocks * bits / 8), or NULL */
  const float *bias;      /* rows, or NULL */
  uint32_t rows, columns, bits, block_size, blocks, half_scales;
} Matrix;

/* The activations of one token, rounded to 8 bits in the blocks of the matrix that they meet.

   A value is scale * code. Codes stand in the order in which the matrix's codes come out of their
   bytes (see rounding.c), and fill whole groups of four blocks. */
typedef struct {
  int8_t *codes;    /* magnitudes, where the matrix's codes are flipped */
  int8_t *flips;    /* there: the bits to flip in each of the matrix's codes */
  float *scales;    /* of each block */
  float *sums;      /* of each block's codes, signs and all */
  int32_t *missing; /* there: what a block's product with magnitudes lacks */
} Rounded;

enum { GROUP = 4, LARGEST_BLOCK = 128 };

INLINE uint32_t padded_blocks(uint32_t blocks) { return (blocks + GROUP - 1) / GROUP * GROUP; }
INLINE size_t block_bytes(const Matrix *m) { return m->block_size * m->bits / 8; }
INLINE size_t row_bytes(const Matrix *m) { return m->blocks * block_bytes(m); }
INLINE size_t scale_row_bytes(const Matrix *m) { return m->blocks * (m->half_scales ? 2 : 4); }
INLINE size_t zero_row_bytes(const Matrix *m) { return (m->blocks * m->bits + 7) / 8; }

/* Whether codes meet activations as bytes; else both are widened to 16 bits. */
INLINE int meets_as_bytes(uint32_t bits) {
#if defined(__wasm_relaxed_simd__)
  return bits >= 4;
#else
  (void)bits;
  return 0;
#endif
}
/* Whether the matrix's codes take the signs of the activations: see rounding.c. */
INLINE int is_flipped(uint32_t bits) { return bits == 8 && meets_as_bytes(bits); }
INLINE size_t code_bytes(uint32_t bits) { return meets_as_bytes(bits) ? 1 : 2; }

float scale_at(const Matrix *m, size_t row, uint32_t block);
float zero_at(const Matrix *m, size_t row, uint32_t block);

/* One row as floats: columns. */
void read_row(const Matrix *m, size_t row, float *values);

/* Of some numbers, whole vectors of them. */
float largest_magnitude(const float *x, uint32_t count);

/* x (columns) to 8 bits, for a product with m. */
void round_to_bytes(const Matrix *m, const float *x, Rounded *rounded);

/* What unpacked rows need for the products of several tokens: bytes, for matrices no wider. */
size_t unpacked_bytes(uint32_t columns);

/* Products of some rows with tokens' activations.

   out: the element (token, row) lies at out[token * stride + row].
   add: whether products are added to what is there.
   scratch: unpacked_bytes. */
void multiply(const Matrix *m, const Rounded *tokens, uint32_t count, uint32_t first_row,
              uint32_t end_row, float *out, size_t stride, int add, uint8_t *scratch);

/* Whether products come out right on this machine, by some that are computed both ways. */
uint32_t products_hold(void);
