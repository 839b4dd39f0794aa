/* Shared by png.c, png_chunks.c and unfilter.c. */
#ifndef IMAGEARCHIVE_PNG_H
#define IMAGEARCHIVE_PNG_H

#include "pixels.h"

/* Types of color. */
enum { GRAY = 0, RGB = 2, PALETTE = 3, GRAY_ALPHA = 4, RGB_ALPHA = 6 };

typedef struct {
    int64_t width, height;
    unsigned depth, color, channels;
    size_t row;              /* bytes of a row */
    const uint8_t *palette;  /* NULL if there is none */
    size_t palette_size;     /* in bytes */
    const uint8_t *first;    /* the first chunk of pixels */
    const uint8_t *end;      /* of the data */
    size_t pixel_chunks, pixel_bytes;
    int metadata;            /* there are chunks that may hold an orientation */
} px_png_file;

typedef struct {
    const uint8_t *name, *data;
    size_t size;
} px_png_chunk;

uint32_t px_big32(const uint8_t *p);
/* Whether a stream of zlib can start like this. */
int px_is_zlib(const uint8_t *data, size_t size);
/* Read the chunk at `*at`, and move on. Return 0 if the data ends inside. */
int px_png_next(const uint8_t **at, const uint8_t *end, px_png_chunk *chunk);
int px_png_has_checksum(const px_png_chunk *chunk);

/* Read all chunks but the pixels, and check them; return 0 if the image is left to Pillow. */
int px_png_read(const uint8_t *data, size_t size, px_png_file *file);

enum px_png_filter { PX_NONE, PX_SUB, PX_UP, PX_AVERAGE, PX_PAETH };

/* Undo the filter of a row of `n` bytes, pixels of `step` bytes, at least one; `above` is the row
 * before, or zeros. Return PX_UNSUPPORTED if there is no such filter. */
int px_unfilter(int filter, const uint8_t *in, const uint8_t *above, size_t n, size_t step,
                uint8_t *out);

/* Return the Adler-32 of `size` bytes behind bytes whose checksum is `before`; 1 for none. */
uint32_t px_adler(uint32_t before, const uint8_t *data, size_t size);

#endif
