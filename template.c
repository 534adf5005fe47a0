/* template.c -- how a conversation is written down for a model that was trained on conversations.
 *
 *   system, user, assistant, user ...  ->  "<s>[INST] <<SYS>>\n ... [/INST]"  ->  ids
 *
 * A chat model continues a text. What that text looks like - who speaks, where a turn ends - is a
 * habit of its training data and of nothing else: with another form the model still answers, only
 * worse, and does not know when to stop. So the forms stand here as a table, each as its authors'
 * code has it, and a checkpoint whose form is not among them is refused.
 *
 *   llama2       Llama 2 chat (arXiv 2307.09288)          vicuna      FastChat's vicuna_v1.1
 *   alpaca       Stanford Alpaca                          vicuna-v0   FastChat's zero_shot
 *   chatml       Qwen, Qwen2, Qwen2.5 (2309.16609)        phi-qa      Phi-1.5 (2309.05463)
 *   llava-hf     LLaVA as transformers has it             phi-instruct  Phi-2
 *   llava-v1, llava-v0, llava-llama2   LLaVA, the original code (2304.08485, 2310.03744)
 *   plain        no form at all: the texts, one after the other
 *
 * Checkpoints bring their form as a program in Jinja. mm runs no programs from files; it knows the
 * published ones by the expressions in them that decide what is written (recognise()).
 *
 * Easy to get wrong:
 *   - What a user says is text. "</s>" or "<|im_end|>" in it must not become the token that ends
 *     the turn; so special tokens go in by id, and what is between them is encoded as plain text.
 *   - But it is encoded together with the words around it: "[INST] Hi" is not "[INST] " and "Hi".
 *     Only Qwen v1's own code encodes each content by itself.
 *   - Llama 2's system text is part of the first question, and white space is stripped after they
 *     were put together.
 *   - Vicuna's BOS comes once, Llama 2's with every question. No blank after the last "ASSISTANT:":
 *     the model brings its own.
 *   - ChatML checkpoints differ in the system text they assume if there is none. */
#include <ctype.h>
#include <string.h>

#include "mm.h"

/* In the strings of the table these stand for tokens, and for the end of what is encoded as one. */
#define BOS      "\1"
#define EOS      "\2"
#define IM_START "\3"
#define IM_END   "\4"

typedef enum {
    LLAMA2, VICUNA, VICUNA_V0, ALPACA, CHATML, PHI_QA, PHI_INSTRUCT, LLAVA_HF, LLAVA_V1, LLAVA_V0,
    LLAVA_LLAMA2, PLAIN, N_TEMPLATES, UNKNOWN
} Kind;

struct ChatTemplate {
    Kind        kind;
    const char *name;
    const char *system;              /* what is said if nobody says anything; NULL: nothing */
    const char *system_before, *system_after;        /* NULL: there is no place for it */
    const char *user_before, *user_after;
    const char *answer_role;         /* the model goes on after this */
    const char *answer_before, *answer_after;        /* around an answer that was given */
    const char *stop;                /* a text that ends the answer as EOS does, or NULL */
    bool        in_user;             /* the system text is part of the first question */
    bool        strip;               /* contents lose white space at both ends */
    bool        start;               /* what the tokenizer puts in front of every text */
    bool        apart;               /* contents are encoded by themselves: Qwen v1 */
    bool        images;              /* pictures have a place */
    bool        marks;               /* which is between two tokens: mm_use_im_start_end */
};

/* === The table ================================================================================ */

#define CURIOUS(who) "A chat between a curious " who " and an artificial intelligence assistant. " \
    "The assistant gives helpful, detailed, and polite answers to the " who "'s questions."

