/* A disk and a clock that can be made to misbehave, for one program (LD_PRELOAD).
 *
 * INTERPOSE_DISK names a file of two 32-bit numbers that may change at any time: milliseconds that each fsync takes longer,
 * and whether the disk is full: then no file grows (ENOSPC), as on a real one, while what is there can be written over.
 * INTERPOSE_CLOCK_SECONDS is added to the wall clock.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static volatile uint32_t *disk;
static int64_t clock_seconds;

__attribute__((constructor)) static void start(void) {
    const char *name = getenv("INTERPOSE_DISK"), *seconds = getenv("INTERPOSE_CLOCK_SECONDS");
    if (seconds) clock_seconds = atoll(seconds);
    if (!name) return;
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *place = mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
    if (place != MAP_FAILED) disk = place;
    close(file);
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static void take_time(void) {
    if (!disk || !disk[0]) return;
    struct timespec left = {disk[0] / 1000, (disk[0] % 1000) * 1000000L};
    while (nanosleep(&left, &left) && errno == EINTR) {}
}

int fsync(int file) { REAL(fsync); take_time(); return real(file); }
int fdatasync(int file) { REAL(fdatasync); take_time(); return real(file); }

static int too_far(int file, off_t end) {
    struct stat now;
    if (!disk || !disk[1] || fstat(file, &now) || !S_ISREG(now.st_mode) || end <= now.st_size) return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t pwrite(int file, const void *from, size_t size, off_t at) {
    REAL(pwrite);
    return too_far(file, at + (off_t)size) ? -1 : real(file, from, size, at);
}

ssize_t pwritev(int file, const struct iovec *from, int count, off_t at) {
    REAL(pwritev);
    off_t size = 0;
    for (int i = 0; i < count; i++) size += from[i].iov_len;
    return too_far(file, at + size) ? -1 : real(file, from, count, at);
}

ssize_t write(int file, const void *from, size_t size) {
    REAL(write);
    off_t at = disk && disk[1] ? lseek(file, 0, SEEK_CUR) : -1;
    return at >= 0 && file > 2 && too_far(file, at + (off_t)size) ? -1 : real(file, from, size);
}

int posix_fallocate(int file, off_t at, off_t size) {
    REAL(posix_fallocate);
    return too_far(file, at + size) ? ENOSPC : real(file, at, size);
}

int clock_gettime(clockid_t which, struct timespec *now) {
    REAL(clock_gettime);
    int failed = real(which, now);
    if (!failed && which == CLOCK_REALTIME) now->tv_sec += clock_seconds;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(gettimeofday);
    int failed = real(now, zone);
    if (!failed) now->tv_sec += clock_seconds;
    return failed;
}

time_t time(time_t *told) {
    REAL(time);
    time_t now = real(NULL) + clock_seconds;
    if (told) *told = now;
    return now;
}
