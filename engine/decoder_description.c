/* Reading a decoder's description, and laying out the memory that it takes. */
#include "decoder.h"
#include "description.h"

enum { LAYER_WORDS = 7 + 4 * MATRIX_WORDS, HEADER_WORDS = 10 + 2 * MATRIX_WORDS };
enum { MOST_HEADS = 4096 };

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
  d->head_dim = number(reader), d->positions = number(reader), d->work.team.threads = number(reader);
  d->epsilon = real(reader);
  d->frequencies = place(reader), d->last_norm = place(reader);
  d->table = matrix(reader), d->head = matrix(reader);
}

static Remembered carve_remembered(Region *region, uint64_t vectors, uint32_t size) {
  int16_t *codes = carve(region, vectors * size, sizeof *codes);
  return (Remembered){codes, carve(region, vectors, sizeof(float))};
}

/* Tokens' own arrays. */
static void carve_tile(Region *region, Decoder *d, uint32_t widest_result) {
  d->ids = carve(region, TILE, sizeof *d->ids);
  d->x = carve(region, (uint64_t)TILE * d->hidden, sizeof *d->x);
  d->wide_size = widest_result;
  d->wide = carve(region, (uint64_t)TILE * widest_result, sizeof *d->wide);
  d->turns = carve(region, (uint64_t)TILE * d->head_dim, sizeof *d->turns);
  d->logits = carve(region, d->vocab, sizeof *d->logits);
  d->likely = carve(region, d->vocab, sizeof *d->likely);
}

static int header_is_computed(const Decoder *d) {
  int sizes = d->vocab && d->hidden && d->positions && d->head_dim && d->head_dim % 16 == 0;
  sizes = sizes && d->vocab <= 16 * MOST_SIZE && d->hidden <= MOST_SIZE && d->head_dim <= 1024;
  sizes = sizes && d->positions <= 16 * MOST_SIZE;
  sizes = sizes && d->layer_count <= MOST_LAYERS && threads_are_computed(&d->work);
  return sizes && d->frequencies && d->last_norm &&
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
  carve_tile(&region, &local, widest_result);
  carve_workplace(&region, &local.work, TILE, local.positions, widest_input);
  local.layers = layers;
  if (decoder) *decoder = local;
  return region_bytes(&region);
}

size_t decoder_bytes(const uint32_t *words, uint32_t count) {
  return lay_out(words, count, (const uint8_t *)ALIGNMENT, NULL);
}

Decoder *decoder_open(const uint32_t *words, uint32_t count, const uint8_t *base, uint8_t *memory) {
  return lay_out(words, count, base, memory) ? (Decoder *)memory : NULL;
}
