/* PNG: 8-bit images, and palettes and gray of 1, 2 and 4 bits, without interlacing.
 *
 * Pillow decodes all others, and whatever is unusual or damaged: this file either gives the pixels
 * that Pillow gives, or PX_UNSUPPORTED. Before the first row, all chunks are known to be whole and
 * in order, and the checksums of the pixels, and of what Pillow checks, are known to be right. */
#include "png.h"
#include "inflate.h"

#include <stdlib.h>
#include <string.h>

/* A larger buffer is not kept for the next image. */
#define MAX_KEPT ((size_t)4 << 20)
/* Deflate cannot make more bytes from one. */
#define MAX_RATIO 1032
/* Output that is decompressed before its rows are unfiltered, in caches still. */
#define PIECE 65536

struct px_png {
    uint64_t max_pixels;
    px_inflate inflate;
    uint8_t *pixels;  /* the compressed pixels, if they are in several chunks */
    uint8_t *window;  /* decompressed */
    uint8_t *rows;    /* a row of zeros, and two rows of unfiltered bytes */
    uint8_t *values;  /* a row of palette indices or gray values, a byte each */
    size_t pixels_cap, window_cap, rows_cap, values_cap;
    uint32_t colors[256]; /* of a palette or of gray, as 4-byte pixels */
};

/* What becomes of the rows. */
typedef struct {
    int64_t rows;      /* the first rows are decoded, up to this number */
    uint8_t *rgb;      /* the whole image, pixels of 3 bytes, or NULL */
    uint8_t *indices;  /* the whole image, as stored, or NULL */
    px_work *work;     /* renders a region, or NULL */
    const px_geometry *geometry;
} row_target;

px_png *px_png_new(uint64_t max_pixels)
{
    px_png *png = calloc(1, sizeof *png);
    if (png)
        png->max_pixels = max_pixels;
    return png;
}

void px_png_free(px_png *png)
{
    if (!png)
        return;
    free(png->pixels);
    free(png->window);
    free(png->rows);
    free(png->values);
    free(png);
}

/* Check the checksums of the pixels, and make them one piece. Return NULL, and `*code`. The data of
 * a mapped file may have changed since its chunks were read. */
static const uint8_t *join_pixels(px_png *png, const px_png_file *file, int *code)
{
    const uint8_t *at = file->first;
    size_t left = file->pixel_bytes;
    uint8_t *to = NULL;
    if (file->pixel_chunks > 1) {
        *code = PX_NO_MEMORY;
        if (px_grow((void **)&png->pixels, &png->pixels_cap, file->pixel_bytes + PX_INFLATE_BEHIND,
                    1))
            return NULL;
        to = png->pixels;
    }
    *code = PX_UNSUPPORTED;
    for (size_t i = 0; i < file->pixel_chunks; i++) {
        px_png_chunk chunk;
        if (!px_png_next(&at, file->end, &chunk) || chunk.size > left ||
            !px_png_has_checksum(&chunk))
            return NULL;
        if (to) {
            memcpy(to, chunk.data, chunk.size);
            to += chunk.size;
        }
        left -= chunk.size;
    }
    if (left)
        return NULL;
    *code = PX_OK;
    /* A chunk alone is followed by its checksum and another chunk, 16 bytes at least. */
    return to ? png->pixels : file->first + 8;
}

/* ---- rows ------------------------------------------------------------------------------ */

/* Spread values of 1, 2 or 4 bits over bytes. */
static void unpack(const uint8_t *in, size_t n, unsigned depth, uint8_t *out)
{
    unsigned each = 8 / depth, mask = (1u << depth) - 1;
    size_t i = 0;
    for (; i + each <= n; in++)
        for (unsigned shift = 8; shift; i++) {
            shift -= depth;
            out[i] = (uint8_t)(*in >> shift & mask);
        }
    for (unsigned shift = 8; i < n; i++) {
        shift -= depth;
        out[i] = (uint8_t)(*in >> shift & mask);
    }
}