static const ChatTemplate TEMPLATES[N_TEMPLATES] = {      /* in the order of Kind */
    { LLAMA2, "llama2", .in_user = true, .strip = true,
      .system_before = "<<SYS>>\n", .system_after = "\n<</SYS>>\n\n",
      .user_before = BOS "[INST] ", .user_after = " [/INST]",
      .answer_role = "", .answer_before = " ", .answer_after = " " EOS },
    { VICUNA, "vicuna", .start = true,
      .system = CURIOUS("user"), .system_before = "", .system_after = " ",
      .user_before = "USER: ", .user_after = " ",
      .answer_role = "ASSISTANT:", .answer_before = " ", .answer_after = EOS },
    { VICUNA_V0, "vicuna-v0", .start = true, .stop = "###",
      .system = CURIOUS("human"), .system_before = "", .system_after = "\n",
      .user_before = "### Human: ", .user_after = "\n",
      .answer_role = "### Assistant:", .answer_before = " ", .answer_after = "\n" },
    { ALPACA, "alpaca", .start = true,
      .system = "Below is an instruction that describes a task. Write a response that "
                "appropriately completes the request.",
      .system_before = "", .system_after = "\n\n",
      .user_before = "### Instruction:\n", .user_after = "\n\n",
      .answer_role = "### Response:", .answer_before = "", .answer_after = EOS },
    { CHATML, "chatml",
      .system_before = IM_START "system\n", .system_after = IM_END "\n",
      .user_before = IM_START "user\n", .user_after = IM_END "\n",
      .answer_role = IM_START "assistant\n", .answer_before = "", .answer_after = IM_END "\n" },
    { PHI_QA, "phi-qa", .start = true,
      .user_before = "", .user_after = "\n\n",
      .answer_role = "Answer:", .answer_before = " ", .answer_after = "\n\n" },
    { PHI_INSTRUCT, "phi-instruct", .start = true, .stop = "\nInstruct:",
      .user_before = "Instruct: ", .user_after = "\n",
      .answer_role = "Output:", .answer_before = " ", .answer_after = "\n" },
    { LLAVA_HF, "llava-hf", .start = true, .images = true,
      .system_before = "", .system_after = " ",
      .user_before = "USER: ", .user_after = " ",
      .answer_role = "ASSISTANT:", .answer_before = " ", .answer_after = " " },
    { LLAVA_V1, "llava-v1", .start = true, .images = true,
      .system = CURIOUS("human"), .system_before = "", .system_after = " ",
      .user_before = "USER: ", .user_after = " ",
      .answer_role = "ASSISTANT:", .answer_before = " ", .answer_after = EOS },
    { LLAVA_V0, "llava-v0", .start = true, .images = true, .stop = "###",
      .system = CURIOUS("human"), .system_before = "", .system_after = "###",
      .user_before = "Human: ", .user_after = "###",
      .answer_role = "Assistant:", .answer_before = " ", .answer_after = "###" },
    { LLAVA_LLAMA2, "llava-llama2", .in_user = true, .images = true,
      .system = "You are a helpful language and vision assistant. You are able to understand the "
                "visual content that the user provides, and assist the user with a variety of "
                "tasks using natural language.",
      .system_before = "<<SYS>>\n", .system_after = "\n<</SYS>>\n\n",
      .user_before = BOS "[INST] ", .user_after = " [/INST]",
      .answer_role = "", .answer_before = " ", .answer_after = " " EOS },
    { PLAIN, "plain", .start = true,
      .user_before = "", .user_after = "", .answer_role = "", .answer_before = "",
      .answer_after = "\n" },
};

/* Alpaca's other beginning, for a question that brings an input along. */
#define ALPACA_INPUT "\n\n### Input:\n"
static const char *const ALPACA_WITH_INPUT =
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.";

static Kind kind_of(const char *name)
{
    for (int i = 0; i < N_TEMPLATES; i++)
        if (strcmp(TEMPLATES[i].name, name) == 0) return (Kind)i;
    return UNKNOWN;
}

const char *template_names(void)
{
    static char names[200];
    size_t n = 0;
    for (int i = 0; i < N_TEMPLATES; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "",
                              TEMPLATES[i].name);
    return names;
}

const char *template_name(const ChatTemplate *t) { return t->name; }
bool        template_takes_system(const ChatTemplate *t) { return t->system_before != NULL; }
bool        template_takes_images(const ChatTemplate *t) { return t->images; }
const char *template_system(const ChatTemplate *t) { return t->system; }
const char *template_stop(const ChatTemplate *t) { return t->stop; }

/* === Which one a checkpoint was trained with ================================================== */

