/* Reading an encoder's description, and laying out the memory that it takes. */
#include "description.h"
#include "encoder.h"

enum { LAYER_WORDS = 4 + 4 * MATRIX_WORDS, HEADER_WORDS = 19 + 2 * MATRIX_WORDS };
enum { HEAD_MULTIPLE = 16, MOST_TYPES = 1 << 10 };

static Norm norm(Reader *reader) {
  const float *gain = place(reader);
  return (Norm){gain, place(reader)};
}

static void read_header(Reader *reader, Encoder *e) {
  e->vocab = number(reader), e->hidden = number(reader), e->layer_count = number(reader);
  e->heads = number(reader), e->width = number(reader), e->positions = number(reader);
  e->types = number(reader), e->work.team.threads = number(reader);
  e->output = number(reader), e->output_size = number(reader), e->normalizes = number(reader);
  e->epsilon = real(reader);
  e->places = place(reader), e->kinds = place(reader), e->first_norm = norm(reader);
  e->classifier = place(reader), e->classifier_bias = place(reader);
  e->words = matrix(reader), e->pooler = matrix(reader);
}

static void read_layer(Reader *reader, EncoderLayer *l) {
  l->attention_norm = norm(reader), l->width_norm = norm(reader);
  l->qkv = matrix(reader), l->output = matrix(reader);
  l->widen = matrix(reader), l->narrow = matrix(reader);
}

static int is_whole(const Norm *n) { return n->gain && n->shift; }

static int output_is_computed(const Encoder *e) {
  if (e->output == SCORES)
    return e->output_size && e->output_size <= MOST_SIZE && e->classifier && e->classifier_bias &&
           is_computed(&e->pooler, e->hidden, e->hidden);
  return (e->output == MEAN || e->output == FIRST) && e->output_size && e->output_size <= e->hidden;
}

static int header_is_computed(const Encoder *e) {
  int sizes = e->vocab && e->hidden && e->heads && e->width && e->positions && e->types;
  sizes = sizes && e->vocab <= 16 * MOST_SIZE && e->hidden <= MOST_SIZE && e->width <= MOST_SIZE;
  sizes = sizes && e->positions <= MOST_SIZE && e->types <= MOST_TYPES && e->layer_count <= MOST_LAYERS;
  sizes = sizes && e->hidden % e->heads == 0 && e->hidden / e->heads % HEAD_MULTIPLE == 0;
  return sizes && threads_are_computed(&e->work) && e->places && e->kinds && is_whole(&e->first_norm) &&
         is_computed(&e->words, e->vocab, e->hidden) && output_is_computed(e);
}

static int layer_is_computed(const Encoder *e, const EncoderLayer *l) {
  return is_whole(&l->attention_norm) && is_whole(&l->width_norm) &&
         is_computed(&l->qkv, 3 * e->hidden, e->hidden) && is_computed(&l->output, e->hidden, e->hidden) &&
         is_computed(&l->widen, e->width, e->hidden) && is_computed(&l->narrow, e->hidden, e->width);
}

static void carve_text(Region *region, Encoder *e) {
  e->ids = carve(region, e->positions, sizeof *e->ids);
  e->token_types = carve(region, e->positions, sizeof *e->token_types);
  e->x = carve(region, (uint64_t)e->positions * e->hidden, sizeof *e->x);
  e->wide_size = most(3 * e->hidden, e->width);
  e->wide = carve(region, (uint64_t)e->positions * e->wide_size, sizeof *e->wide);
  e->vector = carve(region, most(e->output_size, e->hidden), sizeof *e->vector);
  carve_workplace(region, &e->work, e->positions, e->positions, most(e->hidden, e->width));
}

/* Read all; returns the bytes, and makes the encoder where memory is not NULL. */
static size_t lay_out(const uint32_t *words, uint32_t count, const uint8_t *base, uint8_t *memory) {
  Encoder local = {0};
  Reader reader = {words, base};
  if (count < HEADER_WORDS || number(&reader) != VERSION) return 0;
  read_header(&reader, &local);
  if (!header_is_computed(&local) || count != HEADER_WORDS + local.layer_count * LAYER_WORDS) return 0;
  Region region = {memory, 0};
  Encoder *encoder = carve(&region, 1, sizeof local);
  local.layers = carve(&region, local.layer_count, sizeof *local.layers);
  for (uint32_t i = 0; i < local.layer_count; i++) {
    EncoderLayer layer = {0};
    read_layer(&reader, &layer);
    if (!layer_is_computed(&local, &layer)) return 0;
    if (encoder) local.layers[i] = layer;
  }
  carve_text(&region, &local);
  if (encoder) *encoder = local;
  return region_bytes(&region);
}

size_t encoder_bytes(const uint32_t *words, uint32_t count) {
  return lay_out(words, count, (const uint8_t *)ALIGNMENT, NULL);
}

Encoder *encoder_open(const uint32_t *words, uint32_t count, const uint8_t *base, uint8_t *memory) {
  return lay_out(words, count, base, memory) ? (Encoder *)memory : NULL;
}
