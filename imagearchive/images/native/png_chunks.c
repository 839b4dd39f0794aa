/* The chunks of a PNG: which images are decoded here, and which are left to Pillow. */
#include "png.h"
#include "inflate.h"

#include <stdlib.h>
#include <string.h>

/* A file of more small parts is left to Pillow, or rather to `_CountedFile` in images/pillow.py, of
 * which this is the twin. */
#define MAX_READS (1 << 14)
#define CHUNK_READS(size) (5 + (size) / 512)
/* Pillow refuses a longer profile or text, and twice as much text in all. Deflate makes fewer than
 * MAX_PART bytes from SHORT ones. */
#define MAX_PART (1 << 20)
#define MAX_TEXT (32 * (size_t)MAX_PART)
#define SHORT 1000
#define MAX_SIDE (1 << 24)

static uint32_t (*crc32_after)(uint32_t before, const uint8_t *data, size_t size);

void px_png_set_crc32(uint32_t (*update)(uint32_t before, const uint8_t *data, size_t size))
{
    crc32_after = update;
}

uint32_t px_big32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int is(const px_png_chunk *chunk, const char *name) { return !memcmp(chunk->name, name, 4); }

int px_png_next(const uint8_t **at, const uint8_t *end, px_png_chunk *chunk)
{
    size_t left = (size_t)(end - *at);
    if (left < 12)
        return 0;
    chunk->size = px_big32(*at);
    if (chunk->size > left - 12)
        return 0;
    chunk->name = *at + 4;
    chunk->data = *at + 8;
    *at += 12 + chunk->size;
    return 1;
}

int px_png_has_checksum(const px_png_chunk *chunk)
{
    return crc32_after(0, chunk->name, 4 + chunk->size) == px_big32(chunk->data + chunk->size);
}

int px_is_zlib(const uint8_t *data, size_t size)
{
    return size >= 6 && (data[0] & 15) == 8 && data[0] >> 4 <= 7 &&
           (data[0] << 8 | data[1]) % 31 == 0 && !(data[1] & 32);
}

/* How many bytes a stream of zlib makes, or SIZE_MAX if it is not valid or makes over MAX_PART. */
static size_t expanded_size(const uint8_t *data, size_t size)
{
    size_t made = SIZE_MAX;
    if (!px_is_zlib(data, size))
        return SIZE_MAX;
    px_inflate *s = malloc(sizeof *s);
    uint8_t *window = malloc(MAX_PART + PX_INFLATE_OVERRUN), *out = window;
    if (s && window) {
        px_inflate_begin(s, data + 2, size - 6);
        if (px_inflate_run(s, window, &out, window + MAX_PART) == PX_INFLATE_END)
            made = (size_t)(out - window);
    }
    free(s);
    free(window);
    return made;
}

/* Whether Pillow reads this chunk of metadata without an error. `text` counts what it keeps. */
static int harmless(const px_png_chunk *chunk, size_t *text)
{
    const char *name = (const char *)chunk->name;
    for (int i = 0; i < 4; i++)
        if (((unsigned)name[i] | 32) - 'a' > 25)
            return 0;
    /* Chunks that are critical, or of an animation. */
    if (!(name[0] & 32) || is(chunk, "acTL") || is(chunk, "fcTL") || is(chunk, "fdAT"))
        return 0;
    static const struct {
        char name[5];
        size_t size;
    } smallest[] = {{"gAMA", 4}, {"cHRM", 32}, {"sRGB", 1}, {"pHYs", 9}};
    for (size_t i = 0; i < sizeof smallest / sizeof *smallest; i++)
        if (is(chunk, smallest[i].name))
            return chunk->size >= smallest[i].size;
    size_t size = chunk->size;
    if (is(chunk, "iCCP") || is(chunk, "zTXt")) {
        const uint8_t *zero = memchr(chunk->data, 0, chunk->size);
        size_t rest = zero ? (size_t)(chunk->data + chunk->size - zero) : 0;
        if (rest < 2 || zero[1])
            return 0;
        size = rest > SHORT ? expanded_size(zero + 2, rest - 2) : MAX_PART;
    } else if (is(chunk, "iTXt")) {
        const uint8_t *zero = memchr(chunk->data, 0, chunk->size);
        /* Not compressed. */
        if (!zero || chunk->data + chunk->size - zero < 3 || zero[1])
            return 0;
    } else if (!is(chunk, "tEXt"))
        return 1;
    if (size > MAX_TEXT - *text)
        return 0;
    *text += size;
    return 1;
}

