/* Keeps the process alive when bytes of a mapped file are gone.

   A page of a mapping that the file no longer has (it was truncated), or that the disk cannot
   read, raises SIGBUS. The handler puts a page of zeros in its place, notes that the mapping is
   damaged, and returns, so the interrupted instruction goes on. Nothing is unwound: it does not
   matter whether that instruction is in libjpeg, in zlib, in NumPy, or in the program of the user.
   Whoever uses the bytes asks afterwards whether the mapping is damaged.

   A fault elsewhere is not ours. The handler that was there before is put back, and the
   instruction faults again, so that handler sees it as if we did not exist.

   The handler only walks a list of ranges, and calls mmap and sigaction. The list has no lock, which
   a fork could leave locked: a thread claims a free slot, or adds one at the front, by a single
   atomic step, and no slot is ever freed. */

#define _GNU_SOURCE
#include "bus_guard.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif
#ifdef CLOCK_MONOTONIC_COARSE
#define CLOCK CLOCK_MONOTONIC_COARSE
#else
#define CLOCK CLOCK_MONOTONIC
#endif

/* How often to look whether another library has replaced the handler. torch does so when a worker
   process starts, faulthandler when it is enabled. */
#define CHECK_INTERVAL_NS 4000000

struct guarded_range {
    _Atomic uintptr_t start; /* 0 if the slot is free */
    _Atomic uintptr_t end;   /* 0 if the range holds no address */
    atomic_int damaged;
    struct guarded_range *next; /* set before the slot can be found */
};

static struct guarded_range *_Atomic ranges;
static atomic_int damaged_count;
static uintptr_t page_size;

/* Set while a thread installs the handler. */
static atomic_int installing;
static struct sigaction previous;
/* Whether a fault was left to the previous handler since ours was installed. */
static atomic_int yielded;
static _Atomic int64_t next_check;

static struct guarded_range *find(uintptr_t address)
{
    struct guarded_range *range = atomic_load(&ranges);
    for (; range != NULL; range = range->next)
        if (address >= atomic_load(&range->start) && address < atomic_load(&range->end))
            return range;
    return NULL;
}

static int replace_page(const siginfo_t *info)
{
    /* Not a fault but a call of kill() or raise(): it has no address. */
    if (info->si_code <= 0)
        return 0;
#ifdef BUS_MCEERR_AR
    /* The memory itself is broken. */
    if (info->si_code == BUS_MCEERR_AR || info->si_code == BUS_MCEERR_AO)
        return 0;
#endif
    uintptr_t address = (uintptr_t) info->si_addr;
    struct guarded_range *range = find(address);
    if (range == NULL)
        return 0;
    void *page = (void *) (address & ~(page_size - 1));
    if (mmap(page, page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != page)
        return 0;
    if (!atomic_exchange(&range->damaged, 1))
        atomic_fetch_add(&damaged_count, 1);
    return 1;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    (void) context;
    if (!replace_page(info)) {
        if (atomic_exchange(&yielded, 1)) {
            /* The previous handler has given it back to us: end the process. */
            struct sigaction defaults = {0};
            defaults.sa_handler = SIG_DFL;
            sigaction(number, &defaults, NULL);
        }
        else {
            sigaction(number, &previous, NULL);
        }
        if (info->si_code <= 0)
            /* It does not come again by itself. It is blocked until this handler returns. */
            raise(number);
    }
    errno = saved;
}

static int is_installed(const struct sigaction *current)
{
    return (current->sa_flags & SA_SIGINFO) && current->sa_sigaction == on_bus_error;
}

static void install(void)
{
    struct sigaction current, ours = {0};
    ours.sa_sigaction = on_bus_error;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&ours.sa_mask);
    /* Whoever comes second must not go on before the handler is there. It takes two system calls. */
    while (atomic_exchange(&installing, 1))
        sched_yield();
    /* `previous` is written only while our handler, which reads it, is not in place. */
    if (sigaction(SIGBUS, NULL, &current) == 0 && !is_installed(&current)) {
        previous = current;
        atomic_store(&yielded, 0);
        sigaction(SIGBUS, &ours, NULL);
    }
    atomic_store(&installing, 0);
}

static void check_soon(void)
{
    atomic_store(&next_check, 0);
}

static void after_fork(void)
{
    /* The thread that was installing the handler is not in the child. */
    atomic_store(&installing, 0);
    check_soon();
}

void guard_prepare(void)
{
    page_size = (uintptr_t) sysconf(_SC_PAGESIZE);
    pthread_atfork(NULL, NULL, after_fork);
}

void guard_ensure(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK, &now) != 0)
        return;
    int64_t time = (int64_t) now.tv_sec * 1000000000 + now.tv_nsec;
    if (time < atomic_load(&next_check))
        return;
    atomic_store(&next_check, time + CHECK_INTERVAL_NS);
    install();
}

struct guarded_range *guard_add(void *start, size_t size)
{
    struct guarded_range *range = atomic_load(&ranges);
    uintptr_t unused = 0;
    while (range != NULL
           && !atomic_compare_exchange_strong(&range->start, &unused, (uintptr_t) start)) {
        unused = 0;
        range = range->next;
    }
    if (range == NULL) {
        range = calloc(1, sizeof *range);
        if (range == NULL)
            return NULL;
        atomic_store(&range->start, (uintptr_t) start);
        range->next = atomic_load(&ranges);
        while (!atomic_compare_exchange_weak(&ranges, &range->next, range))
            ;
    }
    atomic_store(&range->end, (uintptr_t) start + size);
    check_soon();
    guard_ensure();
    return range;
}

void guard_remove(struct guarded_range *range)
{
    atomic_store(&range->end, 0);
    if (atomic_exchange(&range->damaged, 0))
        atomic_fetch_sub(&damaged_count, 1);
    /* Last, because another thread may claim the slot from here on. */
    atomic_store(&range->start, 0);
}

int guard_is_damaged(const struct guarded_range *range)
{
    return atomic_load_explicit(&range->damaged, memory_order_relaxed);
}

int guard_damaged_count(void)
{
    return atomic_load_explicit(&damaged_count, memory_order_relaxed);
}
