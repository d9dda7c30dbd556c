/* A decoder: what it is made of, and the step from token ids to hidden states.

   The model is described by 32-bit words (web/src/description.ts writes them), its tensors by their
   places counted from a base address: the bytes of the ONNX data file, used where they lie. */
#pragma once
#include "attention.h"
#include "workplace.h"

enum { TILE = 128 }; /* tokens of a prompt that go through the layers together */

typedef struct {
  uint32_t heads, kv_heads, width;
  const float *attention_norm, *query_norm, *key_norm, *width_norm; /* of heads: or NULL */
  Matrix qkv, output, gate_up, down;
  Remembered keys, values; /* (kv_heads, positions, head_dim) */
} Layer;

typedef struct {
  Workplace work;
  uint32_t vocab, hidden, layer_count, head_dim, positions;
  float epsilon;
  const float *frequencies; /* head_dim / 2, radians per position */
  const float *last_norm;
  Matrix table, head;
  Layer *layers;
  /* the step at hand */
  uint32_t first, count; /* position of the first token, tokens */
  const Layer *layer;
  uint32_t *ids;  /* TILE */
  float *x;       /* TILE, hidden: the residual stream */
  float *wide;    /* TILE, the widest of a layer's results */
  float *turns;   /* TILE, head_dim: cosines, then sines */
  float *logits;  /* vocab */
  uint32_t *likely; /* vocab: tokens */
  uint32_t wide_size;
} Decoder;

/* Bytes that decoder_open needs; SIZE_MAX where that is more than there are addresses, 0 where the
   description is not one that this engine computes. */
size_t decoder_bytes(const uint32_t *words, uint32_t count);
/* Make a decoder in ``memory``, aligned and of decoder_bytes. */
Decoder *decoder_open(const uint32_t *words, uint32_t count, const uint8_t *base, uint8_t *memory);
/* Where the ids of the next step go. */
uint32_t *decoder_ids(Decoder *decoder);
/* Run ids[0 … count - 1], the first of them at ``position``; behind it the cache is forgotten. */
void decoder_step(Decoder *decoder, uint32_t count, uint32_t position);
/* The logits after the token ``index`` of the last step: vocab floats, which the caller may change. */
float *decoder_logits(Decoder *decoder, uint32_t index);
/* The likeliest tokens by these logits, as most_likely() has them; returns how many. */
uint32_t decoder_choose(Decoder *decoder, uint32_t k);
/* Where they are. */
const uint32_t *decoder_likely(const Decoder *decoder);
/* The hidden states of the last step: (count, hidden), before the last norm. */
const float *decoder_hidden(const Decoder *decoder);
/* The same step through the first layers only, for tests. */
void decoder_layers(Decoder *decoder, uint32_t count, uint32_t position, uint32_t layers);
void decoder_help(Decoder *decoder, uint32_t thread);
void decoder_stop(Decoder *decoder);

void turns_of(uint32_t position, const float *frequencies, uint32_t half, float *turns);
void rotate(float *head, const float *turns, uint32_t half);
