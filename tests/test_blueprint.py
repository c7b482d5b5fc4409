"""What follows from a blueprint without weights: counts, cache, operations; for the releases and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import refimpl
from refimpl.card import card
from refimpl.lint import lint
from refimpl.releases import release
from tests.tiny import qwen3, smollm3, without

QWEN3_NEXT, KIMI_LINEAR = "Qwen/Qwen3-Next-80B-A3B-Instruct", "moonshotai/Kimi-Linear-48B-A3B-Instruct"


class TestReleases:
    # As the hub's indexes and transformers' own classes count them: all, and those that a token uses.
    TOTALS = {  # noqa: RUF012
        "HuggingFaceTB/SmolLM3-3B": (3_075_098_624, 3_075_098_624),
        "Qwen/Qwen3-0.6B": (596_049_920, 596_049_920),
        "Qwen/Qwen3-1.7B": (1_720_574_976, 1_720_574_976),
        "Qwen/Qwen3-4B": (4_022_468_096, 4_022_468_096),
        "Qwen/Qwen3-8B": (8_190_735_360, 8_190_735_360),
        "Qwen/Qwen3-32B": (32_762_123_264, 32_762_123_264),
        "Qwen/Qwen3-Next-80B-A3B-Instruct": (79_674_391_296, 3_874_929_408),
        "Qwen/Qwen3-Next-80B-A3B-Thinking": (79_674_391_296, 3_874_929_408),
        "moonshotai/Kimi-Linear-48B-A3B-Instruct": (49_122_675_072, 3_484_453_248),
    }

    @pytest.mark.parametrize(("name", "counts"), TOTALS.items())
    def test_the_numbers_of_parameters_are_exact(self, name: str, counts: tuple[int, int]) -> None:
        blueprint = refimpl.blueprint(name)
        assert (blueprint.num_parameters(), blueprint.num_active_parameters()) == counts

    @pytest.mark.parametrize("name", refimpl.releases())
    def test_the_numbers_of_parameters_are_the_published_ones(self, name: str) -> None:
        blueprint, counts = refimpl.blueprint(name), release(name)["parameters"]
        assert blueprint.num_parameters() == counts["total"]
        assert blueprint.num_active_parameters() == counts["active"]
        if "active_without_embedding" in counts:
            table = blueprint.embedding.num_parameters()
            assert blueprint.num_active_parameters() - table == counts["active_without_embedding"]

    @pytest.mark.parametrize("name", refimpl.releases())
    def test_every_key_is_read_or_known(self, name: str) -> None:
        assert [finding for finding in lint(release(name)["config"]) if finding.kind == "error"] == []

    @pytest.mark.parametrize("name", refimpl.releases())
    def test_the_file_says_its_own_name_and_what_verified_it(self, name: str) -> None:
        assert release(name)["name"] == name
        assert release(name)["verified_by"]

    def test_the_module_of_qwen3_next_makes_up_the_rest_of_what_the_hub_counts(self) -> None:
        hub = release(QWEN3_NEXT)["parameters"]["hub"]["value"]
        assert refimpl.blueprint(QWEN3_NEXT).num_parameters(multi_token=True) == hub == 79_674_391_296 + 1_650_471_424

    def test_a_near_name_is_suggested(self) -> None:
        with pytest.raises(ValueError, match=r"^unknown release 'Qwen/Qwen3-4b'; did you mean 'Qwen/Qwen3-4B'\?$"):
            refimpl.blueprint("Qwen/Qwen3-4b")

    def test_an_unlike_name_points_to_the_list(self) -> None:
        with pytest.raises(ValueError, match=r"^unknown release 'zzz'; `refimpl list releases` names them$"):
            refimpl.blueprint("zzz")

    def test_smollm3_has_rope_on_three_of_four_layers(self) -> None:
        layers = refimpl.blueprint("HuggingFaceTB/SmolLM3-3B").layers
        assert [i for i, layer in enumerate(layers) if layer.mixer.rope is None] == list(range(3, 36, 4))
        assert {layer.mixer.rope.theta for layer in layers if layer.mixer.rope} == {5e6}

    def test_a_change_to_a_blueprint_does_not_reach_the_release(self) -> None:
        name, key = "HuggingFaceTB/SmolLM3-3B", "no_rope_layers"
        assert refimpl.blueprint(name).config[key] is not refimpl.blueprint(name).config[key]


class TestCount:
    def test_by_hand(self) -> None:
        # attention 20·(48 + 16 + 16 + 48) + two norms of 8, MLP 3·20·28, two norms of 20; embedding, head, final norm
        layer = 20 * 128 + 16 + 3 * 20 * 28 + 40
        assert refimpl.blueprint(qwen3()).num_parameters() == 3 * layer + 2 * 53 * 20 + 20
        assert refimpl.blueprint(qwen3(tie_word_embeddings=True)).num_parameters() == 3 * layer + 53 * 20 + 20
        biased = refimpl.blueprint(qwen3(attention_bias=True)).num_parameters()
        assert biased == 3 * (layer + 48 + 16 + 16 + 20) + 2 * 53 * 20 + 20


class TestCacheBytes:
    @pytest.mark.parametrize(("dtype", "width"), [("bfloat16", 2), ("float16", 2), ("float32", 4), ("float64", 8)])
    def test_key_and_value_of_every_layer(self, dtype: str, width: int) -> None:
        # 3 layers, key and value, 2 heads of 8
        assert refimpl.blueprint(qwen3()).cache_bytes(100, dtype) == 100 * 3 * 2 * 2 * 8 * width

    def test_a_windowed_layer_keeps_its_window_alone(self) -> None:
        blueprint = refimpl.blueprint(qwen3(use_sliding_window=True, sliding_window=10, max_window_layers=1))
        assert blueprint.cache_bytes(7) == 7 * 3 * 64
        assert blueprint.cache_bytes(100) == (100 + 10 + 10) * 64

    def test_states_of_one_size_are_those_of_no_tokens(self) -> None:
        # 36 linear layers: 8192 channels of 3 inputs in the cache's format, 32 matrices of 128 x 128 in float32
        blueprint = refimpl.blueprint(QWEN3_NEXT)
        assert blueprint.cache_bytes(0) == 36 * (8192 * 3 * 2 + 32 * 128 * 128 * 4) == 77_266_944
        assert blueprint.cache_bytes(0, "float64") == 36 * 8 * (8192 * 3 + 32 * 128 * 128)
        # 12 layers with key and value, 2 heads of 256
        assert blueprint.cache_bytes(5) - blueprint.cache_bytes(0) == 5 * 12 * 2 * 2 * 256 * 2
        kimi = refimpl.blueprint(KIMI_LINEAR)
        assert kimi.cache_bytes(0) == 20 * (3 * 4096 * 3 * 2 + 32 * 128 * 128 * 4)
        assert kimi.cache_bytes(1) - kimi.cache_bytes(0) == 7 * (512 + 64) * 2

    def test_of_a_release(self) -> None:
        assert refimpl.blueprint("HuggingFaceTB/SmolLM3-3B").cache_bytes(seq_len=131072, dtype="bfloat16") == 9_663_676_416
        assert refimpl.blueprint("Qwen/Qwen3-4B").cache_bytes(1) == 147_456

    @pytest.mark.parametrize("seq_len", [-1, 1.5, "3", None])
    def test_a_wrong_length_is_one_sentence(self, seq_len) -> None:
        with pytest.raises(ValueError, match=f"^cache_bytes: seq_len is {seq_len!r} but needs a number of tokens, 0 or more$"):
            refimpl.blueprint(qwen3()).cache_bytes(seq_len)

    def test_a_wrong_dtype_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match=r"^dtype is 'int4' but must be one of float64, float32, bfloat16, float16$"):
            refimpl.blueprint(qwen3()).cache_bytes(1, "int4")


class TestFlops:
    def test_by_hand(self) -> None:
        # 2 a multiply-add: projections, scores and mixing over 6 heads of 8, MLP; the head; no look-up of the embedding
        layer = 2 * (20 * 128 + 3 * 20 * 28) + 2 * 2 * 10 * 6 * 8
        assert refimpl.blueprint(qwen3()).flops(10) == 3 * layer + 2 * 53 * 20
        assert refimpl.blueprint(qwen3(tie_word_embeddings=True)).flops(10) == 3 * layer + 2 * 53 * 20

    def test_a_window_bounds_the_context(self) -> None:
        blueprint = refimpl.blueprint(qwen3(use_sliding_window=True, sliding_window=10, max_window_layers=0))
        assert blueprint.flops(1000) == blueprint.flops(10)
        assert blueprint.flops(9) == blueprint.flops(10) - 3 * 2 * 2 * 6 * 8

    @pytest.mark.parametrize("context", [-1, 1.5, None])
    def test_a_wrong_context_is_one_sentence(self, context) -> None:
        with pytest.raises(ValueError, match=f"context is {context!r} but needs"):
            refimpl.blueprint(qwen3()).flops(context)


class TestRopes:
    def test_the_distinct_rotations_of_the_layers(self) -> None:
        assert [rope.theta for rope in refimpl.blueprint(smollm3()).ropes()] == [500.0]
        assert refimpl.blueprint(smollm3(no_rope_layers=[0] * 5)).ropes() == []


class TestSources:
    def test_a_release_a_file_a_directory_and_a_dict_are_the_same(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(qwen3()))
        found = [refimpl.blueprint(source) for source in (qwen3(), tmp_path, str(tmp_path), tmp_path / "config.json")]
        assert all(blueprint == found[0] for blueprint in found)

    def test_the_configuration_is_kept_as_published(self) -> None:
        assert refimpl.blueprint(qwen3(torch_dtype="bfloat16")).config == qwen3(torch_dtype="bfloat16")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "config.json: the file is not valid JSON"),
            ("[1]", "config.json: the file holds a JSON list but needs an object"),
            ("\x00", "config.json: the file is not valid JSON"),
            ('{"model_type": "qwen3", "model_type": "smollm3"}', "key 'model_type' appears "),
        ],
    )
    def test_a_broken_file_is_one_sentence(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            refimpl.blueprint(tmp_path)

    def test_a_directory_without_configuration_is_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no config.json in this directory$"):
            refimpl.blueprint(tmp_path)

    @pytest.mark.parametrize("missing", ["nowhere/config.json", Path("nowhere")])
    def test_a_missing_path_is_one_sentence(self, missing) -> None:
        with pytest.raises(ValueError, match=r"nowhere.*: no such file or directory$"):
            refimpl.blueprint(missing)

    @pytest.mark.parametrize("source", [None, 3, [1]])
    def test_something_else_is_one_sentence(self, source) -> None:
        with pytest.raises(ValueError, match=r"^got a .* but need a release name, a path or a configuration"):
            refimpl.blueprint(source)


class TestLint:
    def test_says_what_each_key_means(self) -> None:
        findings = {f.key: f.kind for f in lint(without(qwen3(use_cache=True, zzz=1), "rope_theta"))}
        assert (findings["hidden_size"], findings["rope_theta"]) == ("used", "default")
        assert findings["use_cache"] == "ignored"
        assert "error" in findings.values()

    def test_a_good_configuration_has_no_error(self) -> None:
        assert "error" not in {finding.kind for finding in lint(smollm3())}

    @pytest.mark.parametrize("values", [{}, {"model_type": "zzz"}, qwen3(vocab_size="3"), qwen3(head_dim=0)])
    def test_never_raises(self, values: dict) -> None:
        assert "error" in {finding.kind for finding in lint(values)}


class TestCard:
    def test_says_the_facts(self) -> None:
        facts = card(refimpl.blueprint(smollm3()))
        assert facts["layer plan"] == [
            "layers 0, 2-3: attention 4 heads of 6 on 2, RoPE 6 of base 500; gated MLP 36 (silu)",
            "layers 1, 4: attention 4 heads of 6 on 2, no positions (NoPE); gated MLP 36 (silu)",
        ]
        assert (facts["layers"], facts["head"]) == (5, "tied to the embedding")
        assert facts["cache bytes a token"] == 5 * 2 * 2 * 6 * 2
        assert "state bytes of any length" not in facts

    def test_states_of_one_size_are_apart_from_what_a_token_adds(self) -> None:
        blueprint = refimpl.blueprint(KIMI_LINEAR)
        facts, constant = card(blueprint), blueprint.cache_bytes(0)
        assert facts["state bytes of any length"] == constant
        assert facts["cache bytes a token"] == 7 * (512 + 64) * 2
        assert facts["expanded cache bytes a token"] == 7 * 32 * (192 + 128) * 2
        assert facts["cache bytes at 4096 tokens"] == 4096 * facts["cache bytes a token"] + constant
        assert facts["expanded cache bytes at 4096 tokens"] == 4096 * facts["expanded cache bytes a token"] + constant

    def test_says_what_linear_layers_are(self) -> None:
        hybrid, kimi = (card(refimpl.blueprint(name))["layer plan"] for name in (QWEN3_NEXT, KIMI_LINEAR))
        assert "layers 0-2, 4-6," in hybrid[0]
        assert ": gated delta net 32 heads of 128 x 128 on 16, convolution 4, decay a head; 10 of 512 experts" in hybrid[0]
        assert ": attention 16 heads of 256 on 2, RoPE 64 of base 1e+07, QK-norm, output gate; 10 of" in hybrid[1]
        assert kimi[0].startswith(
            "layers 0: Kimi delta attention 32 heads of 128 x 128, convolution 4, decay a channel; gated MLP"
        )
