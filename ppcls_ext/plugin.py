"""PaddleClas integration: the only file that imports it, from a checkout on ``sys.path`` or from the wheel.

`put_into_namespace` puts our models among PaddleClas's architectures, so that its unmodified trainer builds them from
YAML; `build_toolkit_network` takes PaddleClas's architectures the other way, into our trainer.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.signature import REQUIRED, Parameter

# What this module put into a namespace, so that it never takes the place of anything else.
_registered: dict[tuple[str, str], type] = {}


# Make PaddleClas download a pickle, or unpickle a file: weights come in through our own loader only.
DOWNLOADS = ("pretrained", "use_ssld")
# PaddleClas evaluates some texts (norm_layer, act, lr_mult_list): a name alone, its own or a layer's, calls nothing.
_PLAIN_NAME = re.compile(r"(nn\.)?\w*(\[\d+\])?", re.ASCII)

# The class of a model of ours for the arguments of a configuration, and all arguments of that class.
NetworkOf = Callable[[str, Mapping[str, Any]], type]
ArgumentsOf = Callable[[str, Mapping[str, Any]], dict[str, Any]]


def find_toolkit() -> str | None:
    """Returns the name of the architecture package that Python would import, or ``None`` if there is no PaddleClas.

    A checkout goes first: with its root on ``sys.path``, ``paddleclas`` is no longer the wheel but the file
    ``paddleclas.py`` of the checkout.
    """
    wheel, checkout = _folder_of("paddleclas"), _folder_of("ppcls")
    if checkout and (checkout / "arch" / "__init__.py").is_file() and (wheel is None or checkout.parent != wheel):
        return "ppcls.arch"
    if wheel and (wheel / "ppcls" / "arch" / "__init__.py").is_file():
        return "paddleclas.ppcls.arch"
    return None


def _folder_of(package: str) -> Path | None:
    try:
        specification = importlib.util.find_spec(package)
    except ValueError:  # A module of that name stands in sys.modules without a specification.
        return None
    locations = specification.submodule_search_locations if specification else None
    return Path(next(iter(locations))).resolve() if locations else None


def _import_toolkit() -> ModuleType:
    package = find_toolkit()
    if package is None:
        raise UserError("PaddleClas is not there: install paddleclas, or put the root of a checkout on PYTHONPATH")
    return importlib.import_module(package)


def toolkit_architectures() -> list[str]:
    """Returns the sorted names of PaddleClas's architectures; none if PaddleClas is not there."""
    if find_toolkit() is None:
        return []
    from paddle import nn

    backbone = _import_toolkit().backbone
    # What it imports from its packages of networks; what we registered is not its own.
    return sorted(
        name
        for name, value in vars(backbone).items()
        if (inspect.isfunction(value) or (inspect.isclass(value) and issubclass(value, nn.Layer)))
        and value.__module__.startswith(f"{backbone.__name__}.")
        and name != "TheseusLayer"
    )


def build_toolkit_network(name: str, arguments: Mapping[str, Any]) -> Any:
    """Builds PaddleClas's architecture ``name`` with random weights; the arguments may come from anybody's file.

    Raises:
        ValueError: a text among them is more than a name, which PaddleClas might evaluate, or a value is refused.
    """
    for argument, value in arguments.items():
        for text in _texts_in(value):
            if not _PLAIN_NAME.fullmatch(text):
                allowed = "PaddleClas evaluates texts: only names such as nn.LayerNorm or relu are allowed"
                raise ValueError(f"{argument}: {allowed}, got {text!r}")
    build = _architecture(name)
    # A few download unless they are told not to.
    own = {word: False for word in DOWNLOADS if word in inspect.signature(build).parameters}
    try:
        return build(**arguments, **own)
    except (ArithmeticError, AttributeError, LookupError, NameError, TypeError) as error:
        if "multiple values for" in str(error):
            # What the row of the table fixes cannot be given again.
            message = f"{name}: {str(error).partition('() ')[2]}: the architecture fixes it itself"
            raise ValueError(message) from error
        raise ValueError(f"{name} refuses a value: {error}") from error


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in [*value, *value.values()] if isinstance(value, Mapping) else value:
            yield from _texts_in(part)