/* The checkpoint's Jinja text: chat_template.jinja, chat_template.json, tokenizer_config.json; of a
 * list of named ones the default. Absent: NULL. */
static const char *jinja_of(const char *dir)
{
    enum { MAX = 1 << 20 };
    size_t n;
    const char *text = model_file(dir, "chat_template.jinja", MAX, &n);
    if (text) return text;
    const char *const files[] = { "chat_template.json", "tokenizer_config.json" };
    for (int i = 0; i < 2; i++) {
        Json j = json_get(json_file(dir, files[i], 64 << 20), "chat_template");
        if (json_is(j, JSON_STRING)) return json_string(j, NULL);
        for (Json one = json_first(j); json_is(j, JSON_ARRAY) && one.node; one = json_next(one)) {
            const char *name = json_string(json_get(one, "name"), NULL);
            if (name && strcmp(name, "default") == 0)
                return json_string(json_get(one, "template"), NULL);
        }
    }
    return NULL;
}

/* The text with its accidents removed: no blanks outside quotes, all quotes ', a newline in quotes
 * written \n. Scratch. */
static char *squeeze(const char *jinja)
{
    char *out = scratch_bytes(add_size(mul_size(strlen(jinja), 2), 1)), *to = out, quote = 0;
    for (const char *s = jinja; *s; s++) {
        if (quote && *s == '\\' && s[1]) {
            *to++ = *s++;
            *to++ = *s;
        } else if (quote && *s == '\n') {
            *to++ = '\\';
            *to++ = 'n';
        } else if (quote ? *s == quote : *s == '\'' || *s == '"') {
            quote = quote ? 0 : *s;
            *to++ = '\'';
        } else if (quote || !strchr(" \t\r\n", *s)) *to++ = *s;
    }
    *to = 0;
    return out;
}

/* The text of a Jinja string from s up to end, its escapes undone; kept. */
static char *unescape(const char *s, const char *end)
{
    char *out = keep_bytes((size_t)(end - s) + 1), *to = out;
    for (; s < end; s++) {
        if (*s != '\\' || s + 1 == end) *to++ = *s;
        else if (*++s == 'n') *to++ = '\n';
        else if (*s == 't') *to++ = '\t';
        else *to++ = *s;
    }
    return out;
}

/* ChatML: the system text that the program writes if the conversation has none. */
static const char *default_system(const char *squeezed)
{
    static const char HEAD[] = "'<|im_start|>system\\n", TAIL[] = "<|im_end|>\\n'";
    for (const char *s = squeezed; (s = strstr(s, HEAD)); ) {
        s += sizeof HEAD - 1;
        const char *end = s;
        while (*end && *end != '\'') end += *end == '\\' && end[1] ? 2 : 1;
        size_t n = (size_t)(end - s) + 1, tail = sizeof TAIL - 1;
        if (*end && n > tail && memcmp(end + 1 - tail, TAIL, tail) == 0)
            return unescape(s, end + 1 - tail);
    }
    return NULL;
}

static bool has(const char *text, const char *part) { return strstr(text, part) != NULL; }

/* The template that writes what this Jinja program writes, into *t. False: none does. */
static bool recognise(ChatTemplate *t, const char *jinja)
{
    size_t mark = scratch_mark();
    const char *s = squeeze(jinja), *system = NULL;
    bool bos = has(s, "bos_token");
    Kind kind = UNKNOWN;
    if (has(s, "'<<SYS>>\\n'+") && has(s, "+'\\n<</SYS>>\\n\\n'+")
        && ((has(s, "bos_token+'[INST] '+content.strip()+' [/INST]'")
             && has(s, "' '+content.strip()+' '+eos_token"))
            || (has(s, "bos_token+'[INST] '+content|trim+' [/INST]'")
                && has(s, "' '+content|trim+' '+eos_token"))))
        kind = LLAMA2;
    else if ((has(s, "'<|im_start|>'+message['role']+'\\n'+message['content']")
              || has(s, "'<|im_start|>'+message.role+'\\n'+message.content"))
             && has(s, "'<|im_start|>assistant\\n'") && !has(s, "trim") && !has(s, "strip")
             && (!bos || strncmp(s, "{{bos_token}}", 13) == 0)) {
        kind = CHATML;
        system = default_system(s);
    } else if (has(s, "message['role'].upper()+': '") && has(s, "'<image>\\n'")
               && has(s, "content['text']+' '") && has(s, "'ASSISTANT:'") && !bos
               && !has(s, "eos_token"))
        kind = LLAVA_HF;
    else if (has(s, "'USER: '+message['content']+' '") && has(s, "{{'ASSISTANT:'}}")
             && (has(s, "'ASSISTANT: '+message['content']+'</s>'")
                 || has(s, "'ASSISTANT: '+message['content']+eos_token")) && !bos)
        kind = VICUNA;
    scratch_reset(mark);
    if (kind == UNKNOWN) return false;
    *t = TEMPLATES[kind];
    if (kind != LLAMA2) t->start = bos || kind != CHATML;
    if (kind == CHATML || kind == VICUNA) t->system = system;
    return true;
}

