/* CRC-32 (ZIP) and CRC-32C (Barecat), with the instructions of the processor where it has them.
 *
 * x86: the message is folded by carry-less multiplication, after Gopal et al., "Fast CRC
 * Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel, 2009). The 128 bits that
 * remain have the same remainder as the message, and the tables reduce them. ARM has an instruction
 * for each of the two polynomials. Elsewhere tables take eight bytes at a time.
 */

#include "crc.h"

#include <stdatomic.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define CRC_X86 1
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#define CRC_ARM 1
#include <arm_acle.h>
#endif

/* The polynomials without their highest term, the term of degree 0 last. */
static const uint32_t polynomials[CRC_KINDS] = {0x04C11DB7, 0x1EDC6F41};

/* tables[kind][k][b]: the remainder of byte b followed by k bytes of zero. */
static uint32_t tables[CRC_KINDS][8][256];

/* Tests change it while other threads run. */
static atomic_int use_instructions;

static uint32_t reflect(uint32_t value)
{
    uint32_t result = 0;
    for (int bit = 0; bit < 32; bit++) result |= (value >> bit & 1) << (31 - bit);
    return result;
}

static uint32_t with_tables(int kind, uint32_t crc, const uint8_t* data, size_t size)
{
    const uint32_t(*table)[256] = (const uint32_t(*)[256]) tables[kind];
    for (; size >= 8; size -= 8, data += 8) {
        crc ^= (uint32_t) data[0] | (uint32_t) data[1] << 8 | (uint32_t) data[2] << 16 |
               (uint32_t) data[3] << 24;
        crc = table[7][crc & 255] ^ table[6][crc >> 8 & 255] ^ table[5][crc >> 16 & 255] ^
              table[4][crc >> 24] ^ table[3][data[4]] ^ table[2][data[5]] ^ table[1][data[6]] ^
              table[0][data[7]];
    }
    for (; size; size--, data++) crc = table[0][(crc ^ *data) & 255] ^ crc >> 8;
    return crc;
}

#if CRC_X86

/* By kind: the factors that move 128 bits ahead by 512 and by 128 bits of the message. */
static uint64_t factors[CRC_KINDS][4];

/* x to the power of `exponent` modulo the polynomial, reflected, as PCLMULQDQ needs it. */
static uint64_t power(int kind, int exponent)
{
    uint32_t value = 1;
    while (exponent--) value = value << 1 ^ (value >> 31 ? polynomials[kind] : 0);
    return (uint64_t) reflect(value) << 1;
}

static void prepare_instructions(void)
{
    for (int kind = 0; kind < CRC_KINDS; kind++) {
        factors[kind][0] = power(kind, 512 + 32);
        factors[kind][1] = power(kind, 512 - 32);
        factors[kind][2] = power(kind, 128 + 32);
        factors[kind][3] = power(kind, 128 - 32);
    }
}

__attribute__((target("pclmul,sse4.1"))) static inline __m128i fold(__m128i value, __m128i by)
{
    return _mm_xor_si128(
        _mm_clmulepi64_si128(value, by, 0x00), _mm_clmulepi64_si128(value, by, 0x11));
}

__attribute__((target("pclmul,sse4.1"))) static inline __m128i load(const uint8_t* data)
{
    return _mm_loadu_si128((const __m128i*) (const void*) data);
}

__attribute__((target("pclmul,sse4.1"))) static uint32_t with_instructions(
    int kind, uint32_t crc, const uint8_t* data, size_t size)
{
    if (size < 64) return with_tables(kind, crc, data, size);
    const uint64_t* factor = factors[kind];
    const __m128i far = _mm_set_epi64x((long long) factor[1], (long long) factor[0]);
    const __m128i near = _mm_set_epi64x((long long) factor[3], (long long) factor[2]);
    __m128i a = _mm_xor_si128(load(data), _mm_cvtsi32_si128((int) crc));
    __m128i b = load(data + 16), c = load(data + 32), d = load(data + 48);
    for (data += 64, size -= 64; size >= 64; data += 64, size -= 64) {
        a = _mm_xor_si128(fold(a, far), load(data));
        b = _mm_xor_si128(fold(b, far), load(data + 16));
        c = _mm_xor_si128(fold(c, far), load(data + 32));
        d = _mm_xor_si128(fold(d, far), load(data + 48));
    }
    b = _mm_xor_si128(fold(a, near), b);
    c = _mm_xor_si128(fold(b, near), c);
    d = _mm_xor_si128(fold(c, near), d);
    for (; size >= 16; data += 16, size -= 16) d = _mm_xor_si128(fold(d, near), load(data));
    uint8_t rest[16];
    _mm_storeu_si128((__m128i*) (void*) rest, d);
    return with_tables(kind, with_tables(kind, 0, rest, sizeof rest), data, size);
}

static int have_instructions(void)
{
    return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
}

#elif CRC_ARM

static void prepare_instructions(void) {}

static uint32_t with_instructions(int kind, uint32_t crc, const uint8_t* data, size_t size)
{
    uint64_t word;
    if (kind == CRC_32) {
        for (; size >= 8; size -= 8, data += 8) {
            memcpy(&word, data, 8);
            crc = __crc32d(crc, word);
        }
        for (; size; size--, data++) crc = __crc32b(crc, *data);
    } else {
        for (; size >= 8; size -= 8, data += 8) {
            memcpy(&word, data, 8);
            crc = __crc32cd(crc, word);
        }
        for (; size; size--, data++) crc = __crc32cb(crc, *data);
    }
    return crc;
}

static int have_instructions(void) { return 1; }

#else

static void prepare_instructions(void) {}

static uint32_t with_instructions(int kind, uint32_t crc, const uint8_t* data, size_t size)
{
    return with_tables(kind, crc, data, size);
}

static int have_instructions(void) { return 0; }

#endif

void crc_prepare(void)
{
    for (int kind = 0; kind < CRC_KINDS; kind++) {
        uint32_t(*table)[256] = tables[kind];
        const uint32_t polynomial = reflect(polynomials[kind]);
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t value = byte;
            for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? polynomial : 0);
            table[0][byte] = value;
        }
        for (int zeros = 1; zeros < 8; zeros++)
            for (int byte = 0; byte < 256; byte++) {
                uint32_t value = table[zeros - 1][byte];
                table[zeros][byte] = table[0][value & 255] ^ value >> 8;
            }
    }
    prepare_instructions();
    atomic_store_explicit(&use_instructions, have_instructions(), memory_order_relaxed);
}

int crc_use_instructions(int wanted)
{
    const int used = wanted && have_instructions();
    atomic_store_explicit(&use_instructions, used, memory_order_relaxed);
    return used;
}

uint32_t crc_update(int kind, uint32_t before, const uint8_t* data, size_t size)
{
    const uint32_t crc = ~before;
    const int used = atomic_load_explicit(&use_instructions, memory_order_relaxed);
    return ~(used ? with_instructions : with_tables)(kind, crc, data, size);
}
