"""llama_speed.py -- mm and llama.cpp side by side, in one run on one machine.

    python llama_speed.py FOLDER --llama-bench FILE [--mm ./mm] [--threads N] [--runs N]
        [--only F16,BF16,Q8,Q4] [--prompt N] [--generate N] [--shape tinyllama|7b]

Writes into FOLDER, unless they are there, random weights of one shape in both programs' formats, of
the same bits per weight on both sides: GGUF for llama.cpp, safetensors for mm (the quantised ones by
`mm quantize` from the BF16 folder). Then in turns, ROUNDS times: llama-bench and `mm complete` with
a prompt of N tokens and N generated ones. Printed: medians of tokens per second and their ratio; of
the generation also the bytes of weights that pass per second, in percent of the memory's speed as
`mm bench` measures it before and after each run of mm. mm keeps the output matrix of a Q4 model in
8 bits: "at equal bytes" compares bytes a second. Skips, and says so, where no llama-bench is given.

    format   GGUF type   mm                                 bits a weight
    F16      F16         F16                                16
    BF16     BF16        BF16                               16
    Q8       Q8_0        blocks of 32, f16 scale            8.5
    Q4       Q4_0        blocks of 32 of 16 values, scale   4.5

Random numbers say nothing about quality, and nothing depends on them: no format skips zeros.
"""
import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys

import numpy as np

SHAPES = {
    "tinyllama": dict(layers=22, width=2048, inner=5632, heads=32, kv_heads=4, words=32000),
    "7b": dict(layers=32, width=4096, inner=11008, heads=32, kv_heads=32, words=32000),
}
GGUF_TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "BF16": (30, 1, 2), "Q4_0": (2, 32, 18),
              "Q8_0": (8, 32, 34)}                                # number, block, bytes of it


def matrices(s):
    """GGUF name, safetensors name, rows, columns of every tensor; columns 0: a vector."""
    kv = s["width"] // s["heads"] * s["kv_heads"]
    yield "token_embd", "model.embed_tokens", s["words"], s["width"]
    for i in range(s["layers"]):
        ours, theirs = f"model.layers.{i}.", f"blk.{i}."
        yield theirs + "attn_norm", ours + "input_layernorm", s["width"], 0
        for a, b, rows in (("q", "q", s["width"]), ("k", "k", kv), ("v", "v", kv),
                           ("output", "o", s["width"])):
            yield theirs + "attn_" + a, ours + f"self_attn.{b}_proj", rows, s["width"]
        yield theirs + "ffn_norm", ours + "post_attention_layernorm", s["width"], 0
        for name in ("gate", "up"):
            yield theirs + "ffn_" + name, ours + f"mlp.{name}_proj", s["inner"], s["width"]
        yield theirs + "ffn_down", ours + "mlp.down_proj", s["width"], s["inner"]
    yield "output_norm", "model.norm", s["width"], 0
    yield "output", "lm_head", s["words"], s["width"]


