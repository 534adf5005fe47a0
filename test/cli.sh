#!/bin/bash
# cli.sh -- the command line, used as people use it: what comes out on stdout, what on stderr, and
# with which exit code. Runs $MM (default ./mm) on the tiny checkpoints of test/data/models; run from
# the root of the repository. What captions should say is taken from the reference's answers there.
#
#   run ARGS...           runs mm with stdin from $in (default: nothing)
#   expect NAME CODE ...  then: is that the exit code, and do all of these hold?
#       out=TEXT err=TEXT     contains this     out~RE err~RE   has a line that matches
#       out-TEXT err-TEXT     does not contain  lines=N         lines on stdout
#       quiet                 stderr is empty   empty           stdout is empty
MM=$(realpath "${MM:-./mm}")
M=test/data/models P=$M/pictures
T=$(mktemp -d) && trap 'rm -rf "$T"' EXIT
assets=${MM_ASSETS:-../shared/assets}
for v in $(env | sed -n 's/^\(MM_[A-Z_]*\|HF_[A-Z_]*\|HUGGINGFACE_[A-Z_]*\|XDG_CACHE_HOME\)=.*/\1/p'); do
    unset "$v"
done
export HOME=$T/home LC_ALL=C
n_pass=0 n_fail=0 n_skip=0 in=/dev/null
CAP="-m $M/blip-caption" CLIP="-m $M/clip" BERT="-m $M/bert-mean"

run() { "$MM" "$@" >"$T/out" 2>"$T/err" <"$in"; code=$?; in=/dev/null; }
good() { n_pass=$((n_pass + 1)); }
bad() {
    n_fail=$((n_fail + 1)); echo "cli: $1"
    echo "    exit code $code; stdout:"; head -c 600 "$T/out" | sed 's/^/    | /'
    echo "    stderr:"; head -c 600 "$T/err" | sed 's/^/    | /'
}
expect() {
    local name=$1 want=$2 c why=; shift 2
    [ "$code" = "$want" ] || why="exit code $code, expected $want"
    for c in "$@"; do
        case $c in
        out=*) grep -qF -- "${c#out=}" "$T/out" || why="no '${c#out=}' on stdout" ;;
        err=*) grep -qF -- "${c#err=}" "$T/err" || why="no '${c#err=}' on stderr" ;;
        out~*) grep -qE -- "${c#out~}" "$T/out" || why="nothing like '${c#out~}' on stdout" ;;
        err~*) grep -qE -- "${c#err~}" "$T/err" || why="nothing like '${c#err~}' on stderr" ;;
        out-*) grep -qF -- "${c#out-}" "$T/out" && why="'${c#out-}' on stdout" ;;
        lines=*) [ "$(wc -l <"$T/out")" = "${c#lines=}" ] || why="$(wc -l <"$T/out") lines" ;;
        err-*) grep -qF -- "${c#err-}" "$T/err" && why="'${c#err-}' on stderr" ;;
        quiet) [ -s "$T/err" ] && why="stderr is not empty" ;;
        empty) [ -s "$T/out" ] && why="stdout is not empty" ;;
        esac
    done
    if [ -z "$why" ]; then good; else bad "$name: $why"; fi
}
# same NAME FILE FILE: are they equal, byte for byte?
same() { if cmp -s "$2" "$3"; then good; else bad "$1: $2 and $3 differ"; fi; }
# is NAME A B
is() { if [ "$2" = "$3" ]; then good; else bad "$1: '$2', expected '$3'"; fi; }
skip() { n_skip=$((n_skip + 1)); echo "skipped: $1"; }
# What the reference says: answer MODEL greedy|beams -> the text of the first case, wide.png
answer() { sed -n "/\"$2\"/,/}/s/.*\"text\": \"\(.*\)\",\$/\1/p" "$M/$1.answers.json" | head -1; }

# --- Help ------------------------------------------------------------------------------------------
run --help; expect "--help" 0 quiet out="mm caption"
[ "$(wc -l <"$T/out")" -le 24 ] && good || bad "--help has more than 24 lines"
is "--help fits 80 columns" "$(awk 'length($0) > 80' "$T/out")" ""
is "--help leads with an example" "$(sed -n 3p "$T/out" | cut -c1-12)" "  mm caption"
for c in caption vqa chat complete embed classify info ls preprocess tokenize convert quantize bench; do
    run $c -h; expect "$c -h" 0 quiet
    [ "$(wc -l <"$T/out")" -le 24 ] && good || bad "$c -h has more than 24 lines"
    is "$c -h fits 80 columns" "$(awk 'length($0) > 80' "$T/out")" ""
done
start=$(date +%s%N); for i in 1 2 3 4 5 6 7 8 9 10; do "$MM" --help >/dev/null; done
ms=$((($(date +%s%N) - start) / 10000000))
[ $ms -lt 40 ] && good || bad "--help takes $ms ms"            # 2 ms; slack for sanitizers
run caption --help-all; expect "--help-all" 0 out=--retry-errors out=--logprobs
run help embed; expect "help CMD" 0 out=--vec
run help man; expect "help man" 0 out=.SH
[ -f mm.1 ] && same "mm.1 is what help man prints" "$T/out" mm.1
for s in INPUTS RECORDS "ERROR CODES" "OUTPUT FILES" PICTURES MODELS CONVERTING QUANTISING DETERMINISM "EXIT STATUS" ENVIRONMENT; do
    grep -qx ".SH $s" "$T/out" && good || bad "the manual has no section $s"
done
run caption --help-all; expect "keys and columns" 0 out="Keys of --in jsonl: id, image, image_b64, seed, prompt, max_tokens" \
    out="Columns of --in tsv: id, path or text, prompt"
run chat --help-all; is "--help-all fits 80 columns" "$(awk 'length($0) > 80' "$T/out")" ""
run vqa -h; expect "vqa -h" 0 out="mm vqa [-m MODEL] -p QUESTION"
run quantize -h; expect "quantize -h" 0 out=--quant out="q8 if not given"
run ls -h; expect "ls -h" 0 out="blip-vqa" out=llava15
run --version; expect "--version" 0 lines=1 out~'^mm [0-9]'
run; expect "no command" 2

# --- Usage errors ----------------------------------------------------------------------------------
run capton x; expect "a mistyped command" 2 err="did you mean caption" empty
run help capton; expect "help of a mistyped command" 2 err="did you mean caption"
run --verson; expect "a mistyped --version" 2 err="did you mean --version"
MM_SEED=x run caption $CAP x; expect "MM_SEED" 2 err="MM_SEED x"
run caption -m nowhere/nothing x; expect "all messages name the command" 3 err="mm: caption: nowhere/nothing: "
run caption -m $P/wide.png x; expect "a picture as the model" 4 err="mm: caption: $P/wide.png: is a picture (PNG)"
run info nosuch.jpg; expect "info of no picture" 5 err="mm: info: nosuch.jpg: no such file"
# Twenty folders, each with a link to all others: there are more paths than can be walked.
for i in $(seq 20); do mkdir -p "$T/web/$i"; done
for i in $(seq 20); do for k in $(seq 20); do ln -s "../$k" "$T/web/$i/to$k"; done; done
cp $P/wide.png "$T/web/7/"
code=0; timeout 20 "$MM" caption $CAP -r "$T/web" "$T/web/7" >"$T/out" 2>"$T/err" || code=$?
expect "-r of linked folders" 0 lines=2
run caption $CAP -r "$T/nosuch"; expect "-r of nothing" 5 err="No such file"
run caption $CAP "$T/$(printf 'a\342\200\256b')"; expect "U+202E" 5 err='a\xe2\x80\xaeb'
printf 'RIFF\044\0\0\0WEBPVP8 ' >"$T/x.webp"
for c in "info" "embed $CLIP"; do run $c "$T/x.webp"; expect "$c of WebP" 5 err="magick $T/x.webp out.png"; done
run caption --bems 3 x; expect "a mistyped option" 2 err="did you mean --beams"
run caption --labels a x; expect "an option of another command" 2 err=classify
for c in segment generate pull verify completion; do
    run $c; expect "$c comes later" 2 err="later version"
done
for o in --shard=0/2 --mem=3G --batch=2 --provenance --unordered --timeout=3; do
    run caption $CAP $o x; expect "$o is not in this version" 2 err="not in this version"
done
run embed $CLIP --features cls x; expect "--features" 2 err="not in this version"
run caption $CAP --progress json x; expect "--progress json" 2 err="not in this version"
run caption $CAP; expect "no picture" 2 err="no picture"
run caption $CAP -t 0 x; expect "-t 0" 2 err="1 to 512"
run caption $CAP --isa sse9 x; expect "--isa sse9" 2 err="ref"
MM_CPU=sse9 run caption $CAP x; expect "MM_CPU" 2 err=MM_CPU
run caption $CAP --errors never x; expect "--errors never" 2 err="record|skip|fail"
run caption $CAP -m; expect "an option without its value" 2 err="needs a value"
run caption $CAP --json=3 x; expect "a value too much" 2 err="no value"
run caption $CAP - -; expect "stdin twice" 2 err=once
run caption $CAP -p a -p b x; expect "-p twice" 2 err="-p is there twice"
run complete -m nowhere --beams 3 --temp 0.7 -p x; expect "beams that draw" 2 err=--beams err=--temp
run caption $CAP --files-from $P/wide.png; expect "a picture as the list" 2 err="no list of names"
cp $P/wide.png "$T/-dash.png"; (cd "$T" && "$MM" caption -dash.png >out 2>err) || code=$?
expect "a name that begins with a dash" 2 err="put -- in front"
run embed $CLIP "a dog"; expect "words for CLIP" 5 err='--text "a dog"'
run caption -m blp x; expect "nearly an alias" 3 err="did you mean blip?" err='$MM_MODELS'
run detect; expect "a later command has no help" 2 err-"shows how"
run caption $CAP --in lines a.png; expect "--in without stdin" 2 err=stdin
run caption $CAP -o "$T/{foo}.txt" a.png; expect "an unknown field" 2 err="{foo}"
run caption $CAP --resume "$T/r" -o "$T/o" a.png; expect "-o and --resume" 2
run classify $CLIP $P/wide.png; expect "no labels, and the model brings none" 2 err=--labels
run classify $CLIP --labels a,,b $P/wide.png; expect "an empty label" 2
run classify $CLIP --labels a --label-template x $P/wide.png; expect "a template without {}" 2
run vqa -m $M/blip-vqa $P/wide.png; expect "a question is missing" 2 err="-p QUESTION"
run caption $CAP -p "$(yes word | head -200)" $P/wide.png
expect "a prompt that is too long" 2 err~'has [0-9]+ tokens, the model takes [0-9]+'
run embed $CLIP --json --vec npy $P/wide.png; expect "--json and npy" 2
run preprocess $CLIP $P/wide.png $P/tall.png; expect "preprocess, two pictures" 2 err=stem

