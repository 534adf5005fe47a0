/* help.c -- what --help, CMD -h, --help-all and the manual page say: all of it printed from the
 * table of commands (mm.c) and the table of options (options.c).
 *
 * Short help fits a terminal of 24 lines and leads with examples: most people want to see one that
 * is nearly theirs. */
#include <string.h>

#include "cli.h"

static const char *const EXAMPLES =
    "  mm caption models/demo/one.png                    a small built-in model\n"
    "  mm caption -m blip photo.jpg                      what the picture shows\n"
    "  mm vqa -m blip-vqa -p \"how many dogs?\" photo.jpg  an answer\n"
    "  mm classify -m clip --labels cat,dog *.jpg        labels with scores\n"
    "  mm embed -m clip --json -r photos > v.jsonl       vectors of a folder\n"
    "  find . -name '*.jpg' -print0 | mm caption -m blip --files0-from - --resume out\n";

enum { NAME_WIDTH = 23 };            /* the left column; the right one has 54 */

/* "-m, --model M", as the left column shows it; a long list of choices stands in the right one. */
static void option_name(char *out, size_t size, const OptionRow *row)
{
    char letter[8] = "    ";
    const char *arg = row->arg;
    if (row->letter) snprintf(letter, sizeof letter, "-%c, ", row->letter);
    if (arg && strlen(row->name) + strlen(arg) > NAME_WIDTH - 7) arg = "MODE";
    snprintf(out, size, "%s--%s%s%s", letter, row->name, arg ? " " : "", arg ? arg : "");
}

static void option_lines(unsigned commands, bool all)
{
    for (const OptionRow *row = OPTIONS; row->name; row++) {
        if (row->kind == LATER || !(row->commands & commands) || (!all && !row->brief)) continue;
        char name[80];
        option_name(name, sizeof name, row);
        printf("  %-*s %s\n", NAME_WIDTH, name, row->what);
    }
}

static void later_lines(void)
{
    int column = printf("In later versions:");
    for (const OptionRow *row = OPTIONS; row->name; row++) {
        if (row->kind != LATER) continue;
        if (column + (int)strlen(row->name) + 3 > 80) column = printf("\n   ") - 1;
        column += printf(" --%s", row->name);
    }
    printf("\n");
}

void help_general(const Command *table, bool all)
{
    printf("mm %s: multimodal models on a CPU, straight from Hugging Face safetensors\n\n%s\n",
           MM_VERSION, EXAMPLES);
    printf("Commands (`mm CMD -h` for each; `mm --help-all` for every option):\n");
    for (const Command *c = table; c->name; c++) printf("  %-11s %s\n", c->name, c->what);
    if (all) {
        printf("\nOptions:\n");
        option_lines(ANY, true);
        later_lines();
        return;
    }
    printf("\nA model is a directory, org/name from the Hugging Face cache, or an alias (blip,\n"
           "clip, ...). Without -m: $MM_<CMD>_MODEL, else a small one inside mm. mm never\n"
           "downloads; `hf download org/name` does. Exit codes: 0 done, 1 some items failed,\n"
           "2 usage, 3 no such model, 4 bad model file, 5 bad input, 6 memory, 7 output.\n");
}

void help_command(const Command *c, bool all)
{
    printf("mm %s %s\n%s%s%s%s\n\n", c->name, c->usage, c->what, c->alias ? " (alias: " : "",
           c->alias ? c->alias : "", c->alias ? ")" : "");
    printf("%s\n", c->examples);
    option_lines(c->bit, all);
    if (all) later_lines();
    else printf("  ... and more: `mm %s --help-all`\n", c->name);
}

/* === The manual page ========================================================================== */

/* Text for man(7): a backslash and a leading dot mean something to troff, and a dash is a minus. */
static void troff(const char *s)
{
    for (bool start = true; *s; start = *s == '\n', s++)
        if (*s == '\\') printf("\\e");
        else if (*s == '-') printf("\\-");
        else if (start && (*s == '.' || *s == '\'')) printf("\\&%c", *s);
        else putchar(*s);
}

static void man_options(unsigned bits, unsigned not_bits)
{
    for (const OptionRow *row = OPTIONS; row->name; row++) {
        if (row->kind == LATER || !(row->commands & bits) || (row->commands & not_bits)) continue;
        char name[80];
        option_name(name, sizeof name, row);
        printf(".TP\n.B ");
        troff(name + strspn(name, " "));
        printf("\n");
        troff(row->what);
        printf("\n");
    }
}

static const char *const MAN_TAIL =
    ".SH EXIT STATUS\n.TP\n0\nevery item done\n.TP\n1\nfinished, but some items failed\n"
    ".TP\n2\nusage error\n.TP\n3\nno such model, or one that the command does not serve\n"
    ".TP\n4\na model file is there, but invalid or unsafe\n"
    ".TP\n5\nthe only operand could not be read\n"
    ".TP\n6\nnot enough memory\n.TP\n7\noutput cannot be written\n.TP\n70\na bug\n.TP\n130, 143\n"
    "interrupted, after what was finished had been written\n"
    ".SH ENVIRONMENT\n.TP\n.B MM_MODELS\ncolon\\-separated directories that hold models\n"
    ".TP\n.B MM_CAPTION_MODEL, MM_EMBED_MODEL, ...\nthe model of a command when \\-m is not given\n"
    ".TP\n.B MM_THREADS, MM_CPU, MM_SEED\nas \\-\\-threads, \\-\\-isa, \\-\\-seed\n"
    ".TP\n.B HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME\n"
    "where the Hugging Face cache is\n";

void help_man(const Command *table)
{
    printf(".TH MM 1 \"\" \"mm %s\" \"User Commands\"\n.SH NAME\n"
           "mm \\- multimodal models on a CPU\n"
           ".SH SYNOPSIS\n.B mm\n.I command\n.RI [ options ]\n.RI [ input ...]\n"
           ".SH EXAMPLES\n.nf\n", MM_VERSION);
    troff(EXAMPLES);
    printf(".fi\n.SH COMMANDS\n");
    for (const Command *c = table; c->name; c++) {
        printf(".TP\n.B mm ");
        troff(c->name);
        printf(" ");
        troff(c->usage);
        printf("\n");
        troff(c->what);
        printf("\n");
    }
    printf(".SH OPTIONS\n");
    for (const Command *c = table; c->name; c++) {
        if (c->bit & (HELP | LS)) continue;
        printf(".SS Options of %s\n", c->name);
        man_options(c->bit, EVERY & ~c->bit);
    }
    printf(".SS Options of several commands\n");
    for (const OptionRow *row = OPTIONS; row->name; row++) {
        unsigned bits = row->commands & EVERY;
        if (row->kind == LATER || !(bits & (bits - 1))) continue;
        char name[80];
        option_name(name, sizeof name, row);
        printf(".TP\n.B ");
        troff(name + strspn(name, " "));
        printf("\n");
        troff(row->what);
        printf("\n");
    }
    fputs(MAN_TAIL, stdout);
}
