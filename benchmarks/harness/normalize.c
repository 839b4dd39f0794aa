/* The limit for batches of arrays: one loop that copies an image and writes the normalized floats
 * into the batch, channels first. Compiled and called by loader_npz.py. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const uint8_t *images;
    const int64_t *order;
    float *batch; /* `slots` images of floats, used again and again */
    float scale[3], bias[3];
    int64_t count, pixels, slots;
    atomic_llong next;
} work;

static void *run(void *argument)
{
    work *w = argument;
    size_t size = (size_t)w->pixels * 3;
    uint8_t *copy = malloc(size);
    for (int64_t i; (i = atomic_fetch_add(&w->next, 1)) < w->count;) {
        float *restrict out = w->batch + (size_t)(i % w->slots) * size;
        memcpy(copy, w->images + (size_t)w->order[i] * size, size);
        for (int c = 0; c < 3; c++) {
            float scale = w->scale[c], bias = w->bias[c];
            for (int64_t p = 0; p < w->pixels; p++)
                out[c * w->pixels + p] = copy[3 * p + c] * scale + bias;
        }
    }
    free(copy);
    return NULL;
}

void normalize(const uint8_t *images, const int64_t *order, float *batch, int64_t count,
               int64_t pixels, int64_t slots, int threads)
{
    work w = {images, order, batch, {0.0171f, 0.0175f, 0.0174f}, {-2.1f, -2.0f, -1.8f},
              count, pixels, slots, 0};
    pthread_t ids[64];
    for (int t = 0; t < threads; t++)
        pthread_create(&ids[t], NULL, run, &w);
    for (int t = 0; t < threads; t++)
        pthread_join(ids[t], NULL);
}
