#include "simd.h"

/* -1: not asked yet. */
static int simd_state = -1;

int px_simd(int wanted)
{
    int available = 0;
#if PX_X86
    available = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
#endif
    simd_state = wanted ? available : 0;
    return simd_state;
}

int px_simd_now(void) { return simd_state < 0 ? px_simd(1) : simd_state; }
