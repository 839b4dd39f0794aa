/* The limit that scan_tar.py measures against: what a C programmer would write in an afternoon.
 *
 * Plain ustar members only. Each loop opens the file, walks the headers, verifies the checksum,
 * reads the size and keeps offset, size and name in growing arrays; it returns how many members
 * there are, or -1.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define WINDOW (1 << 20)

struct rows {
    uint64_t *offsets, *sizes, *ends;
    char *names;
    size_t count, capacity, used, room;
};

static int add(struct rows *rows, const unsigned char *header, uint64_t offset, uint64_t *size) {
    unsigned sum = 256, stored = 0;
    for (int i = 0; i < 148; i++) sum += header[i];
    for (int i = 156; i < 512; i++) sum += header[i];
    for (int i = 148; i < 156 && header[i] >= '0' && header[i] <= '7'; i++)
        stored = stored * 8 + (header[i] - '0');
    if (sum != stored) return 0;
    *size = 0;
    for (int i = 124; i < 136 && header[i] >= '0' && header[i] <= '7'; i++)
        *size = *size * 8 + (header[i] - '0');
    size_t length = strnlen((const char *) header, 100);
    if (rows->count == rows->capacity) {
        rows->capacity = rows->capacity ? rows->capacity * 2 : 1024;
        rows->offsets = realloc(rows->offsets, rows->capacity * 8);
        rows->sizes = realloc(rows->sizes, rows->capacity * 8);
        rows->ends = realloc(rows->ends, rows->capacity * 8);
    }
    if (rows->used + length > rows->room) {
        rows->room = rows->room ? rows->room * 2 : 65536;
        rows->names = realloc(rows->names, rows->room);
    }
    memcpy(rows->names + rows->used, header, length);
    rows->used += length;
    rows->offsets[rows->count] = offset + 512;
    rows->sizes[rows->count] = *size;
    rows->ends[rows->count++] = rows->used;
    return 1;
}

static long finish(struct rows *rows, int fd) {
    long count = (long) rows->count;
    free(rows->offsets);
    free(rows->sizes);
    free(rows->ends);
    free(rows->names);
    close(fd);
    return count;
}

/* The whole file mapped. */
long loop_mmap(const char *path) {
    struct rows rows = {0};
    struct stat info;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &info)) return -1;
    const unsigned char *data = mmap(NULL, info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) return -1;
    uint64_t offset = 0, size;
    while (offset + 512 <= (uint64_t) info.st_size && add(&rows, data + offset, offset, &size))
        offset += 512 + ((size + 511) & ~511ull);
    munmap((void *) data, info.st_size);
    return finish(&rows, fd);
}

/* Large windows read one after the other. */
long loop_window(const char *path) {
    struct rows rows = {0};
    unsigned char *window = malloc(WINDOW);
    int fd = open(path, O_RDONLY);
    if (fd < 0) return -1;
    uint64_t offset = 0, start = 0, size;
    ssize_t length = 0;
    for (;;) {
        if (offset + 512 > start + (uint64_t) length) {
            length = pread(fd, window, WINDOW, (off_t) offset);
            if (length < 512) break;
            start = offset;
        }
        if (!add(&rows, window + (offset - start), offset, &size)) break;
        offset += 512 + ((size + 511) & ~511ull);
    }
    free(window);
    return finish(&rows, fd);
}

/* One read for each header. */
long loop_pread(const char *path) {
    struct rows rows = {0};
    unsigned char header[512];
    int fd = open(path, O_RDONLY);
    if (fd < 0) return -1;
    uint64_t offset = 0, size;
    while (pread(fd, header, 512, (off_t) offset) == 512 && add(&rows, header, offset, &size))
        offset += 512 + ((size + 511) & ~511ull);
    return finish(&rows, fd);
}
