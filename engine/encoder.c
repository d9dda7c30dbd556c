/* A text through an encoder, in the order of the model's own forward pass.

   As in decoder.c, each line of ``run_layer`` is a job that the team shares. The norm behind a layer
   is due when the next begins, and is computed with what that does to each token first. */
#include "encoder.h"
#include "attention.h"
#include "norms.h"

static float *token_wide(const Encoder *e, uint32_t token) { return e->wide + (size_t)token * e->wide_size; }
static float *token_x(const Encoder *e, uint32_t token) { return e->x + (size_t)token * e->hidden; }

static void embed(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Encoder *e = context;
  (void)thread;
  for (uint32_t t = first; t < end; t++) {
    const float *place = e->places + (size_t)t * e->hidden;
    const float *kind = e->kinds + (size_t)e->token_types[t] * e->hidden;
    float *x = token_x(e, t);
    read_row(&e->words, e->ids[t], x);
    for (uint32_t i = 0; i < e->hidden; i++) x[i] = x[i] + kind[i] + place[i];
  }
}

static void norm_token(const Encoder *e, const Norm *norm, uint32_t token) {
  float *x = token_x(e, token);
  layer_norm(x, norm->gain, norm->shift, e->hidden, e->epsilon, x);
}

static void norm_tokens(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Encoder *e = context;
  (void)thread;
  for (uint32_t t = first; t < end; t++) norm_token(e, e->norm, t);
}

static void before_attention(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Encoder *e = context;
  norm_tokens(context, first, end, thread);
  for (uint32_t t = first; t < end; t++) round_to_bytes(&e->layer->qkv, token_x(e, t), e->work.rounded + t);
}

/* Items are tokens of heads. A head's result takes its query's place; keys stand behind queries,
   and values behind keys. */
static void attend_heads(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Encoder *e = context;
  const uint32_t size = e->hidden / e->heads;
  for (uint32_t item = first; item < end; item++) {
    uint32_t head = item / e->count, token = item % e->count;
    float *query = token_wide(e, token) + (size_t)head * size;
    const float *keys = e->wide + e->hidden + (size_t)head * size;
    float *out = e->work.vectors[thread];
    attend_floats(query, keys, keys + e->hidden, e->wide_size, e->count, size, e->work.scores[thread], out);
    __builtin_memcpy(query, out, size * sizeof(float));
  }
}

static void after_attention(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Encoder *e = context;
  (void)thread;
  for (uint32_t t = first; t < end; t++)
    round_to_bytes(&e->layer->output, token_wide(e, t), e->work.rounded + t);
}

static void before_width(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Encoder *e = context;
  (void)thread;
  for (uint32_t t = first; t < end; t++) {
    norm_token(e, &e->layer->attention_norm, t);
    round_to_bytes(&e->layer->widen, token_x(e, t), e->work.rounded + t);
  }
}

static void activate(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Encoder *e = context;
  (void)thread;
  for (uint32_t t = first; t < end; t++) {
    float *values = token_wide(e, t);
    uint32_t i = 0;
    for (; i + 4 <= e->width; i += 4) store_floats(values + i, gelu(load_floats(values + i)));
    for (; i < e->width; i++) values[i] = gelu(splat(values[i]))[0];
    round_to_bytes(&e->layer->narrow, values, e->work.rounded + t);
  }
}

static void per_token(Encoder *e, Work work) { team_run(&e->work.team, work, e, e->count, 1); }

static void run_layer(Encoder *e, const EncoderLayer *l) {
  e->layer = l;
  per_token(e, before_attention);
  share_product(&e->work, &l->qkv, e->count, e->wide, e->wide_size, 0);
  team_run(&e->work.team, attend_heads, e, e->heads * e->count, e->count);
  per_token(e, after_attention);
  share_product(&e->work, &l->output, e->count, e->x, e->hidden, 1);
  per_token(e, before_width);
  share_product(&e->work, &l->widen, e->count, e->wide, e->wide_size, 0);
  per_token(e, activate);
  share_product(&e->work, &l->narrow, e->count, e->x, e->hidden, 1);
  e->norm = &l->width_norm;
}

const float *encoder_layers(Encoder *e, uint32_t count, uint32_t layers) {
  e->count = count, e->norm = &e->first_norm;
  per_token(e, embed);
  for (uint32_t i = 0; i < layers; i++) run_layer(e, e->layers + i);
  per_token(e, norm_tokens);
  return e->x;
}

static float product(const float *a, const float *b, uint32_t size) {
  f32x4 four = splat(0);
  uint32_t i = 0;
  for (; i + 4 <= size; i += 4) four += load_floats(a + i) * load_floats(b + i);
  float total = sum(four);
  for (; i < size; i++) total += a[i] * b[i];
  return total;
}

/* The mean of all states, or the first token's. */
static void pool(const Encoder *e) {
  float *out = e->vector;
  uint32_t count = e->output == MEAN ? e->count : 1;
  __builtin_memcpy(out, e->x, e->hidden * sizeof(float));
  for (uint32_t t = 1; t < count; t++)
    for (uint32_t i = 0; i < e->hidden; i++) out[i] += token_x(e, t)[i];
  float size = (float)count;
  if (e->normalizes) {
    float length = __builtin_sqrtf(product(out, out, e->hidden));
    size = length > 0 ? length : 1;
  }
  for (uint32_t i = 0; i < e->hidden; i++) out[i] /= size;
}

/* The first token's state through the pooler, and its products with the classifier's rows. */
static void classify(Encoder *e) {
  float *pooled = e->wide;
  round_to_bytes(&e->pooler, e->x, e->work.rounded);
  share_product(&e->work, &e->pooler, 1, pooled, e->hidden, 0);
  uint32_t i = 0;
  for (; i + 4 <= e->hidden; i += 4) store_floats(pooled + i, tangent(load_floats(pooled + i)));
  for (; i < e->hidden; i++) pooled[i] = tangent(splat(pooled[i]))[0];
  for (uint32_t label = 0; label < e->output_size; label++)
    e->vector[label] =
        product(e->classifier + (size_t)label * e->hidden, pooled, e->hidden) + e->classifier_bias[label];
}

const float *encoder_run(Encoder *e, uint32_t count) {
  encoder_layers(e, count, e->layer_count);
  if (e->output == SCORES)
    classify(e);
  else
    pool(e);
  return e->vector;
}

uint32_t *encoder_ids(Encoder *e) { return e->ids; }
uint32_t *encoder_types(Encoder *e) { return e->token_types; }
void encoder_help(Encoder *e, uint32_t thread) { team_help(&e->work.team, thread); }
void encoder_stop(Encoder *e) { team_stop(&e->work.team); }