/* Names of published checkpoints that bring no program: model_type, two parts of the name. */
static const struct { const char *type, *a, *b; Kind kind; } KNOWN[] = {
    { "llama", "vicuna", "v0",    VICUNA_V0 },
    { "llama", "vicuna", "v1.",   VICUNA },
    { "llama", "llama-2", "chat", LLAMA2 },
    { "llama", "alpaca", "",      ALPACA },
    { "phi",   "phi-1_5", "",     PHI_QA },
    { "phi",   "phi-1.5", "",     PHI_QA },
    { "phi",   "phi-2", "",       PHI_INSTRUCT },
    { "phi-msft", "phi-1_5", "",  PHI_QA },
    { "phi-msft", "phi-2", "",    PHI_INSTRUCT },
    { "llava", "llava-1.5", "",   LLAVA_HF },
    { "llava", "bakllava", "",    LLAVA_HF },
};

/* What the folder is called, in lower case: its last part, or in the Hugging Face cache its
 * "models--org--name". Scratch. */
static char *short_name(const char *path)
{
    const char *cached = strstr(path, "models--");
    size_t n = cached ? strcspn(cached, "/") : strlen(path);
    if (!cached) {
        while (n > 1 && path[n - 1] == '/') n--;
        size_t from = n;
        while (from && path[from - 1] != '/') from--;
        path += from;
        n -= from;
    }
    char *name = scratch_string("%.*s", (int)n, cached ? cached : path);
    for (char *s = name; *s; s++) *s = (char)tolower((unsigned char)*s);
    return name;
}

static Kind known_name(const char *type, const char *name)
{
    for (size_t i = 0; i < sizeof KNOWN / sizeof KNOWN[0]; i++)
        if (strcmp(type, KNOWN[i].type) == 0 && has(name, KNOWN[i].a) && has(name, KNOWN[i].b))
            return KNOWN[i].kind;
    return UNKNOWN;
}

/* Without a program: Qwen's chat_format; the rule of LLaVA's run_llava.py for checkpoints in its
 * own layout; the name of the folder, or the one in config.json. */
static Kind kind_by_facts(const char *dir, Json config, const char *type)
{
    const char *name = short_name(dir);
    Json generation = json_file(dir, "generation_config.json", 1 << 20);
    if (strcmp(type, "qwen") == 0) {
        const char *format = json_str(generation, "chat_format", "");
        return strcmp(format, "chatml") == 0 ? CHATML : UNKNOWN;
    }
    if (json_get(config, "mm_vision_tower").node)
        return has(name, "llama-2") ? LLAVA_LLAMA2 : has(name, "v1") ? LLAVA_V1 : LLAVA_V0;
    Kind kind = known_name(type, name);
    return kind != UNKNOWN ? kind : known_name(type,
                                               short_name(json_str(config, "_name_or_path", "")));
}

