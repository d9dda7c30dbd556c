/* Functions of real numbers, the same on every machine: no library's are. */
#pragma once
#include "simd.h"

/* e to the power of x: a polynomial of degree 6 on ± ln 2 / 2, an error below 2 units of the last
   place. What would be smaller than the smallest normal number is 0. */
INLINE f32x4 exponential(f32x4 x) {
  const f32x4 lowest = splat(-87.33f), highest = splat(88.0f);
  i32x4 is_zero = x < lowest;
  x = larger(x, lowest);
  x = -larger(-x, -highest);
  f32x4 power = nearest(x * splat(1.44269504f));
  f32x4 rest = (x - power * splat(0.693359375f)) - power * splat(-2.12194440e-4f);
  f32x4 value = splat(1.0f / 720);
  value = value * rest + splat(1.0f / 120);
  value = value * rest + splat(1.0f / 24);
  value = value * rest + splat(1.0f / 6);
  value = value * rest + splat(0.5f);
  value = value * rest + splat(1.0f);
  value = value * rest + splat(1.0f);
  i32x4 scale = (__builtin_convertvector(power, i32x4) + 127) << 23;
  return (f32x4)((i32x4)(value * (f32x4)scale) & ~is_zero);
}

/* x times its logistic function (SiLU). */
INLINE f32x4 silu(f32x4 x) { return x / (splat(1.0f) + exponential(-x)); }

/* x times the normal distribution's share below x (GELU, Hendrycks and Gimpel, 2016). The share's
   error is below 1e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26. */
INLINE f32x4 gelu(f32x4 x) {
  f32x4 magnitude = absolute(x);
  f32x4 t = splat(1.0f) / (splat(1.0f) + magnitude * splat(0.3275911f * 0.70710678f));
  f32x4 tail = splat(0.5f * 1.061405429f);
  tail = tail * t - splat(0.5f * 1.453152027f);
  tail = tail * t + splat(0.5f * 1.421413741f);
  tail = tail * t - splat(0.5f * 0.284496736f);
  tail = tail * t + splat(0.5f * 0.254829592f);
  tail = tail * t * exponential(x * x * splat(-0.5f)) * magnitude; /* |x| times the share beyond |x| */
  return larger(x, splat(0)) - tail;
}

/* The hyperbolic tangent. */
INLINE f32x4 tangent(f32x4 x) {
  f32x4 small = exponential(absolute(x) * splat(-2.0f));
  f32x4 magnitude = (splat(1.0f) - small) / (splat(1.0f) + small);
  return (f32x4)((i32x4)magnitude | ((i32x4)x & INT32_MIN));
}

/* Cosine and sine of an angle of up to a million radians: what is left of whole quarter turns, in
   double precision, into Taylor's series. */
INLINE void turn(float angle, float *cosine, float *sine) {
  double quarters = __builtin_rint((double)angle * 0.63661977236758134308);
  /* the first 33 bits of pi / 2, whose multiples are exact, then the others */
  double x = ((double)angle - quarters * 1.57079632673412561417) - quarters * 6.07710050650619224932e-11;
  double square = x * x, sine_sum = 0, cosine_sum = 0;
  for (int n = 16; n >= 2; n -= 2) {
    cosine_sum = (1 - cosine_sum) * square / (n * (n - 1));
    sine_sum = (1 - sine_sum) * square / (n * (n + 1));
  }
  double c = 1 - cosine_sum, s = x * (1 - sine_sum);
  switch ((int)quarters & 3) {
    case 0: *cosine = (float)c, *sine = (float)s; break;
    case 1: *cosine = (float)-s, *sine = (float)c; break;
    case 2: *cosine = (float)-c, *sine = (float)-s; break;
    default: *cosine = (float)s, *sine = (float)-c;
  }
}
