"""The wiring of latent attention, as the calls that it makes."""

from __future__ import annotations

from typing import Any, ClassVar

from refimpl.blocks import Inputs, LatentAttention, LogFloor, Rope, StateEntry
from tests.blocks.test_wiring import Calls, Named

ROPE = Rope(rotary_dim=2, theta=10.0, interleaved=True)
INPUTS = Inputs(q_order="QO", k_order="KO", rotations={ROPE: ("C", "S")})


class LatentCalls(Calls):
    """Calls of which some give more than one value."""

    PARTS: ClassVar = {"split": 2, "expand_latent": 2}

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        shown = super().call(name, *values, **options)
        return tuple(f"{shown}.{part}" for part in range(self.PARTS[name])) if name in self.PARTS else shown


def block(**changes: Any) -> LatentAttention:
    sizes = {"hidden_size": 10, "heads": 4, "q_lora_rank": 7, "kv_lora_rank": 6, "nope_head_dim": 3, "rope_head_dim": 2}
    return LatentAttention(**{**sizes, "v_head_dim": 5, "scale": 0.5, "rope": ROPE, "norm_eps": 0.25, **changes})


def calls(
    mixer: LatentAttention, state: dict[str, Any] | None = None, inputs: Inputs = INPUTS
) -> tuple[list[str], Any, list[str]]:
    ops = LatentCalls()
    y, kept = mixer(ops, Named(), "x", inputs, state)
    assert y == "o_proj"
    return ops.calls, kept, ops.taps


QUERY = [
    "linear(x, q_a_proj.weight)",
    "rms_norm(q_a_proj, q_a_norm.weight, eps=0.25)",
    "linear(q_a_norm, q_b_proj.weight)",
    "split_heads(#2, heads=4)",
    "split(q_proj, sizes=(3, 2))",
    "rotary_embedding(#4.1, C, S, interleaved=True)",
    "concat(#4.0, q_rope)",
]
LATENT = [
    "linear(x, kv_a_proj.weight)",
    "split(kv_a_proj, sizes=(6, 2))",
    "rms_norm(#8.0, kv_a_norm.weight, eps=0.25)",
    "split_heads(#8.1, heads=1)",
    "rotary_embedding(#10, C, S, interleaved=True)",
    "merge_heads(#11)",
]


def test_the_absorbed_form_keeps_the_normed_latent_and_the_rotated_key() -> None:
    made, state, taps = calls(block())
    assert made == [
        *QUERY,
        *LATENT,
        "latent_attention(#6, kv_a_norm, k_rope, kv_b_proj.weight, scale=0.5, q_order=QO, k_order=KO)",
        "merge_heads(attention)",
        "linear(#14, o_proj.weight)",
    ]
    assert state == {"latent": "kv_a_norm", "k_rope": "k_rope"}
    assert taps == ["q_a_proj", "q_a_norm", "q_proj", "q_rope", "kv_a_proj", "kv_a_norm", "k_rope", "attention", "o_proj"]


def test_the_expanded_form_keeps_the_keys_and_values() -> None:
    made, state, taps = calls(block(absorbed=False), {"key": "K", "value": "V"})
    assert made[13:] == [
        "expand_latent(kv_a_norm, k_rope, kv_b_proj.weight, heads=4, v_head_dim=5)",
        "append(K, key)",
        "append(V, value)",
        "attention(#6, #14, #15, scale=0.5, q_order=QO, k_order=KO)",
        "merge_heads(attention)",
        "linear(#17, o_proj.weight)",
    ]
    assert state == {"key": "#14", "value": "#15"}
    assert taps[-4:] == ["key", "value", "attention", "o_proj"]


def test_a_past_goes_before_the_new_latents() -> None:
    made, state, _ = calls(block(), {"latent": "L", "k_rope": "R"})
    assert made[13:15] == ["append(L, kv_a_norm)", "append(R, k_rope)"]
    assert made[15].startswith("latent_attention(#6, #13, #14, kv_b_proj.weight, ")
    assert state == {"latent": "#13", "k_rope": "#14"}


def test_queries_without_a_latent_have_no_norm() -> None:
    made, _, taps = calls(block(q_lora_rank=None))
    assert made[:2] == ["linear(x, q_proj.weight)", "split_heads(#0, heads=4)"]
    assert sum("norm" in call for call in made) == 2  # the latent's, and the call that reads it
    assert "q_a_norm" not in taps


def test_without_positions_nothing_is_rotated() -> None:
    made, _, _ = calls(block(rope=None), inputs=Inputs(q_order="QO", k_order="KO", rotations={}))
    assert not any("rotary" in call for call in made)


def test_half_split_pairs_and_biases() -> None:
    rope = Rope(rotary_dim=2, theta=10.0)
    inputs = Inputs(q_order="QO", k_order="KO", rotations={rope: ("C", "S")})
    made, _, _ = calls(block(rope=rope, bias=True), inputs=inputs)
    assert "rotary_embedding(#4.1, C, S)" in made
    biased = [call.split(", ")[2].rstrip(")") for call in made if call.startswith("linear") and "bias" in call]
    assert biased == ["q_a_proj.bias", "kv_a_proj.bias", "o_proj.bias"]
    assert [name for name in block(bias=True).parameters() if name.endswith("bias")] == biased


def test_a_temperature_reaches_both_forms() -> None:
    temperature = LogFloor(scale=0.1, floor=4)
    inputs = Inputs(q_order="QO", k_order="KO", rotations={ROPE: ("C", "S")}, temperatures={temperature: "T"})
    for absorbed in (True, False):
        made, _, _ = calls(block(temperature=temperature, absorbed=absorbed), inputs=inputs)
        assert sum("temperature=T" in call for call in made) == 1


def test_parameters_and_state() -> None:
    shapes = block().parameters()
    assert shapes == {
        "q_a_proj.weight": (7, 10),
        "q_a_norm.weight": (7,),
        "q_b_proj.weight": (20, 7),
        "kv_a_proj.weight": (8, 10),
        "kv_a_norm.weight": (6,),
        "kv_b_proj.weight": (32, 6),
        "o_proj.weight": (10, 20),
    }
    assert block(q_lora_rank=None).parameters()["q_proj.weight"] == (20, 10)
    assert block().state() == {"latent": StateEntry(shape=(6,)), "k_rope": StateEntry(shape=(2,))}
    assert block(absorbed=False).state() == {"key": StateEntry(shape=(4, 5)), "value": StateEntry(shape=(4, 5))}


def test_flops_are_those_of_the_matrices_and_of_the_products_with_the_cache() -> None:
    matrices = 2 * (7 * 10 + 20 * 7 + 8 * 10 + 32 * 6 + 10 * 20)
    assert block().flops(11) == matrices + 2 * 11 * 4 * (8 + 6)
    assert block(absorbed=False, v_head_dim=5).flops(11) == matrices + 2 * 11 * 4 * (5 + 5)
