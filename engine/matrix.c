/* Single values of a matrix, for what is not worth a vector. */
#include "matrix.h"

static float float16(uint16_t half) {
  uint32_t bits = (uint32_t)(half & 0x7fff) << 13, sign = (uint32_t)(half & 0x8000) << 16;
  float magnitude, value;
  __builtin_memcpy(&magnitude, &bits, 4);
  magnitude *= 0x1p112f; /* float16's exponents begin 112 higher; subnormal numbers come out right */
  __builtin_memcpy(&bits, &magnitude, 4);
  bits |= sign;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

float scale_at(const Matrix *m, size_t row, uint32_t block) {
  size_t index = row * m->blocks + block;
  if (m->half_scales) {
    uint16_t half;
    __builtin_memcpy(&half, m->scales + 2 * index, 2);
    return float16(half);
  }
  float scale;
  __builtin_memcpy(&scale, m->scales + 4 * index, 4);
  return scale;
}

static uint32_t code_at(const uint8_t *packed, uint32_t index, uint32_t bits) {
  uint32_t bit = index * bits;
  return packed[bit / 8] >> (bit % 8) & ((1u << bits) - 1);
}

float zero_at(const Matrix *m, size_t row, uint32_t block) {
  if (!m->zeros) return (float)(1u << (m->bits - 1));
  return (float)code_at(m->zeros + row * zero_row_bytes(m), block, m->bits);
}

void read_row(const Matrix *m, size_t row, float *values) {
  const uint8_t *codes = m->codes + row * row_bytes(m);
  for (uint32_t block = 0; block < m->blocks; block++) {
    float scale = scale_at(m, row, block), zero = zero_at(m, row, block);
    uint32_t first = block * m->block_size, end = first + m->block_size;
    if (end > m->columns) end = m->columns;
    for (uint32_t i = first; i < end; i++) values[i] = ((float)code_at(codes, i, m->bits) - zero) * scale;
  }
}