# --- caption ---------------------------------------------------------------------------------------
run caption $CAP -p "a picture of" $P/wide.png
expect "caption with a beginning" 0 quiet lines=1 out="$(answer blip-caption greedy)"
is "the whole line" "$(cat "$T/out")" "$(answer blip-caption greedy)"
run caption $CAP -p "a picture of" --beams 3 $P/wide.png
is "three beams" "$(cat "$T/out")" "$(answer blip-caption beams)"
run caption -m $M/blip-caption-f16 -p "a picture of" $P/wide.png
is "f16" "$(cat "$T/out")" "$(answer blip-caption-f16 greedy)"
run caption $CAP $P/wide.png $P/tall.png
expect "two pictures have their paths in front" 0 quiet lines=2 out~"^$P/wide.png	[a-z]"
run caption $CAP --no-filename $P/wide.png $P/tall.png; expect "--no-filename" 0 out-$P lines=2
run caption $CAP --json $P/wide.png
expect "a record" 0 quiet lines=1 \
    out~'^\{"v":1,"cmd":"caption","i":0,"id":"[^"]*wide.png","ok":true,"text":"[^"]+","stop":"(eos|length)","model":"test/data/models/blip-caption","seed":0,"tokens":\{"in":1,"out":[0-9]+\},"ids":\[[0-9,]+\]\}$'
run caption $CAP --json --timings $P/wide.png
expect "--timings" 0 out~'"ms":\{"load":[0-9]+,"decode":[0-9]+,"encode":[0-9]+,"text":[0-9]+\}'
run caption $CAP --json --max-tokens 3 --logprobs 2 $P/wide.png
expect "--logprobs" 0 out~'"logprobs":\[\{"id":[0-9]+,"logprob":-[0-9.]+,"top":\[\[[0-9]+,-[0-9.]+\],\[' \
    out='"stop":"length"' out='"out":3'
run caption $CAP --logprobs 2 $P/wide.png; expect "--logprobs without --json" 2 err=--json
run caption $CAP --json --max-tokens 0 $P/wide.png; expect "--max-tokens 0" 0 out='"text":""'
run caption $CAP --seed 7 --json $P/wide.png; expect "--seed" 0 out='"seed":7'
MM_SEED=8 run caption $CAP --json $P/wide.png; expect "MM_SEED" 0 out='"seed":8'
run caption $CAP --seed random --json $P/wide.png; expect "--seed random" 0 err~'seed [0-9]+'
is "a random seed is recorded" "$(sed 's/.*"seed":\([0-9]*\).*/\1/' "$T/out")" \
    "$(sed 's/.*seed //' "$T/err")"
run caption $CAP -0 $P/wide.png $P/tall.png; is "-0" "$(tr -cd '\0' <"$T/out" | wc -c)" 2
run caption $CAP -v $P/wide.png
expect "-v" 0 err="1 item" err="tok/s" err="GFLOP/s" err="start to first compute" err=scratch
run caption $CAP -vv $P/wide.png; expect "-vv" 0 err="vision_model.encoder.layers.0" err=std
run caption $CAP --trace "$T/trace.safetensors" $P/wide.png; expect "--trace" 0 quiet
grep -q '"vision_model' "$T/trace.safetensors" && good || bad "--trace writes names"
in=$P/wide.png; run caption $CAP -; expect "a picture on stdin" 0 quiet lines=1
run caption $CAP $P/wide.png; cp "$T/out" "$T/alone"
echo "caption $CAP '$P/wide.png' # a comment" >"$T/args"; run "@$T/args"; same "@args" "$T/out" "$T/alone"
run caption "@$T/nothing"; expect "@args that are not there" 2
echo "a picture of" >"$T/prompt"; run caption $CAP -p "@$T/prompt" $P/wide.png
is "-p @FILE" "$(cat "$T/out")" "$(answer blip-caption greedy)"
in=$T/prompt; run caption $CAP -p @- $P/wide.png
is "-p @-" "$(cat "$T/out")" "$(answer blip-caption greedy)"
MM_CAPTION_MODEL=$M/blip-caption run caption $P/wide.png; same "MM_CAPTION_MODEL" "$T/out" "$T/alone"

# --- vqa, classify, embed, preprocess, tokenize, info ----------------------------------------------
run vqa -m $M/blip-vqa -p "what color is the cat?" $P/wide.png; expect "vqa" 0 quiet lines=1
run vqa -m $M/blip-vqa --json -p "what" $P/wide.png; expect "vqa --json" 0 out='"cmd":"vqa"'
run vqa $CAP -p a $P/wide.png; expect "vqa of a captioner" 3 err=caption
run classify $CLIP --labels "cat, dog,bird" $P/wide.png
expect "classify" 0 quiet lines=3 out~'^0\.[0-9]+	(cat|dog|bird)$'
is "scores add up to 1" "$(awk '{s += $1} END {printf "%.3f", s}' "$T/out")" 1.000
is "the best one first" "$(cut -f1 "$T/out" | sort -rn | cmp - <(cut -f1 "$T/out") && echo yes)" yes
printf 'cat\ndog, bird\n\n' >"$T/labels"; run classify $CLIP --labels "@$T/labels" --json $P/wide.png
expect "--labels @F" 0 out='"label":"dog, bird"' out~'"labels":\[\{"label":"[^"]*","score":0'
run classify $CLIP --labels a,b,c,d,e,f,g --top 2 $P/wide.png $P/tall.png
expect "--top, two pictures" 0 lines=4 out~"^$P/wide.png	0"
run classify $CLIP --labels a,b,c,d,e,f,g $P/wide.png; expect "the best five" 0 lines=5
run classify $CLIP --labels cat,dog --labels "@$T/labels" --json $P/wide.png
expect "--labels again" 0 out='"label":"cat"' out='"label":"dog, bird"'
is "all of them" "$(grep -o '"label":' "$T/out" | wc -l)" 4
long=$(yes word | head -200 | tr '\n' ' '); run classify -m $M/blip-itm --labels "a,$long" $P/wide.png
expect "a label that is too long" 2 err~'--labels: word .* has [0-9]+ tokens, the model takes [0-9]+'
printf '{"image":"%s","labels":["a","%s"]}\n' $P/wide.png "$long" >"$T/in"
in=$T/in; run classify -m $M/blip-itm --in jsonl --json
expect "one in a record" 1 out~'"code":"input.text","msg":"label word .* has [0-9]+ tokens'
run classify -m $M/blip-itm --labels "a cat,a dog" --json $P/wide.png; expect "matching" 0 out='"itc":'
printf '{"id":1,"image":"%s","labels":["x","y"],"top":1}\n' $P/wide.png >"$T/in"
in=$T/in; run classify $CLIP --in jsonl --json; expect "labels of a record" 0 out~'"label":"[xy]"'
run embed $CLIP $P/wide.png; expect "embed" 0 quiet lines=1 out~'^-?[0-9.e-]+( -?[0-9.e-]+)+$'
is "length 1" "$(awk '{for (i = 1; i <= NF; i++) s += $i * $i; printf "%.4f", s}' "$T/out")" 1.0000
n=$(wc -w <"$T/out")
run embed $CLIP --json $P/wide.png; expect "embed --json" 0 out="\"dim\":$n" out~'"vector":\[-?[0-9]'
run embed $CLIP --normalize no $P/wide.png
[ "$(awk '{for (i = 1; i <= NF; i++) s += $i * $i; printf "%.4f", s}' "$T/out")" != 1.0000 ] \
    && good || bad "--normalize no"
