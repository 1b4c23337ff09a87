"""GPU memory of training, by arithmetic on the params and the model's shape. Never imports torch.

Bytes a token and layer are counted from what backpropagation keeps: the 16-bit inputs of norms, products, attention and
the MLP; with plain PEFT also a float32 copy of each LoRA layer's input. The factors are fitted to peaks measured on
H200s with Qwen2.5's 0.5B, 3B and 7B, rank 32; tests/planning/test_memory.py holds the estimate between 3 % below and
10 % above each.
Methods other than qlora and lora are counted by the same rules, unmeasured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ingot.training.params import LOW_RANK, Adapter
from ingot.training.platform_lock import engine

# What of a card may be planned for: the rest goes to CUDA itself, to fragments and to what an estimate misses.
FILL = 0.85
# A 4-bit number and its share of the double-quantised scales, 8 bits for 64 numbers; without, those have 32.
NF4, NF4_SINGLE = 0.516, 0.5625
# Logits with their gradients, per word of the vocabulary and token; both engines form them for so many tokens at once.
LOGIT = 5
CHUNK = {"unsloth": 1024, "peft": 256}
# What a layer needs while it is recomputed and goes backward, by what it keeps without recomputing.
BACKWARD = {"unsloth": 1.75, "peft": 1.5}


@dataclass(frozen=True)
class Shape:
    """What of a model's config decides its memory."""

    hidden: int
    layers: int
    intermediate: int
    query: int  # heads × their size
    kv: int
    vocab: int
    tied: bool  # one matrix for embedding and output

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """From a transformers config.json."""
        config = config.get("text_config", config)
        size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        return cls(
            config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"],
            config["num_attention_heads"] * size, config["num_key_value_heads"] * size, config["vocab_size"],
            config.get("tie_word_embeddings", False),
        )  # fmt: skip

    def widths(self) -> dict[str, int]:
        """Inputs and outputs together of each linear layer that adapters can be attached to."""
        hidden, mlp = self.hidden, self.hidden + self.intermediate
        return {
            "q_proj": hidden + self.query, "k_proj": hidden + self.kv, "v_proj": hidden + self.kv,
            "o_proj": self.query + hidden, "gate_proj": mlp, "up_proj": mlp, "down_proj": mlp,
            "qkv_proj": hidden + self.query + 2 * self.kv, "gate_up_proj": mlp + self.intermediate,
        }  # fmt: skip


# Qwen2.5's sizes: the one nearest to base.parameters stands for a model that is not fetched yet.
FAMILY = {
    494_032_768: Shape(896, 24, 4864, 896, 128, 151_936, True),
    1_543_714_304: Shape(1536, 28, 8960, 1536, 256, 151_936, True),
    3_085_938_688: Shape(2048, 36, 11_008, 2048, 256, 151_936, True),
    7_615_616_512: Shape(3584, 28, 18_944, 3584, 512, 152_064, False),
    14_770_033_664: Shape(5120, 48, 13_824, 5120, 1024, 152_064, False),
    32_763_876_352: Shape(5120, 64, 27_648, 5120, 1024, 152_064, False),
    72_706_203_648: Shape(8192, 80, 29_568, 8192, 1024, 152_064, False),
}


def shape_of(parameters: int, config: dict[str, Any] | None) -> Shape:
    if config:
        return Shape.of(config)
    return FAMILY[min(FAMILY, key=lambda size: abs(math.log(size / parameters)))]


@dataclass(frozen=True)
class Estimate:
    """Bytes of one GPU."""

    weights: int
    trained: int  # of what is trained besides the weights
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.gradients + self.optimizer + self.activations + self.logits


def estimate(adapter: Adapter, parameters: int, length: int, config: dict[str, Any] | None) -> Estimate:
    """The peak of training a base of so many parameters, whose config.json is not there (None) until it is fetched.

    gradient_checkpointing `auto` counts as recomputing: the least that the params can do with.
    """
    shape, full = shape_of(parameters, config), adapter.method == "full"
    count = trained(adapter, parameters, config)
    tokens = adapter.batch_size * length
    weights, share = _weights(adapter, parameters, shape), adapter.gpus if adapter.shard else 1
    # One layer computes while its neighbours come and go; the output's matrix is gathered in float32 for the loss.
    gathered = 3 * weights // shape.layers + 4 * shape.vocab * shape.hidden if adapter.shard else 0
    kept, layer, logits = _activations(adapter, shape, tokens)
    if engine(adapter) == "unsloth":  # which is done with the loss when it recomputes the first layer
        layer, logits = (layer, 0) if layer > logits else (0, logits)
    return Estimate(
        weights=weights // share + gathered + _unpacked(adapter, shape),
        trained=0 if full else count * 4 // share,
        gradients=count * 4 * (2 if adapter.gpus > 1 else 1) // share,  # and as much to exchange them
        optimizer=0 if adapter.optimizer.startswith("paged") else count * moments(adapter.optimizer) // share,
        activations=kept + layer,
        logits=logits,
    )


