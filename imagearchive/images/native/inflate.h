/* A decoder of deflate streams (RFC 1951) in memory, for png.c. */
#ifndef IMAGEARCHIVE_INFLATE_H
#define IMAGEARCHIVE_INFLATE_H

#include <stddef.h>
#include <stdint.h>

/* So many bytes behind the input must be readable; they do not affect the result. */
#define PX_INFLATE_BEHIND 16
/* So many bytes behind the limit of the output may be written. */
#define PX_INFLATE_OVERRUN 320
/* How far back a stream refers to its own output. */
#define PX_INFLATE_WINDOW 32768

#define PX_LITERAL_BITS 11
#define PX_DISTANCE_BITS 8

enum px_inflate_status {
    PX_INFLATE_MORE,    /* the output has reached its limit */
    PX_INFLATE_END,     /* the stream has ended */
    PX_INFLATE_CORRUPT, /* the stream is damaged or truncated */
};

typedef struct {
    const uint8_t *in, *end;
    uint64_t bits;  /* the next bits of the input, the first one lowest */
    unsigned count; /* how many of them are valid */
    int state, last;
    size_t stored; /* what is left of a block without compression */
    /* First come 2^BITS entries, which the next bits of the input select; then the tables for
     * longer codes. These are the largest sizes that codes of up to 15 bits can need. */
    uint32_t literals[2342], distances[402];
} px_inflate;

void px_inflate_begin(px_inflate *s, const uint8_t *data, size_t size);

/* Write output at `*out` until it reaches `limit` or the stream ends, and move `*out`. What is from
 * `start` to `*out` must be the output before, or the last 32 KiB of it. */
int px_inflate_run(px_inflate *s, const uint8_t *start, uint8_t **out, const uint8_t *limit);

/* After the end of the stream: the first byte of the input behind it. */
const uint8_t *px_inflate_rest(const px_inflate *s);

#endif
