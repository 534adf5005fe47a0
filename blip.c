/* blip.c -- BLIP (arXiv 2201.12086): captions, answers, and whether a text fits a picture.
 *
 * Reference: transformers' BlipForConditionalGeneration, BlipForQuestionAnswering and
 * BlipForImageTextRetrieval.
 *
 *   image [H, W, 3] -> vit.c -> states [n_patch+1, d_image]
 *   caption: [BOS] prompt -> BERT, causal, looking at states -> logits -> the next token ... [SEP]
 *   answer:  question -> BERT, looking at states -> question states [n_tok, d]
 *            [BOS] -> BERT, causal, looking at the question states -> ... [SEP]
 *   match:   text -> BERT, looking at states, row 0 -> itm_head -> softmax -> P(match)
 *            text -> BERT alone, row 0 -> text_proj;  states, row 0 -> vision_proj; cosine of both
 *
 * Easy to get wrong:
 *   - Generation begins with bos_token_id and stops at sep_token_id; eos_token_id means nothing.
 *   - Of a prompt's [CLS] .. [SEP] the first becomes BOS and the last is dropped.
 *   - The answer's decoder never sees the picture, only the question's states.
 *   - generation_config.json and text_config's max_length are not read: 20 new tokens, one beam.
 *   - The text side's memory has the image tower's width, whatever encoder_hidden_size says. */
#include <math.h>
#include <string.h>

#include "mm.h"

enum { DEFAULT_NEW_TOKENS = 20 };

struct Blip {
    BlipKind kind;
    Vit   *vision;
    Bert  *encoder;                  /* VQA, ITM */
    Bert  *decoder;                  /* captions, VQA */
    int    bos, sep;
    Linear vision_proj, text_proj;   /* ITM: [d_common, d_image], [d_common, d] */
    Linear itm_head;                 /* ITM: [2, d] */
};

/* === Loading ================================================================================== */

/* Which class wrote the file is told by what is in it: `architectures` may be missing. */
static BlipKind kind_of(Ckpt ck, Json config)
{
    bool encoder = ckpt_has(ck, "text_encoder.embeddings.word_embeddings.weight");
    bool decoder = ckpt_has(ck, "text_decoder.bert.embeddings.word_embeddings.weight");
    if (encoder && ckpt_has(ck, "itm_head.weight")) return BLIP_ITM;
    if (encoder && decoder) return BLIP_VQA;
    if (decoder) return BLIP_CAPTION;
    die(EXIT_MODEL, "%s: a BLIP of neither text_decoder nor text_encoder and itm_head\n"
        "mm runs BlipForConditionalGeneration, -QuestionAnswering and -ImageTextRetrieval",
        quoted(json_doc_name(config)));
}

Blip *blip_load(Ckpt ck, Json config)
{
    Blip *b = keep_bytes(sizeof *b);
    Json text = json_get(config, "text_config");
    b->kind   = kind_of(ck, config);
    b->vision = vit_load_blip(ckpt_at(ck, "vision_model."), json_get(config, "vision_config"));
    b->bos    = json_int(text, "bos_token_id", 30522, 0, 1 << 22);
    b->sep    = json_int(text, "sep_token_id", 102, 0, 1 << 22);
    BertOptions o = { .no_segments = true, .d_image = vit_dim(b->vision) };
    if (b->kind != BLIP_CAPTION)
        b->encoder = bert_load(ckpt_at(ck, "text_encoder."), text, o);
    if (b->kind != BLIP_ITM) {
        o.tied = !ckpt_has(ck, "text_decoder.cls.predictions.decoder.weight");
        b->decoder = bert_load(ckpt_at(ck, "text_decoder.bert."), text, o);
        bert_load_head(b->decoder, ckpt_at(ck, "text_decoder.cls.predictions."));
    }
    Bert *any = b->encoder ? b->encoder : b->decoder;
    if (b->bos >= bert_vocab(any))
        json_error(json_get(text, "bos_token_id"), "is %d, but there are %d tokens", b->bos,
                   bert_vocab(any));
    if (b->kind == BLIP_VQA && bert_dim(b->encoder) != o.d_image)
        die(EXIT_FILE, "%s: text_config.hidden_size is %d, vision_config.hidden_size %d: "
            "the answer's decoder needs them equal", quoted(json_doc_name(config)),
            bert_dim(b->encoder), o.d_image);
    if (b->kind == BLIP_ITM) {
        int d = bert_dim(b->encoder);
        int common = json_int(config, "image_text_hidden_size", 256, 1, 65536);
        b->vision_proj = linear_load(ck, "vision_proj", common, o.d_image);
        b->text_proj   = linear_load(ck, "text_proj", common, d);
        b->itm_head    = linear_load(ck, "itm_head", 2, d);
    }
    ckpt_done(ck);
    return b;
}

BlipKind blip_kind(const Blip *b)    { return b->kind; }
int blip_image_size(const Blip *b)   { return vit_image_size(b->vision); }

/* === Pictures ================================================================================= */

