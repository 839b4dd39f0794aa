/* Preloaded by the fault tests: the n-th of the calls below fails, or kills the process. */
#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int armed, calls, target, failure;

/* Count calls from now on; at the n-th, set errno to `error`, or kill the process if it is 0. */
void shim_arm(int n, int error);
void shim_arm(int n, int error) {
    calls = 0;
    target = n;
    failure = error;
    armed = 1;
}

int shim_disarm(void);
int shim_disarm(void) {
    armed = 0;
    return calls;
}

static int fails(void) {
    if (!armed || atomic_fetch_add(&calls, 1) + 1 != target)
        return 0;
    if (!failure)
        raise(SIGKILL);
    errno = failure;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRAP(type, name, parameters, arguments)                                                    \
    type name parameters {                                                                         \
        return fails() ? (type)-1 : NEXT(name) arguments;                                          \
    }

WRAP(ssize_t, write, (int f, const void *b, size_t n), (f, b, n))
WRAP(ssize_t, writev, (int f, const struct iovec *v, int n), (f, v, n))
WRAP(ssize_t, pread64, (int f, void *b, size_t n, off64_t o), (f, b, n, o))
WRAP(ssize_t, pwrite64, (int f, const void *b, size_t n, off64_t o), (f, b, n, o))
WRAP(ssize_t, readv, (int f, const struct iovec *v, int n), (f, v, n))
WRAP(ssize_t, sendfile64, (int o, int i, off64_t *p, size_t n), (o, i, p, n))
WRAP(ssize_t, copy_file_range, (int i, off64_t *p, int o, off64_t *q, size_t n, unsigned f),
     (i, p, o, q, n, f))
WRAP(int, fsync, (int f), (f))
WRAP(int, futimens, (int f, const struct timespec t[2]), (f, t))
WRAP(int, ftruncate64, (int f, off64_t n), (f, n))
WRAP(int, truncate64, (const char *p, off64_t n), (p, n))
WRAP(int, rename, (const char *a, const char *b), (a, b))
WRAP(int, renameat, (int d, const char *a, int e, const char *b), (d, a, e, b))
WRAP(int, linkat, (int d, const char *a, int e, const char *b, int f), (d, a, e, b, f))
WRAP(int, mkdir, (const char *p, mode_t m), (p, m))
WRAP(int, mkdirat, (int d, const char *p, mode_t m), (d, p, m))
/* Removal is only killed: a file that cannot be removed is left behind by design. */
#define WRAP_KILL(name, parameters, arguments)                                                     \
    int name parameters {                                                                          \
        return !failure && fails() ? -1 : NEXT(name) arguments;                                    \
    }
WRAP_KILL(unlink, (const char *p), (p))
WRAP_KILL(unlinkat, (int d, const char *p, int f), (d, p, f))
WRAP_KILL(rmdir, (const char *p), (p))

static mode_t mode_of(int flags, va_list list) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(list, mode_t) : 0;
}

int open64(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    mode_t mode = mode_of(flags, list);
    va_end(list);
    return (flags & O_CREAT) && fails() ? -1 : NEXT(open64)(path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    mode_t mode = mode_of(flags, list);
    va_end(list);
    return (flags & O_CREAT) && fails() ? -1 : NEXT(openat64)(directory, path, flags, mode);
}

/* Called by native code that needs no large offsets. */
int openat(int directory, const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    mode_t mode = mode_of(flags, list);
    va_end(list);
    return (flags & O_CREAT) && fails() ? -1 : NEXT(openat)(directory, path, flags, mode);
}

/* Python calls `on_event` before each line of the thread, and before and after each call. The n-th
   event sends SIGINT, so that Python raises at the next point where it looks for signals. The
   process must hold the GIL: load this library by ctypes.PyDLL. Forked children inherit the hooks,
   but are not interrupted. */
static long events, interrupted;
static pid_t process;

static int on_event(void *self, void *frame, int what, void *argument) {
    (void)self, (void)frame, (void)what, (void)argument;
    if (++events == interrupted && getpid() == process)
        raise(SIGINT);
    return 0;
}

typedef int hook(void *, void *, int, void *);

static void set_hooks(hook *function) {
    static const char *const setters[] = {"PyEval_SetTrace", "PyEval_SetProfile"};
    for (int i = 0; i < 2; ++i) {
        void (*set)(hook *, void *) = (void (*)(hook *, void *))dlsym(RTLD_DEFAULT, setters[i]);
        set(function, NULL);
    }
}

void shim_interrupt(long n);
void shim_interrupt(long n) {
    events = 0;
    interrupted = n;
    process = getpid();
    set_hooks(on_event);
}

/* Return the number of events. */
long shim_stop(void);
long shim_stop(void) {
    set_hooks(NULL);
    return events;
}
