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
    "  mm classify -m clip --labels cat,dog *.jpg        labels with scores\n"
    "  mm chat -m qwen2.5 -p \"why is the sky blue?\"      an answer in words\n";

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

/* The words of a list after what leads it in, in lines of at most 80 columns; a comma between. */
static void word_lines(const char *lead, const char *words, const char *comma)
{
    int column = printf("%s", lead), n;
    for (const char *s = words; *s; s += n, s += strspn(s, " ")) {
        n = (int)strcspn(s, " ");
        const char *end = s[n] ? comma : "";
        if (column + n + 1 + (int)strlen(end) > 80) column = printf("\n   ") - 1;
        column += printf(" %.*s%s", n, s, end);
    }
    printf("\n");
}

static void later_lines(void)
{
    const char *names = "";
    for (const OptionRow *row = OPTIONS; row->name; row++)
        if (row->kind == LATER) names = keep_string("%s --%s", names, row->name);
    word_lines("In later versions:", names + 1, "");
}

void help_general(const Command *table, bool all)
{
    printf("mm %s: multimodal models on a CPU, straight from Hugging Face safetensors\n\n%s\n",
           MM_VERSION, EXAMPLES);
    printf("Commands (`mm CMD -h` for each; `mm --help-all` for every option):\n");
    for (const Command *c = table; c->name; c++)
        if (c->bit != HELP || all) printf("  %-11s %s\n", c->name, c->what);
    if (all) {
        printf("\nOptions:\n");
        option_lines(ANY, true);
        later_lines();
        return;
    }
    printf("\n-m M: a folder, org/name as `hf download` fetched it, or an alias. Without -m:\n"
           "$MM_<CMD>_MODEL, or a small one in mm (caption, embed, classify). Exit codes:\n"
           "0 done, 1 some failed, 2 usage, 3 model, 4 its file, 5 input, 6 memory, 7 output\n");
}