const ChatTemplate *template_open(const char *dir, Json config, const char *name)
{
    size_t mark = scratch_mark();
    ChatTemplate *t = keep_bytes(sizeof *t), own;
    const char *type = json_str(config, "model_type", ""), *jinja = jinja_of(dir);
    bool known = jinja && recognise(&own, jinja);
    Kind kind = name ? kind_of(name) : known ? own.kind : jinja ? UNKNOWN
              : kind_by_facts(dir, config, type);
    scratch_reset(mark);
    if (kind == UNKNOWN) return NULL;
    *t = known && own.kind == kind ? own : TEMPLATES[kind];
    if (kind == CHATML && strcmp(type, "qwen") == 0) {
        t->apart = true;
        t->system = "You are a helpful assistant.";
    }
    t->marks = t->images && kind != LLAVA_HF && json_bool(config, "mm_use_im_start_end", false);
    return t;
}

/* === A conversation as pieces ================================================================= */

/* A piece is text, which is encoded together with the text beside it, a picture, or a cut. */
typedef enum { PIECE_TEXT, PIECE_IMAGE, PIECE_CUT } PieceKind;
typedef struct { PieceKind kind; TokPart part; int image; } Piece;
typedef struct {
    const ChatTemplate *t;
    const Tokenizer *tok;
    bool    raw;                     /* --raw: contents may hold special tokens */
    Piece  *piece;
    size_t  n, cap;
    int     n_images;
} Pieces;

static void add_piece(Pieces *p, Piece piece)
{
    if (p->n == p->cap) {
        size_t cap = p->cap * 2 + 64;
        Piece *more = scratch_bytes(mul_size(cap, sizeof *more));
        if (p->n) memcpy(more, p->piece, p->n * sizeof *more);
        p->piece = more;
        p->cap = cap;
    }
    p->piece[p->n++] = piece;
}

static void add_text(Pieces *p, const char *s, size_t n, bool raw)
{
    if (n) add_piece(p, (Piece){ .kind = PIECE_TEXT, .part = { s, n, raw } });
}

/* The token that a mark of the table stands for, as the tokenizer writes it. */
static const char *token_of(const Pieces *p, char mark, size_t *n)
{
    bool named = mark == BOS[0] || mark == EOS[0];
    const char *what = mark == BOS[0] ? "bos_token" : mark == EOS[0] ? "eos_token"
                     : mark == IM_START[0] ? "<|im_start|>" : "<|im_end|>";
    int id = named ? tok_named(p->tok, mark == BOS[0] ? TOK_BOS : TOK_EOS) : tok_id(p->tok, what);
    const char *s = tok_piece(p->tok, id, n);
    if (!s)
        die(EXIT_MODEL, "the template %s needs a token %s, which this model's tokenizer does not "
            "have\n--template NAME chooses another one: %s", p->t->name, what, template_names());
    return s;
}

/* A string of the table: its marks become tokens. */
static void add_form(Pieces *p, const char *s)
{
    while (*s) {
        size_t n = strcspn(s, BOS EOS IM_START IM_END);
        add_text(p, s, n, false);
        s += n;
        if (!*s) break;
        const char *token = token_of(p, *s++, &n);
        add_text(p, token, n, false);
    }
}

static void add_mark(Pieces *p, const char *token)
{
    if (!p->t->marks) return;
    if (tok_id(p->tok, token) < 0)
        die(EXIT_MODEL, "mm_use_im_start_end in config.json asks for a token %s that this model's "
            "tokenizer lacks\nadded_tokens.json belongs to it, too", token);
    add_text(p, token, strlen(token), false);
}

/* What somebody said. */
static void add_content(Pieces *p, const char *s, size_t n)
{
    if (p->t->apart) add_piece(p, (Piece){ .kind = PIECE_CUT });
    add_text(p, s, n, !p->raw);
    if (p->t->apart) add_piece(p, (Piece){ .kind = PIECE_CUT });
}

/* Python's str.strip(): also the separators U+001C to U+001F, and the blanks of Unicode. */
static bool is_blank(const unsigned char *s, size_t len)
{
    unsigned c = s[0];
    if (len == 1) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F);
    if (len == 2) return c == 0xC2 && (s[1] == 0x85 || s[1] == 0xA0);
    if (len != 3) return false;
    c = (c & 15) << 12 | (s[1] & 63u) << 6 | (s[2] & 63u);
    return c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029
        || c == 0x202F || c == 0x205F || c == 0x3000;
}

