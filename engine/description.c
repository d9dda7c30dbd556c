/* Reading a model's description, and laying out the memory that it takes. */
#include "decoder.h"

enum { NOWHERE = 0xffffffff, MATRIX_WORDS = 9, LAYER_WORDS = 7 + 4 * MATRIX_WORDS };
enum { HEADER_WORDS = 10 + 2 * MATRIX_WORDS };
enum { MOST_THREADS = 64, MOST_LAYERS = 1024, MOST_HEADS = 4096, MOST_SIZE = 1 << 20 };

/* Words, one after the other. */
typedef struct {
  const uint32_t *next;
  const uint8_t *base;
} Reader;

static uint32_t number(Reader *reader) { return *reader->next++; }

static float real(Reader *reader) {
  float value;
  __builtin_memcpy(&value, reader->next++, sizeof value);
  return value;
}

static const void *place(Reader *reader) {
  uint32_t offset = number(reader);
  return offset == NOWHERE ? NULL : reader->base + offset;
}

static Matrix matrix(Reader *reader) {
  Matrix m = {0};
  m.rows = number(reader), m.columns = number(reader);
  m.bits = number(reader), m.block_size = number(reader), m.half_scales = number(reader);
  m.codes = place(reader), m.scales = place(reader), m.zeros = place(reader), m.bias = place(reader);
  m.blocks = m.block_size ? (m.columns + m.block_size - 1) / m.block_size : 0;
  return m;
}

/* Pieces of one region, one after the other; with NULL as the start their sizes are only counted. */
typedef struct {
  uint8_t *start;
  uint64_t used; /* a description may ask for more than there are addresses */
} Region;

