import torch
from torch.nn import functional

from harness.benchmarks.products import Operand, bare, record, time_share
from harness.benchmarks.roofline import operations_of


def test_products_are_recorded_at_their_shapes_forward_and_backward() -> None:
    x, weight, bias = torch.rand(2, 3, 5), torch.rand(2, 5, 7, requires_grad=True), torch.rand(2, 1, 7)
    found = record(lambda: torch.autograd.grad(torch.baddbmm(bias, x, weight).sum(), [weight]))
    assert [product.function for product in found] == [torch.bmm, torch.bmm]
    assert [operand.shape for operand in found[0].arguments] == [(2, 3, 5), (2, 5, 7)]
    assert [operand.shape for operand in found[1].arguments] == [(2, 5, 3), (2, 3, 7)]
    assert found[1].arguments[0].transposed


def test_bare_products_have_the_operations_of_what_was_recorded() -> None:
    x, weight = torch.rand(4, 6), torch.rand(6, 3, requires_grad=True)
    images, kernel = torch.rand(2, 3, 8, 8), torch.rand(4, 3, 3, 3, requires_grad=True)

    def work() -> None:
        torch.autograd.grad(torch.relu(x @ weight).square().sum(), [weight])
        torch.autograd.grad(functional.conv2d(images, kernel).square().sum(), [kernel])

    assert operations_of(bare(record(work), 5)) == 5 * operations_of(work) > 0


def test_a_random_operand_lies_in_memory_as_the_recorded_one() -> None:
    tensor = torch.rand(3, 4, 5, dtype=torch.float64).mT
    copy = Operand.of(tensor).random()
    assert (copy.shape, copy.stride(), copy.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)


def test_the_time_share_tells_products_from_other_work() -> None:
    x = torch.rand(400, 400)
    assert time_share(lambda: [torch.mm(x, x) for _ in range(20)]) > 0.5
    assert time_share(lambda: [x.sin() for _ in range(20)]) == 0
