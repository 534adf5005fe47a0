"""published.py -- models that the authors' own files run, not transformers: Qwen v1 and LLaVA.

    language.py DIR --only qwen --qwen-code FOLDER     FOLDER has modeling_qwen.py, configuration_qwen.py
    llava.py DIR --llava-code FOLDER                   FOLDER has llava/ of haotian-liu/LLaVA

Nothing of these files is in this repository. They were written for transformers 4.31 to 4.37; what
else version 5 asks of a model is added here, in classes derived from theirs, and nothing of what
they compute is changed.

Easy to get wrong:
  - Qwen's caches are tuples [batch, n, heads, d] of each layer; generate() insists on an object.
  - The base of Qwen's angles is kept in the model from the prompt on: each run needs a fresh one.
"""
import importlib
import os
import sys
import types


def package(name, folder):
    """Makes a folder of Python files importable as `name`, as their relative imports need it."""
    module = types.ModuleType(name)
    module.__path__ = [os.path.abspath(folder)]
    sys.modules[name] = module


# --- Qwen v1 ------------------------------------------------------------------------------------

# What the files of August 2023 ask for.
FIRST_NAMES = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
               "intermediate_size": "ffn_hidden_size", "vocab_size": "padded_vocab_size",
               "max_position_embeddings": "n_positions"}
FIRST_KEYS = {"pos_emb": "rotary", "params_dtype": "torch.float32"}


class Past:
    """The tuples of keys and values, in the place of a transformers Cache."""
    is_compileable = False

    def __init__(self):
        self.layers = None

    def __bool__(self):
        return self.layers is not None

    def get_seq_length(self, layer=0):
        return self.layers[layer][0].shape[1] if self else 0


def qwen(folder, config):
    """An empty QWenLMHeadModel of the published code, for a config.json of its layout."""
    from transformers import GenerationMixin
    package("published_qwen", folder)
    code = importlib.import_module("published_qwen.modeling_qwen")
    settings = importlib.import_module("published_qwen.configuration_qwen")

    class Body(code.QWenModel):
        def get_head_mask(self, mask, n_layers):
            return [None] * n_layers

    class Qwen(code.QWenLMHeadModel, GenerationMixin):
        def generate(self, *args, **options):
            return super().generate(*args, **{"past_key_values": Past(), **options})

        def forward(self, input_ids=None, past_key_values=None, attention_mask=None, **options):
            past = past_key_values
            out = super().forward(input_ids, past.layers if past else None, attention_mask, **options)
            if past is not None:
                past.layers, out.past_key_values = out.past_key_values, past
            return out

        def _reorder_cache(self, past, rows):
            past.layers = super()._reorder_cache(past.layers, rows)
            return past
    code.QWenModel = Body
    keys = {k: v for k, v in config.items() if k not in ("architectures", "model_type")}
    keys |= {old: keys[new] for new, old in FIRST_NAMES.items()} | FIRST_KEYS
    return Qwen(settings.QWenConfig(**{**keys, "fp32": True, "use_flash_attn": False})).eval()


# --- LLaVA --------------------------------------------------------------------------------------

def llava(folder):
    """(LlavaLlamaForCausalLM, LlavaConfig, the module mm_utils) of the published code."""
    import transformers
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    transformers.CLIPImageProcessor = CLIPImageProcessorPil   # the published one was Pillow's
    sys.path.insert(0, os.path.abspath(folder))
    code = importlib.import_module("llava.model.language_model.llava_llama")
    return code.LlavaLlamaForCausalLM, code.LlavaConfig, importlib.import_module("llava.mm_utils")
