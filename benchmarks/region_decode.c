/* The limit for region_decode.py: libjpeg-turbo decoding regions, and nothing else. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

/* Decode region i, boxes[4 * i ...] = x, y, width, height, of files first, first + step, ... */
int64_t decode_regions(const uint8_t **files, const uint64_t *sizes, const int32_t *boxes,
                       int64_t first, int64_t step, int64_t count)
{
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    int64_t bytes = 0;
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&jpeg);
    for (int64_t i = first; i < count; i += step) {
        const int32_t *box = boxes + 4 * i;
        jpeg_mem_src(&jpeg, files[i], sizes[i]);
        jpeg_read_header(&jpeg, TRUE);
        jpeg.out_color_space = JCS_RGB;
        jpeg_start_decompress(&jpeg);
        JDIMENSION x = (JDIMENSION)box[0], width = (JDIMENSION)box[2];
        jpeg_crop_scanline(&jpeg, &x, &width);
        if (box[1])
            jpeg_skip_scanlines(&jpeg, (JDIMENSION)box[1]);
        uint8_t *pixels = malloc((size_t)jpeg.output_width * 3 * (size_t)box[3] + 64);
        while (jpeg.output_scanline < (JDIMENSION)(box[1] + box[3])) {
            uint8_t *row = pixels + (size_t)(jpeg.output_scanline - (JDIMENSION)box[1]) *
                                        jpeg.output_width * 3;
            bytes += jpeg_read_scanlines(&jpeg, &row, 1) * jpeg.output_width * 3;
        }
        free(pixels);
        jpeg_abort_decompress(&jpeg);
    }
    jpeg_destroy_decompress(&jpeg);
    return bytes;
}
