# mm: make builds it; make test tests it; make demo shows it.
CC      ?= cc
CSTD     = -std=c11 -D_GNU_SOURCE
WARN     = -Wall -Wextra -Wshadow -Wvla -Wmissing-prototypes -Wstrict-prototypes
# Small, but for the files in which time is spent: those have OPT_HOT (below).
OPT     ?= -Os -g
OPT_HOT ?= -O3
HARDEN   = -fstack-protector-strong -fstack-clash-protection -fPIE \
           $(if $(SANITIZE),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
STB     ?= /usr/include/stb
BUILD   ?= build
ARCH    := $(shell $(CC) -dumpmachine | cut -d- -f1)
CFLAGS  += $(OPT) $(CSTD) $(WARN) $(HARDEN) $(SANITIZE) -ffp-contract=off -isystem $(STB) \
           -ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables
LDFLAGS += -pie -Wl,-z,relro,-z,now -Wl,--gc-sections $(SANITIZE)
LDLIBS  += -lm -lpthread

# make V=1 shows whole commands.
Q   = $(if $(V),,@)
SAY = @$(if $(V),:,echo)

# Of the kernels those for this architecture: kernels/OPERATION_INSTRUCTIONS.c.
X86  = $(if $(filter x86_64 amd64,$(ARCH)),,%_avx2.c %_avx512.c %_avx512vnni.c %_avx512bf16.c)
ARM  = $(if $(filter aarch64 arm64,$(ARCH)),,%_neon.c %_neondot.c %_neoni8mm.c %_neonbf16.c)
LIB  = $(filter-out mm.c $(X86) $(ARM),$(wildcard *.c kernels/*.c tokenizer/*.c))
OBJ  = $(LIB:%.c=$(BUILD)/%.o)

# Only what stands here is made: "help.c" makes no help.
MAKEFLAGS += -r

all: $(BUILD)/mm mm
help:
	@echo 'make               builds ./mm'
	@echo 'make test          all tests; debug-test: under sanitizers; thread-test, neon-test, fuzz-run'
	@echo 'make demo          what its small models say of four scenes'
	@echo 'make bench         the kernels in percent of what this machine can do'
	@echo 'make install       into PREFIX (/usr/local)'
	@echo 'make deps          the compiler and the headers, by apt'
	@echo 'make reference     the test data once more, from PyTorch (a large download)'
	@echo 'make clean'
mm: $(BUILD)/mm
	@cp -f $< $@

$(BUILD)/mm: $(BUILD)/mm.o $(OBJ)
	$(SAY) link $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Three headers and a few more: everything is compiled again when one of them changes.
$(BUILD)/%.o: %.c $(wildcard *.h */*.h) Makefile
	@mkdir -p $(dir $@)
	$(SAY) cc $<
	$(Q)$(CC) $(CFLAGS) $(ISA) -c -o $@ $<

# One line of flags per instruction set; the rest is built for the baseline of the architecture.
AVX512 = -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c
$(BUILD)/kernels/%_avx2.o:       ISA = $(OPT_HOT) -mavx2 -mfma -mf16c
$(BUILD)/kernels/%_avx512.o:     ISA = $(OPT_HOT) $(AVX512)
$(BUILD)/kernels/%_avx512vnni.o: ISA = $(OPT_HOT) $(AVX512) -mavx512vnni
$(BUILD)/kernels/%_avx512bf16.o: ISA = $(OPT_HOT) $(AVX512) -mavx512vnni -mavx512bf16
# gcc would load all a tile needs long before, and run out of registers.
NEON = $(OPT_HOT) $(if $(findstring clang,$(CC)),,-fno-schedule-insns)
$(BUILD)/kernels/%_neondot.o:    ISA = $(NEON) -march=armv8.2-a+dotprod
$(BUILD)/kernels/%_neoni8mm.o:   ISA = $(NEON) -march=armv8.2-a+dotprod+i8mm
$(BUILD)/kernels/%_neonbf16.o:   ISA = $(NEON) -march=armv8.2-a+dotprod+bf16
$(BUILD)/kernels/%_neon.o:       ISA = $(NEON)
$(BUILD)/kernels/quant_ref.o $(BUILD)/sample.o $(BUILD)/jpeg.o: ISA = $(OPT_HOT)
# Damaged pictures make stb_image's sums wrap and its bit reader shift too far: defined, or harmless.
$(BUILD)/stb_image.o: ISA = -fwrapv $(if $(SANITIZE),-fno-sanitize=shift)

# The small models in the program (builtin.c): BUILTIN=no leaves them out, as does a checkout that
# does not have them. What was built in last is noted, so that a change of it is seen.
TINY    = models/tiny-caption models/tiny-clip
BUILTIN ?= $(if $(filter-out $(words $(TINY)),\
             $(words $(wildcard $(TINY:%=%/model.safetensors)))),no,yes)
$(shell mkdir -p $(BUILD); echo $(BUILTIN) | cmp -s - $(BUILD)/builtin.is || \
        echo $(BUILTIN) >$(BUILD)/builtin.is)
$(BUILD)/builtin.o: $(BUILD)/builtin.is $(wildcard $(TINY:%=%/*))
$(BUILD)/builtin.o: ISA = -DBUILTIN=$(if $(filter no,$(BUILTIN)),0,1)

# The tests: each file of test/*.c is a program.
TESTS = $(patsubst test/%.c,$(BUILD)/test/%,$(wildcard test/*.c))
tests: $(TESTS)
$(BUILD)/test/%: $(BUILD)/test/%.o $(OBJ)
	$(SAY) link $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

deps:
	@./deps.sh "$(CC)" "$(STB)"

test: deps
	@$(MAKE) --no-print-directory all tests
	@test/run.sh $(BUILD)

# Everything once more under AddressSanitizer and UBSan: slower, and it sees what nobody else sees.
# What a test holds when it ends is no leak to look for: mm frees nothing.
DEBUG = BUILD=build-debug OPT='-O1 -g' OPT_HOT=-O1 SANITIZE='-fsanitize=address,undefined'
debug:
	@$(MAKE) --no-print-directory $(DEBUG) build-debug/mm
debug-test:
	@$(MAKE) --no-print-directory $(DEBUG) build-debug/mm tests
	@ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	    test/run.sh build-debug

# Fuzzers, with clang: test/fuzz/*.c, each run for FUZZ_SECONDS.
FUZZ_SECONDS ?= 60
FUZZERS  = $(patsubst test/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard test/fuzz/*.c))
fuzzers: $(FUZZERS)
$(BUILD)/fuzz/%: $(BUILD)/test/fuzz/%.o $(OBJ)
	@mkdir -p $(dir $@)
	$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)
fuzz:
	@$(MAKE) --no-print-directory CC=clang BUILD=build-fuzz OPT='-O1 -g -DFUZZING=1' OPT_HOT=-O1 FUZZ=1 fuzzers \
	    SANITIZE='-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined'
# No file steers the kernels of products, and instrumented they take minutes to build.
ifdef FUZZ
$(BUILD)/kernels/gemm_%.o $(BUILD)/kernels/quant_%.o $(BUILD)/kernels/conv_%.o: override SANITIZE =
endif
fuzz-run: fuzz
	@SECONDS_EACH=$(FUZZ_SECONDS) test/fuzz/run.sh build-fuzz

thread-test:
	@$(MAKE) --no-print-directory BUILD=build-tsan SANITIZE=-fsanitize=thread build-tsan/test/ground
	@build-tsan/test/ground

# The ARM kernels on emulated CPUs: needs gcc-aarch64-linux-gnu and qemu-user.
NEON_TESTS = $(patsubst %,build-neon/test/%,kernels attention conv quant)
neon-test:
	@$(MAKE) -s --no-print-directory CC=aarch64-linux-gnu-gcc BUILD=build-neon LDFLAGS=-static \
	    $(NEON_TESTS)
	@test/neon.sh build-neon

# What mm says of a few scenes, with the small models in it. Where they are not, a small checkpoint
# with random weights shows that all of it runs (and is what test/many.sh works with).
$(BUILD)/demo: models/demo.c
	@mkdir -p $(BUILD)
	$(SAY) cc $<
	$(Q)$(CC) $(OPT) $(CSTD) $(WARN) -isystem $(STB) -o $@ $< -lm
demo: deps
	@$(MAKE) --no-print-directory all $(BUILD)/demo
	@if ./mm ls --json 2>/dev/null | grep -q builtin:caption; then models/demo.sh; \
	else $(MAKE) --no-print-directory demo-random; fi
demo-random: $(BUILD)/demo
	@$(BUILD)/demo $(BUILD)/demo-files
	@echo '$$ mm caption -m $(BUILD)/demo-files/blip $(BUILD)/demo-files/scene.png'
	@./mm caption -m $(BUILD)/demo-files/blip $(BUILD)/demo-files/scene.png
	@echo
	@echo 'This model was not trained: its weights are random, and its words mean nothing yet.'
	@echo 'For captions that do: fetch Salesforce/blip-image-captioning-base, then'
	@echo '    ./mm caption -m FOLDER photo.jpg'

# The committed reference data once more, from PyTorch and transformers in a virtual environment,
# compared with what is there. A large download; torch comes first, alone, and TORCH_INDEX takes
# options for pip there (the index of PyTorch's smaller CPU builds).
PYTHON ?= python3
.venv/ready: test/reference/requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet "$$(grep '^torch==' $<)" $(TORCH_INDEX)
	.venv/bin/pip install --quiet -r $<
	@touch $@
reference: .venv/ready $(BUILD)/test/tokenizer
	.venv/bin/python test/reference/remake.py --tokenizer $(BUILD)/test/tokenizer

PREFIX ?= /usr/local
STRIP  ?= strip
install: all
	install -Dm755 -s --strip-program=$(STRIP) $(BUILD)/mm "$(DESTDIR)$(PREFIX)/bin/mm"
	install -Dm644 mm.1 "$(DESTDIR)$(PREFIX)/share/man/man1/mm.1"

# The kernels in percent of what this machine can do; ./mm bench --full for more.
bench: all
	@./mm bench

clean:
	rm -rf build build-debug build-tsan build-ci build-fuzz build-neon mm

.PHONY: help reference all tests deps test fuzzers fuzz fuzz-run debug debug-test thread-test neon-test demo demo-random install bench clean
.PRECIOUS: $(BUILD)/%.o $(BUILD)/test/%
