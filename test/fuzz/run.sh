#!/bin/sh
# run.sh -- runs the fuzzers that `make fuzz` has built, SECONDS_EACH (60), as many at a time as
# there are processors.
# Usage: run.sh FOLDER [NAME...]. Corpora are kept in FOLDER/corpus: the next run begins where this
# one ended. Seeds are the small files of the tests; words for the dictionaries, the strings in our
# own sources. A finding is left in FOLDER as crash-*, and the exit status is 1.
folder=$1; shift
seconds=${SECONDS_EACH:-60} failed=0
assets=${MM_ASSETS:-../shared/assets}
[ $# -gt 0 ] || set -- safetensors json picture tokenizer vocabulary pickle

# seed NAME FILE...: copies the files of at most 40 KB into the corpus.
seed() {
    to=$folder/corpus/$1; shift
    mkdir -p "$to"
    for f in "$@"; do
        [ -f "$f" ] || continue
        [ "$(wc -c <"$f")" -gt 40000 ] || cp "$f" "$to/$(echo "$f" | tr / _)"
    done
}

# words NAME SOURCE...: the dictionary, of the plain strings in the sources.
words() {
    to=$folder/$1.dict; shift
    grep -oh '"[A-Za-z0-9_.<>|/ -]\{2,40\}"' "$@" 2>/dev/null | sort -u >"$to"
    printf '"%s"\n' '[]' '{}' null true '\xef\xbb\xbf' '\\u0000' '\\ud83d\\ude00' >>"$to"
}

tensor='"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}'
mkdir -p "$folder/corpus/safetensors" "$folder/corpus/json"
printf '\001\030\000{%s}' "$tensor" >"$folder/corpus/safetensors/one"
bias='"b":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]}'
printf '\001\034\000{"__metadata__":{"format":"pt"},%s,%s} ' "$tensor" "$bias" \
    >"$folder/corpus/safetensors/two"
scalar='"s":{"dtype":"F16","shape":[],"data_offsets":[1,3]}'
printf '\001\003\000{%s,"f":{"dtype":"F4","shape":[1,2,1,1,1],"data_offsets":[0,1]}}' "$scalar" \
    >"$folder/corpus/safetensors/odd"
seed json test/data/models/*/*.json
seed picture test/fuzz/seeds/* test/data/models/pictures/* test/data/image/* "$assets"/images/*
printf 'P6 2 1 255\n......' >"$folder/corpus/picture/p6"
printf 'P2\n# c\n2 2 15\n0 1 2 15' >"$folder/corpus/picture/p2"
mkdir -p "$folder/corpus/pickle"
for f in test/data/torch/*.bin test/data/torch/*.ckpt test/data/torch/*.pt test/data/torch/delta/*.bin; do
    { printf '\000'; cat "$f"; } >"$folder/corpus/pickle/$(echo "$f" | tr / _)"
done
words pickle pickle.c torch.c
seed tokenizer test/data/models/*/tokenizer.json test/data/tokenizer/*/tokenizer.json
seed vocabulary test/data/tokenizer/*/*.model test/data/tokenizer/*/*.tiktoken
words safetensors ckpt.c
words json json.c bert.c clip.c blip.c vit.c preprocess.c
words picture image.c formats.c jpeg.c png.c bitmap.c
words tokenizer tokenizer/*.c
words vocabulary tokenizer/spm.c tokenizer/legacy.c

# fuzz NAME: runs it and leaves what there is to say in NAME.said.
fuzz() {
    mkdir -p "$folder/corpus/$1"
    "$folder/fuzz/$1" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2500 -max_len=40000 \
        -artifact_prefix="$folder/$1-" -dict="$folder/$1.dict" -print_final_stats=1 \
        "$folder/corpus/$1" >"$folder/$1.log" 2>&1
    code=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$folder/$1.log")
    if [ $code -eq 0 ]; then
        echo "fuzz $1: ${runs:-0} runs, no finding"
    else
        echo "fuzz $1: FINDING (exit $code), see $folder/$1.log"
        grep -E 'ERROR|SUMMARY|runtime error|mm: bug|Test unit' "$folder/$1.log" | head -10
    fi >"$folder/$1.said"
}

# One for each processor at a time.
while [ $# -gt 0 ]; do
    names=
    while [ $# -gt 0 ] && [ "$(echo $names | wc -w)" -lt "$(nproc)" ]; do
        rm -f "$folder/$1.said"
        fuzz "$1" &
        names="$names $1"; shift
    done
    wait
    for name in $names; do
        cat "$folder/$name.said"
        grep -q 'no finding$' "$folder/$name.said" || failed=1
    done
done
exit $failed
