/* The limit for the loader: libjpeg-turbo alone decodes one region of each of many JPEGs, in threads
 * that share only a counter. Compiled and called by loader_jpegs.py. */

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

#define ROWS 8

typedef struct {
    const uint8_t *base;        /* the archive in memory */
    const uint64_t *offsets;    /* of each image */
    const uint64_t *sizes;
    const int32_t *boxes;       /* x0, y0, x1, y1 of each, in pixels of the scaled image */
    const int32_t *denominators; /* 1, 2, 4 or 8: the scale to decode at */
    int count;
    atomic_int next;
    atomic_llong sum; /* so that nothing is optimized away */
} work;

typedef struct {
    struct jpeg_error_mgr manager;
    jmp_buf escape;
} errors;

static void escape(j_common_ptr info) { longjmp(((errors *)info->err)->escape, 1); }
static void silent(j_common_ptr info, int level) { (void)info, (void)level; }

static void *run(void *argument)
{
    work *w = argument;
    struct jpeg_decompress_struct j;
    errors err;
    uint8_t *rows[ROWS], *lines = malloc((size_t)ROWS * 4 * 65536);
    volatile long long sum = 0; /* kept across the jump */
    j.err = jpeg_std_error(&err.manager);
    err.manager.error_exit = escape;
    err.manager.emit_message = silent;
    jpeg_create_decompress(&j);
    for (int r = 0; r < ROWS; r++)
        rows[r] = lines + (size_t)r * 4 * 65536;
    for (int i; (i = atomic_fetch_add(&w->next, 1)) < w->count;) {
        const int32_t *box = w->boxes + 4 * i;
        if (setjmp(err.escape)) {
            jpeg_abort_decompress(&j);
            continue;
        }
        jpeg_mem_src(&j, w->base + w->offsets[i], w->sizes[i]);
        jpeg_read_header(&j, TRUE);
        j.out_color_space = JCS_EXT_RGBX;
        j.scale_num = 1;
        j.scale_denom = (unsigned)w->denominators[i];
        jpeg_start_decompress(&j);
        JDIMENSION left = (JDIMENSION)box[0], width = (JDIMENSION)(box[2] - box[0]);
        if (width < j.output_width)
            jpeg_crop_scanline(&j, &left, &width);
        if (box[1])
            jpeg_skip_scanlines(&j, (JDIMENSION)box[1]);
        while (j.output_scanline < (JDIMENSION)box[3]) {
            jpeg_read_scanlines(&j, rows, ROWS);
            sum += rows[0][0];
        }
        jpeg_abort_decompress(&j);
    }
    jpeg_destroy_decompress(&j);
    free(lines);
    atomic_fetch_add(&w->sum, sum);
    return NULL;
}

long long decode_regions(const uint8_t *base, const uint64_t *offsets, const uint64_t *sizes,
                         const int32_t *boxes, const int32_t *denominators, int count, int threads)
{
    work w = {base, offsets, sizes, boxes, denominators, count, 0, 0};
    pthread_t ids[64];
    for (int t = 0; t < threads; t++)
        pthread_create(&ids[t], NULL, run, &w);
    for (int t = 0; t < threads; t++)
        pthread_join(ids[t], NULL);
    return w.sum;
}
