/* Products of a matrix with activations that are rounded to 8 bits.

   A block's product is a sum of whole numbers, exact in float32 (255 * 127 * 128 < 2²⁴), and so is
   its difference to the zero point's share. Scales come in only behind it, and there rounding begins:
   four sums, each of every fourth block, and then their sum. One token alone has the four sums of a
   row side by side in a vector, and meets two rows at once. Several tokens have those of four rows
   there, which are unpacked once for all of them; the result has the same bits. */
#include "matrix.h"

enum { TOKENS = 4, QUADS = 2, ROWS = 4 * QUADS }; /* that are multiplied at once */
enum { UNPACKED = 32 << 10 }; /* bytes of unpacked rows at once */
enum { MEMORY_PAGE = 4096, LINE = 64, TOUCHED = 4 }; /* bytes, bytes, lines */

/* The upper four bits of each byte. Lanes of 16 bits, for shifts of bytes are none of x86's: what
   an engine puts in their place builds its mask anew each time. */
INLINE u8x16 upper_halves(u8x16 both) { return (u8x16)((u16x8)both >> 4) & 15; }

/* The products of 32 codes with their activations, in four partial sums. */
INLINE i32x4 run_product(const uint8_t *codes, const int8_t *activations, const int8_t *flips, uint32_t bits,
                         i32x4 total) {
  const i16x8 *wide = (const i16x8 *)activations;
#if defined(__wasm_relaxed_simd__)
  if (bits == 8) {
    for (int i = 0; i < 32; i += 16) {
      i8x16 flipped = (i8x16)(load_bytes(codes + i) ^ load_bytes(flips + i));
      total = four_products(flipped, load_bytes(activations + i), total);
    }
    return total;
  }
  if (bits == 4) {
    u8x16 both = load_bytes(codes);
    total = four_products((i8x16)load_bytes(activations), both & 15, total);
    return four_products((i8x16)load_bytes(activations + 16), upper_halves(both), total);
  }
#else
  (void)flips;
#endif
  if (bits == 8) {
    for (int i = 0; i < 4; i++) {
      i16x8 eight = __builtin_convertvector(load_8_bytes(codes + 8 * i), i16x8);
      total += pair_products(load_shorts(wide + i), eight);
    }
    return total;
  }
  u16x8 four = bits == 4 ? (u16x8)load_bytes(codes) : __builtin_convertvector(load_8_bytes(codes), u16x8);
  uint16_t mask = (uint16_t)((1 << bits) - 1);
  for (int i = 0; i < 4; i++) {
    u16x8 one = four >> (uint16_t)(bits * i);
    if (bits == 2 || i < 3) one &= mask; /* of 4 bits, nothing stands above the fourth */
    total += pair_products(load_shorts(wide + i), (i16x8)one);
  }
  return total;
}

/* index: of the block in its row. */
INLINE i32x4 block_product(const uint8_t *row, const Rounded *token, uint32_t index, uint32_t bits,
                           uint32_t runs) {
  i32x4 total = {0};
  for (size_t i = (size_t)index * runs; i < ((size_t)index + 1) * runs; i++) {
    const int8_t *activations = token->codes + 32 * code_bytes(bits) * i;
    total = run_product(row + 4 * bits * i, activations, token->flips + 32 * i, bits, total);
  }
  return total;
}

INLINE f32x4 four_scales(const uint8_t *scales, uint32_t block, uint32_t half_scales) {
  if (!half_scales) return load_floats(scales + 4 * block);
  u32x4 half = __builtin_convertvector(load_4_shorts(scales + 2 * block), u32x4);
  f32x4 magnitude = (f32x4)((half & 0x7fff) << 13) * splat(0x1p112f); /* as float16() has it */
  return (f32x4)((u32x4)magnitude | (half & 0x8000) << 16);
}

/* Of four blocks in whole bytes: packed numbers, each where it stands, then moved down. */
INLINE f32x4 four_zeros(const uint8_t *zeros, uint32_t block, uint32_t bits) {
  if (bits == 8) {
    const uint8_t *four = zeros + block;
    return to_floats((i32x4){four[0], four[1], four[2], four[3]});
  }
  if (bits == 4) {
    uint16_t packed;
    __builtin_memcpy(&packed, zeros + block / 2, sizeof packed);
    i32x4 apart = (i32x4){packed, packed, packed, packed} & (i32x4){0xf, 0xf0, 0xf00, 0xf000};
    return to_floats(apart) * (f32x4){1, 0x1p-4f, 0x1p-8f, 0x1p-12f};
  }
  int32_t packed = zeros[block / 4];
  i32x4 apart = (i32x4){packed, packed, packed, packed} & (i32x4){3, 12, 48, 192};
  return to_floats(apart) * (f32x4){1, 0x1p-2f, 0x1p-4f, 0x1p-6f};
}

