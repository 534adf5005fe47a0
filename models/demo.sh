#!/bin/sh
# demo.sh -- what mm does with the small models in it: `make demo` runs this from the root of the
# repository. Each command is printed before it runs.
run() { printf '\n$ %s\n' "$1"; eval "$1"; }

run './mm caption models/demo/*.png'
run './mm classify models/demo/one.png'
run "./mm classify --label-template '{}' models/demo/two.png --labels \\
    'a penguin and an umbrella in the snow,a castle in a meadow,two rockets at night'"
run './mm info builtin:caption'
cat <<'END'

These answers come from two models of 2.3 MB inside mm. They know scenes composed of emoji, and
nothing else. For photographs: hf download Salesforce/blip-image-captioning-base, then
    ./mm caption -m blip photo.jpg
END
