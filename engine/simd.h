/* Vectors of 128 bits, for WebAssembly and for the machine that tests run on.

   All builds give the same bits. Products are sums of whole numbers, exact in any order; whatever is
   rounded is rounded by the same operations in the same order, and nothing is fused (see build.py:
   -ffp-contract=off). So "relaxed" is used for one instruction only, with operands for which it
   leaves nothing open. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#if defined(__wasm__)
#include <wasm_simd128.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
typedef int16_t i16x8 __attribute__((vector_size(16)));
typedef int16_t i16x4 __attribute__((vector_size(8)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x8 __attribute__((vector_size(8)));
typedef uint16_t u16x4 __attribute__((vector_size(8)));

/* Loads and stores at any address. */
#define LOADER(name, type)                  \
  INLINE type name(const void *at) {        \
    type value;                             \
    __builtin_memcpy(&value, at, sizeof value); \
    return value;                           \
  }
LOADER(load_floats, f32x4)
LOADER(load_words, i32x4)
LOADER(load_shorts, i16x8)
LOADER(load_bytes, u8x16)
LOADER(load_8_bytes, u8x8)
LOADER(load_4_shorts, u16x4)
LOADER(load_4_signed, i16x4)
INLINE void store_floats(void *at, f32x4 value) { __builtin_memcpy(at, &value, sizeof value); }
INLINE void store_4_shorts(void *at, i16x4 value) { __builtin_memcpy(at, &value, sizeof value); }
INLINE void store_bytes(void *at, u8x16 value) { __builtin_memcpy(at, &value, sizeof value); }

INLINE f32x4 splat(float x) { return (f32x4){x, x, x, x}; }
INLINE f32x4 to_floats(i32x4 x) { return __builtin_convertvector(x, f32x4); }

/* The sum of the lanes, always in this order. */
INLINE float sum(f32x4 x) { return (x[0] + x[1]) + (x[2] + x[3]); }

/* The sums of the lanes of four vectors, side by side. */
INLINE i32x4 sums(i32x4 a, i32x4 b, i32x4 c, i32x4 d) {
  i32x4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  i32x4 cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

/* To the nearest whole number, ties to even. */
INLINE f32x4 nearest(f32x4 x) {
#if defined(__wasm__)
  return (f32x4)wasm_f32x4_nearest((v128_t)x);
#else
  return __builtin_elementwise_roundeven(x);
#endif
}

INLINE f32x4 absolute(f32x4 x) { return (f32x4)((i32x4)x & 0x7fffffff); }
INLINE f32x4 larger(f32x4 a, f32x4 b) {
  i32x4 is_b = a < b;
  return (f32x4)(((i32x4)b & is_b) | ((i32x4)a & ~is_b));
}

/* Products of eight 16-bit numbers, added in pairs. */
INLINE i32x4 pair_products(i16x8 a, i16x8 b) {
#if defined(__wasm__)
  return (i32x4)wasm_i32x4_dot_i16x8((v128_t)a, (v128_t)b);
#elif defined(__SSE2__)
  return (i32x4)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  i32x4 sums = {0};
  for (int i = 0; i < 4; i++) sums[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
  return sums;
#endif
}

#if defined(__wasm_relaxed_simd__)
/* Products of sixteen numbers, added in fours. Engines differ only where b is outside 0 … 127 or a
   sum of two products leaves 16 bits; here b is within, and two products are at most 2 · 127 · 128. */
INLINE i32x4 four_products(i8x16 a, u8x16 b, i32x4 total) {
  return (i32x4)wasm_i32x4_relaxed_dot_i8x16_i7x16_add((v128_t)a, (v128_t)b, (v128_t)total);
}
#endif