static void strip(const char **text, size_t *n)
{
    const unsigned char *s = (const unsigned char *)*text, *end = s + *n;
    for (size_t len; s < end; s += len) {
        for (len = 1; s + len < end && (s[len] & 0xC0) == 0x80; ) len++;
        if (!is_blank(s, len)) break;
    }
    for (size_t len; s < end; end -= len) {
        for (len = 1; len < (size_t)(end - s) && (end[-(ptrdiff_t)len] & 0xC0) == 0x80; ) len++;
        if (!is_blank(end - len, len)) break;
    }
    *text = (const char *)s;
    *n = (size_t)(end - s);
}

/* The system text that counts: the conversation's own, or the form's. NULL: none. */
static const char *system_text(const ChatTemplate *t, const Message **m, int *n_messages, size_t *n)
{
    if (*n_messages && (*m)->role == ROLE_SYSTEM) {
        const char *own = (*m)->text;
        *n = (*m)->n;
        ++*m;
        --*n_messages;
        return own;
    }
    const char *s = t->system;
    if (t->kind == ALPACA && *n_messages
        && memmem((*m)->text, (*m)->n, ALPACA_INPUT, sizeof ALPACA_INPUT - 1))
        s = ALPACA_WITH_INPUT;
    *n = s ? strlen(s) : 0;
    return s;
}

/* system + question in one, as Llama 2 wants it. */
static const char *merged(const ChatTemplate *t, const char *system, size_t n_system,
                          const Message *m, size_t *n)
{
    size_t before = strlen(t->system_before), after = strlen(t->system_after);
    *n = add_size(add_size(before, n_system), add_size(after, m->n));
    char *all = scratch_bytes(add_size(*n, 1)), *to = all;
    memcpy(to, t->system_before, before);
    to += before;
    memcpy(to, system, n_system);
    to += n_system;
    memcpy(to, t->system_after, after);
    memcpy(to + after, m->text, m->n);
    return all;
}

static void add_question(Pieces *p, const Message *m, const char *system, size_t n_system)
{
    const ChatTemplate *t = p->t;
    const char *text = m->text;
    size_t n = m->n;
    if (system) text = merged(t, system, n_system, m, &n);
    if (t->strip) strip(&text, &n);
    add_form(p, t->user_before);
    /* Pictures come first, but behind a system text that is part of the question. */
    size_t ahead = system && m->n_images && n >= m->n ? n - m->n : 0;
    add_text(p, text, ahead, !p->raw);
    for (int i = 0; i < m->n_images; i++) {
        add_mark(p, "<im_start>");
        add_piece(p, (Piece){ .kind = PIECE_IMAGE, .image = p->n_images++ });
        add_mark(p, "<im_end>");
        add_text(p, "\n", 1, false);
    }
    add_content(p, text + ahead, n - ahead);
    add_form(p, t->user_after);
}

/* The whole conversation, up to where the model goes on. */
static Pieces conversation(const ChatTemplate *t, const Tokenizer *tok, const Message *m, int n,
                           bool raw)
{
    Pieces p = { .t = t, .tok = tok, .raw = raw };
    size_t n_system;
    const char *system = system_text(t, &m, &n, &n_system);
    if (system && !t->in_user) {
        add_form(&p, t->system_before);
        add_content(&p, system, n_system);
        add_form(&p, t->system_after);
    }
    for (int i = 0; i < n; i++) {
        if (m[i].role == ROLE_USER) {
            add_question(&p, &m[i], t->in_user && i == 0 ? system : NULL, n_system);
            add_form(&p, t->answer_role);
        } else {
            const char *text = m[i].text;
            size_t len = m[i].n;
            if (t->strip) strip(&text, &len);
            add_form(&p, t->answer_before);
            add_content(&p, text, len);
            add_form(&p, t->answer_after);
        }
    }
    return p;
}

/* === As ids, as text ========================================================================== */

typedef struct { int *id; size_t n, cap; } IdBuf;