def _architecture(name: str) -> Any:
    """Returns PaddleClas's class or function that builds architecture ``name``."""
    return getattr(_import_toolkit().backbone, name)


def toolkit_parameters(name: str) -> dict[str, Parameter]:
    """Returns what PaddleClas's architecture ``name`` takes.

    Most are functions ``Name(pretrained=False, use_ssld=False, **kwargs)`` that hand ``**kwargs`` to a model class,
    and some of those classes swallow whatever they do not know. What such a function really takes is the union of its
    named parameters and of those of the functions and model classes of its module that it uses. Where PaddleClas does
    not annotate (it rarely does), a parameter whose default is a number takes numbers. ``DOWNLOADS`` are left out.
    """
    parameters: dict[str, Parameter] = {}
    for function in _reached(_architecture(name), set()):
        hints = typing.get_type_hints(function) if function.__annotations__ else {}
        for given in inspect.signature(function).parameters.values():
            if given.kind not in (given.VAR_POSITIONAL, given.VAR_KEYWORD) and given.name != "self":
                annotation = hints.get(given.name) or _annotation_by_default(given)
                # Required ones of a model class are filled in by the function.
                default = ... if given.default is REQUIRED and parameters else given.default
                parameters.setdefault(given.name, Parameter(given.name, annotation, default))
        if _takes_keywords(function) and {"get", "pop"} & set(function.__code__.co_names):
            # `kwargs.get("use_fused_attn", False)`: a name that stands in no signature.
            for constant in function.__code__.co_consts:
                if isinstance(constant, str) and constant.isidentifier():
                    parameters.setdefault(constant, Parameter(constant, Any, None))
    return {word: parameter for word, parameter in parameters.items() if word not in DOWNLOADS}


def _annotation_by_default(parameter: inspect.Parameter) -> Any:
    """The annotation of a parameter without one: its default tells, so that YAML's text ``1e-6`` is converted."""
    if parameter.name == "class_num":
        return int
    if isinstance(parameter.default, bool) or not isinstance(parameter.default, int | float):
        return Any
    # Many take None for "not used", and an integer default (drop_rate=0) says nothing about fractions.
    return int | float | None


def _reached(target: Any, seen: set[Any]) -> Iterator[FunctionType]:
    """Yields ``target`` (of a class its constructors) and the functions that its ``**kwargs`` may reach."""
    if target in seen:
        return
    seen.add(target)
    if inspect.isclass(target):
        for base in target.__mro__:
            constructor = vars(base).get("__init__")
            if isinstance(constructor, FunctionType) and not base.__module__.startswith("paddle."):
                yield constructor
                if not _takes_keywords(constructor):
                    return
        if hasattr(target, "init_net"):
            yield target.init_net
        return
    yield target
    if _takes_keywords(target):
        package = target.__module__.partition(".backbone.")[0]
        for name in target.__code__.co_names:
            value = target.__globals__.get(name)
            theirs = getattr(value, "__module__", "").startswith(package) and name != "_load_pretrained"
            if theirs and (inspect.isfunction(value) or hasattr(value, "forward")):
                yield from _reached(value, seen)


def _takes_keywords(function: FunctionType) -> bool:
    return bool(function.__code__.co_flags & inspect.CO_VARKEYWORDS)


def put_into_namespace(models: Sequence[str], network_of: NetworkOf, arguments_of: ArgumentsOf) -> None:
    """Puts models of ours into PaddleClas's architecture namespace; see `ppcls_ext.arch.registry.register`."""
    architectures = _import_toolkit()
    # PaddleClas looks names up in its architecture package, and in the package of backbones below it.
    namespaces = (architectures, architectures.backbone)
    for namespace in namespaces:
        for name in models:
            present = getattr(namespace, name, None)
            if present is not None and present is not _registered.get((namespace.__name__, name)):
                raise UserError(f"{namespace.__name__} already has a '{name}' that is not ours; it is left as it is")
    for name in models:
        if (architectures.__name__, name) in _registered:
            continue
        composed = _compose(name, network_of(name, {}), architectures.TheseusLayer, network_of, arguments_of)
        for namespace in namespaces:
            setattr(namespace, name, composed)
            _registered[namespace.__name__, name] = composed


