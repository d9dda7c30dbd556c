/* An encoder of BERT's form: what it is made of, and the way from a text's tokens to its output.

   It is described as a decoder is (decoder.h). A text is computed whole: each of its tokens sees all. */
#pragma once
#include "functions.h"
#include "workplace.h"

/* What is made of the hidden states of the last layer. */
typedef enum { MEAN, FIRST, SCORES } Output;

typedef struct {
  const float *gain, *shift;
} Norm;

typedef struct {
  Matrix qkv, output, widen, narrow;
  Norm attention_norm, width_norm; /* of the sums behind each half */
} EncoderLayer;

typedef struct {
  Workplace work;
  uint32_t vocab, hidden, layer_count, heads, width, positions, types;
  float epsilon;
  Matrix words;                       /* vocab, hidden */
  const float *places, *kinds;        /* positions, hidden; types, hidden */
  Norm first_norm;
  EncoderLayer *layers;
  Output output;
  uint32_t output_size, normalizes;   /* numbers; whether a pooled state gets a length of 1 */
  Matrix pooler;                      /* for scores: hidden, hidden */
  const float *classifier, *classifier_bias; /* output_size, hidden; output_size */
  /* the text at hand */
  uint32_t count;
  const EncoderLayer *layer;
  const Norm *norm;        /* that is due */
  uint32_t *ids, *token_types; /* positions */
  float *x;                /* positions, hidden */
  float *wide;             /* positions, wide_size: the widest of a layer's results */
  float *vector;           /* output_size, or hidden where that is more */
  uint32_t wide_size;
} Encoder;

/* As decoder_bytes and decoder_open. */
size_t encoder_bytes(const uint32_t *words, uint32_t count);
Encoder *encoder_open(const uint32_t *words, uint32_t count, const uint8_t *base, uint8_t *memory);
/* Where a text's tokens go, and which of two texts each belongs to. */
uint32_t *encoder_ids(Encoder *encoder);
uint32_t *encoder_types(Encoder *encoder);
/* The vector or scores of a text of ``count`` tokens: output_size floats. */
const float *encoder_run(Encoder *encoder, uint32_t count);
/* The hidden states that the text at hand has after some layers: (count, hidden). */
const float *encoder_layers(Encoder *encoder, uint32_t count, uint32_t layers);
void encoder_help(Encoder *encoder, uint32_t thread);
void encoder_stop(Encoder *encoder);