run embed $CLIP --text "a dog" --text cat --json $P/wide.png
expect "--text comes first, its id is the text" 0 lines=3 out~'"i":0,"id":"a dog"' out~'"i":2,"id":"test'
printf 'a dog\ncat\n' >"$T/in"; in=$T/in; run embed $CLIP --in lines --text -; expect "--text -" 0 lines=2
run embed $BERT "a cat" "a dog"; expect "a sentence encoder takes texts" 0 quiet lines=2
in=$T/in; run embed $BERT; expect "lines of stdin" 0 lines=2
run embed $CLIP --vec f32 $P/wide.png; is "--vec f32" "$(wc -c <"$T/out")" $((4 * n))
cp "$T/out" "$T/raw"; run embed $CLIP --vec b64 $P/wide.png
base64 -d <"$T/out" >"$T/decoded"; same "--vec b64 is the same bytes" "$T/raw" "$T/decoded"
run embed $CLIP -o "$T/v.npy" --ids "$T/ids" $P/wide.png $P/tall.png; expect "-o F.npy" 0 quiet empty
is "npy: 128 bytes and the rows" "$(wc -c <"$T/v.npy")" $((128 + 8 * n))
is "npy: its header" "$(head -c 128 "$T/v.npy" | tail -c +11 | sed 's/ *$//')" \
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, $n), }"
tail -c +129 "$T/v.npy" | head -c $((4 * n)) >"$T/row"; same "npy: the first row" "$T/raw" "$T/row"
is "--ids" "$(cat "$T/ids")" "$P/wide.png
$P/tall.png"
run embed $CLIP --vec npy $P/wide.png $P/tall.png; same "--vec npy on stdout" "$T/out" "$T/v.npy"
run preprocess $CLIP $P/wide.png -o "$T/p.npy"; expect "preprocess" 0 quiet empty
expect_shape=$(head -c 128 "$T/p.npy" | grep -ao "'shape': ([^)]*)")
size=$(grep -o '"image_size": [0-9]*' $M/clip/config.json | head -1 | tr -dc 0-9)
is "preprocess: the shape" "$expect_shape" "'shape': (1, 3, $size, $size)"
run preprocess $CLIP -o "$T/pre/{stem}.npy" $P/wide.png $P/tall.png; expect "preprocess to files" 0
same "the same numbers" "$T/pre/wide.npy" "$T/p.npy"
run tokenize $BERT "the cat"; expect "tokenize" 0 quiet lines=1 out~'^[0-9]+( [0-9]+)+$'
printf 'the cat\n\n' >"$T/in"; cp "$T/out" "$T/alone2"; in=$T/in; run tokenize $BERT
expect "tokenize lines" 0 lines=2; is "an empty text" "$(tail -1 "$T/out" | wc -w)" 2
head -1 "$T/out" >"$T/first"; same "the same ids" "$T/first" "$T/alone2"
run tokenize $BERT --json "the cat"; expect "tokenize --json" 0 out~'"ids":\[[0-9]+(,[0-9]+)+\],"model"'
mkdir "$T/nw"; cp $M/bert-mean/*.json "$T/nw"; run tokenize -m "$T/nw" "the cat"
same "tokenize needs no weights" "$T/out" "$T/alone2"
run info $M/clip; expect "info MODEL" 0 quiet out="CLIPModel" out="runs: embed, classify" out=memory
run info --json $M/blip-vqa; expect "info --json" 0 lines=1 out='"runs":["caption"' out='"missing":0'
run info --tensors $M/clip; expect "info --tensors" 0 out~'^logit_scale	F32	\[\]	'
run info $P/wide.png; expect "info PICTURE" 0 out~'PNG +53 x 37'
run info --cpu; expect "info --cpu" 0 out=kernels out=threads
run info /nowhere; expect "info of nothing" 3

run info $M/blip-caption; expect "info, memory and speed" 0 quiet \
    out~'^  speed    about [0-9.e+]+ tokens/s, [0-9.e-]+ m?s per image on [0-9]+ threads? ' out="private;"
run info --json $M/clip
expect "info --json, speed" 0 out~'"speed_estimate":\{"threads":[0-9]+,"read_bytes_s":[0-9.e+]+,"flop_s":[0-9.e+]+,"image_s":[0-9.e-]+,"text_s":[0-9.e-]+\}\}$'
run info $M/bert-mean; expect "info, no pictures" 0 out~'^  speed    about [0-9.e-]+ m?s per text on'

# --- complete, chat --------------------------------------------------------------------------------
# Two small random models; talk.jsonl has what transformers answers, turn by turn.
V=test/data/templates/legacy Q=test/data/templates/qwen VC="-m $V --template vicuna"
# wanted FILE: lines whose ids, text and tokens.in are those the record asked for
wanted() {
    sed -n 's/.*"text":"\(.*\)","stop".*"in":\([0-9]*\),.*"ids":\(\[[^]]*\]\),"want_in":\(.*\),"want_ids":\(.*\),"want_text":"\(.*\)"}$/\1 \2 \3\n\6 \4 \5/p' "$1" |
        awk 'NR % 2 { one = $0 } NR % 2 == 0 { n += one == $0 } END { print n + 0 }'
}
in=$V/talk.jsonl; run chat $VC --in jsonl --json --exact --max-tokens 16; expect "a conversation" 0 lines=3 quiet
is "as transformers answers" "$(wanted "$T/out")" 3; cp "$T/out" "$T/batch"
in=$Q/talk.jsonl; run chat -m $Q --in jsonl --json --exact --max-tokens 16; expect "ChatML" 0 lines=3
is "as transformers answers in ChatML" "$(wanted "$T/out")" 3
L=test/data/templates/llava
in=$L/talk.jsonl; run chat -m $L --in jsonl --json --exact --max-tokens 16; expect "a picture" 0 lines=2 quiet
is "as transformers answers about it" "$(sed 's/"image":"[^"]*",//' "$T/out" >"$T/seen"; wanted "$T/seen")" 2
run chat -m $L -p "What is this?" --image $P/wide.png --max-tokens 9; cp "$T/out" "$T/wide"
run chat -m $L -p "What is this?" --image $P/tall.png --max-tokens 9; expect "another picture" 0
cmp -s "$T/out" "$T/wide" && bad "the picture does not matter" || good
run chat -m $L -p "What is this?" --image /nowhere.png; expect "--image /nowhere" 5 err=/nowhere
tac $V/talk.jsonl >"$T/turned"; in=$T/turned; run chat $VC --in jsonl --json --exact --max-tokens 16
is "the order of a batch" "$(sed 's/"i":[0-9],\|"id":"#[0-9]",\|"seed":[0-9]*,//g' "$T/out" | tac | cksum)" \
    "$(sed 's/"i":[0-9],\|"id":"#[0-9]",\|"seed":[0-9]*,//g' "$T/batch" | cksum)"
for t in 1 3; do
    in=$V/talk.jsonl; run chat $VC --in jsonl --json --exact --max-tokens 16 -t $t; same "chat -t $t" "$T/out" "$T/batch"
done
run chat $VC -p "Hello!" --max-tokens 8; expect "chat -p" 0 lines=1 quiet; cp "$T/out" "$T/one"
printf 'Hello!\n' >"$T/msg"; in=$T/msg; run chat $VC --max-tokens 8; same "stdin is the message" "$T/out" "$T/one"
run chat $VC -p "@$T/msg" --max-tokens 8; same "-p @FILE" "$T/out" "$T/one"
run chat $VC -p "Hello!" --max-tokens 8 -o "$T/o.txt"; same "chat -o" "$T/o.txt" "$T/one"
run chat $VC -p "Hello!" --system "You are a helpful chatbot." --show-prompt
expect "--show-prompt" 0 lines=2 out="<s>You are a helpful chatbot. USER: Hello! ASSISTANT:" out~'^1 [0-9 ]+$'
run chat $VC -p "</s>" --show-prompt; expect "special tokens of a user" 0
is "are text" "$(tail -1 "$T/out" | tr ' ' '\n' | grep -cx 2)" 0
run chat $VC -p "</s>" --show-prompt --raw
is "--raw: they are not" "$(tail -1 "$T/out" | tr ' ' '\n' | grep -cx 2)" 1
echo '{"text":"a\u0000b"}' >"$T/zero.jsonl"
run chat -m $V --template plain --max-tokens 3 -p ""; expect "an empty question: BOS alone" 0 quiet
printf '\nhi\n' >"$T/two"
in=$T/two; run chat -m $V --template plain --max-tokens 3 --in lines --json
expect "an empty line" 0 lines=2 out='"tokens":{"in":1,'
run chat -m $L -p hi $P/wide.png; expect "a picture that is no operand" 2 err="--image $P/wide.png"
run complete -m $V $P/wide.png; expect "to complete a picture" 5 err="is a picture, not text"
run complete -m $V --ctx 100000 --max-tokens 2 -p hi; expect "--ctx beyond the model's" 0 err="was trained for"
run complete -m $V --ctx 2 -p "hello my friend"; expect "the prompt is too long" 2 err="--ctx N makes"
run convert $V/model.safetensors "$T/made"; expect "safetensors are there already" 2 err="-m takes it"
run quantize $V /nowhere/out; expect "the name that was given" 7 err-.tmp err="/nowhere/out: cannot"
run info --json $V; expect "info --json" 0 out~'"cmd":"info","i":0,"id":"[^"]*","ok":true'
run info --json --cpu; expect "info --json --cpu" 0 out~'"i":0,"id":"--cpu","ok":true'
in=$T/zero.jsonl; run chat $VC --in jsonl --json --show-prompt; expect "a zero byte, chat" 0 out='USER: a\u0000b ASS'
in=$T/zero.jsonl; run complete -m $V --in jsonl --json --show-prompt; expect "a zero byte" 0 out='<s>a\u0000b"'
run chat -m $V -p hi; expect "an unknown template" 3 err="--template NAME" err=vicuna empty
run chat -m $V -p hi --template vicunia; expect "--template vicunia" 3 err="vicunia" err=vicuna-v0
run chat -m $V -p hi --template plain --system x; expect "no place for --system" 2 err=--system
run chat -m $V -p hi --template llava-v1 --image $P/wide.png; expect "a model without eyes" 5 err="sees no pictures"
run chat -m $V -p hi --template vicuna --image $P/wide.png; expect "a template without" 2 err=--image
run chat -m $V --template chatml -p hi; expect "a template of other tokens" 3 err="needs a token <|im_"
run chat $VC file.txt; expect "chat takes no files" 2 err="-p @FILE"
run chat $CLIP -p hi; expect "chat with CLIP" 3 err="embed"
run chat -p hi; expect "chat without a model" 3 err="hf download"
cat >"$T/bad.jsonl" <<'END'
{"messages":[{"role":"bot","content":"a"}]}
{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"}]}
{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}
{"messages":[{"role":"user"}]}
{"messages":[]}
{"messages":"hi"}
{"x":1}
{"prompt":"a","temp":-1}
{"prompt":"a","stop":[1]}
{"prompt":"a","beams":3}
{"prompt":"a","max_tokens":0,"id":7}
END
in=$T/bad.jsonl; run chat $VC --in jsonl --json; expect "bad conversations" 1 lines=11 \
    out="messages[0].role is bot" out="messages[1].role is user" out="ends with assistant" \
    out="messages[0].content" out="a list of messages" out="no key messages" out="key temp" out="key stop" \
    out="asks for 3 beams" out='"id":7,"ok":true,"text":"","stop":"length"'
is "ten of eleven" "$(grep -c '"ok":false' "$T/out")" 10
run chat $VC -p "$(yes word | head -400)"; expect "a prompt that does not fit" 2 err~"prompt has [0-9]+ tokens, the context 384"
run chat $VC -p hi --ctx 50 --json; expect "the context is full" 0 out='"stop":"context"'
run complete -m $V -p "Hello" --max-tokens 5 --json; expect "complete" 0 out='"out":5' out='"in":'
run complete -m $V -p "" --max-tokens 3 --json; expect "an empty prompt: BOS" 0 out='"in":1,'
run complete -m $V -p "a</s>b" --show-prompt; expect "special tokens of a prompt" 0 out~"^1 309 2 308 286$"
run complete -m $Q -p "a<|im_end|>b" --show-prompt; expect "ChatML's, too" 0 out~"^64 422 65$"
run complete -m $Q -p "" --max-tokens 3; expect "an empty prompt without BOS" 2 err="empty prompt"
printf 'Hello' >"$T/a.txt"; printf 'Hello\n' >"$T/b.txt"
run complete -m $V --max-tokens 5 --no-filename "$T/a.txt" "$T/b.txt"; expect "files" 0 lines=2
is "the last newline does not count" "$(sort -u "$T/out" | wc -l)" 1
run complete -m $V --max-tokens 5 /nowhere; expect "a file that is not there" 5 err=/nowhere
run complete -m $V -p x --temp 0.9 -s 5 --max-tokens 20; cp "$T/out" "$T/drawn"
run complete -m $V -p x --temp 0.9 -s 5 --max-tokens 20; same "a seed" "$T/out" "$T/drawn"
run complete -m $V -p x --temp 0.9 -s 6 --max-tokens 20; cmp -s "$T/out" "$T/drawn" && bad "another seed" || good
run complete -m $V -p x --temp 1e3; expect "--temp 1e3" 2 err=--temp
run complete -m $V -p x --top-p nan; expect "--top-p nan" 2 err=--top-p
run complete -m $V -p Hello --max-tokens 16; w=$(cut -c12-14 "$T/out")
run complete -m $V -p Hello --max-tokens 16 --json; t=$(sed 's/.*"text":"\([^"\\]*\).*/\1/' "$T/out"); w=$(printf %.3s "$t")
[ -n "$w" ] && { run complete -m $V -p Hello --max-tokens 16 --json --stop "$w"; expect "--stop" 0 out='"text":""' out='"stop":"stop"'; }
run complete -m $V -p Hello --max-tokens 9 --json --beams 3 --logprobs 2; expect "beams" 0 out='"logprobs":[{"id"'

