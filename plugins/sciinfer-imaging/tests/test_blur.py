import pytest
import torch
from sciinfer_imaging.blur import GaussianBlur

from sciinfer.errors import ConfigError, ShapeError
from sciinfer.operators import check_operator

F64 = torch.float64


def gaussian(sd: float, half: int) -> torch.Tensor:
    weight = torch.exp(-0.5 * (torch.arange(-half, half + 1, dtype=F64) / sd) ** 2)
    return weight / weight.sum()


@pytest.mark.parametrize("border", ["periodic", "dark"])
@pytest.mark.parametrize("shape", [(8, 8), (7, 12), (1, 5)])
def test_self_check(border: str, shape: tuple[int, int]) -> None:
    check_operator(GaussianBlur(shape, sd=(0.7, 1.3), border=border))


def test_point_source_gives_the_gaussian() -> None:
    image = torch.zeros(31, 31, dtype=F64)
    image[15, 15] = 1.0
    want = torch.outer(gaussian(1.5, 15), gaussian(1.5, 15))
    torch.testing.assert_close(GaussianBlur((31, 31), sd=1.5)(image), want, atol=1e-12, rtol=0)


def test_dark_border_equals_the_direct_sum() -> None:
    image = torch.rand(9, 9, dtype=F64, generator=torch.Generator().manual_seed(0))
    kernel = gaussian(1.0, 4)
    padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
    want = torch.nn.functional.conv2d(padded[None, None], torch.outer(kernel, kernel)[None, None])[0, 0]
    torch.testing.assert_close(GaussianBlur((9, 9), sd=1.0, border="dark")(image), want, atol=1e-12, rtol=0)


def test_periodic_keeps_the_total() -> None:
    image = torch.rand(3, 8, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(GaussianBlur((8, 6), sd=2.0)(image).sum((1, 2)), image.sum((1, 2)))


@pytest.mark.parametrize("sd", [0.0, -1.0, float("nan"), (1.0, 0.0)])
def test_bad_width(sd: object) -> None:
    with pytest.raises(ConfigError, match="positive"):
        GaussianBlur((4, 4), sd=sd)  # type: ignore[arg-type]


def test_bad_border_and_shape() -> None:
    with pytest.raises(ConfigError, match="border"):
        GaussianBlur((4, 4), border="grey")  # type: ignore[arg-type]
    with pytest.raises(ShapeError) as caught:
        GaussianBlur((4, 4))(torch.zeros(4, 5))
    assert caught.value.dim == "x"