void help_command(const Command *c, const char *name, bool all)
{
    bool vqa = strcmp(name, "vqa") == 0;
    printf("mm %s %s\n%s%s%s%s\n\n", name, vqa ? "[-m MODEL] -p QUESTION PICTURE..." : c->usage,
           c->what, c->alias ? " (alias: " : "", !c->alias ? "" : vqa ? c->name : c->alias,
           c->alias ? ")" : "");
    printf("%s\n", c->examples);
    option_lines(c->bit, all || c->bit == QUANTIZE);     /* those are few */
    if (c->bit == LS) word_lines("Aliases that -m takes:", model_aliases(), "");
    if (!all) {
        printf("  ... and more: `mm %s --help-all`\n", c->name);
        return;
    }
    if (c->bit & RUNS)
        word_lines("\nKeys of --in jsonl:", keep_string("id %sseed %s",
                   c->bit & (PICTURES | CHAT) ? "image image_b64 " : "",
                   c->in_fields ? c->in_fields : ""), ",");
    if (c->bit & RUNS)
        printf("(others are copied). Columns of --in tsv: id, path or text, prompt.\n");
    later_lines();
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

/* table: the commands that have the option are named; or NULL. */
static void man_option(const OptionRow *row, const Command *table)
{
    char name[80];
    option_name(name, sizeof name, row);
    printf(".TP\n.B ");
    troff(name + strspn(name, " "));
    printf("\n");
    troff(row->what);
    printf("\n");
    if (!table) return;
    printf(".br\n");
    printf("(%s)\n", row->commands == ANY ? "all commands" : command_names(table, row->commands));
}

/* The rest of the manual: "# NAME" begins a section, "name<TAB>text" is an entry, an empty line a
 * paragraph. In pieces: a C compiler need not take one string of more than 4095 characters. */
static const char *const MANUAL[] = {
    "# INPUTS\n"
    "Operands are pictures, or texts for models that take texts only. With -r folders are entered, "
    "in the order of the bytes of their paths; files that are no pictures are passed over, "
    "pictures "
    "of kinds that mm does not read are failed items. '-' is stdin. How it is read, and the file "
    "of "
    "--files-from and --files0-from, says --in:\n"
    "files\tstdin is one picture (the default); a list is one of paths\n"
    "lines\ta line is a path, or a text where the model takes texts; lines end at \\n only\n"
    "jsonl\ta line is a JSON object; blank lines do not count\n"
    "tsv\tcolumns id, path or text, prompt (the last may be absent; a single column is both)\n"
    "pnm\tPNM pictures one after the other, as ffmpeg -f image2pipe -c:v ppm writes them\n"
    "\n"
    "Each record is answered before the next line is read. Keys of a JSONL record: id (of any "
    "type), image (a path) or image_b64 (RFC 4648), text (embed, tokenize), prompt, seed; of "
    "caption "
    "max_tokens, beams, logprobs; of complete and chat: TEXTS; of classify labels (a list), "
    "label_template, top. A '-' in a key "
    "counts as '_'. A record that mm has written needs no image: there id is the path. A key that "
    "occurs twice is an error. All other keys are copied into the answer.\n",
    "# RECORDS\n"
    "With --json each item gives one object on one line, written with one write(2). The fields of "
    "all commands:\n"
    "v\t1; keys never change their meaning within a version\n"
    "cmd, i\tthe command; the place among all inputs, from 0\n"
    "id\tthe input's id, else its path or text; bytes that are not UTF-8 are replaced, and "
    "path_b64 "
    "has them all\n"
    "ok\tfalse: error is {\"code\",\"msg\",\"hint\"} in place of the result\n"
    "model\torg/name@ and 7 digits of the commit from the cache, else the name as it was given\n"
    "seed\tthe seed of the item (see DETERMINISM)\n"
    "ms\twith --timings: milliseconds to load, decode, encode, text\n"
    "\n"
    "caption, vqa: text; stop (eos, length, context); tokens: in counts the tokens that the text "
    "model is given, the first one included, and of vqa the question's (BLIP attends to the "
    "picture "
    "from outside, it counts nothing), out the generated ones; ids, the generated ids; with "
    "--logprobs K logprobs, one {\"id\",\"logprob\",\"top\":[[id,logprob],...]} for each. A "
    "built-in "
    "model adds confidence, the mean probability of its words. The text of caption -p begins with "
    "the prompt, as the reference decodes it; to LLaVA the prompt is a question (without one: "
    "Describe this image.), and in counts the rows of the picture, too.\n"
    "\n"
    "complete, chat: text; stop (eos, stop: a stop string, length, context); tokens; ids; "
    "logprobs, as above. complete: what follows the prompt, a blank in front included. chat: the "
    "answer without blanks around it. With --show-prompt prompt and prompt_ids (-1 and below: "
    "pictures), and nothing is generated.\n"
    "\n"
    "embed: vector (a list; with --vec b64 base64 of little-endian f32), dim. classify: "
    "labels:[{\"label\",\"score\"}], best first; of image-text matching score is P(match), and itc "
    "the cosine. tokenize: ids, with the special tokens that the reference adds, not cut.\n"
    "\n"
    "Without --json: the text alone; for several inputs path, tab, text, with a newline in it as "
    "\\n. "
    "preprocess writes float32 .npy [1,3,H,W].\n",
    "# TEXTS\n"
    "complete continues a text, chat answers in a conversation. The text is that of -p, of a file "
    "(complete), of stdin as a whole where neither is given (with -p stdin is not read), or of "
    "each line or record with --in. It appears as it comes, "
    "in whole characters; what may become a stop string waits. How it is chosen says "
    "generation_config.json, where that says nothing the likeliest token is taken; --temp 0 always "
    "takes it. With a --temp of its own and no other, top_k is the checkpoint's or 50. complete "
    "ends after 256 tokens, chat when the model has ended or the context is full.\n"
    "\n"
    "--ctx is how many tokens prompt and answer may have, --kv f16 halves the memory for them. A "
    "prompt longer than that is a usage error, or a failed item of several. Items of a batch that "
    "begin alike are read once.\n"
    "\n"
    "Keys of a record for chat: messages, a list of {\"role\",\"content\"}: system or not, then "
    "user and assistant in turns, user last; or prompt or text, with or without system; image or "
    "image_b64, which belongs to the first question. For both: max_tokens, temp, top_k, top_p, "
    "min_p, repeat_penalty, beams, stop (a text or a list), logprobs, seed.\n"
    "\n"
    "Special tokens written in a text (</s>) are special in complete, as in the reference; in chat "
    "what messages say is text, unless --raw. Marks that are text themselves ([INST], USER:) "
    "cannot be told from what a user writes.\n"
    "# TEMPLATES\n"
    "A model that converses was trained on one way to write conversations down. It is known by the "
    "chat_template of the checkpoint, if that is one that mm has; by Qwen's chat_format; by the "
    "name of the folder or repository, or _name_or_path in config.json (vicuna-*-v1.*, "
    "llama-2-*chat, alpaca, phi-1_5, phi-2, llava-*). Else the exit status is 3, and --template "
    "NAME is the way out: llama2 vicuna vicuna-v0 alpaca chatml phi-qa phi-instruct llava-hf "
    "llava-v1 llava-v0 llava-llama2, or plain, the texts one after the other. --show-prompt shows "
    "what becomes of it.\n"
    "\n"
    "alpaca takes an input after a line '### Input:' with an empty line in front of it; --system "
    "takes the place of its first sentence. llama2, phi and plain have no system text unless one "
    "is given, vicuna, llava-v1 and others have their own, ChatML models what their chat_template "
    "says; phi and plain have no place for one.\n"
    "# A CONVERSATION ON A TERMINAL\n"
    "mm chat without -p, when stdin and stdout are a terminal. Keys are those of most shells; a "
    "line that ends in \\ goes on in the next, Alt-Enter begins a new line, a paste may have many. "
    "Ctrl-C ends an answer, and what is there of it stays; Ctrl-D leaves. When the context is "
    "nearly full, the oldest questions and answers are left out, and a line says so.\n"
    "/image FILE\tthe next question is about this picture\n"
    "/clear\tforget all that was said\n"
    "/save FILE\twrite the conversation as a record with messages, and the picture of its first "
    "question by its name; a saved conversation is replaced, no other file\n"
    "/load FILE\tgo on with one; its picture is read again\n"
    "/help, /exit\tall of these; leave\n",
    "# ERROR CODES\n"
    "image.missing\tthe file cannot be opened or read, or is a folder\n"
    "image.empty, image.format\tno bytes; no picture, or of a kind that mm does not read\n"
    "image.truncated, image.corrupt\tthe picture ends too early; it is damaged\n"
    "image.toobig\tmore than --max-pixels, 65535 on a side, or 1 GB\n"
    "input.json, input.text\ta record, or a text, that cannot be used\n"
    "output.write\tthe result's file: it is there (--if-exists fail), or two items have one name\n"
    "memory\tmore than the machine has\n",
    "# OUTPUT FILES\n"
    "A file gets its name when it is complete. What no option says its ending does: .npy (embed), "
    ".json and .jsonl, .tsv; so does that of --sidecar. In the name of -o stand {stem} {name} {i} "
    "{i:05} {seed} {pid}; folders are made. --if-exists says what becomes of a file that is there: "
    "with --sidecar, and with a file per item, it stays and the item is skipped, which a line on "
    "stderr tells (skip); the one file of -o is replaced (overwrite); fail makes it a failed item, "
    "or exit status 7. An input, or a picture, is never written over: exit status 2. --resume F "
    "appends to F, cuts off a torn last line, "
    "and "
    "leaves out ids that F has, failed ones too unless --retry-errors; F must be a regular file "
    "with "
    "records of the same command and model. While F holds failed items the exit status is 1.\n"
    "# PICTURES\n"
    "JPEG, PNG, BMP and PNM (P2 P3 P5 P6), known by their first bytes. Pixels are those of PIL's "
    "convert(\"RGB\"): turned as EXIF says (not with --no-exif), grey repeated three times, "
    "palettes "
    "looked up, transparency dropped; of 16-bit samples the high byte, of grey too, which PIL "
    "clips. "
    "JPEG differs from libjpeg by 6 levels at most. Damaged and cut files are refused.\n"
    "# MODELS\n"
    "A model is looked for as: builtin:NAME; a path (a folder with config.json, or its "
    "safetensors); DIR/NAME for the folders of $MM_MODELS; an alias (blip, blip-large, blip-vqa, "
    "blip-itm, clip, minilm, ...), which stands for an id; org/name[@revision] in the Hugging Face "
    "cache. mm never downloads. A model's files may not lead out of its folder, those of the cache "
    "not out of the repository's. Without -m and $MM_<CMD>_MODEL a small model inside mm serves "
    "caption, embed, classify, preprocess and tokenize; chat, complete and vqa need one.\n"
    "# CONVERTING\n"
    "mm convert reads what PyTorch's torch.save() wrote, in its new form (a ZIP archive) and "
    "its old one. It is read as data: nothing of it is run, and a file that asks for what data "
    "has no use for is refused (exit status 4), as is one that is damaged. The model is the "
    "outermost dictionary, or what it has under state_dict, model_state_dict, model, module or "
    "params, and so on inward; --key names another entry. Entries that are no tensors are left "
    "out. Names, types and numbers stay what they are; tensors that share their numbers are "
    "written each for itself.\n"
    "\n"
    "A folder becomes a folder: pytorch_model.bin, or its shards, becomes model.safetensors, in "
    "shards beyond 5 GB; all that is no weights is copied, the folders in it too. OUT must not "
    "be there yet, and gets its name when it is complete.\n"
    "\n"
    "--base M: the weights are the difference to those of M, and are added to them in f32, "
    "rounded once to the type of the difference. Tensors that M does not have are copied. Rows "
    "that M does not have begin with zero, with --delta alpaca with the mean of M's rows; "
    "without --delta that is so for a difference of 32001 rows with a token [PAD] whose row is "
    "not the mean itself.\n"
    "# QUANTISING\n"
    "mm quantize MODEL OUT writes a folder in which the matrices of linear layers have 8 or 4 "
    "bits a weight (8.5 and 4.5 with their scales). -m takes it like any other: it is mapped "
    "and used as it is, at every level of --isa. --quant does the same while a model is loaded, "
    "at each start anew and in memory of the process. Output matrices become 8 bits in both; "
    "tables of embeddings, convolutions, norms, biases and matrices smaller than 16 x 32 stay "
    "what they are. Activations are rounded to 8 bits in blocks of 32 before they are "
    "multiplied with such a matrix; --exact does not change that.\n"
    "\n"
    "What it costs, measured on a language model of 15 million numbers: q8 changes weights by "
    "0.5 % and log probabilities by 0.02, q4 by 7 % and 0.18 (mean absolute difference, "
    "weighted by probability). Larger models lose less.\n"
    "\n"
    "The files are safetensors. A matrix [n, k] of 8 or 4 bits is U8 [ceil(n/8), ceil(k/32), "
    "272 or 144]: blocks of 8 rows by 32 columns. A block begins with the scales of its rows, 8 "
    "times f16. Then 8 bits: int8 [8][8][4], where [g][r][c] is column 4g+c of row r. Or 4 "
    "bits: bytes [4][8][4], where the lower half of [g][r][c] is the index of column 4g+c of "
    "row r, the upper half that of column 16+4g+c, in the values -64 -51 -40 -31 -24 -17 -11 -5 "
    "1 7 12 18 25 33 42 54. A weight is its scale times the integer or the value. Rows from n "
    "on have scale 0, columns from k on do not count. __metadata__ has mm.blocks, the version "
    "of this layout (1), and for each such tensor NAME: \"Q8 [n, k]\" or \"Q4 [n, k]\".\n"
    "# DETERMINISM\n"
    "The same command gives the same bytes on one CPU, for any number of threads and any order of "
    "the inputs. Levels of --isa, each with those before it: ref avx2 avx512 avx512vnni "
    "avx512bf16; on ARM ref neon neondot neoni8mm neonbf16. Between them the last bits may differ; "
    "with avx512bf16 and neonbf16, products with bf16 weights round activations to bf16, too, "
    "unless --exact. Products with q8 and q4 weights have the same bits at every level. The seed "
    "of a single item is N of --seed; of several, and always with --in, "
    "(FNV-1a-64 of the id's bytes + N) mod 2^63; a record's own seed is used as it is.\n",
    "# MESSAGES\n"
    "stdout has results and nothing else. stderr is for people, empty while all goes well and it "
    "is "
    "no terminal. Names from files are escaped there, and on a terminal in results too. SIGUSR1 "
    "makes mm tell how far it is. SIGINT and SIGTERM end it after the record in hand is whole.\n"
    "# EXIT STATUS\n"
    "0\tevery item done\n1\tfinished, but some items failed (--exit0: 0)\n2\tusage error\n"
    "3\tno such model, one that mm does not know, or one that the command does not serve\n"
    "4\ta model file is there, but invalid or unsafe\n"
    "5\tthe only operand could not be read (no --in, no list of files)\n"
    "6\tnot enough memory\n7\toutput cannot be written\n70\ta bug\n"
    "130, 143\tinterrupted, after what was finished had been written\n"
    "# ENVIRONMENT\n"
    "MM_MODELS\tcolon-separated folders that hold models\n"
    "MM_CAPTION_MODEL, MM_EMBED_MODEL, ...\tthe model of a command when -m is not given\n"
    "MM_THREADS, MM_CPU, MM_SEED\tas --threads, --isa, --seed, which win over them\n"
    "HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME\t"
    "where the Hugging Face cache is, in this order\n"
    "MM_HISTORY\ta file for the lines entered in mm chat, at most 1000; without it they are not "
    "kept\n"
    "COLUMNS, TERM\tthe width of the line of progress; TERM=dumb: none that is rewritten\n"
};

static void man_text(const char *s)
{
    while (*s) {
        int n = (int)strcspn(s, "\n"), name = (int)strcspn(s, "\t\n");
        if (n == 0) printf(".PP\n");
        else if (*s == '#') printf(".SH %.*s\n", n - 2, s + 2);
        else {
            if (name < n) printf(".TP\n");
            troff(keep_string("%.*s\n", name, s));
            if (name < n) troff(keep_string("%.*s\n", n - name - 1, s + name + 1));
        }
        s += n + (s[n] == '\n');
    }
}

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
        int n = 0;
        for (const OptionRow *row = OPTIONS; row->name; row++) {
            if (row->kind == LATER || row->commands != c->bit) continue;
            if (!n++) printf(".SS Options of %s\n", c->name);
            man_option(row, NULL);
        }
    }
    printf(".SS Options of several commands\n");
    for (const OptionRow *row = OPTIONS; row->name; row++) {
        if (row->kind != LATER && (row->commands & (row->commands - 1))) man_option(row, table);
    }
    for (size_t i = 0; i < sizeof MANUAL / sizeof MANUAL[0]; i++) man_text(MANUAL[i]);
}