static void *carve(Region *region, uint64_t count, uint64_t size) {
  void *piece = region->start ? region->start + region->used : NULL;
  region->used += (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return piece;
}

static int is_computed(const Matrix *m, uint32_t rows, uint32_t columns) {
  int bits = m->bits == 2 || m->bits == 4 || m->bits == 8;
  int block = m->block_size == 32 || m->block_size == 64 || m->block_size == 128;
  return bits && block && m->rows == rows && m->columns == columns && m->codes && m->scales;
}

static int layer_is_computed(const Decoder *d, const Layer *l) {
  if (!l->kv_heads || l->heads > MOST_HEADS || l->heads % l->kv_heads || !l->width ||
      l->width > MOST_SIZE)
    return 0;
  uint32_t attended = l->heads * d->head_dim, qkv = attended + 2 * l->kv_heads * d->head_dim;
  return is_computed(&l->qkv, qkv, d->hidden) && is_computed(&l->output, d->hidden, attended) &&
         is_computed(&l->gate_up, 2 * l->width, d->hidden) && is_computed(&l->down, d->hidden, l->width);
}

static void read_layer(Reader *reader, Layer *l) {
  l->heads = number(reader), l->kv_heads = number(reader), l->width = number(reader);
  l->attention_norm = place(reader), l->query_norm = place(reader), l->key_norm = place(reader);
  l->width_norm = place(reader);
  l->qkv = matrix(reader), l->output = matrix(reader);
  l->gate_up = matrix(reader), l->down = matrix(reader);
}

static void read_header(Reader *reader, Decoder *d) {
  d->vocab = number(reader), d->hidden = number(reader), d->layer_count = number(reader);
  d->head_dim = number(reader), d->positions = number(reader), d->team.threads = number(reader);
  d->epsilon = real(reader);
  d->frequencies = place(reader), d->last_norm = place(reader);
  d->table = matrix(reader), d->head = matrix(reader);
}

static Remembered carve_remembered(Region *region, uint64_t vectors, uint32_t size) {
  int16_t *codes = carve(region, vectors * size, sizeof *codes);
  return (Remembered){codes, carve(region, vectors, sizeof(float))};
}

static uint32_t most(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* Threads' and tokens' own arrays. widest: of the inputs of matrices, and of their results. */
static void carve_workplace(Region *region, Decoder *d, uint32_t widest_input, uint32_t widest_result) {
  d->ids = carve(region, TILE, sizeof *d->ids);
  d->x = carve(region, (uint64_t)TILE * d->hidden, sizeof *d->x);
  d->wide_size = widest_result;
  d->wide = carve(region, (uint64_t)TILE * widest_result, sizeof *d->wide);
  d->turns = carve(region, (uint64_t)TILE * d->head_dim, sizeof *d->turns);
  d->logits = carve(region, d->vocab, sizeof *d->logits);
  Rounded *rounded = d->rounded = carve(region, TILE, sizeof *d->rounded);
  uint32_t columns = widest_input + GROUP * LARGEST_BLOCK;
  for (int t = 0; t < TILE; t++) {
    int8_t *codes = carve(region, columns, 2);
    float *scales = carve(region, columns / 32, sizeof(float));
    float *sums = carve(region, columns / 32, sizeof(float));
    if (rounded) rounded[t] = (Rounded){codes, scales, sums};
  }
  uint32_t threads = d->team.threads;
  float **scores = d->scores = carve(region, threads, sizeof *d->scores);
  float **vectors = d->vectors = carve(region, threads, sizeof *d->vectors);
  uint8_t **scratch = d->scratch = carve(region, threads, sizeof *d->scratch);
  for (uint32_t t = 0; t < threads; t++) {
    float *own_scores = carve(region, (uint64_t)d->positions + 4, sizeof(float));
    float *vector = carve(region, widest_input, sizeof(float));
    uint8_t *unpacked = carve(region, unpacked_bytes(widest_input), 1);
    if (scores) scores[t] = own_scores, vectors[t] = vector, scratch[t] = unpacked;
  }
}

static int header_is_computed(const Decoder *d) {
  int sizes = d->vocab && d->hidden && d->positions && d->head_dim && d->head_dim % 16 == 0;
  sizes = sizes && d->vocab <= 16 * MOST_SIZE && d->hidden <= MOST_SIZE && d->head_dim <= 1024;
  sizes = sizes && d->positions <= 16 * MOST_SIZE;
  int threads = d->team.threads >= 1 && d->team.threads <= MOST_THREADS;
  return sizes && threads && d->layer_count <= MOST_LAYERS && d->frequencies && d->last_norm &&
         is_computed(&d->table, d->vocab, d->hidden) && is_computed(&d->head, d->vocab, d->hidden);
}

/* Read all; returns the bytes, and makes the decoder where memory is not NULL. */
static size_t lay_out(const uint32_t *words, uint32_t count, const uint8_t *base, uint8_t *memory) {
  Decoder local = {0};
  Reader reader = {words, base};
  if (count < HEADER_WORDS || number(&reader) != VERSION) return 0;
  read_header(&reader, &local);
  if (!header_is_computed(&local) || count != HEADER_WORDS + local.layer_count * LAYER_WORDS) return 0;
  Region region = {memory, 0};
  Decoder *decoder = carve(&region, 1, sizeof local);
  Layer *layers = carve(&region, local.layer_count, sizeof(Layer));
  uint32_t widest_input = local.hidden, widest_result = 0;
  for (uint32_t i = 0; i < local.layer_count; i++) {
    Layer layer = {0};
    read_layer(&reader, &layer);
    if (!layer_is_computed(&local, &layer)) return 0;
    widest_input = most(widest_input, most(layer.output.columns, layer.width));
    widest_result = most(widest_result, most(layer.qkv.rows, layer.gate_up.rows));
    uint64_t vectors = (uint64_t)layer.kv_heads * local.positions;
    layer.keys = carve_remembered(&region, vectors, local.head_dim);
    layer.values = carve_remembered(&region, vectors, local.head_dim);
    if (layers) layers[i] = layer;
  }
  carve_workplace(&region, &local, widest_input, widest_result);
  local.layers = layers;
  if (decoder) *decoder = local;
  return region.used < SIZE_MAX ? (size_t)region.used : SIZE_MAX;
}

size_t decoder_bytes(const uint32_t *words, uint32_t count) {
  return lay_out(words, count, (const uint8_t *)ALIGNMENT, NULL);
}

Decoder *decoder_open(const uint32_t *words, uint32_t count, const uint8_t *base, uint8_t *memory) {
  return lay_out(words, count, base, memory) ? (Decoder *)memory : NULL;
}
