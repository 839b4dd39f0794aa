/* Huffman codes of sequential JPEGs. They take three quarters of the time of libjpeg-turbo on
 * photographs of high quality. What is not wanted is skipped here: several symbols in one step, and
 * without their values. The others take one step each, whatever the length of their values.
 *
 * Files with damage, or with anything that encoders of photographs do not write, are left to libjpeg,
 * which decodes the image again from its beginning. */
#ifndef HAVE_JPEG
#define HAVE_JPEG 0
#endif

#if HAVE_JPEG
#include "entropy.h"

#include <string.h>

/* Of 8-bit images, no value takes more bits. So two symbols, of 16 bits and 11 bits for the value at
 * most, never take more than the 56 bits that `refill` provides. */
#define MAX_VALUE_BITS 11
#define LAST 63
/* The run of the symbol that ends a block. */
#define END 64

/* An entry of a table, and what a symbol is made into; 0 if it is no usual symbol:
 * bits 0 to 4    how many bits its code and its value take
 * bits 8 to 12   how many bits its code takes
 * bits 16 to 19  how many bits its value takes
 * bits 24 to 30  how many zeros come before it */
#define TAKEN(entry) ((int)((entry) & 31))
#define CODE_BITS(entry) ((int)((entry) >> 8 & 31))
#define VALUE_BITS(entry) ((int)((entry) >> 16 & 15))
#define RUN(entry) ((int)((entry) >> 24))

/* An entry of `runs`, 0 if there is none:
 * bits 0 to 4    how many bits the symbols take
 * bit 5          the last one ends the block
 * bits 8 to 15   how many coefficients they stand for, without the end */
#define ENDS 32u

/* Making a table of runs takes 15 us, and with it skipping so many bytes takes 15 us less. */
#define MIN_SKIPPED 10000

#define likely(x) __builtin_expect(!!(x), 1)

static const uint8_t natural_order[DCTSIZE2] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

/* ---- tables ---------------------------------------------------------------------------- */

static uint32_t symbol_entry(unsigned symbol, unsigned length, int ac)
{
    unsigned size = symbol & 15, run = symbol >> 4;
    if (size > MAX_VALUE_BITS || (!ac && run))
        return 0;
    if (ac && size == 0 && run != 15)
        run = END;
    return (length + size) | length << 8 | size << 16 | run << 24;
}

/* The symbol of a code that is longer than those in `entries`. */
static __attribute__((noinline)) uint32_t long_symbol(const px_huffman *h, uint64_t bits, int ac)
{
    for (unsigned length = 1; length <= 16; length++) {
        int32_t code = (int32_t)(bits >> (64 - length));
        if (code <= h->largest[length])
            return symbol_entry(h->symbols[(code + h->offset[length]) & 255], length, ac);
    }
    return 0;
}

static int make_table(px_huffman *h, const JHUFF_TBL *table, int ac)
{
    if (!table)
        return 0;
    if (h->ready && !memcmp(h->counts + 1, table->bits + 1, 16) &&
        !memcmp(h->symbols, table->huffval, 256))
        return 1;
    h->ready = h->has_runs = 0;
    h->skipped = 0;
    memcpy(h->counts, table->bits, 17);
    memcpy(h->symbols, table->huffval, 256);
    memset(h->entries, 0, sizeof h->entries);
    unsigned code = 0, n = 0;
    for (unsigned length = 1; length <= 16; length++, code <<= 1) {
        unsigned count = h->counts[length];
        if (n + count > 256 || code + count > 1u << length)
            return 0;
        h->offset[length] = (int32_t)n - (int32_t)code;
        h->largest[length] = count ? (int32_t)(code + count) - 1 : -1;
        for (unsigned i = 0; i < count; i++, n++, code++) {
            if (length > PX_SYMBOL_BITS)
                continue;
            uint32_t entry = symbol_entry(h->symbols[n], length, ac);
            unsigned spread = PX_SYMBOL_BITS - length;
            for (unsigned k = 0; k < 1u << spread; k++)
                h->entries[(code << spread) + k] = entry;
        }
    }
    return h->ready = 1;
}

/* For the next PX_RUN_BITS bits: all symbols whose codes are in them. The value of the last may reach
 * beyond them. */
