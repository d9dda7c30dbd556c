/* Reading words, and cutting memory into pieces. */
#include "description.h"

enum { MOST_THREADS = 64, SMALLEST_BLOCK = 32 };

uint32_t engine_version(void) { return VERSION; }

uint32_t number(Reader *reader) { return *reader->next++; }

float real(Reader *reader) {
  float value;
  __builtin_memcpy(&value, reader->next++, sizeof value);
  return value;
}

const void *place(Reader *reader) {
  uint32_t offset = number(reader);
  return offset == NOWHERE ? NULL : reader->base + offset;
}

Matrix matrix(Reader *reader) {
  Matrix m = {0};
  m.rows = number(reader), m.columns = number(reader);
  m.bits = number(reader), m.block_size = number(reader), m.half_scales = number(reader);
  m.codes = place(reader), m.scales = place(reader), m.zeros = place(reader), m.bias = place(reader);
  m.blocks = m.block_size ? (m.columns + m.block_size - 1) / m.block_size : 0;
  return m;
}

int is_computed(const Matrix *m, uint32_t rows, uint32_t columns) {
  int bits = m->bits == 2 || m->bits == 4 || m->bits == 8;
  int block = m->block_size == 32 || m->block_size == 64 || m->block_size == 128;
  return bits && block && m->rows == rows && m->columns == columns && m->codes && m->scales;
}

void *carve(Region *region, uint64_t count, uint64_t size) {
  void *piece = region->start ? region->start + region->used : NULL;
  region->used += (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return piece;
}

void carve_workplace(Region *region, Workplace *work, uint32_t tokens, uint32_t attended, uint32_t widest) {
  Rounded *rounded = work->rounded = carve(region, tokens, sizeof *work->rounded);
  uint32_t columns = widest + GROUP * LARGEST_BLOCK;
  for (uint32_t t = 0; t < tokens; t++) {
    int8_t *codes = carve(region, columns, 2), *flips = carve(region, columns, 1);
    float *scales = carve(region, columns / SMALLEST_BLOCK, sizeof(float));
    float *sums = carve(region, columns / SMALLEST_BLOCK, sizeof(float));
    int32_t *missing = carve(region, columns / SMALLEST_BLOCK, sizeof(int32_t));
    if (rounded) rounded[t] = (Rounded){codes, flips, scales, sums, missing};
  }
  uint32_t threads = work->team.threads;
  float **scores = work->scores = carve(region, threads, sizeof *work->scores);
  float **vectors = work->vectors = carve(region, threads, sizeof *work->vectors);
  uint8_t **scratch = work->scratch = carve(region, threads, sizeof *work->scratch);
  for (uint32_t t = 0; t < threads; t++) {
    float *own_scores = carve(region, (uint64_t)attended + 4, sizeof(float));
    float *vector = carve(region, widest, sizeof(float));
    uint8_t *unpacked = carve(region, unpacked_bytes(widest), 1);
    if (scores) scores[t] = own_scores, vectors[t] = vector, scratch[t] = unpacked;
  }
}

int threads_are_computed(const Workplace *work) {
  return work->team.threads >= 1 && work->team.threads <= MOST_THREADS;
}

size_t region_bytes(const Region *region) { return region->used < SIZE_MAX ? (size_t)region->used : SIZE_MAX; }