/* Four blocks' exact products, less the zero points' share, in the values' own units. */
INLINE f32x4 scaled(i32x4 products, f32x4 scales, f32x4 zeros, const Rounded *token, uint32_t block,
                    uint32_t bits) {
  if (is_flipped(bits)) products += load_words(token->missing + block);
  f32x4 exact = to_floats(products) - zeros * load_floats(token->sums + block);
  return exact * (scales * load_floats(token->scales + block));
}

/* The first lanes as they are, 0 in the others. */
INLINE f32x4 first_lanes(f32x4 x, uint32_t count) {
  return (f32x4)((i32x4)x & ((i32x4){0, 1, 2, 3} < (i32x4){0} + (int32_t)count));
}

/* Where a row's codes, scales and zero points lie. */
typedef struct {
  const uint8_t *codes, *scales, *zeros;
} Row;

INLINE Row row_at(const Matrix *m, size_t row) {
  const uint8_t *zeros = m->zeros ? m->zeros + row * zero_row_bytes(m) : NULL;
  return (Row){m->codes + row * row_bytes(m), m->scales + row * scale_row_bytes(m), zeros};
}

/* ``count`` blocks, at most GROUP, of two rows with one token: what is loaded of it serves both. */
INLINE void group_products(const Matrix *m, const Row rows[2], const Rounded *token, uint32_t block,
                           uint32_t count, uint32_t bits, uint32_t runs, f32x4 totals[2]) {
  i32x4 products[2][GROUP] = {{{0}}};
#pragma clang loop unroll(full)
  for (uint32_t i = 0; i < GROUP; i++)
#pragma clang loop unroll(full)
    for (int r = 0; r < 2; r++)
      if (i < count) products[r][i] = block_product(rows[r].codes, token, block + i, bits, runs);
#pragma clang loop unroll(full)
  for (int r = 0; r < 2; r++) {
    /* behind a row's end stand another's: whatever a zero point is, its activations' sum is 0 */
    f32x4 zeros = m->zeros ? four_zeros(rows[r].zeros, block, bits) : splat((float)(1 << (bits - 1)));
    f32x4 scales = four_scales(rows[r].scales, block, m->half_scales);
    if (count < GROUP) scales = first_lanes(scales, count);
    const i32x4 *p = products[r];
    totals[r] += scaled(sums(p[0], p[1], p[2], p[3]), scales, zeros, token, block, bits);
  }
}

INLINE void two_products(const Matrix *m, const Row rows[2], const Rounded *token, uint32_t bits,
                         uint32_t runs, float out[2]) {
  f32x4 totals[2] = {{0}};
  uint32_t block = 0;
  for (; block + GROUP <= m->blocks; block += GROUP)
    group_products(m, rows, token, block, GROUP, bits, runs, totals);
  if (block < m->blocks) group_products(m, rows, token, block, m->blocks - block, bits, runs, totals);
  out[0] = sum(totals[0]), out[1] = sum(totals[1]);
}

/* ROWS rows taken out of their bytes. Codes are in the order of the activations, bytes or 16 bits wide:
   four bytes of the first row, then of the next, and so on. */
typedef struct {
  uint8_t *codes;
  float *scales, *zeros; /* blocks, ROWS */
} Unpacked;

static size_t unpacked_row_bytes(const Matrix *m) {
  return m->blocks * (m->block_size * code_bytes(m->bits) + 2 * sizeof(float));
}

size_t unpacked_bytes(uint32_t columns) {
  size_t row = (size_t)(columns + LARGEST_BLOCK) * (2 + 2 * sizeof(float) / 32);
  return ROWS * row > UNPACKED ? ROWS * row : UNPACKED;
}

static Unpacked unpacked_at(const Matrix *m, uint8_t *scratch, uint32_t index) {
  uint8_t *start = scratch + index * unpacked_row_bytes(m);
  float *scales = (float *)(start + ROWS * m->blocks * m->block_size * code_bytes(m->bits));
  return (Unpacked){start, scales, scales + ROWS * m->blocks};
}

