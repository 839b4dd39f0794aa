/* Vector kernels: compiled for AVX2 where the compiler can, used where the processor has it. */
#ifndef IMAGEARCHIVE_SIMD_H
#define IMAGEARCHIVE_SIMD_H

#if defined(__x86_64__) && defined(__GNUC__)
#define PX_X86 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,f16c")))
#else
#define PX_X86 0
#endif
#define INLINE static inline __attribute__((always_inline))

/* px_simd(0) turns the kernels off; px_simd(1) uses them if the processor has them. Both return
 * whether they are in use, as px_simd_now() does. */
int px_simd(int wanted);
int px_simd_now(void);

#endif
