/* threads.c -- one pool of threads, one way to use it: parallel_for.
 *
 * A job is n tasks. Each thread, the calling one among them, has a share of them, indices that
 * follow each other, and takes the next from its front. Whose share is empty helps where most is
 * left, from the back. Results cannot depend on who took what, since a task knows only its index;
 * but what a thread wrote it mostly finds in its own cache, when the next job is cut the same way:
 * on many machines it takes a third of a microsecond to get a line out of another core's.
 *
 *   main:    publish job, wake sleepers -> take tasks -> close the job -> wait for those inside
 *   worker:  wait for a new job -> enter, if it is still open -> take tasks -> leave
 *
 * A layer of a small model lasts some ten microseconds, about as long as it takes to wake a
 * sleeping thread: so a worker looks for new work for a moment before it goes to sleep. Only for a
 * moment, and the main thread waits only for workers that have entered: on a machine with more
 * threads than free processors a sleeping worker delays nobody.
 *
 * SIGINT and the like are the main thread's: a handler that tidies up must not run beside the code
 * that it tidies up after. What a thread does to itself, as SIGBUS, stays its own.
 *
 * How many threads: containers limit processor time by quota, which the number of processors does
 * not show; a program that starts 64 threads on a quota of 2 runs tens of times slower. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tensor.h"
#include "threads.h"

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() ((void)0)
#endif

enum { SPINS = 4000, MAX_THREADS = 512 };    /* about 50 microseconds */

static struct {
    int             n;                       /* threads, the main one included */
    pthread_mutex_t lock;
    pthread_cond_t  work, done;
    int             n_sleeping;
    atomic_uint     job;                     /* number of the newest job */
    bool            open;                    /* may workers still enter it? */
    atomic_int      n_inside;                /* workers that have entered and not left */
    TaskFn         *fn;
    void           *ctx;
    bool            busy;                    /* written by the main thread alone */
    char            reason[160];
} pool = { .n = 1, .lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER,
           .done = PTHREAD_COND_INITIALIZER };

bool threads_busy(void) { return pool.busy; }
int  n_threads(void)    { return pool.n; }
const char *threads_reason(void) { return pool.reason; }

/* What is left of each thread's share: the first task, and 2^32 times the end. */
static struct { _Alignas(128) _Atomic uint64_t left; } share[MAX_THREADS];

static int first_of(uint64_t left) { return (int)(uint32_t)left; }
static int count_of(uint64_t left) { return (int)(left >> 32) - first_of(left); }

/* The next task of a share, from its front or its back; -1 if none is left. */
static int take(int owner, bool back)
{
    uint64_t left = atomic_load(&share[owner].left), less;
    do {
        if (count_of(left) <= 0) return -1;
        less = back ? left - ((uint64_t)1 << 32) : left + 1;
    } while (!atomic_compare_exchange_weak(&share[owner].left, &left, less));
    return back ? (int)(less >> 32) : first_of(left);
}

static int most_left(void)
{
    int most = 0, count = 0;
    for (int i = 0; i < pool.n; i++) {
        int n = count_of(atomic_load(&share[i].left));
        if (n > count) most = i, count = n;
    }
    return most;
}

static void take_tasks(int worker)
{
    int i;
    while ((i = take(worker, false)) >= 0) pool.fn(pool.ctx, i, worker);
    while ((i = take(most_left(), true)) >= 0) pool.fn(pool.ctx, i, worker);
}

/* Waits for a job newer than `seen`: awake for a moment, then asleep. Returns with the lock. */
static unsigned wait_for_job(unsigned seen)
{
    for (int i = 0; i < SPINS && atomic_load(&pool.job) == seen; i++) PAUSE();
    pthread_mutex_lock(&pool.lock);
    while (atomic_load(&pool.job) == seen) {
        pool.n_sleeping++;
        pthread_cond_wait(&pool.work, &pool.lock);
        pool.n_sleeping--;
    }
    return atomic_load(&pool.job);
}

static void *worker_main(void *arg)
{
    int worker = (int)(intptr_t)arg;
    for (unsigned seen = 0; ; ) {
        seen = wait_for_job(seen);
        bool enter = pool.open;
        if (enter) atomic_fetch_add(&pool.n_inside, 1);
        pthread_mutex_unlock(&pool.lock);
        if (!enter) continue;
        take_tasks(worker);
        pthread_mutex_lock(&pool.lock);
        if (atomic_fetch_sub(&pool.n_inside, 1) == 1) pthread_cond_signal(&pool.done);
        pthread_mutex_unlock(&pool.lock);
    }
    return NULL;
}

