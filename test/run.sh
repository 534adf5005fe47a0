#!/bin/sh
# run.sh -- runs every test and adds up: what `make test` does when all is built.
# Usage: run.sh BUILD-FOLDER. Each test ends with "NAME: N passed, M failed, K skipped"; a test that
# ends without such a line has crashed and counts as failed. Environment: TESTS names a selection.
build=$1 passed=0 failed=0 skipped=0
log=$(mktemp) && cli=$(mktemp) && trap 'rm -f "$log" "$cli"' EXIT

# run NAME COMMAND...
run() {
    name=$1; shift
    "$@" >"$log" 2>&1
    code=$?
    line=$(grep -E '^[a-z_ 0-9-]+: [0-9]+ passed, [0-9]+ failed' "$log" | tail -1)
    if [ -z "$line" ]; then
        cat "$log"; echo "$name: ended with code $code and no result"; failed=$((failed + 1)); return
    fi
    n_failed=$(echo "$line" | sed 's/.*passed, \([0-9]*\) failed.*/\1/')
    if [ $code -ne 0 ] && [ "$n_failed" -eq 0 ]; then n_failed=1; fi
    if [ "$n_failed" -gt 0 ]; then cat "$log"; else grep '^skipped' "$log"; echo "$line"; fi
    passed=$((passed + $(echo "$line" | sed 's/.*: \([0-9]*\) passed.*/\1/')))
    failed=$((failed + n_failed))
    case $line in *skipped*)
        skipped=$((skipped + $(echo "$line" | sed 's/.*, \([0-9]*\) skipped.*/\1/'))) ;;
    esac
}

tests=${TESTS:-ground kernels attention conv quant quality nn sample json files pickle image tokenizer models language chat repl cli lint}
# Half of the time is cli.sh, thousands of small processes: it runs beside the others.
case " $tests " in *" cli "*) MM=$build/mm test/cli.sh >"$cli" 2>&1 & cli_pid=$! ;; esac
for t in $tests; do
    case $t in
    kernels | attention | conv)
             run "$t" "$build/test/$t" --isa ref
             best=$("$build/test/kernels" --best)
             [ "$best" = ref ] || run "$t" "$build/test/$t" --isa "$best" ;;
    cli)     wait $cli_pid; run cli sh -c 'cat "$1"; exit $2' - "$cli" $? ;;
    lint)    run lint test/lint.sh ;;
    *)       run "$t" "$build/test/$t" ;;
    esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
