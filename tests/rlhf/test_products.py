import copy

import pytest
import torch
from torch import nn

from rlhf.products import multiply_by_onednn

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
