/* JPEG with libjpeg-turbo: headers, whole images, and regions rendered row by row.
 *
 * longjmp stays inside this file: every entry point sets its own jump target, calls libjpeg only
 * below it, and keeps in the decoder what must survive a jump. */
#include "pixels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Read the frame header and the EXIF orientation without libjpeg, in about a microsecond. */
static int exif_orientation(const uint8_t *p, size_t n)
{
    if (n < 14 || memcmp(p, "Exif\0\0", 6))
        return 1;
    p += 6;
    n -= 6;
    int big = p[0] == 'M';
    if (p[0] != p[1] || (!big && p[0] != 'I'))
        return 1;
#define U16(at) (big ? (uint32_t)p[at] << 8 | p[(at) + 1] : (uint32_t)p[(at) + 1] << 8 | p[at])
#define U32(at) (big ? U16(at) << 16 | U16((at) + 2) : U16((at) + 2) << 16 | U16(at))
    size_t at = U32(4);
    if (at > n - 2)
        return 1;
    size_t entries = U16(at);
    at += 2;
    for (size_t i = 0; i < entries && at + 12 <= n; i++, at += 12)
        if (U16(at) == 0x0112) {
            /* The standard says SHORT; some cameras write LONG. */
            uint32_t type = U16(at + 2), value = type == 3 ? U16(at + 8) : U32(at + 8);
            int known = (type == 3 || type == 4) && U32(at + 4) == 1;
            return known && value >= 1 && value <= 8 ? (int)value : 1;
        }
#undef U16
#undef U32
    return 1;
}

int px_jpeg_info(const uint8_t *data, size_t size, px_info *info)
{
    size_t at = 2;
    int exif = 0;
    info->orientation = 1;
    if (size < 4 || data[0] != 0xff || data[1] != 0xd8 || data[2] != 0xff)
        return PX_UNSUPPORTED;
    while (at + 4 <= size) {
        if (data[at] != 0xff) { /* stray bytes between segments: libjpeg skips them too */
            at++;
            continue;
        }
        uint8_t marker = data[at + 1];
        if (marker == 0xff) {
            at++;
            continue;
        }
        if (marker == 0 || marker == 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {
            at += 2;
            continue;
        }
        if (marker == 0xd9 || marker == 0xda)
            return PX_CORRUPT;
        size_t length = (size_t)data[at + 2] << 8 | data[at + 3];
        if (length < 2) {
            /* libjpeg skips such metadata, and Pillow reads it; it is not an EXIF segment. */
            if ((marker < 0xe0 || marker > 0xef) && marker != 0xfe)
                return PX_CORRUPT;
            at += 4;
            continue;
        }
        if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 &&
            marker != 0xcc) {
            if (length < 8 || at + 10 > size)
                return PX_CORRUPT;
            info->height = data[at + 5] << 8 | data[at + 6];
            info->width = data[at + 7] << 8 | data[at + 8];
            info->components = data[at + 9];
            return info->height && info->width ? PX_OK : PX_CORRUPT;
        }
        if (marker == 0xe1 && !exif && at + 2 + length <= size) {
            exif = length > 8 && !memcmp(data + at + 4, "Exif", 4);
            info->orientation = exif_orientation(data + at + 4, length - 2);
        }
        at += 2 + length;
    }
    return PX_CORRUPT;
}

#if HAVE_JPEG
#include <setjmp.h>

#include <jpeglib.h>
#include <jerror.h>

#include "entropy.h"

#define ROWS 16
/* Bytes of the largest vectors of libjpeg-turbo. */
#define VECTOR 32
/* Not an error: decode the image again, and leave the Huffman codes to libjpeg. */
#define PX_AGAIN (-1)
/* Whether `entropy_methods` is right. */
#define KNOWN_METHODS (LIBJPEG_TURBO_VERSION_NUMBER < 4000000)
/* A progressive file of a few kB can ask for hours of work; real files have about ten scans. The
 * twin of `_scan_limit` in images/pillow.py. */
#define MAX_SCANS 500
#define MIN_SCANS 32
#define MAX_SCAN_PIXELS (UINT64_C(1) << 30)
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

struct px_decoder {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    struct jpeg_source_mgr source;
    jmp_buf escape;
    int code;
    char message[JMSG_LENGTH_MAX + 32];
    uint64_t max_pixels;
    px_work work;
    uint8_t *lines;
    size_t lines_cap;
    int takes_entropy, leaves_entropy; /* whether entropy.c decodes the Huffman codes; must not */
    uint64_t entropy_images;           /* how many images it has decoded */
    px_entropy entropy;
};