def trained(adapter: Adapter, parameters: int, config: dict[str, Any] | None) -> int:
    """How many parameters the method trains."""
    shape = shape_of(parameters, config)
    widths = shape.widths()
    targets = [widths[module] for module in adapter.target_modules if module in widths]
    if adapter.method == "full":
        return parameters
    if adapter.method == "prompt":
        return adapter.virtual_tokens * shape.hidden
    if adapter.method == "prefix":
        return adapter.virtual_tokens * shape.layers * 2 * shape.kv
    if adapter.method == "ia3":  # a factor for each output, or each input of the MLP's last layer: half a width at most
        return shape.layers * sum(targets) // 2
    return shape.layers * adapter.r * sum(targets)


def moments(optimizer: str) -> int:
    """Bytes of AdamW's two moments for each trained parameter."""
    return 2 if "8bit" in optimizer else 8


def _wide(adapter: Adapter) -> int:
    """Bytes of a number that is computed with; a CPU computes in float32."""
    return 4 if adapter.precision == "fp32" or adapter.device == "cpu" else 2


def _weights(adapter: Adapter, parameters: int, shape: Shape) -> int:
    """Of the base: of a qlora the linear layers in NF4, embedding and output in 16 bit, which PEFT makes float32."""
    wide = _wide(adapter)
    if adapter.method == "full":  # trained in float32, with a 16-bit copy to compute with
        return parameters * (4 if wide == 4 else 6)
    if adapter.method != "qlora":
        return parameters * wide
    embeddings = min(shape.vocab * shape.hidden * (1 if shape.tied else 2), parameters)
    wide = wide if engine(adapter) == "unsloth" else 4
    return int((parameters - embeddings) * (NF4 if adapter.double_quant else NF4_SINGLE)) + embeddings * wide


def _unpacked(adapter: Adapter, shape: Shape) -> int:
    """The two largest of a layer's 4-bit matrices, as they are computed with."""
    return 2 * _wide(adapter) * shape.hidden * shape.intermediate if adapter.method == "qlora" else 0


def _activations(adapter: Adapter, shape: Shape, tokens: int) -> tuple[int, int, int]:
    """Bytes of what is kept, of a layer that is recomputed (0 where none is), and of the loss."""
    wide, name = _wide(adapter), engine(adapter)
    hidden, mlp, fast = shape.hidden, shape.intermediate, name == "unsloth"
    # Norms, attention's inputs and output, the residual; of the MLP unsloth keeps two tensors, plain autograd three.
    layer = wide * (4 * hidden + 2 * shape.query + 3 * shape.kv + (2 if fast else 3) * mlp)
    if fast and adapter.method == "lora":
        layer += wide * 2 * hidden
    if not fast:
        layer += 4 * 2 * hidden  # norms compute in float32
        if adapter.method in LOW_RANK:  # each LoRA casts its input to its own float32
            layer += 4 * (6 * hidden + shape.query + mlp)
    if adapter.method == "dora":  # and scales its layer's output
        layer += wide * (2 * hidden + shape.query + 2 * shape.kv + 2 * mlp)
    ends = tokens * 8 * hidden  # the last layer's output and its gradient, in float32
    if not fast and adapter.method not in ("qlora", "full") and not adapter.shard and wide == 2:
        ends += 4 * shape.vocab * hidden  # TRL copies the output's matrix to float32
    logits = LOGIT * shape.vocab * min(tokens, CHUNK[name])
    if adapter.gradient_checkpointing == "off" or adapter.method == "prefix":  # which cannot recompute
        return tokens * shape.layers * layer + ends, 0, logits
    # Where each layer begins: float32 in a qlora of PEFT's. Unsloth's own recomputation keeps it in the host's memory.
    begin = 4 if not fast and adapter.method == "qlora" else wide
    begins = 0 if fast and adapter.gradient_checkpointing != "on" else shape.layers * hidden * begin
    return tokens * begins + ends, int(tokens * layer * BACKWARD[name]), logits


def cheapest(adapter: Adapter) -> str:
    """The gradient_checkpointing that needs least."""
    return "unsloth" if engine(adapter) == "unsloth" else "on"


def same_update(adapter: Adapter, most: int, recomputing: Iterable[str]) -> Iterator[Adapter]:
    """Every setting of the same rows an update, `most` at once, recomputing in each of these ways."""
    rows = adapter.batch_size * adapter.accumulation
    for batch in range(1, min(rows, most) + 1):
        if rows % batch or (rows // batch) % adapter.gpus:
            continue
        for again in recomputing:
            if again == "off" or adapter.method != "prefix":  # which cannot recompute
                update = {"batch_size": batch, "accumulation": rows // batch, "gradient_checkpointing": again}
                yield adapter.model_copy(update=update)


def recompute(adapter: Adapter, parameters: int, length: int, config: dict[str, Any] | None, have_bytes: int) -> bool:
    """What gradient_checkpointing `auto` decides: recompute only where without it the card would be too full."""
    without = adapter.model_copy(update={"gradient_checkpointing": "off"})
    return estimate(without, parameters, length, config).total > FILL * have_bytes