INLINE void unpack_run(const uint8_t *codes, uint8_t *out, uint32_t bits) {
  if (is_flipped(bits)) {
    __builtin_memcpy(out, codes, 32);
  } else if (meets_as_bytes(bits)) {
    u8x16 both = load_bytes(codes);
    store_bytes(out, both & 15);
    store_bytes(out + 16, upper_halves(both));
  } else if (bits == 8) {
    for (int i = 0; i < 4; i++)
      store_bytes(out + 16 * i, (u8x16)__builtin_convertvector(load_8_bytes(codes + 8 * i), i16x8));
  } else {
    u16x8 four = bits == 4 ? (u16x8)load_bytes(codes) : __builtin_convertvector(load_8_bytes(codes), u16x8);
    for (int i = 0; i < 4; i++)
      store_bytes(out + 16 * i, (u8x16)(four >> (uint16_t)(bits * i) & (uint16_t)((1 << bits) - 1)));
  }
}

/* Sixteen bytes of each of four rows, as Unpacked has them. */
INLINE void interleave(const uint8_t *rows, size_t stride, uint8_t *out) {
  i32x4 a = (i32x4)load_bytes(rows), b = (i32x4)load_bytes(rows + stride);
  i32x4 c = (i32x4)load_bytes(rows + 2 * stride), d = (i32x4)load_bytes(rows + 3 * stride);
  i32x4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  store_bytes(out, (u8x16)__builtin_shufflevector(ab, cd, 0, 1, 4, 5));
  store_bytes(out + 4 * ROWS, (u8x16)__builtin_shufflevector(ab, cd, 2, 3, 6, 7));
  ab = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  store_bytes(out + 8 * ROWS, (u8x16)__builtin_shufflevector(ab, cd, 0, 1, 4, 5));
  store_bytes(out + 12 * ROWS, (u8x16)__builtin_shufflevector(ab, cd, 2, 3, 6, 7));
}

/* Rows from ``first`` on; behind the matrix's end its last row again, for nobody to look at. */
INLINE void unpack_rows(const Matrix *m, uint32_t first, Unpacked out, uint32_t bits) {
  const uint32_t runs = m->blocks * m->block_size / 32, size = 32 * code_bytes(bits);
  uint32_t rows[ROWS];
  for (uint32_t r = 0; r < ROWS; r++) rows[r] = first + r < m->rows ? first + r : m->rows - 1;
  for (uint32_t i = 0; i < runs; i++) {
    uint8_t run[ROWS * 64];
    for (uint32_t r = 0; r < ROWS; r++)
      unpack_run(m->codes + rows[r] * row_bytes(m) + 4 * bits * i, run + size * r, bits);
    for (uint32_t q = 0; q < QUADS; q++)
      for (uint32_t at = 0; at < size; at += 16)
        interleave(run + 4 * q * size + at, size, out.codes + ROWS * (size * i + at) + 16 * q);
  }
  for (uint32_t block = 0; block < m->blocks; block++)
    for (uint32_t r = 0; r < ROWS; r++) {
      out.scales[block * ROWS + r] = scale_at(m, rows[r], block);
      out.zeros[block * ROWS + r] = zero_at(m, rows[r], block);
    }
}

/* Four bytes of activations with those of the codes of four rows. */
INLINE i32x4 lane_products(const uint8_t *codes, i32x4 activations, i32x4 flips, uint32_t bits, i32x4 total) {
#if defined(__wasm_relaxed_simd__)
  if (bits == 8) return four_products((i8x16)load_bytes(codes) ^ (i8x16)flips, (u8x16)activations, total);
  if (bits == 4) return four_products((i8x16)activations, load_bytes(codes), total);
#endif
  (void)flips, (void)bits;
  return total + pair_products((i16x8)activations, load_shorts(codes));
}

INLINE i32x4 splat_bytes(const int8_t *four) {
  int32_t x;
  __builtin_memcpy(&x, four, sizeof x);
  return (i32x4){x, x, x, x};
}

