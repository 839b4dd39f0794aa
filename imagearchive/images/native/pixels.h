/* Shared by the C files of this folder. Nothing here knows Python. Every function may run without
 * the GIL; a px_work or a px_decoder serves one thread at a time.
 *
 * To add a function: declare it here, and in the `cdef extern` block of render.pyx; wrap it there,
 * and describe the wrapper in render.pyi. The build takes every .c file of this folder. */
#ifndef IMAGEARCHIVE_PIXELS_H
#define IMAGEARCHIVE_PIXELS_H

#include <stddef.h>
#include <stdint.h>

#ifndef HAVE_JPEG
#define HAVE_JPEG 0
#endif

enum px_status {
    PX_OK = 0,
    PX_NO_MEMORY = 1,
    PX_CORRUPT = 2,     /* the image cannot be decoded; a message says why */
    PX_TOO_LARGE = 3,   /* more pixels than allowed */
    PX_UNSUPPORTED = 4, /* an image that is left to Pillow */
    PX_MISMATCH = 5,    /* the geometry was made for an image of another size */
};

enum px_filter { PX_NEAREST = 0, PX_BOX = 1, PX_BILINEAR = 2, PX_BICUBIC = 3, PX_LANCZOS = 4 };
enum px_dtype { PX_UINT8 = 0, PX_FLOAT32 = 1, PX_FLOAT16 = 2 };

/* How an output image is made: source -> view -> box -> resized -> window -> flipped -> canvas. */
typedef struct {
    int64_t source_w, source_h;
    int64_t view_x, view_y, view_w, view_h; /* hard crop: filters do not see pixels outside */
    double box_x0, box_y0, box_x1, box_y1;  /* what is resized, relative to the view */
    int64_t size_w, size_h;                 /* what the box is resized to */
    int64_t win_x, win_y, win_w, win_h;     /* the part of the resized image that is computed */
    int64_t canvas_w, canvas_h;             /* the output */
    int64_t at_x, at_y;                     /* position of the window on the unflipped canvas */
    int flip_x, flip_y;
    int filter;
    int resized;
    int padded; /* whether a border was added, even one of no pixels */
    /* A JPEG is decoded at 1/2, 1/4 or 1/8 if resampling still reduces by this factor; 0: never. */
    double min_reduction;
    float fill[4]; /* rounded and clipped for 8-bit pixels */
} px_geometry;

/* How bytes become output values: value * scale + bias, per channel. */
typedef struct {
    float scale[4], bias[4];
    int dtype;
    int planar; /* 1: (C, H, W); 0: (H, W, C) */
} px_output_format;

typedef struct {
    int taps;      /* stored coefficients per output, a multiple of 4 */
    int used;      /* largest number of coefficients that matter */
    int64_t lo, hi; /* source range [lo, hi) that is read */
    int identity;
    int32_t *start; /* first source position of each output */
    int32_t *k;     /* 22-bit coefficients, `taps` per output */
    int16_t *halves; /* the same as high and low halves, in the order of the kernel for AVX2 */
    uint8_t *quads;  /* the same for AVX-512, four outputs at a time; see make_quads */
    int use_quads;
    int64_t origin; /* what was added to the starts after that */
    size_t start_cap, k_cap, halves_cap, quads_cap;
} px_table;

/* Buffers that grow and are reused. */
typedef struct {
    px_table x, y;
    uint8_t *planes; /* horizontally resampled rows, one plane per channel */
    uint8_t *line;   /* one row of the source as 4-byte pixels */
    uint8_t *temp;   /* one output row per channel */
    size_t planes_cap, line_cap, temp_cap;
    int64_t stride, rows;
    int channels;
    int premultiply; /* colors are resampled multiplied by alpha, as by Pillow */
} px_work;

int px_grow(void **buffer, size_t *capacity, size_t count, size_t size);
void px_work_free(px_work *work);

/* Prepare the tables; `divide` is the scale of the JPEG decoder (1, 2, 4, 8). Afterwards x.lo,
 * x.hi, y.lo, y.hi say what part of the source is needed, in source pixels after division. */
int px_begin(px_work *work, const px_geometry *g, int channels, int divide);
/* Resample one source row horizontally; `row` holds 4-byte pixels from column `first`, and is
 * readable for x.taps pixels past x.hi. */
void px_row(px_work *work, const px_geometry *g, int64_t y, const uint8_t *row, int64_t first);
/* Resample vertically, normalize, write. */
void px_end(px_work *work, const px_geometry *g, const px_output_format *format, void *out);

int px_render_array(px_work *work, const px_geometry *g, const px_output_format *format,
                    const uint8_t *pixels, int64_t row_stride, int channels, void *out);