static void add_ids(IdBuf *b, const int *id, size_t n)
{
    if (b->n + n > b->cap) {
        size_t cap = (b->n + n) * 2 + 64;
        int *more = scratch_bytes(mul_size(cap, sizeof *more));
        if (b->n) memcpy(more, b->id, b->n * sizeof *more);
        b->id = more;
        b->cap = cap;
    }
    if (n) memcpy(b->id + b->n, id, n * sizeof *id);
    b->n += n;
}

/* In transformers' form of LLaVA the place of a picture is a token in the text; the original code
 * cuts the text there and encodes what is before and after by itself. */
static int image_token(const Pieces *p)
{
    return p->t->kind == LLAVA_HF ? tok_id(p->tok, "<image>") : -1;
}

/* Texts side by side, from piece i on, as one; returns the piece after them. */
static size_t encode_run(IdBuf *b, const Pieces *p, size_t i, int image)
{
    TokPart *part = scratch_bytes(mul_size(p->n - i, sizeof *part));
    int n = 0, n_images = 0, first = 0, flags = i == 0 && p->t->start ? TOK_SPECIAL : 0;
    for (; i < p->n; i++, n++) {
        const Piece *q = &p->piece[i];
        if (q->kind == PIECE_CUT || (q->kind == PIECE_IMAGE && image < 0)) break;
        part[n] = q->kind == PIECE_TEXT ? q->part : (TokPart){ "<image>", 7, false };
        if (q->kind == PIECE_IMAGE && !n_images++) first = q->image;
    }
    Ids ids = tok_encode_parts(p->tok, part, n, flags);
    for (int k = 0, seen = 0; n_images && k < ids.n; k++)
        if (ids.id[k] == image && seen++ < n_images) ids.id[k] = -1 - first++;
    add_ids(b, ids.id, (size_t)ids.n);
    return i;
}

Ids template_encode(const ChatTemplate *t, const Tokenizer *tok, const Message *m, int n, bool raw)
{
    IdBuf b = {0};
    Pieces p = conversation(t, tok, m, n, raw);
    int image = image_token(&p);
    for (size_t i = 0; i < p.n; ) {
        const Piece *q = &p.piece[i];
        int id = -1 - q->image;
        if (q->kind == PIECE_IMAGE && image < 0) add_ids(&b, &id, 1);
        if (q->kind == PIECE_CUT || (q->kind == PIECE_IMAGE && image < 0)) i++;
        else i = encode_run(&b, &p, i, image);
    }
    if (b.n > INT32_MAX) die(EXIT_MEMORY, "a conversation of more than %d tokens", INT32_MAX);
    return (Ids){ b.id, (int)b.n };
}

char *template_text(const ChatTemplate *t, const Tokenizer *tok, const Message *m, int n,
                    size_t *n_bytes)
{
    Pieces p = conversation(t, tok, m, n, false);
    Ids start = t->start ? tok_encode(tok, "", 0, TOK_SPECIAL) : (Ids){0};
    size_t size = 1, len;
    for (int i = 0; i < start.n; i++)
        if (tok_piece(tok, start.id[i], &len)) size = add_size(size, len);
    for (size_t i = 0; i < p.n; i++) size = add_size(size, p.piece[i].part.n + 7);
    char *text = scratch_bytes(size), *to = text;
    for (int i = 0; i < start.n; i++) {
        const char *s = tok_piece(tok, start.id[i], &len);
        if (s) to = (char *)memcpy(to, s, len) + len;
    }
    for (size_t i = 0; i < p.n; i++) {
        TokPart s = p.piece[i].kind == PIECE_IMAGE ? (TokPart){ "<image>", 7, false }
                                                   : p.piece[i].part;
        if (s.n) to = (char *)memcpy(to, s.text, s.n) + s.n;
    }
    *to = 0;
    *n_bytes = (size_t)(to - text);
    return text;
}

int template_ends(const ChatTemplate *t, const Tokenizer *tok, int id[2])
{
    Pieces p = { .t = t, .tok = tok };
    size_t n;
    if (t->kind != CHATML) return 0;
    id[0] = tok_id(tok, token_of(&p, IM_END[0], &n));
    id[1] = tok_id(tok, token_of(&p, IM_START[0], &n));
    return t->apart ? 2 : 1;
}
