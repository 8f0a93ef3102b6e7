#!/usr/bin/env bash
# The main job: a language model on a text, once with exact attention and once with each recipe.
# The variables below can be set on the command line of make.
source "$(dirname "$0")/common.sh"

scripts/build.sh
model=${MODEL:-$(model_file)}
text=${TEXT:-examples/text/essays.txt}
context=${CONTEXT:-1024}
windows=${WINDOWS:-4}
modes=${MODES:-exact,fp8,fp8-hadamard,int8qk,high}

say "$(basename "$model") on $text, $windows windows of $context tokens"
build/release/bin/sotto eval --model "$model" --text "$text" --context "$context" \
  --windows "$windows" --modes "$modes" --report build/demo.html

cat <<END

The picture:  $PWD/build/demo.html  (open it in a browser)
What next:
  make demo WINDOWS=all                          the whole text: smaller errors
  make demo TEXT=my.txt MODES=fp8,int8qk+v_mean   a text and recipes of your own
  build/release/bin/sotto eval --help            everything it can do
  build/release/bin/sotto info                   what this machine can run, and why not the rest
  README.md                                      the first C++ program
END
