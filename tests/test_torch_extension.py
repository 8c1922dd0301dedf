"""The C++ extension: the same losses, past Python."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import elbokit
from elbokit.torch import (
    _extension,
    _extension_build,
    extension_is_loaded,
    gaussian_loss,
    load_extension,
    vae_loss,
)
from elbokit.torch._extension import without_extension

FILES = ("plain", "plain_vae_loss", "vae_loss", "direct", "gaussian_loss")


@pytest.fixture(scope="module", autouse=True)
def loaded() -> Iterator[None]:
    before = extension_is_loaded()
    load_extension()
    yield
    _extension._use(before)


def operands(n: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x, mu, logvar = (torch.randn(n, d, generator=generator).requires_grad_() for d in (7, 3, 3))
    return x, torch.rand(n, 7, generator=generator), mu, logvar


def is_by_extension(output: Tensor) -> bool:
    return type(output.grad_fn).__name__ == "CppFunction"


def gradients(given: tuple[Tensor, ...], scale: float = 1.0, **options: Any) -> Any:
    loss = scale * vae_loss(*given, **options).loss
    return torch.autograd.grad(loss, [x for x in given if x.requires_grad])


def test_other_tests_pass_without_it() -> None:
    here = Path(__file__).parent
    files = [str(here / f"test_torch_{name}.py") for name in FILES]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        capture_output=True,
        text=True,
        env={**os.environ, "ELBOKIT_TORCH_EXTENSION": "0"},
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("options", [{}, {"beta": 3}, {"beta": 10**30}, {"free_bits": 0.2}])
def test_same_bits(options: dict[str, Any], scale: float) -> None:
    given = operands()
    assert is_by_extension(vae_loss(*given, **options).loss)
    for _ in range(2):  # the second call finds what the first one left
        ours = gradients(given, scale, **options)
        with without_extension():
            assert not is_by_extension(vae_loss(*given, **options).loss)
            expected = gradients(given, scale, **options)
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_each_graph_has_its_own_options() -> None:
    given = operands()
    with without_extension():
        expected = [gradients(given, beta=beta) for beta in (0.5, 1.0, 2.0)]
    losses = [vae_loss(*given, beta=beta).loss for beta in (0.5, 1.0, 2.0)]
    leaves = [x for x in given if x.requires_grad]
    for loss, wanted in reversed(list(zip(losses, expected, strict=True))):
        got = torch.autograd.grad(loss, leaves)
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_operands_may_be_missing() -> None:
    x, target, *_ = operands()
    for logvar in (None, torch.zeros(5, 7, requires_grad=True)):
        loss = gaussian_loss(x, target, logvar)
        assert is_by_extension(loss)
        wanted = [x] if logvar is None else [x, logvar]
        got = torch.autograd.grad(loss, wanted, create_graph=True)
        with without_extension():
            loss = gaussian_loss(x, target, logvar)
            expected = torch.autograd.grad(loss, wanted, create_graph=True)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_the_memory_of_the_gradient_is_handed_out() -> None:
    """As it is for an upstream one of 1, multiplied in place for another, copied if kept."""
    given = operands()
    made: list[int] = []

    def attach(found: Any, *rest: Any) -> Any:
        made.append(found[-1][0].data_ptr())
        return real(found, *rest)

    real = _extension.attach
    with mock.patch.object(_extension, "attach", attach):
        for scale in (1.0, 0.25):
            (grad,) = torch.autograd.grad(scale * vae_loss(*given).loss, given[0])
            assert grad.data_ptr() == made[-1]
            loss = scale * vae_loss(*given).loss
            (first,) = torch.autograd.grad(loss, given[0], retain_graph=True)
            assert first.data_ptr() != made[-1]
            (last,) = torch.autograd.grad(loss, given[0])
            assert last.data_ptr() == made[-1]
            assert torch.equal(first, last)


def test_a_graph_that_is_gone_and_an_operand_that_changed() -> None:
    given = operands()
    loss = vae_loss(*given).loss
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()
    loss = vae_loss(*given).loss
    with torch.no_grad():
        given[2].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_hooks_of_saved_tensors_see_them() -> None:
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: seen.append(x) or x, lambda x: x):
        loss = vae_loss(*operands()).loss
    assert seen
    assert not is_by_extension(loss)


def test_errors_of_a_backward_come_through() -> None:
    loss = vae_loss(*operands()).loss
    with (
        mock.patch("elbokit.torch._plain.products", side_effect=ValueError("from within")),
        pytest.raises(ValueError, match="from within"),
    ):
        loss.backward(retain_graph=True)
    loss.backward()


def test_nothing_is_kept_of_a_graph_that_is_gone() -> None:
    given = operands()
    references = [weakref.ref(x) for x in given]
    loss = vae_loss(*given, beta=1.5).loss
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert all(x.grad is not None for x in given if x.requires_grad)
    del given, loss, thread
    gc.collect()
    assert all(reference() is None for reference in references)


def program(lines: str, **environment: str) -> str:
    """Run it where there is no compiler; return what it prints."""
    given = {k: v for k, v in os.environ.items() if k != "ELBOKIT_TORCH_EXTENSION"}
    run = subprocess.run(
        [sys.executable, "-c", lines],
        env={**given, "CXX": "no-such-compiler", **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


USE = """
import elbokit.torch as et, torch
print(et.extension_is_loaded())
loss = et.gaussian_kl(torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3))
print(type(loss.grad_fn).__name__)
"""
# As if torch had come after elbokit.
AFTER = """
import os, pathlib
os.environ["ELBOKIT_TORCH_EXTENSION"] = "0"
from elbokit.torch import _extension
_extension._installed_at = lambda: pathlib.Path("nowhere")
del os.environ["ELBOKIT_TORCH_EXTENSION"]
_extension.load_built()
"""


def test_programs_load_it_without_a_compiler(tmp_path: Path) -> None:
    if _extension._installed_at().exists():
        assert program(USE, ELBOKIT_CACHE_DIR=str(tmp_path)) == "True\nCppFunction\n"
    assert program(USE, ELBOKIT_TORCH_EXTENSION="0") == "False\n_GaussianKLBackward\n"


def test_the_versions_tell_whether_it_was_built(capsys: pytest.CaptureFixture[str]) -> None:
    elbokit.show_versions()
    printed = capsys.readouterr().out
    installed = _extension._installed_at().exists()
    assert (f"built with elbokit, for torch {torch.__version__}" in printed) == installed
    with mock.patch("elbokit._versions._installed", return_value="2.99"):
        elbokit.show_versions()
    assert "not built with elbokit for this torch" in capsys.readouterr().out


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with what `load_extension` leaves there."""
    name = _extension._kept_at().name
    (tmp_path / name).write_bytes(Path(_extension._module.__file__).read_bytes())
    return tmp_path


