"""zsl_tagger/model/ml_decoder.py. Sizes are unequal (and mostly prime), so that no swapped axis passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from zsl_tagger.model import ml_decoder
from zsl_tagger.model.ml_decoder import DEFAULT_GROUPS, MLDecoder

pytestmark = pytest.mark.slow

B, L, C, D, K, WORD_DIM = 2, 7, 13, 24, 11, 5
VARIANTS = {
    "closed set, a group per class": {"num_classes": K, "groups": K},
    "closed set, default groups": {"num_classes": K},
    "closed set, groups do not divide": {"num_classes": K, "groups": 4},
    "closed set, a group left over": {"num_classes": 5, "groups": 4},
    "closed set, one group": {"num_classes": K, "groups": 1},
    "word queries": {"word_dim": WORD_DIM},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


def make_head(*, seed: int = 0, **options: Any) -> MLDecoder:
    """A small head in evaluation mode; every parameter is random, the biases and norms too."""
    torch.manual_seed(seed)
    head = MLDecoder(C, **{"dim": D, "ffn_dim": 17, "heads": 3} | options).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return head


def make_inputs(head: MLDecoder, *, images: int = B, labels: int = K) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    words = None if head.word_dim is None else torch.randn(labels, head.word_dim, generator=generator)
    return torch.randn(images, L, C, generator=generator), words


@each_variant
@pytest.mark.parametrize("heads", [3, 8])
def test_equals_the_reference(variant: dict[str, int], heads: int) -> None:
    head = make_head(heads=heads, **variant)
    tokens, words = make_inputs(head)
    expected_logits, expected_attention = reference.ml_decoder(head.state_dict(), heads, tokens, words)
    with torch.no_grad():
        logits = head(tokens, words)
        same_logits, attention = head.score_with_attention(head.embed_tokens(tokens), words)
    assert logits.std() > 0.1  # the comparison is not of constants
    assert_close(logits.double(), expected_logits, atol=1e-5, rtol=0)
    assert_close(same_logits.double(), expected_logits, atol=1e-5, rtol=0)
    assert_close(attention.double(), expected_attention, atol=1e-5, rtol=0)
    assert_close(attention.sum(-1), torch.ones(attention.shape[:2]))


@pytest.mark.parametrize(
    ("num_classes", "groups", "group_weight"),
    [(2001, 2000, (2000, 8, 2)), (2001, None, (DEFAULT_GROUPS, 8, 21)), (7, None, (7, 8, 1))],
)
def test_closed_set_sizes(num_classes: int, groups: int | None, group_weight: tuple[int, int, int]) -> None:
    head = MLDecoder(C, num_classes=num_classes, groups=groups, dim=8, ffn_dim=3, heads=2)
    assert tuple(head.group_weight.shape) == group_weight
    assert head(torch.randn(B, L, C)).shape == (B, num_classes)


FIXED = make_head(word_dim=WORD_DIM)
TOKENS, WORDS = make_inputs(FIXED, images=5)
with torch.no_grad():
    LOGITS = FIXED(TOKENS, WORDS)


def some_of(count: int) -> st.SearchStrategy[list[int]]:
    """Any order, any number, repeats included."""
    return st.lists(st.integers(0, count - 1), min_size=1, max_size=count)


@settings(max_examples=40, deadline=None)
@given(images=some_of(5), labels=some_of(K))
def test_a_logit_depends_on_its_image_and_label_alone(images: list[int], labels: list[int]) -> None:
    assert WORDS is not None
    with torch.no_grad():
        logits = FIXED(TOKENS[images], WORDS[labels])
    assert_close(logits, LOGITS[images][:, labels], atol=1e-5, rtol=0)


@each_variant
def test_an_image_does_not_depend_on_the_batch(variant: dict[str, int]) -> None:
    head = make_head(**variant)
    tokens, words = make_inputs(head, images=5)
    with torch.no_grad():
        together = head(tokens, words)
        alone = torch.cat([head(image[None], words) for image in tokens])
    assert_close(alone, together, atol=1e-5, rtol=0)


@each_variant
def test_dropout_only_in_training(variant: dict[str, int]) -> None:
    head = make_head(dropout=0.5, **variant)
    inputs = make_inputs(head)
    with torch.no_grad():
        assert torch.equal(head(*inputs), head(*inputs))
        head.train()
        assert not torch.equal(head(*inputs), head(*inputs))


@each_variant
def test_gradients_reach_every_parameter(variant: dict[str, int]) -> None:
    head = make_head(**variant).train()
    head(*make_inputs(head)).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    # A bias on the keys adds the same to all scores of a query: softmax ignores it, its gradient is zero.
    del gradients["layer.attention.k.bias"]
    assert [name for name, gradient in gradients.items() if gradient is None or gradient.abs().max() < 1e-5] == []


@pytest.mark.parametrize(
    ("options", "std"),
    [
        ({"num_classes": 80}, 0.0486),  # sqrt(2 / ((768 + G) f)) with G groups of f classes
        ({"num_classes": 1000, "groups": 100}, 0.0152),
        ({"num_classes": 9605, "groups": 200}, 0.00649),
        ({"word_dim": WORD_DIM}, 0.0510),
    ],
)
def test_initial_weights_spread_as_the_released_ones(options: dict[str, int], std: float) -> None:
    """Beside torch's own attention, which the released head has."""
    torch.manual_seed(0)
    head, released = MLDecoder(C, **options), torch.nn.MultiheadAttention(768, 8)
    assert head.group_weight.std().item() == pytest.approx(std, rel=0.06 if "word_dim" in options else 0.01)
    attention = head.layer.attention
    for linear in (attention.q, attention.k, attention.v):
        assert linear.weight.std().item() == pytest.approx(0.0255, rel=0.01)
        assert linear.weight.max().item() == pytest.approx(released.in_proj_weight.max().item(), rel=1e-3)
        assert not linear.bias.any()
    assert attention.out.weight.std().item() == pytest.approx(released.out_proj.weight.std().item(), rel=0.01)
    assert torch.equal(attention.out.bias, released.out_proj.bias)
    assert not head.bias.any()