run info $V; expect "info of a language model" 0 quiet out="runs: chat, complete" out~"private at ctx 384 \([0-9.]+ kB a token\)" \
    out~'^  speed    about [0-9.e+]+ tokens/s, prompts [0-9.e+]+ tokens/s on'
run info $L; expect "info of LLaVA" 0 quiet out="runs: caption, chat" out="-> 4 tokens" out~"tokens/s, [0-9.e-]+ m?s per image"
run caption -m $L $P/wide.png $P/tall.png; expect "caption with LLaVA" 0 quiet lines=2
run caption -m $L -p "What is this?" $P/wide.png; expect "a question to LLaVA" 0 quiet
run chat -m $L -p "What is this?" --image $P/wide.png --json; t=$(sed 's/.*"ids":\[\([0-9,]*\)\].*/\1/' "$T/out")
run caption -m $L -p "What is this?" $P/wide.png --json; expect "the same as in chat" 0 out="\"ids\":[$t]"

# --- Inputs ----------------------------------------------------------------------------------------
D=$T/d; mkdir -p $D/a $D/a-b; cp $P/tall.png $D/z.png; cp $P/wide.png $D/a/x.png
cp $P/wide.png $D/a-b/y.jpg; echo text >$D/readme.txt; ln -s .. $D/a/loop; mkfifo $D/fifo
run caption $CAP -r $D; expect "-r" 0 quiet lines=3
is "-r: in the order of bytes" "$(cut -f1 "$T/out")" "$D/a-b/y.jpg
$D/a/x.png
$D/z.png"
run caption $CAP $D; expect "a directory without -r" 5 err="is a directory" err=-r
printf '%s\n' $P/wide.png $P/tall.png >"$T/list"; run caption $CAP $P/wide.png $P/tall.png
cp "$T/out" "$T/two"
in=$T/list; run caption $CAP --in lines -; same "--in lines" "$T/out" "$T/two"
in=$T/list; run caption $CAP --in lines; same "--in lines without -" "$T/out" "$T/two"
run caption $CAP --files-from "$T/list"; same "--files-from" "$T/out" "$T/two"
tr '\n' '\0' <"$T/list" >"$T/list0"; in=$T/list0
run caption $CAP --files0-from -; same "--files0-from -" "$T/out" "$T/two"
in=$T/list; run caption $CAP --in lines --files-from "$T/list" -
expect "a list, and lines on stdin" 0 lines=4
run caption $CAP --files-from "$T/list" --skip 1; is "--skip" "$(cat "$T/out")" "$(tail -1 "$T/two")"
run caption $CAP --files-from "$T/list" --limit 1; is "--limit" "$(cat "$T/out")" "$(head -1 "$T/two")"
printf 'k1\t%s\tthe dog\nk2\t%s\n' $P/wide.png $P/tall.png >"$T/in"; in=$T/in
run caption $CAP --in tsv --tsv -; expect "--in tsv --tsv" 0 lines=2 out~'^k1	the dog' out~'^k2	'
{   printf '{"id":7,"image":"%s","x":[1, 2]}\n' $P/wide.png
    printf '{"id":"a","image":"%s","prompt":"the dog","max_tokens":2,"seed":5}\n\n' $P/wide.png
    printf '{"image_b64":"%s"}\n' "$(base64 -w0 $P/wide.png)"
    printf '{"v":1,"cmd":"caption","i":0,"id":"%s","ok":true,"text":"old"}\n' $P/wide.png
    printf 'nonsense\n{"image":"a","image":"b"}\n{"id":[1]}\n{"image_b64":"AA="}\n[]\n'
    printf '{"image":"a\\u0000b"}\n{"id":"s","image":"%s","seed":-1}' $P/wide.png
} >"$T/in"
in=$T/in; run caption $CAP --in jsonl --json -
expect "--in jsonl" 1 lines=11 out~'"i":0,"id":7,"ok":true.*,"x":\[1, 2\]\}$' \
    out~'"id":"a","ok":true,"text":"the dog.*"seed":5.*"out":2' out~'"i":2,"id":"#2","ok":true' \
    out~'"i":4,"id":"#4","ok":false,"error":\{"code":"input.json"' out~'"id":\[1\],"ok":false' \
    out~'"i":10,"id":"s","ok":false' out-'"old"' out-'"image_b64"' err="7 of 11"
is "one object a line" "$(grep -vc '^{.*}$' "$T/out")" 0
if command -v jq >/dev/null; then
    jq -e . "$T/out" >/dev/null && good || bad "records are JSON"
else skip "jq is missing: records are not parsed"; fi
printf 'P3 2 2 255\n255 0 0 0 255 0\n0 0 255 9 9 9\n' >"$T/a.ppm"
printf 'P5 3 1 255\nabc' >"$T/b.pgm"; cat "$T/a.ppm" "$T/b.pgm" "$T/a.ppm" >"$T/in"; in=$T/in
run caption $CAP --in pnm --json -; expect "--in pnm" 0 lines=3 out='"id":"-#2"'
{ cat "$T/a.ppm"; printf 'P5 30 30 255\nabc'; } >"$T/in"; in=$T/in
run caption $CAP --in pnm --json -; expect "a torn stream" 1 lines=2 out='"code":"image.truncated"'
printf 'a\0b\n' >"$T/in"; in=$T/in; run caption $CAP --in lines --json -
expect "NUL in a path" 1 out='"code":"input.text"'
run caption $CAP --in lines --files-from "$T/list"; same "--in lines of a file" "$T/out" "$T/two"
printf '{"id":"a","image":"%s","max-tokens":2}\n\n[1,{"x":2}]\n7\n{"id":"b","image":3}\n{"id":"c"}\n' \
    $P/wide.png >"$T/in.jsonl"
run caption $CAP --in jsonl --json --files-from "$T/in.jsonl"
expect "--in jsonl of a file" 1 lines=5 out~'"id":"a","ok":true.*"out":2\}.*\]\}$' out-'"":' out-max-tokens \
    out~'"id":"#1","ok":false,.*line 3 of .*in.jsonl: expected an object' out~'"id":"b","ok":false' \
    out~'"id":"c",.*no key image or image_b64"'
printf '{"image":"%s"}\0{"image":"%s"}\0' $P/wide.png $P/tall.png >"$T/in"
run caption $CAP --in jsonl --files0-from "$T/in"; same "--in jsonl, ended by NUL" "$T/out" "$T/two"
printf 'k1\t%s\n' $P/wide.png >"$T/in"; run caption $CAP --in tsv --files-from "$T/in"
expect "--in tsv of a file" 0 lines=1 out~'^k1	'
run caption $CAP --in pnm --files-from "$T/a.ppm"; expect "--in pnm of a file" 0 lines=1 out~'^-#0	'
run caption $CAP --in pnm --files0-from "$T/a.ppm"; expect "--in pnm, ended by NUL" 2
in=$T/a.ppm; run caption $CAP --in pnm --files-from "$T/a.ppm" -; expect "two streams" 0 lines=2
printf 'a cat\n' >"$T/in"; run embed $BERT --in lines --files-from "$T/in"; expect "texts of a file" 0 lines=1
run embed $BERT --files-from "$T/in"; expect "a file of texts" 2 err="--in lines --files-from"
run embed $BERT $P/wide.png; expect "a picture for a model of texts" 2 err="is a picture"
run embed $BERT --text $P/wide.png; expect "but as a text" 0 lines=1
printf '%s\n\n' $P/wide.png >"$T/in"; run caption $CAP --files-from "$T/in"
expect "a blank line in a list" 1 err="line 2 of $T/in: an empty path"
run caption $CAP -; expect "nothing on stdin" 5 err="nothing came on stdin"
mkdir "$T/webp"; printf 'RIFF\044\0\0\0WEBPVP8 ' >"$T/webp/a.webp"; cp $D/readme.txt "$T/webp"
run caption $CAP --json -r "$T/webp"
expect "-r: kinds that mm does not read are not passed over" 1 lines=1 out=WebP out~'hint":"[^"]*magick'
printf '%s\r\n' $P/wide.png >"$T/in"; in=$T/in; run caption $CAP --in lines -
expect "a line of Windows" 1 err='\r'
in=$T/list; run caption $CAP -; expect "a list where a picture should be" 5 err="--in lines"

# A record is written before the next line is read.
mkfifo "$T/pipe"; "$MM" caption $CAP --in lines --json - <"$T/pipe" >"$T/out" 2>"$T/err" &
exec 9>"$T/pipe"; echo $P/wide.png >&9
for i in $(seq 100); do [ -s "$T/out" ] && break; sleep 0.1; done
is "interactive on a pipe" "$(wc -l <"$T/out")" 1
exec 9>&-; wait $!; code=$?; is "the pipe is closed" $code 0

# --- Errors ----------------------------------------------------------------------------------------
run caption $CAP "$T/nope.png"; expect "the only operand is missing" 5 err=nope.png empty
: >"$T/empty.jpg"; echo text >"$T/text.jpg"; head -c 200 $P/wide.png >"$T/torn.png"
run caption $CAP "$T/empty.jpg"; expect "an empty file" 5 err=empty
run caption $CAP --json "$T/nope.png" "$T/empty.jpg" "$T/text.jpg" "$T/torn.png" $D $P/wide.png
expect "error records" 1 lines=6 out='"code":"image.empty"' out='"code":"image.format"' \
    out='"code":"image.truncated"' out~'"i":0,[^}]*"code":"image.missing"' out~'"i":5.*"ok":true' \
    err="5 of 6"
