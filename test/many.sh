#!/bin/bash
# many.sh -- ten thousand pictures in one run: memory stays flat, the model is loaded once, and after
# kill -9 the run is resumed with no record lost and none doubled. Among them are a truncated JPEG, a
# text, an empty file and a folder: each becomes an error record, and the exit code is 1.
# Usage: many.sh MM DEMO [N]; DEMO is the program of models/demo.c. About a minute.
mm=$(realpath "$1") demo=$(realpath "$2") n=${3:-10000} passed=0 failed=0
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
check() { if [ "$2" "$3" "$4" ]; then passed=$((passed + 1)); else
          failed=$((failed + 1)); echo "many: $1: $2 $3 $4 does not hold"; fi; }

"$demo" . || exit 1
mkdir pictures pictures/folder.png
head -c 700 scene.png >pictures/cut.png                    # a PNG that ends early
printf '\377\330\377\340\0\020JFIF\0\001\001\0\0\001\0\001\0\0' >pictures/cut.jpg
echo "not a picture" >pictures/text.png
: >pictures/empty.png
for i in $(seq -f '%04g' 1 $((n - 5))); do ln scene.png "pictures/$i.png" || exit 1; done
printf '%s\0' pictures/[0-4]*.png pictures/[c-t]* pictures/[5-9]*.png >list
check "pictures in the list" "$(tr -cd '\0' <list | wc -c)" -eq "$n"

# Starts a run in the background; memory in kB at about the given numbers of records goes to rss.
options="caption -m blip --max-tokens 3 --json --files0-from list --resume out.jsonl"
sampled() {
    "$mm" $options 2>err & pid=$!
    for at in "$@"; do
        while [ "$(cat out.jsonl 2>/dev/null | wc -l)" -lt "$at" ]; do
            kill -0 $pid 2>/dev/null || break
            sleep 0.05
        done
        awk '/^VmRSS/ { print $2 }' /proc/$pid/status >>rss 2>/dev/null
    done
}
sampled $((n / 10)) $((n * 4 / 10))
kill -9 $pid; wait $pid 2>/dev/null
at_kill=$(wc -l <out.jsonl)
check "killed on the way" "$at_kill" -lt "$n"
printf '{"v":1,"cmd":"caption","id":"torn' >>out.jsonl     # what a killed writer may leave
sampled $((n / 2)) $((n * 9 / 10))
wait $pid; check "exit code with five bad pictures" $? -eq 1
check "records" "$(wc -l <out.jsonl)" -eq "$n"
check "different ids" "$(grep -o '"id":"[^"]*"' out.jsonl | sort -u | wc -l)" -eq "$n"
check "good records" "$(grep -c '"ok":true' out.jsonl)" -eq $((n - 5))
for bad in cut.png:image.truncated cut.jpg:image.truncated text.png:image.format \
           empty.png:image.empty folder.png:image.missing; do
    code=$(grep "\"id\":\"pictures/${bad%:*}\"" out.jsonl | grep -o '"code":"[^"]*"')
    check "error of ${bad%:*}" "$code" = "\"code\":\"${bad#*:}\""
done
check "captions that differ" "$(grep -o '"text":"[^"]*"' out.jsonl | sort -u | wc -l)" -eq 1
set -- $(cat rss)
echo "memory at 10, 40 % of the first run, 50, 90 % of the second: $* kB"
check "growth in the first run, kB"  $((${2:-0} - ${1:-0})) -lt 2000
check "growth in the second run, kB" $((${4:-0} - ${3:-0})) -lt 2000
echo "many: $passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
