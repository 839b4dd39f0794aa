/* Huffman decoding of sequential JPEGs, in the place of libjpeg-turbo's, for jpeg.c. */
#ifndef IMAGEARCHIVE_ENTROPY_H
#define IMAGEARCHIVE_ENTROPY_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

/* The side of a block after the inverse transform: of a component, and the smallest of all. */
#if JPEG_LIB_VERSION >= 70
#define DCT_SIZE(component) ((component)->DCT_h_scaled_size)
#define MIN_DCT_SIZE(j) ((j)->min_DCT_h_scaled_size)
#else
#define DCT_SIZE(component) ((component)->DCT_scaled_size)
#define MIN_DCT_SIZE(j) ((j)->min_DCT_scaled_size)
#endif

#define PX_SYMBOL_BITS 10
#define PX_RUN_BITS 12

typedef struct {
    int ready;                        /* whether the tables are made */
    int has_runs;                     /* whether `runs` is */
    size_t skipped;                   /* how many bytes were, of all images with this code */
    uint8_t counts[17], symbols[256]; /* the code, as the file says it */
    int32_t largest[17], offset[17];  /* of each length: the last code; from a code to its symbol */
    uint32_t entries[1 << PX_SYMBOL_BITS];
    uint16_t runs[1 << PX_RUN_BITS];
} px_huffman;

typedef struct {
    px_huffman dc[2], ac[2];
    const uint8_t *next, *end;
    uint64_t bits; /* the next bits of the file, the first one highest */
    int count;     /* how many of them are valid */
    int padding;   /* how many zeros were added after the data */
    int predictions[MAX_COMPS_IN_SCAN];
    unsigned column, columns; /* of the next MCU; in all */
    unsigned first, last;     /* the columns whose coefficients are wanted */
    unsigned interval, until_restart;
    int restarts;
    int block_count;
    struct {
        px_huffman *dc, *ac;
        uint8_t component, dc_only;
    } blocks[D_MAX_BLOCKS_IN_MCU];
} px_entropy;

/* Begin at the first MCU, after jpeg_start_decompress; 0 if this is left to libjpeg. `skipped` is how
 * many bytes of the file hold what is not wanted, roughly. */
int px_entropy_begin(px_entropy *s, const struct jpeg_decompress_struct *j, unsigned first,
                     unsigned last, size_t skipped);

/* Decode the next MCU into `data`, blocks of zeros, as the method `decode_mcu` of libjpeg does; skip
 * it if `data` is NULL. Returns 0 at anything unusual: the image is then left to libjpeg, from its
 * beginning. */
int px_entropy_mcu(px_entropy *s, JBLOCKROW *data);

#endif
