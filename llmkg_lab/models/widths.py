"""The width of a layer that is a fraction of another one's."""


def divisible(value: float, divisor: int) -> int:
    """``value`` rounded to a multiple of ``divisor``, by no more than a tenth downwards.

    The rule of MobileNet's channel counts (Howard et al., 2017, arXiv:1704.04861), which OpenELM's
    widths follow.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
