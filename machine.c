/* machine.c -- what every run begins with: which kernels, how many threads, which seed.
 *
 * Options win over the environment (MM_CPU, MM_THREADS, MM_SEED). What this CPU does not have is a
 * usage error that says what it has. */
#include <stdlib.h>

#include "cli.h"
#include "kernels/kernels.h"

int choose_machine(Run *r)
{
    const char *cap = r->o.isa ? r->o.isa : getenv("MM_CPU");
    const char *env = getenv("MM_THREADS");
    int64_t n = r->o.threads > 0 ? r->o.threads : 0;
    if (!kernels_init(cap, r->o.exact))
        usage_error(r->name, "%s %s: this CPU has %s", r->o.isa ? "--isa" : "MM_CPU", quoted(cap),
                    kernels_available());
    if (!n && env && *env) {
        char *end;
        n = strtol(env, &end, 10);
        if (*end || n < 1 || n > 512)
            usage_error(r->name, "MM_THREADS %s: expected a whole number from 1 to 512",
                        quoted(env));
    }
    return (int)n;
}

void start_machine(Run *r)
{
    threads_start(choose_machine(r));
    run_seed(r);
}

void computing(Run *r)
{
    if (!r->t_first) r->t_first = now_ms();
}
