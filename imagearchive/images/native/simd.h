/* Vector kernels: compiled for AVX2 and AVX-512 where the compiler can, used where the processor
 * has them. Only what gains much has one for AVX-512. */
#ifndef IMAGEARCHIVE_SIMD_H
#define IMAGEARCHIVE_SIMD_H

#if defined(__x86_64__) && defined(__GNUC__)
#define PX_X86 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,f16c")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")))
#else
#define PX_X86 0
#endif
#define INLINE static inline __attribute__((always_inline))

enum { PX_PLAIN = 0, PX_AVX2 = 1, PX_AVX512 = 2 };

/* Use the kernels up to `most` that the processor has. Both functions return which are in use. */
int px_simd(int most);
int px_simd_now(void);

#endif
