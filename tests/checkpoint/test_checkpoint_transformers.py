"""The peer that everyone loads checkpoints with: it reads what is written here, and the reverse."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from refimpl.checkpoint import open_checkpoint, save_checkpoint

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A tiny bfloat16 model, as transformers saves it in shards."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=37,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=10,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    directory = tmp_path / "written"
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(directory, max_shard_size=4000)
    return directory


def test_reads_what_transformers_writes(written: Path) -> None:
    import torch
    from transformers import Qwen3ForCausalLM

    checkpoint = open_checkpoint(written)
    parameters = dict(Qwen3ForCausalLM.from_pretrained(written, dtype=torch.bfloat16).named_parameters())
    assert len({info.file for info in checkpoint.tensors.values()}) > 1
    assert set(checkpoint.tensors) == set(parameters)
    for name, parameter in parameters.items():
        array = checkpoint.read(name)
        assert array.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(array.astype(np.float32), parameter.detach().float().numpy())


@pytest.mark.parametrize("max_shard_bytes", [None, 4000])
def test_transformers_reads_what_is_written(written: Path, tmp_path: Path, max_shard_bytes: int | None) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    checkpoint = open_checkpoint(written)
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    save_checkpoint(tmp_path / "copy", checkpoint.config, tensors, max_shard_bytes=max_shard_bytes)
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "copy", dtype=torch.bfloat16, output_loading_info=True)
    assert not any(report.values())
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(tensors)
    for name, parameter in parameters.items():
        np.testing.assert_array_equal(parameter.detach().float().numpy(), tensors[name].astype(np.float32))
