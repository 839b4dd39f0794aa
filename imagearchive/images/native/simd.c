#include "simd.h"

#include <stdatomic.h>

#if PX_X86
#include <cpuid.h>

/* Before version 16, clang's __builtin_cpu_supports() does not know "f16c". */
static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

/* -1: not asked yet. Tests change it while other threads run. */
static atomic_int simd_state = -1;

int px_simd(int most)
{
    int level = PX_PLAIN;
#if PX_X86
    if (__builtin_cpu_supports("avx2") && has_f16c())
        level = PX_AVX2;
    if (level && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni"))
        level = PX_AVX512;
#endif
    const int used = level < most ? level : most;
    atomic_store_explicit(&simd_state, used, memory_order_relaxed);
    return used;
}

int px_simd_now(void)
{
    const int used = atomic_load_explicit(&simd_state, memory_order_relaxed);
    return used < 0 ? px_simd(PX_AVX512) : used;
}