run caption $CAP "$T/nope.png" $P/wide.png
expect "text mode: errors on stderr" 1 lines=1 err="mm: caption: $T/nope.png: "
run caption $CAP --exit0 "$T/nope.png" $P/wide.png; expect "--exit0" 0 lines=1
run caption $CAP --errors skip --json "$T/nope.png" $P/wide.png
expect "--errors skip" 1 lines=1 out-'"ok":false' err=nope.png
run caption $CAP --errors fail --json "$T/nope.png" $P/wide.png
expect "--errors fail" 1 lines=1 out='"ok":false'
run caption $CAP --max-pixels 100 $P/wide.png; expect "--max-pixels" 5 err=pixels
printf 'x' >"$T/$(printf 'a\377\033.png')"; run caption $CAP --json "$T"/a*.png
expect "a path that is not UTF-8" 5 out='"path_b64":"' out='\u001b'
is "path_b64" "$(sed 's/.*"path_b64":"\([^"]*\)".*/\1/' "$T/out" | base64 -d)" "$(echo "$T"/a?*.png)"
run caption $CAP "$T/$(printf 'b\033[31m')"; expect "escapes in messages" 5 err='\x1b'
grep -q "$(printf '\033')" "$T/err" && bad "an escape sequence on stderr" || good
run caption $CAP $P/wide.png -o /dev/full; expect "a full disk" 7 err="No space"
"$MM" caption $CAP $P/wide.png >/dev/full 2>"$T/err"; code=$?; expect "stdout is full" 7
run caption $CAP $P/wide.png -o "$T/no/dir"; expect "no folder" 7
"$MM" caption $CAP $P/wide.png $P/wide.png $P/wide.png 2>"$T/err" | true
is "EPIPE is silent" "$(cat "$T/err")" ""

# --- Outputs ---------------------------------------------------------------------------------------
run caption $CAP $P/wide.png -o "$T/one.txt"; expect "-o F" 0 empty quiet
same "-o F holds the text" "$T/one.txt" "$T/alone"
rm -f "$T/x.txt"; run caption $CAP "$T/nope.png" -o "$T/x.txt"; expect "-o F, and the item fails" 5
[ -e "$T/x.txt" ] && bad "-o F is made although nothing was done" || good
run caption $CAP -o "$T/o/{i:03}-{stem}.txt" $P/wide.png $P/tall.png; expect "-o template" 0 empty
same "a file per item" "$T/o/000-wide.txt" "$T/alone"
run caption $CAP -o "$T/o/{stem}.txt" $P/wide.png $D/../d/a/x.png $P/./wide.png
expect "two items, one file" 1 err="{i}"
run caption $CAP --sidecar .txt -r $D; expect "--sidecar" 0 empty quiet
[ -s $D/z.png.txt ] && [ -s $D/a-b/y.jpg.txt ] && good || bad "--sidecar makes a.jpg.txt"
echo mine >$D/z.png.txt; run caption $CAP --sidecar .txt -r $D
is "a sidecar that is there stays" "$(cat $D/z.png.txt)" mine
run caption $CAP --sidecar .txt --if-exists fail -r $D; expect "--if-exists fail" 1 err=exists
run caption $CAP --sidecar .txt --if-exists overwrite -r $D
[ "$(cat $D/z.png.txt)" != mine ] && good || bad "--if-exists overwrite"
mkdir "$T/side"; cp $P/wide.png "$T/side/a.png"
# No result over an input, and what is there stays where each item has its file.
mkdir -p "$T/keep"; K=$T/keep; cp $P/wide.png $K/a.png; cp $P/tall.png $K/b.png; cp $P/wide.png $K/c.ref
run caption $CAP -o $K/a.png $K/a.png; expect "-o over its input" 2 empty err="not written over"
ln $K/a.png $K/link; run caption $CAP -o $K/link $K/a.png; expect "-o over its input by another name" 2
run caption $CAP -o "$K/{name}" --if-exists overwrite $K/a.png; expect "-o template over its input" 2
run caption $CAP -o $K/b.png -r $K; expect "-o over a picture of -r" 2 err="not written over"
run embed $CLIP -o $K/v.npy --ids $K/v.npy $K/a.png; expect "two results, one name" 2 err="both write"
echo one >$K/1.txt; ln $K/1.txt $K/1.out
run complete -m $V --max-tokens 1 -o "$K/{stem}.out" --if-exists overwrite $K/1.txt; expect "-o template over a text by another name" 2 err="not written over"
is "and it stays" "$(cat $K/1.txt)" one
echo $K/a.png >$K/list; run caption $CAP -o $K/list --files-from $K/list; expect "-o over the list" 2
run caption $CAP -o "" $K/a.png; expect "-o of nothing" 2 err="empty name"
same "pictures stay" $K/a.png $K/c.ref; same "pictures stay" $K/b.png $P/tall.png; rm $K/link $K/list
run caption $CAP -o "$K/{stem}.txt" $K/a.png $K/b.png; expect "a file per item" 0 empty quiet
echo mine >$K/a.txt; run caption $CAP -o "$K/{stem}.txt" $K/a.png $K/b.png
expect "files of -o that are there" 0 err="2 of 2 skipped"
is "they stay" "$(cat $K/a.txt)" mine
run caption $CAP -o $K/a.txt --if-exists skip $K/a.png; expect "-o F --if-exists skip" 0 err="1 of 1 skipped"
run caption $CAP -o $K/a.txt --if-exists fail $K/a.png; expect "-o F --if-exists fail" 7 err=exists
is "it stays" "$(cat $K/a.txt)" mine
run caption $CAP -o $K/a.txt $K/a.png; expect "-o F" 0 quiet
[ "$(cat $K/a.txt)" != mine ] && good || bad "-o F is written anew"
mkdir "$T/none"; run caption $CAP -r "$T/none"; expect "-r of an empty folder" 0 err="no pictures in $T/none"
run embed $CLIP --sidecar .npy "$T/side/a.png"; run embed $CLIP -o "$T/x.npy" "$T/side/a.png"
same "--sidecar .npy is an .npy" "$T/side/a.png.npy" "$T/x.npy"
run caption $CAP -o "$T/x.json" "$T/side/a.png"; run caption $CAP --json "$T/side/a.png"
same "-o x.json is --json" "$T/x.json" "$T/out"
run caption $CAP --sidecar .json "$T/side/a.png"; same "--sidecar .json" "$T/side/a.png.json" "$T/x.json"
run caption $CAP -o "$T/x.tsv" "$T/side/a.png"; run caption $CAP --tsv "$T/side/a.png"
same "-o x.tsv is --tsv" "$T/x.tsv" "$T/out"
run caption $CAP --sidecar .npy "$T/side/a.png"; expect "--sidecar .npy of words" 2 err="the result is text"
run preprocess $CLIP -o "$T/x.json" "$T/side/a.png"; expect "preprocess -o x.json" 2 err="writes .npy"
run caption $CAP -o "$T/{i:05.txt" "$T/side/a.png"; expect "a brace is missing" 2 err="without its }"
for f in "$T/pipe" "$T/side" -; do
    run caption $CAP --resume "$f" $P/wide.png; expect "--resume $f" 2 err="no regular file" empty
done
# Who may write everywhere (root) is stopped by a folder that cannot be made.
: >"$T/file"; run caption $CAP -o "$T/file/{stem}.txt" $P/wide.png $P/tall.png
expect "no place for a file per item" 7 err="cannot be written: Not a directory"
if command -v unshare >/dev/null && unshare -rm true 2>/dev/null; then
    unshare -rm sh -c "mount -t tmpfs -o size=8k none $T/side && cp $P/tall.png $T/side &&
        cp $P/wide.png $T/side && head -c 8192 /dev/zero >$T/side/full;
        exec $MM caption $CAP --sidecar .txt $T/side/*.png" >"$T/out" 2>"$T/err"; code=$?
    expect "a full disk, beside pictures" 7 err="cannot be written: No space left"
else skip "no unshare here: a full disk beside pictures"; fi
R=$T/r.jsonl; run caption $CAP --resume $R $P/wide.png "$T/later.png"; expect "--resume" 1 empty
run caption $CAP --resume $R $P/wide.png "$T/later.png" $P/tall.png
expect "--resume again" 1 err=--retry-errors; is "only what is new" "$(wc -l <$R)" 3
printf '{"v":1,"cmd":"capt' >>$R; cp $P/wide.png "$T/later.png"
run caption $CAP --resume $R --retry-errors $P/wide.png "$T/later.png" $P/tall.png
expect "--retry-errors" 0 quiet
is "each once, the torn line gone" "$(grep -c '"ok":true' $R) $(wc -l <$R)" "3 3"
run embed $CLIP --resume $R $P/wide.png; expect "another command's file" 2 err=caption
run caption -m $M/blip-caption-f16 --resume $R $P/wide.png
expect "another model's file" 2 err="of the model $M/blip-caption, this run's is $M/blip-caption-f16"
cp "$T/text.jpg" "$T/text.copy"; run caption $CAP --resume "$T/text.jpg" $P/wide.png
expect "no file of records" 2; same "and it was not touched" "$T/text.jpg" "$T/text.copy"

# --- The same bytes --------------------------------------------------------------------------------
for c in "caption $CAP --beams 2" "embed $CLIP" "classify $CLIP --labels a,b"; do
    run $c --json -t 1 $P/wide.png $P/tall.png; cp "$T/out" "$T/t1"
    for t in 2 7; do run $c --json -t $t $P/wide.png $P/tall.png; same "$c -t $t" "$T/out" "$T/t1"; done
    run $c --json -t 1 $P/tall.png
    is "$c: alone as in a batch" "$(sed 's/"i":0/"i":1/; s/"seed":[0-9]*//' "$T/out")" \
        "$(tail -1 "$T/t1" | sed 's/"seed":[0-9]*//')"
done

# --- bench -----------------------------------------------------------------------------------------
run bench nothing; expect "no such kernel" 2 empty err="attention" err=relu
run bench --seconds 0 relu; expect "--seconds 0" 2 err="1 to"
run bench --isa sse9 relu; expect "bench --isa sse9" 2 err=ref
run bench -m blip; expect "bench has no model" 2 err="belongs to"
run bench --seconds 1 -t 2 --json relu cvt
expect "bench --json" 0 quiet \
    out~'^\{"v":1,"cmd":"bench","i":0,"ok":true,"limit":"fma","threads":1,"rate":[0-9.e+]+,"unit":"GFLOP/s"\}$' \
    out~'"limit":"memory","threads":1,"rate"' out~'"limit":"fma","threads":2,"rate"' \
    out~'"kernel":"relu","type":"F32","shape":"(4096|16)x1280","isa":"[a-z0-9]+","threads":2,"ms":[0-9.e+-]+,"rate":[0-9.e+]+,"unit":"GB/s","limit":"memory","percent":[0-9.]+,"spread":[0-9.]+,"timings":[0-9]+\}$' \
    out='"kernel":"cvt","type":"BF16"' out='"shape":"16x1280","isa":"ref"' out-gemm
is "one object a line" "$(grep -vc '^{.*}$' "$T/out")" 0
is "bench: rate x ms is what relu over 16 rows reads and writes" \
    "$(sed -n 's/.*"relu".*"16x1280".*"ms":\([^,]*\),"rate":\([^,]*\),.*/\1 \2/p' "$T/out" |
       awk '{ x = $1 * $2 * 1e6 / (2 * 4 * 16 * 1280); print (x > 0.99 && x < 1.01) }')" 1
if command -v jq >/dev/null; then
    is "bench: every limit and rate is above zero" "$(jq -r 'select(.rate <= 0)' "$T/out" | wc -l)" 0
else skip "jq is missing: records of bench are not parsed"; fi
run bench --seconds 1 -t 1 --isa ref softmax
expect "bench, a table" 0 quiet out~'^limits with 1 thread:  fma [0-9.]+ GFLOP/s .*memory [0-9.]+ GB/s$' \
    out~'^softmax +F32 +16x1280 +ref +1 .* % memory' out-4096x1280

# --- Signals, and many pictures --------------------------------------------------------------------
N=${MM_MANY:-2000}; mkdir "$T/many"; w=$(realpath $P/wide.png)
seq -f "$T/many/%.0f.png" $N | while read -r f; do echo "$f"; done >"$T/list"
seq $N | (cd "$T/many" && while read -r i; do ln -s "$w" "$i.png"; done)
printf '%s\n' "$T/torn.png" "$T/text.jpg" "$T/empty.jpg" "$D" >>"$T/list"
FAST="caption $CAP --max-tokens 1 -t 1"
for i in $(seq 50); do cat "$T/list"; done >"$T/long"      # not over before the signal comes
for s in TERM:143 INT:130; do
    # set -m: a background job of a script ignores SIGINT otherwise
    set -m; "$MM" $FAST --json --files-from "$T/long" -o "$T/sig" >"$T/out" 2>"$T/err" & p=$!; set +m
    for i in $(seq 100); do cat "$T"/sig.*.tmp 2>/dev/null | grep -q . && break; sleep 0.05; done
    kill -${s%:*} $p; wait $p 2>/dev/null; code=$?
    expect "SIG${s%:*}" ${s#*:}
    is "no temporary file stays" "$(ls "$T" | grep -c '\.tmp$')" 0
    is "whole records" "$(grep -vc '^{.*}$' "$T/sig")" 0
done
if command -v script >/dev/null; then
    tty() { script -qec "$1" /dev/null </dev/null >"$T/out" 2>&1; code=$?; }
    export COLUMNS=30 TERM=xterm; tty "timeout -s INT 1 $MM $FAST --progress auto -o $T/sig $P/wide.png --files-from $T/list"
    is "progress fits the terminal" "$(tr '\r' '\n' <"$T/out" | grep captioning | sed 's/^.\[K//' | awk 'length($0) > 29')" ""
    : >"$T/fed"; seq 30000 | sed "s|.*|$w|" >"$T/fed"
    tty "timeout -s INT 1 $MM $FAST --files-from $T/fed -o $T/sig"
    expect "Ctrl-C says how far it was" 124 out~'caption: [0-9]+ of 30000 done; with --resume FILE'
    export TERM=dumb; tty "$MM $FAST --files-from $T/list --limit 300 -o $T/sig"
    grep -q "$(printf '\033')" "$T/out" && bad "escapes on a dumb terminal" || good
    unset COLUMNS TERM
else skip "no script(1): progress on a terminal"; fi
# The highest resident size that a run was seen at, in kB.
watched() {
    "$MM" "$@" >"$T/out" 2>"$T/err" & p=$!; peak=0
    while rss=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\).*/\1/p' /proc/$p/status 2>/dev/null); do
        [ -n "$rss" ] && peak=$rss; sleep 0.05
    done; wait $p; code=$?
}
R=$T/many.jsonl
for kill_after in 0.2 0.3 0.4; do
    "$MM" $FAST --resume $R --files-from "$T/list" 2>/dev/null & p=$!
    sleep $kill_after; kill -9 $p 2>/dev/null; wait $p 2>/dev/null
done
watched $FAST --resume $R --files-from "$T/list"; expect "resumed after kill -9" 1
is "no record lost, none doubled" "$(sed 's/.*"id":"\([^"]*\)".*/\1/' $R | sort -u | wc -l) $(wc -l <$R)" \
    "$((N + 4)) $((N + 4))"
is "four of them failed" "$(grep -c '"ok":false' $R)" 4
if [ -r /proc/self/status ]; then
    "$MM" $FAST -v --files-from "$T/list" >"$T/out" 2>"$T/err"; few=$(grep -o '[^,]*keep.*' "$T/err")
    "$MM" $FAST -v --limit $((10 * N)) --files-from "$T/long" >"$T/out" 2>"$T/err"; code=$?
    expect "many pictures" 1
    is "memory does not grow" "$(grep -o '[^,]*keep.*' "$T/err")" "$few"
else skip "no /proc: memory of many pictures is not watched"; fi

# --- Where models are ------------------------------------------------------------------------------
run vqa -p "how many?" $P/wide.png; expect "no model" 3 err="hf download Salesforce/blip-vqa-base"
run caption -m blip $P/wide.png; expect "an alias that is not there" 3 err="hf download"
run caption -m org/name@v1 $P/wide.png; expect "an id that is not there" 3 err="--revision v1"
run caption -m nothing $P/wide.png; expect "no alias" 3 err=aliases
run caption -m ./nothing $P/wide.png; expect "no directory" 3
run caption -m 'org/../../x' $P/wide.png; expect "no id" 3
H=$T/hub/models--org--name; C=0123456789abcdef0123456789abcdef01234567
mkdir -p $H/blobs $H/snapshots/$C $H/refs; printf $C >$H/refs/main
for f in $M/blip-caption/*.json $M/blip-caption/*.txt $M/blip-caption/*.safetensors; do
    b=$(basename $f); cp $f $H/blobs/$b; ln -s ../../blobs/$b $H/snapshots/$C/$b
done
HF_HUB_CACHE=$T/hub run caption -m org/name --json $P/wide.png
expect "the cache" 0 quiet out='"model":"org/name@0123456"'
HF_HUB_CACHE=$T/hub run caption -m org/name@$C $P/wide.png; same "by commit" "$T/out" "$T/alone"
HF_HUB_CACHE=$T/hub run caption -m org/name@v9 $P/wide.png; expect "an unknown revision" 3
HF_HOME=$T/hf; mkdir -p $HF_HOME; ln -s ../hub $HF_HOME/hub
HF_HOME=$HF_HOME run caption -m org/name $P/wide.png; same "HF_HOME" "$T/out" "$T/alone"
mkdir -p "$HOME/.cache/huggingface"; ln -s "$T/hub" "$HOME/.cache/huggingface/hub"; unset HF_HOME
run caption -m org/name $P/wide.png; same "~/.cache" "$T/out" "$T/alone"
mkdir -p "$T/half/broken"; echo '{}' >"$T/half/broken/config.json"
MM_MODELS=$T/half run ls; expect "ls of half a model" 0 out~'broken .*no weights there'
MM_MODELS=/nowhere:$PWD/$M run ls; expect "ls of folders" 0 quiet out~"kB +blip-caption +$PWD/$M/blip-caption\$" \
    out~"kB +org/name +$HOME/.cache/"
MM_MODELS=/nowhere:$PWD/$M run caption -m blip-caption $P/wide.png; same "MM_MODELS" "$T/out" "$T/alone"
run caption -m $M/blip-caption/model.safetensors $P/wide.png; same "a file" "$T/out" "$T/alone"
run caption $CLIP $P/wide.png; expect "another family" 3 err="serves: embed, classify"
run embed -m $M/blip-vqa $P/wide.png; expect "another family" 3 err=caption
run caption -m $M/blip-itm $P/wide.png; expect "another kind" 3 err=classify
run preprocess $BERT $P/wide.png -o "$T/x.npy"; expect "no pictures in it" 3 err=embed

# --- Models in the program -------------------------------------------------------------------------
# The stripped program: under 1 MB without the models in it, under 6 MB with them.
bytes=$(run ls --json; sed -n 's/.*"id":"builtin:.*"bytes":\([0-9]*\).*/\1/p' "$T/out" | paste -sd+)
if grep -q __asan_init "$MM"; then skip "built with a sanitizer: its size says nothing"
elif strip -o "$T/stripped" "$MM" 2>/dev/null; then
    size=$(stat -c %s "$T/stripped") models=0
    if [ -n "$bytes" ]; then                    # all that builtin.c takes in, not only weights
        models=$(cd models && cat $(grep -o '"tiny-[^"]*"' ../builtin.c | tr -d '"') | wc -c)
    fi
    [ $((size - models)) -lt 1000000 ] && [ $size -lt 6000000 ] && good ||
        bad "the program has $size bytes, $models of them are models"
else skip "no strip here that reads this program: its size"; fi
S=models/demo
if [ -n "$bytes" ]; then
    run ls; expect "ls" 0 quiet out~'MB +builtin:caption ' out~'MB +builtin:clip '
    run ls --json; expect "ls --json" 0 out~'"id":"builtin:clip","ok":true,"bytes":[0-9]+,"dir":null\}$'
    run ls x; expect "ls takes nothing" 2
    run caption --json $S/one.png $S/two.png
    expect "caption without a model" 0 quiet lines=2 out='"text":"a castle in a meadow"' \
        out='"text":"a penguin to the left of an umbrella in the snow"' \
        out~'"confidence":(1|0\.[0-9]+),"stop":"eos","model":"builtin:caption"'
    run caption --json -m builtin:caption $S/one.png $S/two.png; cp "$T/out" "$T/builtin"
    run caption --json -t 1 $S/one.png $S/two.png; same "named or not" "$T/out" "$T/builtin"
    [ -d models/tiny-caption ] && run caption --json -m models/tiny-caption $S/one.png $S/two.png
    is "as from the folder, which has no confidence" \
        "$(sed 's/"model":"[^"]*"//' "$T/out")" \
        "$(sed 's/"confidence":[0-9.]*,//; s/"model":"[^"]*"//' "$T/builtin")"
    run caption --json --max-tokens 0 $S/one.png; expect "no words" 0 out='"confidence":null'
    run caption --json --logprobs 2 $S/one.png; expect "--logprobs too" 0 out='"logprobs":[{'
    run caption -p "what is this? " $S/one.png
    expect "a question" 3 empty err="does not answer questions" err="hf download Salesforce/blip-vqa-base"
    run vqa -m builtin:caption -p what $S/one.png; expect "vqa" 3 empty err="hf download"
    run caption -p "two dogs" $S/one.png; expect "a beginning" 0 quiet out~'^two dogs'
    printf '{"image":"%s","prompt":"why?"}\n' $S/one.png >"$T/in"; in=$T/in
    run caption --in jsonl --json; expect "a record with a question" 1 out='"code":"input.text"'
    run classify $S/one.png; expect "classify without labels" 0 quiet lines=5
    is "over all concepts" "$(head -1 "$T/out" | cut -f2)" castle
    run classify --json $S/one.png
    is "each of them" "$(grep -o '"label":' "$T/out" | wc -l)" "$(wc -l <models/tiny-clip/concepts.txt)"
    printf '{"image":"%s"}\n' $S/one.png >"$T/in"; in=$T/in; run classify --in jsonl --top 1
    expect "a record without labels" 0 out=castle
    run classify --labels "a castle in a meadow,a church in a meadow,a castle at night" \
        --label-template {} $S/one.png
    expect "sentences" 0 quiet lines=3
    is "the right one" "$(head -1 "$T/out" | cut -f2)" "a castle in a meadow"
    run embed --text "a dog" $S/one.png; expect "embed" 0 quiet lines=2
    run preprocess $S/one.png -o "$T/x.npy"; expect "preprocess" 0 quiet
    run tokenize "a dog"; expect "tokenize" 0 quiet lines=1
    run info builtin:caption
    expect "info" 0 quiet out~'knows +[0-9]+ things: dog, ' out=Apache-2.0 out="no photographs"
    run info --json builtin:clip; expect "info --json" 0 out='"knows":["dog",' out='"licence":"'
    run info --tensors builtin:clip; expect "info --tensors" 0 out~'^logit_scale	F16'
    run caption -m builtin:clip $S/one.png; expect "another family" 3 err="serves: embed, classify"
    run caption -m builtin:nothing $S/one.png; expect "no such model in it" 3 err="mm ls"
    MM_CAPTION_MODEL=$M/blip-caption run caption --json $P/wide.png
    expect "the environment first" 0 out-builtin: out-confidence
    if command -v script >/dev/null; then
        tty() { script -qec "$MM $*" /dev/null </dev/null >"$T/out" 2>&1; code=$?; }
        tty caption $S/one.png
        expect "on a terminal" 0 out="builtin:caption is small: it knows" out="hf download Salesforce/"
        tty caption -m builtin:caption $S/one.png; expect "it was asked for" 0 out-"is small"
        tty caption -q $S/one.png; expect "-q" 0 out-"is small" out="a castle"
        tty classify $S/one.png; expect "on a terminal" 0 out="builtin:clip is small"
        tty caption --json $P/wide.png $P/tall.png $S/one.png $S/two.png
        is "not sure, where the mean probability is below 0.9" "$(grep -c 'not sure: this model' "$T/out")" \
            "$(grep -oE '"confidence":[0-9.]+' "$T/out" | awk -F: '$2 < 0.9' | wc -l)"
        tty caption $S/one.png; expect "its own world" 0 out-"not sure"
    else skip "no script(1): what a terminal is told"; fi
else
    skip "this mm has no models in it"
    run caption $P/wide.png; expect "no model" 3 err="hf download Salesforce/blip-image-captioning-base"
    HF_HUB_CACHE=$T/none run ls; expect "ls of nothing" 3 empty err="hf download"
    run caption -m builtin:caption $P/wide.png; expect "nothing built in" 3 err=BUILTIN=no
fi

# --- Bad models ------------------------------------------------------------------------------------
# broken NAME MODEL CODE 'COMMANDS, in a copy of MODEL' CHECKS...: then caption or embed must say so
broken() {
    local name=$1 model=$2 want=$3 how=$4; shift 4
    rm -rf "$T/m"; cp -r "$M/$model" "$T/m"; (cd "$T/m" && eval "$how") || bad "$name: $how"
    case $model in
    blip-caption) run caption -m "$T/m" $P/wide.png ;;
    *) run embed -m "$T/m" "the cat" ;;
    esac
    expect "$name" "$want" empty err="$T/m" "$@"
}
W=model.safetensors
broken "no config.json" blip-caption 3 'rm config.json' err=config.json
broken "a pipeline" blip-caption 3 'mv config.json model_index.json' err=model_index.json
broken "model_type unknown" blip-caption 3 'sed -i s/\"blip\"/\"blop\"/ config.json' err=model_type err=blop
broken "model_type missing" blip-caption 3 'echo {} >config.json' err=model_type
broken "architecture unknown" blip-caption 3 \
    'sed -i s/BlipForConditionalGeneration/BlipModel/ config.json' err=architectures err=BlipModel
broken "config.json is no JSON" blip-caption 4 'echo { >config.json' err=config.json
broken "config.json is a list" blip-caption 4 'echo [] >config.json' err=config.json
broken "config.json: duplicate key" blip-caption 4 \
    'sed -i "0,/{/s//{\"model_type\":\"blip\",/" config.json' err=model_type
broken "config.json is a FIFO" blip-caption 4 'rm config.json; mkfifo config.json' err=FIFO
broken "no weights" blip-caption 4 "rm $W" err=safetensors
broken "only a pickle" blip-caption 4 "mv $W pytorch_model.bin" err=pytorch_model.bin err=safetensors
broken "an LFS pointer" blip-caption 4 \
    "printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\n' >$W" err="git lfs"
broken "an HTML page" blip-caption 4 "echo '<!DOCTYPE html><html>' >$W" err=HTML
broken "a pickle under the name of safetensors" blip-caption 4 "printf '\200\2}q\1.12345678' >$W" err=pickle
broken "GGUF under the name of safetensors" blip-caption 4 "printf 'GGUF\3\0\0\0\0\0\0\0' >$W" err=GGUF
broken "an empty file" blip-caption 4 ": >$W" err=$W
broken "truncated weights" blip-caption 4 "truncate -s -100 $W" err=$W
broken "weights that leave the directory" blip-caption 4 \
    "mv $W ..; ln -s ../$W $W" err=$W; rm -f "$T/$W"
broken "a shard outside" blip-caption 4 \
    "rm $W; echo '{\"weight_map\":{\"a\":\"../x.safetensors\"}}' >$W.index.json" err=index.json
for v in 0 -1 1000000000 1e9 '"x"'; do
    for k in hidden_size num_hidden_layers num_attention_heads image_size patch_size vocab_size; do
        broken "$k $v" blip-caption 4 "sed -i 's/\"$k\": *[0-9]*/\"$k\": $v/' config.json" err=$k
    done
done
broken "heads that do not divide" blip-caption 4 \
    "sed -i 's/\"num_attention_heads\": *[0-9]*/\"num_attention_heads\": 5/' config.json" err=num_attention_heads
broken "another hidden_size" blip-caption 4 \
    "sed -i 's/\"intermediate_size\": *[0-9]*/\"intermediate_size\": 64/' config.json" err~'F32 \[.*expected'
broken "a layer too many" blip-caption 4 \
    "sed -i 's/\"num_hidden_layers\": *[0-9]*/\"num_hidden_layers\": 3/' config.json" err=layers.2
broken "a layer too few" blip-caption 4 \
    "sed -i 's/\"num_hidden_layers\": *[0-9]*/\"num_hidden_layers\": 1/' config.json" err=1.
broken "no tokenizer" blip-caption 4 'rm -f tokenizer.json vocab.txt' err=tokenizer
broken "too few tokens" blip-caption 4 'rm tokenizer.json; sed -i 40q vocab.txt' \
    err="m/vocab.txt: has 40 tokens, but key vocab_size of config.json is 133"
rm -rf "$T/m"; cp -r $M/bert-mean "$T/m"; sed -i 's/"vocab_size": *131/"vocab_size": 150/' "$T/m/config.json"
run tokenize -m "$T/m" a; expect "too few tokens in tokenizer.json" 4 err="m/tokenizer.json: has 131 tokens"
broken "too many tokens" bert-legacy 4 'echo more >>vocab.txt' err="m/vocab.txt: has 132 tokens"
broken "tokenizer.json is no JSON" blip-caption 4 'echo x >tokenizer.json' err=tokenizer.json
broken "an unknown normalizer" blip-caption 4 \
    'sed -i s/BertNormalizer/BortNormalizer/ tokenizer.json' err=tokenizer.json err=BortNormalizer
broken "preprocessor_config.json: size 0" blip-caption 4 \
    'sed -i "s/\"height\": *[0-9]*/\"height\": 0/" preprocessor_config.json' err=preprocessor_config.json
broken "preprocessor_config.json: another size" blip-caption 4 \
    'sed -i "s/\"\(height\|width\)\": *[0-9]*/\"\1\": 64/" preprocessor_config.json' err="64 x 64"
broken "BERT without weights" bert-mean 4 "rm $W" err=safetensors
broken "BERT, a tensor nobody asked for" bert-mean 4 \
    "sed -i 's/\"num_hidden_layers\": *[0-9]*/\"num_hidden_layers\": 2/' config.json" err=layer.2

# --- convert ---------------------------------------------------------------------------------------
D=test/data/torch
run convert $D/views.bin "$T/v.safetensors"; expect "convert" 0 quiet lines=1 out="20 tensors"
run convert $D/protocol5.pt "$T/new.safetensors"; expect "convert, the new form" 0 quiet
run convert $D/protocol1.old.pt "$T/old.safetensors"; expect "convert, the old form" 0 quiet
same "both forms give the same" "$T/new.safetensors" "$T/old.safetensors"
run convert $D/views.bin "$T/v.safetensors"; expect "what is there stays" 7 err="is there already"
run convert --json $D/sharded "$T/sharded"
expect "convert --json" 0 quiet lines=1 out~'^\{"v":1,"cmd":"convert","i":0,"id":"[^"]*sharded","ok":true,"file":"[^"]*","files":1,"tensors":4,"bytes":144,'
same "other files come along" $D/sharded/config.json "$T/sharded/config.json"
run convert $D/wrapped.ckpt "$T/w" --key callbacks; expect "--key of something else" 4 err="no tensors"
run convert $D/wrapped.ckpt "$T/w" --key nosuch; expect "--key of nothing" 4 err="no entry nosuch"
run convert $D/views.bin; expect "convert without OUT" 2 err="what to make of it"
run convert "$T/nosuch.bin" "$T/w"; expect "convert of nothing" 3
run convert $D/delta/add.bin "$T/w" --base "$T/sharded"; expect "a base of another model" 4 err="that base?"
(ulimit -f 1; "$MM" convert $D/types.bin "$T/w.safetensors") 2>"$T/err" >"$T/out"; code=$?
expect "convert, ulimit -f" 7 err="w.safetensors"
is "what failed leaves nothing" "$(find "$T" -maxdepth 1 -name 'w' -o -name 'w.*')" ""
mkdir "$T/bin" && cp $M/bert-mean/config.json "$T/bin/" && cp $D/types.bin "$T/bin/pytorch_model.bin"
run embed -m "$T/bin" a; expect "a model to be converted" 4 err='run `mm convert`'

# --- quantize --------------------------------------------------------------------------------------
run quantize $M/bert-mean "$T/q8"; expect "quantize" 0 quiet lines=1 out="tensors quantised"
same "other files come along, too" $M/bert-mean/config.json "$T/q8/config.json"
run info "$T/q8"; expect "info of it" 0 quiet out="Q8"
run embed -m "$T/q8" "a cat"; expect "its vectors" 0 quiet lines=1; cp "$T/out" "$T/file"
run embed --quant q8 -m $M/bert-mean "a cat"; expect "--quant" 0 quiet
same "--quant gives what the file gives" "$T/out" "$T/file"
run embed -m $M/bert-mean "a cat"
[ "$(cat "$T/out")" != "$(cat "$T/file")" ] && good || bad "--quant changes nothing"
paste -d ' ' "$T/out" "$T/file" | awk '{ n = NF / 2; for (i = 1; i <= n; i++) { d += $i * $(i + n); x += $i * $i
    y += $(i + n) * $(i + n) } exit !(n > 4 && d / sqrt(x * y) > 0.99) }' && good || bad "--quant q8 is another vector"
run quantize --json --quant q4 $M/bert-mean "$T/q4"
expect "quantize to 4 bits" 0 quiet lines=1 out~'"quantized":[1-9][0-9]*,"bytes_in":'
# a model, and what to ask it: its quantised file, with any number of threads, and --quant say the same
quantised() {
    local model=$1 q t; shift
    for q in q8 q4; do
        run quantize --quant $q $M/$model "$T/$model.$q"; expect "quantize --quant $q, $model" 0 quiet lines=1
        run "$@" --quant $q -m $M/$model $P/wide.png $P/tall.png; expect "--quant $q, $model" 0
        sed 's/"model":"[^"]*"//' "$T/out" >"$T/file"
        for t in 1 2 3 7; do
            run "$@" -t $t -m "$T/$model.$q" $P/wide.png $P/tall.png; expect "$model in $q, -t $t" 0
            sed -i 's/"model":"[^"]*"//' "$T/out"
            same "$model in $q, -t $t, is --quant $q" "$T/out" "$T/file"
        done
    done
}
quantised blip-caption caption --beams 3 --json --logprobs 2
quantised blip-vqa vqa -p "what is it" --json --logprobs 2
quantised blip-itm classify --labels "a cat,a dog" --json
quantised clip embed --json
run quantize $M/bert-mean "$T/q8"; expect "quantize writes nothing over" 7 err="is there already"
run quantize "$T/q8" "$T/q9"; expect "quantize twice" 3 err="is quantised already"
run quantize builtin:clip "$T/q9"; expect "quantize a model in the program" 3
run quantize $M/bert-mean; expect "quantize without OUT" 2 err="what to make of it"
run quantize --quant none $M/bert-mean "$T/q9"; expect "quantize to nothing" 2 err="expected q8 or q4"
(ulimit -f 1; "$MM" quantize $M/bert-mean "$T/q9") 2>"$T/err" >"$T/out"; code=$?
expect "quantize, ulimit -f" 7 err="q9"
is "what failed leaves nothing there" "$(find "$T" -maxdepth 1 -name 'q9*')" ""

# Language models: the file writes what --quant at load writes, with any number of threads.
for q in q8 q4; do
    run quantize --quant $q $L "$T/llava-$q"; expect "quantize LLaVA, $q" 0 quiet out="tensors quantised"
    run quantize --quant $q $V "$T/lm-$q"; expect "quantize a language model, $q" 0 quiet
    run complete -m "$T/lm-$q" -p "Hello" --max-tokens 30 -t 1; cp "$T/out" "$T/file"
    [ -s "$T/file" ] && good || bad "a quantised language model says nothing, $q"
    run complete -m $V --quant $q -p "Hello" --max-tokens 30 -t 3; same "complete --quant $q" "$T/out" "$T/file"
    run chat -m "$T/llava-$q" -p "What is this?" --image $P/wide.png --max-tokens 9 -t 1; cp "$T/out" "$T/file"
    run chat -m $L --quant $q -p "What is this?" --image $P/wide.png --max-tokens 9 -t 3
    same "chat about a picture, --quant $q" "$T/out" "$T/file"
    S=$assets/models/stories15M
    [ -f $S/model.safetensors ] || { skip "quantised stories15M, $q: $S is not there"; continue; }
    run quantize --quant $q $S "$T/stories-$q"
    run complete -m "$T/stories-$q" -p "Once upon a time" --max-tokens 60 -t 1; cp "$T/out" "$T/file"
    run complete -m $S --quant $q -p "Once upon a time" --max-tokens 60 -t 3; same "a story, --quant $q" "$T/out" "$T/file"
done
run info "$T/lm-q4"; expect "info of a quantised language model" 0 quiet out="Q4" out=" tokens/s, prompts "

# --- Hostile names, records and files ---------------------------------------------------------------
# A tensor whose type is no type, put behind the others; it is one that BERT's loader ignores.
cp -r $M/bert-mean "$T/odd" && f=$T/odd/model.safetensors
n=$(od -An -tu8 -N8 "$f" | tr -d ' ') size=$(($(wc -c <"$f") - 8 - $(od -An -tu8 -N8 "$f")))
head=$(tail -c +9 "$f" | head -c "$n" | sed 's/} *$//')',"pooler.x":{"dtype":"\u001b[31m\"","shape":[1],'
head="$head\"data_offsets\":[$size,$((size + 4))]}}"
printf "\\x$(printf %x $((${#head} & 255)))\\x$(printf %x $((${#head} >> 8)))\0\0\0\0\0\0" >"$T/new"
{ printf %s "$head"; tail -c +$((9 + n)) "$f"; printf 1234; } >>"$T/new" && mv "$T/new" "$f"
run info --json "$T/odd"; expect "info, a type of bad intent" 0 out='\u001b[31m\""'
run info --tensors --json "$T/odd"; expect "info --tensors, the same" 0 out='"dtype":"\u001b[31m\""'
run info --tensors "$T/odd"; expect "info --tensors, as text" 0 out='\x1b[31m'

mkdir -p "$T/three" "$T/deep/out" && cp $P/wide.png "$T/three/..."
printf '{"image":"%s/three/..."}\n' "$T" >"$T/dots"
in=$T/dots; run embed $CLIP --in jsonl -o "$T/deep/out/{stem}/v" -
expect "a stem that is no folder up" 0
is "a stem that is no folder up: where it went" "$(cd "$T/deep" && find . -name v)" ./out/.../v

mkfifo "$T/fifo" && run embed $CLIP --json --resume "$T/fifo" $P/wide.png
expect "--resume of a FIFO" 2 err="regular file"
run embed $CLIP --text a --trace "$T/fifo"; expect "--trace of a FIFO" 7 err="regular file"
[ -p "$T/fifo" ] && good || bad "--trace has replaced a FIFO"     # not tried on a device: as root it would
printf '{"id":["\302\233"],"text":"a","more":{"a":\r"\177\302\2331m"}}\n' >"$T/c1"
in=$T/c1; run embed $CLIP --in jsonl --json -
expect "control characters are not passed on" 0 out='"id":["\u009b"]' out='"more":{"a": "\u007f\u009b1m"}'
printf '{"image":"%s","labels":["a","b\\u0000c"]}\n' $P/wide.png >"$T/nul"
in=$T/nul; run classify $CLIP --in jsonl --json -; expect "a label with NUL" 1 out='"code":"input.json"'
# With stderr closed the next file to be opened would be number 2: messages must not go there.
(exec 2>&-; "$MM" embed $CLIP -o "$T/clean" $P/wide.png /nowhere) >/dev/null; code=$?
is "stderr closed" $code 1
is "stderr closed: the result" "$(grep -c mm: "$T/clean")" 0
"$MM" embed $CLIP --text a >&- 2>"$T/err"; code=$?; : >"$T/out"; expect "stdout closed" 7 err=stdout
(ulimit -f 1; "$MM" embed $CLIP --vec npy -o "$T/big.npy" $(yes $P/wide.png | head -40)) 2>"$T/err"
code=$?; expect "ulimit -f" 7 err="big.npy"
is "ulimit -f: nothing stays" "$(find "$T" -name 'big*')" ""
# A stream of text pictures: read in a time that grows as it does, and answered while it is open.
awk 'BEGIN { print "P2 2000 2000 255"; for (i = 0; i < 4e6; i++) print 100 + i % 156 }' >"$T/big.pgm"
now() { date +%s%N; }
t0=$(now); "$MM" preprocess $CLIP "$T/big.pgm" -o "$T/pgm1.npy"; t1=$(now)
cat "$T/big.pgm" | "$MM" preprocess $CLIP --in pnm - -o "$T/pgm{i}.npy" 2>"$T/err"; code=$?; t2=$(now)
expect "a stream of text pictures" 0; same "the same as from a file" "$T/pgm1.npy" "$T/pgm0.npy"
[ $(((t2 - t1) / 6)) -lt $((t1 - t0)) ] && good || bad "a text picture is read again and again"
{ head -c 70000 "$T/big.pgm"; sleep 0.2; tail -c +70001 "$T/big.pgm"; sleep 30; } |
    "$MM" caption $CAP --in pnm - >"$T/early" 2>/dev/null & p=$!
for i in $(seq 120); do sleep 0.2; [ -s "$T/early" ] && break; done
[ -s "$T/early" ] && good || bad "a picture of an open stream is not answered"
kill $p 2>/dev/null; wait $p 2>/dev/null
# A run that dies in the middle (this list is a directory) keeps what was finished.
run caption $CAP --json $P/wide.png --files-from "$T/many" -o "$T/kept.jsonl"; expect "a run that dies" 5
is "finished records stay" "$(grep -c '^{.*"ok":true.*}$' "$T/kept.jsonl")" 1
is "and no temporary file" "$(find "$T" -name 'kept*.tmp')" ""
run embed $CLIP --vec f32 -o "$T/{stem}.f32" --ids "$T/none.txt" $P/wide.png
expect "--ids with a file per item" 2 err="--ids"
is "--ids: no empty file" "$(find "$T" -name 'none.txt')" ""

echo "cli: $n_pass passed, $n_fail failed, $n_skip skipped"
[ $n_fail -eq 0 ]
