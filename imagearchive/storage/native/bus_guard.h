/* Keeps the process alive when bytes of a mapped file are gone; see bus_guard.c. */
#ifndef IMAGEARCHIVE_BUS_GUARD_H
#define IMAGEARCHIVE_BUS_GUARD_H

#include <stddef.h>

struct guarded_range;

/* Call it once, before the others. */
void guard_prepare(void);

/* Install the handler if it is not in place. Costs a clock read, and a system call every few
   milliseconds. */
void guard_ensure(void);

/* Guard a mapping; return NULL if memory is short. */
struct guarded_range *guard_add(void *start, size_t size);

/* Stop guarding; call it before munmap. */
void guard_remove(struct guarded_range *range);

/* Whether a page of the mapping could not be read and is zero now. */
int guard_is_damaged(const struct guarded_range *range);

/* The number of guarded mappings that are damaged. */
int guard_damaged_count(void);

#endif