static void stop(j_common_ptr info)
{
    px_decoder *d = info->client_data;
    if (!d->code) {
        info->err->format_message(info, d->message);
        int id = info->err->msg_code;
        d->code = id == JERR_OUT_OF_MEMORY ? PX_NO_MEMORY : PX_CORRUPT;
        if (id == JERR_BAD_PRECISION || id == JERR_SOF_UNSUPPORTED || id == JERR_NOT_COMPILED ||
            id == JERR_CONVERSION_NOTIMPL || id == JERR_BAD_J_COLORSPACE)
            d->code = PX_UNSUPPORTED;
    }
    longjmp(d->escape, 1);
}

static void fail(px_decoder *d, int code, const char *message)
{
    d->code = code;
    snprintf(d->message, sizeof d->message, "%s", message);
    longjmp(d->escape, 1);
}

/* libjpeg continues after damage and fills in gray; here, damage is an error. Other warnings do not
 * affect pixels: stray bytes between markers, odd version numbers, unusual scan orders. */
static void emit(j_common_ptr info, int level)
{
    if (level >= 0)
        return;
    switch (info->err->msg_code) {
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_JPEG_EOF:
    case JWRN_MUST_RESYNC:
    case JWRN_ARITH_BAD_CODE:
        stop(info);
    }
}

static void silent(j_common_ptr info) { (void)info; }

static void no_source(j_decompress_ptr info) { (void)info; }

static boolean no_more(j_decompress_ptr info)
{
    fail(info->client_data, PX_CORRUPT, "premature end of JPEG data: the file is truncated");
    return FALSE;
}

static void skip(j_decompress_ptr info, long count)
{
    if (count <= 0)
        return;
    if ((size_t)count > info->src->bytes_in_buffer)
        no_more(info);
    info->src->next_input_byte += count;
    info->src->bytes_in_buffer -= (size_t)count;
}

static void watch(j_common_ptr info)
{
    j_decompress_ptr j = (j_decompress_ptr)info;
    uint64_t scans = (uint64_t)j->input_scan_number;
    if (scans > MAX_SCANS)
        fail(info->client_data, PX_CORRUPT, "more than " TEXT(MAX_SCANS) " scans");
    if (scans > MIN_SCANS
        && scans * ((uint64_t)j->image_width * j->image_height) > MAX_SCAN_PIXELS)
        fail(info->client_data, PX_CORRUPT, "too many scans for its size");
}

const char *px_jpeg_version(void)
{
#ifdef LIBJPEG_TURBO_VERSION
    return TEXT(LIBJPEG_TURBO_VERSION);
#else
    return "unknown";
#endif
}

/* Whether this libjpeg-turbo is the one of the headers. */
static int matches_headers(px_decoder *d)
{
    if (setjmp(d->escape))
        return 0;
    jpeg_create_decompress(&d->jpeg);
    jpeg_destroy_decompress(&d->jpeg);
    return 1;
}

px_decoder *px_decoder_new(uint64_t max_pixels)
{
    px_decoder *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->max_pixels = max_pixels;
    d->jpeg.err = jpeg_std_error(&d->errors);
    d->jpeg.client_data = d;
    d->errors.error_exit = stop;
    d->errors.emit_message = emit;
    d->errors.output_message = silent;
    if (!matches_headers(d)) {
        px_decoder_free(d);
        return NULL;
    }
    d->progress.progress_monitor = watch;
    d->source.init_source = no_source;
    d->source.fill_input_buffer = no_more;
    d->source.skip_input_data = skip;
    d->source.resync_to_restart = jpeg_resync_to_restart;
    d->source.term_source = no_source;
    return d;
}

void px_decoder_free(px_decoder *d)
{
    if (!d)
        return;
    px_work_free(&d->work);
    free(d->lines);
    free(d);
}

static void open_jpeg(px_decoder *d, const uint8_t *data, size_t size)
{
    struct jpeg_decompress_struct *j = &d->jpeg;
    /* A new one for each image. Otherwise, the tables of the last one would serve an image that has
     * lost its own, and its pixels would depend on the order of the images. Takes a microsecond. */
    jpeg_create_decompress(j);
    j->src = &d->source;
    j->progress = &d->progress;
    d->source.next_input_byte = data;
    d->source.bytes_in_buffer = size;
    jpeg_read_header(j, TRUE);
    if ((uint64_t)j->image_width * j->image_height > d->max_pixels) {
        char text[120];
        snprintf(text, sizeof text, "the image has %u x %u pixels", j->image_width,
                 j->image_height);
        fail(d, PX_TOO_LARGE, text);
    }
}

