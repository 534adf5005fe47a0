#!/bin/sh
# neon.sh -- the ARM kernels on emulated CPUs, as many programs at a time as there are processors.
# Usage: neon.sh BUILD-FOLDER, of aarch64 programs; needs qemu-user. Ends with the sum of all.
#
# cortex-a57 has ARMv8.0 alone: an instruction beyond it ends a program. max has dot products, i8mm
# and bf16. Levels that share the kernels of a program with one below them are not run again.
build=$1
if [ $# -gt 1 ]; then                           # one program: LOGS NUMBER CPU NAME OPTIONS...
    log=$2/$3 cpu=$4 name=$5; shift 5
    echo "== $name $* on $cpu" >"$log"
    qemu-aarch64 -cpu "$cpu" "$build/test/$name" "$@" --few >>"$log" 2>&1
    echo "code $?" >>"$log"
    exit 0
fi
logs=$(mktemp -d) && trap 'rm -rf "$logs"' EXIT
awk '{ print NR + 10, $0 }' <<END | xargs -L 1 -P "$(nproc)" "$0" "$build" "$logs"
max quant --cases 80
cortex-a57 kernels --cases 200
max kernels --isa neonbf16 --cases 300
cortex-a57 conv --isa neon --cases 60
cortex-a57 attention --isa neon --cases 200
max conv --isa neonbf16 --cases 16
cortex-a57 attention --isa ref --cases 24
cortex-a57 conv --isa ref --cases 8
cortex-a57 quant --isa neon --cases 40
END
passed=0 failed=0
for log in "$logs"/*; do
    p=$(sed -n 's/^[a-z]*: \([0-9]*\) passed, .*/\1/p' "$log")
    f=$(sed -n 's/^[a-z]*: .* passed, \([0-9]*\) failed.*/\1/p' "$log")
    if [ "$(tail -1 "$log")" != "code 0" ] && [ "${f:-0}" -eq 0 ]; then f=1; fi
    passed=$((passed + ${p:-0})) failed=$((failed + ${f:-1}))
    if [ "${f:-1}" -gt 0 ]; then cat "$log"; else head -1 "$log"; grep ' passed' "$log"; fi
done
echo "neon: $passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