static void make_runs(px_huffman *h)
{
    const unsigned mask = (1u << PX_RUN_BITS) - 1;
    for (unsigned window = 0; window <= mask; window++) {
        unsigned taken = 0, coefficients = 0, ends = 0;
        while (taken < PX_RUN_BITS && !ends) {
            unsigned rest = window << taken & mask;
            uint32_t entry = h->entries[rest >> (PX_RUN_BITS - PX_SYMBOL_BITS)];
            unsigned more = (unsigned)RUN(entry) + 1;
            if (!entry || taken + (unsigned)CODE_BITS(entry) > PX_RUN_BITS)
                break;
            if (RUN(entry) == END)
                ends = ENDS;
            else if (coefficients + more > LAST)
                break;
            else
                coefficients += more;
            taken += (unsigned)TAKEN(entry);
        }
        h->runs[window] = (uint16_t)(taken | ends | coefficients << 8);
    }
    h->has_runs = 1;
}

/* ---- bits ------------------------------------------------------------------------------ */

typedef struct {
    uint64_t bits;
    const uint8_t *next, *end;
    int count, padding;
} reader;

/* Byte by byte: 0xff is followed by a zero, or it begins a marker, which ends the data. */
static __attribute__((noinline)) void refill_slowly(reader *state)
{
    reader r = *state;
    while (r.count <= 56) {
        uint64_t byte = 0;
        size_t left = (size_t)(r.end - r.next);
        if (left && r.next[0] != 0xff) {
            byte = *r.next++;
        } else if (left > 1 && r.next[1] == 0) {
            byte = 0xff;
            r.next += 2;
        } else {
            r.padding += 8;
        }
        r.bits |= byte << (56 - r.count);
        r.count += 8;
    }
    *state = r;
}

/* Provide at least 56 bits. */
static inline __attribute__((always_inline)) void refill(reader *r)
{
    if (likely(r->end - r->next >= 8)) {
        const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
        uint64_t word;
        memcpy(&word, r->next, 8);
        if (likely(!((~word - ones) & word & tops))) { /* no byte is 0xff */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            word = __builtin_bswap64(word);
#endif
            r->bits |= word >> r->count;
            r->next += (63 - r->count) >> 3;
            r->count |= 56;
            return;
        }
    }
    reader copy = *r; /* so that *r can stay in registers */
    refill_slowly(&copy);
    *r = copy;
}

static inline __attribute__((always_inline)) void take(reader *r, int bits)
{
    r->bits <<= bits;
    r->count -= bits;
}

static inline __attribute__((always_inline)) uint32_t symbol(const reader *r, const px_huffman *h,
                                                             int ac)
{
    uint32_t entry = h->entries[r->bits >> (64 - PX_SYMBOL_BITS)];
    return likely(entry) ? entry : long_symbol(h, r->bits, ac);
}

/* A value that begins with 0 is negative: its complement is its absolute value. */
static inline __attribute__((always_inline)) int value(const reader *r, uint32_t entry)
{
    uint64_t bits = r->bits << CODE_BITS(entry);
    int size = VALUE_BITS(entry), all = (1 << size) - 1;
    int negative = -(int)(~bits >> 63);
    return (int)(bits >> 1 >> (63 - size)) - (negative & all);
}

/* ---- blocks ---------------------------------------------------------------------------- */

/* Decode the symbol of coefficient `k`, or skip some symbols. Both return the next coefficient,
 * LAST + 1 at the end of the block, and -1 at anything unusual. */
static inline __attribute__((always_inline)) int read_symbol(reader *r, const px_huffman *h, int k,
                                                             JCOEF *block)
{
    uint32_t entry = symbol(r, h, 1);
    if (!entry)
        return -1;
    k += RUN(entry);
    if (k > LAST) {
        take(r, TAKEN(entry));
        return RUN(entry) == END ? LAST + 1 : -1;
    }
    block[natural_order[k]] = (JCOEF)value(r, entry);
    take(r, TAKEN(entry));
    return k + 1;
}

static inline __attribute__((always_inline)) int skip_symbols(reader *r, const px_huffman *h, int k)
{
    unsigned run = h->runs[r->bits >> (64 - PX_RUN_BITS)];
    int after = k + (int)(run >> 8);
    /* A block that is full has no end. */
    if (likely(run && after + !!(run & ENDS) <= LAST + 1)) {
        take(r, TAKEN(run));
        return run & ENDS ? LAST + 1 : after;
    }
    uint32_t entry = symbol(r, h, 1);
    if (!entry)
        return -1;
    take(r, TAKEN(entry));
    k += RUN(entry) + 1;
    if (RUN(entry) == END)
        return LAST + 1;
    return k <= LAST + 1 ? k : -1;
}

