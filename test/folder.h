/* folder.h -- what the tests of files share: a folder of their own, made for the run and removed
 * after it, and what is put there.
 *
 *   make_dir -> dir;  write_file(NAME IN IT, ...) -> the code under test -> check -> empty(dir)
 *
 * Each test program includes this file once; everything in it is its own. */
#ifndef FOLDER_H
#define FOLDER_H

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../tensor.h"

static int  n_passed, n_failed;
static char dir[256];                /* the folder; a case may go into one below it */

static void check(bool ok, const char *what, const char *got)
{
    n_passed += ok;
    n_failed += !ok;
    if (!ok) printf("FAILED: %s: got %s\n", what, got);
}

/* A new folder under TMPDIR, by its real name; its own begins with `name`. */
static void make_dir(const char *name)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%.200s/%.40s-XXXXXX", tmp ? tmp : "/tmp", name);
    if (!mkdtemp(dir)) {
        perror(dir);
        exit(1);
    }
    char *real = realpath(dir, NULL);
    snprintf(dir, sizeof dir, "%.250s", real);
    free(real);
}

static const char *in_dir(const char *name) { return scratch_string("%s/%s", dir, name); }

static void write_file(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(in_dir(name), "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f)) {
        perror(in_dir(name));
        exit(1);
    }
}

/* Removes what is in the folder, two levels deep at most. */
static void empty(const char *folder)
{
    DIR *d = opendir(folder);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d)); ) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char path[600];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (unlink(path) && rmdir(path)) {
            empty(path);
            rmdir(path);
        }
    }
    closedir(d);
}

#endif