def test_programs_load_what_another_has_built(kept: Path) -> None:
    assert program(AFTER + USE, ELBOKIT_CACHE_DIR=str(kept)) == "True\nCppFunction\n"


def test_without_a_home_there_is_none() -> None:
    homeless = "import pathlib\ndef none(*_): raise RuntimeError\npathlib.Path.home = none\n"
    printed = program(homeless + AFTER + USE, ELBOKIT_CACHE_DIR="", XDG_CACHE_HOME="")
    assert printed.startswith("False\n")


def test_a_broken_file_is_named_and_made_anew(tmp_path: Path) -> None:
    broken = tmp_path / _extension._kept_at().name
    broken.write_bytes(b"not a library")
    printed = program(AFTER + USE, ELBOKIT_CACHE_DIR=str(tmp_path))
    assert printed.startswith("False\n")
    assert f"{broken} cannot be loaded" in printed
    module = _extension._module
    with (
        mock.patch.dict(os.environ, ELBOKIT_CACHE_DIR=str(tmp_path)),
        mock.patch.object(_extension, "_module", None),
        mock.patch.object(_extension, "_installed_at", return_value=tmp_path / "none"),
        mock.patch.object(_extension, "_build", return_value=module) as build,
    ):
        load_extension()
    build.assert_called_once_with(broken, False)


def test_a_compiler_that_is_missing_is_named(tmp_path: Path) -> None:
    lines = AFTER + "import elbokit.torch as e, torch\n"
    lines += "for _ in range(2):\n"
    lines += "    try: e.load_extension()\n    except RuntimeError as error: print(error)\n"
    lines += "assert not e.extension_is_loaded()\n"
    lines += "print(e.gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)))"
    printed = program(lines, ELBOKIT_CACHE_DIR=str(tmp_path))
    assert f"the C++ extension cannot be built against torch {torch.__version__}" in printed
    assert "no-such-compiler" in printed
    assert "tensor(0.)\n" in printed
    assert not list(tmp_path.iterdir())


BUILD = [sys.executable, "-I", _extension_build.__file__, str(_extension._SOURCES)]


def test_the_installation_names_and_builds_it(tmp_path: Path) -> None:
    """As ``cmake/torch_extension.cmake`` runs the builder, elbokit being not there yet."""
    named = subprocess.run(BUILD, capture_output=True, text=True)
    assert named.stdout == f"{_extension._kept_at().name}\n", named.stderr
    subprocess.run([*BUILD, "--into", str(tmp_path)], check=True, capture_output=True)
    lines = AFTER + "print(_extension._module.__file__)"
    printed = program(lines, ELBOKIT_CACHE_DIR=str(tmp_path))
    assert printed == f"{tmp_path / named.stdout}"


def test_a_program_builds_what_it_and_later_ones_load(tmp_path: Path) -> None:
    """Also one that has failed to before, for want of a compiler."""
    lines = AFTER + "try: _extension.load_extension()\nexcept RuntimeError: print('failed')\n"
    lines += "del os.environ['CXX']\n_extension.load_extension()\n"
    printed = program(lines + USE, ELBOKIT_CACHE_DIR=str(tmp_path))
    assert printed == "failed\nTrue\nCppFunction\n"
    assert program(AFTER + USE, ELBOKIT_CACHE_DIR=str(tmp_path)) == "True\nCppFunction\n"


@pytest.mark.parametrize("optional", [False, True])
def test_an_installation_without_it(optional: bool, tmp_path: Path) -> None:
    command = [*BUILD, "--into", str(tmp_path), *(["--optional"] if optional else [])]
    environment = {**os.environ, "CXX": "no-such-compiler"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == (0 if optional else 1)
    assert "elbokit goes without its C++ extension for torch" in run.stderr
    assert "no-such-compiler" in run.stderr
    assert not list(tmp_path.iterdir())