/* Called after the last row that is needed: the file must have an end marker. */
static void expect_end(px_decoder *d)
{
    struct jpeg_decompress_struct *j = &d->jpeg;
    const uint8_t *p = d->source.next_input_byte;
    const uint8_t *end = p + d->source.bytes_in_buffer;
    /* If there are several scans, all were read before the first row. */
    if (j->unread_marker == JPEG_EOI || jpeg_has_multiple_scans(j))
        return;
    while ((p = memchr(p, 0xff, (size_t)(end - p)))) {
        if (++p == end)
            break;
        if (*p == JPEG_EOI)
            return;
    }
    no_more(j);
}

/* Convert CMYK, inverted as Adobe writes it, to RGB: (255 - C) * (255 - K) / 255. */
static void from_cmyk(uint8_t *p, size_t count)
{
    for (size_t i = 0; i < count; i++, p += 4)
        for (int c = 0; c < 3; c++) {
            unsigned v = (255u - p[c]) * p[3] + 128;
            v = ((v >> 8) + v) >> 8;
            p[c] = (uint8_t)(v > p[3] ? 0 : p[3] - v);
        }
}

static int is_cmyk(const struct jpeg_decompress_struct *j)
{
    return j->jpeg_color_space == JCS_CMYK || j->jpeg_color_space == JCS_YCCK;
}

/* Refuse a progressive file unless every coefficient has full precision. Otherwise, libjpeg smooths
 * across blocks, which each release does in another way. Called after jpeg_start_decompress. */
static void expect_all_scans(px_decoder *d)
{
    const struct jpeg_decompress_struct *j = &d->jpeg;
    if (!j->progressive_mode || !j->coef_bits)
        return;
    for (int c = 0; c < j->num_components; c++)
        for (int k = 0; k < DCTSIZE2; k++)
            if (j->coef_bits[c][k])
                fail(d, PX_UNSUPPORTED, "a progressive JPEG without its last scans");
}

/* libjpeg-turbo writes a row that begins at a multiple of its vectors past the caches. For small
 * images, waiting for memory then takes longer than a third of decoding. */
static int bypasses_cache(const uint8_t *row) { return (uintptr_t)row % VECTOR == 0; }

/* Hold `ROWS` rows of at least so many bytes, which stay in the caches. */
static void hold_rows(px_decoder *d, size_t bytes, uint8_t *rows[ROWS])
{
    size_t pitch = (bytes + VECTOR - 1) / VECTOR * VECTOR;
    if (px_grow((void **)&d->lines, &d->lines_cap, pitch + VECTOR, ROWS))
        fail(d, PX_NO_MEMORY, "out of memory");
    uint8_t *first = d->lines + (VECTOR - (uintptr_t)d->lines % VECTOR) + VECTOR / 4;
    for (int i = 0; i < ROWS; i++)
        rows[i] = first + (size_t)i * pitch;
}

/* How the entropy decoder of libjpeg begins. It is declared in a header that is not installed, but
 * its first two members have been these since release 6 of the Independent JPEG Group. */
typedef struct {
    void (*start_pass)(j_decompress_ptr j);
    boolean (*decode_mcu)(j_decompress_ptr j, JBLOCKROW *data);
} entropy_methods;

static boolean next_mcu(j_decompress_ptr j, JBLOCKROW *data)
{
    px_decoder *d = j->client_data;
    if (!px_entropy_mcu(&d->entropy, data))
        fail(d, PX_AGAIN, "");
    /* For expect_end. */
    d->source.bytes_in_buffer -= (size_t)(d->entropy.next - d->source.next_input_byte);
    d->source.next_input_byte = d->entropy.next;
    return TRUE;
}

/* Let entropy.c decode the Huffman codes, if it can. Only `width` columns from `first` are wanted, and
 * of the rows above `end`, those from `begin`. */
