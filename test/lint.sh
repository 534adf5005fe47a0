#!/bin/sh
# lint.sh -- what the compiler does not check: who may include whom, sizes, and words that mean
# "unfinished". Prints what is wrong, then one line; run from the root of the repository.
n_ok=0 n_bad=0
tmp=$(mktemp) && trap 'rm -f "$tmp"' EXIT

# check TITLE: the file of findings; an empty one is a pass.
check() {
    if [ -s "$tmp" ]; then
        n_bad=$((n_bad + 1)); echo "lint: $1:"; sed 's/^/    /' "$tmp"
    else
        n_ok=$((n_ok + 1))
    fi
}
there() { for f in "$@"; do [ -f "$f" ] && echo "$f"; done; }

# includes ALLOWED FILE...: the headers of ours that the files include, except those allowed.
includes() {
    allowed=$1; shift
    [ $# -eq 0 ] || grep -Hn '^#include "' "$@" | grep -vE "#include \"($allowed)\""
}

sources=$(find . -name '*.[ch]' ! -path './build*' ! -path './.*' | sed 's,^\./,,' | sort)
written=$(echo "$sources" | grep -v unicode_data)          # by hand
ground=$(there tensor.c memory.c threads.c trace.c files.c builtin.c json.c ckpt.c)

includes 'none' $(there types.h tokenizer/tokenizer.h threads.h) >"$tmp"
check "types.h, tokenizer.h and threads.h include standard headers only"
includes '(\.\./)?types\.h' $(there tensor.h kernels/kernels.h) >"$tmp"
check "tensor.h and kernels.h include types.h only"
includes 'tensor\.h|tokenizer/tokenizer\.h' mm.h >"$tmp"; check "mm.h stands on the ground and tokenizers"
includes 'tensor\.h|threads\.h' $ground >"$tmp"; check "the ground includes nothing above it"
includes 'tensor\.h|kernels/kernels\.h' $(there nn.c quant.c) >"$tmp"; check "nn.c stands on ground and kernels"
includes '[a-z0-9_]+\.h' $(there kernels/*.c) >"$tmp"; check "kernels include headers of their folder"
includes '\.\./tensor\.h|[a-z_0-9]+\.h' $(there tokenizer/*.c) >"$tmp"; check "tokenizers stand on tensor.h"
includes 'mm\.h' $(there bert.c vit.c clip.c blip.c llama.c vlm.c sample.c random.c) >"$tmp"; check "model files include mm.h alone"
grep -l '"kernels/kernels.h"' $(there *.c) | grep -vxE 'nn.c|quant.c|resize.c|preprocess.c|mm.c|machine.c|info.c|bench.c' >"$tmp"
check "layers and pictures use the kernels (mm.c and info.c choose and name the level, bench.c times them)"

for f in $written; do
    awk -v f="$f" 'length($0) > 100 { print f ":" NR ": " length($0) " columns" }' "$f"
done >"$tmp"; check "lines of at most 100 columns"
for f in $written; do
    awk -v f="$f" 'END { if (NR > 900) print f ": " NR " lines" }' "$f"
done >"$tmp"; check "files of at most 900 lines"
for f in $written; do
    awk -v f="$f" '/^\{/ { start = NR } /^\}/ && start { n = NR - start + 1; start = 0
        if (n > 150) print f ":" NR - n + 1 ": a function of " n " lines" }' "$f"
done >"$tmp"; check "functions of at most 150 lines"
grep -nE 'TODO|FIXME|\<XXX\>|#if 0|#ifdef DEBUG' $written >"$tmp"; check "nothing unfinished"
grep -nP '\t| +$' $written >"$tmp"; check "no tabs, no blanks at the end of a line"
grep -nE '\b(strcpy|strcat|gets|alloca|system|popen)\(' $(echo "$written" | grep -v '^test/') >"$tmp"
check "no call that cannot be bounded"
grep -nE 'march=native|ffast-math|Ofast' Makefile .ci/run >"$tmp"
check "no flags that tie the build to one machine"
for f in $written; do
    head -1 "$f" | grep -q '^/\*' || echo "$f"
done >"$tmp"; check "every file begins with its header comment"

echo "lint: $n_ok passed, $n_bad failed"
[ $n_bad -eq 0 ]