/* Row 0 of x through a projection, to the unit sphere if asked. [1, n_out] */
static Tensor project(Tensor x, const Linear *l, bool unit)
{
    Tensor out = scratch(1, l->w.dim[0]);
    linear(as_vector(out), as_vector(rows(x, 0, 1)), l);
    if (unit) l2_normalize(out);
    return out;
}

/* The caches are empty: a picture that no text asks about costs no keys and values. */
BlipImage blip_image(Blip *b, Tensor image)
{
    BlipImage im = { .states = vit_forward(b->vision, image) };
    im.cross = bert_caches(b->encoder ? b->encoder : b->decoder, 1, n_rows(im.states));
    if (b->kind == BLIP_ITM) im.common = project(im.states, &b->vision_proj, true);
    return im;
}

/* === Generation =============================================================================== */

typedef struct {
    Bert    *bert;
    Tensor   memory;                 /* what the decoder looks at */
    KvCache *cross, *self;
    Tensor   logits;                 /* [n_beams, n_vocab] */
} Writer;

/* Decoder.step: the newest n tokens of n_beams sequences -> logits of the next. */
static Tensor writer_step(void *model, const int *id, int n_beams, int n, const int *from)
{
    Writer *w = model;
    for (int i = 0; from && i < bert_layers(w->bert); i++) kv_reorder(&w->self[i], from, n_beams);

    Tensor logits = rows(w->logits, 0, n_beams);
    size_t mark = scratch_mark();
    BertArgs args = { .memory = w->memory, .cross = w->cross, .self = w->self };
    Tensor x = bert_forward(w->bert, id, n_beams, n, args);
    if (n_beams == 1) {
        x = rows(x, n - 1, 1);                                /* of a prompt, the last token's */
        bert_logits(logits, x, w->bert);
    } else {
        bert_logits(items(logits, n_beams), x, w->bert);      /* [n_beams, 1, d] */
    }
    scratch_reset(mark);
    return logits;
}

/* The decoder's caches and logits lie in scratch, below the text that comes back. */
static Generated write_text(Blip *b, Tensor memory, KvCache *cross, const int *prompt, int n,
                            GenOptions o)
{
    int max_len = bert_max_tokens(b->decoder), n_beams = o.beams > 1 ? o.beams : 1;
    if (o.max_tokens < 0) o.max_tokens = DEFAULT_NEW_TOKENS;
    if (n > max_len)
        fail("input.text", "shorten it", "the prompt has %d tokens, the model takes %d", n,
             max_len);
    int n_cache = o.max_tokens < max_len - n ? n + o.max_tokens : max_len;
    Writer w = {
        .bert = b->decoder, .memory = memory, .cross = cross,
        .self = bert_caches(b->decoder, n_beams, n_cache),
        .logits = scratch(n_beams, bert_vocab(b->decoder)),
    };
    Decoder dec = { .step = writer_step, .model = &w, .max_len = max_len };
    o.end = &b->sep;
    o.n_end = 1;
    return generate(&dec, prompt, n, o);
}

/* [CLS] a picture of [SEP] -> [BOS] a picture of, to be continued. */
Generated blip_caption(Blip *b, BlipImage image, const int *ids, int n, GenOptions o)
{
    if (b->kind != BLIP_CAPTION) bug("blip_caption: a model of kind %d", b->kind);
    int n_prompt = n > 2 ? n - 1 : 1;
    int *prompt = scratch_bytes((size_t)n_prompt * sizeof *prompt);
    if (n > 2) memcpy(prompt, ids, (size_t)n_prompt * sizeof *prompt);
    prompt[0] = b->bos;
    return write_text(b, image.states, image.cross, prompt, n_prompt, o);
}

/* The question looks at the picture, the answer at the question. */
Generated blip_answer(Blip *b, BlipImage image, const int *ids, int n, GenOptions o)
{
    if (b->kind != BLIP_VQA) bug("blip_answer: a model of kind %d", b->kind);
    BertArgs look = { .memory = image.states, .cross = image.cross };
    Tensor question = bert_forward(b->encoder, ids, 1, n, look);
    KvCache *cross = bert_caches(b->decoder, 1, n);
    return write_text(b, question, cross, &b->bos, 1, o);
}

/* === Matching ================================================================================= */

/* Two readings of the text: with the picture, to compare them word by patch; and alone, to compare
 * two finished vectors. */
void blip_match(Blip *b, BlipImage image, const int *ids, int n, float *match, float *cosine)
{
    if (b->kind != BLIP_ITM) bug("blip_match: a model of kind %d", b->kind);
    size_t mark = scratch_mark();
    BertArgs look = { .memory = image.states, .cross = image.cross };
    Tensor both = bert_forward(b->encoder, ids, 1, n, look);
    Tensor p = project(both, &b->itm_head, false);
    softmax_rows(p);
    *match = f32(p)[1];

    Tensor alone = bert_forward(b->encoder, ids, 1, n, (BertArgs){ 0 });
    Tensor t = project(alone, &b->text_proj, true);
    *cosine = dot(f32(image.common), f32(t), n_cols(t));
    scratch_reset(mark);
}