static void take_entropy(px_decoder *d, JDIMENSION full_width, JDIMENSION first, JDIMENSION width,
                         int64_t begin, int64_t end)
{
    struct jpeg_decompress_struct *j = &d->jpeg;
    if (d->leaves_entropy || !KNOWN_METHODS || jpeg_has_multiple_scans(j))
        return;
    unsigned unit = (unsigned)(MIN_DCT_SIZE(j) * j->max_h_samp_factor);
    unsigned first_mcu = first / unit, last_mcu = (first + width - 1) / unit;
    if (j->num_components == 1 && j->max_h_samp_factor > 1) {
        /* An MCU is one block, and releases differ in what they crop. */
        first_mcu = 0;
        last_mcu = j->MCUs_per_row - 1;
    }
    double unwanted = (double)end - (double)(end - begin) * width / full_width;
    double skipped = (double)d->source.bytes_in_buffer * unwanted / j->output_height;
    if (!px_entropy_begin(&d->entropy, j, first_mcu, last_mcu, (size_t)skipped))
        return;
    ((entropy_methods *)(void *)j->entropy)->decode_mcu = next_mcu;
    d->takes_entropy = 1;
}

static void whole(px_decoder *d, const uint8_t *data, size_t size, int64_t width, int64_t height,
                  uint8_t *out)
{
    struct jpeg_decompress_struct *j = &d->jpeg;
    open_jpeg(d, data, size);
    if (j->image_width != width || j->image_height != height)
        fail(d, PX_MISMATCH, "the frame header contradicts the size found first");
    int cmyk = is_cmyk(j);
    j->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(j);
    expect_all_scans(d);
    size_t bytes = (size_t)width * 3;
    uint8_t *held[ROWS], *rows[ROWS];
    hold_rows(d, (size_t)width * 4, held);
    take_entropy(d, j->output_width, 0, j->output_width, 0, height);
    while (j->output_scanline < j->output_height) {
        uint8_t *row = out + (size_t)j->output_scanline * bytes;
        if (cmyk) {
            jpeg_read_scanlines(j, held, 1);
            from_cmyk(held[0], (size_t)width);
            for (int64_t x = 0; x < width; x++)
                memcpy(row + 3 * x, held[0] + 4 * x, 3);
            continue;
        }
        JDIMENSION left = j->output_height - j->output_scanline;
        JDIMENSION n = left < ROWS ? left : ROWS;
        for (JDIMENSION i = 0; i < n; i++)
            rows[i] = bypasses_cache(row + i * bytes) ? held[i] : row + i * bytes;
        n = jpeg_read_scanlines(j, rows, n);
        for (JDIMENSION i = 0; i < n; i++)
            if (rows[i] == held[i])
                memcpy(row + i * bytes, held[i], bytes);
    }
    expect_end(d);
}

/* Whether jpeg_crop_scanline is right. If chroma is scaled by less than luma and still has to be
 * upsampled, as in 4:1:0 at half the size, libjpeg-turbo leaves columns of it unset. */
static int can_crop(const struct jpeg_decompress_struct *j)
{
    for (int c = 0; c < j->num_components; c++) {
        const jpeg_component_info *info = &j->comp_info[c];
        int size = DCT_SIZE(info), full = MIN_DCT_SIZE(j);
        if (size != full && (info->h_samp_factor * size != j->max_h_samp_factor * full ||
                             info->v_samp_factor * size != j->max_v_samp_factor * full))
            return 0;
    }
    return 1;
}