/* Pixels of a row to 4 bytes each; `values` are the bytes of the row, without packing. */
static void to_pixels(const px_png *png, const px_png_file *file, const uint8_t *values, int64_t n,
                      uint8_t *out)
{
    if (file->channels >= 3)
        px_widen(values, n, (int)file->channels, out);
    else
        for (int64_t i = 0; i < n; i++)
            memcpy(out + 4 * i, &png->colors[values[i * file->channels]], 4);
}

/* Pixels of a row to 3 bytes each. */
static void to_rgb(const px_png *png, const px_png_file *file, const uint8_t *values, int64_t n,
                   uint8_t *out)
{
    size_t step = file->channels;
    /* Four bytes at a time, of which the next pixel replaces the last. */
    if (step == 4)
        for (; n > 1; n--, values += 4, out += 3)
            memcpy(out, values, 4);
    else
        for (; n > 1; n--, values += step, out += 3)
            memcpy(out, &png->colors[*values], 4);
    memcpy(out, step == 4 ? values : (const uint8_t *)&png->colors[*values], 3);
}

static void fill_colors(px_png *png, const px_png_file *file)
{
    unsigned most = (1u << file->depth) - 1;
    memset(png->colors, 0, sizeof png->colors);
    for (unsigned i = 0; i < 256; i++) {
        uint8_t color[4] = {0, 0, 0, 255};
        if (file->color == PALETTE) {
            /* Black, where the palette ends. */
            if (3 * i + 3 <= file->palette_size)
                memcpy(color, file->palette + 3 * i, 3);
        } else
            memset(color, (int)(i <= most ? i * 255 / most : 255), 3);
        memcpy(&png->colors[i], color, 4);
    }
}

/* Deliver row `y`, unfiltered. */
static void deliver(px_png *png, const px_png_file *file, const row_target *target, int64_t y,
                    const uint8_t *row)
{
    int64_t width = file->width;
    if (target->indices) {
        uint8_t *out = target->indices + y * width;
        if (file->depth == 8)
            memcpy(out, row, (size_t)width);
        else
            unpack(row, (size_t)width, file->depth, out);
        return;
    }
    px_work *work = target->work;
    if (work && y < work->y.lo)
        return;
    if (file->depth < 8) {
        unpack(row, (size_t)width, file->depth, png->values);
        row = png->values;
    }
    if (target->rgb) {
        to_rgb(png, file, row, width, target->rgb + 3 * y * width);
        return;
    }
    int64_t lo = work->x.lo;
    to_pixels(png, file, row + lo * file->channels, work->x.hi - lo, work->line);
    px_row(work, target->geometry, y, work->line, lo);
}

