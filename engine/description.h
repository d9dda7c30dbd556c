/* Models' descriptions, and the memory that models take: what decoders and encoders share. */
#pragma once
#include "workplace.h"

enum { VERSION = 2, NOWHERE = 0xffffffff, MATRIX_WORDS = 9, ALIGNMENT = 64 };
enum { MOST_LAYERS = 1024, MOST_SIZE = 1 << 20 };

/* Of descriptions and of the functions that a browser calls. */
uint32_t engine_version(void);

/* Words, one after the other. */
typedef struct {
  const uint32_t *next;
  const uint8_t *base; /* what places are counted from */
} Reader;

uint32_t number(Reader *reader);
float real(Reader *reader);
/* NULL where there is none. */
const void *place(Reader *reader);
Matrix matrix(Reader *reader);

/* Whether products with this matrix are computed, and it has this shape. */
int is_computed(const Matrix *m, uint32_t rows, uint32_t columns);

/* Pieces of one region, one after the other; with NULL as the start their sizes are only counted. */
typedef struct {
  uint8_t *start;
  uint64_t used; /* a description may ask for more than there are addresses */
} Region;

void *carve(Region *region, uint64_t count, uint64_t size);
/* tokens: that go through the layers together; attended: at most; widest: of the inputs of matrices. */
void carve_workplace(Region *region, Workplace *work, uint32_t tokens, uint32_t attended, uint32_t widest);
int threads_are_computed(const Workplace *work);
/* The region's size, as decoder_bytes and encoder_bytes say it. */
size_t region_bytes(const Region *region);

INLINE uint32_t most(uint32_t a, uint32_t b) { return a > b ? a : b; }