/* All coefficients of a block but the first, which was one symbol after a refill. */
static inline __attribute__((always_inline)) int read_block(reader *r, const px_huffman *h,
                                                            JCOEF *block)
{
    int k = 1;
    while ((unsigned)(k = read_symbol(r, h, k, block)) <= LAST) {
        refill(r);
        if ((unsigned)(k = read_symbol(r, h, k, block)) > LAST)
            break;
    }
    return k == LAST + 1;
}

static inline __attribute__((always_inline)) int skip_block(reader *r, const px_huffman *h)
{
    int k = 1;
    while ((unsigned)(k = skip_symbols(r, h, k)) <= LAST) {
        refill(r);
        if ((unsigned)(k = skip_symbols(r, h, k)) > LAST)
            break;
    }
    return k == LAST + 1;
}

/* At a restart marker, everything begins again. */
static int restart(px_entropy *s, reader *r)
{
    refill(r);
    if (r->count - r->padding > 7 || r->end - r->next < 2 || r->next[0] != 0xff ||
        r->next[1] != 0xd0 + s->restarts)
        return 0;
    r->next += 2;
    r->bits = 0;
    r->count = r->padding = 0;
    memset(s->predictions, 0, sizeof s->predictions);
    s->restarts = (s->restarts + 1) & 7;
    s->until_restart = s->interval;
    return 1;
}

int px_entropy_mcu(px_entropy *s, JBLOCKROW *data)
{
    reader r = {s->bits, s->next, s->end, s->count, s->padding};
    JBLOCK unwanted;
    int wanted = data && s->column >= s->first && s->column <= s->last;
    if (s->interval && !s->until_restart && !restart(s, &r))
        return 0;
    for (int b = 0; b < s->block_count; b++) {
        int *prediction = &s->predictions[s->blocks[b].component];
        const px_huffman *ac = s->blocks[b].ac;
        refill(&r);
        uint32_t entry = symbol(&r, s->blocks[b].dc, 0);
        if (!entry)
            return 0;
        *prediction += value(&r, entry);
        take(&r, TAKEN(entry));
        if (*prediction != (int16_t)*prediction)
            return 0;
        JCOEF *block = unwanted;
        if (wanted) {
            block = data[b][0];
            block[0] = (JCOEF)*prediction;
        }
        int skips = ac->has_runs && (!wanted || s->blocks[b].dc_only);
        if (skips ? !skip_block(&r, ac) : !read_block(&r, ac, block))
            return 0;
    }
    if (r.count < r.padding) /* the data ended before */
        return 0;
    s->bits = r.bits;
    s->next = r.next;
    s->count = r.count;
    s->padding = r.padding;
    if (s->interval)
        s->until_restart--;
    s->column = s->column + 1 == s->columns ? 0 : s->column + 1;
    return 1;
}

int px_entropy_begin(px_entropy *s, const struct jpeg_decompress_struct *j, unsigned first,
                     unsigned last, size_t skipped)
{
    if (j->arith_code || j->progressive_mode || j->data_precision != 8 || j->Ss || j->Ah || j->Al ||
        j->Se != LAST || j->comps_in_scan != j->num_components ||
        j->blocks_in_MCU > D_MAX_BLOCKS_IN_MCU)
        return 0;
    for (int i = 0; i < j->blocks_in_MCU; i++) {
        int component = j->MCU_membership[i];
        const jpeg_component_info *info = j->cur_comp_info[component];
        int dc = info->dc_tbl_no, ac = info->ac_tbl_no;
        if (dc < 0 || dc > 1 || ac < 0 || ac > 1 ||
            !make_table(&s->dc[dc], j->dc_huff_tbl_ptrs[dc], 0) ||
            !make_table(&s->ac[ac], j->ac_huff_tbl_ptrs[ac], 1))
            return 0;
        s->blocks[i].dc = &s->dc[dc];
        s->blocks[i].ac = &s->ac[ac];
        s->blocks[i].component = (uint8_t)component;
        s->blocks[i].dc_only = DCT_SIZE(info) == 1;
        s->ac[ac].skipped += skipped / (size_t)j->blocks_in_MCU;
        if (s->ac[ac].skipped >= MIN_SKIPPED && !s->ac[ac].has_runs)
            make_runs(&s->ac[ac]);
    }
    s->next = j->src->next_input_byte;
    s->end = s->next + j->src->bytes_in_buffer;
    s->bits = 0;
    s->count = s->padding = s->restarts = 0;
    memset(s->predictions, 0, sizeof s->predictions);
    s->block_count = j->blocks_in_MCU;
    s->columns = j->MCUs_per_row;
    s->column = 0;
    s->first = first;
    s->last = last;
    s->interval = s->until_restart = j->restart_interval;
    return 1;
}
#endif
