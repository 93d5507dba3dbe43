"""Text encoders in one file: T5 and UMT5 as ComfyUI and Wan's authors name them, and CLIP's text model."""

from collections.abc import Mapping

from jvflow.pretrained.single.origin import Origin, Shapes, count, split_width, substitute

CLIP_HEAD = 64
"""The size of an attention head in every released CLIP."""
WAN = {
    r"^token_embedding\.": "shared.",
    r"^norm\.": "encoder.final_layer_norm.",
    r"^blocks\.(\d+)\.attn\.": r"encoder.block.\1.layer.0.SelfAttention.",
    r"^blocks\.(\d+)\.pos_embedding\.embedding\.": r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
    r"^blocks\.(\d+)\.norm1\.": r"encoder.block.\1.layer.0.layer_norm.",
    r"^blocks\.(\d+)\.norm2\.": r"encoder.block.\1.layer.1.layer_norm.",
    r"^blocks\.(\d+)\.ffn\.gate\.0\.": r"encoder.block.\1.layer.1.DenseReluDense.wi_0.",
    r"^blocks\.(\d+)\.ffn\.fc1\.": r"encoder.block.\1.layer.1.DenseReluDense.wi_1.",
    r"^blocks\.(\d+)\.ffn\.fc2\.": r"encoder.block.\1.layer.1.DenseReluDense.wo.",
}
"""Names in models_t5_umt5-xxl-enc-bf16.pth."""


def wan_name(name: str) -> str:
    """Returns transformers' name for a tensor of Wan's text encoder."""
    return substitute(name, WAN)


def t5_config(shapes: Shapes, metadata: Mapping[str, str]) -> dict:
    """Returns the config of an encoder of T5 v1.1 or UMT5 from the shapes of its tensors."""
    del metadata
    attention = "encoder.block.0.layer.0.SelfAttention"
    buckets, heads = shapes[f"{attention}.relative_attention_bias.weight"]
    width = shapes["encoder.final_layer_norm.weight"][0]
    embedding = shapes.get("shared.weight") or shapes.get("encoder.embed_tokens.weight")
    gated = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
    if gated not in shapes or embedding is None:
        raise ValueError("the file holds a T5 of version 1.0, or a part of one: only T5 v1.1 and UMT5 are read")
    own = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight" in shapes
    return dict(
        architectures=["UMT5EncoderModel" if own else "T5EncoderModel"],
        model_type="umt5" if own else "t5",
        vocab_size=embedding[0],
        d_model=width,
        d_kv=shapes[f"{attention}.q.weight"][0] // heads,
        d_ff=shapes[gated][0],
        num_layers=count(shapes, r"encoder\.block\.(\d+)\."),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=128,
        layer_norm_epsilon=1e-6,
        feed_forward_proj="gated-gelu",
        dense_act_fn="gelu_new",
        is_gated_act=True,
    )


def clip_config(shapes: Shapes, metadata: Mapping[str, str]) -> dict:
    """Returns the config of a text model of CLIP from the shapes of its tensors."""
    del metadata
    layer = "text_model.encoder.layers.0"
    vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
    return dict(
        architectures=["CLIPTextModel"],
        model_type="clip_text_model",
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shapes[f"{layer}.mlp.fc1.weight"][0],
        num_hidden_layers=count(shapes, r"text_model\.encoder\.layers\.(\d+)\."),
        num_attention_heads=split_width(width, CLIP_HEAD, "this text model of CLIP"),
        max_position_embeddings=shapes["text_model.embeddings.position_embedding.weight"][0],
        hidden_act="quick_gelu" if width <= 768 else "gelu",  # OpenAI's models, and the larger ones of OpenCLIP
        layer_norm_eps=1e-5,
        eos_token_id=vocabulary - 1,
    )


ORIGINS = (
    Origin("t5_encoder", ("blocks.0.pos_embedding.embedding.weight",), t5_config, lambda tensors: wan_name),
    Origin("t5_encoder", ("encoder.block.0.layer.0.SelfAttention.q.weight",), t5_config),
    Origin("clip_text", ("text_model.encoder.layers.0.self_attn.q_proj.weight",), clip_config),
)