int px_render_float(px_work *work, const px_geometry *g, const float *pixels, int64_t row_stride,
                    int channels, float *out);

/* Output (output.c). A plane holds one channel; planes are `plane` bytes apart. */
size_t px_item_size(int dtype);
/* Pixels of `channels` bytes to 4-byte pixels, and 4-byte pixels to planes. */
void px_widen(const uint8_t *in, int64_t n, int channels, uint8_t *out);
void px_split(const uint8_t *pixels, int64_t n, uint8_t *out, int64_t plane, int channels);
/* One row: channel `c` to a planar output, or all planes to an interleaved one. */
void px_write_plane(const px_output_format *format, int c, const uint8_t *in, int64_t n,
                    uint8_t *out);
/* Large outputs of floats are written past the caches: by the second function, and the third one at
 * the end. */
int px_bypasses_cache(const px_output_format *format, int64_t count);
void px_stream_floats(const uint8_t *in, int64_t n, float scale, float bias, float *out);
void px_end_stream(void);
void px_write_interleaved(const px_output_format *format, const uint8_t *in, int64_t plane,
                          int64_t n, int channels, uint8_t *out);
/* Normalize, lay out and cast an (H, W, C) array without geometry. */
void px_convert_array(const px_output_format *format, const uint8_t *pixels, int64_t row_stride,
                      int64_t width, int64_t height, int channels, void *out);

/* Perspective warps (warp.c) of (H, W, C) uint8 or float32. The output pixel with center (x, y) is
 * the input at ((a0 x + a1 y + a2) / w, (a3 x + a4 y + a5) / w), w = a6 x + a7 y + 1, and `fill`
 * if that is outside. `filter` is nearest, bilinear or bicubic. */
int px_warp(const void *pixels, int64_t row_stride, int64_t width, int64_t height, int channels,
            int floats, const double *coefficients, int filter, const float *fill,
            int64_t out_width, int64_t out_height, void *out);

/* Color (color.c), in place; pixels are 3 bytes, contiguous. */
void px_blend_value(uint8_t *pixels, size_t count, double factor, int value);
void px_blend_gray(uint8_t *pixels, size_t pixel_count, double factor);
void px_shift_hue(uint8_t *pixels, size_t pixel_count, int shift);
int px_mean_gray(const uint8_t *pixels, size_t pixel_count);
void px_gray(const uint8_t *pixels, size_t pixel_count, uint8_t *out);

/* JPEG (jpeg.c). */
typedef struct px_decoder px_decoder;

typedef struct {
    int64_t width, height;
    int components;
    int orientation; /* EXIF orientation, 1 to 8; 1 if there is none */
} px_info;

int px_jpeg_info(const uint8_t *data, size_t size, px_info *info);
const char *px_jpeg_version(void);
px_decoder *px_decoder_new(uint64_t max_pixels);
void px_decoder_free(px_decoder *decoder);
px_work *px_decoder_work(px_decoder *decoder);
const char *px_decoder_message(const px_decoder *decoder);
/* How many images entropy.c has decoded; libjpeg does it for all others. */
uint64_t px_decoder_entropy_images(const px_decoder *decoder);
int px_decode(px_decoder *decoder, const uint8_t *data, size_t size, int64_t width,
              int64_t height, uint8_t *out);
int px_render_jpeg(px_decoder *decoder, const uint8_t *data, size_t size, const px_geometry *g,
                   const px_output_format *format, void *out);

/* PNG (png.c). All give PX_UNSUPPORTED for what is left to Pillow: kinds that are rare, images with
 * more pixels than allowed, and those with any damage that was seen. */
typedef struct px_png px_png;

/* Say how CRC-32 is computed, with 0 before the first byte. Call it once, before all others. */
void px_png_set_crc32(uint32_t (*update)(uint32_t before, const uint8_t *data, size_t size));
/* `orientation` is 0 if there is metadata, which Pillow must look at, and 1 otherwise. */
int px_png_info(const uint8_t *data, size_t size, px_info *info);
px_png *px_png_new(uint64_t max_pixels);
void px_png_free(px_png *png);
/* The whole image, to RGB, or to the numbers that a palette or gray image stores. */
int px_decode_png(px_png *png, const uint8_t *data, size_t size, int64_t width, int64_t height,
                  uint8_t *out);
int px_decode_png_indices(px_png *png, const uint8_t *data, size_t size, int64_t width,
                          int64_t height, uint8_t *out);
/* Only the rows down to the last one that is needed are decoded. */
int px_render_png(px_png *png, px_work *work, const uint8_t *data, size_t size,
                  const px_geometry *g, const px_output_format *format, void *out);

#endif
