/* The step: tokens through the layers, in the order of the model's own forward pass.

   Each line of ``run_layer`` is a job that the team shares: per token, per head, or per row of a
   matrix. One token alone leaves to the team what is worth sharing, and the rest to the leader. */
#include "decoder.h"
#include "norms.h"
#include "sampling.h"

static float *token_wide(const Decoder *d, uint32_t token) { return d->wide + (size_t)token * d->wide_size; }
static float *token_x(const Decoder *d, uint32_t token) { return d->x + (size_t)token * d->hidden; }

static void run_product(Decoder *d, const Matrix *m, float *out, size_t stride, int add) {
  share_product(&d->work, m, d->count, out, stride, add);
}

static void embed(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Decoder *d = context;
  (void)thread;
  for (uint32_t t = first; t < end; t++) {
    read_row(&d->table, d->ids[t], token_x(d, t));
    turns_of(d->first + t, d->frequencies, d->head_dim / 2, d->turns + (size_t)t * d->head_dim);
  }
}

static void norm_and_round(const Decoder *d, uint32_t token, const float *gain, const Matrix *m,
                           uint32_t thread, uint32_t to) {
  rms_norm(token_x(d, token), gain, d->hidden, d->epsilon, d->work.vectors[thread]);
  round_to_bytes(m, d->work.vectors[thread], d->work.rounded + to);
}

static void before_attention(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Decoder *d = context;
  for (uint32_t t = first; t < end; t++)
    norm_and_round(d, t, d->layer->attention_norm, &d->layer->qkv, thread, t);
}

static void norm_heads(const Decoder *d, float *heads, uint32_t count, const float *gain) {
  for (uint32_t i = 0; i < count && gain; i++, heads += d->head_dim)
    rms_norm(heads, gain, d->head_dim, d->epsilon, heads);
}

/* What a head remembers of ``position`` and all behind it. */
static Remembered head_from(const Decoder *d, const Remembered *all, uint32_t head, uint32_t position) {
  size_t vector = (size_t)head * d->positions + position;
  return (Remembered){all->codes + vector * d->head_dim, all->scales + vector};
}

static void remember_head(const Decoder *d, const Remembered *all, uint32_t head, uint32_t token,
                          const float *vectors) {
  Remembered at = head_from(d, all, head, d->first + token);
  remember(vectors + (size_t)head * d->head_dim, d->head_dim, at.codes, at.scales);
}

/* Queries and keys normed and turned, keys and values into the cache. */
static void remember_heads(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Decoder *d = context;
  const Layer *l = d->layer;
  const uint32_t size = d->head_dim;
  (void)thread;
  for (uint32_t t = first; t < end; t++) {
    float *queries = token_wide(d, t), *keys = queries + (size_t)l->heads * size;
    const float *values = keys + (size_t)l->kv_heads * size;
    norm_heads(d, queries, l->heads, l->query_norm);
    norm_heads(d, keys, l->kv_heads, l->key_norm);
    for (uint32_t i = 0; i < l->heads + l->kv_heads; i++) /* keys stand behind queries */
      rotate(queries + (size_t)i * size, d->turns + (size_t)t * size, size / 2);
    for (uint32_t i = 0; i < l->kv_heads; i++) {
      remember_head(d, &l->keys, i, t, keys);
      remember_head(d, &l->values, i, t, values);
    }
  }
}

/* Items are heads of tokens. A head's result takes its query's place. */
static void attend_heads(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Decoder *d = context;
  const Layer *l = d->layer;
  const uint32_t size = d->head_dim, group = l->heads / l->kv_heads;
  for (uint32_t item = first; item < end; item++) {
    uint32_t token = item / l->heads, head = item % l->heads;
    Remembered keys = head_from(d, &l->keys, head / group, 0);
    Remembered values = head_from(d, &l->values, head / group, 0);
    float *query = token_wide(d, token) + (size_t)head * size;
    float *out = d->work.vectors[thread];
    attend(query, &keys, &values, d->first + token + 1, size, d->work.scores[thread], out);
    __builtin_memcpy(query, out, size * sizeof(float));
  }
}

static void after_attention(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Decoder *d = context;
  (void)thread;
  for (uint32_t t = first; t < end; t++)
    round_to_bytes(&d->layer->output, token_wide(d, t), d->work.rounded + t);
}

static void before_width(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Decoder *d = context;
  for (uint32_t t = first; t < end; t++)
    norm_and_round(d, t, d->layer->width_norm, &d->layer->gate_up, thread, t);
}

/* silu(gate) * up (Shazeer, 2020), rounded. */
static void gate(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Decoder *d = context;
  const uint32_t width = d->layer->width;
  (void)thread;
  for (uint32_t t = first; t < end; t++) {
    float *gates = token_wide(d, t);
    const float *up = gates + width;
    uint32_t i = 0;
    for (; i + 4 <= width; i += 4)
      store_floats(gates + i, silu(load_floats(gates + i)) * load_floats(up + i));
    for (; i < width; i++) gates[i] = silu(splat(gates[i]))[0] * up[i];
    round_to_bytes(&d->layer->down, gates, d->work.rounded + t);
  }
}

static void per_token(Decoder *d, Work work) { team_run(&d->work.team, work, d, d->count, 1); }

static void run_layer(Decoder *d, const Layer *l) {
  d->layer = l;
  per_token(d, before_attention);
  run_product(d, &l->qkv, d->wide, d->wide_size, 0);
  per_token(d, remember_heads);
  team_run(&d->work.team, attend_heads, d, d->count * l->heads, 1);
  per_token(d, after_attention);
  run_product(d, &l->output, d->x, d->hidden, 1);
  per_token(d, before_width);
  run_product(d, &l->gate_up, d->wide, d->wide_size, 0);
  per_token(d, gate);
  run_product(d, &l->down, d->x, d->hidden, 1);
}

void decoder_layers(Decoder *d, uint32_t count, uint32_t position, uint32_t layers) {
  d->first = position, d->count = count;
  per_token(d, embed);
  for (uint32_t i = 0; i < layers; i++) run_layer(d, d->layers + i);
}

void decoder_step(Decoder *d, uint32_t count, uint32_t position) {
  decoder_layers(d, count, position, d->layer_count);
}

float *decoder_logits(Decoder *d, uint32_t index) {
  norm_and_round(d, index, d->last_norm, &d->head, 0, 0);
  share_product(&d->work, &d->head, 1, d->logits, d->vocab, 0);
  return d->logits;
}

uint32_t decoder_choose(Decoder *d, uint32_t k) { return most_likely(d->logits, d->vocab, k, d->likely); }

const uint32_t *decoder_likely(const Decoder *d) { return d->likely; }
uint32_t *decoder_ids(Decoder *d) { return d->ids; }
const float *decoder_hidden(const Decoder *d) { return d->x; }
void decoder_help(Decoder *d, uint32_t thread) { team_help(&d->work.team, thread); }
void decoder_stop(Decoder *d) { team_stop(&d->work.team); }