/* Decompress and unfilter rows, and deliver them. */
static int decode_joined(px_png *png, const px_png_file *file, const row_target *target)
{
    size_t stride = file->row + 1, step = file->depth < 8 ? 1 : file->channels;
    size_t total, room, pitch = file->row + 64;
    if (__builtin_mul_overflow((size_t)target->rows, stride, &total))
        return PX_UNSUPPORTED;
    /* Do not allocate what so few bytes cannot become. */
    if (total / MAX_RATIO > file->pixel_bytes)
        return PX_UNSUPPORTED;
    int code, ends = target->rows == file->height;
    const uint8_t *data = join_pixels(png, file, &code);
    if (!data)
        return code;
    if (!px_is_zlib(data, file->pixel_bytes))
        return PX_UNSUPPORTED;
    room = PX_INFLATE_WINDOW + PX_INFLATE_OVERRUN + stride + PIECE;
    if (room > total)
        room = total + 1;
    if (px_grow((void **)&png->window, &png->window_cap, room + 1 + PX_INFLATE_OVERRUN, 1) ||
        px_grow((void **)&png->rows, &png->rows_cap, pitch, 3) ||
        px_grow((void **)&png->values, &png->values_cap, (size_t)file->width, 1))
        return PX_NO_MEMORY;
    memset(png->rows, 0, pitch);
    if (file->channels < 3)
        fill_colors(png, file);

    px_inflate *s = &png->inflate;
    px_inflate_begin(s, data + 2, file->pixel_bytes - 6);
    uint8_t *start = png->window, *out = start, *used = start, *rows = png->rows;
    const uint8_t *above = rows;
    size_t left = total; /* bytes that have not been used */
    uint32_t adler = 1;
    int direct = target->rgb && file->color == RGB;
    for (int64_t y = 0; y < target->rows; y++) {
        while ((size_t)(out - used) < stride) {
            if ((size_t)(out - start) >= room) {
                /* Keep what is not used yet, and what the stream may refer to. */
                size_t keep = (size_t)(out - used);
                if (keep < PX_INFLATE_WINDOW)
                    keep = PX_INFLATE_WINDOW;
                ptrdiff_t shift = out - start - (ptrdiff_t)keep;
                memmove(start, start + shift, keep);
                out -= shift;
                used -= shift;
            }
            size_t wanted = left - (size_t)(out - used), free_bytes = room - (size_t)(out - start);
            const uint8_t *limit = out + (wanted < free_bytes ? wanted : free_bytes);
            code = px_inflate_run(s, start, &out, limit);
            if (code == PX_INFLATE_CORRUPT ||
                (code == PX_INFLATE_END && (size_t)(out - used) < stride))
                return PX_UNSUPPORTED;
        }
        uint8_t *row = direct ? target->rgb + (size_t)y * file->row
                              : rows + (size_t)(1 + y % 2) * pitch;
        if (px_unfilter(used[0], used + 1, above, file->row, step, row))
            return PX_UNSUPPORTED;
        if (!direct)
            deliver(png, file, target, y, row);
        if (ends)
            adler = px_adler(adler, used, stride);
        above = row;
        used += stride;
        left -= stride;
    }
    if (!ends)
        return PX_OK;
    /* The stream must end with the last row. */
    if (out != used || px_inflate_run(s, start, &out, out + 1) != PX_INFLATE_END || out != used)
        return PX_UNSUPPORTED;
    const uint8_t *rest = px_inflate_rest(s);
    return px_big32(rest) == adler ? PX_OK : PX_UNSUPPORTED;
}

static int decode_rows(px_png *png, const px_png_file *file, const row_target *target)
{
    int code = decode_joined(png, file, target);
    if (png->pixels_cap > MAX_KEPT) {
        free(png->pixels);
        png->pixels = NULL;
        png->pixels_cap = 0;
    }
    return code;
}

static int open_png(const px_png *png, const uint8_t *data, size_t size, int64_t width,
                    int64_t height, px_png_file *file)
{
    if (!px_png_read(data, size, file) ||
        (uint64_t)(file->width * file->height) > png->max_pixels)
        return PX_UNSUPPORTED;
    return file->width == width && file->height == height ? PX_OK : PX_MISMATCH;
}

int px_decode_png(px_png *png, const uint8_t *data, size_t size, int64_t width, int64_t height,
                  uint8_t *out)
{
    px_png_file file;
    int code = open_png(png, data, size, width, height, &file);
    if (code)
        return code;
    row_target target = {.rows = height, .rgb = out};
    return decode_rows(png, &file, &target);
}

int px_decode_png_indices(px_png *png, const uint8_t *data, size_t size, int64_t width,
                          int64_t height, uint8_t *out)
{
    px_png_file file;
    int code = open_png(png, data, size, width, height, &file);
    if (code)
        return code;
    if (file.channels != 1)
        return PX_UNSUPPORTED;
    row_target target = {.rows = height, .indices = out};
    return decode_rows(png, &file, &target);
}

int px_render_png(px_png *png, px_work *work, const uint8_t *data, size_t size,
                  const px_geometry *g, const px_output_format *format, void *out)
{
    px_png_file file;
    int code = open_png(png, data, size, g->source_w, g->source_h, &file);
    if (!code)
        code = px_begin(work, g, 3, 1);
    if (code)
        return code;
    int64_t n = work->x.hi - work->x.lo;
    if (n > 0 && work->rows > 0) {
        if (px_grow((void **)&work->line, &work->line_cap, (size_t)(n + work->x.taps), 4))
            return PX_NO_MEMORY;
        row_target target = {.rows = work->y.hi, .work = work, .geometry = g};
        code = decode_rows(png, &file, &target);
        if (code)
            return code;
    }
    px_end(work, g, format, out);
    return PX_OK;
}