class Noise:
    """Small normal numbers, a pool of them read from a different place each time."""

    def __init__(self):
        self.pool = (np.random.default_rng(1).standard_normal((1 << 22) + 4099) * .02).astype("f4")
        self.at = 0

    def floats(self, n):
        self.at = (self.at + 7919) % 4099
        return np.resize(self.pool[self.at:self.at + (1 << 22)], n)

    def tensor(self, kind, rows, columns):
        """Bytes of a tensor of that type; a vector is f32 and near 1."""
        if not columns:
            return (1 + self.floats(rows)).astype("f4").tobytes()
        n = rows * columns
        if kind == "F16":
            return self.floats(n).astype("f2").tobytes()
        if kind == "BF16":
            return (self.floats(n).view("u4") >> 16).astype("u2").tobytes()
        _, block, size = GGUF_TYPES[kind]
        blocks = np.random.default_rng(rows).integers(0, 256, (n // block, size), dtype="u1")
        scales = np.full(n // block, .0005 if kind == "Q8_0" else .005, "f2").view("u1")
        blocks[:, 0:2] = scales.reshape(-1, 2)
        return blocks.tobytes()


def write_gguf(path, shape, kind):
    """GGUF version 3: header, metadata, tensor table, data at multiples of 32 bytes."""
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    def pair(key, value):
        if isinstance(value, str):
            return text(key) + struct.pack("<I", 8) + text(value)
        if isinstance(value, float):
            return text(key) + struct.pack("<If", 6, value)
        return text(key) + struct.pack("<II", 4, value)

    head = shape["width"] // shape["heads"]
    pairs = [("general.architecture", "llama"), ("llama.context_length", 4096),
             ("llama.embedding_length", shape["width"]), ("llama.block_count", shape["layers"]),
             ("llama.feed_forward_length", shape["inner"]), ("llama.vocab_size", shape["words"]),
             ("llama.attention.head_count", shape["heads"]),
             ("llama.attention.head_count_kv", shape["kv_heads"]),
             ("llama.attention.layer_norm_rms_epsilon", 1e-5),
             ("llama.rope.dimension_count", head), ("tokenizer.ggml.model", "none")]
    tensors, table, at = list(matrices(shape)), b"", 0
    for name, _, rows, columns in tensors:
        number, block, size = GGUF_TYPES[kind if columns else "F32"]
        dims = (columns, rows) if columns else (rows,)
        table += text(name + ".weight") + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims,
                                                      number, at)
        at += (rows * max(columns, 1) // block * size + 31) // 32 * 32
    start = (b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) +
             b"".join(pair(*p) for p in pairs) + table)
    noise = Noise()
    with open(path + ".part", "wb") as f:
        f.write(start.ljust((len(start) + 31) // 32 * 32, b"\0"))
        for _, _, rows, columns in tensors:
            data = noise.tensor(kind, rows, columns)
            f.write(data.ljust((len(data) + 31) // 32 * 32, b"\0"))
    os.replace(path + ".part", path)


def write_folder(folder, shape, kind, tokenizer, shards=1):
    """A LlamaForCausalLM checkpoint with random weights and the tokenizer of another."""
    part = folder + ".part"
    shutil.rmtree(part, ignore_errors=True)
    os.makedirs(part)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
              "hidden_size": shape["width"], "intermediate_size": shape["inner"],
              "num_hidden_layers": shape["layers"], "num_attention_heads": shape["heads"],
              "num_key_value_heads": shape["kv_heads"], "vocab_size": shape["words"],
              "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "bos_token_id": 1,
              "eos_token_id": 2, "tie_word_embeddings": False, "rope_theta": 10000.0,
              "torch_dtype": "float16" if kind == "F16" else "bfloat16"}
    with open(os.path.join(part, "config.json"), "w") as f:
        json.dump(config, f)
    for name in os.listdir(tokenizer):
        if name.startswith(("tokenizer", "special_tokens")):
            shutil.copy(os.path.join(tokenizer, name), part)
    tensors, noise, index = list(matrices(shape)), Noise(), {}
    per = -(-len(tensors) // shards)
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors"
        table, at, mine = {}, 0, tensors[i * per:(i + 1) * per]
        for _, name, rows, columns in mine:
            size = rows * max(columns, 1) * (2 if columns else 4)
            table[name + ".weight"] = {"dtype": kind if columns else "F32",
                                       "shape": [rows, columns] if columns else [rows],
                                       "data_offsets": [at, at + size]}
            index[name + ".weight"] = file
            at += size
        head = json.dumps(table).encode()
        head = head.ljust((len(head) + 7) // 8 * 8)
        with open(os.path.join(part, file), "wb") as f:
            f.write(struct.pack("<Q", len(head)) + head)
            for _, _, rows, columns in mine:
                f.write(noise.tensor(kind, rows, columns))
    if shards > 1:
        with open(os.path.join(part, "model.safetensors.index.json"), "w") as f:
            json.dump({"metadata": {}, "weight_map": index}, f)
    os.replace(part, folder)


# What is measured: names, types and bits as the table above has them.
FORMATS = {"F16": "F16", "BF16": "BF16", "Q8": "Q8_0", "Q4": "Q4_0"}
WORDS = "the of and to in is was he for it with as his on be at by had not are but from or".split()


def files(args, kind):
    """The checkpoint of a format for each program; made if it is not there."""
    shape = SHAPES[args.shape]
    gguf = os.path.join(args.folder, f"{args.shape}-{kind}.gguf")
    folder = os.path.join(args.folder, f"{args.shape}-{kind}")
    if not os.path.exists(gguf):
        write_gguf(gguf, shape, FORMATS[kind])
    if not os.path.exists(folder):
        if kind in ("F16", "BF16"):
            write_folder(folder, shape, kind, args.tokenizer, 3 if args.shape == "7b" else 1)
        else:
            source = files(args, "BF16")[1]
            subprocess.run([args.mm, "quantize", source, folder, "--quant", kind.lower()],
                           check=True)
    return gguf, folder


def llama_bench(args, gguf):
    """Tokens a second of the prompt and of the generation."""
    out = subprocess.run([args.llama_bench, "-m", gguf, "-p", str(args.prompt), "-n",
                          str(args.generate), "-t", str(args.threads), "-r", "1", "-o", "json"],
                         check=True, capture_output=True, text=True).stdout
    rates = {("prompt" if r["n_prompt"] else "generate"): r["avg_ts"] for r in json.loads(out)}
    return rates["prompt"], rates["generate"]


def mm_complete(args, folder):
    """The same of mm, in one process: a prompt that has been read once warms up; then the long
    prompt with one token, and a short one with one token and with more: their difference is the
    generation. No two begin alike, or what was read would be kept."""
    def text(first, n):
        return " ".join([first] + [WORDS[i * 7 % len(WORDS)] for i in range(n - 2)])
    items = [(text("we", args.prompt), 1), (text("all", args.prompt), 1), ("one", 1),
             ("two", args.generate + 1)]
    lines = "".join(json.dumps({"prompt": p, "max_tokens": n}) + "\n" for p, n in items)
    out = subprocess.run([args.mm, "complete", "-m", folder, "--in", "jsonl", "--json",
                          "--timings", "-t", str(args.threads), "-"], input=lines, check=True,
                         capture_output=True, text=True).stdout
    _, prompt, one, more = [json.loads(line) for line in out.splitlines()]
    seconds = [r["ms"]["text"] / 1000 for r in (prompt, one, more)]
    n = more["tokens"]["out"] - one["tokens"]["out"]
    if n < args.generate // 2:
        sys.exit(f"{folder}: the text ended after {n} tokens")
    return (prompt["tokens"]["in"] / seconds[0], n / (seconds[2] - seconds[1]))


def memory_rate(args):
    """GB/s that mm bench reads from memory."""
    out = subprocess.run([args.mm, "bench", "--json", "--seconds", "1", "-t", str(args.threads),
                          "relu"], check=True, capture_output=True, text=True).stdout
    return next(r["rate"] for r in map(json.loads, out.splitlines())
                if r.get("limit") == "memory" and r.get("threads") == args.threads)


def bytes_of_a_token(args, kind, head=None):
    """All matrices but the table of words are read once for a token; head: the type of the last."""
    bits = {"F16": 16, "BF16": 16, "Q8": 8.5, "Q4": 4.5}
    return sum(rows * columns * bits[head if head and name == "output" else kind] / 8
               for name, _, rows, columns in matrices(SHAPES[args.shape]) if name != "token_embd")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("folder")
    p.add_argument("--llama-bench")
    p.add_argument("--mm", default="./mm")
    assets = os.environ.get("MM_ASSETS", "../shared/assets")
    p.add_argument("--tokenizer", default=os.path.join(assets, "models/stories15M"),
                   help="a folder with LLaMA's tokenizer (%(default)s)")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--only", default=",".join(FORMATS))
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--generate", type=int, default=64)
    p.add_argument("--shape", choices=SHAPES, default="tinyllama")
    args = p.parse_args()
    if not args.llama_bench:
        print("skipped: no --llama-bench: llama.cpp's program of that name is what to compare with")
        return
    os.makedirs(args.folder, exist_ok=True)
    kinds = args.only.split(",")
    made = {kind: files(args, kind) for kind in kinds}
    ours, theirs, memory = ({k: [] for k in kinds} for _ in range(3))
    for _ in range(args.runs):
        for kind in kinds:
            theirs[kind].append(llama_bench(args, made[kind][0]))
            before = memory_rate(args)
            ours[kind].append(mm_complete(args, made[kind][1]))
            memory[kind].append((before + memory_rate(args)) / 2)
    print(f"{args.shape}, {args.threads} threads, {args.runs} rounds; tokens a second")
    for kind in kinds:
        middle = [[statistics.median(column) for column in zip(*side[kind])]
                  for side in (ours, theirs)]
        (prompt, text), (their_prompt, their_text) = middle
        read = text * bytes_of_a_token(args, kind, "Q8" if kind == "Q4" else kind) / 1e9
        equal = read / (their_text * bytes_of_a_token(args, kind) / 1e9)
        gbs = statistics.median(memory[kind])
        print(f"{kind:5} prompt of {args.prompt}: mm {prompt:7.1f}  llama.cpp {their_prompt:7.1f}"
              f"  {prompt / their_prompt:5.2f} times   generation: mm {text:6.2f}"
              f"  llama.cpp {their_text:6.2f}  {text / their_text:5.2f} times"
              f" ({equal:.2f} at equal bytes), {read:.1f} GB/s, {100 * read / gbs:.0f} % of memory's"
              f" {gbs:.1f}")


if __name__ == "__main__":
    main()