static void region(px_decoder *d, const uint8_t *data, size_t size, const px_geometry *g,
                   const px_output_format *format, void *out)
{
    struct jpeg_decompress_struct *j = &d->jpeg;
    px_work *work = &d->work;
    int divide = 1;
    open_jpeg(d, data, size);
    if (j->image_width != g->source_w || j->image_height != g->source_h)
        fail(d, PX_MISMATCH, "the frame header contradicts the size found first");
    if (g->min_reduction > 0.0 && g->resized) {
        double sx = (g->box_x1 - g->box_x0) / (double)g->size_w;
        double sy = (g->box_y1 - g->box_y0) / (double)g->size_h;
        double s = (sx < sy ? sx : sy) / g->min_reduction;
        /* Only these scales have fast inverse transforms. */
        divide = s >= 8.0 ? 8 : s >= 4.0 ? 4 : s >= 2.0 ? 2 : 1;
    }
    j->scale_num = 1;
    j->scale_denom = (unsigned)divide;
    int cmyk = is_cmyk(j);
    j->out_color_space = cmyk ? JCS_CMYK : JCS_EXT_RGBX;
    int code = px_begin(work, g, 3, divide);
    if (code)
        fail(d, code, "out of memory");
    jpeg_start_decompress(j);
    expect_all_scans(d);

    /* If chroma is upsampled by 2, a pixel depends on the chroma sample next to its own, so the
     * outermost column of a region would differ from the whole image: decode one more. Rows of
     * fewer than three chroma samples are upsampled differently: decode at least 32 columns. */
    int64_t margin = j->max_h_samp_factor > 1;
    JDIMENSION full_width = j->output_width, first = 0, width = full_width;
    int64_t lo = work->x.lo - margin, hi = work->x.hi + margin;
    if (hi - lo < 32) {
        lo = hi - 32 < 0 ? 0 : hi - 32;
        hi = lo + 32;
    }
    if (work->x.hi > work->x.lo && (lo > 0 || hi < (int64_t)width) && can_crop(j)) {
        lo = lo < 0 ? 0 : lo;
        hi = hi > (int64_t)width ? (int64_t)width : hi;
        first = (JDIMENSION)lo;
        width = (JDIMENSION)(hi - lo);
        jpeg_crop_scanline(j, &first, &width);
    }
    if (work->rows > 0)
        take_entropy(d, full_width, first, width, work->y.lo, work->y.hi);
    uint8_t *rows[ROWS];
    hold_rows(d, ((size_t)j->output_width + (size_t)work->x.taps) * 4 + 64, rows);
    if (work->y.lo > 0 && work->rows > 0)
        jpeg_skip_scanlines(j, (JDIMENSION)work->y.lo);
    while (work->rows > 0 && (int64_t)j->output_scanline < work->y.hi) {
        int64_t y = j->output_scanline;
        int64_t left = work->y.hi - y;
        JDIMENSION n = jpeg_read_scanlines(j, rows, (JDIMENSION)(left < ROWS ? left : ROWS));
        for (JDIMENSION i = 0; i < n; i++) {
            if (y + i < work->y.lo)
                continue;
            if (cmyk)
                from_cmyk(rows[i], j->output_width);
            px_row(work, g, y + i, rows[i], first);
        }
    }
    expect_end(d);
    px_end(work, g, format, out);
}

/* Called after each attempt at an image. */
static int must_repeat(px_decoder *d)
{
    jpeg_destroy_decompress(&d->jpeg);
    if (d->code == PX_OK && d->takes_entropy)
        d->entropy_images++;
    d->takes_entropy = 0;
    d->leaves_entropy = d->code == PX_AGAIN;
    return d->leaves_entropy;
}

int px_decode(px_decoder *d, const uint8_t *data, size_t size, int64_t width, int64_t height,
              uint8_t *out)
{
    do {
        d->code = PX_OK;
        if (!setjmp(d->escape))
            whole(d, data, size, width, height, out);
    } while (must_repeat(d));
    return d->code;
}

int px_render_jpeg(px_decoder *d, const uint8_t *data, size_t size, const px_geometry *g,
                   const px_output_format *format, void *out)
{
    do {
        d->code = PX_OK;
        if (!setjmp(d->escape))
            region(d, data, size, g, format, out);
    } while (must_repeat(d));
    return d->code;
}

uint64_t px_decoder_entropy_images(const px_decoder *d) { return d->entropy_images; }

px_work *px_decoder_work(px_decoder *d) { return &d->work; }

const char *px_decoder_message(const px_decoder *d) { return d->message; }

#else /* without libjpeg-turbo: arrays only, Pillow decodes */

struct px_decoder {
    px_work work;
};

const char *px_jpeg_version(void) { return ""; }

px_decoder *px_decoder_new(uint64_t max_pixels)
{
    (void)max_pixels;
    return calloc(1, sizeof(px_decoder));
}

void px_decoder_free(px_decoder *d)
{
    if (!d)
        return;
    px_work_free(&d->work);
    free(d);
}

px_work *px_decoder_work(px_decoder *d) { return &d->work; }

uint64_t px_decoder_entropy_images(const px_decoder *d)
{
    (void)d;
    return 0;
}

const char *px_decoder_message(const px_decoder *d)
{
    (void)d;
    return "built without libjpeg-turbo";
}

int px_decode(px_decoder *d, const uint8_t *data, size_t size, int64_t width, int64_t height,
              uint8_t *out)
{
    (void)d, (void)data, (void)size, (void)width, (void)height, (void)out;
    return PX_UNSUPPORTED;
}

int px_render_jpeg(px_decoder *d, const uint8_t *data, size_t size, const px_geometry *g,
                   const px_output_format *format, void *out)
{
    (void)d, (void)data, (void)size, (void)g, (void)format, (void)out;
    return PX_UNSUPPORTED;
}
#endif