/* Unpacked rows with some tokens. */
INLINE void row_products(const Matrix *m, Unpacked rows, const Rounded *tokens, uint32_t count, uint32_t bits,
                         float out[TOKENS][ROWS]) {
  const uint32_t size = m->block_size * code_bytes(bits); /* of a block's codes in one row */
  f32x4 totals[GROUP][TOKENS][QUADS] = {{{{0}}}};
  for (uint32_t block = 0; block < m->blocks; block++) {
    i32x4 products[TOKENS][QUADS] = {{{0}}};
    const uint8_t *codes = rows.codes + (size_t)ROWS * block * size;
    for (uint32_t at = 0; at < size; at += 4)
      for (uint32_t t = 0; t < count; t++) {
        i32x4 activations = splat_bytes(tokens[t].codes + block * size + at), flips = {0};
        if (is_flipped(bits)) flips = splat_bytes(tokens[t].flips + block * size + at);
        for (uint32_t q = 0; q < QUADS; q++)
          products[t][q] = lane_products(codes + ROWS * at + 16 * q, activations, flips, bits, products[t][q]);
      }
    for (uint32_t t = 0; t < count; t++)
      for (uint32_t q = 0; q < QUADS; q++) {
        if (is_flipped(bits)) products[t][q] += tokens[t].missing[block];
        f32x4 zeros = load_floats(rows.zeros + block * ROWS + 4 * q);
        f32x4 scales = load_floats(rows.scales + block * ROWS + 4 * q);
        f32x4 exact = to_floats(products[t][q]) - zeros * splat(tokens[t].sums[block]);
        totals[block % GROUP][t][q] += exact * (scales * splat(tokens[t].scales[block]));
      }
  }
  for (uint32_t t = 0; t < count; t++)
    for (uint32_t q = 0; q < QUADS; q++)
      store_floats(out[t] + 4 * q, (totals[0][t][q] + totals[1][t][q]) + (totals[2][t][q] + totals[3][t][q]));
}

typedef struct {
  const Matrix *m;
  const Rounded *tokens;
  uint32_t count, first_row, end_row;
  float *out;
  size_t stride;
  int add;
  uint8_t *scratch;
} Task;

INLINE void put(const Task *task, uint32_t token, uint32_t row, float value) {
  float *at = task->out + token * task->stride + row;
  if (task->m->bias) value += task->m->bias[row];
  *at = task->add ? *at + value : value;
}

/* Ask for what is needed soon, while something else is computed. WebAssembly has no instruction for it
   but to load. What is asked for may lie behind the weights, where the workplace is: that is larger than
   what two rows and two pages take. */
INLINE void touch(const uint8_t *start, uint32_t lines) {
  for (uint32_t i = 0; i < lines; i++) {
#if defined(__wasm__)
    (void)*(const volatile uint8_t *)(start + i * LINE);
#else
    __builtin_prefetch(start + i * LINE);
#endif
  }
}

/* The next rows of a tensor, for processors that fetch little ahead by themselves, as those of some
   virtual machines; and the first lines of the next page, once a page. Others fetch ahead within a page
   alone and begin anew in each: at its start they wait for the translation of its address, then for
   lines, until they have seen where the reading goes. */
INLINE void touch_behind(const uint8_t *rows, size_t bytes) {
  const uint8_t *next = rows + bytes;
  touch(next, (uint32_t)((bytes + LINE - 1) / LINE));
  uintptr_t page = (uintptr_t)next / MEMORY_PAGE;
  if ((uintptr_t)rows / MEMORY_PAGE != page) touch((const uint8_t *)((page + 1) * MEMORY_PAGE), TOUCHED);
}

INLINE void multiply_one(const Task *task, uint32_t bits, uint32_t runs) {
  const Matrix *m = task->m;
  for (uint32_t row = task->first_row; row < task->end_row; row += 2) {
    int alone = row + 1 == task->end_row; /* then it stands for both */
    const Row rows[2] = {row_at(m, row), row_at(m, alone ? row : row + 1)};
    float out[2];
    touch_behind(rows[0].codes, 2 * row_bytes(m));
    touch_behind(rows[0].scales, 2 * scale_row_bytes(m));
    two_products(m, rows, task->tokens, bits, runs, out);
    put(task, 0, row, out[0]);
    if (!alone) put(task, 0, row + 1, out[1]);
  }
}

/* Each number of tokens is written out, whose sums then stay in registers. */
#define WIDTH(bits)                                                                       \
  static void some_products_##bits(const Matrix *m, Unpacked rows, const Rounded *tokens, \
                                   uint32_t count, float out[TOKENS][ROWS]) {             \
    if (count == 4)                                                                       \
      row_products(m, rows, tokens, 4, bits, out);                                        \
    else if (count == 3)                                                                  \
      row_products(m, rows, tokens, 3, bits, out);                                        \
    else if (count == 2)                                                                  \
      row_products(m, rows, tokens, 2, bits, out);                                        \
    else                                                                                  \
      row_products(m, rows, tokens, 1, bits, out);                                        \
  }
WIDTH(2)
#if defined(__wasm_relaxed_simd__)
WIDTH(4)
WIDTH(8)
#else /* all are widened to 16 bits */
#define some_products_4 some_products_2
#define some_products_8 some_products_2
#endif