def test_group_queries_are_saved_and_never_trained() -> None:
    head = make_head(num_classes=K, groups=4)
    head(make_inputs(head)[0]).sum().backward()
    assert "group_queries" in head.state_dict()
    assert "group_queries" not in dict(head.named_parameters())
    assert not head.group_queries.requires_grad
    assert head.group_queries.grad is None


@each_variant
def test_saved_and_loaded_head_gives_the_same_logits(variant: dict[str, int], tmp_path: Path) -> None:
    head, other = make_head(**variant), make_head(seed=2, **variant)
    inputs = make_inputs(head)
    assert not torch.allclose(other(*inputs), head(*inputs))
    save_file(head.state_dict(), tmp_path / "head.safetensors")
    other.load_state_dict(load_file(tmp_path / "head.safetensors"))
    assert torch.equal(other(*inputs), head(*inputs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": K, "heads": 5}, "expected heads to divide the width, got dim=24 and heads=5"),
        ({"num_classes": K, "groups": 12}, "expected 1 <= groups <= num_classes=11, got groups=12"),
        ({"num_classes": K, "groups": 0}, "expected 1 <= groups <= num_classes=11, got groups=0"),
        ({"num_classes": 0}, "expected at least one class, got num_classes=0"),
        ({}, "give exactly one of num_classes .* and word_dim"),
        ({"num_classes": K, "word_dim": WORD_DIM}, "give exactly one of num_classes .* and word_dim"),
        ({"word_dim": WORD_DIM, "groups": 4}, "groups belong to a closed set"),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_head(**options)


@pytest.mark.parametrize(
    ("variant", "tokens", "queries", "message"),
    [
        ({"num_classes": K}, (B, L, C), (K, WORD_DIM), "closed set of classes: call it without queries"),
        ({"word_dim": WORD_DIM}, (B, L, C), (0, 5), r"expected at least one query, got \(0, 5\): give labels"),
        ({"word_dim": WORD_DIM}, (B, L, C), None, r"expected queries \(K, 5\), got None"),
        ({"word_dim": WORD_DIM}, (B, L, C), (K, 6), r"expected queries \(K, 5\), got \(11, 6\)"),
        ({"word_dim": WORD_DIM}, (B, L, C), (3, 5, 5), r"expected queries \(K, 5\), got \(3, 5, 5\)"),
        ({"num_classes": K}, (B, C), None, r"expected tokens \(B, L, 13\), got \(2, 13\)"),
        ({"num_classes": K}, (B, C, 3, 3), None, r"expected tokens \(B, L, 13\), got \(2, 13, 3, 3\)"),
        ({"num_classes": K}, (B, C, L), None, r"expected tokens \(B, L, 13\), got \(2, 13, 7\)"),
    ],
)
def test_inputs_that_do_not_fit(
    variant: dict[str, int], tokens: tuple[int, ...], queries: tuple[int, ...] | None, message: str
) -> None:
    head = make_head(**variant)
    with pytest.raises(ValueError, match=message):
        head(torch.zeros(tokens), None if queries is None else torch.zeros(queries))


# --- prepared queries, chunks ------------------------------------------------------------------------------------


@each_variant
def test_prepared_queries_give_the_same_logits(variant: dict[str, int]) -> None:
    head = make_head(**variant)
    tokens, words = make_inputs(head)
    prepared = head.prepare(words)
    assert len(prepared) == (K if words is not None else len(head.group_queries))
    assert_close(head(tokens, prepared), head(tokens, words), atol=1e-6, rtol=0)


def change_by_step(head: MLDecoder) -> None:
    with torch.no_grad():
        head.layer.attention.q.weight.add_(0.5)


def change_by_loading(head: MLDecoder) -> None:
    head.load_state_dict(make_head(seed=3, word_dim=head.word_dim, num_classes=head.num_classes).state_dict())


def change_precision(head: MLDecoder) -> None:
    head.double().float()


@pytest.mark.parametrize("change", [change_by_step, change_by_loading, change_precision])
def test_queries_prepared_with_other_weights_are_refused(change: Callable[[MLDecoder], None]) -> None:
    head = make_head(word_dim=WORD_DIM)
    tokens, words = make_inputs(head)
    prepared = head.prepare(words)
    change(head)
    with pytest.raises(ValueError, match=r"prepared in evaluation with these weights .* call prepare\(\) again"):
        head(tokens, prepared)
    head(tokens, head.prepare(words))
    with pytest.raises(ValueError, match="prepared in evaluation"):
        head.train()(tokens, head.prepare(words))


@torch.no_grad()
@pytest.mark.parametrize("change", [change_by_step, change_by_loading, change_precision])
def test_what_a_closed_set_keeps_is_of_its_weights(change: Callable[[MLDecoder], None]) -> None:
    head = make_head(num_classes=K)
    tokens, _ = make_inputs(head)
    before = head(tokens)
    assert head._kept is not None
    assert torch.equal(head(tokens), before)
    change(head)
    with torch.enable_grad():  # computes all of it anew
        expected = head(tokens)
    assert_close(head(tokens), expected.detach(), atol=1e-6, rtol=0)


@torch.no_grad()
@each_variant
def test_chunks_of_queries_change_nothing(variant: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head(**variant)
    inputs = make_inputs(head)
    expected = head(*inputs)
    for pairs in (1, 2 * B, 3 * B + 1):
        monkeypatch.setattr(ml_decoder, "PAIRS_AT_ONCE", pairs)
        assert_close(head(*inputs), expected, atol=1e-5, rtol=0)


def test_memory_does_not_grow_with_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor that is made is of one chunk, whatever the number of labels."""
    monkeypatch.setattr(ml_decoder, "PAIRS_AT_ONCE", 64)
    head = make_head(word_dim=WORD_DIM)
    sizes: list[int] = []
    head.layer.linear1.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.numel()))
    with torch.no_grad():
        assert head(*make_inputs(head, labels=1009)).shape == (B, 1009)
    assert max(sizes) == 64 * 17
    assert len(sizes) == -(-1009 // (64 // B))


# --- numerics ----------------------------------------------------------------------------------------------------


def test_gradients_equal_finite_differences() -> None:
    for variant in VARIANTS.values():
        head = make_head(**variant).double()
        tokens, words = make_inputs(head)
        inputs = [tokens.double().requires_grad_(), *([] if words is None else [words.double().requires_grad_()])]
        assert torch.autograd.gradcheck(head, inputs)


@each_variant
@pytest.mark.parametrize("size", [1.0, 1e4, 3e7])
def test_float16_autocast_does_not_overflow(variant: dict[str, int], size: float) -> None:
    """Tokens of any size: beyond the first embedding the decoder depends on them through a softmax and norms."""
    head = make_head(**variant)
    tokens, words = make_inputs(head)
    with torch.no_grad():
        expected = head(tokens * size, words)
        with torch.autocast("cpu", torch.float16):
            logits = head(tokens * size, words)
    assert logits.isfinite().all()
    assert_close(logits.float(), expected, atol=0.05, rtol=0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inputs_that_are_no_numbers(bad: float) -> None:
    head = make_head(word_dim=WORD_DIM)
    tokens, words = make_inputs(head)
    assert words is not None
    spoilt = tokens.clone()
    spoilt[1, 2, 3] = bad
    with pytest.raises(
        ValueError, match="expected tokens that are finite numbers, got NaN or infinite ones: check the"
    ):
        head(spoilt, words)
    spoilt = words.clone()
    spoilt[4, 1] = bad
    with pytest.raises(ValueError, match=r"expected logits that are finite numbers, got NaN .* check the queries"):
        head(tokens, spoilt)
    assert not head.train()(tokens, spoilt).isfinite().all()  # in training the loss shows it


# --- graphs ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@each_variant
def test_compiles_to_one_graph(variant: dict[str, int]) -> None:
    head = make_head(**variant)
    inputs = make_inputs(head)
    torch.compiler.reset()  # a head of another kind would count as a recompilation
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
    assert_close(compiled(*inputs), head(*inputs), atol=1e-6, rtol=0)
    with torch.no_grad():
        assert_close(compiled(*inputs), head(*inputs), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_torch_export_with_any_batch_places_and_labels() -> None:
    head = make_head(word_dim=WORD_DIM)
    inputs = make_inputs(head)
    batch, places, labels = (torch.export.Dim(name) for name in ("batch", "places", "labels"))
    exported = torch.export.export(head, inputs, dynamic_shapes=({0: batch, 1: places}, {0: labels})).module()
    tokens, words = torch.randn(5, 3, C), torch.randn(17, WORD_DIM)
    assert_close(exported(tokens, words), head(tokens, words), atol=1e-6, rtol=0)
