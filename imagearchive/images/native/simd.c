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

int px_simd(int wanted)
{
    int available = 0;
#if PX_X86
    available = __builtin_cpu_supports("avx2") && has_f16c();
#endif
    const int used = wanted ? available : 0;
    atomic_store_explicit(&simd_state, used, memory_order_relaxed);
    return used;
}

int px_simd_now(void)
{
    const int used = atomic_load_explicit(&simd_state, memory_order_relaxed);
    return used < 0 ? px_simd(1) : used;
}