/* The tokens with the unpacked rows from ``first`` to ``end``. */
static void multiply_unpacked(const Task *task, uint32_t first, uint32_t end) {
  const Matrix *m = task->m;
  for (uint32_t t = 0; t < task->count; t += TOKENS) {
    uint32_t count = task->count - t < TOKENS ? task->count - t : TOKENS;
    for (uint32_t row = first; row < end; row += ROWS) {
      float out[TOKENS][ROWS];
      Unpacked rows = unpacked_at(m, task->scratch, row - first);
      if (m->bits == 8)
        some_products_8(m, rows, task->tokens + t, count, out);
      else if (m->bits == 4)
        some_products_4(m, rows, task->tokens + t, count, out);
      else
        some_products_2(m, rows, task->tokens + t, count, out);
      for (uint32_t i = 0; i < count; i++)
        for (uint32_t r = 0; r < ROWS && row + r < end; r++) put(task, t + i, row + r, out[i][r]);
    }
  }
}

INLINE void multiply_many(const Task *task, uint32_t bits) {
  uint32_t fitting = (uint32_t)(UNPACKED / unpacked_row_bytes(task->m)) / ROWS * ROWS;
  uint32_t rows = fitting ? fitting : ROWS;
  for (uint32_t first = task->first_row; first < task->end_row; first += rows) {
    uint32_t end = first + rows < task->end_row ? first + rows : task->end_row;
    for (uint32_t row = first; row < end; row += ROWS)
      unpack_rows(task->m, row, unpacked_at(task->m, task->scratch, row - first), bits);
    multiply_unpacked(task, first, end);
  }
}

/* Each width and block size is written out: with its constants the compiler makes one loop fast. */
#define SIZES(bits)                                                            \
  static void multiply_##bits(const Task *task) {                              \
    if (task->count > 1)                                                       \
      multiply_many(task, bits);                                               \
    else if (task->m->block_size == 32)                                        \
      multiply_one(task, bits, 1);                                             \
    else if (task->m->block_size == 64)                                        \
      multiply_one(task, bits, 2);                                             \
    else                                                                       \
      multiply_one(task, bits, 4);                                             \
  }
SIZES(2)
SIZES(4)
SIZES(8)

void multiply(const Matrix *m, const Rounded *tokens, uint32_t count, uint32_t first_row, uint32_t end_row,
              float *out, size_t stride, int add, uint8_t *scratch) {
  Task task = {m, tokens, count, first_row, end_row, out, stride, add, scratch};
  if (m->bits == 2)
    multiply_2(&task);
  else if (m->bits == 4)
    multiply_4(&task);
  else
    multiply_8(&task);
}

static int next_byte(uint32_t *state) { return (int)((*state = *state * 1664525 + 1013904223) >> 24); }

/* A block's product with whole numbers, both ways. */
static int product_holds(uint32_t bits, uint32_t *state) {
  uint8_t codes[32 + 16];
  int8_t activations[GROUP * 32 * 2], flips[GROUP * 32];
  float x[32], scales[GROUP] = {1}, token_scales[GROUP], token_sums[GROUP], expected = 0, found;
  int32_t missing[GROUP];
  Rounded token = {activations, flips, token_scales, token_sums, missing};
  Matrix m = {.codes = codes, .scales = (uint8_t *)scales, .rows = 1, .columns = 32, .bits = bits};
  m.block_size = 32, m.blocks = 1;
  for (int i = 0; i < 32; i++) codes[i] = (uint8_t)next_byte(state);
  for (int i = 0; i < 32; i++) x[i] = (float)(next_byte(state) % 255 - 127);
  x[*state % 32] = 127; /* so that nothing is rounded */
  round_to_bytes(&m, x, &token);
  for (int i = 0; i < 32; i++)
    expected += x[i] * ((bits == 8 ? codes[i] : codes[i / 2] >> (i % 2 * 4) & 15) - (1 << (bits - 1)));
  multiply(&m, &token, 1, 0, 1, &found, 1, 0, NULL);
  return found == expected;
}

/* Whether this machine's products are what they should be; there were engines whose relaxed
   instruction was wrong in one of their compilers. */
uint32_t products_hold(void) {
  uint32_t state = 1, holds = 1;
  for (int round = 0; round < 64; round++)
    for (uint32_t bits = 4; bits <= 8; bits += 4) holds &= (uint32_t)product_holds(bits, &state);
  return holds;
}
