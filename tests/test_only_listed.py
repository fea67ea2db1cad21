"""Which packages a list of packages brings along."""

from __future__ import annotations

from tests.only_listed import Package, closure


def package(*depends: tuple[str, ...], provides: tuple[str, ...] = (), everywhere: bool = False) -> Package:
    return Package(depends, provides, everywhere)


def test_what_packages_depend_on_comes_along_and_nothing_else() -> None:
    packages = {
        "base": package(("libc",), everywhere=True),
        "libc": package(),
        "compiler": package(("linker",), ("missing", "headers"), ("shell",)),
        "linker": package(("libc",)),
        "headers": package(),
        "dash": package(provides=("shell",)),
        "by-hand": package(("compiler",)),
    }
    assert closure(["compiler", "not-installed"], packages) == {"base", "libc", "compiler", "linker", "headers", "dash"}


def test_of_a_choice_the_first_that_is_there_comes_along() -> None:
    packages = {"editor": package(("small", "large")), "small": package(), "large": package()}
    assert closure(["editor"], packages) == {"editor", "small"}
