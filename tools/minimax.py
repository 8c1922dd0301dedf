"""Minimax polynomial coefficients used in ``cpp/math/elementary.h``.

Run ``python tools/minimax.py`` (needs mpmath) to print every table of that header
with the largest error it leaves. The exchange algorithm is Remez's (1934): solve for
the polynomial whose weighted error alternates on degree + 2 points, move the points to
the error's extrema, repeat.
"""

from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 60
Function = Callable[[mp.mpf], mp.mpf]


def remez(
    f: Function, weight: Function, low: mp.mpf, high: mp.mpf, degree: int
) -> tuple[list[mp.mpf], mp.mpf]:
    """Coefficients c (ascending) minimising max |weight(x) (f(x) - sum c_i x^i)|."""
    n = degree + 2
    grid = [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * i / 2000) for i in range(2001)]
    points = [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * i / (n - 1)) for i in range(n)]
    values = [(x, f(x), weight(x)) for x in grid]
    for _ in range(12):
        rows = mp.matrix(n, n)
        right = mp.matrix(n, 1)
        for i, x in enumerate(points):
            for j in range(degree + 1):
                rows[i, j] = x**j
            rows[i, degree + 1] = (-1) ** i / weight(x)
            right[i] = f(x)
        solution = mp.lu_solve(rows, right)
        c = [solution[j] for j in range(degree + 1)]
        errors = [(w * (y - mp.polyval(c[::-1], x)), x) for x, y, w in values]
        # One extremum per run of equal sign.
        extrema = [errors[0]]
        for error in errors[1:]:
            if (error[0] > 0) == (extrema[-1][0] > 0):
                extrema[-1] = max(extrema[-1], error, key=lambda e: abs(e[0]))
            else:
                extrema.append(error)
        while len(extrema) > n:
            extrema.pop(0 if abs(extrema[0][0]) < abs(extrema[-1][0]) else -1)
        if len(extrema) < n:
            break
        points = [x for _, x in extrema]
    return c, max(abs(e) for e, _ in errors)


def series(f: Function) -> Function:
    """``f`` with its removable singularity at 0 replaced by a value nearby."""
    return lambda x: f(x if abs(x) > mp.mpf("1e-18") else mp.mpf("1e-18"))


def _share_of_log1p(u: mp.mpf) -> mp.mpf:
    return (1 + u) * mp.log1p(u) / u if u > mp.mpf("1e-20") else mp.mpf(1)


HALF_LN2 = mp.log(2) / 2 * mp.mpf("1.0001")
# Degrees for float and double; None where the header has another way.
TABLES: dict[str, tuple[Function, Function, mp.mpf, mp.mpf, int, int | None]] = {
    # e^r - 1 = r + r^2 p(r), relative error
    "expm1": (
        series(lambda r: (mp.expm1(r) - r) / r**2),
        lambda r: abs(r) + mp.mpf("1e-6"),  # r^2 / expm1(r), kept off 0
        -HALF_LN2,
        HALF_LN2,
        5,
        10,
    ),
    # e^r = 1 + r + r^2 p(r), relative error
    "exp": (
        series(lambda r: (mp.expm1(r) - r) / r**2),
        lambda r: r * r / mp.exp(r) + mp.mpf("1e-9"),
        -HALF_LN2,
        HALF_LN2,
        4,
        None,
    ),
    # the same for |r| <= ln(2) / 16
    "exp_eighth": (
        series(lambda r: (mp.expm1(r) - r) / r**2),
        lambda r: r * r / mp.exp(r) + mp.mpf("1e-9"),
        -HALF_LN2 / 8,
        HALF_LN2 / 8,
        2,
        5,
    ),
    "exp_sixteenth": (
        series(lambda r: (mp.expm1(r) - r) / r**2),
        lambda r: r * r / mp.exp(r) + mp.mpf("1e-9"),
        -HALF_LN2 / 16,
        HALF_LN2 / 16,
        1,
        None,
    ),
    # log(1 + u) = u / (1 + u) p(u - 1/2), relative error
    "log1p": (
        lambda v: _share_of_log1p(v + mp.mpf("0.5")),
        lambda v: 1 / _share_of_log1p(v + mp.mpf("0.5")),
        -mp.mpf("0.5"),
        mp.mpf("0.5"),
        7,
        None,
    ),
    # 2^f = 1 + f p(f), relative error
    "exp2": (
        series(lambda x: (mp.power(2, x) - 1) / x),
        lambda x: abs(x) + mp.mpf("1e-6"),
        mp.mpf("-0.50001"),
        mp.mpf("0.50001"),
        5,
        10,
    ),
    # the same for |f| <= 1/16
    "exp2_eighth": (
        series(lambda x: (mp.power(2, x) - 1) / x),
        lambda x: abs(x) + mp.mpf("1e-6"),
        mp.mpf("-0.062501"),
        mp.mpf("0.062501"),
        2,
        6,
    ),
    "exp2_sixteenth": (
        series(lambda x: (mp.power(2, x) - 1) / x),
        lambda x: abs(x) + mp.mpf("1e-6"),
        mp.mpf("-0.031251"),
        mp.mpf("0.031251"),
        2,
        None,
    ),
    # 2 atanh(s) = 2 s + s^3 p(s^2), |s| <= 3 - 2 sqrt 2, in z = s^2, relative error
    "atanh": (
        series(lambda z: (2 * mp.atanh(mp.sqrt(z)) / mp.sqrt(z) - 2) / z),
        lambda z: z,
        mp.mpf(0) + mp.mpf("1e-12"),
        (3 - 2 * mp.sqrt(2)) ** 2 * mp.mpf("1.001"),
        2,
        6,
    ),
}

if __name__ == "__main__":
    for name, (f, weight, low, high, single, double) in TABLES.items():
        for kind, degree in (("float", single), ("double", double)):
            if degree is None:
                continue
            coefficients, error = remez(f, weight, low, high, degree)
            print(f"{name} {kind}: degree {degree}, error {mp.nstr(error, 3)}")
            for c in coefficients:
                print(f"    {mp.nstr(c, 9 if kind == 'float' else 18)},")