void parallel_for(int n, TaskFn *fn, void *ctx)
{
    if (pool.busy) bug("parallel_for inside parallel_for");
    if (n <= 1 || pool.n == 1) {
        pool.busy = true;
        for (int i = 0; i < n; i++) fn(ctx, i, 0);
        pool.busy = false;
        return;
    }
    pthread_mutex_lock(&pool.lock);
    pool.fn = fn;
    pool.ctx = ctx;
    for (int i = 0; i < pool.n; i++) {
        uint64_t first = (uint64_t)n * (uint64_t)i / (uint64_t)pool.n;
        uint64_t end = (uint64_t)n * (uint64_t)(i + 1) / (uint64_t)pool.n;
        atomic_store(&share[i].left, end << 32 | first);
    }
    pool.open = pool.busy = true;
    atomic_fetch_add(&pool.job, 1);
    if (pool.n_sleeping) pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);

    take_tasks(0);

    pthread_mutex_lock(&pool.lock);
    pool.open = false;                       /* late comers stay out */
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < SPINS && atomic_load(&pool.n_inside); i++) PAUSE();
    pthread_mutex_lock(&pool.lock);
    while (atomic_load(&pool.n_inside)) pthread_cond_wait(&pool.done, &pool.lock);
    pool.busy = false;
    pthread_mutex_unlock(&pool.lock);
}

/* === How many ================================================================================= */

/* The first line of a small file of /proc or /sys; false if there is none. */
static bool read_line(const char *path, char *line, int size)
{
    FILE *f = fopen(path, "r");
    if (!f) return false;
    bool ok = fgets(line, size, f) != NULL;
    fclose(f);
    if (ok) line[strcspn(line, "\n")] = 0;
    return ok;
}

static long read_long(long standard, const char *fmt, ...) PRINTF(2, 3);
static long read_long(long standard, const char *fmt, ...)
{
    char path[512], line[64];
    va_list args;
    va_start(args, fmt);
    vsnprintf(path, sizeof path, fmt, args);
    va_end(args);
    return read_line(path, line, sizeof line) ? strtol(line, NULL, 10) : standard;
}

/* Is cpu in a list such as "0-7,16"? */
static bool in_list(const char *list, int cpu)
{
    for (char *s = (char *)list; *s; ) {
        long first = strtol(s, &s, 10), last = *s == '-' ? strtol(s + 1, &s, 10) : first;
        if (cpu >= first && cpu <= last) return true;
        if (*s != ',') return false;
        s++;
    }
    return false;
}

/* Physical cores among the processors of the set: two threads of one core share its multipliers. On
 * hybrid processors only performance cores count: a slow core would make all others wait. */
static int count_cores(const cpu_set_t *set)
{
    char fast[256] = "";
    bool hybrid = read_line("/sys/devices/cpu_core/cpus", fast, sizeof fast);
    long seen[MAX_THREADS];
    int n = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && n < MAX_THREADS; cpu++) {
        if (!CPU_ISSET(cpu, set) || (hybrid && !in_list(fast, cpu))) continue;
        const char *topology = "/sys/devices/system/cpu/cpu%d/topology/%s";
        long id = read_long(0, topology, cpu, "physical_package_id") * 65536 +
                  read_long(cpu, topology, cpu, "core_id");
        bool known = false;
        for (int i = 0; i < n; i++) known = known || seen[i] == id;
        if (!known) seen[n++] = id;
    }
    return n;
}

/* Processors' worth of time that the cgroup allows; 0 if it does not limit it. Version 2 limits
 * every level of the path; version 1 has a folder of its own. */
static double cgroup_quota(void)
{
    double least = 0;
    char line[512], path[1024];
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4) != 0) continue;
        line[strcspn(line, "\n")] = 0;
        for (char *at = line + 3; ; *strrchr(at, '/') = 0) {
            long quota, period;
            char value[64];
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", at);
            if (read_line(path, value, sizeof value) &&
                sscanf(value, "%ld %ld", &quota, &period) == 2 && period > 0 &&
                (least == 0 || (double)quota / (double)period < least))
                least = (double)quota / (double)period;
            if (!strrchr(at, '/')) break;
        }
    }
    if (f) fclose(f);
    long quota  = read_long(-1, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    long period = read_long(100000, "/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (least == 0 && quota > 0 && period > 0) least = (double)quota / (double)period;
    return least;
}

int threads_default(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    int n_cpu = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
              : (int)sysconf(_SC_NPROCESSORS_ONLN);
    int n_core = count_cores(&set);
    double quota = cgroup_quota();
    int n = n_core > 0 && n_core < n_cpu ? n_core : n_cpu;
    if (quota > 0 && (int)quota < n) n = (int)quota;
    if (n < 1) n = 1;
    int len = snprintf(pool.reason, sizeof pool.reason, "%d: this process may use %d processors on "
                       "%d cores", n, n_cpu, n_core);
    if (quota > 0) snprintf(pool.reason + len, sizeof pool.reason - (size_t)len,
                            ", and the cgroup allows %.2f", quota);
    return n;
}

void threads_start(int n)
{
    if (pool.n > 1) bug("threads_start twice");
    if (n > 0) snprintf(pool.reason, sizeof pool.reason, "%d: as asked for", n);
    else       n = threads_default();
    if (n > MAX_THREADS) n = MAX_THREADS;
    sigset_t asynchronous, before;
    sigfillset(&asynchronous);
    sigdelset(&asynchronous, SIGBUS);
    sigdelset(&asynchronous, SIGSEGV);
    sigdelset(&asynchronous, SIGFPE);
    sigdelset(&asynchronous, SIGILL);
    pthread_sigmask(SIG_SETMASK, &asynchronous, &before);        /* what new threads inherit */
    pool.n = 1;
    while (pool.n < n) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker_main, (void *)(intptr_t)pool.n) != 0) break;
        pthread_detach(thread);
        pool.n++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