/* Read the header; return 0 if the image is left to Pillow. */
static int read_header(px_png_file *file, const px_png_chunk *chunk)
{
    const uint8_t *p = chunk->data;
    if (chunk->size != 13)
        return 0;
    uint32_t width = px_big32(p), height = px_big32(p + 4);
    file->width = width;
    file->height = height;
    file->depth = p[8];
    file->color = p[9];
    if (!width || !height || width >= MAX_SIDE || height >= MAX_SIDE || p[10] || p[11] || p[12])
        return 0;
    static const uint8_t channels[7] = {1, 0, 3, 1, 2, 0, 4};
    file->channels = file->color < 7 ? channels[file->color] : 0;
    if (!file->channels)
        return 0;
    unsigned depth = file->depth;
    int packed = depth == 1 || depth == 2 || depth == 4;
    if (depth != 8 && !(packed && file->channels == 1))
        return 0;
    file->row = ((size_t)width * file->channels * depth + 7) / 8;
    return 1;
}

static int read_transparency(const px_png_file *file, const px_png_chunk *chunk)
{
    return file->color == PALETTE ? chunk->size <= 256
           : file->color == GRAY  ? chunk->size >= 2
           : file->color == RGB   ? chunk->size >= 6
                                  : 1;
}

int px_png_read(const uint8_t *data, size_t size, px_png_file *file)
{
    static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', 0x0d, 0x0a, 0x1a, 0x0a};
    const uint8_t *at = data + 8, *end = data + size;
    px_png_chunk chunk;
    size_t text = 0, reads = 0, most_reads = MAX_READS;
    memset(file, 0, sizeof *file);
    file->end = end;
    if (size < 8 || memcmp(data, signature, 8) || !px_png_next(&at, end, &chunk) ||
        !is(&chunk, "IHDR") || !px_png_has_checksum(&chunk) || !read_header(file, &chunk))
        return 0;
    for (int after_pixels = 0; px_png_next(&at, end, &chunk);) {
        reads += CHUNK_READS(chunk.size);
        if (is(&chunk, "IDAT")) {
            if (after_pixels)
                return 0;
            if (!file->pixel_chunks++) {
                file->first = chunk.name - 4;
                most_reads = reads + MAX_READS + size / 64;
            }
            file->pixel_bytes += chunk.size;
        }
        if (reads > most_reads)
            return 0;
        if (is(&chunk, "IDAT"))
            continue;
        after_pixels = file->pixel_chunks > 0;
        if (is(&chunk, "IEND"))
            return after_pixels && !(file->color == PALETTE && !file->palette);
        /* Another chunk must follow, which decompression may read from. Pillow does not check the
         * checksums behind the pixels. */
        if (end - at < 12 || (!after_pixels && !px_png_has_checksum(&chunk)))
            return 0;
        if (is(&chunk, "PLTE")) {
            if (file->palette || after_pixels || !chunk.size || chunk.size % 3 ||
                chunk.size > 768)
                return 0;
            file->palette = chunk.data;
            file->palette_size = chunk.size;
        } else if (is(&chunk, "tRNS") ? !read_transparency(file, &chunk)
                                      : !harmless(&chunk, &text))
            return 0;
        if (is(&chunk, "eXIf") || is(&chunk, "tEXt") || is(&chunk, "zTXt") || is(&chunk, "iTXt"))
            file->metadata = 1;
    }
    return 0;
}

int px_png_info(const uint8_t *data, size_t size, px_info *info)
{
    px_png_file file;
    if (!px_png_read(data, size, &file))
        return PX_UNSUPPORTED;
    info->width = file.width;
    info->height = file.height;
    info->components = (int)file.channels;
    info->orientation = file.metadata ? 0 : 1;
    return PX_OK;
}