def _compose(
    name: str, model_class: type, theseus_layer: type, network_of: NetworkOf, arguments_of: ArgumentsOf
) -> type:
    """Returns ``class name(model_class, theseus_layer)``, whose constructor takes what PaddleClas gives its own models.

    PaddleClas's base class cuts networks (``stop_after``) and taps them (``return_stages``).
    """
    pattern = [f"stages[{index}]" for index in range(4)]

    def choose(cls: type, *positional: Any, **arguments: Any) -> Any:
        """Makes the network with switches where one is given: an instance of another class is not initialised again."""
        wanted = network_of(name, arguments)
        if not issubclass(cls, wanted):
            return _compose(name, wanted, theseus_layer, network_of, arguments_of)(*positional, **arguments)
        return object.__new__(cls)

    def construct(
        self: Any, pretrained: bool | str | None = False, use_ssld: bool = False,
        return_patterns: list[str] | str | None = None, return_stages: list[int] | int | bool | None = None,
        freeze_befor: str | None = None, stop_after: str | None = None, **arguments: Any,
    ) -> None:  # fmt: skip
        if pretrained or use_ssld:
            raise UserError(
                f"{name}: there are no pretrained weights to download; set Arch.pretrained to False and name a "
                "file in Global.pretrained_model"
            )
        # Runs the constructor of TheseusLayer too (without arguments): it is next after our class in the order of
        # base classes. Cutting and tapping need the sublayers, so they come after.
        try:
            model_class.__init__(self, **arguments_of(name, arguments))
        except ValueError as error:
            raise UserError(f"Arch: {error}") from error
        self.init_net(stages_pattern=pattern, return_patterns=return_patterns, return_stages=return_stages,
                      freeze_befor=freeze_befor, stop_after=stop_after)  # fmt: skip

    doc = f"{name} as an architecture of PaddleClas; see `{model_class.__name__}`."
    body = {"__new__": choose, "__init__": construct, "__module__": __name__, "__doc__": doc,
            "stages_pattern": pattern}  # fmt: skip
    return type(name, (model_class, theseus_layer), body)


def checkout_operators(checkout: str, operators: list[dict[str, dict[str, Any]]]) -> list[Any]:
    """Builds image operators of a PaddleClas checkout, as in YAML, to measure them beside ours; the wheel has none.

    The checkout goes first on ``sys.path`` and stays there: call it in a process of its own.
    """
    data = _import_from_checkout(checkout, "ppcls.data")
    return data.create_operators([{name: dict(arguments) for name, arguments in entry.items()} for entry in operators])


def checkout_engine(checkout: str, config: dict[str, Any], register: Callable[[], Any]) -> Any:
    """Builds the training engine of a PaddleClas checkout with our models registered in it, to measure it beside ours.

    The checkout goes first on ``sys.path`` and stays there: call it in a process of its own. ``config`` is what its
    trainer reads from YAML, ``register`` is `ppcls_ext.register`, called once the checkout can be imported.
    """
    engine = _import_from_checkout(checkout, "ppcls.engine.engine")
    config_reader = _import_from_checkout(checkout, "ppcls.utils.config")
    register()
    config = config_reader.AttrDict(config)
    config_reader.create_attr_dict(config)
    built = engine.Engine(config, mode="train")
    # Its method `train` makes these before the first epoch.
    meter = importlib.import_module("ppcls.utils.misc").AverageMeter
    built.output_info, built.global_step = {}, 0
    built.time_info = {name: meter(name, ".5f", postfix=" s,") for name in ("batch_cost", "reader_cost")}
    return built


def _import_from_checkout(checkout: str, module: str) -> ModuleType:
    if not (Path(checkout) / "ppcls" / "data").is_dir():
        raise UserError(f"{checkout} is not a PaddleClas checkout (it has no ppcls/data)")
    if sys.path[0] != checkout:
        sys.path.insert(0, checkout)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{checkout}: PaddleClas cannot be imported: {error}") from error
