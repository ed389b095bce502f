import copy
import threading

import pytest
import torch
from torch import nn

from rlhf.modeling.cpu.onednn import cached_weight_layouts, multiply_by_onednn

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def both(request):
    """A layer as it is, and a copy whose products are oneDNN's."""
    torch.manual_seed(0)
    layer = nn.Linear(96, 192, bias=request.param)
    return layer, multiply_by_onednn(copy.deepcopy(layer))


def gradients(layer, x, gradient):
    x = x.clone().requires_grad_()
    output = layer(x)
    output.backward(gradient)
    return [output, x.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("rows", [(50,), (4, 7), (3, 1)])
def test_outputs_and_gradients_are_those_of_the_layer(both, rows):
    x, gradient = torch.randn(*rows, 96), torch.randn(*rows, 192)
    for expected, got in zip(*(gradients(layer, x, gradient) for layer in both), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert both[1].forward.__func__ is not nn.Linear.forward


def test_strided_inputs_and_gradients(both):
    x, gradient = torch.randn(96, 50).t(), torch.randn(192, 50).t()
    for expected, got in zip(*(gradients(layer, x, gradient) for layer in both), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_frozen_layer_hands_its_gradient_on(both):
    for layer in both:
        layer.requires_grad_(False)
    x, gradient = torch.randn(5, 96), torch.randn(5, 192)
    for expected, got in zip(*(gradients(layer, x, gradient)[:2] for layer in both), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert both[1].weight.grad is None


def test_a_copy_has_weights_of_its_own(both):
    copied = copy.deepcopy(both[1])
    with torch.no_grad():
        copied.weight.zero_()
    x = torch.randn(5, 96)
    assert not torch.equal(copied(x), both[1](x))


def test_other_precisions_and_small_layers_are_left_as_they_are(both):
    x = torch.randn(5, 96)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(both[1](x), both[0](x))
    doubled = [copy.deepcopy(layer).double() for layer in both]
    assert torch.equal(doubled[1](x.double()), doubled[0](x.double()))
    assert "forward" not in vars(multiply_by_onednn(nn.Linear(8, 8)))


@pytest.mark.parametrize("rows", [(50,), (4, 7), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kept_layout_gives_the_bits_of_torchs_own_bf16(both, rows, dtype):
    x = torch.randn(*rows, 96).to(dtype)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = both[0](x)
        with cached_weight_layouts():
            for _ in range(2):
                got = both[1](x)
                assert (got.dtype, got.shape) == (torch.bfloat16, (*rows, 192))
                assert torch.equal(got, expected)


def test_layouts_are_kept_as_long_as_the_outermost_block_only(both):
    layer, x = both[1], torch.randn(5, 96)

    def output():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), cached_weight_layouts():
            return layer(x)

    with cached_weight_layouts():
        before = output()
        with torch.no_grad():
            layer.weight.mul_(2)
        assert torch.equal(output(), before), "no weight may change inside, and none is looked at again"
    assert not torch.equal(output(), before)


def test_a_weight_that_is_bf16_already_is_not_held_twice(both, monkeypatch):
    monkeypatch.setattr("rlhf.modeling.cpu.onednn._layout", lambda *_: pytest.fail("a layout was kept"))
    plain, layer = (copy.deepcopy(layer).bfloat16() for layer in both)
    x = torch.randn(5, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), cached_weight_layouts():
        assert torch.equal(layer(x), plain(x))


def test_what_learns_and_what_other_threads_do_is_left_to_torch(both, monkeypatch):
    monkeypatch.setattr("rlhf.modeling.cpu.onednn._layout", lambda *_: pytest.fail("a layout was kept"))
    x, gradient, seen = torch.randn(5, 96), torch.randn(5, 192), []

    def in_another_thread():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            seen.append(both[1](x))

    with cached_weight_layouts():
        with torch.autocast("cpu", torch.bfloat16):
            for expected, got in zip(*(gradients(layer, x, gradient.bfloat16()) for layer in both), strict=True):
                assert torch.equal(got, expected)
        thread = threading.Thread(target=in_another_thread)
        thread.start()
        thread.join()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(seen[0], both[0](x))
